//! What systemd does by the clock, and that the program asks it for time; and what it keeps.

use std::time::Instant;

use handoff_tests::harness::{TIMEOUT, eventually, program};
use rustix::process::Signal;

use crate::instance::{Instance, pid_in};

/// Opens its data for longer than the settings of these tests allow without a word.
const SLOW: &str = r#", "--open-delay", "6000""#;

/// An instance that has not been started, with that setting of the service. A systemd that reads its
/// units again forgets that it was asked for time, so no other test may be there.
fn with(test: &str, setting: &str) -> Option<Instance> {
    let kvd = Instance::alone(test)?;
    kvd.drop_in(&kvd.service(), &format!("[Service]\n{setting}\n"));
    Some(kvd)
}

#[test]
fn a_supervisor_that_hangs_is_killed_and_the_daemon_serves_on() {
    let name = "a_supervisor_that_hangs_is_killed_and_the_daemon_serves_on";
    let Some(kvd) = with(name, "WatchdogSec=2s") else { return };
    kvd.start();
    let (clients, daemon, supervisor) = (kvd.clients(), kvd.daemon(), kvd.supervisor());
    kvd.kill(supervisor, Signal::STOP);
    let status = kvd.wait_for_another_supervisor(supervisor);
    assert_eq!(pid_in(&status), Some(daemon));
    assert!(kvd.journal().contains("Watchdog timeout"), "{}", kvd.journal());
    kvd.assert_unharmed(clients);
}

#[test]
fn a_supervisor_that_waits_for_a_slow_swap_is_not_killed() {
    let name = "a_supervisor_that_waits_for_a_slow_swap_is_not_killed";
    let Some(kvd) = with(name, "WatchdogSec=2s") else { return };
    kvd.start();
    let (clients, supervisor) = (kvd.clients(), kvd.supervisor());
    kvd.configure(2, SLOW, "");
    let output = kvd.systemctl("reload");
    assert!(output.status.success(), "{output:?}");
    assert_eq!((kvd.build(), kvd.supervisor()), ("2".to_owned(), supervisor));
    kvd.assert_unharmed(clients);
}

/// The process goes on as another program, and systemd does not notice.
#[test]
fn a_supervisor_that_is_upgraded_goes_on_telling_systemd_that_it_is_well() {
    let name = "a_supervisor_that_is_upgraded_goes_on_telling_systemd_that_it_is_well";
    let Some(kvd) = with(name, "WatchdogSec=2s") else { return };
    kvd.start();
    let (clients, supervisor) = (kvd.clients(), kvd.supervisor());
    kvd.machine.install(program("handoff"), "/usr/bin/handoff");
    let output = kvd.handoff(&["upgrade"]);
    assert!(output.status.success(), "{output:?}");
    for _ in 0..3 {
        let last = kvd.property("WatchdogTimestampMonotonic");
        eventually("systemd hears of it", TIMEOUT, || {
            (kvd.property("WatchdogTimestampMonotonic") != last).then_some(())
        });
    }
    assert_eq!((kvd.supervisor(), kvd.property("NRestarts")), (supervisor, "0".to_owned()));
    kvd.assert_unharmed(clients);
}

#[test]
fn a_start_and_a_reload_may_take_longer_than_systemd_waits_for_a_word() {
    let name = "a_start_and_a_reload_may_take_longer_than_systemd_waits_for_a_word";
    let Some(kvd) = with(name, "TimeoutStartSec=3s") else { return };
    kvd.configure(1, SLOW, "");
    kvd.start();
    assert_eq!(kvd.property("NRestarts"), "0");
    let clients = kvd.clients();
    kvd.configure(2, SLOW, "");
    let output = kvd.systemctl("reload");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(kvd.build(), "2");
    kvd.assert_unharmed(clients);
}

/// The supervisor ends a daemon that hangs. If systemd ended the supervisor first, nobody would.
#[test]
fn a_stop_may_take_longer_than_systemd_waits_for_a_word() {
    let name = "a_stop_may_take_longer_than_systemd_waits_for_a_word";
    let Some(kvd) = with(name, "TimeoutStopSec=3s") else { return };
    kvd.configure(1, "", "[limits]\nstop = \"6s\"\n");
    kvd.start();
    kvd.kill(kvd.daemon(), Signal::STOP);
    let _ = kvd.systemctl("stop");
    // The supervisor says that it had to kill the daemon.
    assert_eq!(kvd.property("Result"), "exit-code", "{}", kvd.journal());
    assert_eq!(kvd.processes(), [""; 0], "{}", kvd.journal());
}

/// Clients that connect meanwhile wait for the next daemon; before, their connections were refused.
#[test]
fn systemd_keeps_the_listeners_when_supervisor_and_daemon_die_at_once() {
    let name = "systemd_keeps_the_listeners_when_supervisor_and_daemon_die_at_once";
    let Some(kvd) = Instance::started(name) else { return };
    eventually("systemd has the listener", TIMEOUT, || {
        (kvd.property("NFileDescriptorStore") == "1").then_some(())
    });
    let (supervisor, before) = (kvd.supervisor(), Instant::now());
    let clients = kvd.clients();
    clients.wait_for_progress();
    let kill = ["systemctl", "kill", "--kill-whom=all", "--signal=KILL", &kvd.service()];
    kvd.machine.said(&kill);
    kvd.wait_for_another_supervisor(supervisor);
    let after = Instant::now();
    clients.wait_for_progress();
    let tally = clients.stop();
    tally.assert_failed_only_within(&[(before, after)]);
    let refused: Vec<_> =
        tally.failures.iter().filter(|(_, why)| why.contains("refused")).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
