//! WebSockets whose clients notice no swap: an extractor for axum.
//!
//! ```no_run
//! use axum_core::response::Response;
//! use handoff::carry::Carried;
//! use handoff::http::Server;
//! use handoff::http::ws::{Upgrade, WebSocket, WebSockets};
//! use serde::{Deserialize, Serialize};
//!
//! /// Goes to the next process with the connection.
//! #[derive(Serialize, Deserialize)]
//! struct Chat {
//!     name: String,
//!     count: u64,
//! }
//!
//! impl Carried for Chat {
//!     const NAME: &'static str = "chat";
//!     const VERSION: u32 = 1;
//! }
//!
//! /// Runs in each process that has the connection, from the beginning.
//! async fn chat(mut socket: WebSocket<Chat>) {
//!     while let Some(message) = socket.recv().await {
//!         socket.state_mut().count += 1;
//!         if socket.send(message).await.is_err() {
//!             return;
//!         }
//!     }
//!     if socket.has_left() {
//!         println!("{} has left after {} messages", socket.state().name, socket.state().count);
//!     }
//! }
//!
//! /// The handler of a route of axum: `.route("/chat", get(join))`. Other extractors may stand beside it.
//! async fn join(upgrade: Upgrade<Chat>) -> Response {
//!     upgrade.accept(Chat { name: "somebody".to_owned(), count: 0 })
//! }
//!
//! # fn open(opening: &mut handoff::daemon::Opening<'_>, router: impl handoff::http::HttpService) -> handoff::Result<()> {
//! let server = Server::new().websockets(WebSockets::new(chat));
//! let http = server.serve(opening, "http", router)?; // a field with `#[handoff(serve)]`, as ever
//! # drop(http);
//! # Ok(())
//! # }
//! ```
//!
//! # Over a swap
//!
//! A handler holds a pass of the gate from the moment at which [`recv`](WebSocket::recv) returns a message
//! until it asks for the next one. When the connection is to be carried, `recv` returns none and
//! [`goes_on`](WebSocket::goes_on) is true: the handler returns, and another one begins in the next process
//! with the same state. If the swap is undone, the old process begins a new handler with that state. A
//! message that has come in part, a frame cut in two included, goes along, and so does what the client has
//! not taken of the replies.
//!
//! After the commit the old process closes, with code 1012 ("service restart"), a connection whose handler
//! has not returned. Over TLS in the daemon's own process it closes each one with 1012, before the gate
//! closes. When the daemon is stopped the code is 1001.
//!
//! # A handler that sends of its own accord
//!
//! The local variables of a handler do not go along, a subscription included. One that also waits for
//! events calls `recv` in the same `select!`, and notes in the state how far it has come. In each process it
//! subscribes first and then sends what lies between its state and now, so that nothing is missed. What it
//! reads of the data it reads with a pass of [`enter`](WebSocket::enter): where there is none, `recv` is about
//! to return none.
//!
//! ```
//! # use handoff::http::ws::WebSocket;
//! # #[derive(Clone)] struct Store;
//! # impl Store { fn latest(&self) -> (u64, String) { (0, String::new()) } }
//! # struct Changes; impl Changes { async fn next(&mut self) {} }
//! # fn subscribe(_: &Store) -> Changes { Changes }
//! async fn live(mut socket: WebSocket<u64>, store: Store) {
//!     let mut changes = subscribe(&store);
//!     loop {
//!         if let Ok(_pass) = socket.enter() {
//!             let (number, text) = store.latest();
//!             if *socket.state() < number {
//!                 *socket.state_mut() = number;
//!                 if socket.send(text).await.is_err() {
//!                     return;
//!                 }
//!             }
//!         }
//!         tokio::select! {
//!             message = socket.recv() => if message.is_none() { return },
//!             () = changes.next() => {}
//!         }
//!     }
//! }
//! ```
//!
//! # Two builds
//!
//! | the next build | a swap to it | the swap back |
//! |---|---|---|
//! | has WebSockets that this one has not | has nothing to carry | is undone while a client is connected, unless the next build says [`may_be_lost`](WebSockets::may_be_lost) |
//! | has another version of the state | wants `from::<Old>()` in the next build | wants `from::<New>()` in this build, which has shipped by then, or `may_be_lost` in the next one |
//! | has none of that name any more | is undone while a client is connected, unless this build says `may_be_lost` | has nothing to carry |

mod frames;
mod socket;
mod upgrade;

use std::any::{TypeId, type_name};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::http::Extensions;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::carry::{AnySet, Arrival, Carried, Carry, Connections, Ticket};
use crate::drainable::Gate;
use crate::http::sockets::{Plan, Sockets};
use crate::http::transport::Transport;
use crate::log;
use frames::Frames;
pub use socket::WebSocket;
pub use upgrade::{NoWebSocket, Upgrade};

/// The WebSockets of a service, each with a state `S` of the daemon's own: for
/// [`Server::websockets`](crate::http::Server::websockets). They are a set beside the connections of the
/// service, which the next build finds by its name: `http.chat`, for the field `http` and a state of the
/// name `chat`.
pub struct WebSockets<S: Carried> {
    name: &'static str,
    connections: Connections<Open<S>>,
    handler: Handler<S>,
    max_message: usize,
}

type Handler<S> =
    Box<dyn Fn(WebSocket<S>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

impl<S: Carried> WebSockets<S> {
    /// With the handler that each connection gets, in each process that has it.
    pub fn new<F>(handler: impl Fn(WebSocket<S>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handler: Handler<S> = Box::new(move |socket| Box::pin(handler(socket)));
        let (name, connections) = (S::NAME, Connections::new());
        Self { name, connections, handler, max_message: MAX_MESSAGE }
    }

    /// Gives the set a name of its own, which is that of the state else: where the state may get another
    /// name in a later build, or is a plain number.
    #[must_use]
    pub const fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Also reads the states of another build: of an older one, or of the next one, so that a swap back
    /// from that keeps the connections ([`Connections::from`]).
    #[must_use]
    pub fn from<O: Carried>(mut self) -> Self
    where
        S: From<O>,
    {
        self.connections = self.connections.from::<Older<O>>();
        self
    }

    /// A swap from this build may do without them: where the next one has no WebSockets of that name, or
    /// cannot read their states, it commits, and the old process closes them. Without this, such a swap is
    /// undone as long as a client is connected, a swap back included.
    #[must_use]
    pub fn may_be_lost(mut self) -> Self {
        self.connections = self.connections.may_be_lost();
        self
    }

    /// The maximum length of a message of the client in bytes, 1 MiB by default. A longer one ends the
    /// connection, with code 1009. A message that has come in part is carried, so that a swap takes that
    /// much memory of each client.
    #[must_use]
    pub const fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }
}

impl<S: Carried> fmt::Debug for WebSockets<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSockets").field("state", &type_name::<S>()).finish_non_exhaustive()
    }
}

/// A message of a client, or for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(bytes.into())
    }
}

/// A WebSocket, for the next process. An enum, so that an older build refuses a newer layout.
#[derive(Debug, Serialize, Deserialize)]
enum Open<S> {
    V1 {
        state: S,
        /// From the beginning of the message that has not ended.
        unread: Vec<u8>,
        /// What the client has not taken.
        unsent: Vec<u8>,
    },
}

impl<S: Carried> Carried for Open<S> {
    const NAME: &'static str = S::NAME;
    const VERSION: u32 = S::VERSION;
}

/// The same with the state of another build.
#[derive(Debug, Serialize, Deserialize)]
struct Older<S>(Open<S>);

impl<S: Carried> Carried for Older<S> {
    const NAME: &'static str = S::NAME;
    const VERSION: u32 = S::VERSION;
}

impl<S, O> From<Older<O>> for Open<S>
where
    S: From<O>,
{
    fn from(Older(older): Older<O>) -> Self {
        let Open::V1 { state, unread, unsent } = older;
        Self::V1 { state: state.into(), unread, unsent }
    }
}

/// The WebSockets of a service that runs.
struct Running<S: Carried> {
    name: &'static str,
    connections: Arc<Connections<Open<S>>>,
    handler: Handler<S>,
    max_message: usize,
    gate: Arc<Gate>,
}

impl<S: Carried> Running<S> {
    async fn take_up(self: Arc<Self>, arrival: Arrival<Open<S>>) {
        let Arrival { descriptor, state, ticket } = arrival;
        match TcpStream::from_std(descriptor.into()) {
            Ok(tcp) => self.serve(Transport::Tcp(tcp), state, ticket).await,
            Err(error) => log::error!(
                connection = ticket.name(), %error,
                "this daemon cannot take up a WebSocket, and closes it"
            ),
        }
    }

    async fn serve(self: Arc<Self>, transport: Transport, open: Open<S>, ticket: Ticket<Open<S>>) {
        let Open::V1 { state, unread, unsent } = open;
        let frames = Frames::new(transport, &unread, &unsent, self.max_message);
        let socket = WebSocket::new(frames, state, ticket, &self.gate, self.max_message).await;
        (self.handler)(socket).await;
    }
}

impl<S: Carried> Plan for WebSockets<S> {
    fn begin(
        self: Box<Self>,
        gate: &Arc<Gate>,
        leave_grace: Duration,
        permits: &Arc<Semaphore>,
        runtime: &Handle,
    ) -> Arc<dyn Sockets> {
        let Self { name, connections, handler, max_message } = *self;
        let connections = Arc::new(connections.leave_grace(leave_grace));
        let running =
            Arc::new(Running { name, connections, handler, max_message, gate: Arc::clone(gate) });
        let (takes_up, permits) = (Arc::clone(&running), Arc::clone(permits));
        runtime.spawn(async move {
            loop {
                let arrival = takes_up.connections.arrival().await;
                let permit = Arc::clone(&permits).try_acquire_owned().ok();
                let served = Arc::clone(&takes_up).take_up(arrival);
                tokio::spawn(hold(permit, served));
            }
        });
        running
    }

    fn state(&self) -> TypeId {
        TypeId::of::<S>()
    }

    fn name(&self) -> &'static str {
        self.name
    }
}

impl<S: Carried> fmt::Debug for Running<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSockets").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// Counts a connection for as long as it is served.
async fn hold(permit: Option<OwnedSemaphorePermit>, served: impl Future<Output = ()>) {
    served.await;
    drop(permit);
}

impl<S: Carried> Sockets for Running<S> {
    fn offer(self: Arc<Self>, extensions: &mut Extensions) {
        extensions.insert(self);
    }

    fn live(&self) -> usize {
        self.connections.live()
    }

    fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>)) {
        self.connections.each_set(&format!("{name}.{}", self.name), visit);
    }
}

const MAX_MESSAGE: usize = 1 << 20;
