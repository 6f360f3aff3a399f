//! The processes that a supervisor watches: its children, and those that it has adopted.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::time::Instant;

use crate::error::Result;
use crate::sys::process::Process;

/// A process that this supervisor started, a child of its own. Dropping the value neither ends
/// nor collects the process.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    process: Process,
}

impl ChildProcess {
    pub(super) fn new(mut child: Child) -> Result<Self> {
        match Process::open(child.id()) {
            Ok(process) => Ok(Self { child, process }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its status, if it has ended.
    ///
    /// # Errors
    ///
    /// As [`Child::try_wait`].
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// As [`Child::wait`].
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Waits for its end until `deadline`; none if it still runs then.
    ///
    /// # Errors
    ///
    /// As [`Child::wait`].
    pub fn wait_until(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        if self.process.wait_for_end(deadline)? { self.child.wait().map(Some) } else { Ok(None) }
    }

    /// Ends it at once, with `SIGKILL`.
    ///
    /// # Errors
    ///
    /// As [`Child::kill`].
    pub fn kill(&mut self) -> io::Result<()> {
        self.process.kill()
    }

    /// The child, for a caller that waits by other means.
    #[must_use]
    pub fn into_child(self) -> Child {
        self.child
    }

    pub(super) const fn process(&self) -> &Process {
        &self.process
    }
}

/// Readable once the process has ended, for a caller that polls other descriptors too.
impl AsFd for ChildProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

/// A process that this supervisor watches although it is not its child. Only its parent learns
/// its exit status.
pub struct AdoptedProcess {
    pid: u32,
    process: Process,
}

impl AdoptedProcess {
    pub(super) const fn new(pid: u32, process: Process) -> Self {
        Self { pid, process }
    }

    /// Its pid.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    ///
    /// It cannot be polled.
    pub fn is_alive(&self) -> io::Result<bool> {
        Ok(!self.process.wait_for_end(Instant::now())?)
    }

    /// Waits for its end until `deadline`; whether it came.
    ///
    /// # Errors
    ///
    /// It cannot be polled.
    pub fn wait_until(&self, deadline: Instant) -> io::Result<bool> {
        self.process.wait_for_end(deadline)
    }

    /// Ends it at once, with `SIGKILL`. A process that has ended is no error, and another one that
    /// has its pid by now is not signalled.
    ///
    /// # Errors
    ///
    /// It may not be signalled.
    pub fn kill(&self) -> io::Result<()> {
        self.process.kill()
    }
}

/// Readable once the process has ended, for a caller that polls other descriptors too.
impl AsFd for AdoptedProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl fmt::Debug for AdoptedProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdoptedProcess").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

/// The daemon's process, whichever supervisor started it.
#[derive(Debug)]
pub enum DaemonProcess {
    /// This supervisor started it.
    Child(ChildProcess),
    /// Another supervisor started it.
    Adopted(AdoptedProcess),
}

impl DaemonProcess {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match self {
            Self::Child(child) => child.pid(),
            Self::Adopted(process) => process.pid(),
        }
    }

    /// Whether it has not ended. A child that has ended is collected.
    ///
    /// # Errors
    ///
    /// It cannot be polled, or waited for.
    pub fn is_alive(&mut self) -> io::Result<bool> {
        self.wait_until(Instant::now()).map(|ended| !ended)
    }

    /// Waits for its end until `deadline`; whether it came. A child that has ended is collected.
    ///
    /// # Errors
    ///
    /// It cannot be polled, or waited for.
    pub fn wait_until(&mut self, deadline: Instant) -> io::Result<bool> {
        match self {
            Self::Child(child) => Ok(child.wait_until(deadline)?.is_some()),
            Self::Adopted(process) => process.wait_until(deadline),
        }
    }

    /// Ends it at once, with `SIGKILL`.
    ///
    /// # Errors
    ///
    /// It may not be signalled.
    pub fn kill(&mut self) -> io::Result<()> {
        match self {
            Self::Child(child) => child.kill(),
            Self::Adopted(process) => process.kill(),
        }
    }
}

/// Readable once the process has ended.
impl AsFd for DaemonProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Child(child) => child.as_fd(),
            Self::Adopted(process) => process.as_fd(),
        }
    }
}

impl From<ChildProcess> for DaemonProcess {
    fn from(child: ChildProcess) -> Self {
        Self::Child(child)
    }
}

impl From<AdoptedProcess> for DaemonProcess {
    fn from(process: AdoptedProcess) -> Self {
        Self::Adopted(process)
    }
}
