//! Messages, and the other values that go over a wire, to bytes and back. The only file that
//! names the codec.

use std::io::{ErrorKind, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{FrameError, Result};
use crate::protocol::Message;
use crate::terms::{MAX_FRAME_LEN, ProtoVersion};

/// The length field.
pub(super) const PREFIX: usize = 4;
/// The version field.
pub(super) const VERSION: usize = 2;

/// The limit counts a string twice: when its length is read, and when its bytes are.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<{ 2 * MAX_FRAME_LEN as usize }>,
> = bincode::config::standard().with_limit();

/// Reads one frame.
///
/// The version is the one that the frame says. The caller compares it with the version that both
/// processes agreed on.
///
/// # Errors
///
/// [`FrameError`] for bytes that are no frame, and [`Error::Io`](crate::Error::Io) with
/// `UnexpectedEof` where the stream ends before a frame begins. A read that times out inside
/// a frame loses the frame: use a [`FrameReader`](super::FrameReader) on such streams.
pub fn read_message(reader: &mut impl Read) -> Result<(ProtoVersion, Message)> {
    let mut prefix = [0; PREFIX];
    reader.read_exact(&mut prefix[..1])?;
    reader.read_exact(&mut prefix[1..]).map_err(inside_a_frame)?;
    let length = checked_length(prefix)?;
    let mut body = Vec::with_capacity(length.min(4096));
    reader.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(FrameError::Truncated.into());
    }
    Ok(decode(&body)?)
}

/// Writes one frame, in one call of `write_all`, and flushes.
///
/// # Errors
///
/// [`FrameError::TooLong`] for a message above the limit, before anything is written;
/// otherwise the error of the stream.
pub fn write_message(
    writer: &mut impl Write,
    version: ProtoVersion,
    message: &Message,
) -> Result<()> {
    writer.write_all(&encode(version, message)?)?;
    writer.flush()?;
    Ok(())
}

/// The frame of a message of any vocabulary, prefix included.
pub(crate) fn encode(
    version: ProtoVersion,
    message: &impl Serialize,
) -> Result<Vec<u8>, FrameError> {
    let mut frame = Vec::with_capacity(64);
    frame.extend_from_slice(&[0; PREFIX]);
    frame.extend_from_slice(&version.to_le_bytes());
    bincode::serde::encode_into_std_write(message, &mut frame, CONFIG)
        .map_err(|error| FrameError::Payload(error.to_string()))?;
    let length = u32::try_from(frame.len() - PREFIX).unwrap_or(u32::MAX);
    if length > MAX_FRAME_LEN {
        return Err(FrameError::TooLong(length));
    }
    frame[..PREFIX].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// The length that a prefix says, if a frame may have it.
pub(super) fn checked_length(prefix: [u8; PREFIX]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(prefix);
    match length {
        0..2 => Err(FrameError::TooShort(length)),
        2..=MAX_FRAME_LEN => Ok(length as usize),
        _ => Err(FrameError::TooLong(length)),
    }
}

/// The message of a frame without its prefix.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<(ProtoVersion, T), FrameError> {
    let (version, payload) = body.split_at_checked(VERSION).ok_or(FrameError::Truncated)?;
    let version = ProtoVersion::from_le_bytes([version[0], version[1]]);
    let (message, read) = bincode::serde::decode_from_slice(payload, CONFIG)
        .map_err(|error| FrameError::Payload(error.to_string()))?;
    match payload.len() - read {
        0 => Ok((version, message)),
        left => Err(FrameError::TrailingBytes(left)),
    }
}

/// Writes a value of any length, as it would be in a frame.
pub(crate) fn write_value(value: &impl Serialize, writer: &mut impl Write) -> Result<(), String> {
    bincode::serde::encode_into_std_write(value, writer, bincode::config::standard())
        .map(drop)
        .map_err(|error| error.to_string())
}

/// The value that all of these bytes hold.
///
/// The codec believes a length in them only up to a limit, and the limit grows with their number:
/// damaged bytes do not make this process ask for more memory than it can have.
pub(crate) fn read_value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    const fn limited<const LIMIT: usize>() -> bincode::config::Configuration<
        bincode::config::LittleEndian,
        bincode::config::Varint,
        bincode::config::Limit<LIMIT>,
    > {
        bincode::config::standard().with_limit()
    }
    // As above, a string counts twice; and an integer of one byte as much as its type takes.
    let read = match bytes.len() {
        0..0x1000 => bincode::serde::decode_from_slice(bytes, limited::<0x2_0000>()),
        0x1000..0x2_0000 => bincode::serde::decode_from_slice(bytes, limited::<0x40_0000>()),
        0x2_0000..0x40_0000 => bincode::serde::decode_from_slice(bytes, limited::<0x800_0000>()),
        0x40_0000..0x800_0000 => {
            bincode::serde::decode_from_slice(bytes, limited::<0x1_0000_0000>())
        }
        0x800_0000..0x1_0000_0000 => {
            bincode::serde::decode_from_slice(bytes, limited::<0x20_0000_0000>())
        }
        _ => bincode::serde::decode_from_slice(bytes, bincode::config::standard()),
    };
    let (value, read) = read.map_err(|error| error.to_string())?;
    match bytes.len() - read {
        0 => Ok(value),
        left => Err(format!("{left} bytes are left over")),
    }
}

fn inside_a_frame(error: std::io::Error) -> crate::Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => FrameError::Truncated.into(),
        _ => error.into(),
    }
}
