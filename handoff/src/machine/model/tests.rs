//! The exploration, to its end. The numbers are pinned: a machine that changes is explored
//! anew, and somebody looks at what became of it.

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, Expectation, Model};

use super::SwapModel;
use super::witness::{Sight, Witness};

#[test]
fn a_swap_without_a_fault() {
    assert_eq!(explore(0), 221_985);
}

#[test]
fn a_swap_with_one_fault() {
    assert_eq!(explore(1), 1_080_339);
}

#[test]
fn a_swap_with_two_faults() {
    assert_eq!(explore(2), 2_234_954);
}

/// The unique states; everything that is looked for was found, and nothing else.
fn explore(faults: u8) -> usize {
    let begun = Instant::now();
    let swap = SwapModel { faults, without: None, witness: Witness::default() };
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
    // Without a fault nobody is promoted, and nobody is alone.
    if faults > 0 {
        assert_eq!(not_seen, [""; 0]);
        let sights: BTreeSet<Sight> = Sight::all().into_iter().collect();
        assert_eq!(witness.sights(), sights);
    }
    let unique = checker.unique_state_count();
    println!("{faults} faults: {unique} states in {:?}", begun.elapsed());
    unique
}

pub(super) const THREADS: usize = 4;
