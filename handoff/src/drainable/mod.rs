//! The daemon's side: the hooks, shards, gates and fingerprints.

mod hooks;
mod reports;

pub use hooks::Drainable;
pub use reports::{
    DrainReport, ReadinessSnapshot, SealProgress, SealReport, SealedShard, StateSnapshot,
};
