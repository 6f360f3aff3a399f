//! Every way ends: no round of steps leads back to its beginning. So the states in which nothing
//! more happens by itself are the ends of all ways, and a property that holds in each of them
//! holds at the end of every swap.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};

use stateright::Model;

use super::{Action, SwapModel, incumbent};

#[test]
fn nothing_goes_round_for_ever_without_a_fault() {
    no_rounds(0);
}

#[test]
#[ignore = "it takes long: --include-ignored"]
fn nothing_goes_round_for_ever_with_two_faults() {
    no_rounds(2);
}

fn no_rounds(faults: u8) {
    let graph = Graph::of(&SwapModel::first(faults));
    println!("{} states, {} steps", graph.arrivals.len(), graph.steps.len());
    assert_eq!(graph.left_in_rounds(), 0);
}

/// States by number, in the order in which they were found.
struct Graph {
    /// Steps into each state that were not yet taken away.
    arrivals: Vec<u32>,
    /// From, to; sorted.
    steps: Vec<(u32, u32)>,
}

impl Graph {
    /// A resume may fail as often as the daemon likes, and does while the directory is away: that is
    /// the one round there is.
    fn of(swap: &SwapModel) -> Self {
        let hasher = RandomState::new();
        let mut numbers = HashMap::new();
        let (mut arrivals, mut steps) = (Vec::new(), Vec::new());
        let mut pending = swap.init_states();
        for world in &pending {
            numbers.insert(hasher.hash_one(world), 0_u32);
            arrivals.push(0);
        }
        while let Some(world) = pending.pop() {
            let from = numbers[&hasher.hash_one(&world)];
            let mut actions = Vec::new();
            swap.actions(&world, &mut actions);
            let fails = |action: &Action| match action {
                Action::Incumbent(incumbent::Move::HookEnds { well }) => {
                    world.incumbent.resumes() && !(*well && world.is_in_place(false))
                }
                _ => false,
            };
            for action in actions.into_iter().filter(|action| !fails(action)) {
                let Some(next) = swap.next_state(&world, action) else { continue };
                let number = u32::try_from(numbers.len()).expect("they are few");
                let to = match numbers.entry(hasher.hash_one(&next)) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        arrivals.push(0);
                        pending.push(next);
                        *new.insert(number)
                    }
                };
                arrivals[to as usize] += 1;
                steps.push((from, to));
            }
        }
        steps.sort_unstable();
        Self { arrivals, steps }
    }

    /// Takes away the states that no step leads to, again and again; counts the rest.
    fn left_in_rounds(mut self) -> usize {
        let mut left = self.arrivals.len();
        let mut free: Vec<u32> = (0..)
            .zip(&self.arrivals)
            .filter(|(_, arrivals)| **arrivals == 0)
            .map(|(state, _)| state)
            .collect();
        while let Some(state) = free.pop() {
            left -= 1;
            let first = self.steps.partition_point(|(from, _)| *from < state);
            for &(_, to) in self.steps[first..].iter().take_while(|(from, _)| *from == state) {
                self.arrivals[to as usize] -= 1;
                if self.arrivals[to as usize] == 0 {
                    free.push(to);
                }
            }
        }
        left
    }
}
