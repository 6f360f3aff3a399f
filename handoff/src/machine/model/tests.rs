//! The exploration, to its end. The numbers are pinned: a machine that changes is explored
//! anew, and somebody looks at what became of it.

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, Expectation, Model};

use super::SwapModel;
use super::previous::second;
use super::witness::Sight;

#[test]
fn a_swap_without_a_fault() {
    assert_eq!(explore(SwapModel::first(0), false), 216_043);
}

#[test]
fn a_swap_with_one_fault() {
    assert_eq!(explore(SwapModel::first(1), true), 1_610_884);
}

#[test]
#[ignore = "it takes long: --include-ignored"]
fn a_swap_with_two_faults() {
    assert_eq!(explore(SwapModel::first(2), true), 4_864_042);
}

#[test]
fn a_one_way_swap() {
    assert_eq!(explore(SwapModel::one_way(0), false), 217_542);
}

#[test]
#[ignore = "it takes long: --include-ignored"]
fn a_one_way_swap_with_one_fault() {
    assert_eq!(explore(SwapModel::one_way(1), false), 1_625_664);
}

#[test]
fn a_second_swap_beside_the_successor_of_the_first() {
    assert_eq!(explore(second(0), false), 2_177_654);
}

#[test]
#[ignore = "it takes long: --include-ignored"]
fn a_second_swap_with_one_fault() {
    assert_eq!(explore(second(1), false), 16_512_537);
}

/// The unique states; everything that is looked for was found, and nothing else. Without a fault
/// nobody is promoted, and nobody is alone.
fn explore(swap: SwapModel, finds_all: bool) -> usize {
    let begun = Instant::now();
    let witness = swap.witness.clone();
    let checker = swap.checker().threads(THREADS).spawn_bfs().join();
    let found = checker.discoveries();
    let mut not_seen = Vec::new();
    for property in checker.model().properties() {
        match (property.expectation, found.get(property.name)) {
            (Expectation::Sometimes, None) => not_seen.push(property.name),
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                let last = path.last_state().clone();
                panic!("{}:\n{:?}\n{last:#?}", property.name, path.clone().into_actions());
            }
            _ => {}
        }
    }
    if finds_all {
        assert_eq!(not_seen, [""; 0]);
        let sights: BTreeSet<Sight> = Sight::all().into_iter().collect();
        assert_eq!(witness.sights(), sights);
    }
    let unique = checker.unique_state_count();
    println!("{unique} states in {:?}", begun.elapsed());
    unique
}

pub(super) const THREADS: usize = 4;
