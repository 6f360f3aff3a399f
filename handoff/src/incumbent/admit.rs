//! The first admission of a process, by the way it came to serve.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::datadir::Leaves;
use crate::drainable::Drainable;
use crate::error::{Error, Result};
use crate::fence::fenced;
use crate::sys::socket::ControlSocket;

/// The thread that settles after a commit, until the next drain or a last seal waits for it.
pub(crate) type Settling = JoinHandle<Result<()>>;

/// The settlings of a process (invariant 2).
#[derive(Debug, Default)]
pub(super) struct Settlings {
    /// The one after the commit by which this process came to serve.
    after_commit: Mutex<Option<Settling>>,
    /// Whether one has failed. The kernel tells the error of a sync once, and may have dropped the
    /// writes: that a later settling succeeds does not make them durable.
    has_failed: AtomicBool,
}

impl Settlings {
    pub(super) fn after(commit: Option<Settling>) -> Arc<Self> {
        Arc::new(Self { after_commit: Mutex::new(commit), has_failed: AtomicBool::new(false) })
    }

    /// Waits for the settling after the commit. Its error is told here, and once.
    pub(super) fn end_first(&self) -> Result<()> {
        let settling = self.after_commit.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(settling) = settling else { return Ok(()) };
        let settled = settling.join().unwrap_or_else(|_| {
            let message = "the thread panicked".to_owned();
            Err(Error::HookPanicked { hook: "settle", message })
        });
        self.has_failed.fetch_or(settled.is_err(), Ordering::AcqRel);
        settled
    }

    /// Runs another one.
    pub(super) fn settle(&self, drainable: &(impl Drainable + ?Sized)) -> Result<()> {
        // Set meanwhile, since the hook may panic.
        let has_failed = self.has_failed.swap(true, Ordering::AcqRel);
        drainable.settle()?;
        self.has_failed.store(has_failed, Ordering::Release);
        Ok(())
    }

    /// Whether each of them made durable what it was to.
    pub(super) fn are_whole(&self) -> bool {
        !self.has_failed.load(Ordering::Acquire)
    }
}

/// A commit before its first admission: the successor is the writer already (invariant 7), so
/// nothing may fail any more.
pub(crate) trait Commit: fmt::Debug + Send + Sync {
    /// Admits work, takes the control socket's path over, and tells the supervisor.
    fn admit(
        self: Box<Self>,
        socket: &mut ControlSocket,
        drainable: &Arc<dyn Drainable>,
        first: First<'_>,
    ) -> Option<Settling>;
}

/// What a process does when it is the writer, and before its first admission.
pub(crate) type First<'a> = &'a mut dyn FnMut() -> Result<Leaves>;

/// The daemon's own steps behind the commit point, each until it has succeeded once.
#[derive(Default)]
pub(crate) struct OnCommit(VecDeque<Step>);

type Step = Box<dyn FnMut() -> Result<()> + Send>;

impl OnCommit {
    pub(crate) fn push(&mut self, step: impl FnMut() -> Result<()> + Send + 'static) {
        self.0.push_back(Box::new(step));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn run(&mut self) -> Result<()> {
        self.run_first(self.len())
    }

    /// Runs so many steps of those that are left.
    pub(crate) fn run_first(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let Some(step) = self.0.front_mut() else { break };
            step()?;
            self.0.pop_front();
        }
        Ok(())
    }
}

impl fmt::Debug for OnCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnCommit").field(&self.0.len()).finish()
    }
}

/// Admits at a cold start, where this process replaces no other. An error ends the start.
pub(super) fn at_a_cold_start(drainable: &dyn Drainable) -> Result<()> {
    fenced("admit", || drainable.admit())?;
    fenced("release", || {
        drainable.carriage().release();
        Ok(())
    })?;
    failpoint!(ColdStartServes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_the_settling_after_the_commit_is_told_once_and_counts_for_good() {
        let failing = || Err(std::io::Error::other("the disk is broken").into());
        let panicking = || panic!("the hook panics");
        for settle in [failing as fn() -> Result<()>, panicking] {
            let settlings = Settlings::after(Some(std::thread::spawn(settle)));
            assert!(settlings.are_whole(), "nothing is known yet");
            let error = settlings.end_first().expect_err("it failed").to_string();
            assert!(error.contains("broken") || error.contains("panicked"), "{error}");
            settlings.end_first().expect("it was told");
            assert!(!settlings.are_whole());
        }
        let settlings = Settlings::after(Some(std::thread::spawn(|| Ok(()))));
        settlings.end_first().expect("it worked");
        assert!(settlings.are_whole());
    }
}
