//! Sockets that systemd holds.

use std::fs;
use std::path::PathBuf;

use handoff_tests::harness::{TIMEOUT, eventually};
use handoff_tests::kvd::Connection;
use rustix::process::Signal;

use crate::instance::{Instance, pid_in};

/// An instance whose socket systemd has, and that is not started.
fn with_socket(test: &str) -> Option<Instance> {
    let kvd = Instance::new(test)?;
    let address =
        format!("[Socket]\nListenStream=127.0.0.1:{}\nFileDescriptorName=resp\n", kvd.port);
    kvd.drop_in(&kvd.socket(), &address);
    kvd.machine.said(&["systemctl", "start", &kvd.socket()]);
    assert_eq!(kvd.property("ActiveState"), "inactive");
    Some(kvd)
}

/// The same, where systemd makes its sockets blocking, as it does by default.
fn with_blocking_socket(test: &str) -> Option<Instance> {
    let kvd = with_socket(test)?;
    kvd.drop_in(&kvd.service(), "[Service]\nNonBlocking=no\n");
    Some(kvd)
}

#[test]
fn the_first_connection_starts_the_service() {
    let Some(kvd) = with_socket("the_first_connection_starts_the_service") else { return };
    let mut connection = Connection::to(kvd.port).expect("systemd listens");
    assert_eq!(connection.ask("PING").expect("it is answered"), "PONG");
    // The daemon answers before its supervisor has told systemd so.
    eventually("it is active", TIMEOUT, || (kvd.property("ActiveState") == "active").then_some(()));
}

#[test]
fn a_socket_of_systemd_goes_through_swaps_kills_and_restarts() {
    let Some(kvd) = with_socket("a_socket_of_systemd_goes_through_swaps_kills_and_restarts") else {
        return;
    };
    kvd.start();
    go_through_a_day(&kvd);
}

#[test]
fn a_socket_that_blocks_does_so_too() {
    let Some(kvd) = with_blocking_socket("a_socket_that_blocks_does_so_too") else { return };
    kvd.start();
    assert!(!is_blocking(&kvd), "the supervisor has set it up");
    go_through_a_day(&kvd);
}

/// It does so at a restart too, while the daemon accepts from the same socket: until the supervisor has
/// set it up again, each accept of the daemon waits. With `NonBlocking=yes`, as shipped, none ever does.
#[test]
fn systemd_makes_a_socket_blocking_unless_it_is_told_not_to() {
    let name = "systemd_makes_a_socket_blocking_unless_it_is_told_not_to";
    let Some(kvd) = with_socket(name) else { return };
    let passed = format!("/var/lib/handoff/{}/passed", kvd.name);
    // Notes what systemd passes, before it becomes the supervisor.
    let look = format!("cat /proc/$$$$/fdinfo/3 > {passed}");
    let run = "exec /usr/bin/handoff --config /etc/handoff/%i.toml run";
    let start = format!("[Service]\nExecStart=\nExecStart=/bin/sh -c '{look}; {run}'\n");
    kvd.drop_in(&kvd.service(), &start);
    kvd.start();
    let is_passed_blocking = || {
        restart(&kvd);
        assert!(!is_blocking(&kvd), "the supervisor sets it up");
        blocks(&fs::read_to_string(kvd.machine.path(&passed)).expect("it was noted"))
    };
    assert!(!is_passed_blocking(), "as shipped");
    kvd.drop_in(&kvd.service(), "[Service]\nNonBlocking=no\n");
    assert!(is_passed_blocking(), "by default");
}

/// A stop of the service leaves the socket with systemd: clients wait there for the next daemon.
#[test]
fn clients_wait_in_the_socket_of_a_service_that_is_stopped() {
    let Some(kvd) = with_socket("clients_wait_in_the_socket_of_a_service_that_is_stopped") else {
        return;
    };
    kvd.start();
    assert!(kvd.systemctl("stop").status.success());
    assert_eq!(kvd.processes(), [""; 0]);
    let mut connection = Connection::to(kvd.port).expect("systemd listens");
    assert_eq!(connection.ask("PING").expect("it is answered"), "PONG");
}

/// Kills the supervisor, until the next one has adopted the daemon.
fn restart(kvd: &Instance) {
    let (supervisor, daemon) = (kvd.supervisor(), kvd.daemon());
    kvd.kill(supervisor, Signal::KILL);
    let status = kvd.wait_for_another_supervisor(supervisor);
    assert_eq!(pid_in(&status), Some(daemon));
}

/// Swaps, a death of the supervisor, a restart and a death of the daemon, while clients write.
fn go_through_a_day(kvd: &Instance) {
    let clients = kvd.clients();
    for build in [2, 3] {
        clients.wait_for_progress();
        kvd.configure(build, "", "");
        let output = kvd.systemctl("reload");
        assert!(output.status.success(), "{output:?}");
        restart(kvd);
        clients.wait_for_progress();
        assert!(kvd.systemctl("restart").status.success());
        // New connections are accepted, also while others are open.
        let mut connection = Connection::to(kvd.port).expect("systemd listens");
        assert_eq!(connection.ask("PING").expect("it is answered"), "PONG");
    }
    assert_eq!(kvd.build(), "3");
    kvd.assert_unharmed(clients);
    // Without a daemon, clients wait in the socket.
    let daemon = kvd.daemon();
    kvd.kill(daemon, Signal::KILL);
    let mut connection = Connection::to(kvd.port).expect("systemd listens");
    assert_eq!(connection.ask("PING").expect("it is answered"), "PONG");
    eventually("another daemon serves", TIMEOUT, || {
        pid_in(&kvd.status()).filter(|pid| *pid != daemon)
    });
}

/// Whether the daemon's listening socket blocks, by the flags of its descriptor.
fn is_blocking(kvd: &Instance) -> bool {
    let daemon = kvd.machine.pid_outside(kvd.daemon()).expect("it serves");
    let listener = format!("socket:[{}]", inode(kvd));
    let descriptors = fs::read_dir(format!("/proc/{daemon}/fd")).expect("it serves");
    let its = descriptors
        .flatten()
        .find(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == &*listener));
    let number = its.expect("it has the socket").file_name();
    let path = PathBuf::from(format!("/proc/{daemon}/fdinfo")).join(number);
    blocks(&fs::read_to_string(path).expect("it is open"))
}

/// Whether a descriptor blocks, by what `/proc` says of it.
fn blocks(fdinfo: &str) -> bool {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:")).expect("it has flags");
    let flags = u32::from_str_radix(flags.trim(), 8).expect("they are octal");
    flags & rustix::fs::OFlags::NONBLOCK.bits() == 0
}

/// Of the socket that listens at the port.
fn inode(kvd: &Instance) -> String {
    let sockets = fs::read_to_string("/proc/thread-self/net/tcp").expect("there is a network");
    let at = format!("0100007F:{:04X}", kvd.port);
    let mut its = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let its = its.find(|fields| fields[1] == at && fields[3] == "0A").expect("it listens");
    its[9].to_owned()
}
