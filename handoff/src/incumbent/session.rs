//! One connection to the control socket, never waited for.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::net::RecvFlags;

use crate::error::{Error, FrameError, PeerMisbehaved, Result};
use crate::frame::{FrameReader, LIVENESS_LIMIT, encode};
use crate::machine::judge_hello_ack;
use crate::protocol::{HandoffId, Message, PROTO_MIN, ProtoVersion};
use crate::successor::Passed;
use crate::sys::socket::Peer;
use crate::sys::{poll, rights};

/// A connection, from its hello on.
#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    peer: Peer,
    reader: FrameReader,
    /// A message that was read and could not be acted upon yet.
    put_back: Option<Message>,
    out: VecDeque<Outgoing>,
    /// Agreed upon in the greeting.
    version: Option<ProtoVersion>,
    /// As the supervisor calls the swap for which it came.
    handoff_id: Option<HandoffId>,
    opened: Instant,
    heard: Instant,
    /// Nothing more will arrive.
    ended: bool,
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
            stream,
            peer,
            reader: FrameReader::new(),
            put_back: None,
            out: VecDeque::new(),
            version: None,
            handoff_id: None,
            opened: Instant::now(),
            heard: Instant::now(),
            ended: false,
        };
        session.send(hello)?;
        Ok(session)
    }

    /// What to poll for. Bytes that nobody may act on yet stay in the kernel.
    pub(super) fn interest(&self, is_read: bool) -> PollFlags {
        let mut flags = PollFlags::RDHUP;
        flags.set(PollFlags::IN, (is_read || self.version.is_none()) && !self.ended);
        flags.set(PollFlags::OUT, !self.out.is_empty());
        flags
    }

    /// When it is to be dropped if it says nothing until then.
    pub(super) fn greeting_deadline(&self) -> Option<Instant> {
        self.version.is_none().then_some(self.opened + LIVENESS_LIMIT)
    }

    pub(super) const fn is_greeted(&self) -> bool {
        self.version.is_some()
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
        self.heard
    }

    /// Whether the peer has closed its side, or is gone. What it sent before may be unread.
    pub(super) fn is_hung_up(&self) -> bool {
        self.ended || poll::is_ready(self.stream.as_fd(), PollFlags::RDHUP).unwrap_or(true)
    }

    /// Reads the supervisor's answer to the hello; whether it was there.
    ///
    /// # Errors
    ///
    /// The session is over: end of file, bytes that are no frame, or a bad answer.
    pub(super) fn greet(&mut self) -> Result<bool> {
        let Some((_, message)) = self.next_frame()? else { return Ok(false) };
        let (version, handoff_id) = judge_hello_ack(&message)?;
        (self.version, self.handoff_id) = (Some(version), Some(handoff_id));
        Ok(true)
    }

    /// The next message after the greeting; `None` when there is none for now.
    ///
    /// # Errors
    ///
    /// The session is over: end of file, or bytes that are no frame.
    pub(super) fn next(&mut self) -> Result<Option<Message>> {
        if let Some(message) = self.put_back.take() {
            return Ok(Some(message));
        }
        match self.next_frame()? {
            Some((version, _)) if self.version != Some(version) => {
                Err(FrameError::Version(version).into())
            }
            frame => Ok(frame.map(|(_, message)| message)),
        }
    }

    fn next_frame(&mut self) -> Result<Option<(ProtoVersion, Message)>> {
        loop {
            if let Some(frame) = self.reader.next_frame()? {
                return Ok(Some(frame));
            }
            let length = self.reader.announced();
            if length > IN_LIMIT {
                return Err(FrameError::TooLongForPeer { length, limit: IN_LIMIT }.into());
            }
            let mut chunk = [0; 4096];
            match rustix::net::recv(&self.stream, &mut chunk, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    self.ended = true;
                    if self.reader.is_inside_a_frame() {
                        return Err(FrameError::Truncated.into());
                    }
                    return Err(Error::PeerLost { peer: "supervisor", during: "in a session" });
                }
                Ok((_, length)) => {
                    self.heard = Instant::now();
                    self.reader.push(&chunk[..length]);
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(std::io::Error::from(errno).into()),
            }
        }
    }

    /// The connection, for another use, once everything on it was read and sent.
    pub(super) fn into_stream(self) -> Result<UnixStream> {
        if self.reader.is_inside_a_frame() || self.put_back.is_some() || !self.out.is_empty() {
            return Err(PeerMisbehaved::Unexpected { message: "a frame", state: "fetching" }.into());
        }
        Ok(self.stream)
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
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend(encode(self.version.unwrap_or(PROTO_MIN), message)?);
        }
        self.send_bytes(bytes, None)
    }

    /// [`send`](Self::send), with descriptors.
    pub(super) fn send_with(&mut self, message: &Message, listeners: Option<Passed>) -> Result<()> {
        self.send_bytes(encode(self.version.unwrap_or(PROTO_MIN), message)?, listeners)
    }

    fn send_bytes(&mut self, bytes: Vec<u8>, listeners: Option<Passed>) -> Result<()> {
        let kept = |out: &Outgoing| out.bytes.len() - out.sent + OUT_OVERHEAD;
        if self.out.iter().map(kept).sum::<usize>() > OUT_LIMIT {
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
            match rights::send_with(&self.stream, &out.bytes[out.sent..], &descriptors) {
                Ok(sent) => out.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            if out.sent == out.bytes.len() {
                self.out.pop_front();
            }
        }
        Ok(())
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What a peer may leave unread before the next message.
const OUT_LIMIT: usize = 64 << 10;
/// What a message that waits takes besides its bytes, generously: most are a few bytes long.
const OUT_OVERHEAD: usize = 128;
/// More than the longest message that a supervisor has to say.
const IN_LIMIT: u32 = 64 << 10;
