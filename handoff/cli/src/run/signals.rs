//! Signals, as events.

use std::fs;
use std::io;
use std::thread;

use nix::sys::signal::SigSet;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

/// Calls `tell` with each signal, on a thread of its own. The signals that came while an upgraded
/// supervisor was not ready for them come now.
pub(super) fn listen(tell: impl Fn(i32) -> bool + Send + 'static) -> io::Result<()> {
    let mut signals =
        Signals::new([SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGCHLD, SIGUSR1, SIGUSR2, SIGWINCH])?;
    SigSet::all().thread_unblock().map_err(io::Error::from)?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if !tell(signal) {
                return;
            }
        }
    })?;
    Ok(())
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
