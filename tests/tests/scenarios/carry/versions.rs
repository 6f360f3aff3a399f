//! Builds whose states differ.

use handoff::carry::CarryFate;
use handoff::error::CarryError;
use handoff::supervisor::Cause;
use handoff_tests::harness::Cluster;

use super::{Line, OpenLines};

#[test]
fn a_newer_build_reads_the_older_state_and_the_older_one_refuses_the_newer() {
    let mut cluster = Cluster::start_carrying(&[]);
    let mut open_lines = OpenLines::open(&cluster);
    assert_eq!(open_lines.idle[1].ask("requests"), "uncounted");

    cluster.swap(&["carry=v2"]).expect("it reads what the older one wrote");
    let from = "fixture.client version 1".to_owned();
    assert_eq!(cluster.carried.sets[0].fate, CarryFate::Converted { from });
    assert_eq!(cluster.carried.sets[0].count, open_lines.count() as u64);
    assert_eq!(open_lines.idle[1].ask("requests"), "1");
    open_lines.assert_served(&cluster);

    cluster.swap(&["carry=v2"]).expect("it reads what it writes");
    assert_eq!(cluster.carried.sets[0].fate, CarryFate::Taken);
    assert_eq!(open_lines.idle[1].ask("requests"), "3", "the count goes on");
    open_lines.assert_served(&cluster);

    let back = cluster.successor(&[]);
    let failed = open_lines.assert_swap_fails(&mut cluster, &back);
    assert_eq!(failed.cause, Cause::SuccessorGaveUp(too_new().to_string()));
    assert_eq!(open_lines.idle[1].ask("requests"), "6", "the count goes on");
    open_lines.assert_sound(cluster, &["carry=v2"]);
}

#[test]
fn an_older_build_may_lose_what_it_cannot_read() {
    let mut cluster = Cluster::start_carrying(&["carry=v2"]);
    let mut open_lines = OpenLines::open(&cluster);
    cluster.swap(&["carry=may-be-lost"]).expect("they may be lost");
    let why = too_new().to_string();
    assert_eq!(cluster.carried.sets[0].fate, CarryFate::Dropped { why });
    open_lines.idle.iter_mut().for_each(Line::assert_closed);
    cluster.assert_sound();
}

/// The build before the one that counts reads what that one writes: so the way back is one.
#[test]
fn a_swap_back_to_a_build_that_is_ready_for_it_keeps_every_connection_and_the_memory() {
    const BEFORE: &[&str] = &["carry=ready", "carry=memory-ready"];
    const AFTER: &[&str] = &["carry=v2", "carry=memory-v2"];
    let mut cluster = Cluster::start_carrying(BEFORE);
    let mut open_lines = OpenLines::open(&cluster);
    for (words, version) in [(AFTER, 1), (BEFORE, 2), (AFTER, 1), (BEFORE, 2)] {
        cluster.swap(words).expect("each reads what the other writes");
        let fates: Vec<_> = cluster.carried.sets.iter().map(|set| set.fate.clone()).collect();
        let from =
            |name| CarryFate::Converted { from: format!("fixture.{name} version {version}") };
        assert_eq!(fates, ["client", "table"].map(from));
        assert_eq!(cluster.carried.sets[0].count, open_lines.count() as u64);
        open_lines.assert_equal(&cluster);
        open_lines.assert_served(&cluster);
        let failing = cluster.successor(&[AFTER, &["health=bad"]].concat());
        open_lines.assert_swap_fails(&mut cluster, &failing);
    }
    open_lines.assert_sound(cluster, BEFORE);
}

fn too_new() -> CarryError {
    CarryError::Unreadable {
        set: "clients".to_owned(),
        arrived: "fixture.client version 2".to_owned(),
        reads: "fixture.client version 1".to_owned(),
    }
}
