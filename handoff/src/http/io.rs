//! The socket of a connection, as hyper reads and writes it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::AsyncWrite;

use super::flight::Flight;
use super::framer::Framer;
use super::transport::Transport;

/// A transport, and what was read of it.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) transport: Transport,
    /// Read, and not handed on.
    pub(super) unread: BytesMut,
    is_at_end: bool,
}

/// A socket whose unhandled bytes can go to another process.
#[derive(Debug)]
pub(super) struct Io {
    pub(super) inbound: Inbound,
    flight: Arc<Flight>,
    requests: Option<Requests>,
}

/// The request that hyper has, on HTTP/1.
#[derive(Debug, Default)]
struct Requests {
    framer: Framer,
    /// All bytes of it that hyper has; none once they are too many.
    handed: Option<BytesMut>,
}

impl Inbound {
    /// With the bytes of it that were read before.
    pub(super) fn new(transport: Transport, unread: &[u8]) -> Self {
        Self { transport, unread: unread.into(), is_at_end: false }
    }

    /// Reads more; `false` at the end of the stream.
    pub(super) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.is_at_end {
            self.is_at_end = ready!(self.transport.poll_read(context, &mut self.unread))? == 0;
        }
        Poll::Ready(Ok(!self.is_at_end))
    }

    pub(super) fn into_parts(self) -> (Transport, BytesMut) {
        (self.transport, self.unread)
    }
}

impl Io {
    /// With the bytes of it that were read before.
    pub(super) fn new(transport: Transport, unread: &[u8], flight: Arc<Flight>) -> Self {
        Self { inbound: Inbound::new(transport, unread), flight, requests: None }
    }

    /// Whether a reply has said that the protocol changes.
    #[cfg(feature = "ws")]
    pub(super) fn is_switched(&self) -> bool {
        self.flight.is_switched.load(Ordering::Acquire)
    }

    /// From here on hyper gets one request of HTTP/1 at a time.
    pub(super) fn one_at_a_time(&mut self) {
        let handed = Some(BytesMut::new());
        self.requests = Some(Requests { framer: Framer::default(), handed });
    }

    /// The socket, and the bytes for the next process: those of the request that hyper has, where it is
    /// to be handed anew; of one that was answered nothing, also where hyper has left a part of its body;
    /// else those that hyper has left. Then the unread ones.
    pub(super) fn into_parts(self, anew: bool, left: &[u8]) -> (Transport, Vec<u8>) {
        let first = match &self.requests {
            Some(Requests { framer, handed }) if !framer.is_opaque() => {
                let is_part = anew || !framer.is_at_start();
                handed.as_deref().filter(|_| is_part).unwrap_or_default()
            }
            _ => left,
        };
        let (transport, unread) = self.inbound.into_parts();
        (transport, [first, &unread].concat())
    }

    fn hand(&mut self, buffer: &mut ReadBufCursor<'_>) {
        let room = buffer.remaining().min(self.inbound.unread.len());
        let count = match &mut self.requests {
            None => room,
            Some(Requests { framer, handed }) => {
                if framer.is_at_end() {
                    framer.next();
                    *handed = Some(handed.take().map_or_else(BytesMut::new, |mut bytes| {
                        bytes.clear();
                        bytes
                    }));
                }
                let count = framer.take(&self.inbound.unread[..room]);
                *handed = handed.take().filter(|bytes| bytes.len() + count <= MAX_HANDED);
                if let Some(bytes) = handed {
                    bytes.extend_from_slice(&self.inbound.unread[..count]);
                }
                let is_known = !framer.is_opaque() && handed.is_some();
                self.flight.can_hand_anew.store(is_known, Ordering::Relaxed);
                // Of a whole request nothing goes along, and of a part of a head all of it.
                let is_between = framer.is_at_start() || framer.is_in_head() && is_known;
                self.flight.is_between_bodies.store(is_between, Ordering::Relaxed);
                self.flight.is_at_start.store(framer.is_at_start(), Ordering::Relaxed);
                self.flight.is_opaque.store(framer.is_opaque(), Ordering::Relaxed);
                count
            }
        };
        buffer.put_slice(&self.inbound.unread[..count]);
        self.inbound.unread.advance(count);
    }

    /// Whether hyper may have bytes of the next request now: the one before has ended, and this one
    /// could run.
    fn may_begin(&self) -> bool {
        match &self.requests {
            Some(Requests { framer, .. }) if !framer.is_opaque() && framer.is_at_start() => {
                framer.is_at_end() && framer.is_last()
                    || self.flight.is_idle() && self.flight.gate().is_open()
            }
            _ => true,
        }
    }

    fn note_blocked<T>(&self, written: &Poll<T>) {
        self.flight.is_write_blocked.store(written.is_pending(), Ordering::Relaxed);
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.inbound.unread.is_empty() {
                let begins = self.may_begin();
                self.flight.is_held_back.store(!begins, Ordering::Relaxed);
                if begins {
                    self.hand(&mut buffer);
                    return Poll::Ready(Ok(()));
                }
                // The end of the request before polls again, and so does the opened gate. A client that
                // sends on has to wait.
                if self.inbound.unread.len() >= MAX_UNREAD || self.inbound.is_at_end {
                    return Poll::Pending;
                }
            }
            if !ready!(self.inbound.poll_fill(context))? && self.inbound.unread.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inbound.transport).poll_write(context, bytes);
        self.note_blocked(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inbound.transport).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inbound.transport).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inbound.transport).poll_write_vectored(context, bytes);
        self.note_blocked(&written);
        written
    }
}

/// Of a request that is handed anew to the next process.
const MAX_HANDED: usize = 64 << 10;
/// Of the requests behind the one that is answered.
const MAX_UNREAD: usize = 64 << 10;
