//! Daemons that are started by hand, in surroundings that cannot be.

use std::fs;
use std::process::Command;

use handoff_tests::fixture::Options;
use handoff_tests::harness::Cluster;

/// What is changed in a daemon's start.
type Change = fn(&Cluster, &mut Options, &mut Command);

/// What a daemon says that is started so beside one that serves, which is none the worse.
fn said_with(changes: Vec<(Change, &str)>) {
    let mut cluster = Cluster::start();
    fs::write(cluster.state().join("file"), "no socket").expect("it can be written");
    fs::create_dir(cluster.state().join("damaged")).expect("it can be created");
    fs::write(cluster.state().join("damaged/.handoff.lock"), "damaged").expect("it is writable");
    for (change, words) in changes {
        let words = words.replace("{pid}", &cluster.serving().to_string());
        let words = words.replace("{dir}", &cluster.state().display().to_string());
        let output = cluster.run_by_hand(change);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&words), "{said:?} does not contain {words:?}");
    }
    cluster.assert_sound();
}

#[test]
fn variables_that_cannot_be_are_told_by_name() {
    said_with(vec![
        (
            |_, _, command| {
                command.env("HANDOFF_CONTROL", "x");
            },
            "environment variable HANDOFF_CONTROL=\"x\" is not FD:INODE; unset it, only a supervisor sets it",
        ),
        (
            |_, _, command| {
                command.env("LISTEN_FDS", "many");
            },
            "environment variable LISTEN_FDS=\"many\" is no number from 0 to 1024",
        ),
        (
            |_, _, command| {
                command.env("LISTEN_FDS", "1");
            },
            "environment variable LISTEN_FDS=\"1\" names a descriptor that is no socket",
        ),
        (
            |_, _, command| {
                command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "one");
            },
            "environment variable LISTEN_FDNAMES=\"one\" has not as many names as LISTEN_FDS says",
        ),
    ]);
}

#[test]
fn variables_that_were_left_by_another_process_are_none() {
    said_with(vec![
        // So it starts cold, and the lock is held.
        (
            |_, _, command| {
                command.env("HANDOFF_CONTROL", "3:12345");
            },
            "is held by process {pid}",
        ),
        (
            |_, _, command| {
                command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
            },
            "is held by process {pid}",
        ),
    ]);
}

#[test]
fn a_second_daemon_is_refused_and_told_why() {
    said_with(vec![
        (|_, _, _| (), "the lock of {dir}/data is held by process {pid}"),
        (
            |cluster, options, _| {
                options.data = cluster.state().join("elsewhere");
                options.control = cluster.control();
            },
            "another process serves the control socket {dir}/run/control",
        ),
    ]);
}

#[test]
fn paths_that_cannot_be_used_are_told_by_name() {
    said_with(vec![
        (
            |cluster, options, _| options.data = cluster.state().join("file"),
            "cannot create the data directory {dir}/file",
        ),
        (
            |_, options, _| options.data = "/proc/handoff".into(),
            "cannot create the data directory /proc/handoff",
        ),
        (
            |cluster, options, _| options.data = cluster.state().join("damaged"),
            "{dir}/damaged/.handoff.lock is damaged",
        ),
        (
            |cluster, options, _| {
                options.data = cluster.state().join("elsewhere");
                options.control = cluster.state().join("file");
            },
            "{dir}/file exists and is no socket",
        ),
        (
            |cluster, options, _| {
                options.data = cluster.state().join("elsewhere");
                options.control = cluster.state().join("c".repeat(108));
            },
            "the kernel takes 107: choose a shorter one",
        ),
        (
            |cluster, options, _| {
                options.data = cluster.state().join("elsewhere");
                options.control = cluster.state().join("missing/control");
            },
            "cannot bind the control socket at {dir}/missing/control: No such file or directory",
        ),
        (
            |cluster, options, _| options.data = cluster.state().join("elsewhere"),
            "no listener named \"main\" is left; those that are: []",
        ),
    ]);
}
