//! One connection, from its first byte until it is parked or over.

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
#[cfg(feature = "tls")]
use tokio::time::timeout;
use tokio::time::{Sleep, sleep};

use super::flight::{Flight, Handler, HttpService, PASS_GRACE, Passes, Permit, Stage};
use super::io::Io;
use super::sockets::Sockets;
#[cfg(feature = "tls")]
use super::tls::Tls;
use super::transport::Transport;
use crate::carry::{Arrival, Carried, Ticket};
use crate::drainable::{Gate, OwnedPass};
use crate::log;

/// A connection between two requests, for the next process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Unserved {
    /// The bytes of the next request that this process has read.
    unread: Vec<u8>,
}

impl Carried for Unserved {
    const NAME: &'static str = "handoff.http";
    const VERSION: u32 = 1;
}

/// How connections are served.
#[derive(Debug, Clone)]
pub(super) struct Protocols {
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<TokioExecutor>,
    /// Before the first byte.
    pub(super) idle_timeout: Duration,
}

/// What all connections of a service share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) gate: Arc<Gate>,
    pub(super) protocols: Protocols,
    pub(super) sockets: Arc<[Arc<dyn Sockets>]>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Arc<Tls>>,
}

/// The end of a connection in this process.
enum End {
    /// It is over.
    Over,
    /// It goes on in the next process, or in this one, with these bytes first.
    Parks(TcpStream, Vec<u8>),
}

impl End {
    /// Parks, if it can go to another process.
    fn parks((transport, unread): (Transport, Vec<u8>)) -> Self {
        match transport.into_carried() {
            Ok(tcp) => Self::Parks(tcp, unread),
            Err(mut transport) => {
                transport.end();
                Self::Over
            }
        }
    }
}

pub(super) async fn serve<S: HttpService>(
    arrival: Arrival<Unserved>,
    permit: Permit,
    shared: &Shared,
    service: S,
) {
    let Shared { gate, protocols, sockets, .. } = shared;
    let Arrival { descriptor, state: Unserved { unread }, ticket } = arrival;
    let ticket = Arc::new(ticket);
    let served = async {
        let tcp = TcpStream::from_std(descriptor.into())?;
        tcp.set_nodelay(true)?;
        let peer = tcp.peer_addr().ok();
        #[cfg(feature = "tls")]
        if shared.tls.is_some() && !unread.is_empty() {
            // What it has read must not become a part of what comes by TLS.
            log::warn!(
                connection = ticket.name(),
                "the process before this one spoke no TLS on this listener: this one closes its connection"
            );
            return Err(io::ErrorKind::InvalidData.into());
        }
        let transport = match handshake(tcp, &ticket, shared).await? {
            ControlFlow::Continue(transport) => transport,
            ControlFlow::Break(tcp) => return Ok(End::Parks(tcp, unread)),
        };
        let (gate, sockets) = (Arc::clone(gate), Arc::clone(sockets));
        let is_carried = transport.is_carried();
        let flight = Flight::new(gate, Arc::clone(&ticket), permit, sockets, is_carried, peer);
        let flight = Arc::new(flight);
        let mut io = Io::new(transport, &unread, Arc::clone(&flight));
        match version(&mut io, &ticket, protocols.idle_timeout).await? {
            Some(Version::Http1) => {
                io.one_at_a_time();
                http1(io, &flight, &protocols.http1, service).await
            }
            Some(Version::Http2) => {
                http2(io, &flight, &protocols.http2, service).await?;
                Ok(End::Over)
            }
            None => Ok(End::parks(io.into_parts(false, &[]))),
        }
    };
    let end: io::Result<End> = served.await;
    let name = ticket.name();
    match end {
        Ok(End::Parks(tcp, unread)) => match (tcp.into_std(), alone(ticket).await) {
            (Ok(tcp), Some(ticket)) => ticket.park(tcp, Unserved { unread }),
            (parked, _) => {
                let error = parked.err().map(|error| error.to_string());
                log::warn!(
                    connection = name,
                    ?error,
                    "this daemon cannot give up a connection for a swap, and closes it"
                );
            }
        },
        Ok(End::Over) => {}
        Err(error) => {
            log::debug!(connection = name, %error, "a connection has ended with an error");
        }
    }
}

/// The ticket, once no other thread has it: one that has just ended a request may, for a moment.
async fn alone(mut ticket: Arc<Ticket<Unserved>>) -> Option<Ticket<Unserved>> {
    for _ in 0..1000 {
        ticket = match Arc::try_unwrap(ticket) {
            Ok(ticket) => return Some(ticket),
            Err(shared) => shared,
        };
        tokio::task::yield_now().await;
    }
    None
}

/// Speaks TLS, where the service does; breaks where the connection is to be parked before.
#[cfg(feature = "tls")]
async fn handshake(
    tcp: TcpStream,
    ticket: &Ticket<Unserved>,
    shared: &Shared,
) -> io::Result<ControlFlow<TcpStream, Transport>> {
    let Some(tls) = &shared.tls else { return Ok(ControlFlow::Continue(Transport::Tcp(tcp))) };
    let mut told = ticket.told_to_park();
    let begins = poll_fn(|context| {
        if tcp.poll_read_ready(context)?.is_ready() {
            // In this order: a drain that tells it to leave waits for it.
            ticket.set_leaves(true);
            if !ticket.is_told_to_leave() {
                return Poll::Ready(io::Result::Ok(true));
            }
            ticket.set_leaves(false);
        }
        Pin::new(&mut told).poll(context).map(|()| Ok(false))
    });
    if !timeout(shared.protocols.idle_timeout, begins).await?? {
        return Ok(ControlFlow::Break(tcp));
    }
    let mut accepted = pin!(tls.accept(tcp));
    let tls = poll_fn(|context| match accepted.as_mut().poll(context) {
        // Its requests could not be answered any more.
        Poll::Pending => {
            Pin::new(&mut told).poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
        }
        accepted => accepted,
    });
    Ok(ControlFlow::Continue(Transport::Tls(Box::new(tls.await?))))
}

#[cfg(not(feature = "tls"))]
async fn handshake(
    tcp: TcpStream,
    _: &Ticket<Unserved>,
    _: &Shared,
) -> io::Result<ControlFlow<TcpStream, Transport>> {
    Ok(ControlFlow::Continue(Transport::Tcp(tcp)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Tells the versions apart by the first bytes; none where the connection is to be parked before.
async fn version(
    io: &mut Io,
    ticket: &Ticket<Unserved>,
    idle_timeout: Duration,
) -> io::Result<Option<Version>> {
    let mut leaves = Leaves::new(ticket, io.inbound.transport.is_carried());
    let mut timer = pin!(sleep(idle_timeout));
    poll_fn(|context| {
        if timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        loop {
            let unread = &io.inbound.unread;
            let begin = &unread[..unread.len().min(PREFACE.len())];
            if begin == PREFACE {
                // It could not be carried once it has begun.
                let is_parked = leaves.is_carried && ticket.is_told_to_leave();
                return Poll::Ready(Ok(if is_parked { None } else { Some(Version::Http2) }));
            }
            if !PREFACE.starts_with(begin) {
                return Poll::Ready(Ok(Some(Version::Http1)));
            }
            match io.inbound.poll_fill(context)? {
                Poll::Ready(true) => {}
                // hyper tells the client what is wrong, or nothing where it has sent nothing.
                Poll::Ready(false) => return Poll::Ready(Ok(Some(Version::Http1))),
                Poll::Pending => return leaves.poll(context, ticket).map(|()| Ok(None)),
            }
        }
    })
    .await
}

/// When a connection between two requests is given up.
struct Leaves {
    /// To park, or else to leave.
    told: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_carried: bool,
    /// Of one that cannot be carried: its client may be about to ask.
    grace: Option<Pin<Box<Sleep>>>,
}

impl Leaves {
    fn new(ticket: &Ticket<Unserved>, is_carried: bool) -> Self {
        let told: Pin<Box<dyn Future<Output = ()> + Send>> = if is_carried {
            Box::pin(ticket.told_to_park())
        } else {
            Box::pin(ticket.told_to_leave())
        };
        Self { told, is_carried, grace: None }
    }

    /// Polled while it stands between two requests.
    fn poll(&mut self, context: &mut Context<'_>, ticket: &Ticket<Unserved>) -> Poll<()> {
        if self.told.as_mut().poll(context).is_pending() {
            self.grace = None;
            return Poll::Pending;
        }
        if self.is_carried || ticket.is_told_to_park() {
            return Poll::Ready(());
        }
        self.grace.get_or_insert_with(|| Box::pin(sleep(IDLE_GRACE))).as_mut().poll(context)
    }
}

/// How a connection of HTTP/1 leaves that cannot be carried.
enum Leaving {
    /// It stands between two requests.
    Shut,
    /// A part of a head has come, which nobody could answer any more.
    Cut,
}

impl Leaves {
    /// After a poll of the connection.
    fn poll_idle(&mut self, context: &mut Context<'_>, flight: &Flight) -> Poll<Leaving> {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let is_between = is(&flight.is_at_start) || is(&flight.is_opaque);
        let (is_idle, is_last) = (flight.is_idle(), flight.ticket().is_told_to_park());
        // Where the swap is undone, the request is answered after all.
        let waits = is_last && is(&flight.is_held_back);
        if !is_idle || waits || !is_between && !is_last {
            self.grace = None;
            // For its waker: it is told again when the swap is undone.
            let _ = self.told.as_mut().poll(context);
            return Poll::Pending;
        }
        ready!(self.poll(context, flight.ticket()));
        Poll::Ready(if is_between { Leaving::Shut } else { Leaving::Cut })
    }
}

async fn http1<S: HttpService>(
    io: Io,
    flight: &Arc<Flight>,
    builder: &http1::Builder,
    service: S,
) -> io::Result<End> {
    let handler = Handler::new(service, Arc::clone(flight), Passes::OfConnection);
    let mut connection = builder.serve_connection(io, handler).with_upgrades();
    let mut driver = Driver::new(flight);
    let mut leaves = (!flight.is_carried).then(|| Leaves::new(flight.ticket(), false));
    let ended = poll_fn(|context| {
        flight.set_waker(None);
        if driver.is_told_to_close(context) {
            Pin::new(&mut connection).graceful_shutdown();
        }
        loop {
            flight.reset();
            if let Poll::Ready(served) = Pin::new(&mut connection).poll(context) {
                return Poll::Ready(ControlFlow::Break(served));
            }
            if driver.is_too_late() {
                return Poll::Ready(ControlFlow::Break(Ok(())));
            }
            match leaves.as_mut().map(|leaving| leaving.poll_idle(context, flight)) {
                Some(Poll::Ready(Leaving::Cut)) => {
                    return Poll::Ready(ControlFlow::Break(Ok(())));
                }
                Some(Poll::Ready(Leaving::Shut)) => {
                    leaves = None;
                    Pin::new(&mut connection).graceful_shutdown();
                    continue;
                }
                Some(Poll::Pending) | None => {}
            }
            match driver.parks(context) {
                Poll::Ready(Some(bytes)) => return Poll::Ready(ControlFlow::Continue(bytes)),
                Poll::Ready(None) => {}
                Poll::Pending => break,
            }
        }
        if !flight.is_idle() {
            flight.set_waker(Some(context.waker().clone()));
            // A request may have ended before that.
            if flight.is_idle() {
                context.waker().wake_by_ref();
            }
        }
        Poll::Pending
    });
    let end = match ended.await {
        ControlFlow::Break(served) => {
            drop(connection);
            served.map(|()| End::Over).map_err(io::Error::other)
        }
        ControlFlow::Continue(bytes) => Ok(match connection.into_parts() {
            Some(http1::Parts { io, read_buf, .. }) => {
                End::parks(io.into_parts(bytes == Bytes::OfTheRequest, &read_buf))
            }
            None => End::Over,
        }),
    };
    // Behind the end of its handler. An upgraded connection keeps nothing of its request's.
    drop(flight.take_pass());
    end
}

/// The first bytes that the next process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    /// Those that hyper has left: no request is in flight.
    LeftByHyper,
    /// All of the request that is in flight: its handler has not begun, or has waited for more of it.
    OfTheRequest,
}

/// Decides when a connection of HTTP/1 is parked or closed.
struct Driver<'a> {
    flight: &'a Arc<Flight>,
    to_park: Pin<Box<dyn Future<Output = ()> + Send>>,
    to_close: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    gate_opens: Option<Pin<Box<dyn Future<Output = OwnedPass> + Send>>>,
    /// Until a reply goes on without a pass.
    grace: Option<Pin<Box<Sleep>>>,
}

impl<'a> Driver<'a> {
    fn new(flight: &'a Arc<Flight>) -> Self {
        Self {
            flight,
            to_park: Box::pin(flight.ticket().told_to_park()),
            to_close: Some(Box::pin(flight.ticket().told_to_close())),
            gate_opens: None,
            grace: None,
        }
    }

    /// Ready once.
    fn is_told_to_close(&mut self, context: &mut Context<'_>) -> bool {
        let Some(to_close) = &mut self.to_close else { return false };
        let is_told = to_close.as_mut().poll(context).is_ready();
        if is_told {
            self.to_close = None;
        }
        is_told
    }

    /// Whether the handler of its request can begin no more: another process serves.
    fn is_too_late(&self) -> bool {
        self.to_close.is_none() && !self.flight.is_idle() && self.flight.stage() == Stage::Waits
    }

    fn poll_gate(&mut self, context: &mut Context<'_>) -> Poll<OwnedPass> {
        let gate = self.flight.gate();
        let opens = self.gate_opens.get_or_insert_with(|| Box::pin(gate.entered_owned()));
        let polled = opens.as_mut().poll(context);
        if polled.is_ready() {
            self.gate_opens = None;
        }
        polled
    }

    /// After a poll of the connection: whether it is parked now, or polled once more.
    fn parks(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let flight = self.flight;
        if flight.take_served() && flight.is_idle() {
            drop(flight.take_pass());
            flight.ticket().served();
        }
        if self.to_close.is_none() || self.to_park.as_mut().poll(context).is_pending() {
            self.grace = None;
            // With bytes of a request that may not begin the opened gate is the only event.
            if self.to_close.is_some() && !flight.gate().is_open() {
                return self.poll_gate(context).map(|_pass| None);
            }
            return Poll::Pending;
        }
        let (is_idle, stage) = (flight.is_idle(), flight.stage());
        let is_blocked = flight.is_write_blocked.load(Ordering::Relaxed);
        if is_idle {
            // The rest of a body is hyper's to read, or to close the connection.
            let is_between = if flight.is_opaque.load(Ordering::Relaxed) {
                !flight.is_body_cut()
            } else {
                flight.is_between_bodies.load(Ordering::Relaxed)
            };
            let parks = flight.is_carried && !is_blocked && is_between;
            return if parks { Poll::Ready(Some(Bytes::LeftByHyper)) } else { Poll::Pending };
        }
        if stage == Stage::Replied {
            let grace = self.grace.get_or_insert_with(|| Box::pin(sleep(PASS_GRACE)));
            if is_blocked || grace.as_mut().poll(context).is_ready() {
                drop(flight.take_pass());
            }
            return Poll::Pending;
        }
        self.grace = None;
        let waits = stage == Stage::Waits || flight.is_starved();
        if waits && flight.is_carried && !is_blocked && flight.can_hand_anew.load(Ordering::Relaxed)
        {
            return Poll::Ready(Some(Bytes::OfTheRequest));
        }
        Poll::Pending
    }
}

/// HTTP/2 is not carried: it leaves, and the client opens another connection.
async fn http2<S: HttpService>(
    io: Io,
    flight: &Arc<Flight>,
    builder: &http2::Builder<TokioExecutor>,
    service: S,
) -> io::Result<()> {
    let handler = Handler::new(service, Arc::clone(flight), Passes::OfRequest);
    let mut connection = pin!(builder.serve_connection(io, handler));
    let ticket = flight.ticket();
    let (mut to_leave, mut to_close) = (Some(ticket.told_to_leave()), ticket.told_to_close());
    let mut last_grace: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        if to_leave.as_mut().is_some_and(|told| Pin::new(told).poll(context).is_ready()) {
            to_leave = None;
            connection.as_mut().graceful_shutdown();
        }
        if last_grace.is_none() && Pin::new(&mut to_close).poll(context).is_ready() {
            last_grace = Some(Box::pin(sleep(LAST_GRACE)));
        }
        let is_late =
            last_grace.as_mut().is_some_and(|grace| grace.as_mut().poll(context).is_ready());
        if is_late {
            return Poll::Ready(Ok(()));
        }
        connection.as_mut().poll(context).map_err(io::Error::other)
    })
    .await
}

/// The first bytes of HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of a connection that has to leave, between two requests.
const IDLE_GRACE: Duration = Duration::from_millis(300);
/// For the replies of a connection of HTTP/2 that has not left, once another process serves.
const LAST_GRACE: Duration = Duration::from_secs(5);
