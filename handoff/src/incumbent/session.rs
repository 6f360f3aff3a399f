//! One connection to the control socket. The loop never waits for it (invariant 6).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::PollFlags;

use crate::control::{
    Connection, Heard, LIVENESS_TIMEOUT, Passed, encode_all, judge_hello_ack, send_some,
};
use crate::error::{Error, PeerMisbehaved, Result};
use crate::protocol::{HandoffId, Message};
use crate::sys::fork::NotInForks;
use crate::sys::socket::Peer;

/// A connection, from its hello on.
#[derive(Debug)]
pub(super) struct Session {
    _alone: NotInForks,
    connection: Connection,
    peer: Peer,
    /// A message that this process has read and could not act upon yet.
    put_back: Option<Message>,
    out: VecDeque<Outgoing>,
    /// The id of the swap for which the peer came.
    handoff_id: Option<HandoffId>,
    /// Whether the peer asked to be told when the gate closes in its swap.
    pub(super) watches_gate: bool,
    opened: Instant,
}

/// Bytes that are still to be sent.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Their descriptors go with the first byte.
    listeners: Option<Passed>,
}

impl Session {
    /// Says hello.
    pub(super) fn open(stream: UnixStream, peer: Peer, hello: &Message) -> Result<Self> {
        let mut session = Self {
            _alone: NotInForks::new(&stream),
            connection: Connection::new(stream).with_max_frame(MAX_IN),
            peer,
            put_back: None,
            out: VecDeque::new(),
            handoff_id: None,
            watches_gate: false,
            opened: Instant::now(),
        };
        session.send(hello)?;
        Ok(session)
    }

    /// The events to poll for. Bytes that the loop may not act on yet stay in the kernel.
    pub(super) fn interest(&self, is_read: bool) -> PollFlags {
        let mut flags = PollFlags::RDHUP;
        let is_awaited = is_read || !self.is_greeted();
        flags.set(PollFlags::IN, is_awaited && !self.connection.is_over());
        flags.set(PollFlags::OUT, !self.out.is_empty());
        flags
    }

    /// When the loop drops this session, if the peer has not greeted by then.
    pub(super) fn greeting_deadline(&self) -> Option<Instant> {
        (!self.is_greeted()).then_some(self.opened + LIVENESS_TIMEOUT)
    }

    pub(super) const fn is_greeted(&self) -> bool {
        self.connection.version().is_some()
    }

    pub(super) const fn handoff_id(&self) -> Option<HandoffId> {
        self.handoff_id
    }

    /// The peer's pid and uid, as the kernel reports them.
    pub(super) const fn peer(&self) -> Peer {
        self.peer
    }

    /// When the peer last said anything.
    pub(super) const fn heard(&self) -> Instant {
        self.connection.heard()
    }

    /// Whether the peer has closed its side, or is gone. Its last messages may be unread.
    pub(super) fn is_hung_up(&self) -> bool {
        self.connection.is_hung_up()
    }

    /// Reads the supervisor's answer to the hello; `false` where it has not come yet.
    ///
    /// # Errors
    ///
    /// The session is over: end of file, bytes that are no frame, or a bad answer.
    pub(super) fn greet(&mut self) -> Result<bool> {
        let Some(message) = self.read()? else { return Ok(false) };
        let (version, handoff_id) = judge_hello_ack(&message)?;
        self.connection.agree_on(version);
        self.handoff_id = Some(handoff_id);
        Ok(true)
    }

    /// The next message after the greeting; `None` when there is none for now.
    ///
    /// # Errors
    ///
    /// The session is over: end of file, or bytes that are no frame.
    pub(super) fn next(&mut self) -> Result<Option<Message>> {
        match self.put_back.take() {
            Some(message) => Ok(Some(message)),
            None => self.read(),
        }
    }

    fn read(&mut self) -> Result<Option<Message>> {
        match self.connection.next()? {
            Heard::Frame(message) => Ok(Some(message)),
            Heard::Nothing => Ok(None),
            Heard::End => Err(Error::PeerLost { peer: "supervisor", during: "in a session" }),
        }
    }

    /// The connection, for another use, once this process has read and sent everything on it.
    pub(super) fn into_stream(self) -> Result<UnixStream> {
        if self.connection.is_inside_a_frame() || self.put_back.is_some() || !self.out.is_empty() {
            return Err(PeerMisbehaved::Unexpected { message: "a frame", state: "fetching" }.into());
        }
        Ok(self.connection.into_stream())
    }

    /// Makes `message` the next one again.
    pub(super) fn put_back(&mut self, message: Message) {
        self.put_back = Some(message);
    }

    /// Queues a message, and sends as much as the socket takes now.
    ///
    /// # Errors
    ///
    /// The session is over: the peer is gone, or has not read for too long.
    pub(super) fn send(&mut self, message: &Message) -> Result<()> {
        self.send_all(std::slice::from_ref(message))
    }

    /// [`send`](Self::send), of several messages: they wake the supervisor once.
    pub(super) fn send_all(&mut self, messages: &[Message]) -> Result<()> {
        self.send_bytes(encode_all(self.connection.version(), messages)?, None)
    }

    /// [`send`](Self::send), with descriptors.
    pub(super) fn send_with(&mut self, message: &Message, listeners: Option<Passed>) -> Result<()> {
        let messages = std::slice::from_ref(message);
        self.send_bytes(encode_all(self.connection.version(), messages)?, listeners)
    }

    fn send_bytes(&mut self, bytes: Vec<u8>, listeners: Option<Passed>) -> Result<()> {
        let kept = |out: &Outgoing| out.bytes.len() - out.sent + OUT_OVERHEAD;
        if self.out.iter().map(kept).sum::<usize>() > MAX_OUT {
            return Err(PeerMisbehaved::DoesNotRead.into());
        }
        self.out.push_back(Outgoing { bytes, sent: 0, listeners });
        self.flush()
    }

    /// Whether messages are unsent, since the peer reads late.
    pub(super) fn has_unsent(&self) -> bool {
        !self.out.is_empty()
    }

    /// Sends as much as the socket takes now.
    pub(super) fn flush(&mut self) -> Result<()> {
        while let Some(out) = self.out.front_mut() {
            let descriptors: Vec<_> = match &out.listeners {
                Some(listeners) if out.sent == 0 => listeners.descriptors().collect(),
                _ => Vec::new(),
            };
            let left = &out.bytes[out.sent..];
            out.sent += send_some(self.connection.stream(), left, &descriptors)?;
            if out.sent < out.bytes.len() {
                return Ok(());
            }
            self.out.pop_front();
        }
        Ok(())
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// The unsent bytes beyond which the next message ends the session (invariant 6).
const MAX_OUT: usize = 64 << 10;
/// The memory of an unsent message besides its bytes, generously: most are a few bytes long.
const OUT_OVERHEAD: usize = 128;
/// More than the longest message that a supervisor has to say.
const MAX_IN: u32 = 64 << 10;
