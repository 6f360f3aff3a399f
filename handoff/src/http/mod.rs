//! A service of HTTP whose clients notice no swap: axum, tonic, or any stack of tower.
//!
//! ```no_run
//! # mod answers {
//! #     use std::{convert::Infallible, future::Ready, task::{Context, Poll}};
//! #     use handoff::http::Body;
//! #     #[derive(Clone)] pub struct Router;
//! #     impl tower_service::Service<hyper::Request<Body>> for Router {
//! #         type Response = hyper::Response<Body>;
//! #         type Error = Infallible;
//! #         type Future = Ready<Result<hyper::Response<Body>, Infallible>>;
//! #         fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> { Poll::Ready(Ok(())) }
//! #         fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
//! #             std::future::ready(Ok(hyper::Response::new(request.into_body())))
//! #         }
//! #     }
//! # }
//! # #[derive(Clone)] struct Log;
//! # impl Log { fn open(_: &std::path::Path) -> handoff::Result<Log> { Ok(Log) } }
//! # impl handoff::Shard for Log {
//! #     fn seal(&self) -> handoff::Result<u64> { Ok(0) }
//! #     fn revision(&self) -> u64 { 0 }
//! #     fn fingerprint(&self) -> handoff::Result<[u8; 32]> { Ok([0; 32]) }
//! #     fn resume(&self) -> handoff::Result<()> { Ok(()) }
//! # }
//! # fn router(_: Log) -> impl handoff::http::HttpService { answers::Router }
//! use handoff::{daemon::Daemon, http::Http};
//!
//! #[derive(handoff::Drainable)]
//! struct App {
//!     #[handoff(serve)] // a gate and carried connections in one field
//!     http: Http,
//!     log: Log,
//! }
//!
//! fn main() -> handoff::Result<()> {
//!     Daemon::new("control.sock", "data").run_tokio(
//!         async |_warm| Ok(()),
//!         async |(), opening| {
//!             let log = Log::open(opening.data_dir())?;
//!             let http = handoff::http::serve(opening, "http", router(log.clone()))?;
//!             Ok(App { http, log })
//!         },
//!     )?;
//!     Ok(())
//! }
//! ```
//!
//! # What a client sees of a swap
//!
//! | protocol | what happens |
//! |---|---|
//! | HTTP/1.1, idle or between two requests | nothing: the connection goes to the next process |
//! | HTTP/1.1, a request is being answered | nothing: the old process answers it, and then gives the connection up |
//! | HTTP/1.1, a request has come in part | nothing: the next process gets all its bytes. Where a handler already reads its body, it is cancelled, and begins anew in the next process: work that it did before it has the whole body is done twice. A body beyond 64 KiB has to end within 300 ms: its handler reads an error else |
//! | HTTP/2 | GOAWAY before the gate closes: the client opens another connection, as it does for any GOAWAY |
//! | server-sent events (`text/event-stream`) | the reply ends before the gate closes, and the connection goes on. A browser asks again after its `retry` time, with `Last-Event-ID`: number the events, and begin behind that one |
//! | a reply that takes long | the old process finishes it, for as long as [`late_grace`](crate::daemon::Daemon::late_grace) lets it (10 s by default), and then closes the connection; on HTTP/2 for 5 s |
//! | a WebSocket (feature `ws`), without TLS | nothing: the connection goes to the next process, with the message that has come in part and a state of the daemon's own |
//! | TLS in the daemon's own process (feature `tls`) | the connection leaves before the gate closes, and the client comes back without a full handshake (`Server::with_tls`). A WebSocket is closed with code 1012, and its state is not carried: where that counts, end TLS in a proxy |
//! | another upgraded connection | the old process keeps it, and closes it when it ends |
//!
//! When the daemon is stopped the same requests are finished, for 30 s at most, and nothing is carried.
//!
//! # Passes
//!
//! A request of HTTP/1.1 holds a pass of the gate from the begin of its handler until its reply is
//! written, and one of HTTP/2 until its handler returns: a drain waits for that. A reply that takes more
//! than 300 ms of the drain, or whose client does not read, loses the pass: the old process finishes it
//! after the commit. The body of such a reply must not read the data then: the new process writes it. Work
//! that a handler leaves to another task holds a pass of its own: [`Server::gate`] is there before the
//! service is served. A handler must not *wait* for a second pass: a
//! drain that has closed the gate waits for its first one. [`GateLayer`] is for services that are not
//! served by this module.

mod connection;
mod flight;
mod framer;
mod io;
mod layer;
mod sockets;
#[cfg(feature = "tls")]
mod tls;
mod transport;
#[cfg(feature = "ws")]
pub mod ws;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::carry::{AnySet, Arrival, Carry, Connections, Listens};
use crate::daemon::Opening;
use crate::drainable::{Gate, Serve};
use crate::error::Result;
use crate::sys::socket::listen_on;
use connection::{Protocols, Shared, Unserved};
use flight::Permit;
pub use flight::{Body, HttpService, Peer};
pub use layer::{GateLayer, Gated, GatedBody, GatedReply};
#[cfg(feature = "tls")]
pub use rustls;
use sockets::Plan;

/// Serves the sockets of that name with the defaults of a [`Server`]: [`Server::serve`].
///
/// # Errors
///
/// As [`Server::serve`].
pub fn serve(opening: &mut Opening<'_>, name: &str, service: impl HttpService) -> Result<Http> {
    Server::new().serve(opening, name, service)
}

/// The settings of a service of HTTP.
#[derive(Debug)]
#[must_use = "a server does nothing until it serves"]
pub struct Server {
    gate: Arc<Gate>,
    protocols: Protocols,
    max_connections: usize,
    leave_grace: Duration,
    sockets: Vec<Box<dyn Plan>>,
    #[cfg(feature = "tls")]
    tls: Option<tls::Tls>,
}

/// A service of HTTP that runs: the gate that its requests pass, and its connections. A field of the
/// daemon's state, with `#[handoff(serve)]`.
#[derive(Clone)]
pub struct Http(Arc<Serving>);

struct Serving {
    connections: Arc<Connections<Unserved>>,
    accepted: AtomicU64,
    shared: Arc<Shared>,
}

impl Server {
    /// With a timeout of 75 s for the head of the next request, idle connections included; at most
    /// 65,536 connections at a time; and the defaults of hyper.
    pub fn new() -> Self {
        let mut http1 = http1::Builder::new();
        // A client that has said all may wait for its reply.
        http1.half_close(true).timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new());
        let protocols = Protocols { http1, http2, idle_timeout: IDLE_TIMEOUT };
        Self {
            gate: Arc::new(Gate::new()),
            protocols,
            max_connections: MAX_CONNECTIONS,
            leave_grace: LEAVE_GRACE,
            sockets: Vec::new(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Speaks TLS on all connections, with a configuration of [`rustls`], which this module re-exports: a
    /// daemon turns one of its providers of cryptography on, `ring` say. The library adds two things where
    /// they are not set: ALPN for HTTP/2 and HTTP/1.1; and tickets, whose keys go to the next process, so
    /// that a client comes back without a full handshake. It adds no tickets to a configuration that asks
    /// its clients for certificates, since a ticket stands for the certificate that was taken before, nor
    /// to one that keeps no sessions.
    ///
    /// A connection of TLS is not carried: it leaves before the gate closes, while requests are still
    /// served. HTTP/1.1 closes after the next reply (`Connection: close`), or once no request has come
    /// for 300 ms; as with any server that closes an idle connection, a request that its client sends in
    /// that moment fails. A connection that comes meanwhile, or has not begun to speak, goes to the next
    /// process, which answers its handshake: it waits for as long as the others take to leave,
    /// [`leave_grace`](Self::leave_grace) at most. What has not ended by then: a handshake or a head that
    /// has come in part is closed, an upload that does not go on ends with an error, and a reply goes on
    /// in the old process.
    ///
    /// TLS has a listener and a field of its own: connections of a build that spoke plain HTTP on the same
    /// listener are closed in the swap that introduces it. A struct may have several fields with
    /// `#[handoff(serve)]`, each with a gate of its own.
    #[cfg(feature = "tls")]
    pub fn with_tls(mut self, config: rustls::ServerConfig) -> Self {
        self.tls = Some(tls::Tls::new(config));
        self
    }

    /// The gate that each request will pass, for handlers and tasks that need it: the same as
    /// [`Http::gate`].
    #[must_use]
    pub const fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Lets requests become WebSockets, which are carried with a state of the daemon's own: see
    /// [`ws`]. A service may have several kinds, each with a state type of its own.
    ///
    /// # Panics
    ///
    /// It has WebSockets with a state of that type, or of that name, already.
    #[cfg(feature = "ws")]
    pub fn websockets<S: crate::carry::Carried>(mut self, sockets: ws::WebSockets<S>) -> Self {
        let plan: Box<dyn Plan> = Box::new(sockets);
        let mut others = self.sockets.iter();
        let is_new =
            others.all(|other| other.name() != plan.name() && other.state() != plan.state());
        assert!(
            is_new,
            "each kind of WebSocket has a state and a name of its own: {}",
            plan.name()
        );
        self.sockets.push(plan);
        self
    }

    /// The maximum number of connections. Others wait in the listener's queue.
    pub const fn max_connections(mut self, count: usize) -> Self {
        self.max_connections = count;
        self
    }

    /// The maximum wait of a drain for connections that cannot be carried, while requests are still
    /// served: 2 seconds by default ([`Connections::leave_grace`]).
    pub const fn leave_grace(mut self, grace: Duration) -> Self {
        self.leave_grace = grace;
        self
    }

    /// Changes the settings of HTTP/1: the timeout for a head, the maxima of a head.
    pub fn http1(mut self, change: impl FnOnce(&mut http1::Builder)) -> Self {
        change(&mut self.protocols.http1);
        // With it hyper keeps replies back, and does not say so.
        self.protocols.http1.pipeline_flush(false);
        self
    }

    /// Changes the settings of HTTP/2: windows, the number of streams, pings.
    pub fn http2(mut self, change: impl FnOnce(&mut http2::Builder<TokioExecutor>)) -> Self {
        change(&mut self.protocols.http2);
        self
    }

    /// Serves all inherited TCP sockets of that name (no Unix sockets), and the connections that come from the process
    /// before, once the gate is open. Call it in the second closure of
    /// [`Daemon::run_tokio`](crate::daemon::Daemon::run_tokio), or elsewhere inside a runtime of tokio
    /// that has more than one thread.
    ///
    /// It raises the backlog of each listener to 4096: new connections wait there during a swap.
    ///
    /// # Errors
    ///
    /// There is no socket of that name, or it is no TCP socket that listens.
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio.
    pub fn serve(
        self,
        opening: &mut Opening<'_>,
        name: &str,
        service: impl HttpService,
    ) -> Result<Http> {
        let mut listeners = vec![opening.listeners().take_tokio_tcp(name)?];
        while opening.listeners().names().iter().any(|other| other == name) {
            listeners.push(opening.listeners().take_tokio_tcp(name)?);
        }
        let Self { gate, protocols, max_connections, leave_grace, sockets, .. } = self;
        #[cfg(feature = "tls")]
        let tls = self.tls.map(Arc::new);
        let runtime = Handle::current();
        let permits = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        let begin = |plan: Box<dyn Plan>| plan.begin(&gate, leave_grace, &permits, &runtime);
        let sockets: Arc<[_]> = sockets.into_iter().map(begin).collect();
        let connections = Arc::new(Connections::new().leave_grace(leave_grace));
        let shared = Arc::new(Shared {
            gate,
            protocols,
            sockets,
            #[cfg(feature = "tls")]
            tls,
        });
        let accepted = AtomicU64::new(0);
        let serving = Serving { connections, accepted, shared: Arc::clone(&shared) };
        let http = Http(Arc::new(serving));
        let acceptor = Acceptor { http: http.clone(), permits, shared, service };
        for listener in listeners {
            listen_on(&listener, BACKLOG)?;
            runtime.spawn(acceptor.clone().accept(listener));
        }
        runtime.spawn(acceptor.take_up());
        Ok(http)
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    /// The gate that each request passes. Work beside the requests holds a pass of it while it writes.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.0.shared.gate
    }

    /// New connections of TLS get that configuration: with other certificates, say, without a swap. Those
    /// that are open keep theirs, and the keys of the tickets stay.
    ///
    /// # Errors
    ///
    /// The service was not begun [with TLS](Server::with_tls).
    #[cfg(feature = "tls")]
    pub fn set_tls(&self, config: rustls::ServerConfig) -> Result<()> {
        let none = "this service speaks no TLS: give its first configuration to `Server::with_tls`";
        let tls = self.0.shared.tls.as_ref().ok_or_else(|| crate::Error::other(none))?;
        tls.set(config);
        Ok(())
    }

    /// Whether this process is about to give its connections up, or has: for the log of a service, or for a
    /// readiness probe. A swap needs no probe that fails: new connections wait, and the next process
    /// answers them. A probe is a request, and waits with the others while the gate is closed.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.0.connections.is_leaving()
    }

    /// The number of connections that this process has accepted. Those that came from the process before
    /// are not among them.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// The number of connections that this process serves now, WebSockets included.
    #[must_use]
    pub fn connections(&self) -> usize {
        let sockets = self.0.shared.sockets.iter().map(|sockets| sockets.live());
        self.0.connections.live() + sockets.sum::<usize>()
    }
}

impl Serve for Http {
    fn gate(&self) -> &Gate {
        &self.0.shared.gate
    }

    fn connections(&self) -> &dyn Carry {
        &*self.0
    }
}

impl Carry for Serving {
    fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>)) {
        self.connections.each_set(name, visit);
        for sockets in &*self.shared.sockets {
            sockets.each_set(name, visit);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.shared.tls {
            tls.keys().each_set(&format!("{name}.tls"), visit);
        }
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("gate", &self.0.shared.gate)
            .field("connections", &self.0.connections)
            .finish()
    }
}

/// Accepts connections, and takes those up that arrive.
#[derive(Clone)]
struct Acceptor<S> {
    http: Http,
    permits: Arc<Semaphore>,
    shared: Arc<Shared>,
    service: S,
}

impl<S: HttpService> Acceptor<S> {
    async fn accept(self, listener: impl Listens) {
        let Serving { connections, accepted, shared } = &*self.http.0;
        while let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            let arrival = connections.accept(&shared.gate, &listener).await;
            accepted.fetch_add(1, Ordering::Relaxed);
            self.spawn(arrival, Some(permit));
        }
    }

    /// Serves the connections of the process before; after a swap that was undone, its own again.
    async fn take_up(self) {
        loop {
            let arrival = self.http.0.connections.arrival().await;
            self.spawn(arrival, Arc::clone(&self.permits).try_acquire_owned().ok());
        }
    }

    fn spawn(&self, arrival: Arrival<Unserved>, permit: Option<OwnedSemaphorePermit>) {
        let (shared, service) = (Arc::clone(&self.shared), self.service.clone());
        tokio::spawn(async move {
            connection::serve(arrival, Permit::new(permit), &shared, service).await;
        });
    }
}

const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
const LEAVE_GRACE: Duration = Duration::from_secs(2);
const MAX_CONNECTIONS: usize = 65_536;
const BACKLOG: i32 = 4096;
