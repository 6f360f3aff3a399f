//! What the matrix and the soak are run in: a supervisor that is a process of its own and is
//! started again when it dies, a daemon, and clients. No other process has the listening
//! socket: what a dead supervisor leaves has to be got back.

mod cast;
mod connections;
mod place;
mod supervisor;
mod truth;

pub use cast::{Build, Cast};
pub use connections::Probed;
pub use place::{Arena, Daemon, Victim};
pub use supervisor::{LiveSupervisor, Report};

use std::time::Duration;

/// A swap's.
pub const DEADLINE: Duration = Duration::from_secs(3);
