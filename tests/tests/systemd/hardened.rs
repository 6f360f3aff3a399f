//! The hardened units: what systemd thinks of them, and that a daemon lives in them.

use std::fs;
use std::time::Instant;

use rustix::process::Signal;

use crate::instance::{Instance, pid_in};

#[test]
fn a_hardened_service_is_swapped_killed_and_adopted() {
    let Some(kvd) = Instance::new("a_hardened_service_is_swapped_killed_and_adopted") else {
        return;
    };
    kvd.harden();
    kvd.start();
    let clients = kvd.clients();
    for build in [2, 3] {
        clients.wait_for_progress();
        kvd.configure(build, "", "");
        let output = kvd.systemctl("reload");
        assert!(output.status.success(), "{output:?}");
        let (supervisor, daemon) = (kvd.supervisor(), kvd.daemon());
        kvd.kill(supervisor, Signal::KILL);
        let status = kvd.wait_for_another_supervisor(supervisor);
        assert_eq!(pid_in(&status), Some(daemon));
    }
    assert_eq!(kvd.build(), "3");
    kvd.assert_unharmed(clients);
}

/// Its user changes, and systemd gives the data to the next one.
#[test]
fn a_service_that_is_hardened_after_a_stop_keeps_its_data() {
    let Some(kvd) = Instance::started("a_service_that_is_hardened_after_a_stop_keeps_its_data")
    else {
        return;
    };
    let clients = kvd.clients();
    clients.wait_for_progress();
    let before = Instant::now();
    assert!(kvd.systemctl("stop").status.success());
    kvd.harden();
    kvd.start();
    let after = Instant::now();
    clients.wait_for_progress();
    clients.stop().assert_failed_only_within(&[(before, after)]);
    let daemon = kvd.machine.pid_outside(kvd.daemon()).expect("it serves");
    let status = fs::read_to_string(format!("/proc/{daemon}/status")).expect("it serves");
    assert!(status.contains("NoNewPrivs:\t1") && !status.contains("Uid:\t0"), "{status}");
}

/// From 0, which is secure, to 10, which is not.
#[test]
fn systemd_counts_a_hardened_service_among_the_secure_ones() {
    let Some(kvd) = Instance::new("systemd_counts_a_hardened_service_among_the_secure_ones") else {
        return;
    };
    kvd.harden();
    let said = kvd.machine.said(&["systemd-analyze", "security", "--no-pager", &kvd.service()]);
    let (_, rest) = said.split_once("Overall exposure level for").expect("it says one");
    let level = rest.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
    assert!(level.expect("it is a number") < 2.0, "{said}");
}
