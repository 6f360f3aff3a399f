//! A supervisor that is started after another one died.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use handoff::error::ControlSocketError;
use handoff::supervisor::{AdoptedDaemon, Adoption};
use handoff::{Error, Supervisor};
use handoff::{Outcome, Phase};
use handoff_tests::harness::{Cluster, HelperSupervisor, TIMEOUT, eventually, kill, kill_and_wait};
use rustix::process::Signal;

/// Adopts with a new supervisor, which the cluster goes on with.
fn adopt(cluster: &mut Cluster) -> AdoptedDaemon {
    let mut supervisor = cluster.another_supervisor();
    match supervisor.adopt(TIMEOUT).expect("what is there can be adopted") {
        Adoption::Daemon(daemon) => {
            cluster.go_on_with(supervisor, &daemon);
            daemon
        }
        other => panic!("a daemon serves: {other:?}"),
    }
}

#[test]
fn a_daemon_gives_its_listeners_back_and_is_watched_and_swapped() {
    let mut cluster = Cluster::start();
    let (serving, address) = (cluster.serving(), cluster.address());
    let daemon = adopt(&mut cluster);
    assert_eq!((daemon.process.pid(), &*daemon.build_id), (serving, &b"build-1"[..]));
    assert_eq!((&*daemon.listeners, daemon.resolved), (&["main".to_owned()][..], None));
    let listeners: Vec<_> = cluster.supervisor.listeners().collect();
    let [("main", listener)] = listeners[..] else { panic!("{listeners:?}") };
    let listener = TcpListener::from(listener.try_clone_to_owned().expect("a descriptor is left"));
    assert_eq!(listener.local_addr().expect("it is bound"), address);
    assert!(daemon.process.is_alive().expect("it can be polled"));
    cluster.swap(&[]).expect("it is swapped with the listener that it gave back");
    assert!(daemon.process.wait_until(Instant::now() + TIMEOUT).expect("it can be polled"));
    cluster.assert_sound();
}

/// In their order, of any kind, and several of one name.
#[test]
fn listeners_come_back_as_they_were_passed() {
    let tcp = || TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let unix = UnixListener::bind(directory.path().join("unix")).expect("it can be bound");
    let others: Vec<(&str, OwnedFd)> = vec![
        ("dns", tcp().into()),
        ("admin", unix.into()),
        ("dns", udp.into()),
        ("dns", tcp().into()),
    ];
    let mut cluster = Cluster::start_passing(&[], others);
    let before = cluster.ask("listeners");
    assert_eq!(before.split(',').count(), 4, "{before}");
    let daemon = adopt(&mut cluster);
    assert_eq!(daemon.listeners, ["main", "dns", "admin", "dns", "dns"]);
    cluster.swap(&[]).expect("it is swapped with the listeners that it gave back");
    assert_eq!(cluster.ask("listeners"), before, "each is what it was");
    // And so once more, from the successor, when that supervisor is gone.
    let control = cluster.control();
    cluster.supervise(|_| Supervisor::new(&control).expect("the path is short"));
    adopt(&mut cluster);
    cluster.swap(&[]).expect("it is swapped again");
    assert_eq!(cluster.ask("listeners"), before, "each is what it was");
    cluster.assert_sound();
}

#[test]
fn a_daemon_is_not_started_beside_one_that_serves() {
    let mut cluster = Cluster::start();
    let spec = cluster.successor(&[]).spec();
    match cluster.supervisor.start(&spec) {
        Err(Error::ControlSocket(ControlSocketError::Served { pid, path })) => {
            assert_eq!((pid, path), (cluster.serving(), cluster.control()));
        }
        other => panic!("one serves: {other:?}"),
    }
    cluster.assert_sound();
}

#[test]
fn the_end_of_an_adopted_daemon_is_seen_although_it_is_no_child() {
    let mut cluster = Cluster::start();
    // Its supervisor is another process, which dies: it is nobody's child of ours.
    let spec = cluster.successor(&[]);
    let mut supervisor = HelperSupervisor::start(&cluster, &spec, Phase::Committed, "kill");
    supervisor.wait_until_it_died();
    cluster.lose_sight();
    let daemon = adopt(&mut cluster);
    assert_eq!(cluster.ask("build"), "build-2");
    let watched = daemon.process.as_fd().try_clone_to_owned().expect("a descriptor is left");
    kill(daemon.process.pid(), Signal::KILL);
    assert!(daemon.process.wait_until(Instant::now() + TIMEOUT).expect("it can be polled"));
    assert!(!daemon.process.is_alive().expect("it can be polled"));
    drop(watched);
    let spec = cluster.successor(&[]).spec();
    let first = cluster.supervisor.start(&spec).expect("it has the listeners");
    cluster.begin_anew(first);
    cluster.assert_sound();
}

#[test]
fn a_swap_is_resolved_in_whatever_phase_its_supervisor_died() {
    for (phase, build, outcome) in [
        (Phase::Paired, "build-1", Outcome::RolledBack),
        (Phase::Warming, "build-1", Outcome::RolledBack),
        (Phase::Warmed, "build-1", Outcome::RolledBack),
        (Phase::Draining, "build-1", Outcome::RolledBack),
        (Phase::Prepared, "build-1", Outcome::RolledBack),
        (Phase::Sealing, "build-1", Outcome::RolledBack),
        (Phase::Sealed, "build-1", Outcome::RolledBack),
        (Phase::Opening, "build-1", Outcome::RolledBack),
        (Phase::Ready, "build-1", Outcome::RolledBack),
        (Phase::Committing, "build-2", Outcome::Committed),
        (Phase::Committed, "build-2", Outcome::Committed),
    ] {
        let mut cluster = Cluster::start();
        let spec = cluster.successor(&["warm=slow:200"]);
        let mut supervisor = HelperSupervisor::start(&cluster, &spec, phase, "kill");
        supervisor.wait_until_it_died();
        let daemon = adopt(&mut cluster);
        let resolved = daemon.resolved.expect("a swap was in flight");
        assert_eq!(resolved.outcome, outcome, "killed when {phase}");
        assert_eq!(cluster.ask("build"), build, "killed when {phase}");
        cluster.assert_sound();
    }
}

/// Both processes of the open swap are dead, and the journal does not know the daemon that serves: its
/// last lines were not written.
#[test]
fn a_swap_whose_processes_are_dead_is_not_told_as_lost_while_a_daemon_serves() {
    let mut cluster = Cluster::start();
    let spec = cluster.successor(&[]);
    let mut supervisor = HelperSupervisor::start(&cluster, &spec, Phase::Committed, "kill");
    supervisor.wait_until_it_died();
    cluster.alive().into_iter().for_each(kill_and_wait);
    cluster.lose_sight();
    let spec = cluster.successor(&[]).spec();
    let first = cluster.supervisor.start(&spec).expect("nobody serves");
    cluster.begin_anew(first);
    let daemon = adopt(&mut cluster);
    let resolved = daemon.resolved.expect("a swap was in flight");
    assert_eq!(resolved.outcome, Outcome::Unknown);
    cluster.assert_sound();
}

/// The successor hangs too, so that it can neither give up nor go on.
#[test]
fn a_successor_that_hangs_is_ended_and_the_incumbent_serves() {
    for (phase, fault) in [(Phase::Warming, "warm=slow:60000"), (Phase::Opening, "open=slow:60000")]
    {
        let mut cluster = Cluster::start();
        let spec = cluster.successor(&[fault]);
        let mut supervisor = HelperSupervisor::start(&cluster, &spec, phase, "stop");
        supervisor.wait_for_its_phase();
        cluster.wait_struck(phase.name().get(..4).expect("it is long enough"));
        let successor = cluster.alive().into_iter().find(|pid| *pid != cluster.serving());
        let successor = successor.expect("it was started");
        kill(successor, Signal::STOP);
        drop(supervisor);
        let daemon = adopt(&mut cluster);
        let resolved = daemon.resolved.expect("a swap was in flight");
        assert_eq!(resolved.outcome, Outcome::RolledBack, "hung when {phase}");
        assert_eq!(cluster.ask("build"), "build-1");
        eventually("it is ended", TIMEOUT, || {
            (!cluster.alive().contains(&successor)).then_some(())
        });
        cluster.assert_sound();
    }
}

/// It says hello only once it admits work, and that may take long.
#[test]
fn a_successor_that_has_committed_and_is_slow_to_serve_is_waited_for() {
    let mut cluster = Cluster::start();
    let incumbent = cluster.serving();
    let spec = cluster.successor(&["admit=slow:7000"]);
    let mut supervisor = HelperSupervisor::start(&cluster, &spec, Phase::Committing, "kill");
    supervisor.wait_until_it_died();
    cluster.wait_struck("admit");
    // One that is asked to serve meanwhile waits for the supervisor, which ends the slow successor.
    eventually("the incumbent leaves", TIMEOUT, || {
        (!cluster.alive().contains(&incumbent)).then_some(())
    });
    let mut supervisor = cluster.another_supervisor();
    match supervisor.adopt(Duration::from_millis(300)) {
        Err(Error::Unanswered { .. }) => {}
        other => panic!("it does not answer yet: {other:?}"),
    }
    match supervisor.adopt(TIMEOUT).expect("it answers in the end") {
        Adoption::Daemon(daemon) => {
            let resolved = daemon.resolved.clone().expect("a swap was in flight");
            assert_eq!(resolved.outcome, Outcome::Committed);
            assert_eq!(resolved.successor_pid, daemon.process.pid());
            cluster.go_on_with(supervisor, &daemon);
        }
        other => panic!("it serves: {other:?}"),
    }
    assert_eq!(cluster.ask("build"), "build-2");
    cluster.assert_sound();
}

/// With the supervisor and the incumbent dead the successor is all there is.
#[test]
fn a_successor_that_is_alone_serves() {
    for (phase, faults) in [
        (Phase::Sealed, &[][..]),
        (Phase::Opening, &["open=slow:1000"][..]),
        (Phase::Opening, &["open=slow:7000"][..]),
        (Phase::Ready, &[][..]),
    ] {
        let mut cluster = Cluster::start();
        let incumbent = cluster.serving();
        let spec = cluster.successor(faults);
        let mut supervisor = HelperSupervisor::start(&cluster, &spec, phase, "stop");
        supervisor.wait_for_its_phase();
        cluster.kill(incumbent);
        drop(supervisor);
        cluster.lose_sight();
        let daemon = adopt(&mut cluster);
        let resolved = daemon.resolved.expect("a swap was in flight");
        assert_eq!(resolved.outcome, Outcome::Committed, "alone when {phase}, {faults:?}");
        assert_eq!(cluster.ask("build"), "build-2");
        cluster.assert_sound();
    }
}

#[test]
fn one_that_is_alone_and_unwell_does_not_serve_and_the_next_supervisor_is_told() {
    let mut cluster = Cluster::start();
    let incumbent = cluster.serving();
    let spec = cluster.successor(&["health=bad", "open=slow:500"]);
    let mut supervisor = HelperSupervisor::start(&cluster, &spec, Phase::Opening, "stop");
    supervisor.wait_for_its_phase();
    cluster.kill(incumbent);
    drop(supervisor);
    cluster.lose_sight();
    let mut supervisor = cluster.another_supervisor();
    match supervisor.adopt(TIMEOUT).expect("there is nothing to wait for") {
        Adoption::Nothing { resolved: Some(resolved) } => {
            assert_eq!(resolved.outcome, Outcome::Lost);
        }
        other => panic!("nobody serves: {other:?}"),
    }
    let copy = cluster.listener.try_clone().expect("a descriptor is left");
    supervisor.add_listener("main", copy);
    let spec = cluster.successor(&[]).spec();
    let first = supervisor.start(&spec).expect("nobody stands in its way");
    cluster.supervisor = supervisor;
    cluster.begin_anew(first);
    cluster.assert_sound();
}

#[test]
fn where_nothing_is_left_nothing_is_adopted_and_a_second_supervisor_is_refused() {
    let cluster = Cluster::start();
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let (control, journal) = (elsewhere.path().join("control"), elsewhere.path().join("journal"));
    let supervisor = || handoff::Supervisor::new(&control).expect("the path is short");
    let mut first = supervisor().with_journal(&journal).expect("nobody has it");
    let found = first.adopt(TIMEOUT).expect("there is nothing to wait for");
    assert!(matches!(found, Adoption::Nothing { resolved: None }), "{found:?}");
    match supervisor().with_journal(&journal) {
        Err(Error::Supervised(path)) => assert_eq!(path, journal),
        other => panic!("one has it: {other:?}"),
    }
    cluster.assert_sound();
}

#[test]
fn a_daemon_that_hangs_is_not_taken_for_none() {
    let mut cluster = Cluster::start();
    let serving = cluster.serving();
    kill(serving, Signal::STOP);
    let mut supervisor = cluster.another_supervisor();
    match supervisor.adopt(Duration::from_millis(300)) {
        Err(Error::Unanswered { pid, .. }) => assert_eq!(pid, serving),
        other => panic!("it does not answer: {other:?}"),
    }
    kill(serving, Signal::CONT);
    match supervisor.adopt(TIMEOUT).expect("it answers again") {
        Adoption::Daemon(daemon) => cluster.go_on_with(supervisor, &daemon),
        other => panic!("it serves: {other:?}"),
    }
    cluster.assert_sound();
}

#[test]
fn a_swap_of_another_supervisor_is_not_disturbed() {
    let mut cluster = Cluster::start();
    let session = cluster.prepared(&[]);
    let mut supervisor = cluster.another_supervisor();
    match supervisor.adopt(Duration::from_millis(300)) {
        Err(Error::Aborted { reason, .. }) => {
            assert_eq!(reason, format!("swap {} is in flight", session.handoff_id()));
        }
        other => panic!("a swap is in flight: {other:?}"),
    }
    let swap = || session.seal()?.begin()?.commit();
    cluster.commit(swap().expect("it is not disturbed"));
    cluster.assert_sound();
}
