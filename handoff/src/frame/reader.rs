//! A reader that keeps the bytes of a frame until the frame is whole.

use serde::de::DeserializeOwned;

use super::codec::{PREFIX, checked_length, decode};
use crate::error::FrameError;
use crate::protocol::{Message, ProtoVersion};

/// Takes frames out of bytes that come in pieces of any size.
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

    /// The length field of the frame that is held in part; 0 before the field is whole.
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

    /// [`next_frame`](Self::next_frame), for a stream of another vocabulary.
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
}
