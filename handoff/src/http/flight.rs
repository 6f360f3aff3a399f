//! The requests of a connection that are in flight: their passes, their bodies and their replies.

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::connection::Unserved;
use super::sockets::Sockets;
use crate::carry::Ticket;
use crate::drainable::{Gate, OwnedPass};

pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// What the requests of a connection and the task that drives it tell each other.
#[derive(Debug)]
pub(super) struct Flight {
    gate: Arc<Gate>,
    /// Requests whose handler has not returned, whose body a handler still has, or whose reply was not
    /// handed over to the connection.
    in_flight: AtomicUsize,
    /// Of the request that came last.
    stage: AtomicU8,
    /// A handler has asked for more of a body than the client has sent, since this was last reset.
    is_starved: AtomicBool,
    /// The client does not take what was written.
    pub(super) is_write_blocked: AtomicBool,
    /// The bytes of the request that hyper has are all at hand.
    pub(super) can_hand_anew: AtomicBool,
    /// hyper waits for no byte of a body, as far as the requests are known.
    pub(super) is_between_bodies: AtomicBool,
    /// Where the requests begin and end is not known.
    pub(super) is_opaque: AtomicBool,
    /// A handler has left a part of a body unread.
    is_body_cut: AtomicBool,
    /// Of the task that drives the connection, while it waits for the end of a request.
    waker: Mutex<Option<Waker>>,
    /// A request was answered, since this was last taken.
    is_served: AtomicBool,
    /// Whose connection it is: also after it has changed its protocol.
    ticket: Arc<Ticket<Unserved>>,
    /// The pass of a handler, on HTTP/1.1.
    pass: Mutex<Option<OwnedPass>>,
    permit: Permit,
    sockets: Arc<[Arc<dyn Sockets>]>,
    peer: Option<Peer>,
    /// Whether the connection can go to another process between two requests.
    pub(super) is_carried: bool,
    /// No byte of a request is with hyper.
    pub(super) is_at_start: AtomicBool,
    /// A request waits in front of hyper for the gate.
    pub(super) is_held_back: AtomicBool,
    /// A reply has said that the protocol changes.
    pub(super) is_switched: AtomicBool,
}

/// Counts a connection, also one that becomes another's.
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(feature = "ws"), expect(dead_code, reason = "it is held"))]
pub(super) struct Permit(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Permit {
    pub(super) fn new(permit: Option<OwnedSemaphorePermit>) -> Self {
        Self(Arc::new(Mutex::new(permit)))
    }

    /// For whoever serves the connection next.
    #[cfg(feature = "ws")]
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The address of the client: an extension of each request. It is what the operating system says of the
/// socket, behind a proxy the proxy's.
///
/// With axum: `Extension(Peer(address)): Extension<Peer>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// What a request that changes the protocol needs of its connection.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "ws"), expect(dead_code, reason = "WebSockets need it"))]
pub(super) struct Client {
    pub(super) name: String,
    pub(super) permit: Permit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// Its handler has not begun: it waits for the gate.
    Waits,
    /// Its handler runs.
    Runs,
    /// Its handler has returned the reply.
    Replied,
}

impl Flight {
    pub(super) fn new(
        gate: Arc<Gate>,
        ticket: Arc<Ticket<Unserved>>,
        permit: Permit,
        sockets: Arc<[Arc<dyn Sockets>]>,
        is_carried: bool,
        peer: Option<SocketAddr>,
    ) -> Self {
        Self {
            peer: peer.map(Peer),
            is_carried,
            is_at_start: AtomicBool::new(true),
            is_held_back: AtomicBool::new(false),
            is_switched: AtomicBool::new(false),
            gate,
            ticket,
            permit,
            sockets,
            can_hand_anew: AtomicBool::new(false),
            is_between_bodies: AtomicBool::new(true),
            is_opaque: AtomicBool::new(false),
            is_body_cut: AtomicBool::new(false),
            waker: Mutex::new(None),
            is_served: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            stage: AtomicU8::new(Stage::Replied as u8),
            is_starved: AtomicBool::new(false),
            is_write_blocked: AtomicBool::new(false),
            pass: Mutex::new(None),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            stage if stage == Stage::Waits as u8 => Stage::Waits,
            stage if stage == Stage::Runs as u8 => Stage::Runs,
            _ => Stage::Replied,
        }
    }

    fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }

    /// Before the connection is polled: afterwards [`is_starved`](Self::is_starved) is of that poll.
    pub(super) fn reset(&self) {
        self.is_starved.store(false, Ordering::Relaxed);
    }

    /// Whether the handler waits for its client to send more of the body.
    pub(super) fn is_starved(&self) -> bool {
        self.is_starved.load(Ordering::Relaxed)
    }

    /// Whether a request was answered since the last call.
    pub(super) fn take_served(&self) -> bool {
        self.is_served.swap(false, Ordering::Relaxed)
    }

    /// Lets a request that asks for it become one of the service's other connections.
    fn offer_sockets<B>(&self, request: &mut Request<B>) {
        if self.sockets.is_empty() || !request.headers().contains_key(UPGRADE) {
            return;
        }
        let client = Client { name: self.ticket.name(), permit: self.permit.clone() };
        request.extensions_mut().insert(client);
        for sockets in &*self.sockets {
            Arc::clone(sockets).offer(request.extensions_mut());
        }
    }

    pub(super) fn ticket(&self) -> &Ticket<Unserved> {
        &self.ticket
    }

    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Whether some handler has left a part of a body unread.
    pub(super) fn is_body_cut(&self) -> bool {
        self.is_body_cut.load(Ordering::Relaxed)
    }

    /// Whom the end of the last request wakes; none while the connection is polled.
    pub(super) fn set_waker(&self, waker: Option<Waker>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    /// The pass of the request of HTTP/1.1, for whoever ends it.
    pub(super) fn take_pass(&self) -> Option<OwnedPass> {
        self.pass().take()
    }

    fn give_pass(&self, pass: OwnedPass) {
        *self.pass() = Some(pass);
    }

    fn pass(&self) -> MutexGuard<'_, Option<OwnedPass>> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request in flight until its last copy is dropped.
#[derive(Debug)]
struct InFlight(Arc<Flight>);

impl InFlight {
    fn new(flight: &Arc<Flight>) -> Self {
        flight.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(flight))
    }
}

impl Clone for InFlight {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.is_served.store(true, Ordering::Relaxed);
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            let waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// A service that answers requests of HTTP: a `Router` of axum, a server of tonic, a stack of tower.
///
/// Every [`tower::Service`](tower_service::Service) is one that takes a [`Request`] with a [`Body`] of
/// this module, or with any body, and returns a [`Response`].
pub trait HttpService:
    Service<
        Request<Body>,
        Response = Response<Self::ReplyBody>,
        Error: Into<Box<dyn StdError + Send + Sync>>,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
    /// The body of its replies.
    type ReplyBody: http_body::Body<Data: Send, Error: Into<Box<dyn StdError + Send + Sync>>>
        + Send
        + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    S::Future: Send,
    B: http_body::Body<Data: Send, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    type ReplyBody = B;
}

/// Where the pass of a request is while its handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passes {
    /// With the connection, which has one request at a time.
    OfConnection,
    /// With the request: there are many at a time.
    OfRequest,
}

/// Answers the requests of one connection, each with a pass of the gate until its handler returns.
#[derive(Debug)]
pub(super) struct Handler<S> {
    service: S,
    flight: Arc<Flight>,
    passes: Passes,
}

impl<S> Handler<S> {
    pub(super) const fn new(service: S, flight: Arc<Flight>, passes: Passes) -> Self {
        Self { service, flight, passes }
    }
}

impl<S: HttpService> hyper::service::Service<Request<Incoming>> for Handler<S> {
    type Response = Response<Reply<S::ReplyBody>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let Self { service, flight, passes } = self;
        let (mut service, flight, passes) = (service.clone(), Arc::clone(flight), *passes);
        flight.enter(Stage::Waits);
        let in_flight = InFlight::new(&flight);
        let of_body = in_flight.clone();
        let in_flight_of = Some(of_body);
        let mut request = request.map(|incoming| Body {
            is_whole: http_body::Body::is_end_stream(&incoming),
            incoming,
            in_flight: in_flight_of,
            to_park: None,
            grace: None,
        });
        if let Some(peer) = flight.peer {
            request.extensions_mut().insert(peer);
        }
        flight.offer_sockets(&mut request);
        Box::pin(async move {
            let pass = match flight.gate.enter_owned() {
                Ok(pass) => pass,
                Err(_) => {
                    if passes == Passes::OfConnection {
                        // Of the request before, whose reply is written.
                        drop(flight.take_pass());
                    }
                    flight.gate.entered_owned().await
                }
            };
            let of_request = match passes {
                Passes::OfRequest => Some(pass),
                Passes::OfConnection => {
                    flight.give_pass(pass);
                    None
                }
            };
            flight.enter(Stage::Runs);
            poll_fn(|context| service.poll_ready(context)).await.map_err(Into::into)?;
            let reply = service.call(request).await;
            flight.enter(Stage::Replied);
            drop(of_request);
            let mut reply = reply.map_err(Into::into)?;
            if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
                flight.is_switched.store(true, Ordering::Release);
            }
            let leaves = !flight.is_carried && flight.ticket().is_told_to_leave();
            if leaves && passes == Passes::OfConnection && !reply.status().is_informational() {
                reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let events = are_events(&reply).then(|| Events::new(&flight, passes));
            Ok(reply.map(|body| Reply { body, events, has_ended: false, in_flight }))
        })
    }
}

/// The body of a request, as the client sends it.
pub struct Body {
    incoming: Incoming,
    is_whole: bool,
    in_flight: Option<InFlight>,
    to_park: Option<Told>,
    grace: Option<Pin<Box<Sleep>>>,
}

impl Body {
    /// Whether a drain waits for a client that does not send the rest.
    fn is_given_up(&mut self, context: &mut Context<'_>) -> bool {
        let Some(InFlight(flight)) = &self.in_flight else { return false };
        flight.is_starved.store(true, Ordering::Relaxed);
        let told = || Box::pin(flight.ticket().told_to_park()) as Told;
        if self.to_park.get_or_insert_with(told).as_mut().poll(context).is_pending() {
            self.grace = None;
            return false;
        }
        let grace = self.grace.get_or_insert_with(|| Box::pin(sleep(PASS_GRACE)));
        grace.as_mut().poll(context).is_ready()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.in_flight.is_none() {
            // It has ended, or has failed.
            return Poll::Ready(None);
        }
        let polled = match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Pending if self.is_given_up(context) => Poll::Ready(Some(Err(
                "the service is replaced, and the rest of the body does not come".into(),
            ))),
            polled => polled.map_err(BoxError::from),
        };
        match &polled {
            Poll::Ready(None) => (self.is_whole, self.in_flight) = (true, None),
            Poll::Ready(Some(Err(_))) => drop(self.as_mut().leave_rest()),
            Poll::Ready(Some(Ok(_))) => self.is_whole = self.incoming.is_end_stream(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Body {
    /// No more of it is read.
    fn leave_rest(&mut self) -> Option<InFlight> {
        let in_flight = self.in_flight.take()?;
        if !self.is_whole {
            in_flight.0.is_body_cut.store(true, Ordering::Relaxed);
        }
        Some(in_flight)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.leave_rest();
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Body").field(&self.incoming).finish()
    }
}

type Told = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Server-sent events never end by themselves, and their client opens them again, from the last one that
/// it has seen.
fn are_events<B>(reply: &Response<B>) -> bool {
    let content_type = reply.headers().get(hyper::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// The end of such a reply, before the gate closes.
struct Events {
    told: Told,
    /// A connection of HTTP/1.1 is told, and waited for, until the reply has ended; one that cannot be
    /// carried leaves anyway.
    connection: Option<Arc<Flight>>,
}

impl Events {
    fn new(flight: &Arc<Flight>, passes: Passes) -> Self {
        let is_told = passes == Passes::OfConnection && flight.is_carried;
        let connection = is_told.then(|| Arc::clone(flight));
        if let Some(flight) = &connection {
            flight.ticket().set_leaves(true);
        }
        Self { told: Box::pin(flight.ticket().hears_of_leaving()), connection }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(flight) = &self.connection {
            flight.ticket().set_leaves(false);
        }
    }
}

pin_project_lite::pin_project! {
    /// The body of a reply; its request is in flight until it ends.
    pub(super) struct Reply<B> {
        #[pin]
        body: B,
        events: Option<Events>,
        has_ended: bool,
        in_flight: InFlight,
    }
}

impl<B: http_body::Body> http_body::Body for Reply<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if let Some(events) = this.events
            && events.told.as_mut().poll(context).is_ready()
        {
            *this.events = None;
            *this.has_ended = true;
        }
        if *this.has_ended {
            return Poll::Ready(None);
        }
        this.body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Of a drain, for the rest of a body that is too long to be handed to the next process anew, and for
/// that of a reply.
pub(super) const PASS_GRACE: Duration = Duration::from_millis(300);
