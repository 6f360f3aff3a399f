//! Signals, as events.

use std::fs::{self, File};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, PidfdFlags, getsid, pidfd_open};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::iterator::exfiltrator::origin::Origin;
use signal_hook::low_level::siginfo::Cause;

use super::children;

/// Calls `tell` with each signal, on a thread of its own. The signals that came while an upgraded
/// supervisor was not ready for them come now. The hangup of the terminal is no request.
pub(super) fn listen(tell: impl Fn(i32) -> bool + Clone + Send + 'static) -> io::Result<()> {
    let all = [SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGCHLD, SIGUSR1, SIGUSR2, SIGWINCH];
    let mut signals = SignalsInfo::<WithOrigin>::new(all)?;
    let has_terminal = has_terminal();
    SigSet::all().thread_unblock().map_err(io::Error::from)?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for origin in signals.forever() {
            let is_heard = match origin.signal {
                SIGHUP if has_terminal => tell_hangup(&origin, &tell),
                other => tell(other),
            };
            if !is_heard {
                return;
            }
        }
    })?;
    Ok(())
}

/// Tells a `SIGHUP` that somebody sent, and no hangup of the terminal.
fn tell_hangup(origin: &Origin, tell: &(impl Fn(i32) -> bool + Clone + Send + 'static)) -> bool {
    if origin.cause == Cause::Kernel {
        ignore_hangup();
        return true;
    }
    let leader = getsid(None).ok();
    let sender = origin.process.and_then(|process| Pid::from_raw(process.pid));
    let Some(leader) = leader.filter(|leader| sender == Some(*leader)) else { return tell(SIGHUP) };
    // A shell sends SIGHUP to its jobs when its terminal closes, and where somebody types `kill`.
    let told = tell.clone();
    let waits = thread::Builder::new().name("hangup".into()).spawn(move || {
        if is_over(leader) {
            ignore_hangup();
        } else {
            told(SIGHUP);
        }
    });
    waits.is_ok() || tell(SIGHUP)
}

/// Whether the session ends, or loses its terminal, within a moment.
fn is_over(leader: Pid) -> bool {
    let has_ended = match pidfd_open(leader, PidfdFlags::empty()) {
        Ok(shell) => children::wait_readable(&shell, Some(Instant::now() + MOMENT)),
        Err(_) => return true,
    };
    has_ended.unwrap_or(false) || !has_terminal()
}

fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

fn ignore_hangup() {
    tracing::warn!(
        "the terminal of this supervisor is gone: it supervises on, and takes that for no request; to swap, send SIGHUP or use `handoff swap`"
    );
}

/// Whether a process handles or ignores a signal. One that does neither would die of it.
///
/// # Errors
///
/// `/proc` does not tell, as where it hides the processes of others.
pub(super) fn is_handled(pid: u32, signal: i32) -> io::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    let bit = 1_u64 << (signal - 1);
    Ok((mask("SigCgt:") | mask("SigIgn:")) & bit != 0)
}

/// A shell whose terminal has closed has ended by then.
const MOMENT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_seen_what_a_process_handles() {
        // The harness ignores SIGPIPE, as every Rust program does, and leaves SIGUSR2 alone.
        let own = std::process::id();
        assert!(is_handled(own, signal_hook::consts::SIGPIPE).unwrap());
        assert!(!is_handled(own, SIGUSR2).unwrap());
    }
}
