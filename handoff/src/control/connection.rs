//! One end of a Unix stream that carries frames, and descriptors beside them: the one loop that
//! reads and the one that writes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::net::RecvFlags;
use serde::de::DeserializeOwned;

use crate::error::{Error, FrameError, PeerMisbehaved, Result};
use crate::frame::{FrameReader, MAX_FRAME_LEN, encode};
use crate::log;
use crate::protocol::{Message, PROTO_MIN, ProtoVersion};
use crate::sys::poll::{self, Waker};
use crate::sys::rights;

/// The result of one look at a connection.
#[derive(Debug)]
pub(crate) enum Heard<T> {
    Frame(T),
    /// Nothing for now.
    Nothing,
    /// The peer closed or died between two frames, or it reset the connection.
    End,
}

/// The receiving half of a stream: whole frames, and the descriptors that came with them.
#[derive(Debug)]
pub(crate) struct Incoming {
    reader: FrameReader,
    chunk: Vec<u8>,
    /// In the order in which they came, which is that of the frames that count them.
    descriptors: VecDeque<OwnedFd>,
    max_descriptors: usize,
    max_frame: u32,
    heard: Instant,
    is_over: bool,
}

impl Incoming {
    fn new() -> Self {
        Self {
            reader: FrameReader::new(),
            chunk: vec![0; CHUNK],
            descriptors: VecDeque::new(),
            max_descriptors: 0,
            max_frame: MAX_FRAME_LEN,
            heard: Instant::now(),
            is_over: false,
        }
    }

    /// The next frame, if all of it has arrived. Never waits.
    pub(crate) fn next<T: DeserializeOwned>(
        &mut self,
        stream: &UnixStream,
    ) -> Result<Heard<(ProtoVersion, T)>> {
        loop {
            if let Some(frame) = self.reader.next_of()? {
                return Ok(Heard::Frame(frame));
            }
            let (length, limit) = (self.reader.announced(), self.max_frame);
            if length > limit && length <= MAX_FRAME_LEN {
                return Err(FrameError::TooLongForPeer { length, limit }.into());
            }
            match self.receive(stream) {
                Ok(0) => {
                    self.is_over = true;
                    return match self.reader.is_inside_a_frame() {
                        true => Err(FrameError::Truncated.into()),
                        false => Ok(Heard::End),
                    };
                }
                Ok(length) => {
                    self.heard = Instant::now();
                    self.reader.push(&self.chunk[..length]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Heard::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    self.is_over = true;
                    return Ok(Heard::End);
                }
                Err(error) => return Err(error.into()),
            }
            if self.descriptors.len() > self.max_descriptors {
                return Err(PeerMisbehaved::TooManyListeners(self.descriptors.len()).into());
            }
        }
    }

    /// The descriptors of a peer that may send none stay in the kernel, which closes them.
    fn receive(&mut self, stream: &UnixStream) -> io::Result<usize> {
        if self.max_descriptors == 0 {
            let (_, length) = rustix::net::recv(stream, &mut self.chunk[..], RecvFlags::DONTWAIT)?;
            return Ok(length);
        }
        let mut received = Vec::new();
        let length = rights::receive_with(stream, &mut self.chunk, &mut received)?;
        self.descriptors.extend(received);
        Ok(length)
    }
}

/// A connection with one owner, which reads and writes it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    incoming: Incoming,
    /// None until both processes agreed on one.
    version: Option<ProtoVersion>,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, incoming: Incoming::new(), version: None }
    }

    /// Lets the peer send descriptors: `max` at most that this process has not taken yet. Reads in
    /// larger chunks.
    pub(crate) fn with_descriptors(mut self, max: usize) -> Self {
        self.incoming.max_descriptors = max;
        self.incoming.chunk.resize(LARGE_CHUNK, 0);
        self
    }

    /// Refuses a longer frame of this peer before it reads it.
    pub(crate) const fn with_max_frame(mut self, length: u32) -> Self {
        self.incoming.max_frame = length;
        self
    }

    /// From here on frames carry `version`, and this process refuses a frame of another one.
    pub(crate) const fn agree_on(&mut self, version: ProtoVersion) {
        self.version = Some(version);
    }

    pub(crate) const fn version(&self) -> Option<ProtoVersion> {
        self.version
    }

    /// When bytes of the peer last arrived.
    pub(crate) const fn heard(&self) -> Instant {
        self.incoming.heard
    }

    /// Whether the stream is over, or the peer has hung up. Bytes that the peer sent before may be
    /// unread.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.is_over() || poll::is_ready(self.as_fd(), PollFlags::RDHUP).unwrap_or(true)
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.incoming.is_over
    }

    /// Whether a part of a frame has been read.
    pub(crate) const fn is_inside_a_frame(&self) -> bool {
        self.incoming.reader.is_inside_a_frame()
    }

    /// The next message, if it has arrived.
    pub(crate) fn next(&mut self) -> Result<Heard<Message>> {
        Ok(match self.incoming.next(&self.stream)? {
            Heard::Frame((version, message)) => {
                if !admits(self.version, version) {
                    return Err(FrameError::Version(version).into());
                }
                Heard::Frame(message)
            }
            Heard::Nothing => Heard::Nothing,
            Heard::End => Heard::End,
        })
    }

    /// The next frame of any vocabulary and version, if it has arrived.
    pub(crate) fn next_of<T: DeserializeOwned>(&mut self) -> Result<Heard<(ProtoVersion, T)>> {
        self.incoming.next(&self.stream)
    }

    /// The next message; nothing if it does not come before the deadline, or `waker` is woken.
    pub(crate) fn next_before(
        &mut self,
        deadline: Instant,
        waker: Option<&Waker>,
    ) -> Result<Heard<Message>> {
        loop {
            match self.next()? {
                Heard::Nothing if Instant::now() < deadline => {}
                heard => return Ok(heard),
            }
            let mut fds = vec![PollFd::new(&self.stream, PollFlags::IN)];
            fds.extend(waker.map(|waker| PollFd::new(waker, PollFlags::IN)));
            poll::poll(&mut fds, Some(deadline))?;
            if fds.get(1).is_some_and(|waker| !waker.revents().is_empty()) {
                return Ok(Heard::Nothing);
            }
        }
    }

    /// The answer of a process that owes one.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] when it does not come before the deadline; [`Error::PeerLost`].
    pub(crate) fn answer_before(&mut self, deadline: Instant) -> Result<Message> {
        match self.next_before(deadline, None)? {
            Heard::Frame(message) => Ok(message),
            Heard::Nothing => Err(Error::TimedOut("waiting for the daemon's answer")),
            Heard::End => {
                Err(Error::PeerLost { peer: "incumbent", during: "waiting for its answer" })
            }
        }
    }

    /// Sends messages in one go.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] when the peer has not read enough before the deadline.
    pub(crate) fn send_before(&self, messages: &[Message], deadline: Instant) -> Result<()> {
        let frames = encode_all(self.version, messages)?;
        if send_before(&self.stream, &frames, deadline)? {
            return Ok(());
        }
        Err(Error::TimedOut("sending to the daemon"))
    }

    /// How many descriptors have arrived that this process has not taken yet.
    pub(crate) fn descriptors(&self) -> usize {
        self.incoming.descriptors.len()
    }

    pub(crate) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.incoming.descriptors.pop_front()
    }

    /// The next `count` descriptors, if as many have come.
    pub(crate) fn take_descriptors(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        let descriptors = &mut self.incoming.descriptors;
        (count <= descriptors.len()).then(|| descriptors.drain(..count).collect())
    }

    pub(crate) const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) fn into_parts(self) -> (UnixStream, Incoming, Option<ProtoVersion>) {
        (self.stream, self.incoming, self.version)
    }

    /// The stream, for another use, once everything on it was read.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Whether a frame of that version may come. Before the agreement each may: a hello and its answer are
/// the same bytes in all versions, and say which of them the peer speaks.
pub(super) fn admits(agreed: Option<ProtoVersion>, version: ProtoVersion) -> bool {
    agreed.is_none_or(|agreed| agreed == version)
}

/// Several frames, one after the other.
pub(crate) fn encode_all(
    version: Option<ProtoVersion>,
    messages: &[Message],
) -> Result<Vec<u8>, FrameError> {
    let mut frames = Vec::new();
    for message in messages {
        log::trace!(message_name = message.name(), "sending");
        frames.extend(encode(version.unwrap_or(PROTO_MIN), message)?);
    }
    Ok(frames)
}

/// Sends as many bytes as the kernel takes without waiting, and returns their number. The
/// descriptors go with the first byte.
pub(crate) fn send_some(
    stream: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        let descriptors = if sent == 0 { descriptors } else { &[] };
        match rights::send_with(stream, &bytes[sent..], descriptors) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Sends all of it; `false` if the peer has not read enough before the deadline.
pub(super) fn send_before(
    stream: &UnixStream,
    mut bytes: &[u8],
    deadline: Instant,
) -> io::Result<bool> {
    loop {
        bytes = &bytes[send_some(stream, bytes, &[])?..];
        if bytes.is_empty() {
            return Ok(true);
        }
        if !poll::wait_for(stream.as_fd(), PollFlags::OUT, Some(deadline))? {
            return Ok(false);
        }
    }
}

const CHUNK: usize = 4 << 10;
const LARGE_CHUNK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::frame::write_message;
    use crate::protocol::HandoffId;

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (Connection::new(ours), theirs)
    }

    fn commit() -> Message {
        Message::Commit { handoff_id: HandoffId::from_bytes([7; 16]) }
    }

    #[test]
    fn a_frame_that_comes_byte_by_byte_is_whole_at_its_last() {
        let (mut connection, theirs) = pair();
        let frame = encode(PROTO_MIN, &commit()).expect("it is short");
        for byte in &frame {
            assert!(matches!(connection.next(), Ok(Heard::Nothing)));
            assert_eq!(send_some(&theirs, &[*byte], &[]).expect("it is sent"), 1);
        }
        assert!(matches!(connection.next(), Ok(Heard::Frame(message)) if message == commit()));
        assert!(!connection.is_inside_a_frame());
    }

    #[test]
    fn an_end_inside_a_frame_is_told_from_one_between() {
        let (mut connection, theirs) = pair();
        write_message(&mut &theirs, PROTO_MIN, &commit()).expect("it is read");
        drop(theirs);
        assert!(matches!(connection.next(), Ok(Heard::Frame(_))));
        assert!(matches!(connection.next(), Ok(Heard::End)));
        assert!(connection.is_over());

        let (mut connection, theirs) = pair();
        send_some(&theirs, &[9, 0], &[]).expect("it is sent");
        drop(theirs);
        assert!(matches!(connection.next(), Err(Error::Frame(FrameError::Truncated))));
    }

    #[test]
    fn what_was_not_agreed_upon_or_is_too_long_is_refused() {
        let (connection, theirs) = pair();
        let mut connection = connection.with_max_frame(64);
        connection.agree_on(PROTO_MIN);
        write_message(&mut &theirs, PROTO_MIN + 1, &commit()).expect("it is read");
        assert!(matches!(connection.next(), Err(Error::Frame(FrameError::Version(2)))));
        send_some(&theirs, &65_u32.to_le_bytes(), &[]).expect("it is sent");
        assert!(matches!(
            connection.next(),
            Err(Error::Frame(FrameError::TooLongForPeer { length: 65, limit: 64 }))
        ));
    }

    #[test]
    fn descriptors_are_taken_in_their_order_and_only_where_they_may_come() {
        let file = File::open("/dev/null").expect("it is there");
        let frame = encode(PROTO_MIN, &commit()).expect("it is short");

        let (connection, theirs) = pair();
        let mut connection = connection.with_descriptors(2);
        send_some(&theirs, &frame, &[file.as_fd(); 2]).expect("it is sent");
        assert!(matches!(connection.next(), Ok(Heard::Frame(_))));
        assert_eq!((connection.take_descriptors(3).is_none(), connection.descriptors()), (true, 2));
        assert!(connection.take_descriptor().is_some());
        assert_eq!(connection.take_descriptors(1).map(|taken| taken.len()), Some(1));
        send_some(&theirs, &frame, &[file.as_fd(); 3]).expect("it is sent");
        let error = connection.next().expect_err("one too many");
        let too_many = PeerMisbehaved::TooManyListeners(3);
        assert!(matches!(error, Error::PeerMisbehaved(fault) if fault == too_many));

        let (mut connection, theirs) = pair();
        send_some(&theirs, &frame, &[file.as_fd()]).expect("it is sent");
        assert!(matches!(connection.next(), Ok(Heard::Frame(_))));
        assert_eq!(connection.descriptors(), 0);
    }

    #[test]
    fn a_wait_ends_with_a_message_a_wake_up_or_its_deadline() {
        let far = Instant::now() + Duration::from_secs(60);
        let waker = Waker::new().expect("a descriptor is left");
        let (mut connection, theirs) = pair();
        let heard = connection.next_before(Instant::now(), Some(&waker));
        assert!(matches!(heard, Ok(Heard::Nothing)));
        waker.wake();
        assert!(matches!(connection.next_before(far, Some(&waker)), Ok(Heard::Nothing)));
        waker.reset();
        write_message(&mut &theirs, PROTO_MIN, &commit()).expect("it is read");
        assert!(matches!(connection.next_before(far, Some(&waker)), Ok(Heard::Frame(_))));
        let late = connection.answer_before(Instant::now());
        assert!(matches!(late, Err(Error::TimedOut(_))), "{late:?}");
    }

    #[test]
    fn a_peer_that_does_not_read_is_waited_for_until_the_deadline() {
        let (connection, theirs) = pair();
        let messages = vec![commit(); 1 << 14];
        let sent = connection.send_before(&messages, Instant::now());
        assert!(matches!(sent, Err(Error::TimedOut(_))), "{sent:?}");
        drop(theirs);
        let sent = connection.send_before(&messages, Instant::now());
        assert!(matches!(sent, Err(Error::Io(error)) if error.kind() == ErrorKind::BrokenPipe));
    }
}
