//! Processes that die or hang at the worst moment.

use std::time::{Duration, Instant};

use handoff::Phase;
use handoff::supervisor::{Cause, IncumbentFate};
use handoff_tests::harness::{Cluster, HelperSupervisor, LIVENESS, kill};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

/// The faults of the incumbent and of the successor, where death strikes, and in what state.
type Death = (&'static [&'static str], &'static [&'static str], &'static str, Phase);

#[test]
fn an_incumbent_killed_before_it_is_sealed_is_replaced_by_the_healthy_successor() {
    let deaths: [Death; 5] = [
        (&["seal=slow:20000"], &[], "seal", Phase::Sealing),
        (&["seal=exit"], &[], "seal", Phase::Sealing),
        (&["drain=linger:20000"], &[], "drain", Phase::Draining),
        (&["drain=exit"], &[], "drain", Phase::Draining),
        (&[], &["warm=slow:500"], "warm", Phase::Warming),
    ];
    for (incumbent, successor, at, during) in deaths {
        let mut cluster = Cluster::start_with(incumbent);
        cluster.resets_expected = true;
        let killer = cluster.signal_when(at, cluster.serving(), Signal::KILL);
        let failed = cluster.swap(successor).expect_err("the incumbent was lost");
        killer.join().expect("it does not panic");
        assert_eq!(failed.incumbent, IncumbentFate::Lost, "{failed}");
        // It seals at once, and may die before it has said that it is drained.
        let is_seen = |phase| failed.cause == Cause::IncumbentDied(phase);
        assert!(is_seen(during) || at == "seal" && is_seen(Phase::Draining), "{failed}");
        assert_eq!(cluster.ask("build"), "build-2", "the successor was promoted");
        cluster.assert_struck(at, 1);
        cluster.assert_sound();
    }
}

/// A deadline protects an incumbent. With none left, the opening takes the time it takes, and
/// the supervisor waits for it without burning any.
#[test]
fn a_successor_that_is_all_there_is_outlives_the_deadline() {
    let mut cluster = Cluster::start_with(&["drain=exit"]);
    cluster.resets_expected = true;
    let mut spec = cluster.successor(&["open=slow:6500"]);
    spec.deadline = Duration::from_millis(1000);
    let (begun, spent) = (Instant::now(), clock_gettime(ClockId::ThreadCPUTime));
    let failed = cluster.swap_to(&spec).expect_err("the incumbent was lost");
    let spent = clock_gettime(ClockId::ThreadCPUTime) - spent;
    let spent = Duration::try_from(spent).expect("a clock goes forward");
    assert!(spent * 10 < begun.elapsed(), "it spins: {spent:?} of {:?}", begun.elapsed());
    assert_eq!(failed.incumbent, IncumbentFate::Lost, "{failed}");
    assert_eq!(failed.cause, Cause::IncumbentDied(Phase::Draining));
    assert_eq!(cluster.ask("build"), "build-2", "the successor was promoted");
    cluster.assert_struck("open", 1);
    cluster.assert_sound();
}

#[test]
fn an_incumbent_killed_between_the_phases_is_replaced_too() {
    // Drained, and told so; nothing waits for it.
    let mut cluster = Cluster::start();
    let session = cluster.prepared(&[]);
    cluster.kill(cluster.serving());
    let failed = session.seal().expect_err("the incumbent was lost");
    // Its end may be seen before it is asked to seal, or after.
    let died = matches!(failed.cause, Cause::IncumbentDied(Phase::Prepared | Phase::Sealing));
    assert!(died, "{failed}");
    let failed = cluster.note(failed);
    assert_eq!(failed.incumbent, IncumbentFate::Lost, "{failed}");
    cluster.assert_sound();

    // Sealed: it has done all that it was needed for.
    let mut cluster = Cluster::start();
    let session = cluster.sealed(&[]);
    cluster.kill(cluster.serving());
    let session = session.begin().expect("the successor is healthy");
    cluster.commit(session.commit().expect("it commits"));
    cluster.assert_sound();

    // The successor could serve.
    let mut cluster = Cluster::start();
    let session = cluster.ready(&[]);
    cluster.kill(cluster.serving());
    cluster.commit(session.commit().expect("it commits"));
    cluster.assert_sound();
}

#[test]
fn where_both_fail_the_report_says_that_nobody_serves() {
    let mut cluster = Cluster::start_with(&["seal=exit"]);
    cluster.resets_expected = true;
    let failed = cluster.swap_fails(&["open=error"]);
    assert_eq!(failed.incumbent, IncumbentFate::Lost, "{failed}");
    assert!(failed.promoted.is_none(), "{failed}");
    cluster.assert_struck("seal", 1);
    cluster.assert_struck("open", 1);
    assert_eq!(cluster.control_owner(), None);
    assert_eq!(cluster.alive(), []);
    let spec = cluster.successor(&[]).spec();
    let first = cluster.supervisor.start(&spec).expect("nobody stands in its way");
    cluster.begin_anew(first);
    cluster.assert_sound();
}

#[test]
fn a_successor_that_dies_ends_the_swap_at_once() {
    let deaths: [Death; 4] = [
        (&[], &["warm=slow:20000"], "warm", Phase::Warming),
        (&["drain=linger:20000"], &[], "drain", Phase::Draining),
        // A seal cannot be interrupted, so it is waited for.
        (&["seal=slow:1000"], &[], "seal", Phase::Sealing),
        (&[], &["open=slow:20000"], "open", Phase::Opening),
    ];
    for (incumbent, successor, at, during) in deaths {
        let mut cluster = Cluster::start_with(incumbent);
        let session = cluster.paired(successor);
        let killer = cluster.signal_when(at, session.successor_pid(), Signal::KILL);
        let begun = Instant::now();
        let swap = || session.warm()?.prepare()?.seal()?.begin()?.commit();
        let failed = swap().expect_err("the successor was lost");
        assert!(begun.elapsed() < Duration::from_secs(4), "{at}: {:?}", begun.elapsed());
        killer.join().expect("it does not panic");
        assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
        assert_eq!(failed.cause, Cause::SuccessorLost(during));
        cluster.assert_struck(at, 1);
        cluster.assert_sound();
    }
}

#[test]
fn a_successor_that_dies_when_it_could_serve_is_noticed_at_the_commit() {
    let mut cluster = Cluster::start();
    let session = cluster.ready(&[]);
    kill(session.successor_pid(), Signal::KILL);
    let failed = session.commit().expect_err("the successor was lost");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    let lost = matches!(failed.cause, Cause::SuccessorLost(Phase::Ready | Phase::Committing));
    assert!(lost, "{:?}", failed.cause);
    cluster.assert_sound();
}

#[test]
fn a_successor_that_hangs_while_opening_is_given_up_and_ended() {
    let mut cluster = Cluster::start();
    let session = cluster.paired(&["open=slow:60000"]);
    let hung = session.successor_pid();
    let stopper = cluster.signal_when("open", hung, Signal::STOP);
    let swap = || session.warm()?.prepare()?.seal()?.begin()?.commit();
    let failed = swap().expect_err("the successor is hung");
    stopper.join().expect("it does not panic");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    assert_eq!(failed.cause, Cause::SuccessorSilent(Phase::Opening));
    assert!(!cluster.alive().contains(&hung), "it lives");
    cluster.assert_sound();
}

#[test]
fn an_incumbent_that_hangs_is_not_said_to_serve_and_serves_when_it_goes_on() {
    let mut cluster = Cluster::start_with(&["drain=linger:60000"]);
    let serving = cluster.serving();
    let stopper = cluster.signal_when("drain", serving, Signal::STOP);
    let failed = cluster.swap_fails(&[]);
    stopper.join().expect("it does not panic");
    assert_eq!(failed.incumbent, IncumbentFate::Unknown, "{failed}");
    assert_eq!(failed.cause, Cause::IncumbentSilent(Phase::Draining));
    kill(serving, Signal::CONT);
    cluster.wait_for_progress();
    cluster.assert_struck("drain", 1);
    cluster.assert_sound();
}

#[test]
fn a_supervisor_that_hangs_after_the_seal_costs_its_deadline_and_no_more() {
    let mut cluster = Cluster::start();
    let mut spec = cluster.successor(&[]);
    spec.deadline = Duration::from_millis(1000);
    let mut supervisor = HelperSupervisor::start(&cluster, &spec, Phase::Sealed, "stop");
    supervisor.wait_for_its_phase();
    let begun = Instant::now();
    cluster.wait_for_progress();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    cluster.assert_locked_by(cluster.serving());
    assert_eq!(cluster.ask("build"), "build-1");
    let report = supervisor.report();
    assert!(report.starts_with("failed Serving: "), "{report}");
    cluster.assert_sound();
}

#[test]
fn a_supervisor_that_hangs_while_the_successor_opens_leaves_the_incumbent_serving() {
    let mut cluster = Cluster::start();
    let mut spec = cluster.successor(&["open=slow:60000"]);
    spec.deadline = Duration::from_millis(1000);
    let mut supervisor = HelperSupervisor::start(&cluster, &spec, Phase::Opening, "stop");
    supervisor.wait_for_its_phase();
    let begun = Instant::now();
    cluster.wait_struck("open");
    cluster.wait_for_progress();
    let bound = spec.deadline + LIVENESS + Duration::from_secs(3);
    assert!(begun.elapsed() < bound, "{:?}", begun.elapsed());
    cluster.assert_one_serves();
    assert_eq!(cluster.ask("build"), "build-1");
    let report = supervisor.report();
    assert!(report.starts_with("failed Serving: "), "{report}");
    cluster.assert_sound();
}

#[test]
fn a_supervisor_that_dies_while_the_successor_opens_is_not_outlived_by_the_opening() {
    let mut cluster = Cluster::start();
    let spec = cluster.successor(&["open=slow:60000"]);
    let mut supervisor = HelperSupervisor::start(&cluster, &spec, Phase::Opening, "stop");
    supervisor.wait_for_its_phase();
    cluster.wait_struck("open");
    drop(supervisor);
    let begun = Instant::now();
    cluster.wait_for_progress();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(cluster.ask("build"), "build-1");
    cluster.assert_sound();
}

#[test]
fn a_hung_successor_without_a_supervisor_is_ended_by_the_incumbent() {
    let mut cluster = Cluster::start();
    let mut spec = cluster.successor(&["open=slow:60000"]);
    spec.deadline = Duration::from_millis(1000);
    let mut supervisor = HelperSupervisor::start(&cluster, &spec, Phase::Opening, "stop");
    supervisor.wait_for_its_phase();
    cluster.wait_struck("open");
    let serving = cluster.serving();
    let successor = cluster.alive().into_iter().find(|pid| *pid != serving);
    // It can neither see that its supervisor dies, nor give up the lock.
    kill(successor.expect("it opens"), Signal::STOP);
    drop(supervisor);
    let begun = Instant::now();
    cluster.wait_for_progress();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(cluster.ask("build"), "build-1");
    cluster.assert_sound();
}

#[test]
fn a_supervisor_that_hangs_at_the_commit_reports_the_commit_when_it_goes_on() {
    let mut cluster = Cluster::start();
    let spec = cluster.successor(&[]);
    let mut supervisor = HelperSupervisor::start(&cluster, &spec, Phase::Committing, "stop");
    supervisor.wait_for_its_phase();
    cluster.wait_for_progress();
    assert_eq!(cluster.ask("build"), "build-2");
    let report = supervisor.report();
    let pid = report.strip_prefix("committed ").and_then(|pid| pid.parse().ok());
    cluster.reported = Some(pid.expect("it reports a commit"));
    cluster.assert_sound();
}

#[test]
fn a_supervisor_killed_in_any_phase_leaves_one_process_serving() {
    for (phase, build) in [
        (Phase::Paired, "build-1"),
        (Phase::Warming, "build-1"),
        (Phase::Warmed, "build-1"),
        (Phase::Draining, "build-1"),
        (Phase::Prepared, "build-1"),
        (Phase::Sealing, "build-1"),
        (Phase::Sealed, "build-1"),
        (Phase::Opening, "build-1"),
        (Phase::Ready, "build-1"),
        (Phase::Committing, "build-2"),
        (Phase::Committed, "build-2"),
    ] {
        let mut cluster = Cluster::start();
        // One that is warm at once may skip the phase.
        let spec = cluster.successor(&["warm=slow:200"]);
        let mut supervisor = HelperSupervisor::start(&cluster, &spec, phase, "kill");
        supervisor.wait_until_it_died();
        cluster.lose_sight();
        cluster.wait_for_progress();
        assert_eq!(cluster.ask("build"), build, "killed when {phase}");
        cluster.assert_sound();
    }
}
