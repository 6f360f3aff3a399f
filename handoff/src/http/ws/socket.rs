//! A WebSocket, as its handler has it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::thread;
use std::time::Duration;

use futures_core::Stream;
use futures_sink::Sink;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message as Frame};

use super::frames::Frames;
use super::{Message, Open};
use crate::carry::{Carried, Ticket};
use crate::drainable::{Gate, GateClosed, OwnedPass};
use crate::log;

/// A WebSocket of a client: see [the module](super). Dropping it closes the connection, or gives it to the
/// next process where [`goes_on`](Self::goes_on) says so.
#[must_use = "dropping it closes the connection"]
pub struct WebSocket<S: Carried> {
    /// Here until the drop.
    connection: Option<Connection<S>>,
    told_to_park: Told,
    told_to_close: Told,
    gate: Arc<Gate>,
    gate_opens: Option<Pin<Box<dyn Future<Output = OwnedPass> + Send>>>,
    /// Of the message that the handler has.
    pass: Option<OwnedPass>,
    end: Option<End>,
}

type Told = Box<dyn Future<Output = ()> + Send + Sync + Unpin>;

struct Connection<S: Carried> {
    stream: WebSocketStream<Frames>,
    state: S,
    ticket: Ticket<Open<S>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    GoesOn,
    /// This side closes it.
    Closes(CloseCode),
    /// It is closed.
    Over,
}

impl<S: Carried> WebSocket<S> {
    pub(super) async fn new(
        frames: Frames,
        state: S,
        ticket: Ticket<Open<S>>,
        gate: &Arc<Gate>,
        max_message: usize,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let stream = WebSocketStream::from_raw_socket(frames, Role::Server, Some(config)).await;
        let is_carried = stream.get_ref().is_carried();
        let told_to_park: Told = if is_carried {
            Box::new(ticket.told_to_park())
        } else {
            Box::new(ticket.told_to_leave())
        };
        let told_to_close: Told = Box::new(ticket.told_to_close());
        Self {
            connection: Some(Connection { stream, state, ticket }),
            told_to_park,
            told_to_close,
            gate: Arc::clone(gate),
            gate_opens: None,
            pass: None,
            end: None,
        }
    }

    /// Waits for the next message. None once the connection has ended, and where it is to be carried: see
    /// [`goes_on`](Self::goes_on). Pings are answered meanwhile. It may be dropped at any time, and asked
    /// again: no message is lost.
    ///
    /// It gives the pass back that came with the message before.
    pub async fn recv(&mut self) -> Option<Message> {
        self.pass = None;
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// Sends a message, and waits until the operating system has taken it, for as long as the client takes
    /// no more. Where the connection is to be carried it waits no longer, up to 256 KiB: what the client has
    /// not taken goes along. If it is dropped while it waits, the message may have been sent or not.
    ///
    /// # Errors
    ///
    /// The connection has ended, or is to be closed.
    pub async fn send(&mut self, message: impl Into<Message>) -> io::Result<()> {
        let mut message = Some(match message.into() {
            Message::Text(text) => Frame::Text(text.into()),
            Message::Binary(bytes) => Frame::Binary(bytes),
        });
        poll_fn(|context| self.poll_send(context, &mut message)).await
    }

    /// Closes the connection: the client reads code 1000.
    pub fn close(mut self) {
        self.end.get_or_insert(End::Closes(CloseCode::Normal));
    }

    /// Whether the connection goes on with a handler of its own, most likely in the next process, when this
    /// one is dropped. If not, and [`recv`](Self::recv) has returned none, the client
    /// [has left](Self::has_left), or this process closes the connection.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.end == Some(End::GoesOn)
    }

    /// Whether the client has ended the connection, or has broken it.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.end == Some(End::Over)
    }

    /// A pass of the gate, for work that no message of the client has brought. It comes at once or not at
    /// all: where the gate is closed, [`recv`](Self::recv) tells what to do.
    ///
    /// # Errors
    ///
    /// The gate is closed.
    pub fn enter(&self) -> Result<OwnedPass, GateClosed> {
        self.gate.enter_owned()
    }

    /// What goes along with the connection.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.connection.as_ref().expect(HERE).state
    }

    /// What goes along with the connection.
    #[must_use]
    pub fn state_mut(&mut self) -> &mut S {
        &mut self.connection.as_mut().expect(HERE).state
    }

    fn stream(&mut self) -> Pin<&mut WebSocketStream<Frames>> {
        Pin::new(&mut self.connection.as_mut().expect(HERE).stream)
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        // A client that sends pings without end lets others have their turn.
        for _ in 0..FRAMES_AT_ONCE {
            if self.end.is_some() || self.is_told_to_close(context) {
                return Poll::Ready(None);
            }
            if self.is_told_to_park(context) {
                if self.connection.as_ref().is_some_and(|open| open.ticket.is_stopping()) {
                    self.end = Some(End::Closes(CloseCode::Away));
                    return Poll::Ready(None);
                }
                if !self.stream().get_mut().get_mut().is_carried() {
                    self.end = Some(End::Closes(CloseCode::Restart));
                    return Poll::Ready(None);
                }
                let flushed = ready!(self.stream().poll_flush(context));
                self.end = Some(match flushed {
                    Ok(()) => End::GoesOn,
                    Err(error) => self.code_of(&error),
                });
                return Poll::Ready(None);
            }
            // A client that takes no replies, pongs included, is not read from.
            if let Err(error) = ready!(self.stream().poll_flush(context)) {
                self.end = Some(self.code_of(&error));
                return Poll::Ready(None);
            }
            // No message is handed out that the daemon could not act upon.
            let pass = match self.gate.enter_owned() {
                Ok(pass) => pass,
                Err(_) => ready!(self.poll_gate(context)),
            };
            match self.stream().poll_next(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(message) = self.hear(frame) {
                        self.pass = Some(pass);
                        return Poll::Ready(Some(message));
                    }
                }
                Poll::Ready(Some(Err(error))) => self.end = Some(self.code_of(&error)),
                Poll::Ready(None) => self.end = Some(End::Over),
                Poll::Pending => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The message of a frame, if it is one.
    fn hear(&mut self, frame: Frame) -> Option<Message> {
        let message = match frame {
            Frame::Text(text) => Message::Text(text.as_str().to_owned()),
            Frame::Binary(bytes) => Message::Binary(bytes),
            Frame::Close(_) => {
                // The reply to it is flushed next.
                self.end = Some(End::Over);
                return None;
            }
            Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => return None,
        };
        let Connection { stream, ticket, .. } = self.connection.as_mut()?;
        stream.get_mut().end_message();
        ticket.served();
        Some(message)
    }

    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        message: &mut Option<Frame>,
    ) -> Poll<io::Result<()>> {
        if self.end.is_some_and(|end| end != End::GoesOn) || self.is_told_to_close(context) {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        // Then it waits for no client.
        self.is_told_to_park(context);
        let mut sent = || -> Poll<Result<(), Error>> {
            if message.is_some() {
                ready!(self.stream().poll_ready(context))?;
            }
            if let Some(message) = message.take() {
                self.stream().start_send(message)?;
            }
            self.stream().poll_flush(context)
        };
        let sent = ready!(sent());
        Poll::Ready(sent.map_err(|error| {
            self.end = Some(self.code_of(&error));
            match error {
                Error::Io(error) => error,
                error => io::Error::other(error),
            }
        }))
    }

    fn is_told_to_close(&mut self, context: &mut Context<'_>) -> bool {
        let is_told = Pin::new(&mut self.told_to_close).poll(context).is_ready();
        if is_told && self.end != Some(End::GoesOn) {
            self.end = Some(End::Closes(CloseCode::Restart));
        }
        is_told
    }

    fn is_told_to_park(&mut self, context: &mut Context<'_>) -> bool {
        let is_told = Pin::new(&mut self.told_to_park).poll(context).is_ready();
        if let Some(Connection { stream, ticket, .. }) = &mut self.connection {
            let frames = stream.get_mut();
            frames.keep_unsent(is_told && frames.is_carried() && !ticket.is_stopping());
        }
        is_told
    }

    fn poll_gate(&mut self, context: &mut Context<'_>) -> Poll<OwnedPass> {
        let gate = &self.gate;
        let opens = self.gate_opens.get_or_insert_with(|| Box::pin(gate.entered_owned()));
        let pass = ready!(opens.as_mut().poll(context));
        self.gate_opens = None;
        Poll::Ready(pass)
    }

    fn code_of(&self, error: &Error) -> End {
        log::debug!(%error, "a WebSocket has ended with an error");
        match error {
            Error::Capacity(_) => End::Closes(CloseCode::Size),
            Error::Utf8(_) => End::Closes(CloseCode::Invalid),
            Error::Protocol(_) => End::Closes(CloseCode::Protocol),
            Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                End::Closes(CloseCode::Policy)
            }
            _ => End::Over,
        }
    }
}

impl<S: Carried> Drop for WebSocket<S> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        // A handler may have sent something since.
        if !self.goes_on() || !connection.keeps_all() {
            connection.close(self.end);
            return;
        }
        let Connection { stream, state, ticket } = connection;
        let (transport, unread, unsent) = stream.into_inner().into_parts();
        match transport.into_carried().map(TcpStream::into_std) {
            Ok(Ok(tcp)) => ticket.park(tcp, Open::V1 { state, unread, unsent }),
            Ok(Err(error)) => log::warn!(
                connection = ticket.name(), %error,
                "this daemon cannot give up a WebSocket for a swap, and closes it"
            ),
            // Nobody tells it that it goes on.
            Err(mut transport) => transport.end(),
        }
    }
}

impl<S: Carried> Connection<S> {
    /// Whether all that was written is on its way, or kept for the next process.
    fn keeps_all(&mut self) -> bool {
        self.stream.get_mut().keep_unsent(true);
        let context = &mut Context::from_waker(Waker::noop());
        matches!(Pin::new(&mut self.stream).poll_flush(context), Poll::Ready(Ok(())))
    }

    /// Tells the client why it is closed, and gives it a while to read that.
    fn close(self, end: Option<End>) {
        let Self { mut stream, ticket, .. } = self;
        stream.get_mut().keep_unsent(false);
        let code = match end {
            Some(End::Closes(code)) => Some(code),
            Some(End::Over) => None,
            // Its handler has returned, or cannot go on.
            Some(End::GoesOn) | None if thread::panicking() => Some(CloseCode::Error),
            Some(End::GoesOn) | None if ticket.is_stopping() => Some(CloseCode::Away),
            Some(End::GoesOn) | None if ticket.is_told_to_close() => Some(CloseCode::Restart),
            Some(End::GoesOn) | None => Some(CloseCode::Normal),
        };
        if let Some(code) = code {
            let frame = Frame::Close(Some(CloseFrame { code, reason: "".into() }));
            let _ = Pin::new(&mut stream).start_send(frame);
        }
        let flushed = async move {
            let _ = poll_fn(|context| Pin::new(&mut stream).poll_flush(context)).await;
            let mut frames = stream.into_inner();
            let _ = frames.shutdown().await;
            // What it had to be told, it has been told.
            drop(ticket);
            // With unread bytes the operating system would reset the connection, and drop what was sent.
            frames.read_out().await;
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(timeout(LINGER, flushed))),
            Err(_) => drop(flushed),
        }
    }
}

impl<S: Carried> fmt::Debug for WebSocket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("end", &self.end).finish_non_exhaustive()
    }
}

const HERE: &str = "the connection is here until the drop";
const READ_BUFFER: usize = 4 << 10;
const FRAMES_AT_ONCE: usize = 32;
/// For a client to read the end.
const LINGER: Duration = Duration::from_secs(2);
