//! Waiting for descriptors, with a deadline.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};

/// Wakes a thread that polls.
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes the waker quiet again.
    pub(crate) fn reset(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

super::as_fd!(Waker, 0);

/// Polls until something is ready or `deadline` has passed. An interruption is no event.
pub(crate) fn poll(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A deadline too far for the kernel's clock is none.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        rustix::event::poll(fds, left.as_ref())
    })?)
}

/// Whether `flags`, an error or a hang-up came before the deadline.
pub(crate) fn wait_for(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::from_borrowed_fd(fd, flags)], deadline)? > 0)
}

/// Whether `flags`, an error or a hang-up are there now.
pub(crate) fn is_ready(fd: impl AsFd, flags: PollFlags) -> io::Result<bool> {
    wait_for(fd.as_fd(), flags, Some(Instant::now()))
}

/// Waits for any of `fds`, the deadline or the waker; `true` when it was the waker.
pub(crate) fn wait_with_waker(
    waker: &Waker,
    fds: &[(BorrowedFd<'_>, PollFlags)],
    deadline: Instant,
) -> io::Result<bool> {
    let mut all = vec![PollFd::new(waker, PollFlags::IN)];
    all.extend(fds.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
    poll(&mut all, Some(deadline))?;
    Ok(!all[0].revents().is_empty())
}
