//! Where the requests of an HTTP/1 connection begin and end.
//!
//! hyper gets the bytes of one request at a time, so that the bytes of a request whose handler has not
//! seen all of it are at hand: the next process gets them anew. A request whose end this cannot tell
//! for sure makes the rest of the connection opaque: hyper then gets all bytes as they come.

/// The place in the stream of requests.
#[derive(Debug, Default)]
pub(super) struct Framer {
    place: Place,
    /// The line that is read, up to a maximum.
    line: Vec<u8>,
    head: Head,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// No byte of a request has come yet.
    #[default]
    Start,
    Head,
    /// So many bytes of the body are to come.
    Body(u64),
    ChunkSize,
    /// So many bytes of the chunk are to come, with the end of its line.
    Chunk(u64),
    Trailers,
    /// All bytes of the request have come.
    End,
    Opaque,
}

/// What the head says of the body.
#[derive(Debug, Default)]
struct Head {
    has_request_line: bool,
    length: Option<u64>,
    is_chunked: bool,
    is_unusual: bool,
    /// No request may follow: the connection changes its protocol.
    is_last: bool,
}

impl Framer {
    /// How many of these bytes belong to the request; the others to the next one.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.place != Place::End {
            taken += self.step(&bytes[taken..]);
        }
        taken
    }

    /// Begins the next request.
    pub(super) fn next(&mut self) {
        if self.place == Place::End {
            let place = if self.head.is_last { Place::Opaque } else { Place::Start };
            *self = Self { line: std::mem::take(&mut self.line), place, head: Head::default() };
        }
    }

    /// Whether no byte of a request has come, or all of them have.
    pub(super) fn is_at_start(&self) -> bool {
        matches!(self.place, Place::Start | Place::End)
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.place == Place::End
    }

    /// Whether the rest of a head is to come.
    pub(super) const fn is_in_head(&self) -> bool {
        matches!(self.place, Place::Head)
    }

    /// Whether the request is to change the protocol of its connection.
    pub(super) const fn is_last(&self) -> bool {
        self.head.is_last
    }

    pub(super) const fn is_opaque(&self) -> bool {
        matches!(self.place, Place::Opaque)
    }

    /// Takes some of the bytes, one at least.
    fn step(&mut self, bytes: &[u8]) -> usize {
        match self.place {
            Place::Start | Place::Head | Place::ChunkSize | Place::Trailers => self.line(bytes),
            Place::Body(left) => self.skip(bytes, left, Place::Body, Place::End),
            Place::Chunk(left) => self.skip(bytes, left, Place::Chunk, Place::ChunkSize),
            Place::End | Place::Opaque => bytes.len(),
        }
    }

    fn skip(&mut self, bytes: &[u8], left: u64, place: fn(u64) -> Place, then: Place) -> usize {
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left - taken as u64;
        self.place = if left == 0 { then } else { place(left) };
        taken
    }

    fn line(&mut self, bytes: &[u8]) -> usize {
        if self.place == Place::Start {
            self.place = Place::Head;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        let room = MAX_LINE.saturating_sub(self.line.len());
        if taken > room {
            self.place = Place::Opaque;
            return bytes.len();
        }
        self.line.extend_from_slice(&bytes[..taken]);
        if end.is_some() {
            self.place = self.end_of_line();
            self.line.clear();
        }
        taken
    }

    fn end_of_line(&mut self) -> Place {
        let Some(line) = self.line.strip_suffix(b"\r\n") else { return Place::Opaque };
        match self.place {
            Place::ChunkSize => {
                // An extension is left to hyper.
                let size = std::str::from_utf8(line).ok();
                match size.and_then(|size| u64::from_str_radix(size, 16).ok()) {
                    Some(0) => Place::Trailers,
                    Some(size) if size < MAX_CHUNK => Place::Chunk(size + 2),
                    _ => Place::Opaque,
                }
            }
            Place::Trailers if line.is_empty() => Place::End,
            Place::Trailers => Place::Trailers,
            // hyper skips empty lines before a request.
            _ if line.is_empty() && !self.head.has_request_line => Place::Head,
            _ if line.is_empty() => self.head.place(),
            _ => {
                self.head.line(line);
                Place::Head
            }
        }
    }
}

impl Head {
    fn line(&mut self, line: &[u8]) {
        if !self.has_request_line {
            self.has_request_line = true;
            self.is_unusual |= !line.ends_with(b" HTTP/1.1") && !line.ends_with(b" HTTP/1.0");
            self.is_last |= line.starts_with(b"CONNECT ");
            return;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            self.is_unusual = true;
            return;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // A name that begins with a space continues the line before.
        self.is_unusual |= name.is_empty() || name.iter().any(u8::is_ascii_whitespace);
        if name.eq_ignore_ascii_case(b"content-length") {
            let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().filter(|_| is_number);
            let length = length.and_then(|length| length.parse().ok());
            self.is_unusual |= length.is_none() || self.length.is_some();
            self.length = length;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.is_unusual |= !value.eq_ignore_ascii_case(b"chunked") || self.is_chunked;
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.is_last = true;
        }
    }

    /// The place after the head.
    fn place(&self) -> Place {
        match (self.is_chunked, self.length) {
            _ if self.is_unusual => Place::Opaque,
            (true, Some(_)) => Place::Opaque,
            (true, None) => Place::ChunkSize,
            (false, Some(0) | None) => Place::End,
            (false, Some(length)) => Place::Body(length),
        }
    }
}

const MAX_LINE: usize = 16 << 10;
const MAX_CHUNK: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a stream in pieces of that size, and returns the requests; the last one may be a part.
    fn requests(stream: &str, piece: usize) -> (Vec<String>, bool) {
        let (mut framer, mut requests) = (Framer::default(), vec![Vec::new()]);
        for mut bytes in stream.as_bytes().chunks(piece) {
            while !bytes.is_empty() {
                if framer.is_at_end() {
                    framer.next();
                    requests.push(Vec::new());
                }
                let taken = framer.take(bytes);
                assert!(taken > 0);
                requests.last_mut().expect("there is one").extend_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
            }
        }
        let requests = requests.into_iter().map(|bytes| String::from_utf8(bytes).expect("text"));
        (requests.collect(), framer.is_opaque())
    }

    const WHOLE: [&str; 7] = [
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab\r\nc",
        "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding:  Chunked \r\n\r\n3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n",
        "PUT / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",
        "\r\n\r\nGET /spaces HTTP/1.1\r\nHost: a:1\r\nX:\r\n\r\n",
    ];

    #[test]
    fn each_request_has_its_own_bytes_however_they_arrive() {
        for first in WHOLE {
            for second in WHOLE {
                let stream = format!("{first}{second}{}", WHOLE[0]);
                for piece in [1, 2, 3, 7, 1000] {
                    let expected = [first, second, WHOLE[0]].map(str::to_owned).to_vec();
                    assert_eq!(requests(&stream, piece), (expected, false), "{piece}");
                }
            }
        }
    }

    #[test]
    fn what_is_unusual_is_opaque_from_there_on() {
        for head in [
            "GET / HTTP/2.0\r\n",
            "GET /\r\n",
            "GET / HTTP/1.1\nHost: a\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n continued\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n",
            "GET / HTTP/1.1\r\nName : a\r\n",
        ] {
            for piece in [1, 5, 1000] {
                let stream = format!("{head}\r\nGET / HTTP/1.1\r\n\r\n");
                let (requests, is_opaque) = requests(&stream, piece);
                assert!(is_opaque && requests == [stream], "{head:?}");
            }
        }
        for chunks in ["x\r\n", "-1\r\n", "3;extension\r\nabc\r\n", "\r\n", "fffffffffffffffff\r\n"]
        {
            let stream = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert!(requests(&stream, 1).1, "{chunks:?}");
        }
        let long = format!("GET / HTTP/1.1\r\nLong: {}\r\n\r\n", "x".repeat(MAX_LINE));
        assert!(requests(&long, 999).1);
    }

    #[test]
    fn after_a_request_for_another_protocol_all_is_opaque() {
        for request in [
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nupgrade: h2c\r\nContent-Length: 1\r\n\r\na",
        ] {
            for piece in [1, 5, 1000] {
                let stream = format!("{request}GET / HTTP/1.1\r\n\r\nand more");
                let (requests, is_opaque) = requests(&stream, piece);
                assert_eq!(requests, [request, "GET / HTTP/1.1\r\n\r\nand more"]);
                assert!(is_opaque);
            }
        }
    }

    #[test]
    fn half_a_request_is_at_neither_end() {
        for whole in WHOLE {
            for end in 1..whole.len() {
                let mut framer = Framer::default();
                assert_eq!(framer.take(&whole.as_bytes()[..end]), end);
                assert!(!framer.is_at_end() && !framer.is_at_start(), "{whole:?} to {end}");
            }
        }
    }
}
