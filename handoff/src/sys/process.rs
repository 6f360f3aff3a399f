//! Processes, told apart although pids are reused.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::poll;

/// A pid, and when its process started: together they name one process of this boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// In clock ticks since boot; 0 where `/proc` would not tell.
    pub(crate) start_time: u64,
}

impl ProcessId {
    /// This process.
    pub(crate) fn own() -> Self {
        Self::of(std::process::id()).unwrap_or(Self { pid: std::process::id(), start_time: 0 })
    }

    /// The process that has this pid now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let start_time = start_time(pid)?;
        Some(Self { pid, start_time })
    }

    /// Whether this very process runs. A zombie does not: it holds nothing any more.
    pub(crate) fn is_alive(self) -> bool {
        self.pid != 0
            && start_time(self.pid)
                .is_some_and(|now| self.start_time == 0 || now == self.start_time)
    }

    /// Whether it was sent `SIGKILL`: it runs no more, and may not have ended yet. The kernel
    /// keeps the signal pending until the process is collected.
    pub(crate) fn is_being_killed(self) -> bool {
        let Ok(status) = fs::read_to_string(format!("/proc/{}/status", self.pid)) else {
            return false;
        };
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        let pending = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        pending.is_some_and(|mask| mask & SIGKILL_PENDING != 0)
    }

    /// A descriptor of this very process, if it runs.
    pub(crate) fn open(self) -> Option<Process> {
        let process = Process::open(self.pid).ok()?;
        // The descriptor was opened first: if the start time still matches, it is the same.
        self.is_alive().then_some(process)
    }
}

/// Field 22 of `/proc/PID/stat`; none for a process that is gone or a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may contain anything, so count from its last parenthesis.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A process by descriptor, which is never reused.
#[derive(Debug)]
pub(crate) struct Process {
    pidfd: OwnedFd,
}

impl Process {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self { pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// `SIGKILL`. A process that has ended already is no error.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it ended before the deadline. What it held is free then.
    pub(crate) fn wait_for_end(&self, deadline: Instant) -> io::Result<bool> {
        poll::wait_for(self.pidfd.as_fd(), PollFlags::IN, Some(deadline))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The identifier of this boot of the machine; empty where the kernel does not tell.
pub(crate) fn boot_id() -> [u8; 16] {
    let mut id = [0; 16];
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let hex = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
        *byte = hex(pair[0]) << 4 | hex(pair[1]);
    }
    id
}

/// Signal 9 in a mask of `/proc/PID/status`.
const SIGKILL_PENDING: u64 = 1 << 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let own = ProcessId::own();
        assert!(own.start_time > 0);
        assert!(own.is_alive());
        assert!(!ProcessId { start_time: own.start_time + 1, ..own }.is_alive());
        assert!(ProcessId { start_time: own.start_time + 1, ..own }.open().is_none());
        assert!(!ProcessId { pid: 0, start_time: 0 }.is_alive());
    }

    #[test]
    fn a_killed_child_is_seen_to_end_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let id = ProcessId::of(child.id()).expect("it runs");
        let process = id.open().expect("it runs");
        assert!(!id.is_being_killed());
        process.kill().expect("it may be killed");
        assert!(id.is_being_killed());
        let limit = Instant::now() + std::time::Duration::from_secs(10);
        assert!(process.wait_for_end(limit).expect("poll works"));
        assert!(!id.is_alive(), "a zombie is not alive");
        assert!(id.is_being_killed(), "until it is collected");
        child.wait().expect("it is ours");
        assert!(!id.is_being_killed());
    }

    #[test]
    fn the_boot_has_an_identifier() {
        assert_ne!(boot_id(), [0; 16]);
        assert_eq!(boot_id(), boot_id());
    }
}
