//! The beginning of a control connection: a process says hello first, and a supervisor answers.

use std::time::Instant;

use crate::control::Heard;
use crate::control::connection::Connection;
use crate::error::{Error, PeerMisbehaved, Result};
use crate::protocol::{
    Capabilities, HandoffId, Message, PROTO_MAX, PROTO_MIN, ProtoVersion, Side, negotiate_version,
};
use crate::sys::poll::Waker;

/// The contents of a hello that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) build_id: Vec<u8>,
    pub(crate) capabilities: Capabilities,
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

/// Waits for the hello of a process, checks it against the pid that the kernel tells, and answers
/// it.
///
/// # Errors
///
/// Those of [`hear_hello`]; or the answer cannot be sent.
pub(crate) fn greet(
    connection: &mut Connection,
    role: Side,
    pid: u32,
    handoff_id: HandoffId,
    deadline: Instant,
    waker: Option<&Waker>,
) -> Result<Greeting> {
    let (greeting, version) = hear_hello(connection, role, pid, deadline, waker)?;
    connection.send_before(&[hello_ack(version, handoff_id)], deadline)?;
    Ok(greeting)
}

/// Waits for the hello of a process, and checks it. From here on the connection speaks the chosen
/// version.
///
/// # Errors
///
/// The hello did not come before the deadline, or before `waker` was woken; the message is no
/// hello, or one of another process; the two processes have no version in common.
pub(crate) fn hear_hello(
    connection: &mut Connection,
    role: Side,
    pid: u32,
    deadline: Instant,
    waker: Option<&Waker>,
) -> Result<(Greeting, ProtoVersion)> {
    let hello = match connection.next_before(deadline, waker)? {
        Heard::Frame(message) => message,
        Heard::Nothing => {
            return Err(match role {
                Side::Incumbent => Error::TimedOut("waiting for the incumbent's hello"),
                Side::Successor => Error::NoHello,
            });
        }
        Heard::End => {
            return Err(Error::PeerLost { peer: role.name(), during: "waiting for its hello" });
        }
    };
    let (version, greeting) = judge_hello(hello, role, pid)?;
    connection.agree_on(version);
    Ok((greeting, version))
}

/// The answer to a hello.
pub(crate) const fn hello_ack(version: ProtoVersion, handoff_id: HandoffId) -> Message {
    Message::HelloAck { proto_version_chosen: version, handoff_id }
}

/// Checks a hello against the role and the pid that the supervisor expects.
fn judge_hello(hello: Message, role: Side, pid: u32) -> Result<(ProtoVersion, Greeting)> {
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
    Ok((version, Greeting { build_id, capabilities }))
}

/// The version and the swap of a `HelloAck`.
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

/// The value that a supervisor sends after `ResumeAfterAbort`, and that the incumbent echoes
/// (invariant 4): eight of the random bytes of the identifier. For any identifier, the value is
/// neither 0 nor a time, as other heartbeats are.
pub(crate) fn echo_value(id: HandoffId) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id.as_bytes()[8..]);
    u64::from_le_bytes(bytes) | NO_TIME
}

/// Milliseconds since the epoch do not reach it.
const NO_TIME: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::frame::write_message;

    /// The judgement of a hello of a build that speaks these versions.
    fn greeted(proto_min: ProtoVersion, proto_max: ProtoVersion) -> Result<ProtoVersion> {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut said = hello(Side::Successor, b"", Capabilities::default());
        if let Message::Hello { proto_min: min, proto_max: max, .. } = &mut said {
            (*min, *max) = (proto_min, proto_max);
        }
        write_message(&mut &theirs, proto_min, &said).expect("it is read");
        let (role, pid) = (Side::Successor, std::process::id());
        hear_hello(&mut Connection::new(ours), role, pid, Instant::now(), None)
            .map(|(_, version)| version)
    }

    #[test]
    fn a_hello_is_read_in_a_version_that_this_build_does_not_speak() {
        let newest = greeted(PROTO_MIN - 1, PROTO_MAX).expect("they have one in common");
        assert_eq!(newest, PROTO_MAX);
        let newer = greeted(PROTO_MAX + 1, PROTO_MAX + 2).expect_err("they have none in common");
        assert!(matches!(newer, Error::VersionMismatch { .. }), "{newer}");
    }

    /// An incumbent whose hook runs sends 0, and echoes the times of this process's pulse.
    #[test]
    fn no_other_heartbeat_is_taken_for_the_echo_whatever_the_swap_is_called() {
        for byte in [0, 1, 0x7f, 0xff] {
            let echo = echo_value(HandoffId::from_bytes([byte; 16]));
            assert!(echo > u64::try_from(i64::MAX).unwrap_or_default(), "{byte}: {echo}");
        }
        let [one, another] = [HandoffId::new(), HandoffId::new()].map(echo_value);
        assert_ne!(one, another);
    }
}
