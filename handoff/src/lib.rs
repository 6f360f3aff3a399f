//! Replaces the binary of a running, stateful daemon while its clients stay connected.

pub mod drainable;
pub mod error;
pub mod frame;
pub mod protocol;

pub use drainable::{DrainReport, Drainable, ReadinessSnapshot, SealReport, StateSnapshot};
pub use error::{Error, Result};
pub use protocol::HandoffId;
