//! The demonstration: a supervisor, a server, clients that never pause, and swaps.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use handoff::Outcome;

use crate::BoxError;
use crate::cli::DemoOptions;
use crate::demo::clients::{Clients, ReadBack, Tally};
use crate::demo::processes::{Interrupt, Processes, log};
use crate::demo::report::{Order, Serving, SwapReport};
use crate::demo::table::{self, Row, Seen};

/// The planned end of a swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Commit,
    /// The successor fails.
    Fail,
    /// The supervisor is killed while the successor opens the data.
    Kill,
}

impl DemoOptions {
    /// The swap in the middle fails; swaps are counted from 1.
    fn plan(&self, swap: u32) -> Plan {
        let middle = self.swaps.div_ceil(2);
        match swap {
            _ if swap == middle => Plan::Fail,
            _ if self.kill_supervisor && swap == middle + 1 => Plan::Kill,
            _ => Plan::Commit,
        }
    }

    /// Whether the supervisor is killed before this swap, while none is under way.
    fn kills_before(&self, swap: u32) -> bool {
        self.kill_supervisor && swap == self.swaps.div_ceil(2) / 2 + 1
    }
}

/// Runs the demonstration, and prints its results.
///
/// # Errors
///
/// A request failed, a connection was refused or closed, a write is missing, a swap did not end
/// as planned, or a supervisor did not go on from where the one before it was killed.
pub(crate) fn run(options: &DemoOptions) -> Result<(), BoxError> {
    let interrupt = Interrupt::watch()?;
    // Dropped last, when no process uses it any more.
    let dir = tempfile::tempdir()?;
    let outcome = demonstrate(options, dir.path(), &interrupt);
    if outcome.is_err() {
        eprint!("{}", fs::read_to_string(log(dir.path())).unwrap_or_default());
    }
    outcome
}

fn demonstrate(options: &DemoOptions, dir: &Path, interrupt: &Interrupt) -> Result<(), BoxError> {
    let mut demo = Demonstration::start(options, dir, interrupt)?;
    match demo.run() {
        Ok(()) => demo.finish(),
        Err(error) => {
            demo.complaints.push(error.to_string());
            Err(demo.complaints.join("; ").into())
        }
    }
}

/// The demonstration, and the events that it has seen so far.
pub(crate) struct Demonstration<'a> {
    options: &'a DemoOptions,
    interrupt: &'a Interrupt,
    // Before the processes, so that they end first.
    clients: Clients,
    pub(crate) processes: Processes,
    /// The process that serves, as the supervisor last reported it.
    pub(crate) serving: Serving,
    rows: Vec<Row>,
    pub(crate) complaints: Vec<String>,
}

impl<'a> Demonstration<'a> {
    fn start(
        options: &'a DemoOptions,
        dir: &Path,
        interrupt: &'a Interrupt,
    ) -> Result<Self, BoxError> {
        let (processes, serving) = Processes::start(dir, interrupt.clone())?;
        let Serving { address, build, .. } = serving;
        println!("build {build} serves on {address}; {} clients write and read", options.clients);
        let clients = Clients::start(address, options.clients)?;
        let (rows, complaints) = (Vec::new(), Vec::new());
        let demo = Self { options, interrupt, clients, processes, serving, rows, complaints };
        demo.wait_for_requests()?;
        Ok(demo)
    }

    fn run(&mut self) -> Result<(), BoxError> {
        for number in 1..=self.options.swaps {
            if self.options.kills_before(number) {
                self.kill_between_swaps()?;
            }
            match self.options.plan(number) {
                Plan::Commit => self.swap(number, false, Outcome::Committed)?,
                Plan::Fail => self.swap(number, true, Outcome::RolledBack)?,
                Plan::Kill => self.kill_inside_swap(number)?,
            }
        }
        Ok(())
    }

    fn swap(&mut self, number: u32, fail_open: bool, planned: Outcome) -> Result<(), BoxError> {
        let order = Order { fail_open, ..Order::to(number + 1) };
        let start = Instant::now();
        let report = self.processes.swap(&order)?;
        let end = Instant::now();
        let SwapReport { from, to, outcome, pid, phases, carried, reason } = report;
        if outcome != planned {
            let complaint = format!("swap {number} was to be {planned}, was {outcome}: {reason}");
            self.complaints.push(complaint);
        }
        let is_new = outcome.successor_serves();
        let build = if is_new { to } else { from };
        self.serving = Serving { build, pid, ..self.serving };
        let (swap, to, outcome) = (Some(number), Some(to), outcome.to_string());
        let seen = Seen::default();
        self.add(Row { swap, from, to, outcome, phases, carried, seen }, start, end)
    }

    /// Adds a row, with the pause and the closed connections between `start` and `end`.
    pub(crate) fn add(
        &mut self,
        mut row: Row,
        start: Instant,
        end: Instant,
    ) -> Result<(), BoxError> {
        self.wait_for_requests()?;
        let closed_before: u64 = self.rows.iter().map(|row| row.seen.closed).sum();
        row.seen = Seen {
            pause: self.clients.longest_wait(start, end),
            closed: self.clients.closed() - closed_before,
        };
        let title = row.swap.map_or_else(
            || "between swaps".to_owned(),
            |number| format!("swap {number:2} of {}", self.options.swaps),
        );
        let to = row.to.map_or_else(|| " ".repeat(5), |to| format!("to {to:2}"));
        let width = if self.options.kill_supervisor { 26 } else { 12 };
        println!(
            "{title}: build {:2} {to} {:<width$} in {:>6} ms, pause {:>6} ms, {} closed",
            row.from,
            row.outcome,
            table::millis(end - start),
            table::millis(row.seen.pause),
            row.seen.closed,
        );
        self.rows.push(row);
        Ok(())
    }

    /// Waits until every client has made the requests that belong between two swaps.
    fn wait_for_requests(&self) -> Result<(), BoxError> {
        let enough = self.clients.least_done() + REQUESTS_BETWEEN;
        let deadline = Instant::now() + PROGRESS_TIMEOUT;
        while self.clients.least_done() < enough {
            self.interrupt.check()?;
            if Instant::now() > deadline {
                return Err("a client makes no progress".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn finish(self) -> Result<(), BoxError> {
        println!("reading back what was acknowledged");
        let finished = self.clients.finish();
        println!("{}", table::swaps(&self.rows));
        let mut complaints = self.complaints;
        match finished {
            Ok((tally, read_back)) => {
                println!("{}", table::totals(&tally, &read_back));
                complaints.extend(complaints_of(&tally, &read_back));
            }
            Err(error) => complaints.push(format!("nothing can be read back: {error}")),
        }
        if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ").into()) }
    }
}

/// The complaints that follow from the clients' account.
fn complaints_of(tally: &Tally, read_back: &ReadBack) -> Vec<String> {
    let mut complaints = Vec::new();
    if let Some(first) = &tally.first_failure {
        complaints.push(format!("{} requests failed, the first: {first}", tally.failed));
    }
    if tally.refused > 0 {
        complaints.push(format!("{} connections were refused", tally.refused));
    }
    // No process that serves is killed here, not even with its supervisor.
    if tally.closed > 0 {
        complaints.push(format!("{} connections were closed", tally.closed));
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

const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);
/// The requests that every client makes between two swaps.
const REQUESTS_BETWEEN: u64 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_closed_is_complained_of_although_no_request_failed() {
        let read_back = ReadBack { acknowledged: 5, found: 5 };
        assert_eq!(complaints_of(&Tally::default(), &read_back), [""; 0]);
        let tally = Tally { closed: 2, ..Tally::default() };
        assert_eq!(complaints_of(&tally, &read_back), ["2 connections were closed"]);
    }

    #[test]
    fn the_supervisor_is_killed_where_it_was_ordered() {
        let mut options = DemoOptions { kill_supervisor: true, ..DemoOptions::default() };
        let of = |options: &DemoOptions, plan| {
            (1..=options.swaps).filter(|swap| options.plan(*swap) == plan).collect::<Vec<_>>()
        };
        for (swaps, between, failing, inside) in [(4, 2, 2, 3), (5, 2, 3, 4), (12, 4, 6, 7)] {
            options.swaps = swaps;
            assert!(options.is_long_enough() && options.kills_before(between));
            assert_eq!(
                (of(&options, Plan::Fail), of(&options, Plan::Kill)),
                (vec![failing], vec![inside])
            );
        }
        options.swaps = 3;
        assert!(!options.is_long_enough());
        options.kill_supervisor = false;
        assert!(options.is_long_enough() && !(1..=3).any(|swap| options.kills_before(swap)));
        assert_eq!((of(&options, Plan::Fail), of(&options, Plan::Kill)), (vec![2], vec![]));
    }
}
