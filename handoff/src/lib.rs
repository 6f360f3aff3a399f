//! Replaces the binary of a running, stateful daemon while its clients stay connected: no
//! refused connection, no failed request, no lost write, never two writers, and the old
//! process serves on whenever the new one cannot.
//!
//! ```text
//!  supervisor ------ spawns, drives ------> successor: warms up, takes the lock, opens,
//!      |                                        |      verifies, is ready, serves
//!      +--- PrepareHandoff, SealRequest --> incumbent: drains, seals, releases the lock,
//!                                                      leaves, or serves again
//! ```
//!
//! - **Daemons** derive [`Drainable`] for the struct that holds their state, let requests
//!   through a [`Gate`], and run in a [`daemon::Daemon`]; underneath are [`Incumbent`] and
//!   [`successor::Successor`].
//! - **Supervisors** swap a daemon with [`Supervisor::perform_handoff`], or step by step with
//!   a [`Session`]: its type says which step is done and which may come next.
//! - **Both** rely on the [`DataDirLock`]: the process that holds it is the only writer, and the
//!   owner record in it decides every swap.
//! - **Data of a new format** is made while the old process serves: [`migration`].
//! - **Tests** of a daemon rehearse the swap to its next build with [`testing::Rehearsal`].
//!
//! The README has a compiling example for each. The [documents](docs) tell the rest: the
//! invariants, the protocol, the outcome of every failure.
//!
//! # Features
//!
//! - `derive` (default): `#[derive(Drainable)]`.
//! - `tokio`: [`Daemon::run_tokio`](daemon::Daemon::run_tokio), and inherited sockets for tokio.
//! - `http`: services of axum, tonic and tower whose clients notice no swap ([`http`]).
//! - `ws`: WebSockets of axum that go through swaps; `tls`: TLS by rustls for such services. Both include
//!   `http`.
//! - `fuzzing`: for the project's own fuzz targets; not part of the API.
//! - `faults`: failpoints, for tests that kill, stop or hinder a process at any step of a swap.
//!   Never in production.

#[cfg(feature = "faults")]
#[macro_use]
pub mod faults;
#[cfg(not(feature = "faults"))]
#[macro_use]
mod no_faults;

#[doc(hidden)]
pub mod __private;
pub mod carry;
mod control;
pub mod daemon;
mod datadir;
pub mod drainable;
pub mod error;
mod fence;
pub mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
#[cfg(feature = "http")]
pub mod http;
mod incumbent;
mod log;
mod machine;
pub mod migration;
pub mod protocol;
pub mod successor;
pub mod supervisor;
mod sys;
mod terms;
pub mod testing;
mod wait;

pub use datadir::{DataDirLock, Fencing, SealManifest};
pub use drainable::{
    DrainReport, Drainable, Gate, OwnedPass, Pass, ReadinessSnapshot, SealReport, Shard, Shards,
    StateSnapshot,
};
pub use error::{Error, Result};
#[cfg(feature = "derive")]
pub use handoff_derive::Drainable;
pub use incumbent::{Incumbent, StopHandle};
pub use machine::outcome::Outcome;
pub use machine::phase::Phase;
pub use protocol::HandoffId;
pub use supervisor::{Session, SpawnSpec, Supervisor};

/// The documents in the folder `docs` of this package, one after the other. Their links work there.
#[cfg(doc)]
#[doc = include_str!("../docs/architecture.md")]
#[doc = include_str!("../docs/invariants.md")]
#[doc = include_str!("../docs/protocol.md")]
#[doc = include_str!("../docs/failures.md")]
#[doc = include_str!("../docs/performance.md")]
#[doc = include_str!("../docs/model.md")]
#[doc = include_str!("../docs/systemd.md")]
#[doc = include_str!("../docs/decisions.md")]
#[doc = include_str!("../docs/glossary.md")]
pub mod docs {}

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
