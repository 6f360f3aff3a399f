//! Live connections and memory, which go from the old process to the new one without being
//! closed or rebuilt.
//!
//! ```text
//! incumbent   serves | drain: handlers park | seal     | told to leave
//!                    |        \ \ \ sent as they park  |
//! successor   warm   | receives, reads nothing | opens | commit | takes them up
//! ```
//!
//! A daemon has its [`Connections`] and [`Memory`] in fields with `#[handoff(carry)]`, or names
//! them in [`Drainable::carriage`](crate::Drainable::carriage); the library does the rest. The
//! incumbent keeps its copy of each descriptor, unread, until the commit, and takes its
//! connections back where there is none. A word that both processes map decides once which
//! of them may read (invariant 13).

mod claim;
mod connections;
mod format;
mod memory;
#[cfg(test)]
mod pair;
mod receive;
mod send;
mod set;
#[cfg(not(feature = "fuzzing"))]
mod wire;
#[cfg(feature = "fuzzing")]
pub(crate) mod wire;

pub(crate) use claim::Claim;
#[cfg(test)]
pub(crate) use claim::{End, Held, Usable};
#[cfg(feature = "tokio")]
pub use connections::Listens;
pub use connections::{Arrival, Connections, Late, Ticket};
#[cfg(feature = "fuzzing")]
pub(crate) use format::Format;
pub use format::{Carried, Reads};
pub use memory::{Memory, MemoryWriter, SealedMemory};
pub(crate) use receive::{Arrivals, Receiver, Rest};
pub(crate) use send::{Carrier, SendingEnd, StopCarrier};
pub(crate) use set::Source;
pub use set::{AnySet, Carriage, Carry};

pub use crate::protocol::{CarriedSet, CarryFate, CarryKind};
