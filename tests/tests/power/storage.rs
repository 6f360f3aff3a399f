//! Storage that fails: a sync fails once and then "succeeds", hangs, or the disk takes no more.

use std::collections::BTreeSet;

use fuser::Errno;
use handoff::supervisor::{Cause, IncumbentFate};
use handoff_tests::harness::{TIMEOUT, eventually};

use super::fuse::{Fault, On, With};
use super::machine::Machine;
use super::{check, is_skipped};

const LOCK: &str = ".handoff.lock";
const MANIFEST: &str = ".handoff.manifest";
const LATER: &str = "later.log";
const AT_ONCE: &str = "at-once.log";
const ROOT: &str = "data";

fn once(on: On, name: &'static str, errno: Errno) -> Fault {
    Fault { on, name, with: With::Errno(errno), after: 0, times: 1 }
}

fn hang(name: &'static str) -> Fault {
    Fault { on: On::Sync, name, with: With::Hang, after: 0, times: 1 }
}

/// Cuts the power after each step of what the machine did: it starts with all that was promised.
fn assert_promises_hold(machine: Machine) {
    let events = machine.cut();
    let (_, cases) = check::cases(&events, 32);
    let found = check::check_all(&cases, check::starts);
    let words: BTreeSet<&String> = found.iter().map(|(_, words)| words).collect();
    assert!(found.is_empty(), "{} of {} states: {words:#?}", found.len(), cases.len());
}

#[test]
fn a_token_whose_sync_has_failed_is_refused_until_another_generation() {
    if is_skipped("a_token_whose_sync_has_failed_is_refused_until_another_generation") {
        return;
    }
    for name in [LOCK, ROOT] {
        let mut machine = Machine::new();
        machine.start();
        machine.swap().expect("it commits");
        machine.disk.plan(once(On::Sync, name, Errno::EIO));
        for _ in 0..3 {
            let refused = machine.ask("token");
            assert!(refused.starts_with("error "), "{name}: {refused}");
        }
        assert_eq!(machine.disk.struck(), 1);
        machine.swap().expect("it commits");
        machine.token();
        assert_promises_hold(machine);
    }
}

#[test]
fn a_write_whose_sync_has_failed_is_never_acknowledged() {
    if is_skipped("a_write_whose_sync_has_failed_is_never_acknowledged") {
        return;
    }
    let mut machine = Machine::new();
    machine.start();
    machine.put();
    machine.disk.plan(once(On::Sync, AT_ONCE, Errno::EIO));
    for key in ["a", "b"] {
        let refused = machine.ask(&format!("put {key}"));
        assert!(refused.starts_with("error "), "{refused}");
    }
    assert_promises_hold(machine);
}

#[test]
fn a_cold_start_whose_record_cannot_be_synced_does_not_serve() {
    if is_skipped("a_cold_start_whose_record_cannot_be_synced_does_not_serve") {
        return;
    }
    let mut machine = Machine::new();
    machine.start();
    machine.put();
    machine.stop();
    machine.disk.plan(once(On::Sync, LOCK, Errno::EIO));
    machine.start_with_a_broken_disk();
    assert_eq!(machine.disk.struck(), 1);
    // The next one may not take its sync for granted: the seal of the stop must not come back.
    machine.start();
    machine.put();
    assert_promises_hold(machine);
}

#[test]
fn an_offline_program_whose_record_cannot_be_synced_gets_no_lock() {
    if is_skipped("an_offline_program_whose_record_cannot_be_synced_gets_no_lock") {
        return;
    }
    let mut machine = Machine::new();
    machine.start();
    machine.put();
    machine.stop();
    machine.disk.plan(once(On::Sync, LOCK, Errno::EIO));
    let data = machine.data().display().to_string();
    let refused = machine.offline(&["edit", &data, "key"]);
    assert!(!refused.status.success());
    assert_eq!(machine.disk.struck(), 1);
    machine.edit();
    assert_promises_hold(machine);
}

/// The stop tells it, and the next start has nothing to verify against.
#[test]
fn a_stop_fails_with_each_of_its_syncs() {
    if is_skipped("a_stop_fails_with_each_of_its_syncs") {
        return;
    }
    for name in [LATER, MANIFEST, LOCK, ROOT] {
        let mut machine = Machine::new();
        machine.start();
        machine.put();
        machine.note();
        machine.disk.plan(once(On::Sync, name, Errno::EIO));
        let words = machine.stop_in_vain();
        assert!(words.contains("Input/output error"), "{name}: {words}");
        assert_eq!(machine.disk.struck(), 1, "{name}");
        machine.start();
        machine.put();
        machine.token();
        // The next process cannot know that the disk does not have all that it reads.
        if name != LATER {
            machine.note();
            machine.stop();
        }
        assert_promises_hold(machine);
    }
}

/// The kernel drops the writes of a sync that fails, so that the next one succeeds: what the stop
/// then writes down is not held against the data after a crash of the machine.
#[test]
fn a_stop_after_a_settling_that_has_failed_is_not_verified_in_another_boot() {
    if is_skipped("a_stop_after_a_settling_that_has_failed_is_not_verified_in_another_boot") {
        return;
    }
    let mut machine = Machine::new();
    machine.start_forgetful();
    machine.put();
    assert_eq!(machine.ask("note a"), "ok");
    machine.disk.plan(once(On::Sync, LATER, Errno::EIO));
    let failed = machine.swap_in_vain();
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    assert!(matches!(failed.cause, Cause::SealFailed { .. }), "{:?}", failed.cause);
    machine.put();
    machine.stop();
    assert_promises_hold(machine);
}

#[test]
fn a_settling_that_hangs_after_the_commit_keeps_no_client_waiting() {
    if is_skipped("a_settling_that_hangs_after_the_commit_keeps_no_client_waiting") {
        return;
    }
    let mut machine = Machine::new();
    machine.start();
    machine.note();
    // The first one is ahead of the drain.
    let session = machine.prepared("");
    machine.disk.plan(hang(LATER));
    machine.commit(session.seal().and_then(|sealed| sealed.begin()?.commit()).expect("it commits"));
    machine.disk.wait_struck(1);
    for _ in 0..3 {
        machine.put();
    }
    machine.token();
    machine.disk.release();
    machine.swap().expect("it settled");
    machine.put();
    assert_promises_hold(machine);
}

#[test]
fn a_settling_that_hangs_ahead_of_a_drain_keeps_no_client_waiting() {
    if is_skipped("a_settling_that_hangs_ahead_of_a_drain_keeps_no_client_waiting") {
        return;
    }
    let mut machine = Machine::new();
    machine.start();
    machine.note();
    machine.disk.plan(hang(LATER));
    let session = machine.pair("").warm().expect("it warms up");
    std::thread::scope(|scope| {
        let swap = scope.spawn(|| session.prepare().and_then(|prepared| prepared.seal()?.begin()));
        machine.disk.wait_struck(1);
        assert_eq!(machine.ask_before("put during"), "ok");
        assert!(machine.ask_before("token").parse::<u64>().is_ok());
        assert!(!swap.is_finished());
        machine.disk.release();
        let ready = swap.join().expect("no panic").expect("it settled");
        drop(ready);
    });
    machine.forget_successor();
    machine.put();
    assert_promises_hold(machine);
}

#[test]
fn a_seal_that_hangs_is_waited_for_and_the_swap_goes_on() {
    if is_skipped("a_seal_that_hangs_is_waited_for_and_the_swap_goes_on") {
        return;
    }
    let mut machine = Machine::new();
    machine.start();
    machine.put();
    let session = machine.prepared("");
    machine.disk.plan(hang(AT_ONCE));
    let committed = std::thread::scope(|scope| {
        let swap = scope.spawn(|| session.seal().and_then(|sealed| sealed.begin()?.commit()));
        machine.disk.wait_struck(1);
        assert!(!swap.is_finished(), "nothing is given up meanwhile");
        machine.disk.release();
        swap.join().expect("no panic").expect("it commits")
    });
    machine.commit(committed);
    machine.put();
    machine.token();
    assert_promises_hold(machine);
}

/// The manifest, the record and the draft of a swap can be neither created nor written.
#[test]
fn a_disk_that_takes_no_more_midway_leaves_one_writer_that_serves() {
    if is_skipped("a_disk_that_takes_no_more_midway_leaves_one_writer_that_serves") {
        return;
    }
    for errno in [Errno::ENOSPC, Errno::EROFS, Errno::EIO] {
        for name in [MANIFEST, LOCK] {
            let mut machine = Machine::new();
            machine.start();
            machine.put();
            let session = machine.prepared("");
            machine.disk.plan(Fault {
                on: On::Change,
                name,
                with: With::Errno(errno),
                after: 0,
                times: 1,
            });
            let failed = session.seal().map(drop).expect_err("it cannot be sealed");
            assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
            machine.forget_successor();
            assert_eq!(machine.disk.struck(), 1, "{name}");
            machine.put();
            machine.token();
            machine.swap().expect("there is room again");
            machine.put();
            assert_promises_hold(machine);
        }
        // The successor: its record of the opening, and the commit point.
        for times in [1, 2] {
            let mut machine = Machine::new();
            machine.start();
            machine.put();
            let session = machine.sealed("");
            let fault =
                Fault { on: On::Change, name: LOCK, with: With::Errno(errno), after: 0, times: 1 };
            let failed = if times == 1 {
                machine.disk.plan(fault);
                session.begin().map(drop).expect_err("it cannot record that it opens")
            } else {
                let ready = session.begin().expect("it opens");
                machine.disk.plan(fault);
                ready.commit().map(drop).expect_err("it cannot commit")
            };
            assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
            machine.forget_successor();
            machine.put();
            machine.token();
            assert_promises_hold(machine);
        }
    }
}

/// While the disk takes nothing the incumbent cannot record that it is the writer again.
#[test]
fn an_incumbent_that_cannot_record_that_it_serves_again_tries_until_it_can() {
    if is_skipped("an_incumbent_that_cannot_record_that_it_serves_again_tries_until_it_can") {
        return;
    }
    let mut machine = Machine::new();
    machine.start();
    machine.put();
    let session = machine.sealed("");
    let fault = With::Errno(Errno::EIO);
    machine.disk.plan(Fault { on: On::Change, name: LOCK, with: fault, after: 0, times: 2 });
    assert_eq!(session.abort("on a whim").incumbent, IncumbentFate::Serving);
    eventually("it serves again", TIMEOUT, || (machine.disk.struck() == 2).then_some(()));
    machine.forget_successor();
    machine.put();
    machine.token();
    assert_promises_hold(machine);
}
