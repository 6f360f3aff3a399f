//! The cases: every point with every fault, and pairs of faults.

use std::fmt;

use handoff::faults::{Fault, Planned, Point, Role};

/// Faults that strike in one swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    /// What this case is about; all of them have to strike.
    pub(crate) faults: Vec<Planned>,
    /// What makes the step be reached at all; these have to strike too.
    pub(crate) scene: Vec<Planned>,
    /// Whether the supervisor is killed while no swap is in flight.
    pub(crate) between_swaps: bool,
    /// Whether each build writes a format that no build before it reads.
    pub(crate) migrates: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.faults.iter().map(ToString::to_string).collect();
        let way = if self.migrates { "one-way: " } else { "" };
        f.pad(&format!("{way}{}", faults.join(" + ")))
    }
}

impl Case {
    /// Whether these faults may leave nobody who could serve, so that a daemon has to be started
    /// anew. Else somebody is left, and has to serve by himself.
    pub(crate) fn may_leave_nobody(&self) -> bool {
        use Point::*;
        let all = || self.faults.iter().chain(&self.scene);
        let supervisor_died_first = self.between_swaps
            || self.faults[0].point.role() == Role::Supervisor && dies(&self.faults[0]);
        let dead: Vec<Point> =
            all().filter(|planned| dies(planned)).map(|planned| planned.point).collect();
        // Its predecessor has been told to leave, or has seen the owner record.
        let mut alone = vec![SuccessorSaidServing, SuccessorServes];
        if self.migrates {
            // It says `Serving` before its first step that the predecessor cannot undo.
            alone.extend([SuccessorFinishes, SuccessorAdmits, SuccessorTakesUp]);
        }
        let early: &[Point] = &[
            SuccessorRecordedServing,
            SuccessorFinishes,
            SuccessorAdmits,
            SuccessorTakesUp,
            SuccessorTookPath,
        ];
        let is_last = dead
            .iter()
            .any(|point| alone.contains(point) || supervisor_died_first && early.contains(point));
        let incumbent_died = dead.iter().any(|point| point.role() == Role::Incumbent);
        let successor_failed = all()
            .any(|planned| planned.point.role() == Role::Successor && planned.fault != Fault::Slow);
        // It cannot tell a silent supervisor from one that may yet decide, so it gives up.
        let supervisor_hung = all().any(|planned| {
            planned.point.role() == Role::Supervisor && planned.fault == Fault::Hang
        });
        // Its predecessor has left by the owner record, and the next supervisor finds it silent.
        let unseen =
            [SuccessorRecordedServing, SuccessorFinishes, SuccessorAdmits, SuccessorTakesUp];
        let hangs_unseen = all()
            .any(|planned| unseen.contains(&planned.point) && planned.fault == Fault::Hang)
            && dead.iter().any(|point| point.role() == Role::Supervisor);
        // What an incumbent says may be acted upon before it dies of having said it: then its
        // supervisor was the first to die, and the successor gave up for the one that still lived.
        let either_first = dead == [IncumbentSaidSealed, SupervisorSentBegin];
        is_last
            || hangs_unseen
            || either_first
            || incumbent_died && (successor_failed || supervisor_died_first || supervisor_hung)
    }

    /// Whether an incumbent that hangs may have left its supervisor without an answer.
    pub(crate) fn may_be_unknown(&self) -> bool {
        let hangs = |planned: &Planned| {
            planned.fault == Fault::Hang && planned.point.role() == Role::Incumbent
        };
        self.faults.iter().any(hangs)
    }

    /// Whether nothing but time is lost.
    pub(crate) fn is_only_slow(&self) -> bool {
        self.scene.is_empty() && self.faults.iter().all(|planned| planned.fault == Fault::Slow)
    }
}

/// Whether it ends the process.
pub(crate) fn dies(planned: &Planned) -> bool {
    match planned.fault {
        Fault::Kill => true,
        Fault::Panic => !is_fenced(planned.point),
        _ => false,
    }
}

/// Whether a panic there is caught, as one of a hook.
fn is_fenced(point: Point) -> bool {
    use Point::*;
    matches!(
        point,
        IncumbentDrains
            | IncumbentDrained
            | IncumbentCarries
            | IncumbentSeals
            | IncumbentSealed
            | IncumbentCarried
            | IncumbentTakesBack
            | IncumbentResumes
            | IncumbentResumed
            | SuccessorReceived
            | SuccessorFinishes
            | SuccessorAdmits
            | SuccessorTakesUp
    )
}

/// Every fault at every point.
pub(crate) fn single() -> Vec<Case> {
    let of_point = |point: &Point| Fault::ALL.map(|fault| Planned { point: *point, fault });
    let all = Point::ALL.iter().flat_map(of_point);
    let makes_sense = |planned: &Planned| planned.fault.strikes_at(planned.point);
    all.filter(makes_sense).map(|planned| case(vec![planned])).collect()
}

/// Every fault at every point of swaps to formats that the build before does not read.
pub(crate) fn one_way() -> Vec<Case> {
    single().into_iter().map(|case| Case { migrates: true, ..case }).collect()
}

/// A death between the seal and the commit, and then another death, or a hang, in whoever goes
/// on from there.
pub(crate) fn pairs() -> Vec<Case> {
    use Point::*;
    let undoing = [
        IncumbentUndoes,
        IncumbentTriesLock,
        IncumbentRetook,
        IncumbentRecordedAgain,
        IncumbentTakesBack,
        IncumbentResumes,
        IncumbentResumed,
        IncumbentServesAgain,
    ];
    let giving_up = [
        SupervisorGivesUp,
        SupervisorKilledSuccessor,
        SupervisorAskedIncumbent,
        SupervisorHeardEcho,
    ];
    let adopting = [
        AdopterResolves,
        AdopterResolved,
        AdopterNotedEnd,
        AdopterAsksForListeners,
        AdopterHasListeners,
    ];
    let going_on = [
        SupervisorSentBegin,
        SupervisorHeardReady,
        SupervisorCommits,
        SupervisorSentCommit,
        SupervisorHeardServing,
        SupervisorToldIncumbent,
    ];
    let opening = [
        SuccessorHeardBegin,
        SuccessorLocked,
        SuccessorRecordedOpening,
        SuccessorOpened,
        SuccessorSaidReady,
    ];
    let committing = [
        SuccessorHeardCommit,
        SuccessorRecordedServing,
        SuccessorFinishes,
        SuccessorAdmits,
        SuccessorTakesUp,
        SuccessorTookPath,
        SuccessorSaidServing,
    ];
    let before_commit = [
        SupervisorSentSeal,
        SupervisorHeardSealed,
        SupervisorSentBegin,
        SupervisorHeardReady,
        SupervisorCommits,
    ];
    let sealing = [IncumbentCarried, IncumbentUnlocks, IncumbentUnlocked, IncumbentSaidSealed];
    let after = [SupervisorSentCommit, SupervisorHeardServing, SupervisorToldIncumbent];

    let mut cases = Vec::new();
    let cross = |cases: &mut Vec<Case>, firsts: &[Point], seconds: &[Point]| {
        for (&first, &second) in firsts.iter().flat_map(|a| seconds.iter().map(move |b| (a, b))) {
            for fault in [Fault::Kill, Fault::Hang] {
                let first = Planned { point: first, fault: Fault::Kill };
                cases.push(case(vec![first, Planned { point: second, fault }]));
            }
        }
    };
    // The supervisor dies: the incumbent undoes alone, and another supervisor adopts.
    cross(&mut cases, &before_commit[1..], &undoing);
    // It may be interrupted before it has released the lock.
    cross(&mut cases, &before_commit[..1], &[IncumbentUndoes]);
    cross(&mut cases, &before_commit[..1], &undoing[4..]);
    cross(&mut cases, &before_commit, &adopting);
    cross(&mut cases, &before_commit, &[AdopterAskedIncumbent, AdopterHasJournal]);
    for fault in [Fault::Descriptors, Fault::Disk] {
        let dies = Planned { point: SupervisorSentBegin, fault: Fault::Kill };
        cases.push(case(vec![dies, Planned { point: AdopterHasJournal, fault }]));
    }
    cross(&mut cases, &after, &adopting);
    cross(&mut cases, &[SupervisorSentCommit], &committing);
    // The successor dies: both others undo.
    cross(&mut cases, &opening, &undoing);
    cross(&mut cases, &opening, &giving_up);
    // Whether the lock was released before it is noticed is a race.
    let received = [SuccessorReceived];
    cross(&mut cases, &received, &[IncumbentUndoes]);
    cross(&mut cases, &received, &undoing[4..]);
    cross(
        &mut cases,
        &received,
        &[SupervisorGivesUp, SupervisorAskedIncumbent, SupervisorHeardEcho],
    );
    cross(&mut cases, &committing[..6], &undoing);
    cross(&mut cases, &committing[..6], &giving_up);
    // It hangs when it has committed, and its supervisor dies when it has killed it for that.
    for point in [SuccessorRecordedServing, SuccessorAdmits, SuccessorTookPath] {
        for second in &giving_up[..3] {
            let hangs = Planned { point, fault: Fault::Hang };
            cases.push(case(vec![hangs, Planned { point: *second, fault: Fault::Kill }]));
        }
    }
    // The incumbent dies: both others go on.
    cross(&mut cases, &[IncumbentSaidSealed], &going_on);
    cross(
        &mut cases,
        &sealing[..3],
        &[SupervisorSentBegin, SupervisorCommits, SupervisorSentCommit],
    );
    cross(&mut cases, &sealing, &opening);
    cross(&mut cases, &sealing, &committing);
    cases
}

fn case(faults: Vec<Planned>) -> Case {
    let mut scene = Vec::new();
    let mut between_swaps = false;
    if let [only] = faults[..] {
        scene = scene_of(only.point);
        between_swaps = is_between_swaps(only.point);
    }
    Case { faults, scene, between_swaps, migrates: false }
}

/// What has to fail so that a point is reached in a swap.
fn scene_of(point: Point) -> Vec<Planned> {
    use Point::*;
    let opening_fails = Planned { point: SuccessorOpened, fault: Fault::Error };
    let supervisor_dies = Planned { point: SupervisorSentBegin, fault: Fault::Kill };
    match point {
        SupervisorGivesUp
        | SupervisorKilledSuccessor
        | SupervisorAskedIncumbent
        | SupervisorHeardEcho
        | IncumbentUndoes
        | IncumbentTriesLock
        | IncumbentRetook
        | IncumbentRecordedAgain
        | IncumbentTakesBack
        | IncumbentResumes
        | IncumbentResumed
        | IncumbentServesAgain => vec![opening_fails],
        AdopterKilledSuccessor => {
            // Only a supervisor that lives keeps it from giving up before it hangs.
            let lingers = Planned { point: SupervisorSentBegin, fault: Fault::Slow };
            let hangs = Planned { point: SuccessorLocked, fault: Fault::Hang };
            vec![lingers, supervisor_dies, hangs]
        }
        AdopterResolves | AdopterAskedIncumbent | AdopterResolved | AdopterNotedEnd => {
            vec![supervisor_dies]
        }
        _ => Vec::new(),
    }
}

/// Whether a point is reached when a supervisor dies between two swaps.
fn is_between_swaps(point: Point) -> bool {
    let adopts = point.role() == Role::Adopter && scene_of(point).is_empty();
    adopts || point == Point::IncumbentGivesListeners
}
