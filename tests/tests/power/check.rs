//! Starts the daemon on the states that a power cut can leave, in another boot.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use handoff::daemon::{Daemon, Ended};
use handoff::error::Mismatch;
use handoff::{Error, Result};
use handoff_tests::books::{Books, Keeps};
use handoff_tests::harness::cores;

use super::disk::{Event, Seen};
use super::states::{Platter, Tree, lay_out};

/// What was promised when the power was cut.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Promised {
    pub(crate) kept: Vec<String>,
    pub(crate) token: u64,
    /// Entries of the program's history.
    pub(crate) told: Vec<String>,
    /// Whether the owner record may be damaged, so that a start is refused.
    pub(crate) is_damaged: bool,
}

/// A moment at which the power is cut, and one state of the disk then.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) point: usize,
    pub(crate) promised: Promised,
    pub(crate) tree: Tree,
}

impl Promised {
    fn on(&mut self, event: &Event) {
        match event {
            Event::Seen(Seen::Kept(key)) => self.kept.push(key.clone()),
            Event::Seen(Seen::Token(token)) => {
                // Each is asked of another writer.
                assert!(*token > self.token, "{token} was handed out after {}", self.token);
                self.token = *token;
            }
            Event::Seen(Seen::Told(entry)) if !self.told.contains(entry) => {
                self.told.push(entry.clone());
            }
            Event::Damage { .. } => self.is_damaged = true,
            Event::Seen(Seen::Repaired) => self.is_damaged = false,
            _ => {}
        }
    }
}

/// The states behind each event, at most `limit` of them for each; and how many points there are.
pub(crate) fn cases(events: &[Event], limit: usize) -> (usize, Vec<Case>) {
    let (mut platter, mut promised) = (Platter::new(), Promised::default());
    let mut seen = HashSet::new();
    let mut cases = Vec::new();
    let mut points = 0;
    let on = events.iter().position(|event| matches!(event, Event::PowerOn));
    for point in 0..=events.len() {
        if let Some(event) = point.checked_sub(1).map(|before| &events[before]) {
            platter.on(event);
            promised.on(event);
        }
        if on.is_some_and(|on| point <= on) {
            continue;
        }
        // What a test sees is no moment of its own, but changes what is promised at it.
        points += usize::from(!matches!(events.get(point), Some(Event::Seen(_))));
        for tree in platter.states(limit, point as u64) {
            if seen.insert((tree.clone(), promised.clone())) {
                cases.push(Case { point, promised: promised.clone(), tree });
            }
        }
    }
    (points, cases)
}

/// Checks each of the cases; the faults that were found, in words.
pub(crate) fn check_all(
    cases: &[Case],
    check: impl Fn(&Case, &Path) -> std::result::Result<(), String> + Sync,
) -> Vec<(usize, String)> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                let place = place();
                while let Some((index, case)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(index).map(|case| (index, case))
                } {
                    let directory = place.path().join(index.to_string());
                    std::fs::create_dir(&directory).expect("it is new");
                    lay_out(&case.tree, &directory);
                    if let Err(words) = check(case, &directory) {
                        found.lock().expect("no panic").push((index, words));
                    }
                    std::fs::remove_dir_all(&directory).expect("it is there");
                }
            });
        }
    });
    let mut found = found.into_inner().expect("no panic");
    found.sort();
    found
}

/// In memory, where there is such a place: nothing here has to survive.
fn place() -> tempfile::TempDir {
    let shared = PathBuf::from("/dev/shm");
    let place = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    place.expect("a temporary directory")
}

/// Starts the daemon twice, with a clean stop after each: all that was promised is there, and the
/// second start verifies what the first one sealed.
pub(crate) fn starts(case: &Case, directory: &Path) -> std::result::Result<(), String> {
    let mut last = case.promised.token;
    for start in ["the start", "the next start"] {
        let started = match start_and_stop(start, directory) {
            Err(Error::Damaged { .. }) if case.promised.is_damaged => return Ok(()),
            Err(Error::Schema(Mismatch::Format { found: 2, .. })) => return Ok(()),
            Ok(_) if directory.join("data/migrated").exists() => {
                return Err(format!("{start}: a build that reads format 1 alone opened format 2"));
            }
            started => started.map_err(|error| format!("{start}: {error}"))?,
        };
        if started.generation <= last {
            return Err(format!("{start}: generation {} after {last}", started.generation));
        }
        last = started.generation;
        let missing: Vec<_> =
            case.promised.kept.iter().filter(|key| !started.keys.contains(*key)).collect();
        if !missing.is_empty() {
            return Err(format!("{start}: {missing:?} is missing"));
        }
    }
    Ok(())
}

struct Started {
    generation: u64,
    keys: HashSet<String>,
}

fn start_and_stop(start: &str, directory: &Path) -> Result<Started> {
    let mut started = None;
    // Of its own each time: a child of this process may hold the last one open for a moment.
    let control = directory.join(start.replace(' ', "-"));
    let ended = Daemon::new(control, directory.join("data")).run(
        |_| Ok(()),
        |(), opening| {
            let books = Books::open(opening.data_dir())?;
            let of = |keeps| books.book(keeps).keys();
            let keys = of(Keeps::AtOnce).into_iter().chain(of(Keeps::Later)).collect();
            started = Some(Started { generation: opening.lock().fencing_token()?, keys });
            opening.stop_handle().stop();
            Ok(books)
        },
    )?;
    assert_eq!(ended, Ended::Stopped);
    Ok(started.expect("it was opened"))
}
