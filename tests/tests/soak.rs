//! The soak: swaps under load, while any of the three processes is killed, or stopped and
//! continued, at a random moment.
//!
//! `SWAPS=10000` says how many; without it few are made. `SEED=N` replays the choices of a run,
//! whose seed is printed; what the machine does with them in between is its own. `SOAK_PIN=1`
//! pins every process to one core, beside a loop that keeps it busy. `LOG_SINK=stalls` makes the
//! logs of the supervisors and of the daemons wait at random, as a pipe with a slow reader does.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use handoff_tests::arena::{Arena, Daemon, Probed, Report, Victim};
use handoff_tests::harness::cores;
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

#[test]
fn random_deaths_and_stops_lose_nothing_and_leave_one_daemon_serving() {
    let swaps = number("SWAPS").unwrap_or(40);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later than that");
    let seed = number("SEED").unwrap_or(now.as_secs() as usize);
    let pinned = number("SOAK_PIN").is_some_and(|pin| pin > 0);
    say(&format!("soak: SEED={seed} SWAPS={swaps}{}", options()));
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let sum = thread::scope(|scope| {
        if pinned {
            pin_to_one_core();
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let sum = soak(swaps, seed, if pinned { 2 } else { cores() * ROUNDS_A_CORE });
        stop.store(true, Ordering::Relaxed);
        sum
    });
    say(&format!("{sum}in {:.0} s", begun.elapsed().as_secs_f64()));
    assert_eq!(sum.failures, [""; 0]);
    assert_eq!(sum.swaps, swaps);
}

/// Plays rounds of swaps, some at a time.
fn soak(swaps: usize, seed: usize, at_a_time: usize) -> Sum {
    let (next, sum) = (AtomicUsize::new(0), Mutex::new(Sum::default()));
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    let left = swaps.saturating_sub(round * A_ROUND).min(A_ROUND);
                    if left == 0 {
                        return;
                    }
                    let random = Random::new((seed + round) as u64);
                    let played = catch_unwind(AssertUnwindSafe(|| play(left, random)));
                    let mut sum = sum.lock().expect("no thread panics");
                    match played {
                        Ok(round) => sum.add(round),
                        Err(panic) => sum.fail(seed + round, &*panic),
                    }
                }
            });
        }
    });
    sum.into_inner().expect("no thread panics")
}

/// One daemon's life: so many swaps, and what was acknowledged is read at its end.
fn play(swaps: usize, mut random: Random) -> Sum {
    let mut sum = Sum::default();
    let mut arena = Arena::new(&[]);
    arena.until_sound();
    arena.start_clients(2);
    arena.wait_for_progress();
    arena.open_connections(CONNECTIONS);
    let mut may_be_closed = false;
    for _ in 0..swaps {
        let before = arena.reports.len();
        let served = arena.daemon.clone().expect("it is sound");
        arena.order_swap();
        let begun = Instant::now();
        let mut struck = Struck::default();
        for _ in 0..*random.of(&[0, 1, 1, 1, 1, 2]) {
            let victim = *random.of(&[Victim::Supervisor, Victim::Incumbent, Victim::Successor]);
            // A swap takes about as long.
            let at = begun + Duration::from_micros(random.below(A_SWAP_US));
            let what = What::random(&mut random);
            while Instant::now() < at {
                thread::sleep(at.saturating_duration_since(Instant::now()).min(A_SLEEP));
            }
            let Some(pid) = arena.victim(victim) else {
                sum.count(format!("{victim:?} not there to be struck"));
                continue;
            };
            sum.count(format!("{victim:?} {}", what.name()));
            struck.count(victim, pid, what);
            match what {
                What::Kill => arena.strike_down(pid),
                What::StopFor(pause) => {
                    arena.signal(pid, Signal::STOP);
                    thread::sleep(pause);
                    arena.signal(pid, Signal::CONT);
                }
            }
        }
        arena.until_sound();
        sum.swaps += 1;
        let reports = &arena.reports[before..];
        struck.explain(reports);
        sum.outcome(reports);
        let probed = arena.probe_connections();
        let is_excused = struck.may_close(&arena, &served);
        assert!(
            probed.closed() == 0 || is_excused,
            "connections were closed, and nobody who held them died: {probed:?} {struck:?}, {:?}",
            &arena.reports[before..]
        );
        may_be_closed |= is_excused;
        sum.probed.add(probed);
        arena.end_connections(probed.open.min(1));
        arena.open_connections(CONNECTIONS);
    }
    arena.wait_for_progress();
    arena.stop_clients();
    sum.acknowledged += arena.assert_nothing_lost();
    let tally = arena.tally();
    assert!(tally.failed.is_empty(), "requests failed: {:?}", tally.failed);
    if !arena.has_died_out {
        assert_eq!(tally.refused, 0, "connections were refused: {:?}", arena.reports);
    }
    assert_eq!(tally.unanswered, 0, "requests were not answered: {:?}", arena.reports);
    if !may_be_closed {
        let closed = (tally.reset, tally.moved);
        assert_eq!(closed, (0, 0), "connections were closed: {:?}", arena.reports);
    }
    arena.assert_none_is_left_open();
    sum.died_out += usize::from(arena.has_died_out);
    sum
}

/// What was struck in one swap.
#[derive(Debug, Default)]
struct Struck {
    /// Killed, or stopped for long; so the others.
    supervisor: bool,
    incumbent: bool,
    successors: Vec<u32>,
    stopped_for_long: bool,
}

impl Struck {
    fn count(&mut self, victim: Victim, pid: u32, what: What) {
        let is_long = matches!(what, What::StopFor(pause) if pause > Duration::from_secs(1));
        let is_deadly = is_long || matches!(what, What::Kill);
        self.stopped_for_long |= is_long;
        match victim {
            Victim::Supervisor => self.supervisor |= is_deadly,
            Victim::Incumbent => self.incumbent |= is_deadly,
            Victim::Successor => self.successors.extend(is_deadly.then_some(pid)),
        }
    }

    /// Whether one who held the connections as the server was struck: the incumbent, a successor
    /// that may have read from them before the incumbent served again, or both.
    fn may_close(&self, arena: &Arena, served: &Daemon) -> bool {
        let now = arena.daemon.as_ref().map(|daemon| daemon.pid);
        match now == Some(served.pid) {
            true => !self.successors.is_empty(),
            false if arena.was_swapped() => self.incumbent,
            false => self.incumbent || !self.successors.is_empty(),
        }
    }

    /// Nothing happened that the strikes do not account for.
    fn explain(&self, reports: &[Report]) {
        let has = |what: fn(&Report) -> bool| reports.iter().any(what);
        let is_lost = |report: &Report| match report {
            Report::Failed(fate, ..) => fate == "Lost",
            Report::Started(_) | Report::Nothing(_) => true,
            _ => false,
        };
        let is_unknown =
            |report: &Report| matches!(report, Report::Failed(fate, ..) if fate == "Unknown");
        // Nobody is left only where whoever served was struck: the incumbent, or a successor
        // that had replaced it, as far as that could be told.
        let replaced = reports.iter().any(|report| match report {
            Report::Committed(pid) | Report::Adopted(pid, _) | Report::Failed(_, Some(pid), _) => {
                self.successors.contains(pid)
            }
            _ => false,
        });
        let untold = self.supervisor && !self.successors.is_empty();
        let is_excused = self.incumbent || replaced || untold;
        assert!(is_excused || !has(is_lost), "stuck: whoever served was not struck: {reports:?}");
        assert!(self.stopped_for_long || !has(is_unknown), "untrue: nobody hung: {reports:?}");
        if !self.incumbent && !self.supervisor && self.successors.is_empty() {
            let committed = matches!(reports, [Report::Committed(_)]);
            assert!(committed, "stuck: nobody was struck: {reports:?}");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Kill,
    StopFor(Duration),
}

impl What {
    fn random(random: &mut Random) -> Self {
        match random.below(200) {
            0..100 => Self::Kill,
            // Beyond the timeout after which a silent process counts as hung.
            100 => Self::StopFor(Duration::from_millis(5_000 + random.below(3_000))),
            _ => Self::StopFor(Duration::from_micros(random.below(4 * A_SWAP_US))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::StopFor(pause) if pause < Duration::from_secs(1) => "stopped for a moment",
            Self::StopFor(_) => "stopped for long",
        }
    }
}

/// What the swaps came to.
#[derive(Debug, Default)]
struct Sum {
    swaps: usize,
    acknowledged: usize,
    strikes: BTreeMap<String, usize>,
    outcomes: BTreeMap<String, usize>,
    lost: usize,
    refused: usize,
    untrue: usize,
    split: usize,
    read_twice: usize,
    stuck: usize,
    /// Daemons of which at some time nobody was left, so that connections were refused.
    died_out: usize,
    probed: Probed,
    failures: Vec<String>,
}

impl Sum {
    fn count(&mut self, strike: String) {
        *self.strikes.entry(strike).or_default() += 1;
    }

    /// A swap's outcome: what the one that ordered it said, or the one that adopted.
    fn outcome(&mut self, reports: &[Report]) {
        let named = reports.iter().find_map(|report| match report {
            Report::Committed(_) => Some("committed".to_owned()),
            Report::Failed(_, Some(_), _) => Some("promoted".to_owned()),
            Report::Failed(fate, None, _) => Some(format!("rolled back ({fate})")),
            Report::Adopted(_, resolved) => Some(format!("supervisor died: {resolved}")),
            Report::Nothing(resolved) => Some(format!("all died: {resolved}")),
            Report::Error(_) => Some("not begun".to_owned()),
            Report::Started(_) => None,
        });
        *self.outcomes.entry(named.unwrap_or("none".to_owned())).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.swaps += other.swaps;
        self.acknowledged += other.acknowledged;
        self.died_out += other.died_out;
        self.probed.add(other.probed);
        for (name, count) in other.strikes {
            *self.strikes.entry(name).or_default() += count;
        }
        for (name, count) in other.outcomes {
            *self.outcomes.entry(name).or_default() += count;
        }
    }

    fn fail(&mut self, seed: usize, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
        let kind = match text {
            _ if text.contains("acknowledged and lost") => &mut self.lost,
            _ if text.contains("connections were") || text.contains("requests ") => {
                &mut self.refused
            }
            _ if text.contains("ReadTwice") || text.contains("read twice") => &mut self.read_twice,
            _ if text.contains("untrue: ") => &mut self.untrue,
            _ if text.contains("have the lock") || text.contains("answers clients") => {
                &mut self.split
            }
            _ => &mut self.stuck,
        };
        *kind += 1;
        self.failures.push(format!("SEED={seed} SWAPS={A_ROUND}{}: {text}", options()));
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (title, counts) in [("struck", &self.strikes), ("swaps", &self.outcomes)] {
            writeln!(f, "{title}:")?;
            for (name, count) in counts {
                writeln!(f, "  {count:>7} {name}")?;
            }
        }
        let Self { swaps, acknowledged, lost, refused, untrue, split, read_twice, stuck, .. } =
            self;
        writeln!(f, "{swaps} swaps, {acknowledged} acknowledged writes read back")?;
        let died_out = self.died_out;
        writeln!(f, "{died_out} daemons of {A_ROUND} swaps had nobody left at some time")?;
        let Probed { all, open } = self.probed;
        writeln!(f, "{all} connections went through a swap, {open} were kept")?;
        writeln!(f, "{refused} refused or failed, {untrue} reported untruly")?;
        write!(f, "{lost} lost, {read_twice} read twice, {split} split, {stuck} stuck, ")
    }
}

/// SplitMix64: good enough, and a line.
struct Random(u64);

impl Random {
    /// Mixed first: streams of neighbouring seeds are to have nothing in common.
    fn new(seed: u64) -> Self {
        Self(Self(seed).next().rotate_left(32) ^ Self(!seed).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

fn pin_to_one_core() {
    let mut all = sched_getaffinity(None).expect("the kernel tells");
    let core = (0..CpuSet::MAX_CPU).rev().find(|core| all.is_set(*core)).expect("there is one");
    all.clear();
    all.set(core);
    sched_setaffinity(None, &all).expect("a process may have less");
}

fn number(variable: &str) -> Option<usize> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text:?} is no number")))
}

/// The other variables of this run, as they are to be given again.
fn options() -> String {
    let given = |name| Some(format!(" {name}={}", std::env::var(name).ok()?));
    ["SOAK_PIN", "LOG_SINK"].into_iter().filter_map(given).collect()
}

/// Past the capture of tests.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Most of them idle.
const CONNECTIONS: usize = 28;
/// Swaps of one daemon.
const A_ROUND: usize = 40;
/// That are played side by side.
const ROUNDS_A_CORE: usize = 2;
/// Strikes fall within as many microseconds from a swap's begin.
const A_SWAP_US: u64 = 25_000;
const A_SLEEP: Duration = Duration::from_micros(100);
