//! The successor of an earlier swap that was undone: it may still wait, be slow, or not have ended.
//! It runs as the successor of this swap does, with the two in each other's place meanwhile.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use stateright::Model;

use super::SwapModel;
use super::carry::Carry;
use super::line::{Heard, Line, Word};
use super::stray::Stray;
use super::successor::{self, Move, Successor};
use super::witness::Witness;
use super::world::{Life, TO_SUCCESSOR, Who, World};
use crate::machine::successor::State;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Previous {
    pub(super) successor: Successor,
    /// Its connection to the supervisor of that swap.
    pub(super) line: Line,
    pub(super) carry: Carry,
}

impl Previous {
    /// The successor of a swap, once another one may begin: the incumbent serves again, and the
    /// successor may yet open the data. One that may not does nothing more but end.
    pub(super) fn of(world: &World) -> Option<Self> {
        let line = &world.lines[TO_SUCCESSOR];
        let may_open = matches!(world.successor.state, State::Opening(_))
            || line.next_for_daemon() == Heard::Word(Word::Begin);
        let is_left = world.incumbent.serves() && world.successor.life == Life::Live && may_open;
        is_left.then(|| Self {
            successor: world.successor.left_behind(),
            line: line.clone(),
            carry: world.carry.clone(),
        })
    }
}

pub(super) fn moves(world: &World, moves: &mut Vec<Move>) {
    if world.previous.is_some() {
        let mut world = world.clone();
        exchange(&mut world);
        successor::moves(&world, moves);
    }
}

pub(super) fn take(world: &mut World, chosen: Move, witness: &Witness) {
    exchange(world);
    successor::take(world, chosen, witness);
    exchange(world);
}

fn exchange(world: &mut World) {
    let Some(previous) = &mut world.previous else { return };
    std::mem::swap(&mut previous.successor, &mut world.successor);
    std::mem::swap(&mut previous.line, &mut world.lines[TO_SUCCESSOR]);
    std::mem::swap(&mut previous.carry, &mut world.carry);
    let names = [&mut world.record.writer, &mut world.record.reserved, &mut world.path];
    for name in names.into_iter().chain(&mut world.lock) {
        *name = match *name {
            Who::Successor => Who::Previous,
            Who::Previous => Who::Successor,
            other => other,
        };
    }
}

/// A second swap with at most so many faults, beside each successor that a first one, with one fault,
/// may have left. No stray comes: beside a second swap it finds no more than beside the first.
pub(super) fn second(faults: u8) -> SwapModel {
    let first = SwapModel::first(1);
    let (hasher, mut seen, mut left) = (RandomState::new(), HashSet::new(), HashSet::new());
    let mut pending = first.init_states();
    while let Some(world) = pending.pop() {
        left.extend(Previous::of(&world));
        let mut actions = Vec::new();
        first.actions(&world, &mut actions);
        for action in actions {
            let next = first.next_state(&world, action);
            pending.extend(next.filter(|next| seen.insert(hasher.hash_one(next))));
        }
    }
    let begin = |previous| World {
        previous: Some(Box::new(previous)),
        stray: Stray::Gone,
        ..World::paired(faults)
    };
    SwapModel::from(left.into_iter().map(begin).collect())
}
