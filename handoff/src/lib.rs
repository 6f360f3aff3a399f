//! Replaces the binary of a running, stateful daemon while its clients stay connected.

#[doc(hidden)]
pub mod __private;
pub mod daemon;
mod datadir;
pub mod drainable;
pub mod error;
pub mod frame;
mod incumbent;
mod machine;
pub mod protocol;
pub mod successor;
pub mod supervisor;
mod sys;

pub use datadir::{DataDirLock, SealManifest};

pub use drainable::{
    DrainReport, Drainable, Gate, OwnedPass, Pass, ReadinessSnapshot, SealReport, Shard, Shards,
    StateSnapshot,
};
pub use error::{Error, Result};
#[cfg(feature = "derive")]
pub use handoff_derive::Drainable;
pub use incumbent::{Incumbent, StopHandle};
pub use protocol::HandoffId;
pub use supervisor::{Session, SpawnSpec, Supervisor};
