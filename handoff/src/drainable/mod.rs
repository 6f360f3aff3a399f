//! The daemon's side: the hooks, shards, gates and fingerprints.

mod fingerprint;
mod gate;
mod hooks;
mod reports;
mod rolling;
mod schema;
mod serve;
mod shard;
mod shard_list;

pub use fingerprint::{Fingerprint, digest_file, digest_reader};
#[cfg(feature = "tokio")]
pub use gate::Work;
pub use gate::{Gate, GateClosed, OwnedPass, Pass};
pub(crate) use hooks::check;
pub use hooks::{Drainable, Gating};
pub use reports::{
    DrainReport, ReadinessSnapshot, SealProgress, SealReport, SealedShard, SealedState,
    StateSnapshot,
};
pub use rolling::{Checkpoint, NoCheckpoint, RollingDigest, digest_file_on_all_cores};
pub use schema::Schema;
pub(crate) use schema::{FIRST as FIRST_FORMAT, Formats, Highest, Unread};
pub use serve::Serve;
pub use shard::{Extent, Shard, Shards};
pub use shard_list::ShardList;
