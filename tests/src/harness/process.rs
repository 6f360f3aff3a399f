//! Processes by pid, and waiting for facts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::TIMEOUT;

/// Waits until `probe` finds what it looks for, and panics with `what` when it does not
/// within the timeout.
///
/// # Panics
///
/// Then.
pub fn eventually<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// Sends a signal to a process; one that is gone is no error.
pub fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        let _ = pidfd_send_signal(process, signal);
    }
}

/// Kills a process, and waits until it is dead and all that it held is free.
///
/// # Panics
///
/// When it does not die.
pub fn kill_and_wait(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        let _ = pidfd_send_signal(&process, Signal::KILL);
        let timeout = Timespec::try_from(TIMEOUT).expect("it is short");
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout));
        assert_eq!(ended, Ok(1), "{pid:?} does not die");
    }
}

/// Whether the process with this pid runs, and has `word` in its command line. A zombie has
/// no command line.
#[must_use]
pub fn is_alive(pid: u32, word: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
}

/// A helper binary of this package.
///
/// # Panics
///
/// When cargo has not built it.
#[must_use]
pub fn executable(name: &str) -> PathBuf {
    // Beside the test's own directory, where cargo puts the binaries that it builds for it.
    let own = std::env::current_exe().expect("a process has an executable");
    let path = own.ancestors().skip(1).map(|directory| directory.join(name));
    path.take(3).find(|path| path.is_file()).expect("cargo builds the helpers before the tests")
}

const PAUSE: Duration = Duration::from_millis(2);

/// Processes whose working directory that is.
///
/// # Panics
///
/// Where there is no `/proc`.
#[must_use]
pub fn processes_in(directory: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("there is a kernel");
    processes
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (fs::read_link(entry.path().join("cwd")).ok()? == directory).then_some(pid)
        })
        .collect()
}

/// The program `handoff`, or the example `kvd`, `ledger` or `todo`, as an operator has it: without failpoints.
/// They are built beside this test with the same profile.
///
/// # Panics
///
/// When it cannot be built.
#[must_use]
pub fn program(name: &str) -> &'static Path {
    static HANDOFF: LazyLock<PathBuf> =
        LazyLock::new(|| built(&["--bin", "handoff"]).join("handoff"));
    static KVD: LazyLock<PathBuf> =
        LazyLock::new(|| built(&["--example", "kvd"]).join("examples/kvd"));
    static LEDGER: LazyLock<PathBuf> =
        LazyLock::new(|| built(&["--example", "ledger"]).join("examples/ledger"));
    static TODO: LazyLock<PathBuf> =
        LazyLock::new(|| built(&["--package", "handoff-todo", "--bin", "todo"]).join("todo"));
    match name {
        "todo" => &TODO,
        "kvd" => &KVD,
        "ledger" => &LEDGER,
        _ => &HANDOFF,
    }
}

fn built(what: &[&str]) -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let profile = own.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "handoff", "--package", "handoff-cli"]).args(what);
    build.arg("--target-dir").arg(profile.parent().expect("target/PROFILE"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success());
    profile.to_owned()
}
