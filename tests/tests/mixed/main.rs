//! Mixed builds: a supervisor, an incumbent and a successor of two commits of this library, in every
//! combination, commit, roll back, promote and adopt, and carry connections and memory meanwhile.
//!
//! `HANDOFF_PREVIOUS` is the directory of the earlier commit's binaries, which `.ci/previous` builds
//! and prints. `HANDOFF_MIXED_ONLY` chooses the cases with that text in their names. The test ends
//! with a table, also when the output of tests is captured.

mod cases;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use handoff::faults::Planned;
use handoff_tests::arena::{Arena, Build, Cast, Probed, Report};
use handoff_tests::fixture::struck;
use handoff_tests::harness::cores;

use crate::cases::{Case, End, all};
use crate::table::{Row, print};

#[test]
fn every_combination_of_two_builds_commits_rolls_back_is_adopted_and_carries() {
    let Some(directory) = std::env::var_os("HANDOFF_PREVIOUS").map(PathBuf::from) else {
        println!(
            "skipped: every_combination_of_two_builds_commits_rolls_back_is_adopted_and_carries: \
             HANDOFF_PREVIOUS is not set; .ci/previous builds that directory and prints it"
        );
        return;
    };
    let stage = tempfile::tempdir().expect("a temporary directory");
    let builds =
        [Build::this(stage.path()), Build::of_directory("earlier", &directory, stage.path())];
    let only = std::env::var("HANDOFF_MIXED_ONLY").unwrap_or_default();
    let mut cases = all(&builds);
    cases.retain(|case| case.to_string().contains(&only));
    assert!(!cases.is_empty(), "no case has {only:?}, HANDOFF_MIXED_ONLY, in it");
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..cores() * CASES_A_CORE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = catch_unwind(AssertUnwindSafe(|| play(case)));
                    rows.lock().expect("no thread panics").push(Row::new(case, outcome));
                }
            });
        }
    });
    let failed = print(&directory, &rows.into_inner().expect("no thread panics"));
    assert!(failed.is_empty(), "{} of {} cases fail: {failed:#?}", failed.len(), cases.len());
}

/// What a case came to.
pub(crate) struct Played {
    pub(crate) acknowledged: usize,
    /// Of the connections that were open before a swap.
    pub(crate) probed: Probed,
    /// How often a successor that was to have the memory had it.
    pub(crate) memories: usize,
}

/// A first daemon, a swap with a fault, and one without, with clients all the while. The second one
/// leads to the build that does not serve.
fn play(case: &Case) -> Played {
    let planned: Vec<Planned> = case.fault.parse().into_iter().collect();
    let of_fixture: &[&str] = if planned.is_empty() { case.fault_of_fixture() } else { &[] };
    let Cast { supervisor, adopter, incumbent, successor } = &case.cast;
    let mut arena = Arena::with_cast(&planned, Some(case.cast.clone()));
    arena.carries.push("carry=memory".to_owned());
    arena.until_sound();
    arena.assert_play(supervisor, incumbent);
    arena.start_clients(2);
    arena.wait_for_progress();
    arena.open_connections(CONNECTIONS);

    arena.order_swap_to(of_fixture);
    arena.until_sound();
    arena.wait_for_progress();
    let ended = End::of(&arena.reports[FIRST_REPORTS..]);
    assert_eq!(ended, Some(case.end), "{:?}", arena.reports);
    let have_struck: Vec<Planned> = arena.struck().into_iter().map(|(fault, _)| fault).collect();
    assert_eq!(have_struck, planned, "what struck; {:?}", arena.reports);
    for fault in of_fixture {
        let (point, _) = fault.split_once('=').expect("so a fault is written");
        assert_eq!(struck(arena.state(), point, None), 1, "{fault} did not strike");
    }
    let drives = if case.end.is_adopted() { adopter } else { supervisor };
    let (serves, other) =
        if case.end.is_swapped() { (successor, incumbent) } else { (incumbent, successor) };
    arena.assert_play(drives, serves);
    let mut probed = arena.probe_connections();
    let mut memories = 0;
    if case.end.is_committed() {
        assert_has_memory(&arena);
        memories += 1;
    }

    let next = Cast { successor: other.clone(), ..case.cast.clone() };
    arena.cast = Some(next);
    arena.order_swap();
    arena.until_sound();
    let last = arena.reports.last();
    assert!(matches!(last, Some(Report::Committed(_))), "the next swap: {:?}", arena.reports);
    arena.assert_play(drives, other);
    probed.add(arena.probe_connections());
    assert_has_memory(&arena);
    memories += 1;
    arena.wait_for_progress();
    arena.stop_clients();
    let acknowledged = arena.assert_nothing_lost();
    arena.assert_none_is_left_open();
    assert_eq!(probed.closed(), 0, "connections were closed: {probed:?}; {:?}", arena.reports);
    let tally = arena.tally();
    let harmed = (tally.refused, tally.unanswered, tally.reset, tally.moved);
    assert_eq!(harmed, (0, 0, 0, 0), "refused, unanswered, reset, moved: {:?}", arena.reports);
    assert!(tally.failed.is_empty(), "{:?}: {:?}", tally.failed, arena.reports);
    Played { acknowledged, probed, memories }
}

/// The daemon that serves was handed the memory of the one before, and its contents are those of the
/// shards that it opened.
fn assert_has_memory(arena: &Arena) {
    let compared = arena.ask("cache", handoff_tests::harness::TIMEOUT);
    let is_equal = |words: &String| words.strip_prefix("equal ").is_some_and(|count| count != "0");
    assert!(compared.as_ref().is_some_and(is_equal), "{compared:?}: {:?}", arena.reports);
}

/// That nothing was found, and that a daemon was started.
const FIRST_REPORTS: usize = 2;
/// Most of them idle.
const CONNECTIONS: usize = 14;
/// They wait more than they work.
const CASES_A_CORE: usize = 3;
