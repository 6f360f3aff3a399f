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

use crate::error::{Error, PeerMisbehaved, Result};
use crate::protocol::{
    Capabilities, HandoffId, Message, PROTO_MAX, PROTO_MIN, ProtoVersion, Side, negotiate_version,
};

/// What follows a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Then {
    /// Whatever the supervisor asks for next.
    Wait,
    /// The seal: it was asked for ahead, so that no word has to come and go while clients wait.
    Seal,
}

/// What a hello tells, once it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) version: ProtoVersion,
    pub(crate) build_id: Vec<u8>,
    pub(crate) capabilities: Capabilities,
}

/// Checks a hello against what the supervisor knows of the process from the kernel.
pub(crate) fn judge_hello(hello: Message, role: Side, pid: u32) -> Result<Greeting> {
    let Message::Hello { role: said_role, pid: said, build_id, proto_min, proto_max, capabilities } =
        hello
    else {
        let message = hello.name();
        return Err(PeerMisbehaved::Unexpected { message, state: "greeting" }.into());
    };
    if said_role != role {
        return Err(PeerMisbehaved::WrongRole(said_role).into());
    }
    if said != pid {
        return Err(PeerMisbehaved::WrongPid { said, expected: pid }.into());
    }
    let version = negotiate_version(PROTO_MIN, PROTO_MAX, proto_min, proto_max)?;
    Ok(Greeting { version, build_id, capabilities })
}

/// The hello of this process.
pub(crate) fn hello(role: Side, build_id: &[u8], capabilities: Capabilities) -> Message {
    Message::Hello {
        role,
        pid: std::process::id(),
        build_id: build_id.to_vec(),
        proto_min: PROTO_MIN,
        proto_max: PROTO_MAX,
        capabilities,
    }
}

/// The version and the handoff of a `HelloAck`.
pub(crate) fn judge_hello_ack(message: &Message) -> Result<(ProtoVersion, HandoffId)> {
    match *message {
        Message::HelloAck { proto_version_chosen: chosen, handoff_id } => {
            if (PROTO_MIN..=PROTO_MAX).contains(&chosen) {
                return Ok((chosen, handoff_id));
            }
            Err(Error::VersionMismatch {
                our_min: PROTO_MIN,
                our_max: PROTO_MAX,
                their_min: chosen,
                their_max: chosen,
            })
        }
        _ => {
            let message = message.name();
            Err(PeerMisbehaved::Unexpected { message, state: "greeting" }.into())
        }
    }
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
