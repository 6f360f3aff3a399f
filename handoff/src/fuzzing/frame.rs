//! Reads frames from a stream that is cut at any byte.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;

use super::Input;
use crate::control::{self, Connection, send_some};
use crate::error::{Error, FrameError};
use crate::frame::{FrameReader, MAX_FRAME_LEN, encode, read_message};
use crate::protocol::{MAX_NAMED_CONNECTIONS, MAX_SETS, Message, ProtoVersion};

/// Cuts a stream into pieces and reads it in three ways. Each way finds the same messages and the
/// same end, and holds no more than a frame. Each message is the same once written and read again.
///
/// An input is a count of piece lengths, the lengths, and the segments of a stream: see
/// `stream`.
pub fn frame(input: &[u8]) {
    let mut input = Input(input);
    let count = usize::from(input.byte() % 8);
    let lengths = input.bytes(count);
    let stream = stream(&mut input);

    let whole = read_whole(&stream);
    assert_eq!(read_pushed(&stream, lengths), whole, "pushed in pieces of {lengths:?}");
    assert_eq!(read_in_pieces(&stream, lengths), whole, "read in pieces of {lengths:?}");

    let mut written = 0;
    for (version, message) in &whole.frames {
        assert_bounded(message);
        let frame = encode(*version, message).expect("what was in a frame fits into one");
        written += frame.len();
        let again = Heard { frames: vec![(*version, message.clone())], end: End::Closed };
        assert_eq!(read_whole(&frame), again);
    }
    assert!(written <= stream.len(), "{} bytes are written as {written}", stream.len());
}

/// The messages of a stream, and its end.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    frames: Vec<(ProtoVersion, Message)>,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Between two frames.
    Closed,
    /// With this error, as text: the error itself cannot be compared.
    Broken(String),
}

impl End {
    fn of(error: &Error) -> Self {
        match error {
            Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => Self::Closed,
            Error::Frame(error) => Self::Broken(format!("{error:?}")),
            other => panic!("a slice cannot fail with {other}"),
        }
    }
}

/// Reads with the plain function.
fn read_whole(mut stream: &[u8]) -> Heard {
    let mut frames = Vec::new();
    loop {
        match read_message(&mut stream) {
            Ok(frame) => frames.push(frame),
            Err(error) => return Heard { frames, end: End::of(&error) },
        }
    }
}

/// Reads with a reader that takes each piece.
fn read_pushed(stream: &[u8], lengths: &[u8]) -> Heard {
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    for piece in Pieces::new(stream, lengths) {
        let held = reader.len();
        reader.push(piece);
        assert_eq!(reader.len(), held + piece.len());
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return Heard { frames, end: End::of(&error.into()) },
            }
        }
        assert!(reader.len() < PREFIX + MAX_FRAME_LEN as usize, "it holds {}", reader.len());
        assert_eq!(reader.is_inside_a_frame(), reader.len() > 0);
    }
    let end = match reader.is_inside_a_frame() {
        true => End::of(&FrameError::Truncated.into()),
        false => End::Closed,
    };
    Heard { frames, end }
}

/// Reads with a connection to which each piece is sent.
fn read_in_pieces(stream: &[u8], lengths: &[u8]) -> Heard {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut connection = Connection::new(ours);
    let mut frames = Vec::new();
    let mut hear = |frames: &mut Vec<_>| loop {
        match connection.next_of() {
            Ok(control::Heard::Frame(frame)) => frames.push(frame),
            Ok(control::Heard::Nothing) => return None,
            Ok(control::Heard::End) => return Some(End::Closed),
            Err(error) => return Some(End::of(&error)),
        }
    };
    for mut piece in Pieces::new(stream, lengths) {
        while !piece.is_empty() {
            piece = &piece[send_some(&theirs, piece, &[]).expect("it is read")..];
            if let Some(end) = hear(&mut frames) {
                return Heard { frames, end };
            }
        }
    }
    drop(theirs);
    let end = hear(&mut frames).expect("the stream has ended");
    Heard { frames, end }
}

/// A stream in pieces of the given lengths, again and again; in one piece where none is given.
struct Pieces<'a> {
    left: &'a [u8],
    lengths: std::iter::Cycle<std::iter::Copied<std::slice::Iter<'a, u8>>>,
}

impl<'a> Pieces<'a> {
    fn new(stream: &'a [u8], lengths: &'a [u8]) -> Self {
        Self { left: stream, lengths: lengths.iter().copied().cycle() }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = match self.lengths.next() {
            _ if self.left.is_empty() => return None,
            Some(length @ 1..=200) => usize::from(length),
            Some(length @ 201..) => usize::from(length - 200) << 10,
            Some(0) | None => self.left.len(),
        };
        let (piece, left) = self.left.split_at(length.min(self.left.len()));
        self.left = left;
        Some(piece)
    }
}

/// A stream of segments. Each has a tag:
///
/// - 0: a length, and as many bytes, unchanged;
/// - 1: a length, and as many bytes, which get the right prefix;
/// - 2: as 1, then a byte and its count within the frame (24 bits, once), so that a short
///   input makes the longest frame;
/// - 3: all bytes that are left, unchanged.
fn stream(input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut is_stretched = false;
    while !input.is_empty() {
        let tag = input.byte() % 4;
        let length = if tag == 3 { usize::MAX } else { usize::from(input.byte()) };
        let mut body = input.bytes(length).to_vec();
        if tag == 2 {
            let [filler, low, middle, high] = input.array();
            let high = if is_stretched { 0 } else { high };
            let count = u32::from_le_bytes([low, middle, high, 0]).min(MAX_FRAME_LEN + 1);
            body.resize(body.len() + count as usize, filler);
            is_stretched = true;
        }
        if matches!(tag, 1 | 2) {
            stream.extend_from_slice(&(body.len() as u32).to_le_bytes());
        }
        stream.append(&mut body);
    }
    stream
}

/// A list takes no more memory than the longest frame, however few bytes it has on the wire.
fn assert_bounded(message: &Message) {
    match message {
        Message::Carried { sets, .. } => {
            assert!(sets.len() <= MAX_SETS, "{} sets", sets.len());
        }
        Message::Late { connections, .. } | Message::Draining { connections, .. } => {
            assert!(
                connections.len() <= MAX_NAMED_CONNECTIONS,
                "{} connections",
                connections.len()
            );
        }
        _ => {}
    }
    let (names, revisions) = match message {
        Message::SealComplete { last_revision_per_shard, .. } => (0, last_revision_per_shard.len()),
        Message::Ready { listening_on, advertised_revision_per_shard, .. } => {
            (listening_on.len(), advertised_revision_per_shard.len())
        }
        Message::Adopted { listeners, .. } => (listeners.len(), 0),
        _ => (0, 0),
    };
    let max = MAX_FRAME_LEN as usize;
    assert!(revisions * size_of::<u64>() <= max, "{revisions} revisions");
    assert!(names * size_of::<String>() <= max, "{names} names");
}

const PREFIX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::seeds;

    /// The seeds reach each maximum, and one beyond it.
    #[test]
    fn the_seeds_reach_the_limits() {
        let heard = |wanted: &str| {
            let seeds = seeds::of("frame");
            let (_, seed) = seeds.iter().find(|(name, _)| name == wanted).expect("there is one");
            let mut input = Input(seed);
            let count = input.byte();
            input.bytes(count.into());
            read_whole(&stream(&mut input))
        };
        for name in
            ["max-length", "max-shards", "max-listeners", "max-late", "max-draining", "max-sets"]
        {
            let Heard { frames, end } = heard(name);
            assert_eq!((frames.len(), end), (1, End::Closed), "{name}");
        }
        for (name, why) in [
            ("longer-than-max", "TooLong(1048577)"),
            ("too-long", "TooLong(1048577)"),
            ("too-short", "TooShort(1)"),
            ("too-many-shards", "invalid length 131073"),
            ("too-many-listeners", "invalid length 1025"),
            ("too-many-late", "invalid length 65"),
            ("too-many-draining", "invalid length 65"),
            ("too-many-sets", "invalid length 257"),
            ("trailing", "TrailingBytes(1)"),
            ("ends-in-a-prefix", "Truncated"),
            ("all-but-the-end", "Truncated"),
        ] {
            match heard(name).end {
                End::Broken(error) => assert!(error.contains(why), "{name}: {error}"),
                End::Closed => panic!("{name} is whole"),
            }
        }
    }
}
