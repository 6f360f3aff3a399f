//! Swaps that work.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use handoff_tests::harness::{Cluster, LIVENESS};
use rustix::fs::fcntl_getfl;

#[test]
fn swaps_back_to_back_fail_no_request_and_are_never_refused() {
    let mut cluster = Cluster::start();
    for _ in 0..5 {
        // The next one begins as soon as the one before has returned.
        cluster.swap(&[]).expect("it commits");
    }
    cluster.wait_for_progress();
    assert_eq!(cluster.ask("build"), "build-6");
    cluster.assert_one_serves();
    cluster.stop_clients();
    let tally = cluster.tally();
    assert_eq!((tally.refused, tally.reset, tally.failed.len()), (0, 0, 0));
    assert!(tally.moved > 0, "no client was there when the daemon changed");
    cluster.assert_sound_at_rest();
}

#[test]
fn the_next_swap_finds_a_successor_that_is_slow_to_serve() {
    let mut cluster = Cluster::start();
    cluster.swap(&["ready=late"]).expect("it commits");
    cluster.assert_struck("ready", 1);
    // It owns the control socket already, and answers when it gets there.
    assert_eq!(cluster.control_owner(), Some(cluster.serving()));
    cluster.swap(&["ready=late"]).expect("it commits");
    cluster.swap(&[]).expect("it commits");
    cluster.assert_sound();
}

#[test]
fn a_successor_that_opens_for_longer_than_the_liveness_timeout_commits() {
    let mut cluster = Cluster::start();
    let begun = Instant::now();
    cluster.swap(&["open=slow:6500"]).expect("it is busy, and not dead");
    assert!(begun.elapsed() > LIVENESS, "it was to be slow");
    cluster.assert_struck("open", 1);
    cluster.assert_sound();
}

#[test]
fn a_warm_up_and_a_seal_longer_than_the_liveness_timeout_commit() {
    let mut cluster = Cluster::start_with(&["seal=slow:5500"]);
    cluster.swap(&["warm=slow:5500"]).expect("they are busy, and not dead");
    cluster.assert_struck("seal", 1);
    cluster.assert_struck("warm", 1);
    cluster.assert_sound();
}

#[test]
fn clients_are_served_while_a_successor_warms_up() {
    let mut cluster = Cluster::start();
    let session = cluster.paired(&["warm=slow:800"]);
    let serving = cluster.serving().to_string();
    let warming = std::thread::spawn(move || session.warm());
    cluster.wait_struck("warm");
    for _ in 0..20 {
        assert_eq!(cluster.ask("pid"), serving);
        cluster.wait_for_progress();
    }
    let session = warming.join().expect("it does not panic").expect("it warms up");
    let commit = || session.prepare()?.seal()?.begin()?.commit();
    cluster.commit(commit().expect("it commits"));
    cluster.assert_sound();
}

#[test]
fn the_flags_of_a_shared_listener_are_never_changed() {
    for nonblocking in [true, false] {
        let mut cluster = Cluster::start();
        cluster.listener.set_nonblocking(nonblocking).expect("it can be set");
        let before = fcntl_getfl(&cluster.listener).expect("it is open");
        for fault in ["open=error", "open=slow:20", "open=slow:20"] {
            let outcome = cluster.swap(&[fault]);
            assert_eq!(outcome.is_ok(), fault != "open=error", "{outcome:?}");
            assert_eq!(fcntl_getfl(&cluster.listener).expect("it is open"), before, "{fault}");
        }
        cluster.assert_struck("open", 3);
        cluster.assert_sound();
    }
}

#[test]
fn silent_connections_to_the_control_socket_do_not_delay_a_swap() {
    let mut cluster = Cluster::start();
    let silent: Vec<_> =
        (0..400).map(|_| UnixStream::connect(cluster.control()).expect("it listens")).collect();
    let begun = Instant::now();
    cluster.swap(&[]).expect("it commits");
    assert!(begun.elapsed() < Duration::from_secs(3), "the silent ones were waited for");
    drop(silent);
    cluster.assert_sound();
}
