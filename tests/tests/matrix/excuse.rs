//! When a connection may have been closed: whoever held it died.

use handoff::faults::{Planned, Point, Role};
use handoff_tests::arena::{Arena, Daemon};

use crate::cases::dies;

/// Who died of those that held the connections as the server, so that they may be closed; none
/// where nothing but a swap has happened to them, which closes none.
pub(crate) fn who_held_them_died(arena: &Arena, served: &Daemon) -> Option<String> {
    let now = arena.daemon.as_ref()?;
    let all = arena.struck();
    let alive = arena.alive();
    let mut dead = all.iter().filter(|(_, pid)| !alive.contains(pid));
    let name = |(planned, pid): &(Planned, u32)| format!("{planned} in {pid}");
    if now.pid == served.pid {
        // The successor had read from them.
        let taken_up = [
            Point::SuccessorTakesUp,
            Point::SuccessorTookPath,
            Point::SuccessorSaidServing,
            Point::SuccessorServes,
        ];
        return dead.find(|(planned, _)| taken_up.contains(&planned.point)).map(name);
    }
    if arena.was_swapped() {
        let was_sent = all.iter().any(|(planned, _)| is_after_seal(planned.point));
        let is_excuse = |(planned, pid): &&(Planned, u32)| {
            *pid == served.pid && dies(planned) && !has_handed_over(planned.point, was_sent)
        };
        return dead.find(is_excuse).map(name);
    }
    // Both are dead, and a third one was started.
    dead.find(|(planned, _)| is_daemon(planned.point)).map(name)
}

/// Whether the successor had everything, and could use it, when the incumbent was there.
/// `was_sent` says so for an incumbent that undoes, which it may do at any time.
fn has_handed_over(point: Point, was_sent: bool) -> bool {
    use Point::*;
    match point {
        IncumbentCarried
        | IncumbentWritesManifest
        | IncumbentRecordsSealed
        | IncumbentUnlocks
        | IncumbentUnlocked
        | IncumbentSaidSealed
        | IncumbentLeaves => true,
        IncumbentUndoes
        | IncumbentTriesLock
        | IncumbentRetook
        | IncumbentRecordedAgain
        | IncumbentTakesBack => was_sent,
        _ => false,
    }
}

/// Whether the incumbent has sealed when somebody is there.
fn is_after_seal(point: Point) -> bool {
    use Point::*;
    matches!(
        point,
        SupervisorHeardSealed
            | SupervisorSentBegin
            | SupervisorHeardReady
            | SupervisorCommits
            | SuccessorHeardBegin
            | SuccessorLocked
            | SuccessorRecordedOpening
            | SuccessorOpened
            | SuccessorSaidReady
    )
}

fn is_daemon(point: Point) -> bool {
    !matches!(point.role(), Role::Supervisor | Role::Adopter)
}
