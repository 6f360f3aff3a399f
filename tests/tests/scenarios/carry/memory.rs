//! Memory that goes from process to process, and what is left of all that is carried when the
//! incumbent dies on the way.

use std::fs;
use std::thread;

use handoff::Phase;
use handoff::carry::{CarriedSet, CarryFate, CarryKind};
use handoff::error::CarryError;
use handoff::supervisor::{Cause, IncumbentFate};
use handoff_tests::harness::{Cluster, TIMEOUT, eventually, kill};
use rustix::process::Signal;

use super::OpenLines;

const MEMORY: &[&str] = &["carry=memory"];

impl OpenLines {
    /// The memory that arrived is what the logs hold.
    pub(super) fn assert_equal(&mut self, cluster: &Cluster) {
        let cache = self.idle[0].ask("cache");
        let count = cache.strip_prefix("equal ").unwrap_or_else(|| panic!("{cache}"));
        assert_ne!(count, "0");
        let memory = memory_of(cluster);
        assert!(memory.count == 1 && memory.bytes > 0, "{memory:?}");
    }
}

fn memory_of(cluster: &Cluster) -> &CarriedSet {
    let [_, memory] = &cluster.carried.sets[..] else { panic!("{}", cluster.carried) };
    assert_eq!((&*memory.name, memory.kind), ("memory", CarryKind::Memory));
    memory
}

#[test]
fn memory_arrives_as_it_was_sealed() {
    let mut cluster = Cluster::start_carrying(MEMORY);
    let mut open_lines = OpenLines::open(&cluster);
    assert_eq!(open_lines.idle[0].ask("cache"), "none", "in a first daemon");
    for round in 0..3 {
        assert!(open_lines.idle[0].ask(&format!("put round {round}")).starts_with("ok "));
        cluster.swap(MEMORY).expect("it commits");
        assert_eq!(memory_of(&cluster).fate, CarryFate::Taken);
        open_lines.assert_equal(&cluster);
        open_lines.assert_served(&cluster);
        let failing = cluster.successor(&["carry=memory", "health=bad"]);
        open_lines.assert_swap_fails(&mut cluster, &failing);
    }
    open_lines.assert_sound(cluster, MEMORY);
}

#[test]
fn memory_of_an_older_build_is_converted_and_of_a_newer_one_refused_or_dropped() {
    let mut cluster = Cluster::start_carrying(MEMORY);
    let mut open_lines = OpenLines::open(&cluster);
    cluster.swap(&["carry=memory-v2"]).expect("it reads what the older one wrote");
    let from = "fixture.table version 1".to_owned();
    assert_eq!(memory_of(&cluster).fate, CarryFate::Converted { from });
    open_lines.assert_equal(&cluster);

    let back = cluster.successor(MEMORY);
    let failed = open_lines.assert_swap_fails(&mut cluster, &back);
    let unreadable = CarryError::Unreadable {
        set: "table".to_owned(),
        arrived: "fixture.table version 2".to_owned(),
        reads: "fixture.table version 1".to_owned(),
    };
    assert_eq!(failed.cause, Cause::SuccessorGaveUp(unreadable.to_string()));

    cluster.swap(&["carry=memory", "carry=memory-may-be-lost"]).expect("it may be lost");
    let why = unreadable.to_string();
    assert_eq!(memory_of(&cluster).fate, CarryFate::Dropped { why });
    assert_eq!(open_lines.idle[0].ask("cache"), "none");
    open_lines.assert_served(&cluster);
    open_lines.assert_sound(cluster, MEMORY);
}

#[test]
fn a_build_without_memory_is_refused_unless_it_may_be_lost() {
    let mut cluster = Cluster::start_carrying(MEMORY);
    let mut open_lines = OpenLines::open(&cluster);
    let not_taken = CarryError::NotTaken { set: "memory".to_owned() }.to_string();
    let without = cluster.successor(&[]);
    let failed = open_lines.assert_swap_fails(&mut cluster, &without);
    assert_eq!(failed.cause, Cause::SuccessorGaveUp(not_taken.clone()));

    cluster.swap(&["carry=memory", "carry=memory-may-be-lost"]).expect("it has memory");
    open_lines.assert_equal(&cluster);
    cluster.swap(&[]).expect("it may be lost");
    assert_eq!(memory_of(&cluster).fate, CarryFate::Dropped { why: not_taken });
    open_lines.assert_served(&cluster);
    open_lines.assert_sound(cluster, MEMORY);
}

/// It has said all but that it was all.
#[test]
fn of_an_incumbent_that_dies_unsealed_the_connections_are_kept_and_the_memory_is_not() {
    let mut cluster = Cluster::start_carrying(&["carry=memory", "incumbent.carried=kill"]);
    let mut open_lines = OpenLines::open(&cluster);
    let failed = cluster.swap_fails(MEMORY);
    assert_eq!(failed.incumbent, IncumbentFate::Lost, "{failed}");
    // It seals at once, and may die before it has said that it is drained.
    assert!(
        matches!(failed.cause, Cause::IncumbentDied(Phase::Draining | Phase::Sealing)),
        "{failed}"
    );
    cluster.assert_struck("incumbent.carried", 1);
    assert_eq!(cluster.ask("build"), "build-2", "the successor was promoted");
    assert_eq!(cluster.carried.sets[0].count, open_lines.count() as u64);
    let memory = memory_of(&cluster);
    assert_eq!((memory.count, memory.bytes), (0, 0), "it may be out of date");
    assert_eq!(open_lines.idle[0].ask("cache"), "none");
    open_lines.assert_served(&cluster);
    open_lines.assert_sound(cluster, MEMORY);
}

/// Those that fill a parcel are sent while the others still park.
#[test]
fn of_an_incumbent_that_dies_while_it_seals_those_connections_are_kept_that_had_arrived() {
    let mut cluster = Cluster::start_carrying(&["carry=memory", "seal=slow:20000"]);
    cluster.resets_expected = true;
    let mut open_lines = OpenLines::of(&cluster, 270, &[]);
    let incumbent = cluster.serving();
    let killer = cluster.signal_when("successor.received", incumbent, Signal::KILL);
    let failed = cluster.swap_fails(&["carry=memory", "successor.received=slow"]);
    killer.join().expect("it does not panic");
    assert_eq!(failed.incumbent, IncumbentFate::Lost, "{failed}");
    let arrived = cluster.carried.sets[0].count;
    assert_eq!(arrived, 253, "a parcel of them");
    assert_eq!(memory_of(&cluster).count, 0);
    let serving = cluster.serving().to_string();
    let kept = open_lines.idle.iter_mut().filter_map(|line| line.try_ask("pid"));
    let kept = kept.inspect(|answer| assert_eq!(*answer, serving)).count() as u64;
    // Of the others two write.
    assert!((arrived - 2..=arrived).contains(&kept), "{kept} of {arrived} are open");
    assert_eq!(cluster.ask("cache"), "none");
    cluster.wait_for_progress();
    cluster.stop_clients();
    cluster.assert_sound_at_rest();
}

/// The second parcel is longer than what the channel takes while nobody reads.
#[test]
fn of_an_incumbent_that_dies_in_the_midst_of_a_parcel_those_before_it_are_kept() {
    let mut cluster = Cluster::start_carrying(MEMORY);
    cluster.resets_expected = true;
    let mut open_lines = OpenLines::of(&cluster, 1, &[15 << 10; 60]);
    let incumbent = cluster.serving();
    let spec = cluster.successor(&["carry=memory", "successor.received=hang"]);
    let session = cluster.supervisor.pair(spec.spec()).expect("both say hello");
    let successor = session.successor_pid();
    let failed = thread::scope(|scope| {
        scope.spawn(|| {
            cluster.wait_struck("successor.received");
            let is_inside = || waits_for_room(incumbent).then_some(());
            eventually("the incumbent cannot send on", TIMEOUT, is_inside);
            kill(incumbent, Signal::KILL);
            kill(successor, Signal::CONT);
        });
        session.warm()?.prepare()?.seal()
    });
    let failed = cluster.note(failed.expect_err("the incumbent was lost"));
    assert_eq!(failed.incumbent, IncumbentFate::Lost, "{failed}");
    assert_eq!(memory_of(&cluster).count, 0);
    let arrived = cluster.carried.sets[0].count;
    assert!((16..=24).contains(&arrived), "a parcel of them: {}", cluster.carried);
    let lines = open_lines.halves.iter_mut().map(|half| &mut half.line);
    // The end of a request; where it was none, it is one that is not understood.
    let kept = lines.chain(&mut open_lines.idle).filter_map(|line| line.try_ask("")).count() as u64;
    // Of the others two write.
    assert!((arrived - 2..=arrived).contains(&kept), "{kept} of {arrived} are open");
    cluster.wait_for_progress();
    cluster.stop_clients();
    cluster.assert_sound_at_rest();
}

/// Whether a thread that sends what is carried does, as the kernel sees it: one of its own, and at
/// the end the one that seals.
fn waits_for_room(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|task| task.path()).any(|task| {
        let is = |file: &str, word: &str| {
            fs::read_to_string(task.join(file)).is_ok_and(|text| text.contains(word))
        };
        let sends = is("comm", "handoff-carrier") || is("comm", "handoff-hooks");
        sends && is("wchan", "poll")
    })
}

#[test]
fn of_an_incumbent_that_dies_sealed_everything_is_kept() {
    for fault in ["incumbent.unlocked=kill", "incumbent.said-sealed=kill"] {
        let mut cluster = Cluster::start_carrying(&["carry=memory", fault]);
        let mut open_lines = OpenLines::open(&cluster);
        // Its death may be seen before what it said last.
        let _ = cluster.swap(MEMORY);
        cluster.assert_struck(fault.trim_end_matches("=kill"), 1);
        assert_eq!(cluster.ask("build"), "build-2");
        open_lines.assert_equal(&cluster);
        open_lines.assert_served(&cluster);
        open_lines.assert_sound(cluster, MEMORY);
    }
}

/// An undo is under way: it could have written, and has read nothing.
#[test]
fn of_an_incumbent_that_dies_with_the_lock_again_and_nothing_taken_back_the_connections_are_kept() {
    let mut cluster = Cluster::start_carrying(&["carry=memory", "incumbent.takes-back=kill"]);
    let mut open_lines = OpenLines::open(&cluster);
    let rolled_back = cluster.sealed(MEMORY).abort("as planned");
    assert_eq!(rolled_back.incumbent, IncumbentFate::Lost);
    cluster.commit(*rolled_back.promoted.expect("the successor is healthy"));
    cluster.assert_struck("incumbent.takes-back", 1);
    assert_eq!(cluster.carried.sets[0].count, open_lines.count() as u64);
    assert_eq!(memory_of(&cluster).count, 0);
    assert_eq!(open_lines.idle[0].ask("cache"), "none");
    open_lines.assert_served(&cluster);
    open_lines.assert_sound(cluster, MEMORY);
}

/// From there on it may have read and written: in the second case it has.
#[test]
fn of_an_incumbent_that_dies_after_it_has_taken_them_back_nothing_is_used() {
    for faults in [
        &["carry=memory", "incumbent.resumes=kill"][..],
        &["carry=memory", "incumbent.serves-again=slow", "incumbent.serves-again=kill"],
    ] {
        let mut cluster = Cluster::start_carrying(faults);
        cluster.resets_expected = true;
        let mut open_lines = OpenLines::open(&cluster);
        let rolled_back = cluster.sealed(MEMORY).abort("as planned");
        assert_eq!(rolled_back.incumbent, IncumbentFate::Lost);
        cluster.commit(*rolled_back.promoted.expect("the successor is healthy"));
        for set in &cluster.carried.sets {
            assert_eq!((set.count, set.bytes), (0, 0), "{}", cluster.carried);
        }
        assert_eq!(cluster.ask("cache"), "none");
        let kept = open_lines.idle.iter_mut().filter_map(|line| line.try_ask("pid")).count();
        assert_eq!(kept, 0, "connections of which nobody knows what was read");
        cluster.wait_for_progress();
        cluster.stop_clients();
        cluster.assert_sound_at_rest();
    }
}
