//! A model of one swap, explored to its end: every order of steps, with at most two faults.
//!
//! ```text
//!              caller                                    stray cold start
//!                 |                                             |
//!    supervisor   S ---- line 0 ---- N  successor               |
//!          |      |                  |                          |
//!       (it died) +--- lines 1, 2 -- O  incumbent               |
//!          v                         |  |                       |
//!     adopter S2 ------ line 3 ------+  +---- lock, record, path (world)
//! ```
//!
//! S, S2, O and N are the machines of this crate, driven as their drivers do. The decisions
//! about the owner record, the reservation and the leaving are the library's own too. A state is
//! the whole picture at one moment; a step is one event at one process. Any process that has a
//! step may take it, so a process that takes none for long is slow, and a timeout passes at any
//! time at which its driver looks at the clock. A fault is a death, or a hang for good.
//!
//! The model leaves this out, and loses nothing by it:
//!
//! - Payloads, and all parts of a cause that the machine does not look at. The policy's verdict
//!   is a choice of the successor: fit or not.
//! - The number of acknowledged writes: a process acknowledges one at every moment at which it
//!   can, and the model knows of each process whether it has seen all of them.
//! - All but one carried connection and one piece of memory. The incumbent sends both as soon as
//!   it can; a failure to send or read them is an error of a hook.
//! - Hellos of the first two connections, listeners, heartbeats except the echo, and
//!   `SealProgress`. There is one swap, so there is no frame of another one.
//! - The microseconds between two looks of a driver. A process reads a message before it looks
//!   whether the sender has ended, as the drivers do, and a supervisor hears of the incumbent's
//!   end before it looks at the clock.
//! - Failures of the disk under the lock's own files: a process reads or writes the record at once.
//! - A stray that gets the lock twice, or fails once it serves; a supervisor that dies outside of
//!   its swap, and an adopter that dies.

mod adopter;
mod carry;
mod guards;
mod hearing;
mod incumbent;
mod line;
mod previous;
mod properties;
mod retake;
mod rounds;
mod stray;
mod successor;
mod supervisor;
mod tests;
mod witness;
mod world;

use stateright::{Model, Property};

use crate::guard::{Guard, take_out};
use witness::Witness;
use world::{Directory, Life, World};

/// One swap, with at most so many faults.
#[derive(Debug, Clone)]
struct SwapModel {
    begins: Vec<World>,
    /// A guard that does not stand.
    without: Option<Guard>,
    witness: Witness,
}

/// One step of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Supervisor(supervisor::Move),
    Adopter(adopter::Move),
    Incumbent(incumbent::Move),
    Successor(successor::Move),
    /// The successor of an earlier swap.
    Previous(successor::Move),
    Stray(stray::Move),
    Dies(Victim),
    Hangs(Victim),
    /// The successor hangs, and does not end when it is killed.
    Sticks,
    /// Another directory gets the path of the data directory.
    Moves,
    /// The directory gets its path back.
    MovesBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Incumbent,
    Successor,
}

impl SwapModel {
    /// One swap, with at most so many faults.
    fn first(faults: u8) -> Self {
        Self::from(vec![World::paired(faults)])
    }

    /// One swap to a build whose format the incumbent does not read.
    fn one_way(faults: u8) -> Self {
        let mut world = World::paired(faults);
        (world.is_one_way, world.supervisor.machine.is_one_way) = (true, true);
        Self::from(vec![world])
    }

    fn from(begins: Vec<World>) -> Self {
        Self { begins, without: None, witness: Witness::default() }
    }
}

impl Action {
    fn happens_by_itself(&self) -> bool {
        !matches!(
            self,
            Self::Dies(_)
                | Self::Hangs(_)
                | Self::Sticks
                | Self::Moves
                | Self::MovesBack
                | Self::Adopter(adopter::Move::Start)
                | Self::Incumbent(incumbent::Move::Stop)
                | Self::Stray(stray::Move::Try { .. })
        )
    }
}

impl Model for SwapModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        self.begins.clone()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        take_out(self.without);
        collect(world, actions, supervisor::moves, Action::Supervisor);
        collect(world, actions, adopter::moves, Action::Adopter);
        collect(world, actions, incumbent::moves, Action::Incumbent);
        collect(world, actions, successor::moves, Action::Successor);
        collect(world, actions, previous::moves, Action::Previous);
        collect(world, actions, stray::moves, Action::Stray);
        if world.directory == Directory::Away {
            actions.push(Action::MovesBack);
        }
        if world.faults_left > 0 {
            let victims = [
                (Victim::Supervisor, world.supervisor.life),
                (Victim::Incumbent, world.incumbent.life),
                (Victim::Successor, world.successor.life),
            ];
            for (victim, life) in victims {
                if life == Life::Live {
                    actions.extend([Action::Dies(victim), Action::Hangs(victim)]);
                }
            }
            if world.successor.life == Life::Live {
                actions.push(Action::Sticks);
            }
            if world.directory == Directory::InPlace {
                actions.push(Action::Moves);
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        take_out(self.without);
        let mut world = last.clone();
        let witness = &self.witness;
        match action {
            Action::Supervisor(chosen) => supervisor::take(&mut world, chosen, witness),
            Action::Adopter(chosen) => adopter::take(&mut world, chosen, witness),
            Action::Incumbent(chosen) => incumbent::take(&mut world, chosen, witness),
            Action::Successor(chosen) => successor::take(&mut world, chosen, witness),
            Action::Previous(chosen) => previous::take(&mut world, chosen, witness),
            Action::Stray(chosen) => stray::take(&mut world, chosen, witness),
            Action::Dies(victim) => dies(&mut world, victim),
            Action::Hangs(victim) => hangs(&mut world, victim),
            Action::Sticks => {
                hangs(&mut world, Victim::Successor);
                world.successor.is_stuck = true;
            }
            Action::Moves => {
                world.faults_left -= 1;
                world.directory = Directory::Away;
            }
            Action::MovesBack => world.directory = Directory::Back,
        }
        world.acknowledge();
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::properties()
    }
}

fn collect<Move>(
    world: &World,
    actions: &mut Vec<Action>,
    moves: fn(&World, &mut Vec<Move>),
    action: fn(Move) -> Action,
) {
    let mut found = Vec::new();
    moves(world, &mut found);
    actions.extend(found.into_iter().map(action));
}

fn dies(world: &mut World, victim: Victim) {
    world.faults_left -= 1;
    match victim {
        Victim::Supervisor => supervisor::end(world, Life::Dead),
        Victim::Incumbent => {
            world.incumbent.is_at_fault = true;
            incumbent::end(world);
        }
        Victim::Successor => {
            world.successor.is_at_fault = true;
            successor::end(world);
        }
    }
}

/// For good: a process that is merely slow takes its next step late.
const fn hangs(world: &mut World, victim: Victim) {
    world.faults_left -= 1;
    match victim {
        Victim::Supervisor => world.supervisor.life = Life::Hung,
        Victim::Incumbent => {
            (world.incumbent.life, world.incumbent.is_at_fault) = (Life::Hung, true);
        }
        Victim::Successor => {
            (world.successor.life, world.successor.is_at_fault) = (Life::Hung, true);
        }
    }
}
