//! States that no swap could seal or carry: they are found before they serve.

use std::fs;

use handoff::Error;
use handoff::error::LaunchError;
use handoff::supervisor::{Cause, IncumbentFate};
use handoff_tests::harness::{Cluster, TIMEOUT, eventually};

/// Starts a first daemon with these faults where none serves, and returns the words of its end.
fn refused(mut cluster: Cluster, faults: &[&str]) -> String {
    cluster.kill(cluster.serving());
    let spec = cluster.successor(faults).spec();
    match cluster.supervisor.start(&spec) {
        Err(Error::Launch(LaunchError::ExitedEarly { .. })) => {}
        other => panic!("{other:?}"),
    }
    let words = fs::read_to_string(cluster.state().join("stderr")).expect("it is there");
    let spec = cluster.successor(&[]).spec();
    let first = cluster.supervisor.start(&spec).expect("the lock is free");
    cluster.begin_anew(first);
    cluster.assert_sound();
    words
}

#[test]
fn a_first_daemon_whose_state_cannot_be_sealed_does_not_serve() {
    let words = refused(Cluster::start(), &["check=error"]);
    assert!(words.contains("check fails as planned"), "{words}");
}

#[test]
fn a_first_daemon_that_carries_connections_without_a_gate_does_not_serve() {
    let words = refused(Cluster::start_carrying(&[]), &["gate=none"]);
    assert!(words.contains("`#[handoff(gate)] gate: Gate`"), "{words}");
}

#[test]
fn a_successor_whose_state_cannot_be_sealed_or_carried_is_told_of_it_before_the_commit() {
    for (carries, fault, words) in
        [(false, "check=error", "check fails as planned"), (true, "gate=none", "has no gate")]
    {
        let mut cluster = if carries { Cluster::start_carrying(&[]) } else { Cluster::start() };
        let failed = cluster.swap_fails(&[fault]);
        match &failed.cause {
            Cause::SuccessorGaveUp(told) => assert!(told.contains(words), "{told}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
        cluster.assert_sound();
    }
}

#[test]
fn a_daemon_without_a_gate_is_told_once_at_its_start_what_that_means_and_serves() {
    let mut cluster = Cluster::start_with(&["gate=none"]);
    let told = |cluster: &Cluster| {
        let log = fs::read_to_string(cluster.state().join("stderr")).expect("it is there");
        log.matches("the state of this daemon has no gate").count()
    };
    assert_eq!(told(&cluster), 1);
    cluster.swap(&["gate=none"]).expect("it is not refused");
    // A successor says that it serves before it logs this.
    eventually("each process is told", TIMEOUT, || (told(&cluster) == 2).then_some(()));
    cluster.swap(&[]).expect("it has a gate");
    assert_eq!(told(&cluster), 2, "one with a gate is not");
    cluster.assert_sound();
}
