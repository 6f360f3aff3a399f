//! The socket of a WebSocket, as tungstenite reads and writes it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::io::Inbound;
use crate::http::transport::Transport;

/// Hands out whole frames, and keeps those of the message that has not ended, so that the next process
/// can begin the message anew. Control frames, which may come between, are done with at once.
#[derive(Debug)]
pub(super) struct Frames {
    inbound: Inbound,
    /// Of the message that is read, in frames as they came.
    message: Vec<u8>,
    /// The bytes of its headers among them.
    headers: u64,
    /// So many bytes of the frame that is handed out are left.
    left: u64,
    max_message: usize,
    unsent: BytesMut,
    /// What is written is kept where the client does not take it: it goes to the next process.
    keeps_unsent: bool,
}

impl Frames {
    pub(super) fn new(
        transport: Transport,
        unread: &[u8],
        unsent: &[u8],
        max_message: usize,
    ) -> Self {
        Self {
            inbound: Inbound::new(transport, unread),
            message: Vec::new(),
            headers: 0,
            left: 0,
            max_message,
            unsent: unsent.into(),
            keeps_unsent: false,
        }
    }

    /// All of a message was handed out, and is the daemon's now.
    pub(super) fn end_message(&mut self) {
        self.message.clear();
        self.headers = 0;
    }

    /// Whether what is written is kept for the next process, where the client does not take it.
    pub(super) const fn keep_unsent(&mut self, keeps: bool) {
        self.keeps_unsent = keeps;
    }

    fn keeps_more(&self) -> bool {
        self.keeps_unsent && self.unsent.len() < MAX_UNSENT
    }

    pub(super) const fn is_carried(&self) -> bool {
        self.inbound.transport.is_carried()
    }

    /// The transport, the bytes from the beginning of the message that has not ended, and those that were
    /// not written.
    pub(super) fn into_parts(self) -> (Transport, Vec<u8>, Vec<u8>) {
        let (transport, unread) = self.inbound.into_parts();
        (transport, [&self.message[..], &unread].concat(), self.unsent.into())
    }

    /// Reads whatever comes until the client has ended.
    pub(super) async fn read_out(&mut self) {
        while let Ok(true) = poll_fn(|context| self.inbound.poll_fill(context)).await {
            self.inbound.unread.clear();
        }
    }

    fn hand(&mut self, buffer: &mut ReadBuf<'_>) {
        let unread = &mut self.inbound.unread;
        let room = buffer.remaining().min(unread.len());
        let count = usize::try_from(self.left).map_or(room, |left| left.min(room));
        buffer.put_slice(&unread[..count]);
        unread.advance(count);
        self.left -= count as u64;
    }

    /// Writes what was not written before.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.inbound.transport).poll_write(context, &self.unsent)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.unsent.advance(count),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Frames {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.left == 0 || this.inbound.unread.is_empty() {
            if this.left == 0
                && let Some(header) = Header::read(&this.inbound.unread)
            {
                let is_whole = this.inbound.unread.len() as u64 >= header.len();
                if header.payload > this.max_message as u64 {
                    // tungstenite says what is wrong.
                    this.left = u64::MAX;
                } else if is_whole {
                    this.left = header.len();
                    if header.is_control {
                        break;
                    }
                    let frame = usize::try_from(this.left).unwrap_or(usize::MAX);
                    this.message.extend_from_slice(&this.inbound.unread[..frame]);
                    this.headers += header.size;
                    if this.headers > MAX_HEADERS {
                        let words = "a message comes in too many fragments";
                        let error = io::Error::new(io::ErrorKind::InvalidData, words);
                        return Poll::Ready(Err(error));
                    }
                }
                if this.left > 0 {
                    break;
                }
            }
            if !ready!(this.inbound.poll_fill(context))? {
                // The rest of a frame that does not come.
                this.left = u64::MAX;
                break;
            }
        }
        this.hand(buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Frames {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match self.poll_drain(context) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.inbound.transport).poll_write(context, bytes),
            blocked => blocked.map_ok(|()| 0),
        };
        if written.is_pending() && self.keeps_more() {
            self.unsent.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_drain(context) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.inbound.transport).poll_flush(context),
            Poll::Pending if self.keeps_unsent => Poll::Ready(Ok(())),
            drained => drained,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inbound.transport).poll_shutdown(context)
    }
}

/// What the first bytes of a frame say of it (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// In bytes, of the header itself.
    size: u64,
    payload: u64,
    is_control: bool,
}

impl Header {
    /// None where it has not come yet.
    fn read(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else { return None };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (extended, payload) = match second & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (8, u64::from_be_bytes(*rest.first_chunk()?)),
            len => (0, u64::from(len)),
        };
        Some(Self { size: 2 + extended + mask, payload, is_control: first & 0x08 != 0 })
    }

    const fn len(self) -> u64 {
        self.size.saturating_add(self.payload)
    }
}

/// Beyond it a message waits for the client.
const MAX_UNSENT: usize = 256 << 10;
/// Of the headers of one message.
const MAX_HEADERS: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_frame_says_where_it_ends() {
        let header = |size, payload, is_control| Some(Header { size, payload, is_control });
        for (bytes, expected) in [
            (&[][..], None),
            (&[0x81], None),
            (&[0x81, 0x05], header(2, 5, false)),
            (&[0x01, 0x85], header(6, 5, false)),
            (&[0x89, 0x80], header(6, 0, true)),
            (&[0x82, 0xfe, 1], None),
            (&[0x82, 0xfe, 1, 2], header(8, 258, false)),
            (&[0x82, 0x7f, 0, 0, 0, 1, 0, 0, 0], None),
            (&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0], header(14, 1 << 32, false)),
        ] {
            assert_eq!(Header::read(bytes), expected, "{bytes:?}");
        }
        let longest = Header { size: 14, payload: u64::MAX, is_control: false };
        assert_eq!(longest.len(), u64::MAX);
    }
}
