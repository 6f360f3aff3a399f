//! Hooks of the daemon that fail.

use std::time::{Duration, Instant};

use handoff::Phase;
use handoff::supervisor::{Cause, IncumbentFate};
use handoff_tests::fixture::DRAIN_BEGUN;
use handoff_tests::harness::Cluster;

/// The swap failed because the incumbent could not be sealed, with these words, and the
/// incumbent has confirmed that it serves.
fn assert_seal_failed(failed: &handoff::supervisor::Failed, words: &str) {
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    match &failed.cause {
        Cause::SealFailed { error, .. } => assert!(error.contains(words), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_drain_that_stops_accepting_and_fails_leaves_nobody_waiting() {
    for fault in ["drain=error", "drain=panic"] {
        let mut cluster = Cluster::start_with(&[fault]);
        let failed = cluster.swap_fails(&[]);
        assert_seal_failed(&failed, "as planned");
        cluster.assert_struck("drain", 1);
        cluster.wait_for_progress();
        cluster.assert_sound();
    }
}

#[test]
fn a_daemon_settles_while_it_serves() {
    let mut cluster = Cluster::start_carrying(&["settle=slow:1500"]);
    let old = cluster.serving();
    let spec = cluster.successor(&[]).spec();
    let session = cluster.supervisor.pair(spec).expect("both say hello");
    let session = session.warm().expect("it warms up");
    let prepared = std::thread::scope(|scope| {
        let swap = scope.spawn(|| session.prepare());
        cluster.wait_struck("settle");
        // Each of the clients is answered, and so is whoever comes.
        cluster.wait_for_progress();
        assert_eq!(cluster.ask("pid"), old.to_string());
        assert_eq!(cluster.struck(DRAIN_BEGUN, None), 0, "it was slow enough to see");
        swap.join().expect("no panic")
    });
    let committed = prepared.and_then(|prepared| prepared.seal()?.begin()?.commit());
    cluster.commit(committed.expect("it commits"));
    assert_eq!(cluster.struck(DRAIN_BEGUN, None), 1);
    cluster.assert_sound();
}

#[test]
fn a_settling_that_fails_or_panics_is_undone_before_anything_is_drained() {
    for fault in ["settle=error", "settle=panic"] {
        let mut cluster = Cluster::start_with(&[fault]);
        let failed = cluster.swap_fails(&[]);
        assert_seal_failed(&failed, "as planned");
        cluster.assert_struck("settle", 1);
        assert_eq!(cluster.struck(DRAIN_BEGUN, None), 0);
        cluster.wait_for_progress();
        cluster.assert_sound();
    }
}

#[test]
fn what_was_taken_over_is_settled_after_the_commit_and_a_failure_is_told() {
    for fault in ["settle=error", "settle=panic"] {
        let mut cluster = Cluster::start();
        cluster.swap(&[fault]).expect("it commits");
        cluster.wait_struck("settle");
        cluster.wait_logged(&[
            "ERROR",
            "that the incumbent left unsynced are not durable yet",
            "settle",
        ]);
        cluster.wait_for_progress();
        // Also by the next swap, once.
        let failed = cluster.swap_fails(&[]);
        assert_seal_failed(&failed, "as planned");
        assert_eq!(cluster.struck(DRAIN_BEGUN, None), 1, "that of the first swap");
        cluster.swap(&[]).expect("it was told");
        cluster.assert_sound();
    }
}

#[test]
fn a_drain_waits_for_what_is_settled_after_the_commit() {
    let mut cluster = Cluster::start();
    cluster.swap(&["settle=slow:3000"]).expect("it commits");
    let session = cluster.paired(&[]).warm().expect("it warms up");
    cluster.wait_struck("settle");
    let sealed = std::thread::scope(|scope| {
        let swap = scope.spawn(|| session.prepare_and_seal());
        // Long enough for a drain that does not wait.
        for _ in 0..20 {
            cluster.wait_for_progress();
        }
        assert_eq!(cluster.struck(DRAIN_BEGUN, None), 1, "it was slow enough to see");
        swap.join().expect("no panic")
    });
    let committed = sealed.and_then(|sealed| sealed.begin()?.commit());
    cluster.commit(committed.expect("it commits"));
    assert_eq!(cluster.struck(DRAIN_BEGUN, None), 2);
    cluster.assert_sound();
}

#[test]
fn a_successor_that_cannot_admit_is_ended_and_the_incumbent_serves() {
    let mut cluster = Cluster::start();
    let old = cluster.serving();
    let mut spec = cluster.successor(&["admit=error*1000"]);
    spec.deadline = Duration::from_millis(1500);
    let failed = cluster.swap_to(&spec).expect_err("it cannot admit");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    assert_eq!(failed.cause, Cause::DeadlinePassed(Phase::Committing));
    assert!(cluster.struck("admit", None) > 1, "it was tried again");
    cluster.wait_for_progress();
    assert_eq!(cluster.ask("pid"), old.to_string());
    cluster.assert_sound();
}

#[test]
fn a_seal_that_was_asked_for_ahead_is_undone_with_its_drain() {
    for fault in ["drain=error", "seal=error", "seal=panic"] {
        let mut cluster = Cluster::start_with(&[fault]);
        let session = cluster.paired(&[]).warm().expect("it warms up");
        let failed = session.prepare_and_seal().expect_err("a hook fails");
        let failed = cluster.note(failed);
        assert_seal_failed(&failed, "as planned");
        assert_eq!(failed.incumbent, IncumbentFate::Serving);
        cluster.wait_for_progress();
        // And the next one goes through.
        cluster.swap(&[]).expect("nothing is left of it");
        cluster.assert_sound();
    }
}

#[test]
fn a_seal_that_fails_or_panics_keeps_the_lock() {
    for fault in ["seal=error", "seal=panic"] {
        let mut cluster = Cluster::start_with(&[fault]);
        let serving = cluster.serving();
        let failed = cluster.swap_fails(&[]);
        assert_seal_failed(&failed, "as planned");
        cluster.assert_struck("seal", 1);
        cluster.assert_locked_by(serving);
        cluster.wait_for_progress();
        cluster.assert_sound();
    }
}

#[test]
fn a_seal_that_fails_again_and_again_is_reported_when_the_daemon_serves() {
    let mut cluster = Cluster::start_with(&["seal=error*50"]);
    let serving = cluster.serving();
    for round in 1..=50 {
        let failed = cluster.swap_fails(&[]);
        assert_seal_failed(&failed, "seal fails as planned");
        assert_eq!(cluster.struck("seal", Some(serving)), round);
        assert_eq!(cluster.control_owner(), Some(serving));
        cluster.assert_locked_by(serving);
        let reply = cluster.ask(&format!("put round {round}"));
        assert!(reply.starts_with("ok "), "{reply}");
    }
    cluster.assert_sound();
}

#[test]
fn a_resume_that_fails_is_tried_again_and_nothing_is_reported_before() {
    for faults in [["seal=error", "resume=error*2"], ["drain=error", "resume=panic*2"]] {
        let mut cluster = Cluster::start_with(&faults);
        let serving = cluster.serving();
        let failed = cluster.swap_fails(&[]);
        assert_seal_failed(&failed, "as planned");
        assert_eq!(cluster.struck("resume", Some(serving)), 2, "when it was reported");
        cluster.wait_for_progress();
        cluster.assert_sound();
    }
}

#[test]
fn a_resume_that_fails_after_the_lock_was_taken_again_is_tried_again() {
    let mut cluster = Cluster::start_with(&["resume=error*2"]);
    let session = cluster.sealed(&[]);
    let rolled_back = session.abort("on a whim");
    assert_eq!(rolled_back.incumbent, IncumbentFate::Serving);
    cluster.assert_struck("resume", 2);
    cluster.wait_for_progress();
    cluster.assert_sound();
}

#[test]
fn a_hook_that_panics_while_opening_rolls_back() {
    for (fault, at) in [("open=panic", "open"), ("warm=panic", "warm"), ("open=exit", "open")] {
        let mut cluster = Cluster::start();
        let failed = cluster.swap_fails(&[fault]);
        assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
        let ended = matches!(failed.cause, Cause::SuccessorLost(_) | Cause::SuccessorGaveUp(_));
        assert!(ended, "{fault}: {:?}", failed.cause);
        cluster.assert_struck(at, 1);
        cluster.assert_sound();
    }
}

#[test]
fn an_opening_or_a_warm_up_that_fails_is_told_in_its_words() {
    for at in ["open", "warm"] {
        let mut cluster = Cluster::start();
        let failed = cluster.swap_fails(&[&format!("{at}=error")]);
        assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
        assert_eq!(failed.cause, Cause::SuccessorGaveUp(format!("{at} fails as planned")));
        cluster.assert_struck(at, 1);
        cluster.assert_sound();
    }
}

#[test]
fn a_disk_that_takes_no_more_at_the_seal_undoes_the_swap() {
    let mut cluster = Cluster::start();
    // The fault is planned in the second daemon, which can ignore the signal.
    let spec = cluster.successor(&["seal=full"]).spec_ignoring_xfsz();
    let outcome = cluster.supervisor.perform_handoff(spec).expect("it can be begun");
    match outcome {
        handoff::supervisor::HandoffOutcome::Committed(committed) => cluster.commit(committed),
        other => panic!("{other:?}"),
    }
    let failed = cluster.swap_fails(&[]);
    assert_seal_failed(&failed, "File too large");
    cluster.assert_struck("seal", 1);
    cluster.wait_for_progress();
    cluster.assert_sound();
}

#[test]
fn a_disk_that_takes_no_more_at_the_commit_undoes_the_swap() {
    let mut cluster = Cluster::start();
    let spec = cluster.successor(&["open=full"]).spec_ignoring_xfsz();
    let outcome = cluster.supervisor.perform_handoff(spec).expect("it can be begun");
    match outcome {
        handoff::supervisor::HandoffOutcome::Failed(failed) => {
            assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
            match &failed.cause {
                Cause::SuccessorGaveUp(words) => {
                    assert!(words.contains("File too large"), "{words}");
                }
                other => panic!("{other:?}"),
            }
        }
        other => panic!("committed, although nothing could be written: {other:?}"),
    }
    cluster.assert_struck("open", 1);
    cluster.assert_sound();
}

#[test]
fn a_drain_that_lingers_is_cut_short_by_an_abort() {
    let mut cluster = Cluster::start_with(&["drain=linger:30000"]);
    let mut spec = cluster.successor(&[]);
    spec.deadline = Duration::from_millis(700);
    let begun = Instant::now();
    let failed = cluster.swap_to(&spec).expect_err("the deadline passes");
    assert!(begun.elapsed().as_secs() < 5, "the drain was waited for");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    let at_the_deadline =
        matches!(failed.cause, Cause::DeadlinePassed(Phase::Draining) | Cause::IncumbentAborted(_));
    assert!(at_the_deadline, "{:?}", failed.cause);
    cluster.assert_struck("drain", 1);
    cluster.assert_sound();
}

#[test]
fn a_request_that_outlives_a_drain_that_was_cut_short_is_not_lost() {
    let mut cluster = Cluster::start_with(&["put=slow:4000"]);
    cluster.wait_struck("put");
    let mut spec = cluster.successor(&[]);
    spec.deadline = Duration::from_millis(400);
    let begun = Instant::now();
    let failed = cluster.swap_to(&spec).expect_err("the deadline passes");
    assert!(begun.elapsed() < Duration::from_secs(3), "the request was waited for");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    cluster.assert_struck("put", 1);
    cluster.wait_for_progress();
    cluster.assert_sound();
}

/// What a drain waits for is asked on a thread that nobody waits for.
#[test]
fn a_look_at_the_state_that_hangs_or_panics_holds_no_drain_up() {
    for fault in ["snapshot=slow:60000", "snapshot=panic"] {
        let mut cluster = Cluster::start_with(&["drain=linger:1500", fault]);
        let old = cluster.serving();
        let begun = Instant::now();
        cluster.swap(&[]).expect("it commits");
        assert!(begun.elapsed() < Duration::from_secs(10), "{fault}: {:?}", begun.elapsed());
        assert_eq!(cluster.struck("snapshot", Some(old)), 1, "{fault}");
        cluster.wait_until_alone();
        cluster.assert_sound();
    }
}

#[test]
fn an_incumbent_that_cannot_start_its_hooks_says_so_and_serves_on() {
    let mut cluster = Cluster::start_with(&["incumbent.begins=error"]);
    assert_seal_failed(&cluster.swap_fails(&[]), "cannot start the thread of the hooks");
    cluster.assert_struck("incumbent.begins", 1);
    cluster.swap(&[]).expect("its thread can be started again");
    cluster.assert_sound();
}
