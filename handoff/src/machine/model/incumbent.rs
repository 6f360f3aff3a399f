//! The incumbent: its machine, driven as `incumbent::{serve, swap}` do.

use super::hearing::{first_with_news, hear, lose};
use super::line::Word;
use super::retake::{Lease, try_lock};
use super::witness::Witness;
use super::world::{ANEW, Directory, Life, OF_ADOPTER, RecordPhase, TO_INCUMBENT, Who, World};
use crate::drainable::{DrainReport, SealReport};
use crate::machine::incumbent::{Effect, Event, Reply, State};
use crate::protocol::Message;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Incumbent {
    pub(super) life: Life,
    pub(super) state: State,
    /// The connection of the supervisor that swaps.
    pub(super) holder: Option<usize>,
    pub(super) lease: Lease,
    /// A resume has failed, and the incumbent is to repeat it.
    retries: bool,
    pub(super) generation: u8,
    /// The drain hook was called, and no resume has undone it.
    pub(super) is_drained: bool,
    /// Another process has acknowledged a write that it has not seen.
    pub(super) is_behind: bool,
    /// It was asked to stop, while it served.
    pub(super) is_stopping: bool,
    /// It left by the record for a successor that had not said `Serving`, while a supervisor
    /// was connected.
    pub(super) has_left_early: bool,
    /// It has released the data on purpose.
    pub(super) has_released: bool,
    /// It died or hung.
    pub(super) is_at_fault: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Hear(usize),
    HookEnds {
        well: bool,
    },
    Retry,
    TryLock,
    TimePasses,
    Stop,
    /// The process ends, after it was replaced or stopped.
    Exit,
}

impl Incumbent {
    pub(super) const fn serving() -> Self {
        Self {
            life: Life::Live,
            state: State::Serving,
            holder: None,
            lease: Lease::Runs,
            retries: false,
            generation: 1,
            is_drained: false,
            is_behind: false,
            is_stopping: false,
            has_left_early: false,
            has_released: false,
            is_at_fault: false,
        }
    }

    pub(super) fn serves(&self) -> bool {
        self.life == Life::Live && self.state == State::Serving
    }

    /// Whether it may still answer a request: also one that a drain waits for.
    pub(super) fn acknowledges(&self) -> bool {
        let answers = matches!(self.state, State::Serving | State::Draining(..) | State::Stopping);
        self.life == Life::Live && answers
    }

    /// Whether the data is open for writing.
    pub(super) const fn writes(&self) -> bool {
        let is_open = !matches!(
            self.state,
            State::Sealed(_) | State::Waiting(_) | State::Replaced | State::Stopped
        );
        is_open && !matches!(self.life, Life::Dead)
    }

    /// Whether it is to serve again, and does not yet.
    pub(super) const fn waits(&self) -> bool {
        matches!(self.state, State::Waiting(_) | State::Resuming(_))
    }

    pub(super) const fn resumes(&self) -> bool {
        matches!(self.state, State::Resuming(_))
    }

    pub(super) fn reads_messages(&self) -> bool {
        match self.holder {
            Some(_) => self.state.admits_messages(),
            None => self.state == State::Serving,
        }
    }

    fn hook_runs(&self) -> bool {
        match self.state {
            State::Draining(..)
            | State::Sealing(_)
            | State::Interrupted(_)
            | State::Stopping
            | State::Closing => true,
            State::Resuming(_) => !self.retries,
            _ => false,
        }
    }
}

pub(super) fn moves(world: &World, moves: &mut Vec<Move>) {
    let incumbent = &world.incumbent;
    match incumbent.life {
        Life::Live => {}
        Life::Leaving => return moves.push(Move::Exit),
        Life::Hung | Life::Killed | Life::Stuck | Life::Dead => return,
    }
    if let Some(line) = first_with_news(world) {
        moves.push(Move::Hear(line));
    }
    if incumbent.hook_runs() {
        moves.push(Move::HookEnds { well: true });
        if !matches!(incumbent.state, State::Interrupted(_) | State::Stopping) {
            moves.push(Move::HookEnds { well: false });
        }
    }
    if incumbent.retries {
        moves.push(Move::Retry);
    }
    if matches!(incumbent.state, State::Waiting(_)) {
        moves.push(Move::TryLock);
    }
    let has_swap = incumbent.state.handoff_id().is_some();
    let waits = matches!(incumbent.state, State::Waiting(_));
    let passes = match incumbent.lease {
        Lease::Runs => has_swap,
        // Only an incumbent that waits for the lock looks at how long the deadline has passed.
        Lease::Passed => waits,
        Lease::LongPassed => false,
    };
    if passes {
        moves.push(Move::TimePasses);
    }
    // A stop that is requested at another time waits until the incumbent serves.
    if incumbent.serves() {
        moves.push(Move::Stop);
    }
}

pub(super) fn take(world: &mut World, chosen: Move, witness: &Witness) {
    match chosen {
        Move::Hear(line) => hear(world, line, witness),
        Move::HookEnds { well } => hook_ends(world, well, witness),
        Move::Retry => feed(world, Event::RetryDue, None, witness),
        Move::TryLock => try_lock(world, witness),
        Move::TimePasses => {
            world.incumbent.lease = match world.incumbent.lease {
                Lease::Runs => Lease::Passed,
                Lease::Passed | Lease::LongPassed => Lease::LongPassed,
            };
            if world.incumbent.lease == Lease::Passed {
                feed(world, Event::DeadlinePassed, None, witness);
            }
        }
        Move::Stop => {
            world.incumbent.is_stopping = true;
            feed(world, Event::StopRequested, None, witness);
        }
        Move::Exit => end(world),
    }
}

fn hook_ends(world: &mut World, well: bool, witness: &Witness) {
    let failed = String::new();
    let event = match world.incumbent.state {
        State::Draining(..) | State::Interrupted(_) | State::Stopping => {
            Event::DrainEnded(well.then(DrainReport::default).ok_or(failed))
        }
        State::Sealing(_) | State::Closing => {
            Event::SealEnded(well.then(SealReport::default).ok_or(failed))
        }
        _ => {
            world.carry.take_back();
            let well = well && world.is_in_place(false);
            if well {
                // The incumbent opens its state from disk, by the path.
                world.incumbent.is_drained = false;
                world.incumbent.is_behind = world.directory == Directory::Away;
            }
            Event::ResumeEnded(well.then_some(()).ok_or(failed))
        }
    };
    feed(world, event, None, witness);
}

pub(super) fn feed(world: &mut World, event: Event, from: Option<usize>, witness: &Witness) {
    let effects = world.incumbent.state.on(event);
    forget_words(&mut world.incumbent.state);
    for effect in effects {
        perform(world, effect, from, witness);
    }
    if world.incumbent.state == State::Serving {
        (world.incumbent.holder, world.incumbent.lease) = (None, Lease::Runs);
    }
}

fn perform(world: &mut World, effect: Effect, from: Option<usize>, witness: &Witness) {
    match effect {
        Effect::Send(message) => {
            let word = match message {
                Message::Heartbeat { .. } => Word::Echo { serves: world.incumbent.serves() },
                message => Word::of(&message),
            };
            let Some(number) = from.or(world.incumbent.holder) else { return };
            if !world.lines[number].tell_supervisor(word) {
                lose(world, number, witness);
            }
        }
        Effect::Close(_) => {
            let Some(number) = from else { return };
            world.lines[number].close_daemon();
            if world.incumbent.holder == Some(number) {
                world.incumbent.holder = None;
            }
        }
        Effect::RunDrain { .. } => {
            (world.incumbent.holder, world.incumbent.is_drained) = (from, true);
        }
        Effect::RunLastDrain => {
            world.incumbent.is_drained = true;
            for number in [TO_INCUMBENT, ANEW, OF_ADOPTER] {
                if world.lines[number].is_greeted {
                    world.lines[number].tell_supervisor(Word::Abort);
                }
            }
        }
        Effect::ReleaseLock(_) if !world.is_in_place(false) => {
            feed(world, Event::LockKept(String::new()), None, witness);
        }
        Effect::ReleaseLock(report) => {
            (world.record.phase, world.record.reserved) = (RecordPhase::Sealed, Who::Successor);
            world.free_lock(Who::Incumbent);
            feed(world, Event::LockReleased(report), None, witness);
        }
        Effect::ReleaseForGood(_) => {
            world.record.phase = RecordPhase::Released;
            world.incumbent.has_released = true;
            world.free_lock(Who::Incumbent);
        }
        Effect::AwaitLock => try_lock(world, witness),
        Effect::RunResume => world.incumbent.retries = false,
        Effect::RetryLater => world.incumbent.retries = true,
        Effect::Leave(_) => {
            leave(world);
        }
        Effect::RunSeal => world.carry.sealed(),
        Effect::InterruptDrain
        | Effect::SealNext
        | Effect::WatchGate
        | Effect::GiveListeners { .. }
        | Effect::Offer { .. } => {}
    }
}

pub(super) fn leave(world: &mut World) {
    world.incumbent.life = Life::Leaving;
    close(world);
}

/// Its process has ended: the kernel frees the lock and closes the connections.
pub(super) fn end(world: &mut World) {
    close(world);
    world.free_lock(Who::Incumbent);
    let Incumbent { is_stopping, has_left_early, has_released, is_at_fault, .. } = world.incumbent;
    world.incumbent = Incumbent {
        life: Life::Dead,
        is_stopping,
        has_left_early,
        has_released,
        is_at_fault,
        ..Incumbent::serving()
    };
}

fn close(world: &mut World) {
    for number in [TO_INCUMBENT, ANEW, OF_ADOPTER] {
        world.lines[number].close_daemon();
    }
    world.incumbent.holder = None;
}

fn forget_words(state: &mut State) {
    let (State::Interrupted(undo) | State::Waiting(undo) | State::Resuming(undo)) = state else {
        return;
    };
    if let Some(Reply::DrainFailed(_) | Reply::SealFailed(_)) = undo.reply {
        undo.reply = Some(Reply::SealFailed(String::new()));
    }
}
