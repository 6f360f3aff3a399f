//! Giving a swap up from another thread than the one that drives it.

use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::sys::poll::Waker;

/// Gives a swap up from any thread: put it into [`SpawnSpec::abort`](super::SpawnSpec::abort),
/// and keep a clone.
///
/// Once it was used, the swap that was begun with that spec goes the way of
/// [`Session::abort`](super::Session::abort), also while a transition waits for a process. The
/// transition returns [`Failed`](super::Failed) with the cause
/// [`Cause::Requested`](super::Cause::Requested). Where no thread drives the session, its next
/// transition gives the swap up. [`Supervisor::pair`](super::Supervisor::pair) and
/// [`Supervisor::start`](super::Supervisor::start) return
/// [`Error::Requested`](crate::Error::Requested), and the process that they started is dead.
///
/// It has no effect on a swap that is over, or that is being undone, nor where only the successor
/// could serve. It cannot be used again: a swap that is begun with it later is given up at once.
///
/// ```
/// # use handoff::SpawnSpec;
/// # use handoff::supervisor::AbortHandle;
/// let abort = AbortHandle::new()?;
/// let spec = SpawnSpec { abort: Some(abort.clone()), ..SpawnSpec::new("/opt/demo/v2") };
/// std::thread::spawn(move || abort.abort("the operator has thought better of it"));
/// // supervisor.perform_handoff(spec)
/// # drop(spec);
/// # Ok::<(), handoff::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct AbortHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    reason: OnceLock<String>,
    /// It stays readable: a thread that polls later sees it too.
    waker: Waker,
}

impl AbortHandle {
    /// A handle that was not used.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when no descriptor is left.
    pub fn new() -> Result<Self> {
        Ok(Self(Arc::new(Shared { reason: OnceLock::new(), waker: Waker::new()? })))
    }

    /// Gives the swap up. Returns at once; of several reasons the first counts.
    pub fn abort(&self, reason: impl Into<String>) {
        if self.0.reason.set(reason.into()).is_ok() {
            self.0.waker.wake();
        }
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.0.reason.get().map(String::as_str)
    }

    /// Readable once it was used.
    pub(super) fn waker(&self) -> &Waker {
        &self.0.waker
    }

    pub(super) fn check(abort: Option<&Self>) -> Result<()> {
        match abort.and_then(Self::reason) {
            Some(reason) => Err(Error::Requested(reason.to_owned())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use rustix::event::PollFlags;

    use super::*;
    use crate::sys::poll;

    #[test]
    fn the_first_reason_counts_and_every_clone_wakes_for_good() {
        let abort = AbortHandle::new().expect("a descriptor is left");
        let clone = abort.clone();
        AbortHandle::check(Some(&abort)).expect("it was not used");
        assert!(!poll::is_ready(clone.waker().as_fd(), PollFlags::IN).expect("it can be polled"));
        abort.abort("first");
        clone.abort("second");
        for handle in [&abort, &clone, &abort] {
            assert!(
                poll::is_ready(handle.waker().as_fd(), PollFlags::IN).expect("it can be polled")
            );
            match AbortHandle::check(Some(handle)) {
                Err(Error::Requested(reason)) => assert_eq!(reason, "first"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_thread_that_polls_is_woken() {
        let abort = AbortHandle::new().expect("a descriptor is left");
        let far = Instant::now() + Duration::from_secs(20);
        let is_woken = std::thread::scope(|scope| {
            let polls =
                scope.spawn(|| poll::wait_for(abort.waker().as_fd(), PollFlags::IN, Some(far)));
            abort.abort("why");
            polls.join().expect("it does not panic")
        });
        assert!(is_woken.expect("it can be polled"));
    }
}
