//! What an operator does to a service, and what happens to it.

use std::thread;
use std::time::Instant;

use handoff_tests::harness::{TIMEOUT, eventually};
use handoff_tests::kvd::Connection;
use rustix::process::Signal;

use crate::instance::{Instance, pid_in};

#[test]
fn a_service_is_started_once_its_daemon_serves() {
    let Some(kvd) = Instance::new("a_service_is_started_once_its_daemon_serves") else { return };
    kvd.configure(1, r#", "--open-delay", "700""#, "");
    kvd.start();
    let mut connection = Connection::to(kvd.port).expect("it listens");
    assert_eq!(connection.ask("PING").expect("it answers"), "PONG");
    assert!(kvd.property("StatusText").contains("serves as process"));
    assert_eq!(kvd.processes().len(), 2, "a supervisor and a daemon");
}

#[test]
fn a_reload_is_a_swap() {
    let Some(kvd) = Instance::started("a_reload_is_a_swap") else { return };
    let clients = kvd.clients();
    for build in 2..5 {
        clients.wait_for_progress();
        kvd.configure(build, "", "");
        let output = kvd.systemctl("reload");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(kvd.build(), build.to_string());
    }
    kvd.assert_unharmed(clients);
    assert_eq!(kvd.processes().len(), 2, "a supervisor and a daemon");
}

#[test]
fn a_reload_that_fails_is_told_and_the_daemon_serves_on() {
    let Some(kvd) = Instance::started("a_reload_that_fails_is_told_and_the_daemon_serves_on")
    else {
        return;
    };
    let (clients, daemon) = (kvd.clients(), kvd.daemon());
    // One that does not open its data, and one that does not start.
    for (build, args) in [(2, r#", "--fail-open""#), (3, r#", "--no-such-option""#)] {
        clients.wait_for_progress();
        kvd.configure(build, args, "");
        let output = kvd.systemctl("reload");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("failed"), "{told}");
        assert_eq!(kvd.property("ActiveState"), "active");
        assert_eq!((kvd.daemon(), kvd.build()), (daemon, "1".to_owned()));
    }
    kvd.configure(4, "", "");
    assert!(kvd.systemctl("reload").status.success());
    assert_eq!(kvd.build(), "4");
    kvd.assert_unharmed(clients);
}

#[test]
fn a_supervisor_that_is_killed_is_restarted_and_adopts() {
    let Some(kvd) = Instance::started("a_supervisor_that_is_killed_is_restarted_and_adopts") else {
        return;
    };
    let (clients, daemon) = (kvd.clients(), kvd.daemon());
    for _ in 0..3 {
        clients.wait_for_progress();
        let supervisor = kvd.supervisor();
        kvd.kill(supervisor, Signal::KILL);
        let status = kvd.wait_for_another_supervisor(supervisor);
        assert_eq!(pid_in(&status), Some(daemon));
    }
    kvd.configure(2, "", "");
    assert!(kvd.systemctl("reload").status.success());
    assert_eq!(kvd.build(), "2");
    kvd.assert_unharmed(clients);
}

#[test]
fn systemd_never_tires_of_supervisors_that_die() {
    let Some(kvd) = Instance::started("systemd_never_tires_of_supervisors_that_die") else {
        return;
    };
    kvd.drop_in(&kvd.service(), "[Service]\nRestartSec=0\n");
    let (clients, daemon) = (kvd.clients(), kvd.daemon());
    let mut supervisor = 0;
    // By default systemd makes five starts in 10 s.
    for _ in 0..8 {
        supervisor = eventually("there is another supervisor", TIMEOUT, || {
            Some(kvd.supervisor()).filter(|pid| *pid != 0 && *pid != supervisor)
        });
        kvd.kill(supervisor, Signal::KILL);
    }
    assert_eq!(pid_in(&kvd.wait_for_another_supervisor(supervisor)), Some(daemon));
    kvd.assert_unharmed(clients);
}

#[test]
fn a_restart_leaves_the_daemon_serving() {
    let Some(kvd) = Instance::started("a_restart_leaves_the_daemon_serving") else { return };
    let (clients, daemon) = (kvd.clients(), kvd.daemon());
    for _ in 0..3 {
        clients.wait_for_progress();
        let supervisor = kvd.supervisor();
        let output = kvd.systemctl("restart");
        assert!(output.status.success(), "{output:?}");
        assert_ne!(kvd.supervisor(), supervisor);
        assert_eq!(kvd.daemon(), daemon);
    }
    kvd.configure(2, "", "");
    assert!(kvd.systemctl("reload").status.success());
    assert_eq!(kvd.build(), "2");
    kvd.assert_unharmed(clients);
}

#[test]
fn a_restart_in_a_swap_leaves_a_daemon_serving() {
    let Some(kvd) = Instance::started("a_restart_in_a_swap_leaves_a_daemon_serving") else {
        return;
    };
    let (clients, supervisor) = (kvd.clients(), kvd.supervisor());
    clients.wait_for_progress();
    kvd.configure(2, r#", "--open-delay", "3000""#, "");
    let service = kvd.service();
    let reload = ["systemctl", "reload", "--no-block", &service];
    assert!(kvd.machine.output(&reload).status.success());
    eventually("the successor opens", TIMEOUT, || {
        (kvd.status()["swap"]["phase"] == "opening").then_some(())
    });
    let output = kvd.systemctl("restart");
    assert!(output.status.success(), "{output:?}");
    kvd.wait_for_another_supervisor(supervisor);
    kvd.assert_unharmed(clients);
    assert_eq!(kvd.processes().len(), 2, "a supervisor and a daemon");
}

#[test]
fn a_restart_by_a_wrong_configuration_leaves_the_daemon_serving() {
    let name = "a_restart_by_a_wrong_configuration_leaves_the_daemon_serving";
    let Some(kvd) = Instance::started(name) else { return };
    let (clients, daemon, supervisor) = (kvd.clients(), kvd.daemon(), kvd.supervisor());
    kvd.configure(2, "", "[limits]\ndeadlin = \"30s\"\n");
    assert!(!kvd.systemctl("restart").status.success());
    clients.wait_for_progress();
    eventually("systemd has tried more than once", TIMEOUT, || {
        kvd.property("NRestarts").parse().is_ok_and(|times: u32| times > 1).then_some(())
    });
    kvd.configure(2, "", "");
    assert_eq!(pid_in(&kvd.wait_for_another_supervisor(supervisor)), Some(daemon));
    kvd.assert_unharmed(clients);
}

/// A stop goes through the supervisor. Where there is none, the daemon is told by `systemctl kill`.
#[test]
fn a_stop_without_a_supervisor_leaves_the_daemon_until_it_is_told_itself() {
    let name = "a_stop_without_a_supervisor_leaves_the_daemon_until_it_is_told_itself";
    let Some(kvd) = Instance::started(name) else { return };
    kvd.drop_in(&kvd.service(), "[Service]\nRestartSec=1h\n");
    let (clients, daemon) = (kvd.clients(), kvd.daemon());
    clients.wait_for_progress();
    kvd.kill(kvd.supervisor(), Signal::KILL);
    eventually("systemd has seen it", TIMEOUT, || {
        (kvd.property("SubState") == "auto-restart").then_some(())
    });
    assert!(kvd.systemctl("stop").status.success());
    assert_eq!(kvd.property("ActiveState"), "inactive");
    assert_eq!(kvd.processes(), [kvd.machine.pid_outside(daemon).expect("it serves").to_string()]);
    clients.wait_for_progress();
    let before = Instant::now();
    kvd.machine.said(&["systemctl", "kill", "--kill-whom=all", &kvd.service()]);
    eventually("the daemon ends", TIMEOUT, || kvd.processes().is_empty().then_some(()));
    kvd.start();
    clients.stop().assert_failed_only_within(&[(before, Instant::now())]);
}

#[test]
fn a_stop_ends_the_daemon_and_loses_nothing() {
    let Some(kvd) = Instance::started("a_stop_ends_the_daemon_and_loses_nothing") else { return };
    let clients = kvd.clients();
    clients.wait_for_progress();
    let before = Instant::now();
    let output = kvd.systemctl("stop");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(kvd.property("ActiveState"), "inactive");
    assert_eq!(kvd.property("Result"), "success");
    assert_eq!(kvd.processes(), [""; 0]);
    kvd.start();
    let tally = clients.stop();
    tally.assert_failed_only_within(&[(before, Instant::now())]);
}

#[test]
fn a_daemon_that_dies_is_started_again_by_its_supervisor() {
    let Some(kvd) = Instance::started("a_daemon_that_dies_is_started_again_by_its_supervisor")
    else {
        return;
    };
    let (clients, supervisor) = (kvd.clients(), kvd.supervisor());
    clients.wait_for_progress();
    let (daemon, before) = (kvd.daemon(), Instant::now());
    kvd.kill(daemon, Signal::KILL);
    eventually("another one serves", TIMEOUT, || {
        pid_in(&kvd.status()).filter(|pid| *pid != daemon)
    });
    let after = Instant::now();
    clients.wait_for_progress();
    let tally = clients.stop();
    tally.assert_failed_only_within(&[(before, after)]);
    assert_eq!(kvd.supervisor(), supervisor);
}

#[test]
fn ten_instances_are_swapped_at_once() {
    let all: Vec<_> =
        (0..10).filter_map(|_| Instance::new("ten_instances_are_swapped_at_once")).collect();
    thread::scope(|scope| {
        for kvd in &all {
            scope.spawn(|| {
                kvd.start();
                let clients = kvd.clients();
                clients.wait_for_progress();
                kvd.configure(2, "", "");
                let output = kvd.systemctl("reload");
                assert!(output.status.success(), "{output:?}");
                assert_eq!(kvd.build(), "2");
                kvd.assert_unharmed(clients);
            });
        }
    });
}
