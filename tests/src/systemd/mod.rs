//! A systemd of the tests' own.
//!
//! A [`Machine`] is systemd as the first process of its own pid, mount, network, IPC, UTS and cgroup
//! namespaces, over an overlay of this machine's files. Nothing that it does is seen outside.
//!
//! Three processes make it. The test has a [`Machine`]; that starts the helper `fixture-systemd` as
//! the *keeper* ([`keep`]), which has the cgroup and the namespaces made, and removes them when the
//! test ends, in whatever way. Inside of the namespaces the helper mounts the files and becomes
//! systemd ([`boot`]).

mod boot;
mod cgroup;
mod keeper;
mod machine;

pub use boot::boot;
pub use keeper::keep;
pub use machine::{Machine, missing};

/// What becomes the first process.
const SYSTEMD: &str = "/lib/systemd/systemd";
