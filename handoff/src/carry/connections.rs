//! Connections that outlive the process that serves them.

#[cfg(feature = "tokio")]
mod accept;
mod drive;
mod ticket;
mod told;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::carry::format::{Carried, Reads};
use crate::carry::set::Set;
use crate::protocol::cut;
use crate::sys::rights::MAX_DESCRIPTORS;
use crate::sys::socket::part_from;
use crate::sys::sync::{Event, IntoNotification};
use crate::wait;
#[cfg(feature = "tokio")]
pub use accept::Listens;
pub use ticket::{Arrival, Ticket};
use told::{Served, Told, Word};

/// The connections of a daemon. Each goes to the next process with a state of the daemon's own:
/// the bytes read of the next request, the client's user, the progress of its session.
///
/// A connection is a descriptor of any kind: a TCP or Unix socket, UDP, a pipe, a terminal. Its
/// handler holds a [`Ticket`]. When the handler is told to, it *parks* at the next request
/// boundary: it gives up the descriptor and the state. After the commit the new process takes
/// them up. After a swap that was given up the old one does, in the same way:
///
/// ```
/// # use std::{pin::pin, sync::Arc};
/// # use handoff::Gate;
/// # use handoff::carry::{Arrival, Carried, Connections, Ticket};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Default, Serialize, Deserialize)] struct Client;
/// # impl Carried for Client { const NAME: &'static str = "c"; const VERSION: u32 = 1; }
/// # struct Stream(std::net::TcpStream);
/// # impl Stream {
/// #     async fn read_more(&mut self, _: &mut Client) -> bool { false }
/// #     async fn answer(&mut self, _: ()) {}
/// # }
/// # impl From<Stream> for std::os::fd::OwnedFd { fn from(stream: Stream) -> Self { stream.0.into() } }
/// # impl From<std::os::fd::OwnedFd> for Stream { fn from(fd: std::os::fd::OwnedFd) -> Self { Self(fd.into()) } }
/// # impl Client { fn next_request(&mut self) -> Option<()> { None } fn put_back(&mut self, _: ()) {} }
/// # async fn select<T>(_: impl Future<Output = ()>, _: impl Future<Output = T>) -> Option<T> { None }
/// # fn spawn(_: impl Future<Output = ()>) {}
/// async fn serve(gate: Arc<Gate>, mut stream: Stream, mut client: Client, ticket: Ticket<Client>) {
///     let mut told_to_park = pin!(ticket.told_to_park());
///     loop {
///         while let Some(request) = client.next_request() {
///             let Ok(_pass) = gate.enter() else {
///                 client.put_back(request); // it was not begun
///                 return ticket.park(stream, client); // whoever serves next begins it
///             };
///             stream.answer(request).await; // to its end: a drain waits for the pass
///             ticket.served(); // so it is not idle: those are parked first
///         }
///         // Waiting for more may be cut short, a request that was begun may not.
///         match select(&mut told_to_park, stream.read_more(&mut client)).await {
///             None => return ticket.park(stream, client),
///             Some(true) => {}
///             Some(false) => return, // the client has closed
///         }
///     }
/// }
///
/// /// Runs beside the loop that accepts, for as long as the process does.
/// async fn serve_arrivals(gate: Arc<Gate>, clients: Arc<Connections<Client>>) {
///     loop {
///         let Arrival { descriptor, state, ticket } = clients.arrival().await;
///         spawn(serve(gate.clone(), Stream::from(descriptor), state, ticket));
///     }
/// }
/// ```
///
/// A drain waits for the passes of the gate, for the length of its grace, and then for handlers, for as
/// long as one parks within 300 ms of another. A handler that is still busy then is named in the
/// report. It may park until the shards are sealed; after that it may finish its request in the old
/// process if [`Late::Finish`] was chosen, and is told to close otherwise. Either way `main` gives it
/// the time, with [`wait_ended`](Self::wait_ended): the old process ends when `main` returns.
///
/// While a swap is under way two processes have each connection. A handler that ends one
/// meanwhile has to shut it down: a descriptor that it merely drops is not the last one.
pub struct Connections<S> {
    reads: Reads<S>,
    may_be_lost: bool,
    late: Late,
    leave_grace: Duration,
    state: Mutex<Inner<S>>,
    /// Changes with the mode.
    told: Told,
    /// How often `arrival` was called.
    asked: AtomicU32,
    /// A connection waits for a handler.
    arrived: Event,
    /// Handlers parked or ended, a parcel was sent, or a wait was interrupted.
    changed: Event,
}

/// The fate of connections that did not park in time, once another process serves or this one
/// stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Late {
    /// Their handlers are told to close them: [`Ticket::told_to_close`].
    #[default]
    Close,
    /// Their handlers finish the requests that they have begun.
    Finish,
}

struct Inner<S> {
    mode: Mode,
    interrupted: bool,
    /// Those that have a handler.
    live: HashMap<u64, Live>,
    /// How many of them are awaited while the others are still served.
    awaited: usize,
    /// Those of them that were not woken yet.
    unwoken: Vec<Arc<Served>>,
    next_key: u64,
    carrier: Option<Thread>,
    /// Parked, and not sent.
    unsent: VecDeque<Parked<S>>,
    /// Parked, and sent: this process neither reads nor closes them until the swap is over
    /// (invariants 13 and 14).
    sent: Vec<Parked<S>>,
    /// They wait for a handler.
    waiting: Vec<Parked<S>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// No handler may take a connection yet.
    Held,
    /// The same for connections of an incumbent, which serves them again unless this process
    /// commits (invariant 13).
    Arrived,
    Serving,
    /// Connections that cannot be carried end by themselves. One that parks is kept.
    Leaving,
    /// A connection that parks is kept. Busy ones are still served.
    CollectingIdle,
    /// A connection that parks is kept.
    Collecting,
    /// The daemon is being stopped: a connection that parks is closed.
    Stopping,
    /// Another process serves, or this one has stopped.
    Parted,
}

struct Live {
    name: String,
    served: Arc<Served>,
    is_awaited: bool,
    /// Whether it cannot be carried, and is told to leave.
    leaves: bool,
}

struct Parked<S> {
    name: String,
    descriptor: OwnedFd,
    state: S,
}

impl<S: Carried> Connections<S> {
    /// Without any. No handler can take a connection before this process serves.
    #[must_use]
    pub fn new() -> Self {
        Self {
            reads: Reads::new(),
            may_be_lost: false,
            late: Late::default(),
            leave_grace: LEAVE_GRACE,
            state: Mutex::new(Inner {
                mode: Mode::Held,
                interrupted: false,
                live: HashMap::new(),
                awaited: 0,
                unwoken: Vec::new(),
                next_key: 0,
                carrier: None,
                unsent: VecDeque::new(),
                sent: Vec::new(),
                waiting: Vec::new(),
            }),
            told: Told::new(),
            asked: AtomicU32::new(0),
            arrived: Event::new(),
            changed: Event::new(),
        }
    }

    /// Also reads the states of another build: of an older one, or of the next one, so that a swap
    /// back from that keeps the connections.
    #[must_use]
    pub fn from<Older: Carried>(mut self) -> Self
    where
        S: From<Older>,
    {
        self.reads = self.reads.from::<Older>();
        self
    }

    /// A swap may do without them: where the successor does not carry them, or cannot read their
    /// states, they are closed after the commit. Without this, the swap is undone instead.
    #[must_use]
    pub const fn may_be_lost(mut self) -> Self {
        self.may_be_lost = true;
        self
    }

    /// The fate of those that do not park in time; [`Late::Close`] by default.
    #[must_use]
    pub const fn late(mut self, late: Late) -> Self {
        self.late = late;
        self
    }

    /// The maximum wait for connections that are told to leave ([`Ticket::told_to_leave`]); 2 seconds
    /// by default. Requests are served meanwhile.
    #[must_use]
    pub const fn leave_grace(mut self, grace: Duration) -> Self {
        self.leave_grace = grace;
        self
    }

    /// Tells handlers to park, as a drain does: for the tests of a daemon, and for a program
    /// without an [`Incumbent`](crate::Incumbent). Does nothing while this process sends
    /// connections to a successor, once another process serves, and in a successor that was sent
    /// connections and has not committed.
    pub fn close(&self) {
        if !self.is_being_carried() {
            self.collect(None);
        }
    }

    /// Lets handlers take the parked connections, as serving does. Does nothing in the same cases.
    pub fn open(&self) {
        if !self.is_being_carried() {
            self.take_back(true);
            self.release();
        }
    }

    fn is_being_carried(&self) -> bool {
        let state = self.state();
        state.carrier.is_some()
            || !state.sent.is_empty()
            || matches!(state.mode, Mode::Arrived | Mode::Parted)
    }

    /// Counts a connection that was accepted. The report of a drain calls it `name`: the client's
    /// address, say.
    ///
    /// Accept and enter inside the gate, with a pass in hand: then a drain, which waits for the
    /// pass, cannot overlook the connection.
    pub fn enter(self: &Arc<Self>, name: impl Into<String>) -> Ticket<S> {
        let mut state = self.state();
        self.ticket(&mut state, cut(name.into(), MAX_NAME_LEN))
    }

    /// Waits for a connection that came from another process, or back from one. Those that were
    /// busy last come first. Runs on any executor.
    pub async fn arrival(self: &Arc<Self>) -> Arrival<S> {
        // Thousands may wait at once: those that a handler has taken have their turn in between.
        let mut gives_way = self.asked.fetch_add(1, Ordering::Relaxed) % A_TURN == A_TURN - 1;
        poll_fn(|context| {
            if std::mem::take(&mut gives_way) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        wait::until(&self.arrived, || self.try_arrival()).await
    }

    /// [`arrival`](Self::arrival), for a thread: none if there was none until the deadline.
    /// Without a deadline it waits for ever.
    pub fn wait_arrival(self: &Arc<Self>, deadline: Option<Instant>) -> Option<Arrival<S>> {
        wait::blocking(&self.arrived, deadline, || self.try_arrival())
    }

    /// One that waits already.
    pub fn try_arrival(self: &Arc<Self>) -> Option<Arrival<S>> {
        let mut state = self.state();
        if state.mode != Mode::Serving {
            return None;
        }
        let Parked { name, descriptor, state: carried } = state.waiting.pop()?;
        let ticket = self.ticket(&mut state, name);
        Some(Arrival { descriptor, state: carried, ticket })
    }

    /// Whether connections are about to go to another process, or have: from the moment at which those
    /// that cannot be carried are told to leave, and before this process serves.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.told.to_leave()
    }

    /// How many have a handler now.
    #[must_use]
    pub fn live(&self) -> usize {
        self.state().live.len()
    }

    /// Blocks until no connection has a handler; how many still have one at the deadline. For
    /// `main`, after [`Incumbent::serve`](crate::Incumbent::serve) has returned.
    pub fn wait_ended(&self, deadline: Instant) -> usize {
        let ended = || (self.live() == 0).then_some(0);
        wait::blocking(&self.changed, Some(deadline), ended).unwrap_or_else(|| self.live())
    }

    fn ticket(self: &Arc<Self>, state: &mut Inner<S>, name: String) -> Ticket<S> {
        let key = state.next_key;
        state.next_key += 1;
        let served = Arc::new(self.told.served());
        let live = Live { name, served: Arc::clone(&served), is_awaited: false, leaves: false };
        state.live.insert(key, live);
        Ticket { set: Arc::clone(self), key, served }
    }
}

impl<S> Connections<S> {
    fn state(&self) -> MutexGuard<'_, Inner<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter_mode(&self, state: &mut Inner<S>, mode: Mode) {
        state.mode = mode;
        self.told.set(match mode {
            Mode::Serving => Word::Serve,
            Mode::Leaving => Word::Leave,
            Mode::CollectingIdle => Word::ParkIfIdle,
            // No request is admitted, so handlers park.
            Mode::Held | Mode::Arrived | Mode::Collecting | Mode::Stopping => Word::Park,
            Mode::Parted => Word::Close,
        });
    }

    /// Notes that a connection cannot be carried.
    fn leaves(&self, key: u64) {
        if let Some(live) = self.state().live.get_mut(&key) {
            live.leaves = true;
        }
    }

    /// Notes that a connection can be carried after all.
    #[cfg(feature = "http")]
    fn stays(&self, key: u64) {
        let mut state = self.state();
        if let Some(live) = state.live.get_mut(&key) {
            live.leaves = false;
        }
        let is_awaited = state.mode == Mode::Leaving;
        drop(state);
        if is_awaited {
            self.changed.notify(usize::MAX);
        }
    }

    /// Wakes every handler, which looks at the word again.
    fn wake_all(&self) {
        let live: Vec<_> =
            self.state().live.values().map(|live| Arc::clone(&live.served)).collect();
        live.iter().for_each(|served| served.wake());
    }

    /// A handler has ended: it has parked its connection, or the connection is over.
    fn leave(&self, key: u64, parked: Option<(OwnedFd, S)>) {
        let mut state = self.state();
        let Some(Live { name, is_awaited, leaves, .. }) = state.live.remove(&key) else { return };
        if is_awaited {
            state.awaited -= 1;
        }
        let is_last = state.live.is_empty()
            || is_awaited && state.awaited.is_multiple_of(WOKEN_AT_ONCE)
            || leaves && state.mode == Mode::Leaving;
        let to_close = match parked {
            Some((descriptor, carried)) => state.park(Parked { name, descriptor, state: carried }),
            None => None,
        };
        let (is_awaited, arrives) = (state.mode != Mode::Serving, !state.waiting.is_empty());
        drop(state);
        if is_last && is_awaited {
            self.changed.notify(usize::MAX);
        }
        if arrives {
            self.arrived.notify(1.additional());
        }
        if let Some(parked) = to_close {
            part_from(parked.descriptor);
        }
    }
}

impl<S> Inner<S> {
    /// Of those that have a handler, in order.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.live.values().map(|live| live.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Connections that no handler has taken yet go on as they came.
    fn send_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.unsent.extend(waiting);
        self.wake_carrier();
    }

    /// Wakes the carrier if there are enough for a parcel.
    fn wake_carrier(&self) {
        if self.unsent.len() >= MAX_DESCRIPTORS
            && let Some(carrier) = &self.carrier
        {
            carrier.unpark();
        }
    }

    /// Gives it back, to be closed, where no handler will take it.
    fn park(&mut self, parked: Parked<S>) -> Option<Parked<S>> {
        match self.mode {
            Mode::Leaving | Mode::CollectingIdle | Mode::Collecting => {
                self.unsent.push_back(parked);
                self.wake_carrier();
            }
            // The drain that it parks for is over already (invariant 14).
            Mode::Held | Mode::Arrived | Mode::Serving => self.waiting.push(parked),
            Mode::Stopping | Mode::Parted => return Some(parked),
        }
        None
    }
}

impl<S: Carried> Default for Connections<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> fmt::Debug for Connections<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Connections")
            .field("mode", &state.mode)
            .field("live", &state.live.len())
            .field("parked", &(state.unsent.len() + state.sent.len() + state.waiting.len()))
            .finish_non_exhaustive()
    }
}

const LEAVE_GRACE: Duration = Duration::from_secs(2);
const A_TURN: u32 = 32;
const WOKEN_AT_ONCE: usize = 64;
const MAX_NAME_LEN: usize = 128;

#[cfg(test)]
mod tests;
