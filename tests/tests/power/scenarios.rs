//! What the daemon does until the power is cut.

use handoff::supervisor::IncumbentFate;

use super::machine::Machine;

/// A name, and what happens.
pub(crate) type Scenario = (&'static str, fn(&mut Machine));

pub(crate) const ALL: &[Scenario] = &[
    ("a cold start", cold_start),
    ("a first start beside data that is there", data_is_there),
    ("a swap that commits", committed),
    ("a swap that is given up before the seal", given_up_before_the_seal),
    ("a swap that is given up after the seal", given_up_after_the_seal),
    ("a swap whose successor cannot open", successor_cannot_open),
    ("a clean stop, and a start", clean_stop),
    ("a clean stop with a late request", late_request),
    ("a clean stop after a swap", swap_and_stop),
    ("work offline after a clean stop", work_offline),
    ("starts that fail after a clean stop", starts_in_vain),
    ("repairs", repairs),
    ("crashes and fencing tokens", tokens),
    ("a one-way swap", one_way),
];

fn cold_start(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.token();
    machine.put();
    machine.note();
}

/// So no process has synced the directory since the lock file is in it.
fn data_is_there(machine: &mut Machine) {
    machine.bring_data();
    machine.start();
    machine.token();
    machine.put();
}

fn committed(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.note();
    machine.token();
    machine.swap().expect("it commits");
    machine.put();
    machine.note();
    machine.token();
    machine.swap().expect("it commits");
    machine.put();
}

/// The checks start the build before, which reads format 1 alone.
fn one_way(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.swap_one_way();
    machine.put();
}

fn given_up_before_the_seal(machine: &mut Machine) {
    machine.start();
    machine.put();
    let prepared = machine.prepared("");
    assert_eq!(prepared.abort("on a whim").incumbent, IncumbentFate::Serving);
    machine.forget_successor();
    machine.put();
    machine.token();
}

fn given_up_after_the_seal(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.note();
    for _ in 0..2 {
        let sealed = machine.sealed("");
        assert_eq!(sealed.abort("on a whim").incumbent, IncumbentFate::Serving);
        machine.forget_successor();
        machine.put();
        machine.token();
        machine.note();
    }
}

fn successor_cannot_open(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.note();
    let failed = machine.sealed("open").begin().map(drop).expect_err("it cannot open");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    machine.forget_successor();
    machine.put();
    machine.token();
}

fn clean_stop(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.note();
    machine.token();
    machine.stop();
    machine.start();
    machine.put();
    machine.note();
    machine.stop();
}

fn late_request(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.note();
    assert_eq!(machine.ask("late"), "ok");
    machine.stop();
    machine.start();
    machine.put();
}

fn swap_and_stop(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.swap().expect("it commits");
    machine.note();
    machine.stop();
    machine.start();
    machine.put();
    machine.swap().expect("it commits");
    machine.put();
}

fn work_offline(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.token();
    machine.stop();
    machine.edit();
    machine.edit();
    machine.start();
    machine.put();
}

fn starts_in_vain(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.stop();
    machine.start_in_vain();
    machine.start_in_vain();
    machine.start();
    machine.put();
    machine.kill();
    machine.start_in_vain();
    machine.start();
    machine.token();
}

fn repairs(machine: &mut Machine) {
    machine.start();
    machine.put();
    machine.token();
    machine.stop();
    machine.repair();
    machine.start();
    machine.put();
    machine.kill();
    for (file, damage) in [
        (".handoff.lock", &b"damage"[..]),
        (".handoff.lock", &[7; 256]),
        (".handoff.lock", &[7; 1000]),
    ] {
        machine.disk.damage(file, damage);
        machine.repair();
        machine.start();
        machine.token();
        machine.put();
        machine.kill();
    }
}

fn tokens(machine: &mut Machine) {
    for _ in 0..3 {
        machine.start();
        machine.token();
        machine.swap().expect("it commits");
        machine.token();
        machine.put();
        machine.kill();
    }
}

/// After a power cut, by processes of another boot.
pub(crate) fn again(machine: &mut Machine) {
    machine.start();
    machine.token();
    machine.put();
    machine.note();
    machine.swap().expect("it commits");
    machine.put();
    machine.token();
}
