//! The power is cut at every write, rename and sync of a disk, and the disk fails: that of a daemon,
//! and that of the program `handoff` which supervises one.
//!
//! A file system over FUSE keeps a record of all that is done to it. The record tells each state
//! that the disk may have had at each moment ([`states`]), and the daemon or the program is started
//! on it. `HANDOFF_POWER=10000` checks that many states.

mod check;
mod disk;
mod fuse;
mod machine;
mod scenarios;
mod site;
mod state_dir;
mod state_storage;
mod states;
mod storage;

use std::fmt::Display;

use machine::Machine;

/// Why the tests of this file are skipped here, if they are.
fn is_skipped(name: &str) -> bool {
    let missing = fuse::missing();
    if let Some(why) = missing {
        println!("skipped: {name}: {why}");
    }
    missing.is_some()
}

#[test]
fn after_a_power_cut_the_daemon_starts_with_all_that_was_promised() {
    if is_skipped("after_a_power_cut_the_daemon_starts_with_all_that_was_promised") {
        return;
    }
    let wanted = wanted();
    let mut records = side_by_side(scenarios::ALL.len(), |index| {
        let (name, run) = scenarios::ALL[index];
        let mut machine = Machine::new();
        run(&mut machine);
        (name, machine.cut())
    });
    // On some of the states that these leave the daemon runs once more, until the next power cut.
    let of_all = records.iter().flat_map(|(_, events)| check::cases(events, FEW).1);
    let left: Vec<_> = of_all.filter(|case| !case.promised.is_damaged).collect();
    let more = wanted / STATES_OF_ONE;
    records.extend(side_by_side(more, |index| {
        let mut machine = Machine::after(&left[index * left.len() / more]);
        scenarios::again(&mut machine);
        ("a swap after a power cut", machine.cut())
    }));
    let mut limit = FEW;
    let of_all = loop {
        let of = |(_, events): &(_, Vec<_>)| check::cases(events, limit);
        let of_all: Vec<_> = records.iter().map(of).collect();
        let count: usize = of_all.iter().map(|(_, cases)| cases.len()).sum();
        if count >= wanted || limit >= MANY {
            break of_all;
        }
        limit *= 2;
    };
    let (mut points, mut states, mut wrong) = (0, 0, Vec::new());
    let heading = ["points", "states", "wrong"];
    let mut table = line("until the power is cut", heading);
    for ((name, events), (of_points, cases)) in records.iter().zip(&of_all) {
        let found = check::check_all(cases, check::starts);
        table += &line(name, [*of_points, cases.len(), found.len()]);
        points += of_points;
        states += cases.len();
        wrong.extend(found.into_iter().take(3).map(|(case, words)| {
            let case = &cases[case];
            let before = &events[case.point.saturating_sub(6)..case.point];
            format!("{name}, at {}: {words}\nafter {before:#?}\non {:#?}", case.point, case.tree)
        }));
    }
    println!("{table}{}", line("all", [points, states, wrong.len()]));
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(points >= 60, "{points} points");
    assert!(states >= wanted, "{states} states");
}

fn line(name: &str, [points, states, wrong]: [impl Display; 3]) -> String {
    format!("{name:45} {points:>6} {states:>6} {wrong:>6}\n")
}

/// Runs that many machines, some of them side by side.
fn side_by_side<T: Send>(count: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (run, mut records) = (&run, Vec::new());
    for first in (0..count).step_by(SIDE_BY_SIDE) {
        std::thread::scope(|scope| {
            let some = first..count.min(first + SIDE_BY_SIDE);
            let threads: Vec<_> = some.map(|index| scope.spawn(move || run(index))).collect();
            let done = threads.into_iter().map(|thread| thread.join().expect("it goes well"));
            records.extend(done);
        });
    }
    records
}

/// How many states are checked, at least.
fn wanted() -> usize {
    std::env::var("HANDOFF_POWER").map_or(1000, |number| number.parse().expect("it is a number"))
}

/// As many states of one point are checked at first.
const FEW: usize = 8;
/// More states of one point are not looked for.
const MANY: usize = 1024;
/// A machine that runs on after a power cut leaves about as many different states, or more.
const STATES_OF_ONE: usize = 100;
const SIDE_BY_SIDE: usize = 16;
