//! Processes, told apart although pids are reused.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use uuid::Uuid;
use uuid::fmt::Simple;

use super::file::FileId;
use super::poll;

/// A pid, and when its process started: together they name one process of this boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// In clock ticks since boot; 0 where `/proc` would not tell.
    pub(crate) start_time: u64,
}

impl ProcessId {
    /// This process. Asked for once: there may be no descriptor left later.
    pub(crate) fn own() -> Self {
        static OWN: Mutex<Option<ProcessId>> = Mutex::new(None);
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        if own.is_none_or(|own| own.pid != pid) {
            *own = Self::of(pid);
        }
        own.unwrap_or(Self { pid, start_time: 0 })
    }

    /// The process that has this pid now, also where nothing more can be learnt of it.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        match Stat::of(pid) {
            Ok(stat) => {
                let stat = stat.filter(Stat::runs)?;
                Some(Self { pid, start_time: stat.start_time })
            }
            Err(_) => Some(Self { pid, start_time: 0 }),
        }
    }

    /// Whether this very process runs. A zombie does not: it holds nothing any more. A process of
    /// which nothing can be learnt counts as one that runs.
    pub(crate) fn is_alive(self) -> bool {
        self.stat().is_none_or(|stat| stat.is_some_and(|stat| stat.runs()))
    }

    /// Whether it runs no more, also where it has not ended yet: it was killed, or exits.
    pub(crate) fn is_ending(self) -> bool {
        match self.stat() {
            None => false,
            Some(None) => true,
            // The kernel keeps the signal pending until the process is collected.
            Some(Some(stat)) => !stat.runs() || stat.flags & PF_EXITING != 0 || self.was_killed(),
        }
    }

    /// Whether it was stopped, so that it does nothing until somebody continues it.
    pub(crate) fn is_stopped(self) -> bool {
        matches!(self.stat(), Some(Some(Stat { state: 'T', .. })))
    }

    /// The kernel's entry for this very process. The inner is none when it is gone, the outer
    /// when nothing can be learnt.
    fn stat(self) -> Option<Option<Stat>> {
        if self.pid == 0 {
            return Some(None);
        }
        let stat = Stat::of(self.pid).ok()?;
        Some(stat.filter(|stat| self.start_time == 0 || stat.start_time == self.start_time))
    }

    fn was_killed(self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        let pending = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        pending.is_some_and(|mask| mask & SIGKILL_PENDING != 0)
    }

    /// A descriptor of this very process, if it runs.
    pub(crate) fn open(self) -> io::Result<Option<Process>> {
        if self.pid == 0 {
            return Ok(None);
        }
        let process = match Process::open(self.pid) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => return Ok(None),
            process => process?,
        };
        // The descriptor was opened first: if the start time still matches, it is the same.
        Ok(self.is_alive().then_some(process))
    }
}

/// Of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy)]
struct Stat {
    state: char,
    flags: u32,
    start_time: u64,
}

impl Stat {
    /// None for a process that is gone.
    fn of(pid: u32) -> io::Result<Option<Self>> {
        let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat,
            // Where `/proc` is not mounted, or hides the processes of others, this says nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if is_gone(pid)? { Ok(None) } else { Err(error) };
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::parse(&stat).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name in field 2 may contain anything, so count from its last parenthesis.
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
        let state = fields.next()?.chars().next()?;
        let flags = fields.nth(5)?.parse().ok()?;
        let start_time = fields.nth(12)?.parse().ok()?;
        Some(Self { state, flags, start_time })
    }

    const fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// Whether no process has that pid, or only one that has ended.
fn is_gone(pid: u32) -> io::Result<bool> {
    let error = match Process::open(pid) {
        Ok(process) => return process.wait_for_end(Instant::now()),
        Err(error) => error,
    };
    match Errno::from_io_error(&error) {
        // The last two: a thread of another process has it.
        Some(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(true),
        _ => Err(error),
    }
}

/// A process by descriptor, which is never reused.
#[derive(Debug)]
pub(crate) struct Process {
    pidfd: OwnedFd,
}

impl Process {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// `SIGKILL`. A process that has ended already is no error.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it ended before the deadline. The kernel has then freed everything that it held.
    pub(crate) fn wait_for_end(&self, deadline: Instant) -> io::Result<bool> {
        poll::wait_for(self.pidfd.as_fd(), PollFlags::IN, Some(deadline))
    }
}

super::as_fd!(Process, pidfd);

/// The files of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    /// `RLIMIT_NOFILE`.
    pub(crate) max: u64,
    /// How many it has open.
    pub(crate) open: u64,
}

impl OpenFiles {
    /// None where `/proc` does not tell.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let max = line.split_whitespace().next()?;
        let max = if max == "unlimited" { u64::MAX } else { max.parse().ok()? };
        let directory = format!("/proc/{pid}/fd");
        // The size is their number, in kernels from 6.2 on; before, it is 0.
        let open = match fs::metadata(&directory).ok()?.len() {
            0 => fs::read_dir(directory).ok()?.count() as u64,
            open => open,
        };
        Some(Self { max, open })
    }
}

/// A process, other than this one, that has one of those files open, as far as `/proc` tells.
pub(crate) fn holder_of(files: &[FileId]) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id()).find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|descriptor| FileId::at(&descriptor.path()).ok())
            .any(|open| files.contains(&open))
    })
}

/// The identifier of this boot of the machine; empty where the kernel does not tell.
pub(crate) fn boot_id() -> [u8; 16] {
    static ID: OnceLock<[u8; 16]> = OnceLock::new();
    if let Some(id) = ID.get() {
        return *id;
    }
    #[cfg(feature = "faults")]
    let text = match crate::faults::planned_boot_id() {
        Some(planned) => Ok(planned),
        None => fs::read_to_string(BOOT_ID),
    };
    #[cfg(not(feature = "faults"))]
    let text = fs::read_to_string(BOOT_ID);
    let parse = |text: String| Uuid::parse_str(text.trim()).unwrap_or_default().into_bytes();
    text.map_or([0; 16], |text| *ID.get_or_init(|| parse(text)))
}

/// As 32 hexadecimal digits.
pub(crate) fn boot_id_in_hex(id: [u8; 16]) -> String {
    Uuid::from_bytes(id).simple().to_string()
}

/// The identifier that [`boot_id_in_hex`] wrote; none for another text.
pub(crate) fn boot_id_of(hex: &str) -> Option<[u8; 16]> {
    let id: Simple = hex.parse().ok()?;
    Some(id.into_uuid().into_bytes())
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The flag in `/proc/PID/stat` of a process that exits.
const PF_EXITING: u32 = 4;
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
        let other = ProcessId { start_time: own.start_time + 1, ..own };
        assert!(other.open().expect("it can be asked for").is_none());
        assert!(other.is_ending());
        assert!(!own.is_ending() && !own.is_stopped());
        assert!(!ProcessId { pid: 0, start_time: 0 }.is_alive());
    }

    #[test]
    fn a_killed_child_is_seen_to_end_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let id = ProcessId::of(child.id()).expect("it runs");
        let process = id.open().expect("it can be asked for").expect("it runs");
        assert!(!id.is_ending());
        process.kill().expect("it may be killed");
        assert!(id.is_ending(), "although it may run for a moment");
        let limit = Instant::now() + std::time::Duration::from_secs(10);
        assert!(process.wait_for_end(limit).expect("poll works"));
        assert!(!id.is_alive(), "a zombie is not alive");
        assert!(id.is_ending());
        child.wait().expect("it is ours");
        assert!(id.is_ending(), "also when it was collected");
    }

    #[test]
    fn the_files_of_a_process_are_counted() {
        let own = std::process::id();
        let before = OpenFiles::of(own).expect("/proc tells");
        let files: Vec<_> =
            (0..100).map(|_| fs::File::open("/dev/null").expect("it opens")).collect();
        let after = OpenFiles::of(own).expect("/proc tells");
        // Other tests open and close files meanwhile.
        assert!(after.open > before.open + 50, "{before:?} {after:?}");
        let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert_eq!(after.max, maximum.unwrap_or(u64::MAX));
        drop(files);
        let mut child = std::process::Command::new("true").spawn().expect("it runs");
        child.wait().expect("it ends");
        assert_eq!(OpenFiles::of(child.id()), None);
    }

    #[test]
    fn the_boot_has_an_identifier() {
        assert_ne!(boot_id(), [0; 16]);
        assert_eq!(boot_id(), boot_id());
    }
}
