//! The schema of a writer.

use super::Input;
use super::manifest::declared;
use crate::datadir::schema::Left;

/// A schema is read back as it was written, and any changed byte is damage (invariant 12).
///
/// An input is a mode, a place and a change to a byte there, and a text.
pub fn schema(input: &[u8]) {
    let mut input = Input(input);
    let (mode, at, by) = (input.byte() % 2, u16::from_le_bytes(input.array()), input.byte());
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    let mut text = text.to_owned();
    if mode == 1 {
        let checksum = blake3::hash(text.as_bytes());
        text.push_str(&format!("checksum {checksum}\n"));
    }
    let Ok((writer, left)) = Left::parse(&text) else { return };
    let text = left.text(writer);
    assert_eq!(Left::parse(&text), Ok((writer, left.clone())), "{text}");
    let Left { schema, highest } = left;
    let lines = 3 + schema.fields.len() + highest.len() + declared(&schema);
    assert_eq!(text.lines().count(), lines, "{text}");

    let mut bytes = text.into_bytes();
    let at = usize::from(at) % bytes.len();
    bytes[at] ^= by;
    let read = std::str::from_utf8(&bytes).ok().map(Left::parse);
    assert_eq!(matches!(read, Some(Ok(_))), by == 0, "{by:#x} at {at}");
}
