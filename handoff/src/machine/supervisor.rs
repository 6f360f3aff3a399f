//! The supervisor.
//!
//! ```text
//!  Paired -> Warming -> Warmed -> Draining -> Prepared -> Sealing -> Sealed
//!                                                                      |
//!                              Committed <- Committing <- Ready <- Opening
//!
//!  from everywhere before Committed, on any doubt:
//!    the successor cannot hold the lock:  ask the incumbent -------------> Confirming
//!    it may hold the lock:                kill it -> Ending -> (it ended) -> Confirming
//!    the incumbent is dead:               Promoting -> Promoted
//!  Confirming -> RolledBack (the incumbent serves again, is lost, or does not say)
//!             -> Promoting  (it died, and the successor was not at fault and still lives)
//! ```
//!
//! The [adopter](super::adopter) resolves the swap of a supervisor that died.

use std::time::Duration;

use crate::error::PeerMisbehaved;
use crate::guard::{Guard, stands};
use crate::machine::cause::{Cause, IncumbentFate, PauseStart, Unfit};
use crate::machine::outcome::Outcome;
use crate::machine::phase::Phase;
use crate::machine::{AfterDrain, misbehaviour};
use crate::protocol::{HandoffId, Message};

/// Where the swap stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Paired,
    Warming,
    Warmed,
    Draining(AfterDrain),
    Prepared,
    Sealing,
    Sealed,
    Opening,
    Ready,
    Committing,
    Committed,
    /// The supervisor has killed the successor, which may still hold the lock.
    Ending(Cause),
    /// The supervisor asks the incumbent to serve and to confirm it.
    Confirming(Cause),
    /// The incumbent is dead; the successor goes on alone.
    Promoting(Promotion, Cause),
    RolledBack(IncumbentFate, Cause),
    Promoted(Cause),
}

/// How far a successor without an incumbent has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Promotion {
    Warming,
    Opening,
    Committing,
}

/// The swap: its state, and the supervisor's knowledge of both processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    pub(crate) handoff_id: HandoffId,
    pub(crate) state: State,
    pub(crate) incumbent: Incumbent,
    pub(crate) successor: Successor,
    /// The incumbent may not read what the successor writes: this supervisor tells the successor once
    /// nobody ends it in favour of the incumbent any more.
    pub(crate) is_one_way: bool,
}

/// The supervisor's knowledge of the incumbent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Incumbent {
    /// It waits for this supervisor's word, also for 5 s past its deadline (invariant 3).
    Connected,
    /// It may live; once sealed, it goes by the lock and the owner record alone.
    Disconnected,
    Dead,
}

/// The supervisor's knowledge of the successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Successor {
    /// It does its slow start-up work, whether or not the supervisor waits for that.
    Starting,
    /// It has said `Warmed`.
    Warm,
    Dead,
}

/// A request of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Warm,
    /// With [`AfterDrain::Seal`] it includes the request of [`Seal`](Self::Seal).
    Prepare {
        successor_pid: u32,
        deadline_ms: u64,
        drain_grace_ms: u64,
        /// Whether the incumbent can say when its gate closes.
        watches_gate: bool,
        after_drain: AfterDrain,
    },
    Seal,
    Begin,
    Commit,
    Abort(String),
}

/// An event that the driver tells the supervisor's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Command(Command),
    Incumbent(Message),
    Successor(Message),
    /// The policy's verdict on the successor's `Ready`.
    Judged(Result<(), Unfit>),
    IncumbentDied,
    /// The incumbent's connection is over, and the incumbent may live.
    IncumbentDisconnected,
    IncumbentSilent,
    /// The successor's connection is over, and the successor may live.
    SuccessorLost,
    /// The successor is dead for certain: its lock is free.
    SuccessorEnded,
    SuccessorSilent,
    LimitPassed(TimeLimit),
    /// The incumbent echoed the value that was sent after `ResumeAfterAbort` (invariant 4).
    Echoed,
    /// Asked over a new connection, the incumbent sent `Abort`: another swap is in flight, or it
    /// is being stopped.
    Refused,
    /// The killed successor had long enough to end, or the incumbent to confirm that it serves.
    PatienceEnded,
}

/// A limit of the time that a swap may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeLimit {
    /// Of the whole swap.
    Deadline,
    /// Of the wait of the clients, until the supervisor has sent `Commit`.
    Pause(Duration, PauseStart),
}

/// A task for the driver, which performs them in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// In one go: a `SealRequest` sent along with a drain arrives before the drain can fail.
    ToIncumbent(Vec<Message>),
    ToSuccessor(Message),
    /// Ask the policy about the successor's last `Ready`.
    Judge,
    KillSuccessor,
    /// Send `ResumeAfterAbort` and then a heartbeat with a value of its own; over a new
    /// connection if the old one is over.
    AskIncumbent,
}

impl State {
    pub(crate) const fn phase(&self) -> Phase {
        match self {
            Self::Paired => Phase::Paired,
            Self::Warming => Phase::Warming,
            Self::Warmed => Phase::Warmed,
            Self::Draining(_) => Phase::Draining,
            Self::Prepared => Phase::Prepared,
            Self::Sealing => Phase::Sealing,
            Self::Sealed => Phase::Sealed,
            Self::Opening => Phase::Opening,
            Self::Ready => Phase::Ready,
            Self::Committing => Phase::Committing,
            Self::Committed => Phase::Committed,
            Self::Ending(_) => Phase::EndingSuccessor,
            Self::Confirming(_) => Phase::RollingBack,
            Self::Promoting(..) => Phase::Promoting,
            Self::RolledBack(..) => Phase::RolledBack,
            Self::Promoted(_) => Phase::Promoted,
        }
    }

    /// The outcome of the swap, once it is over.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Committed => Some(Outcome::Committed),
            Self::Promoted(_) => Some(Outcome::Promoted),
            Self::RolledBack(fate, _) => Some((*fate).into()),
            _ => None,
        }
    }

    /// Whether the supervisor awaits nothing: the caller's command is next, or the swap is over.
    pub(crate) const fn is_at_rest(&self) -> bool {
        matches!(self, Self::Paired | Self::Warmed | Self::Prepared | Self::Sealed | Self::Ready)
            || self.is_over()
    }

    pub(crate) const fn is_over(&self) -> bool {
        matches!(self, Self::Committed | Self::RolledBack(..) | Self::Promoted(_))
    }

    /// Whether the swap is still on its way forward.
    const fn is_forward(&self) -> bool {
        let is_ending_otherwise =
            matches!(self, Self::Ending(_) | Self::Confirming(_) | Self::Promoting(..));
        !is_ending_otherwise && !self.is_over()
    }

    /// Whether clients may wait, and the supervisor has not told the successor to commit.
    pub(crate) const fn is_in_pause(&self) -> bool {
        matches!(
            self,
            Self::Draining(_)
                | Self::Prepared
                | Self::Sealing
                | Self::Sealed
                | Self::Opening
                | Self::Ready
        )
    }

    const fn successor_may_hold_the_lock(&self) -> bool {
        matches!(
            self,
            Self::Opening
                | Self::Ready
                | Self::Committing
                | Self::Promoting(Promotion::Opening | Promotion::Committing, _)
        )
    }
}

impl Machine {
    pub(crate) const fn new(handoff_id: HandoffId, is_one_way: bool) -> Self {
        let (incumbent, successor) = (Incumbent::Connected, Successor::Starting);
        Self { handoff_id, state: State::Paired, incumbent, successor, is_one_way }
    }

    /// One transition.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Effect> {
        let phase = self.state.phase();
        match event {
            Event::Command(command) => self.on_command(command),
            Event::Incumbent(message) => self.on_incumbent(message),
            Event::Successor(message) => self.on_successor(message),
            Event::Judged(verdict) => self.on_judged(verdict),
            Event::IncumbentDied => self.on_incumbent_died(),
            Event::IncumbentDisconnected => self.on_incumbent_disconnected(),
            Event::IncumbentSilent => match self.state {
                State::Draining(_) | State::Sealing => {
                    self.roll_back(Cause::IncumbentSilent(phase))
                }
                _ => Vec::new(),
            },
            Event::SuccessorLost => self.on_successor_lost(),
            Event::SuccessorEnded => {
                self.successor = Successor::Dead;
                match &self.state {
                    // The incumbent was asked when the successor was killed.
                    State::Ending(cause) if self.incumbent != Incumbent::Dead => {
                        self.enter(State::Confirming(cause.clone()), [])
                    }
                    State::Ending(cause) => self.confirm(cause.clone()),
                    _ => self.on_successor_lost(),
                }
            }
            Event::SuccessorSilent => match &self.state {
                State::Promoting(_, cause) => self.roll_back(cause.clone()),
                state if state.is_forward() => self.roll_back(Cause::SuccessorSilent(phase)),
                _ => Vec::new(),
            },
            Event::LimitPassed(TimeLimit::Deadline) => self.give_up(Cause::DeadlinePassed(phase)),
            Event::LimitPassed(TimeLimit::Pause(limit, since)) if self.state.is_in_pause() => {
                self.give_up(Cause::PauseTooLong { limit, phase, since })
            }
            // The successor may have committed (invariant 8).
            Event::LimitPassed(TimeLimit::Pause(..)) => Vec::new(),
            Event::Echoed => self.on_answer(IncumbentFate::Serving),
            Event::Refused => self.on_answer(IncumbentFate::Unknown),
            Event::PatienceEnded => match &self.state {
                State::Confirming(cause) | State::Ending(cause) => {
                    self.rolled_back(IncumbentFate::Unknown, cause.clone())
                }
                _ => Vec::new(),
            },
        }
    }

    fn enter(&mut self, state: State, effects: impl Into<Vec<Effect>>) -> Vec<Effect> {
        self.state = state;
        effects.into()
    }

    fn on_command(&mut self, command: Command) -> Vec<Effect> {
        let handoff_id = self.handoff_id;
        match (&self.state, command) {
            (State::Paired, Command::Warm) => match self.successor {
                Successor::Warm => self.enter(State::Warmed, []),
                _ => self.enter(State::Warming, []),
            },
            (
                State::Warmed,
                Command::Prepare {
                    successor_pid,
                    deadline_ms,
                    drain_grace_ms,
                    watches_gate,
                    after_drain,
                },
            ) => {
                let watch = watches_gate.then_some(Message::WatchGate { handoff_id });
                let prepare = Message::PrepareHandoff {
                    handoff_id,
                    successor_pid,
                    deadline_ms,
                    drain_grace_ms,
                };
                let seal = (after_drain == AfterDrain::Seal)
                    .then_some(Message::SealRequest { handoff_id });
                let said = watch.into_iter().chain([prepare]).chain(seal).collect();
                self.enter(State::Draining(after_drain), [Effect::ToIncumbent(said)])
            }
            (State::Prepared, Command::Seal) => {
                let seal = vec![Message::SealRequest { handoff_id }];
                self.enter(State::Sealing, [Effect::ToIncumbent(seal)])
            }
            (State::Sealed, Command::Begin) => {
                self.enter(State::Opening, [Effect::ToSuccessor(Message::Begin { handoff_id })])
            }
            (State::Ready, Command::Commit) => {
                let early = (!stands(Guard::ServingBeforeLeave))
                    .then_some(Effect::ToIncumbent(vec![Message::Commit { handoff_id }]));
                let effects: Vec<_> = [self.commit()].into_iter().chain(early).collect();
                self.enter(State::Committing, effects)
            }
            (_, Command::Abort(reason)) => self.give_up(Cause::Requested(reason)),
            _ => Vec::new(),
        }
    }

    fn commit(&self) -> Effect {
        Effect::ToSuccessor(Message::Commit { handoff_id: self.handoff_id })
    }

    fn on_incumbent(&mut self, message: Message) -> Vec<Effect> {
        // Once the successor may hold the lock, the lock and the record decide, not the incumbent.
        // During an undo, a message of the incumbent about the swap comes too late.
        if !self.state.is_forward() || self.state.successor_may_hold_the_lock() {
            return Vec::new();
        }
        let is_ours = message.handoff_id().is_none_or(|id| id == self.handoff_id);
        match (&self.state, message) {
            (_, Message::Heartbeat { .. }) | (State::Sealing, Message::SealProgress { .. }) => {
                Vec::new()
            }
            (
                State::Draining(_),
                Message::Late { .. } | Message::Draining { .. } | Message::GateClosed { .. },
            ) if is_ours => Vec::new(),
            (State::Draining(AfterDrain::Wait), Message::Drained { .. }) => {
                self.enter(State::Prepared, [])
            }
            (State::Draining(AfterDrain::Seal), Message::Drained { .. }) => {
                self.enter(State::Sealing, [])
            }
            (State::Sealing, Message::SealComplete { .. }) if is_ours => {
                self.enter(State::Sealed, [])
            }
            (
                State::Draining(_) | State::Prepared | State::Sealing,
                Message::SealFailed { error, partial_state, .. },
            ) if is_ours => self.roll_back(Cause::SealFailed { error, partial_state }),
            // The supervisor has asked the incumbent for nothing yet: this is a stop, no refusal.
            (State::Paired | State::Warming | State::Warmed, Message::Abort { reason, .. })
                if is_ours =>
            {
                self.roll_back(Cause::IncumbentStopped(reason))
            }
            (_, Message::Abort { reason, .. }) if is_ours => {
                self.roll_back(Cause::IncumbentAborted(reason))
            }
            (_, message) => self.roll_back(Cause::IncumbentMisbehaved(self.fault(&message))),
        }
    }

    fn on_successor(&mut self, message: Message) -> Vec<Effect> {
        if self.state.is_over() {
            return Vec::new();
        }
        let handoff_id = self.handoff_id;
        let is_ours = message.handoff_id().is_none_or(|id| id == handoff_id);
        let is_news = is_ours && self.successor == Successor::Starting;
        match (&self.state, message) {
            (state, Message::Warmed { .. }) if is_news => {
                self.successor = Successor::Warm;
                match state.clone() {
                    State::Warming => self.enter(State::Warmed, []),
                    State::Promoting(Promotion::Warming, cause) => self.begin_promotion(cause),
                    _ => Vec::new(),
                }
            }
            // Once the swap is given up, a message of the successor decides nothing.
            (State::Ending(_) | State::Confirming(_), _) | (_, Message::Heartbeat { .. }) => {
                Vec::new()
            }
            (
                State::Opening | State::Promoting(Promotion::Opening, _),
                Message::Verified { .. } | Message::Carried { .. },
            ) if is_ours => Vec::new(),
            (State::Opening | State::Promoting(Promotion::Opening, _), Message::Ready { .. })
                if is_ours =>
            {
                vec![Effect::Judge]
            }
            (State::Committing, Message::Serving { .. }) if is_ours => {
                let leave = Effect::ToIncumbent(vec![Message::Commit { handoff_id }]);
                let effects: Vec<_> = self.final_word().into_iter().chain([leave]).collect();
                self.enter(State::Committed, effects)
            }
            (State::Promoting(Promotion::Committing, cause), Message::Serving { .. })
                if is_ours =>
            {
                let promoted = State::Promoted(cause.clone());
                self.enter(promoted, self.final_word().into_iter().collect::<Vec<_>>())
            }
            (_, Message::Abort { reason, .. }) if is_ours => {
                self.roll_back(Cause::SuccessorGaveUp(reason))
            }
            (_, message) => self.roll_back(Cause::SuccessorMisbehaved(self.fault(&message))),
        }
    }

    /// To a successor that waits for it before it does what the incumbent could not undo.
    fn final_word(&self) -> Option<Effect> {
        self.is_one_way.then(|| self.commit())
    }

    fn fault(&self, message: &Message) -> PeerMisbehaved {
        misbehaviour(message, self.state.phase().name(), Some(self.handoff_id))
    }

    fn on_judged(&mut self, verdict: Result<(), Unfit>) -> Vec<Effect> {
        match (&self.state, verdict) {
            (State::Opening, Ok(())) => self.enter(State::Ready, []),
            (State::Promoting(Promotion::Opening, cause), Ok(())) => {
                let committing = State::Promoting(Promotion::Committing, cause.clone());
                self.enter(committing, [self.commit()])
            }
            (State::Opening | State::Promoting(Promotion::Opening, _), Err(unfit)) => {
                self.roll_back(Cause::Unfit(unfit))
            }
            _ => Vec::new(),
        }
    }

    fn on_incumbent_died(&mut self) -> Vec<Effect> {
        self.incumbent = Incumbent::Dead;
        match &self.state {
            // The incumbent's lock is free, and the kernel keeps each write that it was handed: the
            // successor opens the data (invariant 3).
            State::Paired
            | State::Warming
            | State::Warmed
            | State::Draining(_)
            | State::Prepared
            | State::Sealing => self.promote(Cause::IncumbentDied(self.state.phase())),
            // The incumbent died before it confirmed: a successor without fault may be promoted.
            State::Confirming(cause) => self.confirm(cause.clone()),
            _ => Vec::new(),
        }
    }

    fn on_incumbent_disconnected(&mut self) -> Vec<Effect> {
        if self.incumbent == Incumbent::Connected {
            self.incumbent = Incumbent::Disconnected;
        }
        match self.state {
            State::Confirming(_) | State::Ending(_) => vec![Effect::AskIncumbent],
            _ if self.state.is_forward() && !self.state.successor_may_hold_the_lock() => {
                self.roll_back(Cause::IncumbentDisconnected(self.state.phase()))
            }
            _ => Vec::new(),
        }
    }

    fn on_successor_lost(&mut self) -> Vec<Effect> {
        match &self.state {
            // The successor may have committed, and the incumbent may have left for it: only the
            // successor's death or silence shows that it does not serve.
            State::Committing
                if self.incumbent != Incumbent::Connected && self.successor != Successor::Dead =>
            {
                Vec::new()
            }
            State::Promoting(_, cause) => self.roll_back(cause.clone()),
            state if state.is_forward() => self.roll_back(Cause::SuccessorLost(state.phase())),
            _ => Vec::new(),
        }
    }

    /// The incumbent's answer to the request to serve.
    fn on_answer(&mut self, fate: IncumbentFate) -> Vec<Effect> {
        match &self.state {
            State::Confirming(cause) | State::Ending(cause) => {
                self.rolled_back(fate, cause.clone())
            }
            _ => Vec::new(),
        }
    }

    /// The caller aborts, or the deadline passes: neither process is at fault.
    fn give_up(&mut self, cause: Cause) -> Vec<Effect> {
        // A successor that was told to commit may be the only process left: an incumbent that does
        // not wait for this supervisor's word may have left by the owner record.
        let may_be_all_there_is = self.state == State::Committing
            && self.incumbent != Incumbent::Connected
            && stands(Guard::DeadlineSparesCommit);
        // A promoted successor may take its time to open: there is no incumbent left to protect.
        if may_be_all_there_is || !self.state.is_forward() {
            return Vec::new();
        }
        self.roll_back(cause)
    }

    /// The one way back: every kill of a successor and every resume of an incumbent begins here.
    fn roll_back(&mut self, cause: Cause) -> Vec<Effect> {
        let is_at_fault = cause.is_the_successor_s() || !self.state.is_forward();
        if self.incumbent == Incumbent::Dead && self.successor != Successor::Dead && !is_at_fault {
            return self.promote(cause);
        }
        let may_hold_the_lock = self.state.successor_may_hold_the_lock()
            && self.successor != Successor::Dead
            && stands(Guard::KillBeforeAsking);
        if may_hold_the_lock {
            // A killed process does nothing more. The incumbent waits for the lock, and takes it at
            // once where it is free: a process that cannot end yet stands in the way of none.
            let ask = (self.incumbent != Incumbent::Dead).then_some(Effect::AskIncumbent);
            let effects: Vec<_> = [Effect::KillSuccessor].into_iter().chain(ask).collect();
            return self.enter(State::Ending(cause), effects);
        }
        if self.incumbent == Incumbent::Dead {
            return self.rolled_back(IncumbentFate::Lost, cause);
        }
        let is_spared = !is_at_fault && stands(Guard::SuccessorSpared);
        let kill = (!is_spared).then_some(Effect::KillSuccessor);
        let effects: Vec<_> = kill.into_iter().chain([Effect::AskIncumbent]).collect();
        self.enter(State::Confirming(cause), effects)
    }

    fn rolled_back(&mut self, incumbent: IncumbentFate, cause: Cause) -> Vec<Effect> {
        self.enter(State::RolledBack(incumbent, cause), [Effect::KillSuccessor])
    }

    /// The incumbent is dead: the successor goes on alone, from the swap's present state.
    fn promote(&mut self, cause: Cause) -> Vec<Effect> {
        match self.state {
            State::Opening => self.enter(State::Promoting(Promotion::Opening, cause), []),
            State::Ready => {
                self.enter(State::Promoting(Promotion::Committing, cause), [self.commit()])
            }
            State::Committing => self.enter(State::Promoting(Promotion::Committing, cause), []),
            _ => self.begin_promotion(cause),
        }
    }

    fn begin_promotion(&mut self, cause: Cause) -> Vec<Effect> {
        if self.successor != Successor::Warm {
            return self.enter(State::Promoting(Promotion::Warming, cause), []);
        }
        let begin = Effect::ToSuccessor(Message::Begin { handoff_id: self.handoff_id });
        self.enter(State::Promoting(Promotion::Opening, cause), [begin])
    }

    /// Asks the incumbent to confirm that it serves. If the incumbent is dead, promotes the
    /// successor where the cause admits it (invariant 3).
    fn confirm(&mut self, cause: Cause) -> Vec<Effect> {
        if self.incumbent != Incumbent::Dead {
            return self.enter(State::Confirming(cause), [Effect::AskIncumbent]);
        }
        if self.successor != Successor::Dead && cause.admits_promotion() {
            return self.begin_promotion(cause);
        }
        self.rolled_back(IncumbentFate::Lost, cause)
    }
}
