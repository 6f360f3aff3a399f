//! The end of a daemon's service, and the wish for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Result;
use crate::sys::poll::Waker;

/// Why a daemon no longer serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Another process is the writer.
    Replaced,
    /// It was stopped cleanly, and nobody is the writer.
    Stopped,
}

/// Ends [`Incumbent::serve`](crate::Incumbent::serve) cleanly: drain, seal, and a manifest for the
/// next cold start.
///
/// While a swap is in flight the wish waits until the swap has failed; once it has committed there
/// is nothing left to stop.
#[derive(Debug, Clone)]
pub struct StopHandle(pub(super) Arc<Stop>);

impl StopHandle {
    pub(crate) fn new() -> Result<Self> {
        let (requested, waker) = (AtomicBool::new(false), Waker::new()?);
        Ok(Self(Arc::new(Stop { requested, waker })))
    }

    /// Asks for the stop and returns at once. Asking again changes nothing.
    pub fn stop(&self) {
        self.0.requested.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

/// The wish to stop; its waker also wakes the loop when a hook has ended.
#[derive(Debug)]
pub(super) struct Stop {
    requested: AtomicBool,
    pub(super) waker: Waker,
}

impl Stop {
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }
}
