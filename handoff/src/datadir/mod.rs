//! The right to write a data directory: the lock, the owner record in it, and the seal manifest.

mod lock;
mod manifest;
mod place;
mod record;
pub(crate) mod schema;
mod text;

pub use lock::{DataDirLock, Fencing};
pub(crate) use lock::{Decision, Fit, Leaves};
pub(crate) use manifest::Draft;
pub use manifest::SealManifest;
pub(crate) use place::{CURRENT, Place, is_unsupported};
pub(crate) use record::{OwnerRecord, RecordPhase, Sight, Succession};
#[cfg(test)]
pub(crate) use {
    place::is_in_place,
    record::{byte_of_swap, byte_of_writer},
};
