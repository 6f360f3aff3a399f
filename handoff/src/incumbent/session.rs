//! One connection to the control socket, never waited for.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::PollFlags;

use crate::control::{
    Connection, Heard, LIVENESS_LIMIT, Passed, encode_all, judge_hello_ack, send_some,
};
use crate::error::{Error, PeerMisbehaved, Result};
use crate::protocol::{HandoffId, Message};
use crate::sys::socket::Peer;

/// A connection, from its hello on.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    peer: Peer,
    /// A message that was read and could not be acted upon yet.
    put_back: Option<Message>,
    out: VecDeque<Outgoing>,
    /// As the supervisor calls the swap for which it came.
    handoff_id: Option<HandoffId>,
    opened: Instant,
}

/// What is still to be sent.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Go with the first byte.
    listeners: Option<Passed>,
}

impl Session {
    /// Says hello.
    pub(super) fn open(stream: UnixStream, peer: Peer, hello: &Message) -> Result<Self> {
        let mut session = Self {
            connection: Connection::new(stream).with_max_frame(MAX_IN),
            peer,
            put_back: None,
            out: VecDeque::new(),
            handoff_id: None,
            opened: Instant::now(),
        };
        session.send(hello)?;
        Ok(session)
    }

    /// What to poll for. Bytes that nobody may act on yet stay in the kernel.
    pub(super) fn interest(&self, is_read: bool) -> PollFlags {
        let mut flags = PollFlags::RDHUP;
        let is_awaited = is_read || !self.is_greeted();
        flags.set(PollFlags::IN, is_awaited && !self.connection.is_over());
        flags.set(PollFlags::OUT, !self.out.is_empty());
        flags
    }

    /// When it is to be dropped if it says nothing until then.
    pub(super) fn greeting_deadline(&self) -> Option<Instant> {
        (!self.is_greeted()).then_some(self.opened + LIVENESS_LIMIT)
    }

    pub(super) const fn is_greeted(&self) -> bool {
        self.connection.version().is_some()
    }

    pub(super) const fn handoff_id(&self) -> Option<HandoffId> {
        self.handoff_id
    }

    /// Who connected, by the kernel's word.
    pub(super) const fn peer(&self) -> Peer {
        self.peer
    }

    /// When it last said anything.
    pub(super) const fn heard(&self) -> Instant {
        self.connection.heard()
    }

    /// Whether the peer has closed its side, or is gone. What it sent before may be unread.
    pub(super) fn is_hung_up(&self) -> bool {
        self.connection.is_hung_up()
    }

    /// Reads the supervisor's answer to the hello; whether it was there.
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

    /// The connection, for another use, once everything on it was read and sent.
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

    /// Queues a message and sends what can be sent now.
    ///
    /// # Errors
    ///
    /// The session is over: the peer is gone, or has not read for too long.
    pub(super) fn send(&mut self, message: &Message) -> Result<()> {
        self.send_all(std::slice::from_ref(message))
    }

    /// [`send`](Self::send), of several: the supervisor is woken once.
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

    /// Whether the peer has not read all that was said.
    pub(super) fn has_unsent(&self) -> bool {
        !self.out.is_empty()
    }

    /// Sends what can be sent now.
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

/// What a peer may leave unread before the next message.
const MAX_OUT: usize = 64 << 10;
/// What a message that waits takes besides its bytes, generously: most are a few bytes long.
const OUT_OVERHEAD: usize = 128;
/// More than the longest message that a supervisor has to say.
const MAX_IN: u32 = 64 << 10;
