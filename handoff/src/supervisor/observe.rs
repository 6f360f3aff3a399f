//! The progress of a swap, and the observer that is told of it.

use std::sync::Arc;
use std::time::Duration;

use crate::drainable::SealProgress;
use crate::fence::fenced;
use crate::log;
use crate::machine::cause::Cause;
use crate::machine::phase::Phase;
use crate::protocol::HandoffId;
use crate::supervisor::LateConnections;

/// One step of a swap, when it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The successor's process was started. It may still fail to say hello.
    Launched {
        /// The swap.
        handoff_id: HandoffId,
        /// Its pid.
        successor_pid: u32,
        /// Since the swap began.
        elapsed: Duration,
    },
    /// A phase was entered.
    Entered {
        /// The swap.
        handoff_id: HandoffId,
        /// Which.
        phase: Phase,
        /// Since the swap began.
        elapsed: Duration,
    },
    /// The incumbent closes its gate: clients wait from here on. Not told where the incumbent is of
    /// a build that does not say it.
    GateClosed {
        /// The swap.
        handoff_id: HandoffId,
        /// Since the swap began.
        elapsed: Duration,
    },
    /// A drain takes longer than a second. The observer is told about every second while it does.
    Draining {
        /// The swap.
        handoff_id: HandoffId,
        /// Connections (or requests) that are open, by the daemon's own account:
        /// [`StateSnapshot::open_conns`](crate::StateSnapshot::open_conns).
        open_conns: u32,
        /// Of the connections that are carried, those that are not parked yet.
        waiting: LateConnections,
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

/// Hears of progress, on the thread that drives the swap. Clients wait from [`GateClosed`] to
/// "committed", and the swap does not go on before this returns: an observer sends to a channel
/// that never blocks, and leaves the rest to another thread. Its panic is logged, and the swap goes
/// on. The process's panic hook runs before, on the same thread; the default one writes to standard
/// error.
///
/// [`GateClosed`]: Progress::GateClosed
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

/// Tells the observer, if there is one. A session that is dropped by a panic tells of its rollback
/// too, so a panic of the observer ends here.
pub(super) fn tell(observer: Option<&Arc<dyn Observe>>, progress: &Progress) {
    let Some(observer) = observer else { return };
    let told = fenced("observe", || {
        observer.observe(progress);
        Ok(())
    });
    if let Err(error) = told {
        log::error!(%error, "the observer of this supervisor panicked; the swap goes on");
    }
}
