//! Who hears how a swap goes on.

use std::time::Duration;

use crate::drainable::SealProgress;
use crate::machine::cause::Cause;
use crate::protocol::HandoffId;
use crate::supervisor::LateConnections;

/// One step of a swap, when it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A phase was entered.
    Entered {
        /// The swap.
        handoff_id: HandoffId,
        /// "warming", "draining", "prepared", "sealing", "sealed", "opening", "ready",
        /// "committing", "committed", "rolling back", "rolled back" and the like.
        phase: &'static str,
        /// Since the swap began.
        elapsed: Duration,
    },
    /// Connections did not reach a request boundary within the grace of the drain.
    Late {
        /// The swap.
        handoff_id: HandoffId,
        /// Which.
        late: LateConnections,
    },
    /// The incumbent sealed another shard.
    Sealing {
        /// The swap.
        handoff_id: HandoffId,
        /// How far it is.
        progress: SealProgress,
    },
    /// The swap is given up.
    GivenUp {
        /// The swap.
        handoff_id: HandoffId,
        /// Why.
        cause: Cause,
    },
}

/// Hears of progress, on the thread that drives the swap: it should return soon, since a
/// client waits between "draining" and "committed".
pub trait Observe: Send + Sync {
    /// One step was made.
    fn observe(&self, progress: &Progress);
}

/// Closures observe.
impl<F: Fn(&Progress) + Send + Sync> Observe for F {
    fn observe(&self, progress: &Progress) {
        self(progress);
    }
}
