//! The three roles as pure transitions: `(state, event) -> (state, effects)`.
//!
//! Nothing here has a descriptor, a clock, a thread or a file. The drivers
//! ([`crate::incumbent`], [`crate::successor`], [`crate::supervisor`]) turn every occurrence into
//! an event and carry the effects out, in order. A late event leaves the state alone and has no
//! effect. A message that a state does not admit is a fault of the peer.

pub(crate) mod adopter;
pub(crate) mod cause;
pub(crate) mod incumbent;
pub(crate) mod outcome;
pub(crate) mod phase;
pub(crate) mod successor;
pub(crate) mod supervisor;

use crate::error::PeerMisbehaved;
use crate::protocol::{HandoffId, Message};

/// The step that follows a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AfterDrain {
    /// The incumbent waits for the supervisor's next message.
    Wait,
    /// The incumbent seals at once: the supervisor asked for it ahead, so that clients do not wait
    /// for a round trip.
    Seal,
}

/// The fault of a peer that sent a message which the state does not admit.
fn misbehaviour(
    message: &Message,
    state: &'static str,
    in_flight: Option<HandoffId>,
) -> PeerMisbehaved {
    match (message.handoff_id(), in_flight) {
        (Some(got), Some(expected)) if got != expected => {
            PeerMisbehaved::WrongHandoff { message: message.name(), expected, got }
        }
        _ => PeerMisbehaved::Unexpected { message: message.name(), state },
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
