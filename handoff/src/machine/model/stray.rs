//! A cold start that should not have begun: it may try at any time, and again.

use super::witness::{Sight, Witness};
use super::world::{Directory, Life, Record, RecordPhase, Sees, Who, World, Wrong};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stray {
    Idle,
    /// It has the lock, and opens.
    Holds {
        is_behind: bool,
        /// The record before the stray took over.
        found: Record,
    },
    Serves {
        is_behind: bool,
    },
    /// It could not go on, and released the lock.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Try {
        is_foreign: bool,
    },
    /// It looks at the control path, and serves or gives up.
    Start,
}

impl Stray {
    pub(super) const fn serves(self) -> bool {
        matches!(self, Self::Serves { .. })
    }

    pub(super) const fn writes(self) -> bool {
        matches!(self, Self::Holds { .. } | Self::Serves { .. })
    }

    pub(super) const fn is_behind(self) -> bool {
        matches!(self, Self::Holds { is_behind: true, .. } | Self::Serves { is_behind: true })
    }

    pub(super) const fn fall_behind(&mut self) {
        match self {
            Self::Holds { is_behind, .. } | Self::Serves { is_behind } => *is_behind = true,
            Self::Idle | Self::Gone => {}
        }
    }
}

pub(super) fn moves(world: &World, moves: &mut Vec<Move>) {
    match world.stray {
        // Elsewhere it would find a directory like any other that is new.
        Stray::Idle if world.directory == Directory::Away => {}
        Stray::Idle => {
            moves.extend([Move::Try { is_foreign: false }, Move::Try { is_foreign: true }]);
        }
        Stray::Holds { .. } => moves.push(Move::Start),
        Stray::Serves { .. } | Stray::Gone => {}
    }
}

pub(super) fn take(world: &mut World, chosen: Move, witness: &Witness) {
    match chosen {
        Move::Try { is_foreign } => {
            let record = world.record.as_owner_record();
            let reservation = record.reservation([0; 16], &Sees { world, is_foreign });
            if world.lock.is_some() || reservation.is_some() {
                return witness.saw(Sight::StrayRefused);
            }
            if world.record.phase == RecordPhase::Sealed && world.is_alive(Who::Successor) {
                world.wrong.get_or_insert(Wrong::Stolen);
            }
            let found = world.record;
            world.lock = Some(Who::Stray);
            world.take_over(RecordPhase::Held, Who::Stray);
            world.stray = Stray::Holds { is_behind: false, found };
        }
        Move::Start => {
            let answers = match world.path {
                Who::Incumbent => {
                    matches!(world.incumbent.life, Life::Live | Life::Hung)
                }
                Who::Successor | Who::Previous => world.is_alive(world.path),
                Who::Stray => false,
            };
            if answers || !world.is_in_place(false) {
                // The stray never served, so it restores the record, except for the generation.
                if let Stray::Holds { found, .. } = world.stray {
                    let generation = world.record.generation;
                    world.record = Record { generation, ..found };
                }
                world.free_lock(Who::Stray);
                world.stray = Stray::Gone;
                return;
            }
            (world.path, world.record.phase) = (Who::Stray, RecordPhase::Serving);
            world.stray = Stray::Serves { is_behind: world.stray.is_behind() };
        }
    }
}
