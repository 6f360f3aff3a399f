//! What a swap costs the clients of one and the same small daemon, by the mechanism with which
//! it is swapped: this library with carried connections, two peers, a restart, and none.
//!
//! The daemon appends each `put` to a log and acknowledges it after the `write`. Each peer does as
//! its documentation says: it syncs the log, and the next process opens it anew. The daemon of this
//! library uses what there is for it: it settles ahead, reads ahead, and leaves the last sync to the
//! next process. What it would be without, and what a peer's daemon can do of it by hand, is in
//! rows of their own. Eight clients ask in a closed loop. The pause is the time from the
//! last answer of the old process to the first of the new one; beside it is the longest time in
//! which no client got an answer during all of the swap, whoever served.
//!
//! `cargo bench -p handoff-tests --bench pause [-- --rounds N] [--only TEXT]`, where TEXT is part
//! of a setting's name. Without `--bench`, as under `cargo test --bench pause`, there is one
//! round, in memory and with little load. A lost write fails the run, and so do two writers at
//! once, and a connection that was closed though it was to be carried; a ratio does not, since
//! machines differ.

mod clients;
mod daemons;
mod log;
mod plot;
mod report;
mod server;
mod swap;
#[expect(dead_code, reason = "of what a daemon can say, each bench hears a part")]
mod tell;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clients::{Clients, Connect};
use daemons::{Care, Slow};
use report::{Round, Row, Setting};
use rustix::process::{getpid, set_child_subreaper};
use swap::{Mechanism, Running};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, args)) = args.split_first()
        && first == "--daemon"
    {
        return match daemons::run(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("pause: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match Effort::of(&args).and_then(|effort| run(&effort)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Effort {
    rounds: usize,
    /// Answers each client has had before a swap, at least.
    answers: u64,
    /// How long the load lasts before a daemon stops answering, about.
    load: Duration,
    measured: bool,
    only: Option<String>,
}

impl Effort {
    fn of(args: &[String]) -> io::Result<Self> {
        let measured = args.iter().any(|arg| arg == "--bench");
        let value = |name: &str| {
            let place = args.iter().position(|arg| arg == name)?;
            args.get(place + 1).cloned()
        };
        let rounds = match value("--rounds") {
            Some(rounds) => rounds.parse().map_err(io::Error::other)?,
            None if measured => 7,
            None => 1,
        };
        let (answers, load) = if measured { (200, 600) } else { (5, 10) };
        let load = Duration::from_millis(load);
        Ok(Self { rounds, answers, load, measured, only: value("--only") })
    }
}

fn run(effort: &Effort) -> io::Result<bool> {
    set_child_subreaper(Some(getpid()))?;
    let start = Instant::now();
    let mut settings = settings(effort.measured);
    if let Some(only) = &effort.only {
        settings.retain(|setting| setting.name().contains(only.as_str()));
    }
    for setting in &mut settings {
        for _ in 0..effort.rounds {
            for row in &mut setting.rows {
                let round = measure(row, setting.connect, &setting.place, effort)?;
                row.rounds.push(round);
            }
        }
        println!("{setting}");
    }
    let checks = report::Checks::of(&settings);
    println!("{checks}");
    for path in report::write(&settings)? {
        println!("{}", path.display());
    }
    println!("{} rounds in {:.0?}", effort.rounds, start.elapsed());
    Ok(checks.nothing_is_broken())
}

/// Starts a daemon, asks it on and on, and swaps it once.
fn measure(row: &Row, connect: Connect, place: &PathBuf, effort: &Effort) -> io::Result<Round> {
    let named = |error: io::Error| io::Error::other(format!("{}: {error}", row.name));
    let mut running = Running::start(row.mechanism, row.slow, row.care, place).map_err(named)?;
    let clients = Clients::start(running.address(), connect);
    std::thread::sleep(effort.load.saturating_sub(row.mechanism.delay(row.slow)));
    clients.wait_answers(effort.answers).map_err(named)?;
    let start = tell::now();
    let swapped = running.swap().map_err(named)?;
    clients.wait_answers(ANSWERS_AFTER).map_err(named)?;
    let swap = start..tell::now();
    // Of a daemon that was left alone, all of it.
    let is_swapped = row.mechanism != Mechanism::Alone;
    let unserved = swapped.said.opened.start..swapped.said.serving;
    let unserved = if is_swapped { unserved } else { swap.clone() };
    let outcome = clients.stop(swap, unserved, &running.log()).map_err(named)?;
    Ok(Round { outcome, said: swapped.said, timings: swapped.timings })
}

/// Every combination that is measured.
fn settings(measured: bool) -> Vec<Setting> {
    let memory = Path::new("/dev/shm");
    let mut places = Vec::new();
    if measured {
        places.push(("disk", std::env::temp_dir()));
    }
    if memory.is_dir() {
        places.push(("memory", memory.to_owned()));
    } else if !measured {
        places.push(("disk", std::env::temp_dir()));
    }
    let mut settings = Vec::new();
    for (name, place) in places {
        let mut add = |connect, slow_ms| {
            let rows = rows(slow_ms);
            settings.push(Setting {
                place_name: name,
                place: place.clone(),
                connect,
                slow_ms,
                rows,
            });
        };
        add(Connect::Once, 0);
        add(Connect::EachTime, 0);
        add(Connect::Once, 200);
    }
    settings
}

fn rows(slow_ms: u64) -> Vec<Row> {
    use Care::{Ahead, Plain, Settles};
    use Mechanism::{Alone, Beyond, Ecdysis, Handoff, Restart};
    let row = |name, mechanism, slow, care| Row { name, mechanism, slow, care, rounds: Vec::new() };
    let never = Slow::Never;
    if slow_ms == 0 {
        vec![
            row("left alone", Alone, never, Plain),
            row(report::HANDOFF, Handoff, never, Ahead),
            row(report::BEYOND, Beyond, never, Plain),
            row(report::ECDYSIS, Ecdysis, never, Plain),
            row(report::RESTART, Restart, never, Plain),
            row("handoff, synced", Handoff, never, Settles),
            row("handoff, nothing ahead", Handoff, never, Plain),
            row("beyond-handoff, all by hand", Beyond, never, Ahead),
            row("ecdysis, all by hand", Ecdysis, never, Ahead),
        ]
    } else {
        vec![
            row("left alone", Alone, never, Plain),
            row(report::HANDOFF, Handoff, Slow::Early, Ahead),
            row(report::BEYOND, Beyond, Slow::Opening, Plain),
            row(report::ECDYSIS, Ecdysis, Slow::Opening, Plain),
            row(report::RESTART, Restart, Slow::Opening, Plain),
            row("handoff, in `open`", Handoff, Slow::Opening, Ahead),
            row("beyond-handoff, all by hand", Beyond, Slow::Early, Ahead),
            row("ecdysis, all by hand", Ecdysis, Slow::Early, Ahead),
        ]
    }
}

/// Nothing takes longer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How many answers each client has had when a swap is over for it.
const ANSWERS_AFTER: u64 = 20;
