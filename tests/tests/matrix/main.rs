//! The matrix: whatever dies, hangs, panics, fails, is slow or runs out, at every step of every
//! process of a swap, one daemon serves afterwards, no acknowledged write is lost, and what the
//! supervisor reported is true.
//!
//! `HANDOFF_MATRIX` says how much of it is run: 1 is every case, 4 every fourth. Without it few
//! are. It ends with a table, also when the output of tests is captured.

mod cases;
mod excuse;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use handoff::faults::{Fault, Planned, WHILE_OUT};
use handoff_tests::arena::{Arena, Daemon, Probed, Report};
use handoff_tests::harness::{TIMEOUT, cores, eventually};

use crate::cases::Case;
use crate::excuse::who_held_them_died;
use crate::table::{Row, print};

#[test]
fn every_fault_at_every_step_leaves_one_daemon_serving() {
    run("one fault", &cases::single());
}

#[test]
fn two_faults_between_seal_and_commit_leave_one_daemon_serving() {
    run("two faults", &cases::pairs());
}

/// Each build writes a format that the one before it does not read, and moves the data there.
#[test]
fn a_fault_at_every_step_of_a_one_way_swap_leaves_one_daemon_serving_and_its_build_reads_the_data()
{
    run("one fault, one-way", &cases::one_way());
}

/// Runs what is chosen of these cases, some at a time.
fn run(title: &str, all: &[Case]) {
    let stride = std::env::var("HANDOFF_MATRIX").map_or(DEFAULT_STRIDE, |stride| {
        stride.parse().expect("HANDOFF_MATRIX is every how manyeth case is run")
    });
    let only = std::env::var("HANDOFF_MATRIX_ONLY").ok();
    let is_chosen = |case: &Case| only.as_ref().is_none_or(|only| case.to_string().contains(only));
    let everything = [cases::single(), cases::pairs(), cases::one_way()].concat();
    assert!(everything.iter().any(is_chosen), "no case has {only:?}, HANDOFF_MATRIX_ONLY, in it");
    let chosen: Vec<&Case> = all.iter().filter(|case| is_chosen(case)).step_by(stride).collect();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..(cores() * CASES_A_CORE).div_ceil(TESTS) {
            scope.spawn(|| {
                while let Some(case) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let outcome = catch_unwind(AssertUnwindSafe(|| play(case)));
                    let row = Row::new(case, begun.elapsed(), outcome);
                    row.say_if_failed();
                    rows.lock().expect("no thread panics").push(row);
                }
            });
        }
    });
    let rows = rows.into_inner().expect("no thread panics");
    let failed = print(title, all.len(), &rows);
    assert_eq!(rows.len(), chosen.len());
    assert!(failed.is_empty(), "{} of {} cases fail: {failed:#?}", failed.len(), rows.len());
}

/// What a case came to.
pub(crate) struct Played {
    /// From the first strike until everybody was served and nothing was left to do.
    pub(crate) sound_in: Duration,
    pub(crate) reports: Vec<Report>,
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
    pub(crate) reset: usize,
    /// Of the connections that were open before a swap.
    pub(crate) probed: Probed,
}

/// A first daemon, a swap, and one more, with clients all the while.
fn play(case: &Case) -> Played {
    let faults: Vec<Planned> = case.faults.iter().chain(&case.scene).copied().collect();
    let mut arena = Arena::new(&faults).migrating(case.migrates);
    arena.until_sound();
    arena.start_clients(2);
    arena.wait_for_progress();
    arena.open_connections(CONNECTIONS);
    let (mut probed, mut excuses) = (Probed::default(), 0);
    if case.between_swaps {
        let served = arena.daemon.clone().expect("it is sound");
        arena.kill_supervisor();
        arena.until_sound();
        probe(&mut arena, &served, &mut probed, &mut excuses);
    }
    let served = arena.daemon.clone().expect("it is sound");
    arena.order_swap();
    arena.until_sound();
    let sound_in = arena.since_first_strike().unwrap_or_default();
    let hangs = faults.iter().any(|planned| planned.fault == Fault::Hang);
    let bound = if hangs { HUNG_BOUND } else { BOUND };
    assert!(sound_in < bound, "it took {sound_in:?}: {:?}", arena.reports);
    arena.wait_for_progress();
    explain(case, &arena);
    let struck: Vec<Planned> = arena.struck().into_iter().map(|(planned, _)| planned).collect();
    for planned in &faults {
        assert!(struck.contains(planned), "{planned} did not strike: {:?}", arena.reports);
    }
    probe(&mut arena, &served, &mut probed, &mut excuses);

    let runs_out = |planned: &Planned| matches!(planned.fault, Fault::Disk | Fault::Descriptors);
    if faults.iter().any(runs_out) {
        let is_over = || (arena.since_first_strike()? > 2 * WHILE_OUT).then_some(());
        eventually("there is enough again", TIMEOUT, is_over);
    }
    arena.order_swap();
    arena.until_sound();
    let after = arena.probe_connections();
    assert_eq!(after.closed(), 0, "connections were closed by a clean swap: {:?}", arena.reports);
    probed.add(after);
    let last = arena.reports.last();
    assert!(matches!(last, Some(Report::Committed(_))), "the next swap: {:?}", arena.reports);
    arena.wait_for_progress();
    arena.stop_clients();
    let acknowledged = arena.assert_nothing_lost();
    arena.assert_none_is_left_open();
    let tally = arena.tally();
    if !arena.has_died_out {
        assert_eq!(tally.refused, 0, "connections were refused: {:?}", arena.reports);
    }
    assert_eq!(tally.unanswered, 0, "requests were not answered: {:?}", arena.reports);
    if excuses == 0 {
        let closed = (tally.reset, tally.moved);
        assert_eq!(closed, (0, 0), "connections were closed: {:?}", arena.reports);
    }
    if !faults.iter().any(runs_out) {
        assert!(tally.failed.is_empty(), "{:?}: {:?}", tally.failed, arena.reports);
    }
    let (refused, reset) = (tally.refused, tally.reset);
    Played { sound_in, reports: arena.reports.clone(), acknowledged, refused, reset, probed }
}

/// The connections outlive whatever strikes a process that does not hold them. Then half of them
/// are closed by their clients, which has to be seen, and others are opened.
fn probe(arena: &mut Arena, served: &Daemon, sum: &mut Probed, excuses: &mut usize) {
    let probed = arena.probe_connections();
    let excuse = who_held_them_died(arena, served);
    assert!(
        probed.closed() == 0 || excuse.is_some(),
        "connections were closed, and nobody who held them died: {probed:?} {:?}, {:?}",
        arena.struck(),
        arena.reports
    );
    *excuses += usize::from(excuse.is_some());
    sum.add(probed);
    arena.end_connections(probed.open / 2);
    arena.open_connections(CONNECTIONS);
}

/// Nothing happened that the faults of the case do not account for.
fn explain(case: &Case, arena: &Arena) {
    let reports = &arena.reports;
    let starts = reports.iter().filter(|report| matches!(report, Report::Started(_))).count();
    assert!(starts == 1 || case.may_leave_nobody(), "nobody was left: {reports:?}");
    for report in reports {
        match report {
            Report::Failed(fate, ..) if fate == "Unknown" => {
                assert!(case.may_be_unknown(), "nothing kept it from an answer: {reports:?}");
                let took = arena.answered_in.unwrap_or_default();
                assert!(took < UNKNOWN_BOUND, "that nobody knows took {took:?}: {reports:?}");
            }
            Report::Failed(..) | Report::Error(_) => {
                assert!(!case.is_only_slow(), "a slow step is no failed one: {reports:?}");
            }
            _ => {}
        }
    }
}

/// By then it is sound, however slow the machine: what dies is noticed at once, what is silent
/// after 5 s, and the swap's deadline is 3 s.
const BOUND: Duration = Duration::from_secs(60);
/// Nobody waits longer for an incumbent that hangs: the deadline, as long again as whoever is
/// silent is waited for, and what a loaded machine takes besides.
const UNKNOWN_BOUND: Duration = Duration::from_secs(3 + 5 + 20);
/// A process that hangs goes on after 13 s at the latest.
const HUNG_BOUND: Duration = Duration::from_secs(13 + 60);
/// Most of them idle.
const CONNECTIONS: usize = 28;
/// Cases that run side by side: they wait more than they work, and each swap has 3 s.
const CASES_A_CORE: usize = 3;
/// In this file: they run side by side too.
const TESTS: usize = 3;
/// A case takes seconds, and there are many.
const DEFAULT_STRIDE: usize = 16;
