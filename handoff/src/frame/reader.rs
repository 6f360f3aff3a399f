//! A reader that keeps what it has of a frame.

use std::io::{ErrorKind, Read};

use serde::de::DeserializeOwned;

use super::codec::{PREFIX, checked_length, decode};
use crate::error::{FrameError, Result};
use crate::protocol::{Message, ProtoVersion};

/// Takes frames out of a stream that may stop anywhere: at a time-out, or because it does
/// not block. No byte is lost, and the next call goes on where the last one stopped.
///
/// ```
/// use handoff::frame::{FrameReader, write_message};
/// use handoff::protocol::Message;
///
/// let mut bytes = Vec::new();
/// write_message(&mut bytes, 1, &Message::Heartbeat { ts_ms: 7 })?;
/// let (first, second) = bytes.split_at(3);
///
/// let mut reader = FrameReader::new();
/// reader.push(first);
/// assert_eq!(reader.next_frame()?, None);
/// reader.push(second);
/// assert_eq!(reader.next_frame()?, Some((1, Message::Heartbeat { ts_ms: 7 })));
/// # Ok::<(), handoff::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
}

impl FrameReader {
    /// An empty reader.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Appends bytes that were read elsewhere.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether part of a frame is held.
    #[must_use]
    pub const fn is_inside_a_frame(&self) -> bool {
        !self.bytes.is_empty()
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What the length field of the frame that is held in part says; 0 before it is whole.
    pub(crate) fn announced(&self) -> u32 {
        self.bytes.first_chunk::<PREFIX>().map_or(0, |prefix| u32::from_le_bytes(*prefix))
    }

    /// The next whole frame among the bytes held, if there is one.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; the stream cannot be read any further after it.
    pub fn next_frame(&mut self) -> Result<Option<(ProtoVersion, Message)>, FrameError> {
        self.next_of()
    }

    /// [`next_frame`](Self::next_frame), of a stream on which something else is said.
    pub(crate) fn next_of<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(ProtoVersion, T)>, FrameError> {
        let Some((&prefix, _)) = self.bytes.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let end = PREFIX + checked_length(prefix)?;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let frame = decode(&self.bytes[PREFIX..end]);
        self.bytes.drain(..end);
        frame.map(Some)
    }

    /// Reads until a frame is whole.
    ///
    /// Returns `Ok(None)` when the stream has nothing more for now (`WouldBlock`, `TimedOut`).
    ///
    /// # Errors
    ///
    /// As [`read_message`](super::read_message).
    pub fn read_from(&mut self, stream: &mut impl Read) -> Result<Option<(ProtoVersion, Message)>> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(frame) = self.next_frame()? {
                return Ok(Some(frame));
            }
            match stream.read(&mut chunk) {
                Ok(0) if self.is_inside_a_frame() => return Err(FrameError::Truncated.into()),
                Ok(0) => return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into()),
                Ok(length) => self.push(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::frame::write_message;

    /// Gives one byte a call, and a time-out between any two.
    struct Dripping<'a> {
        bytes: &'a [u8],
        due: bool,
    }

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.due = !self.due;
            match self.bytes {
                _ if self.due => Err(ErrorKind::WouldBlock.into()),
                [] => Ok(0),
                [first, rest @ ..] => {
                    buffer[0] = *first;
                    self.bytes = rest;
                    Ok(1)
                }
            }
        }
    }

    #[test]
    fn frames_survive_a_time_out_at_every_byte() {
        let messages = [
            Message::Heartbeat { ts_ms: u64::MAX },
            Message::Drained { open_conns_remaining: 3, accept_closed: true },
        ];
        let mut bytes = Vec::new();
        for message in &messages {
            write_message(&mut bytes, 1, message).expect("a vector takes it");
        }
        let total = bytes.len();
        let mut stream = Dripping { bytes: &bytes, due: false };
        let mut reader = FrameReader::new();
        let mut read = Vec::new();
        let mut time_outs = 0;
        while read.len() < messages.len() {
            match reader.read_from(&mut stream).expect("every frame is good") {
                Some((1, message)) => read.push(message),
                Some((version, _)) => panic!("version {version}"),
                None => time_outs += 1,
            }
        }
        assert_eq!(read, messages);
        assert_eq!(time_outs, total);
        assert!(matches!(
            reader.read_from(&mut Dripping { bytes: &[], due: true }),
            Err(crate::Error::Io(error)) if error.kind() == ErrorKind::UnexpectedEof
        ));
    }

    #[test]
    fn an_end_inside_a_frame_is_told_from_one_between() {
        let mut reader = FrameReader::new();
        reader.push(&[9, 0]);
        assert!(matches!(
            reader.read_from(&mut io::empty()),
            Err(crate::Error::Frame(FrameError::Truncated))
        ));
    }
}
