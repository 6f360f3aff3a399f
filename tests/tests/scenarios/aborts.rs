//! Swaps that are given up by whoever drives them, in every phase.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use handoff::protocol::HandoffId;
use handoff::supervisor::{AbortHandle, Cause, Failed, IncumbentFate, Phase, Progress};
use handoff::{Error, Session, SpawnSpec, Supervisor};
use handoff_tests::fixture::MARKS;
use handoff_tests::harness::{Cluster, ON_A_WHIM, is_alive};

/// Aborts one session and drops another, both of which `reach` has brought to a phase.
fn given_up<P: Phase>(reach: impl Fn(&mut Cluster) -> Session<P>) {
    let mut cluster = Cluster::start();
    let session = reach(&mut cluster);
    let (handoff_id, pid) = (session.handoff_id(), session.successor_pid());
    let rolled_back = session.abort("on a whim");
    let fate = (rolled_back.handoff_id, rolled_back.incumbent);
    assert_eq!(fate, (handoff_id, IncumbentFate::Serving));
    assert!(!cluster.alive().contains(&pid), "the successor lives");
    cluster.assert_one_serves();
    cluster.wait_for_progress();

    let session = reach(&mut cluster);
    let pid = session.successor_pid();
    drop(session);
    assert!(!cluster.alive().contains(&pid), "the successor lives");
    cluster.wait_for_progress();
    cluster.assert_sound();
}

#[test]
fn giving_up_when_paired_changes_nothing() {
    given_up(|cluster| cluster.paired(&[]));
}

#[test]
fn giving_up_when_warmed_changes_nothing() {
    given_up(|cluster| cluster.warmed(&[]));
}

#[test]
fn giving_up_when_prepared_admits_again() {
    given_up(|cluster| cluster.prepared(&[]));
}

#[test]
fn giving_up_when_sealed_takes_the_lock_again() {
    given_up(|cluster| cluster.sealed(&[]));
}

#[test]
fn giving_up_when_ready_takes_the_lock_from_the_successor() {
    given_up(|cluster| cluster.ready(&[]));
}

/// Kills the incumbent and then aborts a session that `reach` has brought to a phase.
fn given_up_alone<P: Phase>(reach: impl Fn(&mut Cluster) -> Session<P>) {
    let mut cluster = Cluster::start();
    let session = reach(&mut cluster);
    let phase = std::any::type_name::<P>();
    cluster.kill(cluster.serving());
    let rolled_back = session.abort("on a whim");
    assert_eq!(rolled_back.incumbent, IncumbentFate::Lost, "{phase}");
    match rolled_back.promoted {
        Some(committed) => cluster.commit(*committed),
        None => panic!("{phase}: the only process that could serve was given up"),
    }
    cluster.assert_sound();
}

#[test]
fn giving_up_when_the_incumbent_has_died_leaves_the_successor_serving() {
    given_up_alone(|cluster| cluster.paired(&[]));
    given_up_alone(|cluster| cluster.warmed(&[]));
    given_up_alone(|cluster| cluster.prepared(&[]));
    given_up_alone(|cluster| cluster.sealed(&[]));
    given_up_alone(|cluster| cluster.ready(&[]));
}

#[test]
fn a_session_held_past_its_deadline_does_not_hold_the_clients() {
    let mut cluster = Cluster::start();
    let mut spec = cluster.successor(&[]);
    spec.deadline = Duration::from_millis(500);
    let session = cluster.supervisor.pair(spec.spec()).expect("both say hello");
    let sealed = || session.warm()?.prepare()?.seal();
    let session = sealed().expect("nothing is wrong yet");
    let begun = Instant::now();
    cluster.wait_for_progress();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let failed = session.begin().expect_err("the incumbent serves again");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    let late = matches!(failed.cause, Cause::IncumbentAborted(_) | Cause::DeadlinePassed(_));
    assert!(late, "{:?}", failed.cause);
    cluster.assert_sound();
}

/// What an incumbent wrote after it had undone a swap is no fault of the successor's: this one dies
/// when it serves again, and before it has confirmed that.
#[test]
fn a_successor_is_not_measured_by_a_seal_that_was_undone() {
    let mut cluster = Cluster::start_with(&["incumbent.serves-again=slow"]);
    let mut spec = cluster.successor(&[]);
    spec.deadline = Duration::from_millis(500);
    let session = cluster.supervisor.pair(spec.spec()).expect("both say hello");
    let sealed = || session.warm()?.prepare()?.seal();
    let session = sealed().expect("nothing is wrong yet");
    cluster.wait_for_progress();
    cluster.kill(cluster.serving());
    let failed = session.begin().expect_err("the incumbent has died");
    assert!(failed.promoted.is_some(), "{failed}");
    cluster.note(failed);
    cluster.assert_sound();
}

#[test]
fn a_second_supervisor_s_swap_at_the_same_time_is_refused_and_the_first_commits() {
    let mut cluster = Cluster::start();
    let first = cluster.prepared(&[]);
    let other = Supervisor::new(&cluster.control()).expect("the path is short");
    let second = other.pair(cluster.successor(&[]).spec()).expect("both say hello");
    let second = second.warm().expect("it warms up");
    let id = first.handoff_id().to_string();
    match second.prepare() {
        Err(Failed { cause: Cause::IncumbentAborted(words), .. }) => {
            assert!(words.contains(&id), "{words}");
        }
        other => panic!("{other:?}"),
    }
    let commit = || first.seal()?.begin()?.commit();
    cluster.commit(commit().expect("it goes on"));
    cluster.assert_sound();
}

/// Another thread gives a swap up while its driver waits for a process, as soon as a fault has
/// struck there; returns how long the swap took.
fn given_up_meanwhile(first: &[&str], successor: &[&str], at: &str) -> Duration {
    let mut cluster = Cluster::start_with(first);
    let serving = cluster.serving();
    let abort = AbortHandle::new().expect("a descriptor is left");
    let mut spec = cluster.successor(successor);
    spec.abort = Some(abort.clone());
    let aborts = cluster.abort_when(at, &abort);
    let begun = Instant::now();
    let failed = cluster.swap_to(&spec).expect_err("it is given up");
    let took = begun.elapsed();
    aborts.join().expect("it strikes");
    assert_eq!(failed.cause, Cause::Requested(ON_A_WHIM.into()), "{failed}");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    assert_eq!(cluster.serving(), serving);
    cluster.assert_struck(at, 1);
    cluster.assert_one_serves();
    cluster.wait_for_progress();
    cluster.assert_sound();
    took
}

#[test]
fn a_drain_that_would_take_long_is_given_up_by_another_thread() {
    let took = given_up_meanwhile(&["drain=linger:20000"], &[], "drain");
    assert!(took < Duration::from_secs(10), "the drain was waited for: {took:?}");
}

#[test]
fn a_warm_up_or_an_opening_that_would_take_long_is_given_up_by_another_thread() {
    for at in ["warm", "open"] {
        let took = given_up_meanwhile(&[], &[&format!("{at}=slow:20000")], at);
        assert!(took < Duration::from_secs(10), "{at} was waited for: {took:?}");
    }
}

/// Its hook is waited for: nothing can be undone beside it.
#[test]
fn a_seal_is_given_up_by_another_thread_and_undone_when_its_hook_has_ended() {
    let took = given_up_meanwhile(&["seal=slow:1500"], &[], "seal");
    assert!(took >= Duration::from_millis(1500), "{took:?}");
}

#[test]
fn a_successor_that_never_says_hello_is_given_up_by_another_thread() {
    let mut cluster = Cluster::start();
    let (tell, launched) = mpsc::channel();
    cluster.supervise(|supervisor| {
        supervisor.with_observer(move |progress: &Progress| {
            let _ = tell.send(progress.clone());
        })
    });
    let abort = AbortHandle::new().expect("a descriptor is left");
    let mut spec = cluster.successor(&["hello=never"]);
    (spec.abort, spec.hello_timeout) = (Some(abort.clone()), Duration::from_secs(60));
    let aborts = cluster.abort_when("hello", &abort);
    let begun = Instant::now();
    match cluster.supervisor.pair(spec.spec()) {
        Err(Error::Requested(reason)) => assert_eq!(reason, ON_A_WHIM),
        other => panic!("{other:?}"),
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "its hello was waited for");
    aborts.join().expect("it strikes");
    let told: Vec<_> = launched.try_iter().collect();
    let [Progress::Launched { successor_pid, elapsed, .. }] = told[..] else { panic!("{told:?}") };
    assert!(elapsed < begun.elapsed());
    let word = cluster.state().display().to_string();
    assert!(!is_alive(successor_pid, &word), "the successor lives");
    cluster.assert_struck("hello", 1);
    cluster.assert_one_serves();
    cluster.assert_sound();
}

#[test]
fn a_first_daemon_that_would_take_long_is_given_up_by_another_thread() {
    let mut cluster = Cluster::start();
    cluster.kill(cluster.serving());
    // One that is opening has the control socket; one that is not yet the daemon has none.
    let (daemon, mut shell) = (cluster.successor(&["open=slow:20000"]), cluster.successor(&[]));
    let mark = cluster.state().join(MARKS).join("shell.0.0");
    shell.prelude = Some(format!("touch {}; exec sleep 20", mark.display()));
    for (mut spec, at) in [(daemon, "open"), (shell, "shell")] {
        let abort = AbortHandle::new().expect("a descriptor is left");
        spec.abort = Some(abort.clone());
        let aborts = cluster.abort_when(at, &abort);
        let begun = Instant::now();
        match cluster.supervisor.start(&spec.spec()) {
            Err(Error::Requested(reason)) => assert_eq!(reason, ON_A_WHIM),
            other => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it was waited for");
        aborts.join().expect("it strikes");
        assert_eq!(cluster.alive(), []);
        // Once more, and nothing is started.
        let missing = SpawnSpec { binary: "/nowhere/demo".into(), ..spec.spec() };
        match cluster.supervisor.start(&missing) {
            Err(Error::Requested(reason)) => assert_eq!(reason, ON_A_WHIM),
            other => panic!("{other:?}"),
        }
        cluster.assert_struck(at, 1);
    }
    let spec = cluster.successor(&[]).spec();
    let first = cluster.supervisor.start(&spec).expect("it starts");
    cluster.begin_anew(first);
    cluster.assert_sound();
}

#[test]
fn a_swap_that_is_over_is_not_given_up_and_one_between_two_transitions_is_by_the_next() {
    let mut cluster = Cluster::start();
    let abort = AbortHandle::new().expect("a descriptor is left");
    let mut spec = cluster.successor(&[]);
    spec.abort = Some(abort.clone());
    cluster.swap_to(&spec).expect("it commits");
    let session = cluster.supervisor.pair(spec.spec()).expect("both say hello");
    let session = session.warm().expect("it warms up");
    abort.abort(ON_A_WHIM);
    abort.abort("for another reason");
    let failed = session.prepare().expect_err("it was given up");
    assert_eq!(failed.cause, Cause::Requested(ON_A_WHIM.into()), "{failed}");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    match cluster.supervisor.pair(spec.spec()) {
        Err(Error::Requested(reason)) => assert_eq!(reason, ON_A_WHIM),
        other => panic!("{other:?}"),
    }
    cluster.assert_sound();
}

/// An incumbent whose hook runs sends heartbeats of 0, and none of them is its echo.
#[test]
fn a_swap_whose_name_was_made_up_is_reported_when_it_is_undone() {
    let mut cluster = Cluster::start_with(&["resume=slow:1500"]);
    let handoff_id = Some(HandoffId::from_bytes([0; 16]));
    let spec = SpawnSpec { handoff_id, ..cluster.successor(&[]).spec() };
    let session = cluster.supervisor.pair(spec).expect("both say hello");
    assert_eq!(Some(session.handoff_id()), handoff_id);
    let session = session.warm().and_then(Session::prepare).expect("it drains");
    let begun = Instant::now();
    let rolled_back = session.abort(ON_A_WHIM);
    assert_eq!((Some(rolled_back.handoff_id), rolled_back.incumbent), (handoff_id, SERVING));
    assert!(begun.elapsed() >= Duration::from_millis(1500), "it does not serve yet");
    cluster.assert_struck("resume", 1);
    cluster.assert_sound();
}

const SERVING: IncumbentFate = IncumbentFate::Serving;
