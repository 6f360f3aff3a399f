//! The power is cut at every write, rename and sync of a daemon's disk, and the disk fails.
//!
//! A file system over FUSE keeps a record of all that a daemon does to it. The record tells each
//! state that the disk may have had at each moment ([`states`]), and the daemon is started on each.
//! `HANDOFF_POWER=10000` checks that many states.

mod check;
mod disk;
mod fuse;
mod machine;
mod scenarios;
mod states;
mod storage;

use std::sync::Mutex;

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
    let records = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (index, (_, run)) in scenarios::ALL.iter().enumerate() {
            let records = &records;
            scope.spawn(move || {
                let mut machine = Machine::new();
                run(&mut machine);
                records.lock().expect("no panic").push((index, machine.cut()));
            });
        }
    });
    let mut records = records.into_inner().expect("no scenario panicked");
    records.sort_by_key(|(index, _)| *index);
    let mut limit = FEW;
    let of_all = loop {
        let of = |(_, events): &(_, Vec<_>)| check::cases(events, limit);
        let of_all: Vec<_> = records.iter().map(of).collect();
        let count: usize = of_all.iter().map(|(_, cases)| cases.len()).sum();
        if count >= wanted || limit > wanted {
            break of_all;
        }
        limit *= 2;
    };
    let (mut points, mut states, mut wrong) = (0, 0, Vec::new());
    println!("{:45} {:>6} {:>6} {:>6}", "until the power is cut", "points", "states", "wrong");
    for ((index, events), (of_points, cases)) in records.iter().zip(&of_all) {
        let found = check::check_all(cases, check::starts);
        let name = scenarios::ALL[*index].0;
        println!("{name:45} {of_points:6} {:6} {:6}", cases.len(), found.len());
        points += of_points;
        states += cases.len();
        wrong.extend(found.into_iter().take(3).map(|(case, words)| {
            let case = &cases[case];
            let before = &events[case.point.saturating_sub(6)..case.point];
            format!("{name}, at {}: {words}\nafter {before:#?}\non {:#?}", case.point, case.tree)
        }));
    }
    println!("{:45} {points:6} {states:6} {:6}", "all", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(points >= 60, "{points} points");
    assert!(states >= wanted, "{states} states");
}

/// How many states are checked, at least.
fn wanted() -> usize {
    std::env::var("HANDOFF_POWER").map_or(1000, |number| number.parse().expect("it is a number"))
}

/// As many states of one point are checked at first.
const FEW: usize = 8;
