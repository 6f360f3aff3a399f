//! Processes that are no successor, or no daemon, or lie about it.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use handoff::error::{ControlSocketError, FrameError, LaunchError, PeerMisbehaved};
use handoff::protocol::{PROTO_MAX, Side};
use handoff::supervisor::{Cause, IncumbentFate};
use handoff::{Error, Phase, SpawnSpec, Supervisor};
use handoff_tests::harness::{Cluster, LIVENESS};

/// The error of a pairing with such a successor; the daemon is none the worse for it.
fn error_of(fault: &str) -> Error {
    let mut cluster = Cluster::start();
    let mut spec = cluster.successor(&[fault]);
    if fault == "hello=never" {
        spec.hello_timeout = Duration::from_millis(300);
    }
    let begun = Instant::now();
    let error = cluster.supervisor.pair(spec.spec()).expect_err("it says no good hello");
    assert!(begun.elapsed() < LIVENESS, "{:?}", begun.elapsed());
    cluster.assert_struck("hello", 1);
    assert_eq!(cluster.alive(), [cluster.serving()], "the impostor lives");
    cluster.assert_sound();
    error
}

#[test]
fn a_process_that_ends_before_its_hello_is_told_with_its_status() {
    match error_of("hello=exit") {
        Error::Launch(LaunchError::ExitedEarly { status, .. }) => {
            assert_eq!(status, "exit status: 3");
        }
        other => panic!("{other:?}"),
    }
    let cluster = Cluster::start();
    match cluster.supervisor.pair(SpawnSpec::new("true")) {
        Err(Error::Launch(LaunchError::ExitedEarly { status, .. })) => {
            assert_eq!(status, "exit status: 0");
        }
        other => panic!("{other:?}"),
    }
    cluster.assert_sound();
}

#[test]
fn a_process_that_never_says_hello_costs_the_hello_timeout() {
    let error = error_of("hello=never");
    assert!(matches!(error, Error::NoHello) && error.to_string().contains("detect()"), "{error}");
}

#[test]
fn a_hello_that_lies_is_told_for_what_it_is() {
    match error_of("hello=wrong-pid") {
        Error::PeerMisbehaved(PeerMisbehaved::WrongPid { said, expected }) => {
            assert_eq!(said, expected + 1);
        }
        other => panic!("{other:?}"),
    }
    match error_of("hello=wrong-role") {
        Error::PeerMisbehaved(fault) => {
            assert_eq!(fault, PeerMisbehaved::WrongRole(Side::Incumbent));
        }
        other => panic!("{other:?}"),
    }
    match error_of("hello=wrong-version") {
        Error::VersionMismatch { our_max, their_min, their_max, .. } => {
            let expected = (PROTO_MAX, PROTO_MAX + 1, PROTO_MAX + 2);
            assert_eq!((our_max, their_min, their_max), expected);
        }
        other => panic!("{other:?}"),
    }
    match error_of("hello=garbage") {
        Error::Frame(FrameError::TooLong(length)) => assert_eq!(length, u32::MAX),
        other => panic!("{other:?}"),
    }
    match error_of("hello=other") {
        Error::PeerMisbehaved(fault) => {
            let (message, state) = ("Warmed", "greeting");
            assert_eq!(fault, PeerMisbehaved::Unexpected { message, state });
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_successor_that_falls_mute_after_its_hello_is_given_up() {
    let mut cluster = Cluster::start();
    let failed = cluster.paired(&["hello=mute"]).warm().expect_err("it says nothing");
    assert_eq!(failed.cause, Cause::SuccessorSilent(Phase::Warming));
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    cluster.assert_struck("hello", 1);
    cluster.assert_sound();
}

#[test]
fn where_no_daemon_listens_nothing_is_begun() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let control = directory.path().join("control");
    let error_kind = || {
        let supervisor = Supervisor::new(&control).expect("the path is short");
        match supervisor.pair(SpawnSpec::new("false")) {
            Err(Error::Path { path, source, .. }) => {
                assert_eq!(path, control);
                source.kind()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error_kind(), std::io::ErrorKind::NotFound);
    drop(UnixListener::bind(&control).expect("the path is free"));
    assert_eq!(error_kind(), std::io::ErrorKind::ConnectionRefused, "a stale socket");
    std::fs::remove_file(&control).expect("it is there");
    std::fs::write(&control, "").expect("the path is free");
    assert_eq!(error_kind(), std::io::ErrorKind::ConnectionRefused, "a file");
}

#[test]
fn what_listens_and_is_no_daemon_costs_one_limit() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let control = directory.path().join("control");
    let listener = UnixListener::bind(&control).expect("the path is free");
    let supervisor = Supervisor::new(&control).expect("the path is short");
    let begun = Instant::now();
    match supervisor.pair(SpawnSpec::new("false")) {
        Err(Error::TimedOut(what)) => assert_eq!(what, "waiting for the incumbent's hello"),
        other => panic!("{other:?}"),
    }
    assert!(begun.elapsed() < LIVENESS + Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(listener.accept().expect("it connected"));
    let talker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it connects");
        stream.write_all(b"220 mail.example.org ESMTP\r\n").expect("it reads");
        stream
    });
    match supervisor.pair(SpawnSpec::new("false")) {
        Err(Error::Frame(FrameError::TooLong(length))) => {
            assert_eq!(length, u32::from_le_bytes(*b"220 "));
        }
        other => panic!("{other:?}"),
    }
    talker.join().expect("it does not panic");
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_told_before_anything_is_begun() {
    let path = std::path::PathBuf::from(format!("/tmp/{}", "c".repeat(103)));
    match Supervisor::new(&path) {
        Err(Error::ControlSocket(ControlSocketError::TooLong { path: named, len, max })) => {
            assert_eq!((named, len, max), (path, 108, 107));
        }
        other => panic!("{other:?}"),
    }
}
