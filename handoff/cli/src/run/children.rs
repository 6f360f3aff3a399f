//! Child processes: commands that the supervisor waits for, and children that it only collects.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::notify::OWN_VARIABLES;

/// Commands that run and that [`output`] waits for: [`reap`] leaves them alone. Both hold the lock,
/// so that no command is reaped before it stands here.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Runs a command to its end, or kills it at the timeout; the rest of its process group is killed
/// in either case. Returns its output, and does not wait for a process that still holds its streams.
pub(super) fn output(command: &mut Command, timeout: Duration) -> io::Result<Output> {
    let written = || Ok::<_, io::Error>(File::from(memfd_create("output", MemfdFlags::CLOEXEC)?));
    let (stdout, stderr) = (written()?, written()?);
    command.process_group(0).stdin(Stdio::null());
    for own in OWN_VARIABLES {
        command.env_remove(own);
    }
    command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let child = {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        running.insert(child.id());
        child
    };
    let pid = child.id();
    let ended = wait(child, timeout);
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
    Ok(Output { status: ended?, stdout: read_back(stdout)?, stderr: read_back(stderr)? })
}

fn wait(mut child: Child, timeout: Duration) -> io::Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    let ended = pidfd_open(pid, PidfdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|process| wait_readable(&process, Some(Instant::now() + timeout)));
    // The number is the child's until it is waited for, so this is its own group.
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait()?;
    if ended? {
        return Ok(status);
    }
    let words = format!("it did not end within {}", humantime::format_duration(timeout));
    Err(io::Error::new(io::ErrorKind::TimedOut, words))
}

fn read_back(mut written: File) -> io::Result<Vec<u8>> {
    written.rewind()?;
    let mut bytes = Vec::new();
    written.take(MAX_OUTPUT_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a descriptor is readable before the deadline, if there is one; a pidfd is once its
/// process has ended.
pub(super) fn wait_readable(fd: impl AsFd, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose();
        let timeout = timeout.map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Collects ended children that no other function waits for: processes that were replaced, and in
/// a container those that lost their parent. It leaves `daemon`, which `Daemon::status` collects.
/// Not to be called during a job: the library waits for the processes that it starts.
pub(super) fn reap(daemon: Option<u32>) {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let ended = match waitid(Id::All, look) {
            Ok(status) => status.pid(),
            Err(Errno::EINTR) => continue,
            Err(_) => None,
        };
        let Some(pid) = ended else { return };
        let id = u32::try_from(pid.as_raw()).ok();
        // The kernel names the next ones once this one has been collected.
        if id.is_some_and(|id| running.contains(&id) || Some(id) == daemon) {
            return;
        }
        let Some(status) = collect(pid) else { return };
        tracing::debug!(
            pid = pid.as_raw(),
            status = words_of(status),
            "this supervisor collected a process that had ended"
        );
    }
}

/// How a process ended, if it was a child of this one and is not collected yet.
pub(super) fn collect(pid: Pid) -> Option<ExitStatus> {
    match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => Some(ExitStatus::from_raw(code << 8)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(ExitStatus::from_raw(signal as i32)),
        _ => None,
    }
}

/// The words of a status, as the log and the history have them.
pub(super) fn words_of(status: ExitStatus) -> String {
    let signal = status.signal().map(nix::sys::signal::Signal::try_from);
    match (status.code(), signal) {
        (Some(code), _) => format!("exit status: {code}"),
        (None, Some(Ok(signal))) => format!("killed by {signal}"),
        _ => status.to_string(),
    }
}

/// The maximum that is read of each stream of a command, in bytes.
const MAX_OUTPUT_LEN: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_killed_at_its_timeout_with_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        // Long enough to write the pid; it ends by the timeout alone.
        let mut timeout = Duration::from_millis(100);
        let started = loop {
            let ended = output(Command::new("sh").args(["-c", &script]), timeout);
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
            let said = std::fs::read_to_string(&pid).unwrap_or_default();
            match said.trim().parse::<i32>() {
                Ok(pid) => break pid,
                Err(_) => timeout *= 2,
            }
        };
        let stat = std::fs::read_to_string(format!("/proc/{started}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        assert!(matches!(state, None | Some('Z' | 'X' | 'R' | 'S')), "{stat}");
        let process = rustix::process::Pid::from_raw(started).unwrap();
        if let Ok(process) = pidfd_open(process, PidfdFlags::empty()) {
            let deadline = Instant::now() + Duration::from_secs(20);
            assert!(wait_readable(&process, Some(deadline)).unwrap(), "it was killed");
        }
    }

    #[test]
    fn whoever_a_command_leaves_behind_is_not_waited_for() {
        // In a group and session of its own, with the command's streams.
        let mut command = Command::new("sh");
        command.args(["-c", "setsid sleep 1000 & echo $!; echo why >&2; exit 1"]);
        let ended = output(&mut command, Duration::from_secs(60)).unwrap();
        assert_eq!((ended.status.code(), ended.stderr), (Some(1), b"why\n".to_vec()));
        let left = String::from_utf8(ended.stdout).unwrap();
        let left = rustix::process::Pid::from_raw(left.trim().parse().unwrap()).unwrap();
        let _ = rustix::process::kill_process(left, Signal::KILL);
    }

    #[test]
    fn a_command_s_status_and_words_are_returned() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo why >&2; exit 7"]);
        let ended = output(&mut command, Duration::from_secs(60)).unwrap();
        assert_eq!(words_of(ended.status), "exit status: 7");
        assert_eq!(ended.stderr, b"why\n");
        let killed = output(Command::new("sh").args(["-c", "kill -9 $$"]), Duration::from_secs(60));
        assert_eq!(words_of(killed.unwrap().status), "killed by SIGKILL");
    }
}
