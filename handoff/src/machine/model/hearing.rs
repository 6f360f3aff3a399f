//! The messages that the incumbent hears, as `incumbent::serve` does: its connections in their
//! order, and nothing while an undo runs, except the end of a connection.

use super::incumbent::feed;
use super::line::{Heard, SWAP, Word};
use super::witness::{Sight, Witness};
use super::world::{ANEW, OF_ADOPTER, TO_INCUMBENT, World};
use crate::machine::incumbent::Event;

/// The first connection that the incumbent has to act upon.
pub(super) fn first_with_news(world: &World) -> Option<usize> {
    let incumbent = &world.incumbent;
    [TO_INCUMBENT, ANEW, OF_ADOPTER].into_iter().find(|&number| {
        let line = &world.lines[number];
        if line.is_greeted && !incumbent.reads_messages() {
            return line.is_open_at_daemon() && line.is_hung_up();
        }
        line.next_for_daemon() != Heard::Nothing
    })
}

pub(super) fn hear(world: &mut World, number: usize, witness: &Witness) {
    let line = &mut world.lines[number];
    if !line.is_greeted {
        return match line.next_for_daemon() {
            Heard::Word(_) => {
                line.daemon_has_read();
                line.is_greeted = true;
                attach(world, number, witness);
            }
            _ => lose(world, number, witness),
        };
    }
    if !world.incumbent.reads_messages() {
        return lose(world, number, witness);
    }
    match line.next_for_daemon() {
        Heard::Word(word) => match world.incumbent.holder {
            Some(holder) if holder != number => refuse(world, number, word),
            _ => {
                line.daemon_has_read();
                feed(world, Event::Message(word.message()), Some(number), witness);
            }
        },
        _ => lose(world, number, witness),
    }
}

/// A supervisor that comes for a swap without one is its supervisor from here on.
fn attach(world: &mut World, number: usize, witness: &Witness) {
    let incumbent = &mut world.incumbent;
    if incumbent.holder.is_none() && incumbent.state.is_missing(Some(SWAP)) {
        incumbent.holder = Some(number);
        if number == OF_ADOPTER {
            witness.saw(Sight::AdopterAttaches);
        }
    }
}

/// The holder is there: the incumbent would have heard the end of its connection first.
fn refuse(world: &mut World, number: usize, word: Word) {
    let line = &mut world.lines[number];
    line.daemon_has_read();
    if word != Word::Ask {
        line.tell_supervisor(Word::Abort);
        line.close_daemon();
    }
}

pub(super) fn lose(world: &mut World, number: usize, witness: &Witness) {
    world.lines[number].close_daemon();
    if world.incumbent.holder == Some(number) {
        world.incumbent.holder = None;
        feed(world, Event::SessionLost, None, witness);
    }
}
