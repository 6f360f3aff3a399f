//! The carried connections, which both processes have, and memory of the moment of the seal.

use super::line::SWAP;
use super::world::{Record, Who, World, Wrong};
use crate::carry::{End, Held, Usable};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Carry {
    held: Held,
    /// The incumbent may have sent everything, memory included.
    is_whole: bool,
    /// A process has acknowledged a write since the memory was sealed.
    is_stale: bool,
    /// The part that the successor may use; none before it has the lock.
    usable: Option<Usable>,
    incumbent_has_read: bool,
    successor_has_read: bool,
}

impl Carry {
    pub(super) const fn parked() -> Self {
        Self {
            held: Held::Parked,
            is_whole: false,
            is_stale: false,
            usable: None,
            incumbent_has_read: false,
            successor_has_read: false,
        }
    }

    /// The incumbent seals its shards, and may have sent the rest.
    pub(super) const fn sealed(&mut self) {
        self.is_whole = true;
    }

    pub(super) const fn acknowledged(&mut self) {
        self.is_stale = self.is_whole;
    }

    /// The incumbent is about to resume.
    pub(super) fn take_back(&mut self) {
        if self.held.is_free() {
            (self.held, self.incumbent_has_read) = (Held::TakenBack, true);
        }
    }

    /// The successor admits work.
    pub(super) fn take_up(&mut self) {
        if self.usable != Some(Usable::Nothing) && self.held.is_free() {
            (self.held, self.successor_has_read) = (Held::TakenUp, true);
        }
    }

    /// Whether connections ended with a successor that had them.
    pub(super) fn is_given_up(&self) -> bool {
        self.held == Held::TakenUp
    }

    pub(super) const fn is_read_twice(&self) -> bool {
        self.incumbent_has_read && self.successor_has_read
    }

    pub(super) fn is_partly_usable(&self) -> bool {
        self.usable == Some(Usable::Connections)
    }
}

/// The successor has the lock, and found the record as `found`; says whether it can go on.
pub(super) fn find_usable(world: &mut World, found: Record) -> bool {
    let is_dead = !world.is_alive(Who::Incumbent);
    let is_elsewhere = world.successor.is_elsewhere;
    let is_as_sealed = found.as_owner_record().is_reserved_for(SWAP) && !is_elsewhere;
    let Carry { is_whole, held, .. } = world.carry;
    let end = if is_whole { End::Whole } else { End::CutOff };
    world.carry.usable = Usable::of(end, is_as_sealed, held, is_dead);
    world.carry.usable.is_some()
}

/// The successor opens, with the memory that it got.
pub(super) fn open(world: &mut World) {
    if world.carry.usable == Some(Usable::All) && world.carry.is_stale {
        world.wrong.get_or_insert(Wrong::Stale);
    }
}
