//! The successor.
//!
//! ```text
//!            HelloAck        (warm)         Begin           (opened)        Commit
//!  Greeting ---------> Warming ----> Warm -------> Opening ----------> Ready -----> Committing
//!                                                                      |   ^            | record
//!                                          supervisor lost: shut, look v   | Commit     v written
//!                                                                  LastLook+        Admitting
//!                                                                      |                | admits
//!  everywhere before Admitting: Abort, a loss, a message out of order  v                v
//!  -----------------------------------------------------------------> Gone           Serving
//! ```
//!
//! A warm successor that is alone, because the supervisor and the incumbent are both dead, goes
//! the same way without `Begin` and `Commit`: no other process is left to serve (invariant 3).

use strum::IntoStaticStr;

use crate::guard::{Guard, stands};
use crate::machine::misbehaviour;
use crate::protocol::{CarriedSet, HandoffId, Message};

/// Where the successor stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum State {
    /// It says hello, and waits for `HelloAck`.
    Greeting,
    /// Its slow start-up work runs.
    Warming(HandoffId),
    /// It waits for `Begin`.
    Warm(HandoffId),
    /// It may take the lock and open the data.
    Opening(HandoffId),
    /// It could serve, and waits for `Commit`.
    Ready(HandoffId),
    /// The supervisor is lost and nothing more can arrive: it looks for a queued `Commit`
    /// (invariant 7).
    #[strum(serialize = "looking for a commit")]
    LastLook(HandoffId),
    /// It writes the owner record.
    Committing(HandoffId),
    /// The record of that generation names it: it is the writer, and admits work.
    Admitting(HandoffId, u64),
    /// As `Admitting`, in a one-way swap. It has said that it serves, and waits until nobody ends it
    /// in favour of the incumbent any more.
    Announced(HandoffId),
    /// Nobody does: it may do what the incumbent could not undo, and admits work.
    Final(HandoffId),
    /// It has said that it serves.
    Serving,
    /// It gave up. A lock that it keeps is free only when its process ends (invariant 1).
    Gone(GaveUp),
}

/// Why a successor gave up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum GaveUp {
    /// The supervisor sent `Abort`.
    Aborted(String),
    /// The supervisor closed, died, or fell silent.
    SupervisorLost,
    /// The supervisor broke the protocol.
    Misbehaved(crate::error::PeerMisbehaved),
    /// Opening failed, or the owner record could not be written.
    Failed(String),
}

/// An event that the driver tells the successor's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Message(Message),
    WarmUpDone,
    /// The data is open; the successor announces these values.
    Opened {
        carried: Option<Vec<CarriedSet>>,
        verified: Option<[u8; 32]>,
        ready: ReadyWords,
    },
    Failed(String),
    RecordWritten {
        generation: u64,
    },
    /// In a one-way swap: the record names the successor, which has the control path.
    Announced,
    /// The successor admits work.
    Admitted,
    SupervisorLost,
    /// The supervisor has closed, as it does when it dies, and the incumbent is dead.
    Alone,
    /// The successor has read every message that was queued when it lost the supervisor.
    NothingQueued,
}

/// The words of a `Ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadyWords {
    pub(crate) listening_on: Vec<String>,
    pub(crate) healthz_ok: bool,
    pub(crate) advertised_revision_per_shard: Vec<u64>,
}

/// A task for the driver, which performs them in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// In one go, so that the supervisor is woken once.
    Send(Vec<Message>),
    /// Shut the receiving side, deliver every queued message, then report `NothingQueued`.
    ShutAndLook,
    /// Write the owner record, then report `RecordWritten` or `Failed`.
    WriteRecord,
    /// Close the connection to the supervisor.
    GiveUp,
}

impl Event {
    /// The event for the end of the supervisor's connection.
    pub(crate) fn of_closed(is_fit: bool, incumbent_is_dead: bool) -> Self {
        let is_alone = is_fit && (incumbent_is_dead || !stands(Guard::AloneWhenBothAreDead));
        if is_alone { Self::Alone } else { Self::SupervisorLost }
    }
}

impl State {
    pub(crate) fn name(&self) -> &'static str {
        self.into()
    }

    pub(crate) const fn handoff_id(&self) -> Option<HandoffId> {
        match self {
            Self::Warming(id)
            | Self::Warm(id)
            | Self::Opening(id)
            | Self::Ready(id)
            | Self::LastLook(id)
            | Self::Committing(id)
            | Self::Admitting(id, _)
            | Self::Announced(id)
            | Self::Final(id) => Some(*id),
            Self::Greeting | Self::Serving | Self::Gone(_) => None,
        }
    }

    /// One transition.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Effect> {
        match (self.clone(), event) {
            (Self::Announced(id), Event::Message(Message::Commit { handoff_id }))
                if id == handoff_id =>
            {
                self.enter(Self::Final(id), [])
            }
            (Self::Announced(id), Event::SupervisorLost | Event::Alone) => {
                self.enter(Self::Final(id), [])
            }
            (Self::Serving | Self::Gone(_), _)
            | (Self::Admitting(..) | Self::Announced(_) | Self::Final(_), Event::Message(_)) => {
                Vec::new()
            }
            (_, Event::Message(message)) => self.on_message(&message),
            (Self::Warming(handoff_id), Event::WarmUpDone) => {
                let warmed = vec![Message::Warmed { handoff_id }];
                self.enter(Self::Warm(handoff_id), [Effect::Send(warmed)])
            }
            (Self::Opening(handoff_id), Event::Opened { carried, verified, ready }) => {
                let carried = carried.map(|sets| Message::Carried { handoff_id, sets });
                let verified = verified.map(|data_dir_fingerprint| Message::Verified {
                    handoff_id,
                    data_dir_fingerprint,
                });
                let ready = Message::Ready {
                    handoff_id,
                    listening_on: ready.listening_on,
                    healthz_ok: ready.healthz_ok,
                    advertised_revision_per_shard: ready.advertised_revision_per_shard,
                };
                let said = carried.into_iter().chain(verified).chain([ready]).collect();
                self.enter(Self::Ready(handoff_id), [Effect::Send(said)])
            }
            (Self::Committing(handoff_id), Event::RecordWritten { generation }) => {
                self.enter(Self::Admitting(handoff_id, generation), [])
            }
            (Self::Admitting(handoff_id, generation), Event::Admitted) => {
                let serving = vec![Message::Serving { handoff_id, generation }];
                self.enter(Self::Serving, [Effect::Send(serving)])
            }
            (Self::Admitting(handoff_id, generation), Event::Announced) => {
                let serving = vec![Message::Serving { handoff_id, generation }];
                let next = if stands(Guard::FinalBeforeFormat) {
                    Self::Announced(handoff_id)
                } else {
                    Self::Final(handoff_id)
                };
                self.enter(next, [Effect::Send(serving)])
            }
            (Self::Final(_), Event::Admitted) => self.enter(Self::Serving, []),
            (Self::Warm(handoff_id), Event::Alone) => self.enter(Self::Opening(handoff_id), []),
            (Self::Ready(handoff_id), Event::Alone) => {
                self.enter(Self::Committing(handoff_id), [Effect::WriteRecord])
            }
            (Self::Greeting | Self::Warming(_), Event::Alone) => {
                self.give_up(GaveUp::SupervisorLost)
            }
            (state, Event::Failed(reason)) => {
                let said = state.handoff_id().map(|handoff_id| {
                    Effect::Send(vec![Message::Abort { handoff_id, reason: reason.clone() }])
                });
                let effects: Vec<_> = said.into_iter().chain([Effect::GiveUp]).collect();
                self.enter(Self::Gone(GaveUp::Failed(reason)), effects)
            }
            (Self::Ready(id), Event::SupervisorLost) => {
                self.enter(Self::LastLook(id), [Effect::ShutAndLook])
            }
            // A `Commit` that was read counts, even if its sender is lost; a last look runs on.
            (
                Self::Committing(_) | Self::Admitting(..) | Self::Final(_) | Self::LastLook(_),
                Event::SupervisorLost,
            ) => Vec::new(),
            (_, Event::SupervisorLost) | (Self::LastLook(_), Event::NothingQueued) => {
                self.give_up(GaveUp::SupervisorLost)
            }
            (
                _,
                Event::WarmUpDone
                | Event::Opened { .. }
                | Event::RecordWritten { .. }
                | Event::Announced
                | Event::Admitted
                | Event::Alone
                | Event::NothingQueued,
            ) => Vec::new(),
        }
    }

    fn enter(&mut self, state: Self, effects: impl Into<Vec<Effect>>) -> Vec<Effect> {
        *self = state;
        effects.into()
    }

    fn on_message(&mut self, message: &Message) -> Vec<Effect> {
        match (&*self, message) {
            // An abort that arrives after `Commit` comes too late; the lock decides.
            (_, Message::Heartbeat { .. }) | (Self::Committing(_), Message::Abort { .. }) => {
                Vec::new()
            }
            (Self::Greeting, Message::HelloAck { handoff_id, .. }) => {
                self.enter(Self::Warming(*handoff_id), [])
            }
            (Self::Warm(id), Message::Begin { handoff_id }) if id == handoff_id => {
                self.enter(Self::Opening(*handoff_id), [])
            }
            (Self::Ready(id) | Self::LastLook(id), Message::Commit { handoff_id })
                if id == handoff_id =>
            {
                self.enter(Self::Committing(*handoff_id), [Effect::WriteRecord])
            }
            (_, Message::Abort { handoff_id, reason })
                if self.handoff_id().is_none_or(|id| id == *handoff_id) =>
            {
                self.give_up(GaveUp::Aborted(reason.clone()))
            }
            _ => {
                let fault = misbehaviour(message, self.name(), self.handoff_id());
                self.give_up(GaveUp::Misbehaved(fault))
            }
        }
    }

    fn give_up(&mut self, why: GaveUp) -> Vec<Effect> {
        self.enter(Self::Gone(why), [Effect::GiveUp])
    }
}
