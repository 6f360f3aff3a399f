//! The matrix: whatever dies, hangs, panics, fails, is slow or runs out, at every step of every
//! process of a swap, one daemon serves afterwards, no acknowledged write is lost, and what the
//! supervisor reported is true.
//!
//! `HANDOFF_MATRIX` says how much of it is run: 1 is every case, 4 every fourth. Without it few
//! are. It ends with a table, also when the output of tests is captured.

mod cases;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use handoff::faults::{Fault, Planned, Role, WHILE_OUT};
use handoff_tests::arena::{Arena, Report};
use handoff_tests::harness::{LIMIT, eventually};

use crate::cases::Case;
use crate::table::{Row, print};

#[test]
fn every_fault_at_every_step_leaves_one_daemon_serving() {
    run("one fault", &cases::single());
}

#[test]
fn two_faults_between_seal_and_commit_leave_one_daemon_serving() {
    run("two faults", &cases::pairs());
}

/// Runs what is chosen of these cases, some at a time.
fn run(title: &str, all: &[Case]) {
    let stride = std::env::var("HANDOFF_MATRIX").map_or(DEFAULT_STRIDE, |stride| {
        stride.parse().expect("HANDOFF_MATRIX is every how manyeth case is run")
    });
    let only = std::env::var("HANDOFF_MATRIX_ONLY").ok();
    let is_chosen = |case: &Case| only.as_ref().is_none_or(|only| case.to_string().contains(only));
    let everything = [cases::single(), cases::pairs()].concat();
    assert!(everything.iter().any(is_chosen), "no case has {only:?}, HANDOFF_MATRIX_ONLY, in it");
    let chosen: Vec<&Case> = all.iter().filter(|case| is_chosen(case)).step_by(stride).collect();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
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
    pub(crate) settled_in: Duration,
    pub(crate) reports: Vec<Report>,
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
    pub(crate) reset: usize,
}

/// A first daemon, a swap, and one more, with clients all the while.
fn play(case: &Case) -> Played {
    let faults: Vec<Planned> = case.faults.iter().chain(&case.scene).copied().collect();
    let mut arena = Arena::new(&faults);
    arena.until_sound();
    arena.start_clients(2);
    arena.wait_for_progress();
    if case.between_swaps {
        arena.kill_supervisor();
        arena.until_sound();
    }
    arena.order_swap();
    arena.until_sound();
    let settled_in = arena.since_first_strike().unwrap_or_default();
    let hangs = faults.iter().any(|planned| planned.fault == Fault::Hang);
    let bound = if hangs { HUNG_BOUND } else { BOUND };
    assert!(settled_in < bound, "it took {settled_in:?}: {:?}", arena.reports);
    arena.wait_for_progress();
    explain(case, &arena.reports);
    let struck: Vec<Planned> = arena.struck().into_iter().map(|(planned, _)| planned).collect();
    for planned in &faults {
        assert!(struck.contains(planned), "{planned} did not strike: {:?}", arena.reports);
    }

    let runs_out = |planned: &Planned| matches!(planned.fault, Fault::Disk | Fault::Descriptors);
    if faults.iter().any(runs_out) {
        let is_over = || (arena.since_first_strike()? > 2 * WHILE_OUT).then_some(());
        eventually("there is enough again", LIMIT, is_over);
    }
    arena.order_swap();
    arena.until_sound();
    let last = arena.reports.last();
    assert!(matches!(last, Some(Report::Committed(_))), "the next swap: {:?}", arena.reports);
    arena.wait_for_progress();
    arena.stop_clients();
    let acknowledged = arena.assert_nothing_lost();
    let tally = arena.tally();
    if !arena.has_died_out {
        assert_eq!(tally.refused, 0, "connections were refused: {:?}", arena.reports);
    }
    assert_eq!(tally.unanswered, 0, "requests were not answered: {:?}", arena.reports);
    let strikes_a_daemon = |planned: &Planned| {
        let is_daemon = !matches!(planned.point.role(), Role::Supervisor | Role::Adopter);
        is_daemon && planned.fault != Fault::Slow
    };
    if !faults.iter().any(strikes_a_daemon) {
        assert_eq!(tally.reset, 0, "connections were reset: {:?}", arena.reports);
    }
    if !faults.iter().any(runs_out) {
        assert!(tally.failed.is_empty(), "{:?}: {:?}", tally.failed, arena.reports);
    }
    let (refused, reset) = (tally.refused, tally.reset);
    Played { settled_in, reports: arena.reports.clone(), acknowledged, refused, reset }
}

/// Nothing happened that the faults of the case do not account for.
fn explain(case: &Case, reports: &[Report]) {
    let starts = reports.iter().filter(|report| matches!(report, Report::Started(_))).count();
    assert!(starts == 1 || case.may_leave_nobody(), "nobody was left: {reports:?}");
    for report in reports {
        match report {
            Report::Failed(fate, ..) if fate == "Unknown" => {
                assert!(case.may_be_unknown(), "nothing kept it from an answer: {reports:?}");
            }
            Report::Failed(..) | Report::Error(_) => {
                assert!(!case.is_only_slow(), "a slow step is no failed one: {reports:?}");
            }
            _ => {}
        }
    }
}

/// By then it is settled, however slow the machine: what dies is noticed at once, what is silent
/// after 5 s, and the swap's deadline is 3 s.
const BOUND: Duration = Duration::from_secs(20);
/// A process that hangs goes on after 13 s at the latest.
const HUNG_BOUND: Duration = Duration::from_secs(33);
/// They wait more than they work.
const AT_A_TIME: usize = 12;
/// A case takes seconds, and there are many.
const DEFAULT_STRIDE: usize = 16;
