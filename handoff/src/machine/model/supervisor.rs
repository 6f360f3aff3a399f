//! The supervisor that begins the swap: its machine, driven as `supervisor::drive` does, and a
//! caller that goes on or aborts whenever the machine is at rest.

use super::line::{Heard, Line, SWAP, Word};
use super::witness::{Sight, Witness};
use super::world::{ANEW, Life, TO_INCUMBENT, TO_SUCCESSOR, Who, World, Wrong};
use crate::machine::AfterDrain;
use crate::machine::cause::{Cause, Unfit};
use crate::machine::phase::Phase;
use crate::machine::supervisor::{
    self as machine, Command, Effect, Event, Machine, State, TimeLimit,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Supervisor {
    pub(super) life: Life,
    pub(super) machine: Machine,
    /// The number of its connection to the incumbent.
    line: usize,
    incumbent_closed: bool,
    incumbent_ended: bool,
    successor_closed: bool,
    successor_ended: bool,
    deadline_told: bool,
    asks_again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    GoOn,
    /// Prepares, and asks for the seal ahead.
    PrepareToSeal,
    Abort,
    HearSuccessor,
    HearIncumbent,
    SeeSuccessorEnd,
    SeeIncumbentEnd,
    DeadlinePasses,
    SuccessorIsSilent,
    IncumbentIsSilent,
    PatienceEnds,
    AskAgain,
    /// The swap is over: the supervisor drops its connections.
    Leave,
}

impl Supervisor {
    pub(super) const fn paired() -> Self {
        Self {
            life: Life::Live,
            machine: Machine::new(SWAP, false),
            line: TO_INCUMBENT,
            incumbent_closed: false,
            incumbent_ended: false,
            successor_closed: false,
            successor_ended: false,
            deadline_told: false,
            asks_again: false,
        }
    }

    /// Whether it died in the midst of the swap, so that another supervisor finds the swap open.
    pub(super) fn left_a_swap(&self) -> bool {
        self.life == Life::Dead && !self.machine.state.is_over()
    }
}

pub(super) fn moves(world: &World, moves: &mut Vec<Move>) {
    let supervisor = &world.supervisor;
    if supervisor.life != Life::Live {
        return;
    }
    let state = &supervisor.machine.state;
    if state.is_over() {
        moves.push(Move::Leave);
        return;
    }
    if state.is_at_rest() {
        moves.extend([Move::GoOn, Move::Abort]);
    }
    if *state == State::Warmed {
        moves.push(Move::PrepareToSeal);
    }
    let said = |line: usize, closed: bool| match world.lines[line].next_for_supervisor() {
        heard if !closed => heard,
        _ => Heard::Nothing,
    };
    let by_successor = said(TO_SUCCESSOR, supervisor.successor_closed);
    if by_successor != Heard::Nothing {
        moves.push(Move::HearSuccessor);
    }
    let by_incumbent = said(supervisor.line, supervisor.incumbent_closed);
    if by_incumbent != Heard::Nothing {
        moves.push(Move::HearIncumbent);
    }
    // The supervisor reads the words of a process before it sees the end of that process.
    let is_dead = world.successor.life == Life::Dead && !matches!(by_successor, Heard::Word(_));
    if is_dead && !supervisor.successor_ended {
        moves.push(Move::SeeSuccessorEnd);
    }
    let is_dead = world.incumbent.life == Life::Dead && !matches!(by_incumbent, Heard::Word(_));
    if is_dead && !supervisor.incumbent_ended {
        moves.push(Move::SeeIncumbentEnd);
    }
    // The supervisor hears that the incumbent has gone before it looks at the clock.
    if by_incumbent != Heard::End && (!is_dead || supervisor.incumbent_ended) {
        time_limits(supervisor, moves);
    }
    if supervisor.asks_again {
        moves.push(Move::AskAgain);
    }
}

fn time_limits(supervisor: &Supervisor, moves: &mut Vec<Move>) {
    let state = &supervisor.machine.state;
    if matches!(state, State::Ending(_) | State::Confirming(_)) {
        return moves.push(Move::PatienceEnds);
    }
    if !supervisor.deadline_told {
        moves.push(Move::DeadlinePasses);
    }
    if !state.is_at_rest() {
        moves.push(Move::SuccessorIsSilent);
    }
    if matches!(state, State::Draining(_) | State::Sealing) {
        moves.push(Move::IncumbentIsSilent);
    }
}

pub(super) fn take(world: &mut World, chosen: Move, witness: &Witness) {
    let event = match chosen {
        Move::PrepareToSeal => Event::Command(prepare(AfterDrain::Seal)),
        Move::GoOn => Event::Command(match world.supervisor.machine.state {
            State::Paired => Command::Warm,
            State::Warmed => prepare(AfterDrain::Wait),
            State::Prepared => Command::Seal,
            State::Sealed => Command::Begin,
            _ => Command::Commit,
        }),
        Move::Abort => Event::Command(Command::Abort(String::new())),
        Move::HearSuccessor => match world.lines[TO_SUCCESSOR].next_for_supervisor() {
            Heard::Word(word) => {
                world.lines[TO_SUCCESSOR].supervisor_has_read();
                Event::Successor(word.message())
            }
            _ => {
                world.supervisor.successor_closed = true;
                Event::SuccessorLost
            }
        },
        Move::HearIncumbent => hear_incumbent(world),
        Move::SeeSuccessorEnd => {
            world.supervisor.successor_ended = true;
            Event::SuccessorEnded
        }
        Move::SeeIncumbentEnd => {
            world.supervisor.incumbent_ended = true;
            Event::IncumbentDied
        }
        Move::DeadlinePasses => {
            world.supervisor.deadline_told = true;
            Event::LimitPassed(TimeLimit::Deadline)
        }
        Move::SuccessorIsSilent => {
            world.successor.is_blamed |= world.incumbent.life != Life::Live;
            Event::SuccessorSilent
        }
        Move::IncumbentIsSilent => Event::IncumbentSilent,
        Move::PatienceEnds => Event::PatienceEnded,
        Move::AskAgain => return ask(world),
        Move::Leave => return end(world, Life::Leaving),
    };
    let is_unfit = event == Event::Successor(Word::Ready { is_fit: false }.message());
    feed(world, event, is_unfit, witness);
}

const fn prepare(after_drain: AfterDrain) -> Command {
    Command::Prepare {
        successor_pid: 2,
        deadline_ms: 1,
        drain_grace_ms: 1,
        watches_gate: false,
        after_drain,
    }
}

fn hear_incumbent(world: &mut World) -> Event {
    let line = world.supervisor.line;
    match world.lines[line].next_for_supervisor() {
        Heard::Word(word) => {
            world.lines[line].supervisor_has_read();
            match word {
                Word::Echo { serves } => {
                    let state = &world.supervisor.machine.state;
                    let counts = matches!(state, State::Confirming(_) | State::Ending(_));
                    if counts && !serves {
                        world.wrong.get_or_insert(Wrong::FalseReport);
                    }
                    Event::Echoed
                }
                Word::Abort if line == ANEW => Event::Refused,
                word => Event::Incumbent(word.message()),
            }
        }
        _ => {
            world.supervisor.incumbent_closed = true;
            if !world.supervisor.incumbent_ended && world.incumbent.life == Life::Dead {
                world.supervisor.incumbent_ended = true;
                return Event::IncumbentDied;
            }
            Event::IncumbentDisconnected
        }
    }
}

fn feed(world: &mut World, event: Event, is_unfit: bool, witness: &Witness) {
    let before = world.supervisor.machine.state.clone();
    let effects = world.supervisor.machine.on(event);
    witness_step(&before, &world.supervisor.machine.state, witness);
    forget_words(&mut world.supervisor.machine);
    if !matches!(world.supervisor.machine.state, State::Confirming(_) | State::Ending(_)) {
        world.supervisor.asks_again = false;
    }
    for effect in effects {
        match effect {
            Effect::ToSuccessor(message) => {
                world.lines[TO_SUCCESSOR].tell_daemon(Word::of(&message));
            }
            Effect::ToIncumbent(messages) => {
                let line = world.supervisor.line;
                for message in messages {
                    world.lines[line].tell_daemon(Word::of(&message));
                }
            }
            Effect::Judge => {
                let verdict = if is_unfit { Err(Unfit::Unhealthy) } else { Ok(()) };
                feed(world, Event::Judged(verdict), false, witness);
            }
            Effect::KillSuccessor => {
                let machine = &world.supervisor.machine;
                world.successor.was_doubted |= matches!(machine.state, State::Ending(_))
                    && machine.incumbent != machine::Incumbent::Dead;
                world.successor.kill();
            }
            Effect::AskIncumbent => ask(world),
        }
    }
}

/// `ResumeAfterAbort` and then the heartbeat, over a new connection if the old is over.
fn ask(world: &mut World) {
    world.supervisor.asks_again = false;
    let mut line = world.supervisor.line;
    if world.supervisor.incumbent_closed {
        let is_there = world.path == Who::Incumbent && world.incumbent.life == Life::Live;
        world.lines[line].close_supervisor();
        if !is_there || !world.lines[ANEW].is_over() {
            world.supervisor.asks_again = true;
            return;
        }
        line = ANEW;
        world.lines[line] = Line::open();
        world.lines[line].tell_daemon(Word::HelloAck);
        (world.supervisor.line, world.supervisor.incumbent_closed) = (line, false);
    }
    let line = &mut world.lines[line];
    if !(line.tell_daemon(Word::Resume) && line.tell_daemon(Word::Ask)) {
        (world.supervisor.incumbent_closed, world.supervisor.asks_again) = (true, true);
    }
}

/// It has returned to its caller, or died.
pub(super) fn end(world: &mut World, life: Life) {
    for line in [TO_SUCCESSOR, TO_INCUMBENT, ANEW] {
        world.lines[line].close_supervisor();
    }
    let Supervisor { machine, .. } = std::mem::replace(&mut world.supervisor, Supervisor::paired());
    world.supervisor.machine = machine;
    world.supervisor.life = life;
}

/// Keeps only the parts of a cause that the machine looks at.
fn forget_words(machine: &mut Machine) {
    let (State::Ending(cause)
    | State::Confirming(cause)
    | State::Promoting(_, cause)
    | State::RolledBack(_, cause)
    | State::Promoted(cause)) = &mut machine.state
    else {
        return;
    };
    *cause = match cause {
        Cause::IncumbentStopped(_) => Cause::IncumbentStopped(String::new()),
        _ if cause.is_the_successor_s() => Cause::SuccessorSilent(Phase::Paired),
        _ => Cause::Requested(String::new()),
    };
}

fn witness_step(before: &State, after: &State, witness: &Witness) {
    let gives_up = |state: &State| {
        matches!(state, State::Ending(_) | State::Confirming(_) | State::Promoting(..))
    };
    if matches!(before, State::Draining(AfterDrain::Seal)) && *after == State::Sealing {
        witness.saw(Sight::SealFollows);
    }
    if gives_up(after) && !gives_up(before) && !before.is_over() && *before != State::Paired {
        witness.saw(Sight::GivenUp(before.phase()));
    }
}
