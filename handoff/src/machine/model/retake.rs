//! The incumbent's wait for the lock: the library's own decisions, by the lock, the record and
//! the time that has passed.

use std::time::Duration;

use super::incumbent::{Incumbent, feed, leave};
use super::witness::{Sight, Witness};
use super::world::{Life, RecordPhase, Who, World};
use crate::control::LIVENESS_TIMEOUT;
use crate::datadir::Decision;
use crate::guard::{Guard, stands};
use crate::incumbent::Standing;
use crate::machine::incumbent::Event;
use crate::machine::successor;

/// How long ago the deadline of the swap passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Lease {
    Runs,
    Passed,
    /// By the liveness timeout.
    LongPassed,
}

/// Takes the lock, or learns that it is lost for good, or tries again a little later.
pub(super) fn try_lock(world: &mut World, witness: &Witness) {
    if !world.is_in_place(false) {
        return;
    }
    let record = world.record.as_owner_record();
    let own = world.incumbent.generation;
    match Decision::of(world.lock.is_none(), Some(&record), own.into()) {
        // The process ends with an error.
        Decision::Retaken if world.is_noted && stands(Guard::FormatBeforeResume) => {
            leave(world);
        }
        Decision::Retaken => {
            world.lock = Some(Who::Incumbent);
            world.take_over(RecordPhase::Serving, Who::Incumbent);
            world.incumbent.generation = world.record.generation;
            world.path = Who::Incumbent;
            witness.saw(Sight::IncumbentRetakes);
            feed(world, Event::LockRetaken, None, witness);
        }
        Decision::Replaced { holder, .. } => {
            let is_killed = holder == Who::Successor.id()
                && matches!(world.successor.life, Life::Killed | Life::Stuck | Life::Dead);
            if standing(&world.incumbent).goes_by_the_record(is_killed) {
                witness.saw(Sight::IncumbentLeavesByTheRecord);
                let is_watched =
                    world.lines.iter().skip(1).any(|line| line.is_greeted && !line.is_hung_up());
                world.incumbent.has_left_early = is_watched
                    && world.incumbent.lease < Lease::LongPassed
                    && world.lock == Some(Who::Successor)
                    && world.successor.state != successor::State::Serving;
                feed(world, Event::Superseded, None, witness);
            }
        }
        Decision::Undecided { holder } => {
            // A holder that has not written the record yet is the successor of the reservation.
            let holder = if holder.pid == 0 { Who::Successor.id() } else { holder };
            let is_there = world.is_alive(Who::Successor) && holder == Who::Successor.id();
            if is_there && standing(&world.incumbent).ends_the_successor() {
                witness.saw(Sight::IncumbentEndsTheSuccessor);
                world.successor.was_doubted = true;
                world.successor.kill();
            }
        }
    }
}

fn standing(incumbent: &Incumbent) -> Standing {
    let overdue = match incumbent.lease {
        Lease::Runs => None,
        Lease::Passed => Some(Duration::from_millis(1)),
        Lease::LongPassed => Some(LIVENESS_TIMEOUT),
    };
    Standing { is_connected: incumbent.holder.is_some(), overdue }
}
