//! Sessions of one supervisor beside each other, and sessions that nobody drives past their
//! deadline.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use handoff::protocol::HandoffId;
use handoff::supervisor::{
    Candidate, Cause, Failed, HandoffOutcome, IncumbentFate, Paired, Phase, Progress, Ready,
};
use handoff::{Error, Phase as SwapPhase, Session, SpawnSpec, Supervisor};
use handoff_tests::harness::{Cluster, TIMEOUT, eventually, is_alive};

/// What a second swap beside `first` is told.
fn assert_refused<T: std::fmt::Debug>(refused: Result<T, Error>, first: HandoffId) {
    match refused {
        Err(error @ Error::SwapInFlight { handoff_id }) => {
            assert_eq!(handoff_id, first);
            assert!(error.to_string().contains(&first.to_string()), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// A session in the phase that `reach` brings it to, and each way to begin another one.
fn beside<P: Phase>(reach: impl Fn(&mut Cluster) -> Session<P>) {
    let mut cluster = Cluster::start();
    let session = reach(&mut cluster);
    let first = session.handoff_id();
    let spec = cluster.successor(&[]).spec();
    assert_refused(cluster.supervisor.pair(spec.clone()), first);
    assert_refused(cluster.supervisor.perform_handoff(spec.clone()), first);
    assert_refused(cluster.supervisor.start(&spec), first);
    assert_refused(cluster.supervisor.adopt(TIMEOUT), first);
    assert_eq!(cluster.alive().len(), 2, "a refused swap starts no process");
    let _ = session.abort("on a whim");
    cluster.swap(&[]).expect("the first swap is over");
    cluster.assert_sound();
}

#[test]
fn a_second_swap_of_a_supervisor_is_refused_in_every_phase_and_told_which_one_is_in_flight() {
    beside(|cluster| cluster.paired(&[]));
    beside(|cluster| cluster.prepared(&[]));
    beside(|cluster| cluster.ready(&[]));
}

#[test]
fn the_swap_that_was_first_commits_and_its_journal_says_so() {
    let mut cluster = Cluster::start();
    let journal = cluster.journal();
    cluster.supervise(|supervisor| supervisor.with_journal(&journal).expect("nobody has it"));
    let ready = cluster.ready(&[]);
    let first = ready.handoff_id();
    let spec = cluster.successor(&[]).spec();
    assert_refused(cluster.supervisor.pair(spec), first);
    cluster.commit(ready.commit().expect("nothing is wrong"));
    let text = std::fs::read_to_string(&journal).expect("it is there");
    assert!(text.contains(&format!("ended {first} committed")), "{text}");
    assert_eq!(text.matches(" swap ").count(), 1, "{text}");
    cluster.swap(&[]).expect("the first swap is over");
    cluster.assert_sound();
}

#[test]
fn a_session_that_is_dropped_or_has_failed_leaves_its_supervisor_free() {
    let mut cluster = Cluster::start();
    drop(cluster.prepared(&[]));
    let failed = cluster.sealed(&["open=error"]).begin().expect_err("it cannot open");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    let spec = cluster.successor(&["hello=never"]);
    let spec = handoff::SpawnSpec { hello_timeout: Duration::from_millis(50), ..spec.spec() };
    cluster.supervisor.pair(spec).map(drop).expect_err("it says no hello");
    cluster.swap(&[]).expect("no swap is in flight");
    cluster.assert_sound();
}

#[test]
fn of_many_threads_one_swaps_and_the_others_are_refused() {
    let mut cluster = Cluster::start();
    let specs: Vec<_> = (0..6).map(|_| cluster.successor(&[]).spec()).collect();
    let supervisor = &cluster.supervisor;
    let paired: Vec<_> = std::thread::scope(|scope| {
        let pair = |spec| scope.spawn(move || supervisor.pair(spec));
        let threads: Vec<_> = specs.into_iter().map(pair).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let (mut sessions, refused): (Vec<_>, Vec<_>) = paired.into_iter().partition(Result::is_ok);
    assert_eq!((sessions.len(), refused.len()), (1, 5));
    let session = sessions.remove(0).expect("it is paired");
    for refused in refused {
        assert_refused(refused, session.handoff_id());
    }
    let swap = || session.warm()?.prepare_and_seal()?.begin()?.commit();
    let committed = swap().expect("nothing is wrong");
    cluster.commit(committed);
    cluster.assert_sound();
}

/// Two supervisors of one daemon: the one whose incumbent is replaced by the other's swap.
#[test]
fn a_supervisor_whose_incumbent_another_one_swapped_does_not_say_that_nobody_serves() {
    let mut cluster = Cluster::start();
    let first = cluster.ready(&[]);
    let other = Supervisor::new(&cluster.control()).expect("the path is short");
    let other = other.pair(cluster.successor(&[]).spec()).expect("both say hello");
    cluster.commit(first.commit().expect("nothing is wrong"));
    let is_gone = || (cluster.alive().len() == 2).then_some(());
    eventually("the first incumbent has ended", TIMEOUT, is_gone);
    let failed = other.warm().expect_err("its incumbent has been replaced");
    assert_eq!(failed.incumbent, IncumbentFate::Unknown, "{failed}");
    assert!(failed.promoted.is_none(), "{failed}");
    assert!(!failed.to_string().contains("no process took its place"), "{failed}");
    cluster.assert_sound();
}

/// Whatever phase `reach` brings a session to, its deadline ends the swap without a call of the
/// session's owner, who holds it or has forgotten it.
fn past_the_deadline<P: Phase>(
    is_forgotten: bool,
    reach: impl FnOnce(Session<Paired>) -> Result<Session<P>, Failed>,
) {
    let phase = std::any::type_name::<P>();
    let mut cluster = Cluster::start();
    let spec = SpawnSpec { deadline: DEADLINE, ..cluster.successor(&[]).spec() };
    let paired = cluster.supervisor.pair(spec).expect("both say hello");
    let (first, successor) = (paired.handoff_id(), paired.successor_pid());
    let begun = Instant::now();
    let mut session = Some(reach(paired).expect("the deadline is far"));
    if is_forgotten {
        std::mem::forget(session.take());
    }
    cluster.wait_for_progress();
    assert!(begun.elapsed() < DEADLINE + SOON, "{phase}: {:?}", begun.elapsed());
    cluster.wait_until_free(successor);
    if let Some(session) = session {
        let rolled_back = session.abort("too late");
        assert_eq!((rolled_back.handoff_id, rolled_back.incumbent), (first, SERVING), "{phase}");
    }
    cluster.swap(&[]).expect("no swap is in flight");
    cluster.assert_sound();
}

#[test]
fn a_session_that_is_held_past_its_deadline_in_any_phase_is_rolled_back_without_a_call() {
    std::thread::scope(|scope| {
        scope.spawn(|| past_the_deadline(false, Ok));
        scope.spawn(|| past_the_deadline(false, Session::warm));
        scope.spawn(|| past_the_deadline(false, |paired| paired.warm()?.prepare()));
        scope.spawn(|| past_the_deadline(false, |paired| paired.warm()?.prepare_and_seal()));
        scope.spawn(|| past_the_deadline(false, ready));
    });
}

#[test]
fn a_session_that_is_forgotten_is_rolled_back_at_its_deadline_and_leaves_its_supervisor_free() {
    std::thread::scope(|scope| {
        scope.spawn(|| past_the_deadline(true, |paired| paired.warm()?.prepare()));
        scope.spawn(|| past_the_deadline(true, ready));
    });
}

#[test]
fn a_commit_after_the_deadline_returns_the_report_of_the_rollback() {
    let mut cluster = Cluster::start();
    let spec = SpawnSpec { deadline: DEADLINE, ..cluster.successor(&[]).spec() };
    let paired = cluster.supervisor.pair(spec).expect("both say hello");
    let (first, successor) = (paired.handoff_id(), paired.successor_pid());
    let session = ready(paired).expect("the deadline is far");
    cluster.wait_until_free(successor);
    let failed = session.commit().expect_err("the deadline has passed");
    assert_eq!(failed.cause, Cause::DeadlinePassed(SwapPhase::Ready));
    assert_eq!((failed.handoff_id, failed.incumbent), (first, SERVING), "{failed}");
    cluster.assert_sound();
}

/// Where the incumbent has died, a session that is held past its deadline ends in a promotion,
/// and its owner is told of it by the next call.
#[test]
fn a_session_that_is_held_past_its_deadline_lets_the_only_process_left_serve() {
    let mut cluster = Cluster::start();
    let journal = cluster.journal();
    cluster.supervise(|supervisor| supervisor.with_journal(&journal).expect("nobody has it"));
    let spec = SpawnSpec { deadline: DEADLINE, ..cluster.successor(&[]).spec() };
    let paired = cluster.supervisor.pair(spec).expect("both say hello");
    let first = paired.handoff_id();
    let session = ready(paired).expect("the deadline is far");
    cluster.kill(cluster.serving());
    cluster.wait_for_progress();
    let failed = session.commit().expect_err("its incumbent has died");
    assert!(failed.promoted.is_some(), "{failed}");
    let text = std::fs::read_to_string(&journal).expect("it is there");
    assert!(text.contains(&format!("ended {first} promoted")), "{text}");
    cluster.note(failed);
    cluster.assert_sound();
}

/// The policy is asked about a successor in the place of a dead incumbent, also where its session is
/// dropped: a panic there is the caller's, and leaves nothing half done.
#[test]
fn a_policy_that_panics_while_its_session_is_dropped_leaves_no_swap_open() {
    let mut cluster = Cluster::start();
    let journal = cluster.journal();
    cluster.supervise(|supervisor| {
        let supervisor = supervisor.with_journal(&journal).expect("nobody has it");
        supervisor.with_ready_policy(|_: &Candidate<'_>| panic!("as planned"))
    });
    let spec = cluster.successor(&[]).spec();
    let paired = cluster.supervisor.pair(spec).expect("both say hello");
    let (first, successor) = (paired.handoff_id(), paired.successor_pid());
    let warmed = paired.warm().expect("the policy is not asked yet");
    let session = warmed.prepare_and_seal().expect("the policy is not asked yet");
    cluster.kill(cluster.serving());
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(session)));
    assert!(dropped.is_err(), "the panic is the caller's");
    assert!(!std::fs::exists(format!("/proc/{successor}")).expect("there is /proc"));
    let text = std::fs::read_to_string(&journal).expect("it is there");
    assert!(text.contains(&format!("ended {first}")), "{text}");
}

/// Code of the caller that waits until the test lets it go on.
#[derive(Clone)]
struct Stuck {
    entered: Sender<()>,
    let_go: Arc<Mutex<Receiver<()>>>,
}

impl Stuck {
    fn new() -> (Self, Receiver<()>, Sender<()>) {
        let ((entered, entering), (let_go, letting_go)) = (mpsc::channel(), mpsc::channel());
        (Self { entered, let_go: Arc::new(Mutex::new(letting_go)) }, entering, let_go)
    }

    fn wait(&self) {
        let _ = self.entered.send(());
        let let_go = self.let_go.lock().expect("no panic");
        let _ = let_go.recv_timeout(TIMEOUT);
    }
}

/// Swaps, and returns the outcome of a swap whose deadline passes while the caller's code waits:
/// `ended` before that code has returned.
fn stuck_in(
    change: impl FnOnce(Supervisor, Stuck) -> Supervisor,
    ended: impl FnOnce(&Cluster),
) -> (Cluster, HandoffOutcome) {
    let mut cluster = Cluster::start();
    let (stuck, entering, let_go) = Stuck::new();
    cluster.supervise(|supervisor| change(supervisor, stuck));
    let spec = SpawnSpec { deadline: DEADLINE, ..cluster.successor(&[]).spec() };
    let begun = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let swap = scope.spawn(|| cluster.supervisor.perform_handoff(spec));
        entering.recv_timeout(TIMEOUT).expect("the caller's code is reached");
        ended(&cluster);
        assert!(begun.elapsed() < DEADLINE + SOON, "{:?}", begun.elapsed());
        assert!(!swap.is_finished(), "the caller's code has not returned");
        drop(let_go);
        swap.join().expect("no panic")
    });
    (cluster, outcome.expect("it was begun"))
}

fn failed(outcome: HandoffOutcome) -> Failed {
    match outcome {
        HandoffOutcome::Failed(failed) => failed,
        HandoffOutcome::Committed(committed) => panic!("{committed:?}"),
    }
}

#[test]
fn a_policy_that_does_not_return_holds_no_client_past_the_deadline() {
    let policy = |supervisor: Supervisor, stuck: Stuck| {
        supervisor.with_ready_policy(move |_: &Candidate<'_>| {
            stuck.wait();
            Ok(())
        })
    };
    let (cluster, outcome) = stuck_in(policy, Cluster::wait_for_progress);
    let failed = failed(outcome);
    assert_eq!(failed.cause, Cause::DeadlinePassed(SwapPhase::Opening), "{failed}");
    assert_eq!(failed.incumbent, SERVING, "{failed}");
    cluster.assert_sound();
}

/// An observer that waits when a phase is entered, and the phases that it is told of.
fn observing(
    at: SwapPhase,
) -> (Arc<Mutex<Vec<SwapPhase>>>, impl FnOnce(Supervisor, Stuck) -> Supervisor) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    (told, move |supervisor, stuck| {
        supervisor.with_observer(move |progress: &Progress| {
            if let Progress::Entered { phase, .. } = progress {
                telling.lock().expect("no panic").push(*phase);
                if *phase == at {
                    stuck.wait();
                }
            }
        })
    })
}

#[test]
fn an_observer_that_does_not_return_holds_no_client_past_the_deadline_and_hears_all_in_order() {
    let (told, observer) = observing(SwapPhase::Sealed);
    let (cluster, outcome) = stuck_in(observer, Cluster::wait_for_progress);
    let failed = failed(outcome);
    // The incumbent keeps the deadline too, and may be first.
    let late = matches!(failed.cause, Cause::IncumbentAborted(_) | Cause::DeadlinePassed(_));
    assert!(late, "{failed}");
    assert_eq!(failed.incumbent, SERVING, "{failed}");
    let told = told.lock().expect("no panic").clone();
    use SwapPhase::*;
    // A successor that is warm before it is waited for is never told as warming.
    assert!(told.first() == Some(&Paired) && told.is_sorted_by(|a, b| a < b), "{told:?}");
    let last = &told[told.len() - 4..];
    assert_eq!(last, [Sealing, Sealed, RollingBack, RolledBack], "{told:?}");
    cluster.assert_sound();
}

/// The deadline does not undo a commit: who drives the swap then hears first that it serves.
#[test]
fn an_observer_that_does_not_return_after_the_commit_keeps_no_old_process() {
    let (told, observer) = observing(SwapPhase::Committing);
    let is_alone = |cluster: &Cluster| {
        eventually("the incumbent leaves", TIMEOUT, || (cluster.alive().len() == 1).then_some(()));
    };
    let (mut cluster, outcome) = stuck_in(observer, is_alone);
    match outcome {
        HandoffOutcome::Committed(committed) => cluster.commit(committed),
        HandoffOutcome::Failed(failed) => panic!("{failed}"),
    }
    assert_eq!(told.lock().expect("no panic").last(), Some(&SwapPhase::Committed));
    cluster.assert_sound();
}

fn ready(paired: Session<Paired>) -> Result<Session<Ready>, Failed> {
    paired.warm()?.prepare_and_seal()?.begin()
}

/// Waits until a successor has been ended.
trait Free {
    fn wait_until_free(&self, successor: u32);
}

impl Free for Cluster {
    fn wait_until_free(&self, successor: u32) {
        let spec = SpawnSpec::new("/nowhere/demo");
        eventually("the swap is over", TIMEOUT, || match self.supervisor.pair(spec.clone()) {
            Err(Error::SwapInFlight { .. }) => None,
            Err(Error::Launch(_)) => Some(()),
            other => panic!("{other:?}"),
        });
        let word = self.state().display().to_string();
        assert!(!is_alive(successor, &word), "the successor lives");
    }
}

const SERVING: IncumbentFate = IncumbentFate::Serving;
const DEADLINE: Duration = Duration::from_millis(1500);
/// Without a thread that keeps the deadline, clients wait five seconds longer than it.
const SOON: Duration = Duration::from_secs(3);
