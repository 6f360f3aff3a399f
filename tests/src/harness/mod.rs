//! What the scenarios are written with.
//!
//! A [`Cluster`] is a daemon with its supervisor and clients that write all the while. Each
//! scenario ends in [`Cluster::assert_sound`], the one check of what must always hold.

mod check;
mod clients;
mod cluster;
mod helper;
mod peer;
mod process;
mod spec;
mod steps;
mod terminal;

pub use check::{control_owner, lock_holders};
pub use clients::{Client, Clients, Tally};
pub use cluster::{Cluster, ON_A_WHIM};
pub use helper::HelperSupervisor;
pub use peer::{Hostile, Peer};
pub use process::{eventually, executable, is_alive, kill, kill_and_wait, processes_in, program};
pub use spec::SuccessorSpec;
pub use terminal::Terminal;

use std::thread;
use std::time::Duration;

/// How many processors there are: what runs side by side goes by it, since swaps have deadlines.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// What nothing in a scenario takes longer than.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// After how long a silent peer is given up.
pub const LIVENESS: Duration = Duration::from_secs(5);
