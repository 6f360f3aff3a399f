//! The incumbent.
//!
//! ```text
//!            Prepare          (drained)        SealRequest        (sealed, lock released)
//!  Serving ----------> Draining ------> Drained ----------> Sealing ------> Sealed
//!     ^                   |                |                   |              |   \
//!     |                   | undo while     | undo              | undo while   |    Commit
//!     |                   v a hook runs    |                   v a hook runs  |     |
//!     |              Interrupted           |              Interrupted    undo |     v
//!     |                   | (hook ended)   |                   |              v   Replaced
//!     +---- Resuming <----+----------------+-------------------+---------- Waiting   ^
//!          (until it works)                            (lock taken)  |    (record: a |
//!                                                                    +--- newer one +
//!  Serving --(stop)--> Stopping --(drained)--> Closing --(sealed)--> Stopped   serves)
//! ```
//!
//! A `SealRequest` that arrives during the drain makes the seal follow the drain at once.
//!
//! An undo has one of five causes: an abort, a lost session, a deadline, a failed hook, or a
//! message that the state does not admit. All take the one way back (invariant 5), and differ
//! only in the reply at its end.

use strum::IntoStaticStr;

use crate::drainable::{DrainReport, SealReport};
use crate::error::PeerMisbehaved;
use crate::guard::{Guard, stands};
use crate::machine::{AfterDrain, misbehaviour};
use crate::protocol::{HandoffId, Message};

/// Where the incumbent stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum State {
    /// It is the writer and admits work.
    Serving,
    /// The drain hook runs.
    Draining(HandoffId, AfterDrain),
    /// It has drained, and admits nothing.
    Drained(HandoffId),
    /// The seal hook runs.
    Sealing(HandoffId),
    /// It has sealed and released the lock.
    Sealed(HandoffId),
    /// The swap is given up; a hook still runs.
    Interrupted(Undo),
    /// The swap is given up; the incumbent takes the lock again, or learns that a newer
    /// generation serves (invariant 3).
    #[strum(serialize = "waiting for the lock")]
    Waiting(Undo),
    /// The lock is held; the resume hook runs, or is due again.
    Resuming(Undo),
    /// The hook of the last drain runs: the daemon ends.
    Stopping,
    /// The hook of the last seal runs.
    Closing,
    /// Another process is the writer.
    Replaced,
    /// Cleanly stopped, by its own wish.
    Stopped,
}

/// An undo under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Undo {
    pub(crate) handoff_id: HandoffId,
    /// Sent once the incumbent serves again, if the session is still there.
    pub(crate) reply: Option<Reply>,
}

/// The incumbent's message at the end of an undo that the supervisor did not ask for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    DrainFailed(String),
    SealFailed(String),
    DeadlinePassed,
}

/// An event that the driver tells the incumbent's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A message of the session that swaps, or of any while it serves.
    Message(Message),
    DrainEnded(Result<DrainReport, String>),
    SealEnded(Result<SealReport, String>),
    /// The incumbent released the lock, and the record reserves it for the successor (invariant 9).
    LockReleased(SealReport),
    /// The incumbent could not release the lock, and holds it.
    LockKept(String),
    /// The incumbent holds the lock again.
    LockRetaken,
    /// The record says that a newer generation serves.
    Superseded,
    ResumeEnded(Result<(), String>),
    /// The pause after a failed resume is over.
    RetryDue,
    /// The session that swaps is over: end of file, or bytes that are no frame.
    SessionLost,
    /// The deadline of the swap has passed.
    DeadlinePassed,
    /// The daemon wants to end.
    StopRequested,
}

/// A task for the driver, which performs them in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// To the session that was heard, or else to the one that swaps.
    Send(Message),
    /// The session that was heard misbehaved.
    Close(PeerMisbehaved),
    /// To the session that was heard: the listeners that this process was passed.
    GiveListeners {
        handoff_id: HandoffId,
    },
    /// To the session that was heard, over which no other message goes any more: an offer of the
    /// carried connections and memory.
    Offer {
        handoff_id: HandoffId,
    },
    RunDrain {
        handoff_id: HandoffId,
        successor_pid: u32,
        deadline_ms: u64,
        drain_grace_ms: u64,
    },
    /// The session that was heard is told when the gate closes, if its drain is the next.
    WatchGate,
    RunLastDrain,
    InterruptDrain,
    /// `RunSeal` follows if the drain ends well: the thread of the hooks need not wait for it.
    SealNext,
    RunSeal,
    ReleaseLock(SealReport),
    /// Report `LockRetaken` or `Superseded`, as the lock and the record decide (invariant 3).
    AwaitLock,
    RunResume,
    /// Report `RetryDue` after a pause.
    RetryLater,
    /// Make the seal durable, release the lock for good.
    ReleaseForGood(SealReport),
    /// End the loop; with an error if a stop failed, and then the process keeps the lock.
    Leave(Result<(), String>),
}

impl State {
    /// Whether the incumbent reads messages. While it does not, they wait in order: it answers a
    /// message sent after an abort only when the undo is done (invariant 4).
    pub(crate) fn admits_messages(&self) -> bool {
        match self {
            Self::Serving
            | Self::Draining(..)
            | Self::Drained(_)
            | Self::Sealing(_)
            | Self::Sealed(_) => true,
            Self::Interrupted(_) | Self::Waiting(_) | Self::Resuming(_) => {
                !stands(Guard::UndoBeforeEcho)
            }
            Self::Stopping | Self::Closing | Self::Replaced | Self::Stopped => false,
        }
    }

    /// The swap in flight.
    pub(crate) const fn handoff_id(&self) -> Option<HandoffId> {
        match self {
            Self::Draining(id, _) | Self::Drained(id) | Self::Sealing(id) | Self::Sealed(id) => {
                Some(*id)
            }
            Self::Interrupted(undo) | Self::Waiting(undo) | Self::Resuming(undo) => {
                Some(undo.handoff_id)
            }
            Self::Serving | Self::Stopping | Self::Closing | Self::Replaced | Self::Stopped => None,
        }
    }

    /// Whether the swap that a new supervisor came for is the one in flight.
    pub(crate) fn is_missing(&self, came_for: Option<HandoffId>) -> bool {
        came_for.is_some() && came_for == self.handoff_id() && stands(Guard::HelloAttaches)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.into()
    }

    /// One transition.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Message(message) => self.on_message(message),
            Event::SessionLost => self.undo(None, Vec::new()),
            Event::DeadlinePassed => self.undo(Some(Reply::DeadlinePassed), Vec::new()),
            Event::StopRequested => match self {
                Self::Serving => self.enter(Self::Stopping, [Effect::RunLastDrain]),
                _ => Vec::new(),
            },
            Event::DrainEnded(result) => self.on_drain_ended(result),
            Event::SealEnded(result) => self.on_seal_ended(result),
            Event::LockReleased(report) => self.on_lock_released(report),
            Event::LockKept(error) => self.on_seal_ended(Err(error)),
            Event::LockRetaken => match self {
                Self::Waiting(undo) => {
                    let resuming = Self::Resuming(undo.clone());
                    self.enter(resuming, [Effect::RunResume])
                }
                _ => Vec::new(),
            },
            Event::Superseded => match self {
                Self::Waiting(_) => self.enter(Self::Replaced, [Effect::Leave(Ok(()))]),
                _ => Vec::new(),
            },
            Event::ResumeEnded(result) => self.on_resume_ended(&result),
            Event::RetryDue => match self {
                Self::Resuming(_) => vec![Effect::RunResume],
                _ => Vec::new(),
            },
        }
    }

    fn enter(&mut self, state: Self, effects: impl Into<Vec<Effect>>) -> Vec<Effect> {
        *self = state;
        effects.into()
    }

    fn on_message(&mut self, message: Message) -> Vec<Effect> {
        if !self.admits_messages() {
            return Vec::new();
        }
        match (&*self, &message) {
            (_, Message::Heartbeat { .. }) => vec![Effect::Send(message)],
            // The incumbent serves: there is nothing to undo.
            (Self::Serving, Message::Abort { .. } | Message::ResumeAfterAbort { .. }) => Vec::new(),
            (Self::Serving, &Message::Adopt { handoff_id }) => {
                vec![Effect::GiveListeners { handoff_id }]
            }
            (Self::Serving, &Message::Fetch { handoff_id }) => vec![Effect::Offer { handoff_id }],
            (Self::Serving, Message::WatchGate { .. }) => vec![Effect::WatchGate],
            (
                Self::Serving,
                &Message::PrepareHandoff { handoff_id, successor_pid, deadline_ms, drain_grace_ms },
            ) => {
                let drain =
                    Effect::RunDrain { handoff_id, successor_pid, deadline_ms, drain_grace_ms };
                self.enter(Self::Draining(handoff_id, AfterDrain::Wait), [drain])
            }
            (&Self::Draining(id, AfterDrain::Wait), Message::SealRequest { handoff_id })
                if id == *handoff_id =>
            {
                self.enter(Self::Draining(id, AfterDrain::Seal), [Effect::SealNext])
            }
            (&Self::Drained(id), Message::SealRequest { handoff_id }) if id == *handoff_id => {
                self.enter(Self::Sealing(id), [Effect::RunSeal])
            }
            (Self::Sealed(id), Message::Commit { handoff_id }) if id == handoff_id => {
                self.enter(Self::Replaced, [Effect::Leave(Ok(()))])
            }
            (
                Self::Draining(id, _) | Self::Drained(id) | Self::Sealing(id) | Self::Sealed(id),
                Message::Abort { handoff_id, .. } | Message::ResumeAfterAbort { handoff_id },
            ) if id == handoff_id => self.undo(None, Vec::new()),
            _ => {
                let fault = misbehaviour(&message, self.name(), self.handoff_id());
                self.undo(None, vec![Effect::Close(fault)])
            }
        }
    }

    /// The one way back (invariant 5). If an undo runs already, it only forgets the reply, since
    /// the session that would read it is gone; if no swap was begun, it does nothing.
    fn undo(&mut self, reply: Option<Reply>, mut effects: Vec<Effect>) -> Vec<Effect> {
        let undo = |handoff_id| Undo { handoff_id, reply: reply.clone() };
        match self {
            Self::Draining(id, _) => {
                effects.push(Effect::InterruptDrain);
                *self = Self::Interrupted(undo(*id));
            }
            Self::Sealing(id) => *self = Self::Interrupted(undo(*id)),
            Self::Sealed(id) if stands(Guard::LockBeforeResume) => {
                effects.push(Effect::AwaitLock);
                *self = Self::Waiting(undo(*id));
            }
            Self::Drained(id) | Self::Sealed(id) => {
                effects.push(Effect::RunResume);
                *self = Self::Resuming(undo(*id));
            }
            Self::Interrupted(undo) | Self::Waiting(undo) | Self::Resuming(undo)
                if reply.is_none() =>
            {
                undo.reply = None;
            }
            _ => {}
        }
        effects
    }

    fn on_drain_ended(&mut self, result: Result<DrainReport, String>) -> Vec<Effect> {
        match (self.clone(), result) {
            (Self::Draining(id, after_drain), Ok(report)) => {
                let DrainReport { open_conns_remaining, accept_closed } = report;
                let drained =
                    Effect::Send(Message::Drained { open_conns_remaining, accept_closed });
                match after_drain {
                    AfterDrain::Wait => self.enter(Self::Drained(id), [drained]),
                    AfterDrain::Seal => self.enter(Self::Sealing(id), [drained, Effect::RunSeal]),
                }
            }
            (Self::Draining(handoff_id, _), Err(error)) => {
                self.resume(Undo { handoff_id, reply: Some(Reply::DrainFailed(error)) })
            }
            (Self::Interrupted(undo), _) => self.resume(undo),
            // Work that did not end in time does not keep a daemon from stopping.
            (Self::Stopping, _) => self.enter(Self::Closing, [Effect::RunSeal]),
            _ => Vec::new(),
        }
    }

    fn on_seal_ended(&mut self, result: Result<SealReport, String>) -> Vec<Effect> {
        match (self.clone(), result) {
            (Self::Sealing(_), Ok(report)) => vec![Effect::ReleaseLock(report)],
            (Self::Sealing(handoff_id), Err(error)) => {
                self.resume(Undo { handoff_id, reply: Some(Reply::SealFailed(error)) })
            }
            // The incumbent has not released the lock yet.
            (Self::Interrupted(undo), _) => self.resume(undo),
            (Self::Closing, Ok(report)) => {
                let leave = Effect::Leave(Ok(()));
                self.enter(Self::Stopped, [Effect::ReleaseForGood(report), leave])
            }
            (Self::Closing, Err(error)) => self.enter(Self::Stopped, [Effect::Leave(Err(error))]),
            _ => Vec::new(),
        }
    }

    fn on_lock_released(&mut self, report: SealReport) -> Vec<Effect> {
        let &mut Self::Sealing(handoff_id) = self else { return Vec::new() };
        let complete = Message::SealComplete {
            handoff_id,
            last_revision_per_shard: report.last_revision_per_shard,
            data_dir_fingerprint: report.data_dir_fingerprint,
        };
        self.enter(Self::Sealed(handoff_id), [Effect::Send(complete)])
    }

    fn on_resume_ended(&mut self, result: &Result<(), String>) -> Vec<Effect> {
        let Self::Resuming(undo) = self else { return Vec::new() };
        if result.is_err() && stands(Guard::ResumeUntilItWorks) {
            return vec![Effect::RetryLater];
        }
        let reply = undo.clone().into_message().map(Effect::Send);
        self.enter(Self::Serving, Vec::from_iter(reply))
    }

    fn resume(&mut self, undo: Undo) -> Vec<Effect> {
        self.enter(Self::Resuming(undo), [Effect::RunResume])
    }
}

impl Undo {
    fn into_message(self) -> Option<Message> {
        let handoff_id = self.handoff_id;
        Some(match self.reply? {
            Reply::DrainFailed(error) => Message::SealFailed {
                handoff_id,
                error,
                partial_state: "the drain failed, and the incumbent serves again".into(),
            },
            Reply::SealFailed(error) => Message::SealFailed {
                handoff_id,
                error,
                partial_state: "the seal failed, and the incumbent serves again".into(),
            },
            Reply::DeadlinePassed => Message::Abort {
                handoff_id,
                reason: "the deadline of the swap passed, and the incumbent serves again".into(),
            },
        })
    }
}
