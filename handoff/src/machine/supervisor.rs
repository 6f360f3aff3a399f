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

type Step = (State, Vec<Effect>);

impl Machine {
    pub(crate) const fn new(handoff_id: HandoffId) -> Self {
        let (incumbent, successor) = (Incumbent::Connected, Successor::Starting);
        Self { handoff_id, state: State::Paired, incumbent, successor }
    }

    /// One transition.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Effect> {
        let state = self.state.clone();
        let (state, effects) = match event {
            Event::Command(command) => self.on_command(state, command),
            Event::Incumbent(message) => self.on_incumbent(state, message),
            Event::Successor(message) => self.on_successor(state, message),
            Event::Judged(verdict) => self.on_judged(state, verdict),
            Event::IncumbentDied => self.on_incumbent_died(state),
            Event::IncumbentDisconnected => self.on_incumbent_disconnected(state),
            Event::IncumbentSilent if matches!(state, State::Draining(_) | State::Sealing) => {
                let cause = Cause::IncumbentSilent(state.phase());
                self.roll_back(state, cause)
            }
            Event::SuccessorLost => self.on_successor_lost(state),
            Event::SuccessorEnded => {
                self.successor = Successor::Dead;
                match state {
                    State::Ending(cause) => self.confirm(cause),
                    state => self.on_successor_lost(state),
                }
            }
            Event::SuccessorSilent => match state {
                State::Promoting(stage, cause) => {
                    self.roll_back(State::Promoting(stage, cause.clone()), cause)
                }
                state if state.is_forward() => {
                    let cause = Cause::SuccessorSilent(state.phase());
                    self.roll_back(state, cause)
                }
                state => (state, Vec::new()),
            },
            Event::DeadlinePassed => {
                let cause = Cause::DeadlinePassed(state.phase());
                self.give_up(state, cause)
            }
            Event::IncumbentSilent => (state, Vec::new()),
            Event::Echoed => match state {
                State::Confirming(cause) => rolled_back(IncumbentFate::Serving, cause),
                state => (state, Vec::new()),
            },
            Event::Refused => match state {
                State::Confirming(cause) => rolled_back(IncumbentFate::Unknown, cause),
                state => (state, Vec::new()),
            },
            Event::PatienceEnded => match state {
                State::Confirming(cause) | State::Ending(cause) => {
                    rolled_back(IncumbentFate::Unknown, cause)
                }
                state => (state, Vec::new()),
            },
        };
        self.state = state;
        effects
    }

    fn on_command(&self, state: State, command: Command) -> Step {
        let handoff_id = self.handoff_id;
        match (state, command) {
            (State::Paired, Command::Warm) if self.successor == Successor::Warm => {
                (State::Warmed, Vec::new())
            }
            (State::Paired, Command::Warm) => (State::Warming, Vec::new()),
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
                (State::Draining(then), vec![Effect::ToIncumbent(said)])
            }
            (State::Prepared, Command::Seal) => (
                State::Sealing,
                vec![Effect::ToIncumbent(vec![Message::SealRequest { handoff_id }])],
            ),
            (State::Sealed, Command::Begin) => {
                (State::Opening, vec![Effect::ToSuccessor(Message::Begin { handoff_id })])
            }
            (State::Ready, Command::Commit) => {
                let early = (!stands(Guard::ServingBeforeLeave))
                    .then_some(Effect::ToIncumbent(vec![Message::Commit { handoff_id }]));
                let commit = Effect::ToSuccessor(Message::Commit { handoff_id });
                (State::Committing, [commit].into_iter().chain(early).collect())
            }
            (state, Command::Abort(reason)) => self.give_up(state, Cause::Requested(reason)),
            (state, _) => (state, Vec::new()),
        }
    }

    fn on_incumbent(&self, state: State, message: Message) -> Step {
        let is_ours = message.handoff_id().is_none_or(|id| id == self.handoff_id);
        match (state, message) {
            // Once sealed, the incumbent has no say: the lock and the record decide. While
            // the swap is undone, what it says of the swap is late.
            (state, _) if !state.is_forward() || state.successor_may_hold_the_lock() => {
                (state, Vec::new())
            }
            (state, Message::Heartbeat { .. }) => (state, Vec::new()),
            (state @ State::Draining(_), Message::Late { .. } | Message::Draining { .. })
                if is_ours =>
            {
                (state, Vec::new())
            }
            (State::Draining(Then::Wait), Message::Drained { .. }) => (State::Prepared, Vec::new()),
            (State::Draining(Then::Seal), Message::Drained { .. }) => (State::Sealing, Vec::new()),
            (State::Sealing, Message::SealProgress { .. }) => (State::Sealing, Vec::new()),
            (State::Sealing, Message::SealComplete { .. }) if is_ours => {
                (State::Sealed, Vec::new())
            }
            (
                state @ (State::Draining(_) | State::Prepared | State::Sealing),
                Message::SealFailed { error, partial_state, .. },
            ) if is_ours => self.roll_back(state, Cause::SealFailed { error, partial_state }),
            // Nothing was asked of it yet, so it is not a refusal.
            (
                state @ (State::Paired | State::Warming | State::Warmed),
                Message::Abort { reason, .. },
            ) if is_ours => self.roll_back(state, Cause::IncumbentStopped(reason)),
            (state, Message::Abort { reason, .. }) if is_ours => {
                self.roll_back(state, Cause::IncumbentAborted(reason))
            }
            (state, message) => {
                let fault = misbehaviour(&message, state.phase().name(), Some(self.handoff_id));
                self.roll_back(state, Cause::IncumbentMisbehaved(fault))
            }
        }
    }

    fn on_successor(&mut self, state: State, message: Message) -> Step {
        let handoff_id = self.handoff_id;
        let is_ours = message.handoff_id().is_none_or(|id| id == handoff_id);
        let is_news = is_ours && self.successor == Successor::Starting;
        match (state, message) {
            (state, _) if state.is_over() => (state, Vec::new()),
            (state, Message::Warmed { .. }) if is_news => {
                self.successor = Successor::Warm;
                match state {
                    State::Warming => (State::Warmed, Vec::new()),
                    State::Promoting(Promotion::Warming, cause) => self.begin_promotion(cause),
                    state => (state, Vec::new()),
                }
            }
            // The swap is given up; what it says of it decides nothing.
            (state @ (State::Ending(_) | State::Confirming(_)), _) => (state, Vec::new()),
            (state, Message::Heartbeat { .. }) => (state, Vec::new()),
            (
                state @ (State::Opening | State::Promoting(Promotion::Opening, _)),
                Message::Verified { .. } | Message::Carried { .. },
            ) if is_ours => (state, Vec::new()),
            (
                state @ (State::Opening | State::Promoting(Promotion::Opening, _)),
                Message::Ready { .. },
            ) if is_ours => (state, vec![Effect::Judge]),
            (State::Committing, Message::Serving { .. }) if is_ours => {
                (State::Committed, vec![Effect::ToIncumbent(vec![Message::Commit { handoff_id }])])
            }
            (State::Promoting(Promotion::Committing, cause), Message::Serving { .. })
                if is_ours =>
            {
                (State::Promoted(cause), Vec::new())
            }
            (state, Message::Abort { reason, .. }) if is_ours => {
                self.roll_back(state, Cause::SuccessorGaveUp(reason))
            }
            (state, message) => {
                let fault = misbehaviour(&message, state.phase().name(), Some(handoff_id));
                self.roll_back(state, Cause::SuccessorMisbehaved(fault))
            }
        }
    }

    fn on_judged(&self, state: State, verdict: Result<(), Unfit>) -> Step {
        let commit = || vec![Effect::ToSuccessor(Message::Commit { handoff_id: self.handoff_id })];
        match (state, verdict) {
            (State::Opening, Ok(())) => (State::Ready, Vec::new()),
            (State::Promoting(Promotion::Opening, cause), Ok(())) => {
                (State::Promoting(Promotion::Committing, cause), commit())
            }
            (state @ (State::Opening | State::Promoting(Promotion::Opening, _)), Err(unfit)) => {
                self.roll_back(state, Cause::Unfit(unfit))
            }
            (state, _) => (state, Vec::new()),
        }
    }

    fn on_incumbent_died(&mut self, state: State) -> Step {
        self.incumbent = Incumbent::Dead;
        let cause = Cause::IncumbentDied(state.phase());
        match state {
            // Its lock is free, and what it acknowledged is on disk: the successor opens it.
            State::Paired
            | State::Warming
            | State::Warmed
            | State::Draining(_)
            | State::Prepared
            | State::Sealing => self.promote(state, cause),
            // It died before it had undone the swap: the successor is not given up for it.
            State::Confirming(cause) => self.confirm(cause),
            state => (state, Vec::new()),
        }
    }

    fn on_incumbent_disconnected(&mut self, state: State) -> Step {
        if self.incumbent == Incumbent::Connected {
            self.incumbent = Incumbent::Disconnected;
        }
        match state {
            State::Paired
            | State::Warming
            | State::Warmed
            | State::Draining(_)
            | State::Prepared
            | State::Sealing
            | State::Sealed => {
                let cause = Cause::IncumbentDisconnected(state.phase());
                self.roll_back(state, cause)
            }
            State::Confirming(cause) => (State::Confirming(cause), vec![Effect::AskIncumbent]),
            state => (state, Vec::new()),
        }
    }

    fn on_successor_lost(&self, state: State) -> Step {
        match state {
            // It may have committed, and the incumbent may have left for it: only
            // its death, or its silence, says that it does not serve.
            State::Committing
                if self.incumbent != Incumbent::Connected && self.successor != Successor::Dead =>
            {
                (state, Vec::new())
            }
            State::Promoting(stage, cause) => {
                self.roll_back(State::Promoting(stage, cause.clone()), cause)
            }
            state if state.is_forward() => {
                let cause = Cause::SuccessorLost(state.phase());
                self.roll_back(state, cause)
            }
            state => (state, Vec::new()),
        }
    }

    /// At any time, and by no fault of either process: the caller or the clock wants it.
    fn give_up(&self, state: State, cause: Cause) -> Step {
        // Told to commit, the successor may be all there is: an incumbent that does not wait for
        // this supervisor's word may have left by the owner record.
        let may_be_all_there_is = state == State::Committing
            && self.incumbent != Incumbent::Connected
            && stands(Guard::DeadlineSparesCommit);
        // With no incumbent left to protect, an opening may take its time.
        if may_be_all_there_is || !state.is_forward() {
            return (state, Vec::new());
        }
        self.roll_back(state, cause)
    }

    /// The one way back: nothing else kills a successor or resumes an incumbent.
    fn roll_back(&self, state: State, cause: Cause) -> Step {
        let is_at_fault = cause.is_the_successor_s() || !state.is_forward();
        if self.incumbent == Incumbent::Dead && self.successor != Successor::Dead && !is_at_fault {
            return self.promote(state, cause);
        }
        let may_hold_the_lock = state.successor_may_hold_the_lock()
            && self.successor != Successor::Dead
            && stands(Guard::EndBeforeAsking);
        if may_hold_the_lock {
            return (State::Ending(cause), vec![Effect::KillSuccessor]);
        }
        if self.incumbent == Incumbent::Dead {
            return rolled_back(IncumbentFate::Lost, cause);
        }
        let is_spared = !is_at_fault && stands(Guard::SuccessorSpared);
        let kill = (!is_spared).then_some(Effect::KillSuccessor);
        let effects = kill.into_iter().chain([Effect::AskIncumbent]).collect();
        (State::Confirming(cause), effects)
    }

    /// Nobody is left to roll back to: the swap goes on from where it is.
    fn promote(&self, state: State, cause: Cause) -> Step {
        let handoff_id = self.handoff_id;
        match state {
            State::Opening => (State::Promoting(Promotion::Opening, cause), Vec::new()),
            State::Ready => {
                let commit = Effect::ToSuccessor(Message::Commit { handoff_id });
                (State::Promoting(Promotion::Committing, cause), vec![commit])
            }
            State::Committing => (State::Promoting(Promotion::Committing, cause), Vec::new()),
            _ => self.begin_promotion(cause),
        }
    }

    fn begin_promotion(&self, cause: Cause) -> Step {
        if self.successor != Successor::Warm {
            return (State::Promoting(Promotion::Warming, cause), Vec::new());
        }
        let begin = Effect::ToSuccessor(Message::Begin { handoff_id: self.handoff_id });
        (State::Promoting(Promotion::Opening, cause), vec![begin])
    }

    /// The successor is spared until the incumbent has confirmed that it serves, unless it is
    /// what the swap failed for.
    fn confirm(&self, cause: Cause) -> Step {
        if self.incumbent != Incumbent::Dead {
            return (State::Confirming(cause), vec![Effect::AskIncumbent]);
        }
        if self.successor != Successor::Dead && cause.admits_promotion() {
            return self.begin_promotion(cause);
        }
        rolled_back(IncumbentFate::Lost, cause)
    }
}

fn rolled_back(incumbent: IncumbentFate, cause: Cause) -> Step {
    (State::RolledBack(incumbent, cause), vec![Effect::KillSuccessor])
}
