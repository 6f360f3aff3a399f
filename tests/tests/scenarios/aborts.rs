//! Swaps that are given up by whoever drives them, in every phase.

use std::time::{Duration, Instant};

use handoff::Session;
use handoff::supervisor::{Cause, Failed, IncumbentFate, Phase};
use handoff_tests::harness::Cluster;

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

/// What an incumbent wrote after it had undone a swap is no fault of the successor's.
#[test]
fn a_successor_is_not_measured_by_a_seal_that_was_undone() {
    let mut cluster = Cluster::start();
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
fn a_second_swap_at_the_same_time_is_refused_and_the_first_commits() {
    let mut cluster = Cluster::start();
    let first = cluster.prepared(&[]);
    let second = cluster.warmed(&[]);
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
