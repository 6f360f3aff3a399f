//! What a daemon that is not being swapped carries along: memory and threads, beside a process
//! that is the same executable and does nothing.

use std::fs;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Effort;
use crate::ours::{Serving, place};
use crate::report::Results;

/// Runs such a process, until its standard input ends.
pub(crate) fn sleeper() -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(_: &Effort, results: &mut Results) -> io::Result<()> {
    let mut serving = Serving::start(&place(), None)?;
    let bare = Command::new(std::env::current_exe()?)
        .arg("--sleeper")
        .stdin(Stdio::piped())
        .spawn()
        .map(Sleeper)?;
    let bare = usage_at_rest(bare.0.id())?;
    let started = usage_at_rest(serving.process.pid())?;
    serving.swap()?;
    let swapped = usage_at_rest(serving.process.pid())?;
    for (name, of) in
        [("a bare process", bare), ("a daemon", started), ("... after a swap", swapped)]
    {
        let Usage { resident, threads } = of;
        results.figure(format!("idle: {name}"), format!("{resident} KiB, {threads} threads"));
    }
    let max = started.resident.max(swapped.resident) as f64 / 1024.0;
    let added = max - bare.resident as f64 / 1024.0;
    results.check("resident memory that the library adds", added, " MiB", 2.0);
    // The bare process has its main thread; the daemon's is the one that serves, and one of the
    // bench ends it should it be forgotten.
    let threads = started.threads.max(swapped.threads) - 1;
    results.check("threads of an idle daemon", threads as f64, "", 1.0);
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
struct Usage {
    /// In KiB.
    resident: u64,
    threads: u64,
}

/// Once what helped with a swap or a start is gone: it stays for 5 s, should it be of use again.
fn usage_at_rest(pid: u32) -> io::Result<Usage> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut before, mut since) = (usage(pid)?, Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = usage(pid)?;
        if now != before {
            (before, since) = (now, Instant::now());
        }
        if since.elapsed() >= Duration::from_secs(7) || Instant::now() >= deadline {
            return Ok(now);
        }
    }
}

fn usage(pid: u32) -> io::Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| io::Error::other(format!("no {name} in /proc/{pid}/status")))
    };
    Ok(Usage { resident: field("VmRSS:")?, threads: field("Threads:")? })
}
