//! Successors that say `Ready`, and are not fit to serve.

use std::fs::{self, OpenOptions};
use std::io::Write;

use handoff::Error;
use handoff::error::{LaunchError, ListenerError};
use handoff::supervisor::{Cause, IncumbentFate, Unfit};
use handoff_tests::harness::{Cluster, TIMEOUT, eventually};

fn cause_of(fault: &str) -> Cause {
    let mut cluster = Cluster::start();
    let failed = cluster.swap_fails(&[fault]);
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    let (at, _) = fault.split_once('=').expect("a fault has a place");
    cluster.assert_struck(at, 1);
    cluster.assert_sound();
    failed.cause
}

#[test]
fn an_unhealthy_successor_is_not_told_to_commit() {
    assert_eq!(cause_of("ready=unhealthy"), Cause::Unfit(Unfit::Unhealthy));
    assert_eq!(cause_of("health=bad"), Cause::Unfit(Unfit::Unhealthy));
}

#[test]
fn a_successor_behind_what_was_sealed_is_not_told_to_commit() {
    match cause_of("ready=behind") {
        Cause::Unfit(Unfit::Behind { index: 0, sealed, ready }) => assert_eq!(ready + 1, sealed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_successor_with_another_number_of_shards_is_not_told_to_commit() {
    let cause = cause_of("ready=wrong-shards");
    assert_eq!(cause, Cause::Unfit(Unfit::ShardCount { sealed: 3, ready: 4 }));
}

#[test]
fn a_successor_that_did_not_verify_is_not_told_to_commit() {
    assert_eq!(cause_of("ready=no-fingerprint"), Cause::Unfit(Unfit::NotVerified));
    assert_eq!(cause_of("ready=wrong-fingerprint"), Cause::Unfit(Unfit::WrongFingerprint));
}

#[test]
fn data_that_was_changed_after_the_seal_is_found_by_the_name_of_its_shard() {
    let mut cluster = Cluster::start();
    let session = cluster.sealed(&[]);
    let mut log = OpenOptions::new().append(true).open(cluster.data().join("1.log"));
    let log = log.as_mut().expect("it is there");
    log.write_all(b"an intruder\n").expect("it can be written");
    let failed = session.begin().expect_err("the data is not what was sealed");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    match &failed.cause {
        Cause::SuccessorGaveUp(words) => assert!(words.contains("logs.1"), "{words}"),
        other => panic!("{other:?}"),
    }
    cluster.assert_sound();
}

/// A start that has refused the data does not make the next one accept it.
#[test]
fn data_that_was_changed_after_the_seal_is_found_by_every_start() {
    let mut cluster = Cluster::start();
    let session = cluster.sealed(&[]);
    cluster.kill(cluster.serving());
    let path = cluster.data().join("1.log");
    let sealed = fs::read(&path).expect("it can be read");
    fs::write(&path, [&sealed, &b"an intruder\n"[..]].concat()).expect("it can be written");
    let failed = session.begin().expect_err("the data is not what was sealed");
    assert_eq!(failed.incumbent, IncumbentFate::Lost, "{failed}");
    let spec = cluster.successor(&[]).spec();
    for _ in 0..2 {
        match cluster.supervisor.start(&spec) {
            Err(Error::Launch(LaunchError::ExitedEarly { .. })) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(cluster.alive(), []);
    }
    fs::write(&path, sealed).expect("it can be written");
    let first = cluster.supervisor.start(&spec).expect("it is what was sealed");
    cluster.begin_anew(first);
    cluster.assert_sound();
}

#[test]
fn fewer_shards_than_were_sealed_are_not_opened() {
    let mut cluster = Cluster::start();
    let mut spec = cluster.successor(&[]);
    spec.options.shards = 2;
    let failed = cluster.swap_to(&spec).expect_err("one shard is missing");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    match &failed.cause {
        Cause::SuccessorGaveUp(words) => {
            assert!(words.contains("the collection \"logs\" has another size"), "{words}");
            assert!(words.contains("#[handoff(resizable)]"), "{words}");
        }
        other => panic!("{other:?}"),
    }
    cluster.assert_sound();
}

#[test]
fn a_control_socket_that_cannot_be_bound_is_never_committed() {
    for (control, words) in [
        ("missing/control".to_owned(), "No such file or directory"),
        ("c".repeat(200), "choose a shorter one"),
    ] {
        let mut cluster = Cluster::start();
        let mut spec = cluster.successor(&[]);
        spec.options.control = cluster.state().join(control);
        let failed = cluster.swap_to(&spec).expect_err("it cannot be bound");
        assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
        match &failed.cause {
            Cause::SuccessorGaveUp(said) => assert!(said.contains(words), "{said}"),
            other => panic!("{other:?}"),
        }
        cluster.assert_sound();
    }
}

#[test]
fn a_missing_listener_is_told_by_its_name() {
    let mut cluster = Cluster::start();
    let mut spec = cluster.successor(&[]);
    spec.options.listener = "mane".into();
    let failed = cluster.swap_to(&spec).expect_err("there is no such listener");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    let missing = ListenerError::Missing { name: "mane".into(), available: vec!["main".into()] };
    assert_eq!(failed.cause, Cause::SuccessorGaveUp(missing.to_string()));
    cluster.assert_sound();
}

#[test]
fn a_successor_of_another_directory_does_not_serve_it() {
    let mut cluster = Cluster::start();
    let mut spec = cluster.successor(&[]);
    spec.options.data = cluster.state().join("elsewhere");
    let outcome = cluster.swap_to(&spec);
    let failed = outcome.expect_err("it opened something else than was sealed");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    eventually("it is gone", TIMEOUT, || (cluster.alive().len() == 1).then_some(()));
    cluster.assert_sound();
}
