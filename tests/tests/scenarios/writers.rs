//! Whoever would write beside the writer.

use std::time::{Duration, Instant};

use handoff::supervisor::{Cause, IncumbentFate};
use handoff::{DataDirLock, DrainReport, Drainable, Error, Incumbent, SealReport, StateSnapshot};
use handoff_tests::harness::Cluster;

#[test]
fn a_stray_cold_start_between_seal_and_begin_does_not_get_the_lock() {
    let mut cluster = Cluster::start();
    let session = cluster.sealed(&[]);
    let successor = session.successor_pid();
    for _ in 0..3 {
        match DataDirLock::acquire_or_break_stale(&cluster.data()) {
            Err(Error::Reserved { successor_pid, data_dir }) => {
                assert_eq!((successor_pid, data_dir), (successor, cluster.data()));
            }
            other => panic!("{other:?}"),
        }
        let output = cluster.run_by_hand(|_, _, _| ());
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("is reserved for process {successor}")), "{said}");
    }
    let session = session.begin().expect("the lock is the successor's");
    cluster.commit(session.commit().expect("it commits"));
    cluster.assert_sound();
}

#[test]
fn a_lock_that_is_reserved_for_a_dead_successor_is_free() {
    let mut cluster = Cluster::start();
    let session = cluster.sealed(&[]);
    cluster.kill(session.successor_pid());
    let serving = cluster.serving();
    cluster.kill(serving);
    let failed = session.begin().expect_err("both are dead");
    assert_eq!(failed.incumbent, IncumbentFate::Lost, "{failed}");
    assert!(failed.promoted.is_none());
    let spec = cluster.successor(&[]).spec();
    let first = cluster.supervisor.start(&spec).expect("nobody stands in its way");
    cluster.begin_anew(first);
    cluster.assert_sound();
}

#[test]
fn a_thief_of_the_free_lock_delays_the_incumbent_and_replaces_nobody() {
    let mut cluster = Cluster::start();
    let session = cluster.sealed(&[]);
    let thief = DataDirLock::acquire(&cluster.data()).expect("it asks nobody");
    let swap = std::thread::spawn(move || session.begin());
    // The successor gives up first, and then the incumbent has to wait.
    let own = std::process::id();
    assert_eq!(thief.data_dir(), cluster.data());
    cluster.wait_until_alone();
    drop(thief);
    let failed = swap.join().expect("it does not panic").expect_err("the lock was stolen");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    match &failed.cause {
        Cause::SuccessorGaveUp(words) => {
            assert!(words.contains(&format!("is held by process {own}")), "{words}");
        }
        other => panic!("{other:?}"),
    }
    cluster.assert_sound();
}

#[test]
fn a_successor_does_not_take_over_from_a_thief_that_may_have_written() {
    let mut cluster = Cluster::start();
    let session = cluster.sealed(&[]);
    drop(DataDirLock::acquire(&cluster.data()).expect("it asks nobody"));
    let failed = session.begin().expect_err("another writer came between");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    match &failed.cause {
        Cause::SuccessorGaveUp(words) => {
            assert!(words.contains("released it, so no successor may take it over"), "{words}");
        }
        other => panic!("{other:?}"),
    }
    cluster.assert_sound();
}

/// A daemon whose first admission fails, by an error or a panic.
struct NeverAdmits(bool);

impl Drainable for NeverAdmits {
    fn drain(&self, _: Instant) -> handoff::Result<DrainReport> {
        Ok(DrainReport::default())
    }
    fn seal(&self) -> handoff::Result<SealReport> {
        Ok(SealReport::default())
    }
    fn resume_after_abort(&self) -> handoff::Result<()> {
        Ok(())
    }
    fn snapshot_state(&self) -> StateSnapshot {
        StateSnapshot::default()
    }
    fn admit(&self) -> handoff::Result<()> {
        assert!(!self.0, "admit panics as planned");
        Err(std::io::Error::other("admit fails as planned").into())
    }
}

#[test]
fn a_serve_loop_that_ends_in_an_error_does_not_free_the_lock() {
    for panics in [false, true] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let data = directory.path().join("data");
        let lock = DataDirLock::acquire(&data).expect("it is free");
        let control = directory.path().join("control");
        let incumbent = Incumbent::bind_cold_start(&control, lock).expect("the path is free");
        match incumbent.serve(NeverAdmits(panics)) {
            Err(Error::Io(error)) if !panics => {
                assert_eq!(error.to_string(), "admit fails as planned");
            }
            Err(Error::HookPanicked { hook: "admit", message }) if panics => {
                assert_eq!(message, "admit panics as planned");
            }
            other => panic!("{other:?}"),
        }
        match DataDirLock::acquire(&data) {
            Err(Error::LockHeld { holder_pid, .. }) => assert_eq!(holder_pid, std::process::id()),
            other => panic!("a second writer is not refused: {other:?}"),
        }
    }
}

#[test]
fn a_swap_is_over_soon_when_the_successor_cannot_have_the_lock() {
    let mut cluster = Cluster::start();
    let mut spec = cluster.successor(&[]);
    let other = tempfile::tempdir().expect("a temporary directory");
    let _held = DataDirLock::acquire(other.path()).expect("it is free");
    spec.options.data = other.path().to_owned();
    let begun = Instant::now();
    let failed = cluster.swap_to(&spec).expect_err("another process has the lock");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    match &failed.cause {
        Cause::SuccessorGaveUp(words) => assert!(words.contains("is held by process"), "{words}"),
        other => panic!("{other:?}"),
    }
    cluster.assert_sound();
}
