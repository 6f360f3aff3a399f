//! The three roles as pure transitions: `(state, event) -> (state, effects)`.
//!
//! Nothing here has a descriptor, a clock, a thread or a file. The drivers
//! ([`crate::incumbent`], [`crate::successor`], [`crate::supervisor`]) turn what happens into
//! events and carry the effects out, in order. What cannot happen in a state leaves it alone
//! and has no effect, so that a late event is harmless.

pub(crate) mod adopter;
pub(crate) mod cause;
pub(crate) mod incumbent;
pub(crate) mod outcome;
pub(crate) mod phase;
pub(crate) mod successor;
pub(crate) mod supervisor;

use crate::error::PeerMisbehaved;
use crate::protocol::{HandoffId, Message};

/// What follows a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Then {
    /// Whatever the supervisor asks for next.
    Wait,
    /// The seal: it was asked for ahead, so that no word has to come and go while clients wait.
    Seal,
}

/// What is wrong with a message that a state does not admit.
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
