//! RESP2: requests off a connection's input, replies onto its output.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_range;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::{BytesFrame, RangeFrame};

/// The answer to a command.
pub(crate) type Reply = BytesFrame;

/// Bytes that are no request. The server then closes the connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("Protocol error: invalid multibulk length")]
    ArrayLength,
    #[error("Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    #[error("Protocol error: too big inline request")]
    LongLine,
    #[error("Protocol error: a request is larger than {MAX_REQUEST} bytes")]
    TooLarge,
}

/// Takes one request, a command's name and arguments, off the front of `input`. `None` until
/// all of it is there; an incomplete request stays in `input`.
///
/// # Errors
///
/// The bytes are no request, so the bytes after them cannot be understood either.
pub(crate) fn take_request(input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
    loop {
        let parsed = match input.first() {
            None => return Ok(None),
            Some(b'*') => parse_array(input)?,
            Some(_) => parse_inline(input)?,
        };
        match parsed {
            None if input.len() > MAX_REQUEST => return Err(ProtocolError::TooLarge),
            None => return Ok(None),
            Some(Parsed { len, arguments }) => {
                let request = input.split_to(len).freeze();
                if !arguments.is_empty() {
                    let arguments = arguments.into_iter().map(|range| request.slice(range));
                    return Ok(Some(arguments.collect()));
                }
            }
        }
    }
}

/// Puts a reply on the end of `output`.
pub(crate) fn put_reply(output: &mut BytesMut, reply: &Reply) -> std::io::Result<()> {
    extend_encode(output, reply, false).map_err(std::io::Error::other)?;
    Ok(())
}

pub(crate) fn status(text: &'static str) -> Reply {
    Reply::SimpleString(Bytes::from_static(text.as_bytes()))
}

pub(crate) fn error(text: impl std::fmt::Display) -> Reply {
    Reply::Error(format!("ERR {text}").into())
}

/// A request as it lies in the input.
struct Parsed {
    len: usize,
    arguments: Vec<Range<usize>>,
}

/// `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`. This function reads the array element by element: a request
/// is an array of bulk strings, and a general decoder would follow arrays in arrays as deep as
/// a client nests them.
fn parse_array(input: &[u8]) -> Result<Option<Parsed>, ProtocolError> {
    let Some((header, mut at)) = line(input)? else { return Ok(None) };
    let count = std::str::from_utf8(&header[1..]).ok().and_then(|text| text.parse().ok());
    let count: i64 = count.ok_or(ProtocolError::ArrayLength)?;
    if count > MAX_ARGUMENTS {
        return Err(ProtocolError::ArrayLength);
    }

    let mut arguments = Vec::new();
    for _ in 0..count {
        match input.get(at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
        }
        match decode_range(&input[at..]) {
            Ok(None) => return Ok(None),
            Ok(Some((RangeFrame::BulkString((start, end)), len))) => {
                arguments.push(at + start..at + end);
                at += len;
            }
            Ok(Some(_)) | Err(_) => return Err(ProtocolError::BulkLength),
        }
    }
    Ok(Some(Parsed { len: at, arguments }))
}

/// `GET k\r\n`, as a person types it.
fn parse_inline(input: &[u8]) -> Result<Option<Parsed>, ProtocolError> {
    let Some((text, len)) = line(input)? else { return Ok(None) };
    let mut arguments = Vec::new();
    let mut start = 0;
    for word in text.split(u8::is_ascii_whitespace) {
        if !word.is_empty() {
            arguments.push(start..start + word.len());
        }
        start += word.len() + 1;
    }
    Ok(Some(Parsed { len, arguments }))
}

/// The first line without its end, and its length with it.
fn line(input: &[u8]) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    let window = &input[..input.len().min(MAX_LINE)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(end) => Ok(Some((input[..end].trim_ascii_end(), end + 1))),
        None if input.len() >= MAX_LINE => Err(ProtocolError::LongLine),
        None => Ok(None),
    }
}

const MAX_REQUEST: usize = 64 << 20;
const MAX_ARGUMENTS: i64 = 64 << 10;
const MAX_LINE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(input: &[u8]) -> (Vec<Vec<Bytes>>, Result<(), ProtocolError>, usize) {
        let mut input = BytesMut::from(input);
        let mut requests = Vec::new();
        loop {
            match take_request(&mut input) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => return (requests, Ok(()), input.len()),
                Err(error) => return (requests, Err(error), input.len()),
            }
        }
    }

    #[test]
    fn a_pipeline_comes_apart_in_order_and_its_unfinished_end_stays() {
        let pipeline =
            b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\nset k v\r\n*1\r\n$4\r\nPI";
        let (got, end, left) = requests(pipeline);
        assert_eq!(got, [vec!["PING"], vec!["GET", "a\r\n"], vec!["set", "k", "v"]]);
        assert_eq!(end, Ok(()));
        assert_eq!(left, 10);
    }

    #[test]
    fn every_prefix_of_a_request_is_unfinished() {
        let request = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n";
        for len in 0..request.len() {
            assert_eq!(requests(&request[..len]), (vec![], Ok(()), len));
        }
    }

    #[test]
    fn empty_requests_are_passed_over() {
        let (got, end, left) = requests(b"\r\n*0\r\n*-1\r\n  \r\nPING\n");
        assert_eq!((got, end, left), (vec![vec![Bytes::from("PING")]], Ok(()), 0));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let long_line = vec![b'a'; MAX_LINE];
        let mut long_request = format!("*1\r\n${}\r\n", usize::MAX / 4).into_bytes();
        long_request.resize(MAX_REQUEST + 1, b'x');
        for (input, expected) in [
            (&b"*x\r\n"[..], ProtocolError::ArrayLength),
            (b"*99999999\r\n", ProtocolError::ArrayLength),
            (b"*1\r\n:1\r\n", ProtocolError::ExpectedBulk(b':')),
            (b"*1\r\n*1\r\n*1\r\n", ProtocolError::ExpectedBulk(b'*')),
            (b"*1\r\n$-1\r\n", ProtocolError::BulkLength),
            (b"*1\r\n$abc\r\n", ProtocolError::BulkLength),
            (&long_line, ProtocolError::LongLine),
            (&long_request, ProtocolError::TooLarge),
        ] {
            assert_eq!(requests(input).1, Err(expected));
        }
    }
}
