//! Mixed builds: a supervisor, an incumbent and a successor of two commits of this library, in every
//! combination, commit, roll back, promote and adopt, and carry connections and memory meanwhile.
//!
//! `HANDOFF_PREVIOUS` is the directory of the earlier commit's binaries, which `.ci/previous` builds
//! and prints. `HANDOFF_MIXED_ONLY` chooses the cases with that text in their names. The test ends
//! with a table, also when the output of tests is captured.

mod cases;
mod files;
mod one_way;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use handoff::faults::Planned;
use handoff_tests::arena::{Arena, Build, Cast, Probed, Report};
use handoff_tests::fixture::struck;
use handoff_tests::harness::{TIMEOUT, cores, eventually, kill_and_wait};

use crate::cases::{Case, End, Event, all};
use crate::table::{Row, print};

#[test]
fn every_combination_of_two_builds_commits_rolls_back_is_adopted_and_carries() {
    let name = "every_combination_of_two_builds_commits_rolls_back_is_adopted_and_carries";
    let Some(directory) = earlier(name) else { return };
    let copies = tempfile::tempdir().expect("a temporary directory");
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let builds =
        [Build::this(copies.path()), Build::of_directory("earlier", &directory, copies.path())];
    drop(alone);
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

/// The directory of the earlier commit's binaries; none where that test is skipped.
fn earlier(name: &str) -> Option<PathBuf> {
    let directory = std::env::var_os("HANDOFF_PREVIOUS").map(PathBuf::from);
    if directory.is_none() {
        println!("skipped: {name}: .ci/previous builds the directory of HANDOFF_PREVIOUS");
    }
    directory
}

/// What a case came to.
#[derive(Default)]
pub(crate) struct Played {
    pub(crate) acknowledged: usize,
    /// Of the connections that were open before a swap.
    pub(crate) probed: Probed,
    /// How often a successor that was to have the memory had it.
    pub(crate) memories: usize,
}

/// A first daemon, an event, and a swap without one, with clients all the while. That swap leads to the
/// build that does not serve.
fn play(case: &Case) -> Played {
    let Case { cast, event, end } = case;
    let mut arena = Arena::with_cast(event.planned().as_slice(), Some(cast.clone()));
    arena.of_fixture = vec![MEMORY];
    if let Event::InIncumbent(fault) = event {
        arena.of_fixture.push(fault);
    }
    arena.until_sound();
    arena.assert_run(&cast.supervisor, &cast.incumbent);
    arena.start_clients(2);
    arena.wait_for_progress();
    let mut played = Played::default();

    if *end == End::Restarted {
        restart(&mut arena, *event);
    } else {
        arena.open_connections(CONNECTIONS);
        arena.of_fixture = vec![MEMORY];
        if let Event::InSuccessor(fault) = event {
            arena.of_fixture.push(fault);
        }
        arena.order_swap();
        arena.until_sound();
        played.probed.add(arena.probe_connections());
    }
    arena.wait_for_progress();
    assert_eq!(End::of(&arena.reports[FIRST_REPORTS..]), Some(*end), "{:?}", arena.reports);
    assert_has_struck(&arena, *event);
    let drives = if end.is_adopted() { &cast.adopter } else { &cast.supervisor };
    let (serves, other) = if end.is_undone() {
        (&cast.incumbent, &cast.successor)
    } else {
        (&cast.successor, &cast.incumbent)
    };
    arena.assert_run(drives, serves);
    if end.is_committed() {
        played.count_memory(&arena);
    }

    arena.open_connections(CONNECTIONS);
    arena.of_fixture = vec![MEMORY];
    arena.cast = Some(Cast { successor: other.clone(), ..cast.clone() });
    arena.order_swap();
    arena.until_sound();
    let last = arena.reports.last();
    assert!(matches!(last, Some(Report::Committed(_))), "the next swap: {:?}", arena.reports);
    arena.assert_run(drives, other);
    played.probed.add(arena.probe_connections());
    played.count_memory(&arena);
    arena.wait_for_progress();
    arena.stop_clients();
    played.acknowledged = arena.assert_nothing_lost();
    arena.assert_none_is_left_open();
    assert_eq!(played.probed.closed(), 0, "connections were closed: {:?}", arena.reports);
    let tally = arena.tally();
    assert!(tally.failed.is_empty(), "{:?}: {:?}", tally.failed, arena.reports);
    // A daemon that ends without a successor closes its connections.
    let closed = if *end == End::Restarted { 0 } else { tally.reset + tally.moved };
    let harmed = (tally.refused, tally.unanswered, closed);
    assert_eq!(harmed, (0, 0, 0), "refused, unanswered, closed: {:?}", arena.reports);
    played
}

/// Ends the daemon that serves; the supervisor starts one of the other build.
fn restart(arena: &mut Arena, event: Event) {
    let pid = arena.daemon.as_ref().expect("it is sound").pid;
    if event == Event::Kill {
        arena.strike_down(pid);
    } else {
        assert_eq!(arena.ask("stop", TIMEOUT).as_deref(), Some("ok"));
    }
    eventually("the daemon ends", TIMEOUT, || (!arena.alive().contains(&pid)).then_some(()));
    // It has no command line any more, and may have its sockets still.
    kill_and_wait(pid);
    let cast = arena.cast.as_mut().expect("it has one");
    cast.incumbent = cast.successor.clone();
    arena.until_sound();
}

fn assert_has_struck(arena: &Arena, event: Event) {
    let have_struck: Vec<Planned> = arena.struck().into_iter().map(|(fault, _)| fault).collect();
    assert_eq!(have_struck, event.planned().as_slice(), "what struck; {:?}", arena.reports);
    if let Some(point) = event.point_of_fixture() {
        assert_eq!(struck(arena.state(), point, None), 1, "{event} did not strike");
    }
}

impl Played {
    /// The daemon that serves was handed the memory of the one before, and its contents are those of
    /// the shards that it opened.
    fn count_memory(&mut self, arena: &Arena) {
        let compared = arena.ask("cache", TIMEOUT);
        let count = compared.as_ref().and_then(|words| words.strip_prefix("equal "));
        assert!(count.is_some_and(|count| count != "0"), "{compared:?}: {:?}", arena.reports);
        self.memories += 1;
    }
}

/// No process is started while a binary is copied: a child that has not executed its own program yet has
/// the copy open for writing, and no process can execute it.
static ALONE: Mutex<()> = Mutex::new(());

/// That nothing was found, and that a daemon was started.
const FIRST_REPORTS: usize = 2;
/// What each daemon carries besides its connections.
const MEMORY: &str = "carry=memory";
/// Most of them idle.
const CONNECTIONS: usize = 14;
/// They wait more than they work.
const CASES_A_CORE: usize = 3;
