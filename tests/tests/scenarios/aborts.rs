//! Swaps that are given up by whoever drives them, in every phase.

use std::time::{Duration, Instant};

use handoff::Session;
use handoff::supervisor::{
    Cause, Failed, IncumbentFate, Paired, Phase, Prepared, Ready, RolledBack, Sealed, Warmed,
};
use handoff_tests::harness::Cluster;

fn warmed(cluster: &mut Cluster) -> Result<Session<Warmed>, Failed> {
    cluster.pair(&[]).warm()
}

fn prepared(cluster: &mut Cluster) -> Result<Session<Prepared>, Failed> {
    warmed(cluster)?.prepare()
}

fn sealed(cluster: &mut Cluster) -> Result<Session<Sealed>, Failed> {
    prepared(cluster)?.seal()
}

fn ready(cluster: &mut Cluster) -> Result<Session<Ready>, Failed> {
    sealed(cluster)?.begin()
}

/// Aborts one session and drops another, both of which `reach` has brought to a phase.
fn given_up<P: Phase>(reach: impl Fn(&mut Cluster) -> Result<Session<P>, Failed>) {
    let mut cluster = Cluster::start();
    let session = reach(&mut cluster).expect("nothing is wrong");
    let (handoff_id, pid) = (session.handoff_id(), session.successor_pid());
    let rolled_back = session.abort("on a whim");
    assert_eq!(rolled_back, RolledBack { handoff_id, incumbent: IncumbentFate::Serving });
    assert!(!cluster.alive().contains(&pid), "the successor lives");
    cluster.assert_one_serves();
    cluster.wait_for_progress();

    let session = reach(&mut cluster).expect("nothing is wrong");
    let pid = session.successor_pid();
    drop(session);
    assert!(!cluster.alive().contains(&pid), "the successor lives");
    cluster.wait_for_progress();
    cluster.assert_sound();
}

#[test]
fn giving_up_when_paired_changes_nothing() {
    given_up::<Paired>(|cluster| Ok(cluster.pair(&[])));
}

#[test]
fn giving_up_when_warmed_changes_nothing() {
    given_up(warmed);
}

#[test]
fn giving_up_when_prepared_admits_again() {
    given_up(prepared);
}

#[test]
fn giving_up_when_sealed_takes_the_lock_again() {
    given_up(sealed);
}

#[test]
fn giving_up_when_ready_takes_the_lock_from_the_successor() {
    given_up(ready);
}

#[test]
fn a_session_held_past_its_deadline_does_not_hold_the_clients() {
    let mut cluster = Cluster::start();
    let mut spec = cluster.successor(&[]);
    spec.deadline = Duration::from_millis(500);
    let session = cluster.supervisor.pair(spec.spec()).expect("both say hello").warm();
    let session = session.and_then(|session| session.prepare()).expect("nothing is wrong yet");
    let session = session.seal().expect("nothing is wrong yet");
    let begun = Instant::now();
    cluster.wait_for_progress();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let failed = session.begin().expect_err("the incumbent serves again");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    let late = matches!(failed.cause, Cause::IncumbentAborted(_) | Cause::DeadlinePassed(_));
    assert!(late, "{:?}", failed.cause);
    cluster.assert_sound();
}

#[test]
fn a_second_swap_at_the_same_time_is_refused_and_the_first_commits() {
    let mut cluster = Cluster::start();
    let first = prepared(&mut cluster).expect("nothing is wrong");
    let second = warmed(&mut cluster).expect("to warm up disturbs nobody");
    let id = first.handoff_id().to_string();
    match second.prepare() {
        Err(Failed { cause: Cause::IncumbentAborted(words), .. }) => {
            assert!(words.contains(&id), "{words}");
        }
        other => panic!("{other:?}"),
    }
    let session = first.seal().and_then(|session| session.begin()).expect("it goes on");
    cluster.commit(session.commit().expect("it commits"));
    cluster.assert_sound();
}
