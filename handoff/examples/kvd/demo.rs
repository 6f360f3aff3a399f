//! The demonstration: a supervisor, a server, clients that never pause, and swaps.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::BoxError;
use crate::clients::{Clients, ReadBack, Tally};
use crate::report::{Order, Outcome, Started, SwapReport};
use crate::table;

/// How much of it there is.
pub(crate) struct DemoOptions {
    pub(crate) clients: usize,
    pub(crate) swaps: u32,
    /// Requests that every client makes between two swaps.
    pub(crate) requests_between: u64,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self { clients: 8, swaps: 12, requests_between: 500 }
    }
}

impl DemoOptions {
    /// How a swap, counted from 1, is to end: in the middle one the successor fails.
    fn planned(&self, swap: u32) -> Outcome {
        if swap == self.swaps.div_ceil(2) { Outcome::RolledBack } else { Outcome::Committed }
    }
}

/// Runs it, and prints what came of it.
///
/// # Errors
///
/// A request failed, a connection was refused, a write is missing, or a swap did not end as
/// planned.
pub(crate) fn run(options: &DemoOptions) -> Result<(), BoxError> {
    // Dropped last, when no process uses it any more.
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");
    let outcome = demonstrate(options, dir.path(), &log);
    if outcome.is_err() {
        eprint!("{}", fs::read_to_string(&log).unwrap_or_default());
    }
    outcome
}

fn demonstrate(options: &DemoOptions, dir: &Path, log: &Path) -> Result<(), BoxError> {
    let (mut supervisor, started) = Supervisor::start(dir, log)?;
    let Started { address, build, .. } = started;
    println!("build {build} serves on {address}; {} clients write and read", options.clients);
    let clients = Clients::start(address, options.clients)?;
    wait_for_requests(&clients, options.requests_between)?;

    let mut swaps = Vec::new();
    for number in 1..=options.swaps {
        let fail_open = options.planned(number) == Outcome::RolledBack;
        let order = Order { build: number + 1, fail_open };
        let start = Instant::now();
        let report = supervisor.swap(&order)?;
        let end = Instant::now();
        wait_for_requests(&clients, options.requests_between)?;
        let pause = clients.longest_wait(start, end);
        println!(
            "swap {number:2} of {}: build {:2} to {:2} {:<12} in {:>6} ms, pause {:>6} ms",
            options.swaps,
            report.from,
            report.to,
            report.outcome,
            table::millis(end - start),
            table::millis(pause),
        );
        swaps.push((report, pause));
    }

    println!("reading back what was acknowledged");
    let (tally, read_back) = clients.finish()?;
    println!("{}", table::swaps(&swaps));
    println!("{}", table::totals(&tally, &read_back));
    let complaints = complaints(options, &swaps, &tally, &read_back);
    if complaints.is_empty() {
        return Ok(());
    }
    Err(complaints.join("; ").into())
}

fn complaints(
    options: &DemoOptions,
    swaps: &[(SwapReport, Duration)],
    tally: &Tally,
    read_back: &ReadBack,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for ((report, _), number) in swaps.iter().zip(1..) {
        let planned = options.planned(number);
        if report.outcome != planned {
            let SwapReport { outcome, reason, .. } = report;
            complaints.push(format!("swap {number} was to be {planned}, was {outcome}: {reason}"));
        }
    }
    if let Some(first) = &tally.first_failure {
        complaints.push(format!("{} requests failed, the first: {first}", tally.failed));
    }
    if tally.refused > 0 {
        complaints.push(format!("{} connections were refused", tally.refused));
    }
    if read_back.found != read_back.acknowledged {
        complaints.push(format!(
            "{} of {} acknowledged writes are missing",
            read_back.acknowledged - read_back.found,
            read_back.acknowledged
        ));
    }
    complaints
}

/// Waits until every client has made that many more requests.
fn wait_for_requests(clients: &Clients, count: u64) -> Result<(), BoxError> {
    let enough = clients.least_done() + count;
    let deadline = Instant::now() + SWAP_LIMIT;
    while clients.least_done() < enough {
        if Instant::now() > deadline {
            return Err("a client makes no progress".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The supervisor, a process of its own. Dropping it ends it and every server it has named.
struct Supervisor {
    child: Child,
    /// The orders. At their end the supervisor ends its server and leaves.
    orders: Option<ChildStdin>,
    reports: mpsc::Receiver<io::Result<String>>,
    /// The supervisor and its servers. A pid is reused, a pidfd is not.
    processes: Vec<OwnedFd>,
}

impl Supervisor {
    fn start(dir: &Path, log: &Path) -> Result<(Self, Started), BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("supervise")
            .arg("--data")
            .arg(dir.join("data"))
            .arg("--control")
            .arg(dir.join("control"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log)?)
            .spawn()?;
        let (sender, reports) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                BufReader::new(stdout).lines().try_for_each(|line| sender.send(line))
            });
        }
        let (pid, orders) = (child.id(), child.stdin.take());
        let mut supervisor = Self { child, orders, reports, processes: Vec::new() };
        supervisor.remember(pid);
        let started: Started = supervisor.report()?.parse()?;
        supervisor.remember(started.pid);
        Ok((supervisor, started))
    }

    fn swap(&mut self, order: &Order) -> Result<SwapReport, BoxError> {
        let orders = self.orders.as_mut().ok_or("the supervisor takes no orders")?;
        writeln!(orders, "{order}")?;
        let report: SwapReport = self.report()?.parse()?;
        self.remember(report.pid);
        Ok(report)
    }

    fn report(&self) -> Result<String, BoxError> {
        let line = self.reports.recv_timeout(SWAP_LIMIT);
        Ok(line.map_err(|_| "the supervisor ended, or said nothing in time")??)
    }

    fn remember(&mut self, pid: u32) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        self.processes.extend(process);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.orders.take());
        // The supervisor is the first, and given time to end its server.
        let mut patience = Timespec { tv_sec: 5, tv_nsec: 0 };
        for process in &self.processes {
            let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience));
            // Of a process that has ended this is an error, and nobody else is signalled.
            if pidfd_send_signal(process, Signal::KILL).is_ok() {
                let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], None);
            }
            patience.tv_sec = 0;
        }
        let _ = self.child.wait();
    }
}

const SWAP_LIMIT: Duration = Duration::from_secs(60);
