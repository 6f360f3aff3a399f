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
//! A successor that is alone, because the supervisor and the incumbent are both dead, goes the
//! same way without their words: there is nobody left whom it could stand in the way of.

use crate::guard::{Guard, stands};
use crate::machine::misbehaviour;
use crate::protocol::{CarriedSet, HandoffId, Message};

/// Where the successor stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// Its hello is said.
    Greeting,
    /// Its slow start-up work runs.
    Warming(HandoffId),
    /// It waits for `Begin`.
    Warm(HandoffId),
    /// It may take the lock and open the data.
    Opening(HandoffId),
    /// It could serve, and waits for `Commit`.
    Ready(HandoffId),
    /// The supervisor is lost and nothing more can arrive: is a `Commit` among what is queued?
    LastLook(HandoffId),
    /// It writes the owner record.
    Committing(HandoffId),
    /// The record of that generation names it: it is the writer, and admits work.
    Admitting(HandoffId, u64),
    /// It has said that it serves.
    Serving,
    /// It gave up and holds nothing.
    Gone(GaveUp),
}

/// Why a successor gave up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum GaveUp {
    /// The supervisor said so.
    Aborted(String),
    /// The supervisor closed, died, or fell silent.
    SupervisorLost,
    /// It broke the protocol.
    Misbehaved(crate::error::PeerMisbehaved),
    /// Opening failed, or the owner record could not be written.
    Failed(String),
}

/// What happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Message(Message),
    WarmUpDone,
    /// The data is open and verified; what to announce.
    Opened {
        carried: Option<Vec<CarriedSet>>,
        verified: Option<[u8; 32]>,
        ready: ReadyWords,
    },
    Failed(String),
    RecordWritten {
        generation: u64,
    },
    /// Work is admitted.
    Admitted,
    SupervisorLost,
    /// The supervisor has closed, as it does when it dies, and the incumbent is dead.
    Alone,
    /// What was queued when the supervisor was lost has been read.
    NothingQueued,
}

/// The words of a `Ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadyWords {
    pub(crate) listening_on: Vec<String>,
    pub(crate) healthz_ok: bool,
    pub(crate) advertised_revision_per_shard: Vec<u64>,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// In one go, so that the supervisor is woken once.
    Send(Vec<Message>),
    /// Refuse what is sent from now on, deliver what is queued, then `NothingQueued`.
    ShutAndLook,
    /// The owner record names this process; then `RecordWritten`, or `Failed`.
    WriteRecord,
    /// Drop the lock, and end.
    GiveUp,
}

impl Event {
    /// What the end of the supervisor's connection is to a successor.
    pub(crate) fn of_closed(is_fit: bool, incumbent_is_dead: bool) -> Self {
        let is_alone = is_fit && (incumbent_is_dead || !stands(Guard::AloneWhenBothAreDead));
        if is_alone { Self::Alone } else { Self::SupervisorLost }
    }
}

impl State {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Warming(_) => "warming",
            Self::Warm(_) => "warm",
            Self::Opening(_) => "opening",
            Self::Ready(_) => "ready",
            Self::LastLook(_) => "looking for a commit",
            Self::Committing(_) => "committing",
            Self::Admitting(..) => "admitting",
            Self::Serving => "serving",
            Self::Gone(_) => "gone",
        }
    }

    pub(crate) const fn handoff_id(&self) -> Option<HandoffId> {
        match self {
            Self::Warming(id)
            | Self::Warm(id)
            | Self::Opening(id)
            | Self::Ready(id)
            | Self::LastLook(id)
            | Self::Committing(id)
            | Self::Admitting(id, _) => Some(*id),
            Self::Greeting | Self::Serving | Self::Gone(_) => None,
        }
    }

    /// One transition.
    pub(crate) fn on(self, event: Event) -> (Self, Vec<Effect>) {
        match (self, event) {
            (state @ (Self::Serving | Self::Gone(_)), _)
            | (state @ Self::Admitting(..), Event::Message(_)) => (state, Vec::new()),
            (state, Event::Message(message)) => state.on_message(message),
            (Self::Warming(handoff_id), Event::WarmUpDone) => {
                (Self::Warm(handoff_id), vec![Effect::Send(vec![Message::Warmed { handoff_id }])])
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
                (Self::Ready(handoff_id), vec![Effect::Send(said)])
            }
            (Self::Committing(handoff_id), Event::RecordWritten { generation }) => {
                (Self::Admitting(handoff_id, generation), Vec::new())
            }
            (Self::Admitting(handoff_id, generation), Event::Admitted) => {
                let serving = Message::Serving { handoff_id, generation };
                (Self::Serving, vec![Effect::Send(vec![serving])])
            }
            (Self::Warm(handoff_id), Event::Alone) => (Self::Opening(handoff_id), Vec::new()),
            (Self::Ready(handoff_id), Event::Alone) => {
                (Self::Committing(handoff_id), vec![Effect::WriteRecord])
            }
            (Self::Greeting | Self::Warming(_), Event::Alone) => give_up(GaveUp::SupervisorLost),
            (state, Event::Failed(reason)) => {
                let said = state.handoff_id().map(|handoff_id| {
                    Effect::Send(vec![Message::Abort { handoff_id, reason: reason.clone() }])
                });
                let effects = said.into_iter().chain([Effect::GiveUp]).collect();
                (Self::Gone(GaveUp::Failed(reason)), effects)
            }
            (Self::Ready(id), Event::SupervisorLost) => {
                (Self::LastLook(id), vec![Effect::ShutAndLook])
            }
            // A commit was read: it counts, whatever became of who sent it.
            (
                state @ (Self::Committing(_) | Self::Admitting(..) | Self::LastLook(_)),
                Event::SupervisorLost,
            ) => (state, Vec::new()),
            (_, Event::SupervisorLost) | (Self::LastLook(_), Event::NothingQueued) => {
                give_up(GaveUp::SupervisorLost)
            }
            (
                state,
                Event::WarmUpDone
                | Event::Opened { .. }
                | Event::RecordWritten { .. }
                | Event::Admitted
                | Event::Alone
                | Event::NothingQueued,
            ) => (state, Vec::new()),
        }
    }

    fn on_message(self, message: Message) -> (Self, Vec<Effect>) {
        match (&self, &message) {
            (_, Message::Heartbeat { .. }) => (self, Vec::new()),
            (Self::Greeting, Message::HelloAck { handoff_id, .. }) => {
                (Self::Warming(*handoff_id), Vec::new())
            }
            (Self::Warm(id), Message::Begin { handoff_id }) if id == handoff_id => {
                (Self::Opening(*id), Vec::new())
            }
            (Self::Ready(id) | Self::LastLook(id), Message::Commit { handoff_id })
                if id == handoff_id =>
            {
                (Self::Committing(*id), vec![Effect::WriteRecord])
            }
            // The commit came first, so the abort comes too late; the lock decides.
            (Self::Committing(_), Message::Abort { .. }) => (self, Vec::new()),
            (_, Message::Abort { handoff_id, reason })
                if self.handoff_id().is_none_or(|id| id == *handoff_id) =>
            {
                give_up(GaveUp::Aborted(reason.clone()))
            }
            _ => {
                let fault = misbehaviour(&message, self.name(), self.handoff_id());
                give_up(GaveUp::Misbehaved(fault))
            }
        }
    }
}

fn give_up(why: GaveUp) -> (State, Vec<Effect>) {
    (State::Gone(why), vec![Effect::GiveUp])
}
