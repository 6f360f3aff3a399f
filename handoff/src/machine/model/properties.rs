//! The properties that must always hold, and those that have to be possible.

use stateright::{Model, Property};

use super::adopter::Adopter;
use super::world::{Directory, Life, Who, World, Wrong};
use super::{Action, SwapModel};
use crate::machine::cause::{Cause, IncumbentFate};
use crate::machine::outcome::Outcome;
use crate::machine::supervisor::State;

pub(super) const ONE_WRITER: &str = "a process that has the data open has the lock";
pub(super) const NOTHING_LOST: &str = "a process that serves has seen every acknowledged write";
pub(super) const SOMEONE_SERVES: &str =
    "in the end exactly one of incumbent and successor serves, if either is alive";
pub(super) const TRUE_REPORT: &str = "a supervisor reports only the outcome that the swap had";
pub(super) const UNDONE: &str = "the incumbent admits no work after a drain that it has not undone";
pub(super) const NOT_GIVEN_UP: &str =
    "a supervisor reports a loss only after a stop, or where something spoke against the successor";
pub(super) const BIDDEN: &str =
    "no successor commits without being told to while the incumbent is alive";
pub(super) const NOT_STOLEN: &str =
    "no process takes a lock that is reserved for another one, which lives";
pub(super) const ONE_READER: &str = "only one process reads a connection after it was sent";
pub(super) const NOT_STALE: &str = "a successor uses no carried memory from before the last write";
pub(super) const STOP_IS_A_STOP: &str =
    "no process takes the place of a daemon that is stopped on purpose";

pub(super) const READABLE: &str = "no process serves data of a format that it does not read";

pub(super) fn properties() -> Vec<Property<SwapModel>> {
    vec![
        Property::always(ONE_WRITER, |_, world: &World| one_writer(world)),
        Property::always(NOTHING_LOST, |_, world: &World| world.wrong != Some(Wrong::Lost)),
        // Not as `eventually`: if two ways reach a state, stateright assumes that the second
        // satisfied the same as the first. Here it is a property of every state in which nothing
        // more happens by itself, so the model overlooks none.
        Property::always(SOMEONE_SERVES, |swap: &SwapModel, world| {
            is_rightly_served(world) || swap.goes_on(world)
        }),
        Property::always(TRUE_REPORT, |_, world: &World| true_report(world)),
        Property::always(UNDONE, |_, world: &World| {
            !(world.incumbent.serves() && world.incumbent.is_drained)
        }),
        Property::always(NOT_GIVEN_UP, |_, world: &World| not_given_up(world)),
        Property::always(BIDDEN, |_, world: &World| world.wrong != Some(Wrong::Unbidden)),
        Property::always(NOT_STOLEN, |_, world: &World| world.wrong != Some(Wrong::Stolen)),
        Property::always(STOP_IS_A_STOP, |_, world: &World| stop_is_a_stop(world)),
        Property::always(ONE_READER, |_, world: &World| !world.carry.is_read_twice()),
        Property::always(READABLE, |_, world: &World| {
            !(world.is_noted && world.incumbent.serves())
        }),
        Property::always(NOT_STALE, |_, world: &World| world.wrong != Some(Wrong::Stale)),
        Property::sometimes(
            "carried connections end with their successor, and the incumbent serves",
            |_, world: &World| world.carry.is_given_up() && world.incumbent.serves(),
        ),
        Property::sometimes(
            "carried connections outlive their incumbent, and the successor serves",
            |_, world: &World| world.carry.is_partly_usable() && world.successor.serves(),
        ),
        Property::sometimes("committed", |_, world: &World| {
            world.supervisor.machine.state == State::Committed
        }),
        Property::sometimes("promoted", |_, world: &World| {
            matches!(world.supervisor.machine.state, State::Promoted(_))
        }),
        Property::sometimes("rolled back, and the incumbent serves", |_, world: &World| {
            reported(world, IncumbentFate::Serving)
        }),
        Property::sometimes("given up, and the incumbent is lost", |_, world: &World| {
            reported(world, IncumbentFate::Lost)
        }),
        Property::sometimes(
            "given up, and the incumbent has not confirmed that it serves",
            |_, world: &World| reported(world, IncumbentFate::Unknown),
        ),
        Property::sometimes("adopted: committed", |_, world: &World| {
            world.adopter == Adopter::Resolved(Outcome::Committed)
        }),
        Property::sometimes("adopted: rolled back", |_, world: &World| {
            world.adopter == Adopter::Resolved(Outcome::RolledBack)
        }),
        Property::sometimes("adopted: rolled back over a killed successor", |_, world: &World| {
            world.adopter == Adopter::Resolved(Outcome::RolledBack) && world.successor.was_killed
        }),
        Property::sometimes(
            "the incumbent serves beside a killed successor that cannot end",
            |_, world: &World| world.successor.life == Life::Stuck && world.incumbent.serves(),
        ),
        Property::sometimes("adopted: lost", |_, world: &World| {
            world.adopter == Adopter::Resolved(Outcome::Lost)
        }),
        Property::sometimes(
            "a cold start serves after incumbent and successor have died",
            |_, world: &World| {
                let is_empty = !world.is_alive(Who::Incumbent) && !world.is_alive(Who::Successor);
                is_empty && world.stray.serves()
            },
        ),
    ]
}

fn reported(world: &World, fate: IncumbentFate) -> bool {
    matches!(world.supervisor.machine.state, State::RolledBack(said, _) if said == fate)
}

fn one_writer(world: &World) -> bool {
    let writers = [
        (Who::Incumbent, world.incumbent.writes()),
        (Who::Successor, world.successor.writes() && !world.successor.is_elsewhere),
        (Who::Previous, world.previous.as_ref().is_some_and(|it| it.successor.writes())),
        (Who::Stray, world.stray.writes()),
    ];
    writers.into_iter().all(|(who, writes)| !writes || world.lock == Some(who))
}

/// Whether the right process serves, when nothing more happens (invariant 3).
fn is_rightly_served(world: &World) -> bool {
    let (incumbent, successor) = (&world.incumbent, &world.successor);
    // An incumbent whose directory is away waits for it.
    let is_away = world.directory == Directory::Away;
    if is_away && incumbent.life == Life::Live && incumbent.waits() && !successor.serves() {
        return true;
    }
    // A process that cannot end and has the lock keeps it from every other.
    if successor.life == Life::Stuck && world.lock == Some(Who::Successor) {
        return !incumbent.serves();
    }
    let previous = world.previous.as_ref().map(|previous| &previous.successor);
    let successors = [Some(successor), previous];
    let lives = successors.iter().flatten().any(|successor| successor.life == Life::Live);
    if incumbent.life == Life::Live || lives {
        let serving = successors.iter().flatten().filter(|successor| successor.serves()).count();
        return serving + usize::from(incumbent.serves()) == 1;
    }
    // An incumbent that left by itself must have left for a successor that committed, and that
    // then died, hung, or was silent.
    let was_replaced = incumbent.life == Life::Dead
        && successor.has_committed
        && !incumbent.has_left_early
        && (successor.is_at_fault || successor.is_blamed);
    world.stray.serves() || incumbent.is_at_fault || incumbent.is_stopping || was_replaced
}

fn true_report(world: &World) -> bool {
    let committed = world.successor.has_committed && !world.successor.was_killed;
    let lost = world.incumbent.life == Life::Dead
        && matches!(world.successor.life, Life::Killed | Life::Stuck | Life::Dead);
    let by_supervisor = match world.supervisor.machine.state {
        State::Committed | State::Promoted(_) => committed,
        State::RolledBack(IncumbentFate::Lost, _) => lost,
        _ => true,
    };
    let by_adopter = match world.adopter {
        Adopter::Resolved(Outcome::Committed) => committed,
        Adopter::Resolved(Outcome::Lost) => lost,
        _ => true,
    };
    by_supervisor && by_adopter && world.wrong != Some(Wrong::FalseReport)
}

fn not_given_up(world: &World) -> bool {
    let State::RolledBack(IncumbentFate::Lost, cause) = &world.supervisor.machine.state else {
        return true;
    };
    let successor = &world.successor;
    matches!(cause, Cause::IncumbentStopped(_))
        || world.incumbent.is_stopping
        || cause.is_the_successor_s()
        || successor.is_at_fault
        || successor.has_failed
        || successor.is_blamed
        || successor.was_doubted
}

fn stop_is_a_stop(world: &World) -> bool {
    let is_promoted = matches!(
        world.supervisor.machine.state,
        State::Promoting(_, Cause::IncumbentStopped(_))
            | State::Promoted(Cause::IncumbentStopped(_))
    );
    let is_taken_over = world.incumbent.has_released && world.successor.serves();
    !is_promoted && !is_taken_over
}

impl SwapModel {
    /// Whether something happens by itself: no fault, no wish, no stray, no new supervisor.
    fn goes_on(&self, world: &World) -> bool {
        let mut actions = Vec::new();
        self.actions(world, &mut actions);
        let mut by_itself = actions.into_iter().filter(Action::happens_by_itself);
        by_itself.any(|action| self.next_state(world, action).is_some())
    }
}
