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
//! The swap of a supervisor that died is the [adopter](super::adopter)'s.

use crate::error::PeerMisbehaved;
use crate::guard::{Guard, stands};
use crate::machine::cause::{Cause, IncumbentFate, Unfit};
use crate::machine::outcome::Outcome;
use crate::machine::phase::Phase;
use crate::machine::{Then, misbehaviour};
use crate::protocol::{HandoffId, Message};

/// Where the swap stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Paired,
    Warming,
    Warmed,
    Draining(Then),
    Prepared,
    Sealing,
    Sealed,
    Opening,
    Ready,
    Committing,
    Committed,
    /// The successor was killed and may still hold the lock.
    Ending(Cause),
    /// The incumbent was asked to serve and to say so.
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

/// The swap: where it stands, and what is known of both processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    pub(crate) handoff_id: HandoffId,
    pub(crate) state: State,
    pub(crate) incumbent: Incumbent,
    pub(crate) successor: Successor,
}

/// What is known of the incumbent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Incumbent {
    /// It waits for this supervisor's word, also past its deadline for a while.
    Connected,
    /// It may live; once sealed, it goes by the owner record alone.
    Disconnected,
    Dead,
}

/// What is known of the successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Successor {
    /// It does its slow start-up work, whether or not that is waited for.
    Starting,
    /// It has said that this is done.
    Warm,
    Dead,
}

/// What the caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Warm,
    /// With [`Then::Seal`] also what [`Seal`](Self::Seal) asks for.
    Prepare {
        successor_pid: u32,
        deadline_ms: u64,
        drain_grace_ms: u64,
        then: Then,
    },
    Seal,
    Begin,
    Commit,
    Abort(String),
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Command(Command),
    Incumbent(Message),
    Successor(Message),
    /// What the policy thinks of the `Ready` that was said.
    Judged(Result<(), Unfit>),
    IncumbentDied,
    /// Its connection is over, and it may live.
    IncumbentDisconnected,
    IncumbentSilent,
    /// It has ended, or closed its connection.
    SuccessorLost,
    /// It is dead for certain: what it held is free.
    SuccessorEnded,
    SuccessorSilent,
    DeadlinePassed,
    /// The incumbent echoed the value that was sent behind `ResumeAfterAbort`.
    Echoed,
    /// Asked over a new connection, the incumbent said that another swap is in flight.
    Refused,
    /// The incumbent had long enough to say that it serves.
    PatienceEnded,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// In one go: what is asked for along with a drain is there before the drain can fail.
    ToIncumbent(Vec<Message>),
    ToSuccessor(Message),
    /// Ask the policy about the `Ready` that was said last.
    Judge,
    KillSuccessor,
    /// `ResumeAfterAbort` and, behind it, a heartbeat with a value of its own; over a new
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

    /// What the swap came to, once it is over.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Committed => Some(Outcome::Committed),
            Self::Promoted(_) => Some(Outcome::Promoted),
            Self::RolledBack(fate, _) => Some((*fate).into()),
            _ => None,
        }
    }

    /// Whether nothing is awaited: the caller has the word, or the swap is over.
    pub(crate) const fn is_at_rest(&self) -> bool {
        matches!(self, Self::Paired | Self::Warmed | Self::Prepared | Self::Sealed | Self::Ready)
            || self.is_over()
    }

    pub(crate) const fn is_over(&self) -> bool {
        matches!(self, Self::Committed | Self::RolledBack(..) | Self::Promoted(_))
    }

    /// Whether the swap is still on its way forward.
    const fn is_forward(&self) -> bool {
        let is_settled_otherwise =
            matches!(self, Self::Ending(_) | Self::Confirming(_) | Self::Promoting(..));
        !is_settled_otherwise && !self.is_over()
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
    pub(crate) const fn new(handoff_id: HandoffId) -> Self {
        let (incumbent, successor) = (Incumbent::Connected, Successor::Starting);
        Self { handoff_id, state: State::Paired, incumbent, successor }
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
                    State::Ending(cause) => self.confirm(cause.clone()),
                    _ => self.on_successor_lost(),
                }
            }
            Event::SuccessorSilent => match &self.state {
                State::Promoting(_, cause) => self.roll_back(cause.clone()),
                state if state.is_forward() => self.roll_back(Cause::SuccessorSilent(phase)),
                _ => Vec::new(),
            },
            Event::DeadlinePassed => self.give_up(Cause::DeadlinePassed(phase)),
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
                Command::Prepare { successor_pid, deadline_ms, drain_grace_ms, then },
            ) => {
                let prepare = Message::PrepareHandoff {
                    handoff_id,
                    successor_pid,
                    deadline_ms,
                    drain_grace_ms,
                };
                let seal = (then == Then::Seal).then_some(Message::SealRequest { handoff_id });
                let said = [prepare].into_iter().chain(seal).collect();
                self.enter(State::Draining(then), [Effect::ToIncumbent(said)])
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
        // Once sealed, the incumbent has no say: the lock and the record decide. While the swap
        // is undone, what it says of the swap is late.
        if !self.state.is_forward() || self.state.successor_may_hold_the_lock() {
            return Vec::new();
        }
        let is_ours = message.handoff_id().is_none_or(|id| id == self.handoff_id);
        match (&self.state, message) {
            (_, Message::Heartbeat { .. }) | (State::Sealing, Message::SealProgress { .. }) => {
                Vec::new()
            }
            (State::Draining(_), Message::Late { .. } | Message::Draining { .. }) if is_ours => {
                Vec::new()
            }
            (State::Draining(Then::Wait), Message::Drained { .. }) => {
                self.enter(State::Prepared, [])
            }
            (State::Draining(Then::Seal), Message::Drained { .. }) => {
                self.enter(State::Sealing, [])
            }
            (State::Sealing, Message::SealComplete { .. }) if is_ours => {
                self.enter(State::Sealed, [])
            }
            (
                State::Draining(_) | State::Prepared | State::Sealing,
                Message::SealFailed { error, partial_state, .. },
            ) if is_ours => self.roll_back(Cause::SealFailed { error, partial_state }),
            // Nothing was asked of it yet, so it is not a refusal.
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
            // Where the swap is given up, what it says of it decides nothing.
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
                let leave = vec![Message::Commit { handoff_id }];
                self.enter(State::Committed, [Effect::ToIncumbent(leave)])
            }
            (State::Promoting(Promotion::Committing, cause), Message::Serving { .. })
                if is_ours =>
            {
                self.enter(State::Promoted(cause.clone()), [])
            }
            (_, Message::Abort { reason, .. }) if is_ours => {
                self.roll_back(Cause::SuccessorGaveUp(reason))
            }
            (_, message) => self.roll_back(Cause::SuccessorMisbehaved(self.fault(&message))),
        }
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
            // Its lock is free, and what it acknowledged is on disk: the successor opens it.
            State::Paired
            | State::Warming
            | State::Warmed
            | State::Draining(_)
            | State::Prepared
            | State::Sealing => self.promote(Cause::IncumbentDied(self.state.phase())),
            // It died before it had undone the swap: the successor is not given up for it.
            State::Confirming(cause) => self.confirm(cause.clone()),
            _ => Vec::new(),
        }
    }

    fn on_incumbent_disconnected(&mut self) -> Vec<Effect> {
        if self.incumbent == Incumbent::Connected {
            self.incumbent = Incumbent::Disconnected;
        }
        match self.state {
            State::Confirming(_) => vec![Effect::AskIncumbent],
            _ if self.state.is_forward() && !self.state.successor_may_hold_the_lock() => {
                self.roll_back(Cause::IncumbentDisconnected(self.state.phase()))
            }
            _ => Vec::new(),
        }
    }

    fn on_successor_lost(&mut self) -> Vec<Effect> {
        match &self.state {
            // It may have committed, and the incumbent may have left for it: only
            // its death, or its silence, says that it does not serve.
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

    /// What the incumbent answers when it was asked to serve.
    fn on_answer(&mut self, fate: IncumbentFate) -> Vec<Effect> {
        match &self.state {
            State::Confirming(cause) => self.rolled_back(fate, cause.clone()),
            _ => Vec::new(),
        }
    }

    /// At any time, and by no fault of either process: the caller or the clock wants it.
    fn give_up(&mut self, cause: Cause) -> Vec<Effect> {
        // Told to commit, the successor may be all there is: an incumbent that does not wait for
        // this supervisor's word may have left by the owner record.
        let may_be_all_there_is = self.state == State::Committing
            && self.incumbent != Incumbent::Connected
            && stands(Guard::DeadlineSparesCommit);
        // With no incumbent left to protect, an opening may take its time.
        if may_be_all_there_is || !self.state.is_forward() {
            return Vec::new();
        }
        self.roll_back(cause)
    }

    /// The one way back: nothing else kills a successor or resumes an incumbent.
    fn roll_back(&mut self, cause: Cause) -> Vec<Effect> {
        let is_at_fault = cause.is_the_successor_s() || !self.state.is_forward();
        if self.incumbent == Incumbent::Dead && self.successor != Successor::Dead && !is_at_fault {
            return self.promote(cause);
        }
        let may_hold_the_lock = self.state.successor_may_hold_the_lock()
            && self.successor != Successor::Dead
            && stands(Guard::EndBeforeAsking);
        if may_hold_the_lock {
            return self.enter(State::Ending(cause), [Effect::KillSuccessor]);
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

    /// Nobody is left to roll back to: the swap goes on from where it is.
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

    /// The successor is spared until the incumbent has confirmed that it serves, unless it is
    /// what the swap failed for.
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
