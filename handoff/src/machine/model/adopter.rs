//! The supervisor that is started when the first one has died: its machine, driven as
//! `supervisor::resolve` does.

use super::line::{Heard, Line, Word};
use super::witness::{Sight, Witness};
use super::world::{Life, OF_ADOPTER, Who, World, Wrong};
use crate::machine::adopter::{Effect, Event, Machine, State};
use crate::machine::outcome::Outcome;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Adopter {
    Absent,
    Resolving { machine: Machine, is_calling: bool, successor_ended: bool, incumbent_ended: bool },
    Resolved(Outcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Start,
    SeeSuccessorEnd,
    SeeIncumbentEnd,
    Hear,
    /// It looks which process has the control socket.
    Look,
    SuccessorIsSilent,
}

pub(super) fn moves(world: &World, moves: &mut Vec<Move>) {
    match &world.adopter {
        Adopter::Absent if world.supervisor.left_a_swap() => moves.push(Move::Start),
        Adopter::Absent | Adopter::Resolved(_) => {}
        Adopter::Resolving { machine, is_calling, successor_ended, incumbent_ended } => {
            if !successor_ended && world.successor.life == Life::Dead {
                moves.push(Move::SeeSuccessorEnd);
            }
            if !incumbent_ended && world.incumbent.life == Life::Dead {
                moves.push(Move::SeeIncumbentEnd);
            }
            if *is_calling && world.lines[OF_ADOPTER].next_for_supervisor() != Heard::Nothing {
                moves.push(Move::Hear);
            }
            let is_announced = world.is_one_way && world.successor.life == Life::Live;
            let finds_successor =
                world.path == Who::Successor && (world.successor.serves() || is_announced);
            let finds_incumbent = world.path == Who::Incumbent
                && world.incumbent.life == Life::Live
                && !is_calling
                && world.lines[OF_ADOPTER].is_over();
            if finds_incumbent || finds_successor && machine.state == State::Adopting {
                moves.push(Move::Look);
            }
            // It looks once more before it ends one.
            if machine.state == State::Adopting && !(is_announced && finds_successor) {
                moves.push(Move::SuccessorIsSilent);
            }
        }
    }
}

pub(super) fn take(world: &mut World, chosen: Move, witness: &Witness) {
    match chosen {
        Move::Start => {
            world.adopter = Adopter::Resolving {
                machine: Machine::new(),
                is_calling: false,
                successor_ended: false,
                incumbent_ended: false,
            };
        }
        Move::SeeSuccessorEnd => {
            if let Adopter::Resolving { successor_ended, .. } = &mut world.adopter {
                *successor_ended = true;
            }
            feed(world, Event::SuccessorEnded, witness);
        }
        Move::SeeIncumbentEnd => {
            if let Adopter::Resolving { incumbent_ended, is_calling, .. } = &mut world.adopter {
                (*incumbent_ended, *is_calling) = (true, false);
            }
            world.lines[OF_ADOPTER].close_supervisor();
            feed(world, Event::IncumbentDied, witness);
        }
        Move::Hear => hear(world, witness),
        Move::Look if world.path == Who::Successor => {
            feed(world, Event::SuccessorServes, witness);
        }
        Move::Look => {
            let line = &mut world.lines[OF_ADOPTER];
            *line = Line::open();
            for word in [Word::HelloAck, Word::Resume, Word::Ask] {
                line.tell_daemon(word);
            }
            if let Adopter::Resolving { is_calling, .. } = &mut world.adopter {
                *is_calling = true;
            }
        }
        Move::SuccessorIsSilent => {
            world.successor.is_blamed |= world.incumbent.life != Life::Live;
            feed(world, Event::SuccessorSilent, witness);
        }
    }
}

fn hear(world: &mut World, witness: &Witness) {
    let event = match world.lines[OF_ADOPTER].next_for_supervisor() {
        Heard::Word(word) => {
            world.lines[OF_ADOPTER].supervisor_has_read();
            match word {
                Word::Echo { serves } => {
                    if !serves {
                        world.wrong.get_or_insert(Wrong::FalseReport);
                    }
                    Event::Echoed
                }
                Word::Abort => Event::Refused,
                _ => return,
            }
        }
        _ => {
            world.lines[OF_ADOPTER].close_supervisor();
            if let Adopter::Resolving { is_calling, .. } = &mut world.adopter {
                *is_calling = false;
            }
            Event::IncumbentDisconnected
        }
    };
    feed(world, event, witness);
}

fn feed(world: &mut World, event: Event, witness: &Witness) {
    let Adopter::Resolving { machine, .. } = &mut world.adopter else { return };
    let effects = machine.on(event);
    let state = machine.state;
    if state == State::Ending {
        witness.saw(Sight::AdopterEndsTheSuccessor);
    }
    for effect in effects {
        match effect {
            Effect::KillSuccessor => world.successor.kill(),
            // `Move::Look` asks it, as soon as the incumbent can be reached.
            Effect::AskIncumbent => assert!(!matches!(state, State::Resolved(_))),
        }
    }
    if let State::Resolved(outcome) = state {
        world.adopter = Adopter::Resolved(outcome);
        world.lines[OF_ADOPTER].close_supervisor();
    }
}
