//! Connections that outlive the process that serves them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::{pending, poll_fn};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::thread::Thread;
use std::time::{Duration, Instant};

use event_listener::{Event, IntoNotification, Listener};

use crate::carry::SealedMemory;
use crate::carry::format::{Carried, Format, Reads};
use crate::carry::set::{AnySet, Carry, Item, Parcel, SendParcel, Set, descriptors_of};
use crate::carry::wire::{Bytes, ItemWords, LONGEST_INLINE, PARCEL_BYTES, StateWords};
use crate::error::{CarryError, Result};
use crate::frame::write_value;
use crate::protocol::{CarryFate, CarryKind, cut};
use crate::sys::rights::MOST_AT_ONCE;
use crate::sys::socket::part_from;

/// The connections of a daemon, each of which goes to the next process with a state of the
/// daemon's own: what was read of the next request, who the client is, where its session stands.
///
/// A connection is a descriptor of any kind: a TCP or Unix socket, UDP, a pipe, a terminal. Its
/// handler holds a [`Ticket`]. When it is told to it *parks* at the next request boundary:
/// it gives up the descriptor and the state. After the commit the new process takes them up;
/// after a swap that was given up this one does, by the very same road:
///
/// ```
/// # use std::sync::Arc;
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
///     loop {
///         while let Some(request) = client.next_request() {
///             let Ok(_pass) = gate.enter() else {
///                 client.put_back(request); // it was not begun
///                 break;
///             };
///             stream.answer(request).await; // to its end: a drain waits for the pass
///             ticket.served(); // so it is not idle: those are parked first
///         }
///         // Waiting for more may be cut short, a request that was begun may not.
///         match select(ticket.told_to_park(), stream.read_more(&mut client)).await {
///             None => return ticket.park(stream, client),
///             Some(true) => {}
///             Some(false) => return, // the client has closed
///         }
///     }
/// }
///
/// /// Runs beside the loop that accepts, for as long as the process does.
/// async fn take_up(gate: Arc<Gate>, clients: Arc<Connections<Client>>) {
///     loop {
///         let Arrival { descriptor, state, ticket } = clients.arrival().await;
///         spawn(serve(gate.clone(), Stream::from(descriptor), state, ticket));
///     }
/// }
/// ```
///
/// A handler that is still busy when the grace of the drain is over is named in the report. It
/// may park until the shards are sealed; after that it may finish its request in the old process
/// if [`Late::Finish`] was chosen, and is told to close otherwise. Either way `main` gives it the
/// time, with [`wait_ended`](Self::wait_ended): the old process ends when `main` returns.
///
/// While a swap is under way two processes have each connection. One that is closed meanwhile is
/// over for its client only if it was shut down: a descriptor that is merely dropped is not the
/// last one.
pub struct Connections<S> {
    reads: Reads<S>,
    may_be_lost: bool,
    late: Late,
    state: Mutex<State<S>>,
    /// What handlers are told: [`SERVE`] and so on. Looked at without the lock.
    told: AtomicU8,
    /// Whether handlers listen to it.
    is_listened_to: AtomicBool,
    /// From when on milliseconds are counted.
    begun: Instant,
    /// How often somebody asked for one.
    asked: AtomicU32,
    /// There is something to take up.
    arrived: Event,
    /// Handlers are told something else.
    retold: Event,
    /// The last one parked or ended, or the wait for it is pointless.
    changed: Event,
}

/// What becomes of connections whose handlers did not park in time, once another process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Late {
    /// Their handlers are told to close them: [`Ticket::told_to_close`].
    #[default]
    Close,
    /// Their handlers finish what they are at.
    Finish,
}

struct State<S> {
    phase: Phase,
    interrupted: bool,
    /// Those that have a handler.
    live: HashMap<u64, Live>,
    /// How many of them are awaited while the others are still served.
    awaited: usize,
    next_key: u64,
    carrier: Option<Thread>,
    /// Parked, and not sent.
    unsent: VecDeque<Parked<S>>,
    /// Parked, and sent: not to be touched while the successor may have them.
    sent: Vec<Parked<S>>,
    /// To be taken up.
    waiting: Vec<Parked<S>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing may be taken up yet.
    Held,
    Serving,
    /// What parks is kept. Who is busy is still served.
    CollectingIdle,
    /// What parks is kept.
    Collecting,
    /// The daemon is being stopped: what parks is closed.
    Stopping,
    /// Another process serves.
    Parted,
}

struct Live {
    name: String,
    served: Arc<AtomicU32>,
    is_awaited: bool,
}

struct Parked<S> {
    name: String,
    descriptor: OwnedFd,
    state: S,
}

impl<S: Carried> Connections<S> {
    /// Without any. Nothing can be taken up before this process serves.
    #[must_use]
    pub fn new() -> Self {
        Self {
            reads: Reads::new(),
            may_be_lost: false,
            late: Late::default(),
            state: Mutex::new(State {
                phase: Phase::Held,
                interrupted: false,
                live: HashMap::new(),
                awaited: 0,
                next_key: 0,
                carrier: None,
                unsent: VecDeque::new(),
                sent: Vec::new(),
                waiting: Vec::new(),
            }),
            told: AtomicU8::new(SERVE),
            is_listened_to: AtomicBool::new(false),
            begun: Instant::now(),
            asked: AtomicU32::new(0),
            arrived: Event::new(),
            retold: Event::new(),
            changed: Event::new(),
        }
    }

    /// Also reads the states of an older build.
    #[must_use]
    pub fn from<Older: Carried>(mut self) -> Self
    where
        S: From<Older>,
    {
        self.reads = self.reads.from::<Older>();
        self
    }

    /// A swap may do without them: to a successor that does not carry them, or cannot read
    /// their state, they are closed by the commit. Without this, the swap is undone instead.
    #[must_use]
    pub const fn may_be_lost(mut self) -> Self {
        self.may_be_lost = true;
        self
    }

    /// What becomes of those that do not park in time; [`Late::Close`] if nothing is said.
    #[must_use]
    pub const fn late(mut self, late: Late) -> Self {
        self.late = late;
        self
    }

    /// Tells handlers to park, as a drain does: for a test of a daemon's, and whoever has no
    /// [`Incumbent`](crate::Incumbent).
    pub fn close(&self) {
        self.collect(None);
    }

    /// Lets what is parked be taken up, as serving does; likewise.
    pub fn open(&self) {
        self.take_back(true);
        self.release();
    }

    /// Counts a connection that was accepted. `name` is what the report of a drain calls it: the
    /// client's address, say.
    pub fn enter(self: &Arc<Self>, name: impl Into<String>) -> Ticket<S> {
        let mut state = self.state();
        self.ticket(&mut state, cut(name.into(), LONGEST_NAME))
    }

    /// Waits for a connection that came from another process, or back from one. Those that were
    /// busy last come first. Runs on any executor.
    pub async fn arrival(self: &Arc<Self>) -> Arrival<S> {
        let mut listener = None;
        // Thousands may wait at once: those that were taken up have their turn in between.
        let mut gives_way = self.asked.fetch_add(1, Ordering::Relaxed) % A_TURN == A_TURN - 1;
        poll_fn(|context| {
            if std::mem::take(&mut gives_way) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            loop {
                if let Some(arrival) = self.try_arrival() {
                    return Poll::Ready(arrival);
                }
                let Some(waiting) = &mut listener else {
                    listener = Some(self.arrived.listen());
                    continue;
                };
                ready!(Pin::new(waiting).poll(context));
                listener = None;
            }
        })
        .await
    }

    /// [`arrival`](Self::arrival), for a thread: none if there was none until the deadline.
    /// Without a deadline it waits for ever.
    pub fn wait_arrival(self: &Arc<Self>, deadline: Option<Instant>) -> Option<Arrival<S>> {
        loop {
            let arrived = self.arrived.listen();
            if let Some(arrival) = self.try_arrival() {
                return Some(arrival);
            }
            match deadline {
                None => arrived.wait(),
                Some(deadline) if arrived.wait_deadline(deadline).is_none() => {
                    return self.try_arrival();
                }
                Some(_) => {}
            }
        }
    }

    /// One that waits already.
    pub fn try_arrival(self: &Arc<Self>) -> Option<Arrival<S>> {
        let mut state = self.state();
        if state.phase != Phase::Serving {
            return None;
        }
        let Parked { name, descriptor, state: carried } = state.waiting.pop()?;
        let ticket = self.ticket(&mut state, name);
        Some(Arrival { descriptor, state: carried, ticket })
    }

    /// How many have a handler now.
    #[must_use]
    pub fn live(&self) -> usize {
        self.state().live.len()
    }

    /// Blocks until no connection has a handler; how many still have one at the deadline. For
    /// `main`, after [`Incumbent::serve`](crate::Incumbent::serve) has returned.
    pub fn wait_ended(&self, deadline: Instant) -> usize {
        loop {
            let changed = self.changed.listen();
            let live = self.live();
            if live == 0 || changed.wait_deadline(deadline).is_none() {
                return self.live();
            }
        }
    }

    fn ticket(self: &Arc<Self>, state: &mut State<S>, name: String) -> Ticket<S> {
        let key = state.next_key;
        state.next_key += 1;
        let served = Arc::new(AtomicU32::new(self.now()));
        let live = Live { name, served: Arc::clone(&served), is_awaited: false };
        state.live.insert(key, live);
        Ticket { set: Arc::clone(self), key, served }
    }
}

impl<S> Connections<S> {
    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter_phase(&self, state: &mut State<S>, phase: Phase) {
        state.phase = phase;
        let told = match phase {
            Phase::Held | Phase::Serving => SERVE,
            Phase::CollectingIdle => PARK_IDLE,
            Phase::Collecting | Phase::Stopping => PARK,
            Phase::Parted => CLOSE,
        };
        self.told.store(told, Ordering::SeqCst);
    }

    /// In milliseconds; it goes round after 49 days, and then a connection is taken for busy that
    /// is not.
    fn now(&self) -> u32 {
        self.begun.elapsed().as_millis() as u32
    }

    fn is_idle(&self, served: &AtomicU32) -> bool {
        self.now().wrapping_sub(served.load(Ordering::Relaxed)) >= IDLE_MS
    }

    fn is_told_to_park(&self, served: &AtomicU32) -> bool {
        match self.told.load(Ordering::SeqCst) {
            SERVE => false,
            PARK_IDLE => self.is_idle(served),
            _ => true,
        }
    }

    fn is_told_to_close(&self) -> bool {
        self.told.load(Ordering::SeqCst) == CLOSE
    }

    /// Waits until handlers are told something that makes it so.
    async fn told(&self, is_so: impl Fn() -> bool) {
        let mut listener = None;
        poll_fn(|context| {
            loop {
                if is_so() {
                    return Poll::Ready(());
                }
                let Some(retold) = &mut listener else {
                    listener = Some(self.retold.listen());
                    continue;
                };
                ready!(Pin::new(retold).poll(context));
                listener = None;
            }
        })
        .await;
    }

    /// A handler has ended, with or without its connection.
    fn leave(&self, key: u64, parked: Option<(OwnedFd, S)>) {
        let mut state = self.state();
        let Some(Live { name, is_awaited, .. }) = state.live.remove(&key) else { return };
        if is_awaited {
            state.awaited -= 1;
        }
        let is_last =
            state.live.is_empty() || is_awaited && state.awaited.is_multiple_of(WOKEN_AT_ONCE);
        let to_close = match parked {
            Some((descriptor, carried)) => state.park(Parked { name, descriptor, state: carried }),
            None => None,
        };
        let (is_awaited, arrives) = (state.phase != Phase::Serving, !state.waiting.is_empty());
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

impl<S> State<S> {
    /// Gives it back where nobody will take it up any more.
    fn park(&mut self, parked: Parked<S>) -> Option<Parked<S>> {
        match self.phase {
            Phase::CollectingIdle | Phase::Collecting => {
                self.unsent.push_back(parked);
                if self.unsent.len() >= MOST_AT_ONCE
                    && let Some(carrier) = &self.carrier
                {
                    carrier.unpark();
                }
            }
            // The drain that it parks for is over already.
            Phase::Held | Phase::Serving => self.waiting.push(parked),
            Phase::Stopping | Phase::Parted => return Some(parked),
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
            .field("phase", &state.phase)
            .field("live", &state.live.len())
            .field("parked", &(state.unsent.len() + state.sent.len() + state.waiting.len()))
            .finish_non_exhaustive()
    }
}

/// A connection to be taken up: it was parked by another process, or by this one for a swap
/// that was given up.
#[derive(Debug)]
pub struct Arrival<S> {
    /// The connection, as it was parked. Its file status flags (`O_NONBLOCK`) are as they were:
    /// do not change them while other processes may have it.
    pub descriptor: OwnedFd,
    /// What was parked with it.
    pub state: S,
    /// For its handler.
    pub ticket: Ticket<S>,
}

/// A connection that has a handler. Dropping it says that the connection is over.
#[must_use = "a ticket that is dropped at once says that the connection is over"]
pub struct Ticket<S> {
    set: Arc<Connections<S>>,
    key: u64,
    /// When a request was last served.
    served: Arc<AtomicU32>,
}

impl<S: Carried> Ticket<S> {
    /// Gives the connection up at a request boundary, with what the next handler has to know.
    ///
    /// Nothing may be read from it or written to it any more, by whoever else may have a part of
    /// it. An asynchronous runtime has to have let go of it: `into_std` of tokio's streams does.
    pub fn park(self, descriptor: impl Into<OwnedFd>, state: S) {
        self.set.leave(self.key, Some((descriptor.into(), state)));
    }

    /// Says that a request was served.
    ///
    /// A connection on which none was for a tenth of a second is idle, and parked before the
    /// others: while these are still served, so that a thousand idle connections do not make the
    /// busy ones wait.
    pub fn served(&self) {
        self.served.store(self.set.now(), Ordering::Relaxed);
    }

    /// Waits until the connection is to be parked: a drain has begun. [`Gate::closed`] says so
    /// too, and later: it does not tell who is idle from who is busy. Runs on any executor.
    ///
    /// To wait costs a lock once, when it is first polled: keep one future a connection rather
    /// than one a request.
    ///
    /// [`Gate::closed`]: crate::Gate::closed
    pub fn told_to_park(&self) -> impl Future<Output = ()> + Send + use<S> {
        self.set.is_listened_to.store(true, Ordering::Relaxed);
        let (set, served) = (Arc::clone(&self.set), Arc::clone(&self.served));
        async move { set.told(|| set.is_told_to_park(&served)).await }
    }

    /// Whether the connection is to be parked at its next request boundary.
    #[must_use]
    pub fn is_told_to_park(&self) -> bool {
        self.set.is_listened_to.store(true, Ordering::Relaxed);
        self.set.is_told_to_park(&self.served)
    }

    /// Waits until another process serves and this connection was not carried: its handler
    /// closes it. Never with [`Late::Finish`]. Runs on any executor.
    pub fn told_to_close(&self) -> impl Future<Output = ()> + Send + use<S> {
        let set = Arc::clone(&self.set);
        async move {
            match set.late {
                Late::Close => set.told(|| set.is_told_to_close()).await,
                Late::Finish => pending().await,
            }
        }
    }

    /// Whether its handler is to close it now.
    #[must_use]
    pub fn is_told_to_close(&self) -> bool {
        self.set.late == Late::Close && self.set.is_told_to_close()
    }

    /// What the report of a drain calls it.
    #[must_use]
    pub fn name(&self) -> String {
        self.set.state().live.get(&self.key).map(|live| live.name.clone()).unwrap_or_default()
    }
}

impl<S> Drop for Ticket<S> {
    fn drop(&mut self) {
        self.set.leave(self.key, None);
    }
}

impl<S> fmt::Debug for Ticket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("key", &self.key).finish_non_exhaustive()
    }
}

impl<S: Carried> Carry for Connections<S> {
    fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>)) {
        visit(name.to_owned(), AnySet(self));
    }
}

impl<S: Carried> Set for Connections<S> {
    fn kind(&self) -> CarryKind {
        CarryKind::Connections
    }

    fn may_be_lost(&self) -> bool {
        self.may_be_lost
    }

    fn is_vacant(&self) -> bool {
        let state = self.state();
        state.live.is_empty() && state.waiting.is_empty() && state.unsent.is_empty()
    }

    fn collect_idle(&self, carrier: &Thread) {
        if !self.is_listened_to.load(Ordering::Relaxed) {
            return;
        }
        {
            let mut state = self.state();
            let State { live, awaited, .. } = &mut *state;
            *awaited = 0;
            for live in live.values_mut() {
                live.is_awaited = self.is_idle(&live.served);
                *awaited += usize::from(live.is_awaited);
            }
            self.enter_phase(&mut state, Phase::CollectingIdle);
            state.carrier = Some(carrier.clone());
            // Those that nobody has taken up yet go on as they came.
            let waiting = std::mem::take(&mut state.waiting);
            state.unsent.extend(waiting);
        }
    }

    fn wait_idle(&self, limit: Instant) {
        loop {
            let changed = self.changed.listen();
            {
                let state = self.state();
                let is_sent = state.unsent.len() < MOST_AT_ONCE;
                let is_over = state.awaited == 0 && is_sent || state.interrupted;
                if is_over || state.phase != Phase::CollectingIdle {
                    return;
                }
            }
            // A few at a time: those that are busy have their turn in between.
            self.retold.notify(WOKEN_AT_ONCE.additional());
            let turn = Instant::now() + A_FEW_PARK;
            if changed.wait_deadline(turn.min(limit)).is_none() && Instant::now() >= limit {
                return;
            }
        }
    }

    fn collect(&self, carrier: Option<&Thread>) {
        {
            let mut state = self.state();
            self.enter_phase(&mut state, Phase::Collecting);
            state.carrier = carrier.cloned();
            let waiting = std::mem::take(&mut state.waiting);
            state.unsent.extend(waiting);
        }
        self.retold.notify(usize::MAX);
    }

    fn wait_parked(&self, deadline: Instant) -> Vec<String> {
        loop {
            let changed = self.changed.listen();
            let late = {
                let state = self.state();
                if state.live.is_empty() {
                    return Vec::new();
                }
                state.interrupted
            };
            if late || changed.wait_deadline(deadline).is_none() {
                let state = self.state();
                let mut names: Vec<_> = state.live.values().map(|live| live.name.clone()).collect();
                names.sort_unstable();
                return names;
            }
        }
    }

    fn interrupt(&self) {
        self.state().interrupted = true;
        self.changed.notify(usize::MAX);
    }

    fn send_next(&self, is_last: bool, send: &mut SendParcel<'_>) -> Result<bool> {
        let mut taken = self.take_unsent(is_last);
        if taken.parked.is_empty() {
            return Ok(false);
        }
        let mut items = Vec::with_capacity(taken.parked.len());
        // Where a state is too long for the frame, the memory that it went to.
        let mut apart = Vec::new();
        let (mut length, mut descriptors) = (0, 0);
        for (index, Parked { name, state, .. }) in taken.parked.iter().enumerate() {
            let unwritable =
                |why| CarryError::Unwritable { set: S::NAME.to_owned(), item: name.clone(), why };
            let mut bytes = Vec::new();
            write_value(state, &mut bytes).map_err(unwritable)?;
            let state = if bytes.len() > LONGEST_INLINE {
                let length = bytes.len() as u64;
                let memory = SealedMemory::of_bytes(&bytes).map_err(|source| {
                    CarryError::NoMemory { set: S::NAME.to_owned(), item: name.clone(), source }
                })?;
                apart.push((index, memory));
                StateWords::Apart { length }
            } else {
                length += bytes.len();
                StateWords::Inline(Bytes(bytes))
            };
            descriptors += state.descriptors();
            if descriptors > MOST_AT_ONCE {
                break;
            }
            length += name.len();
            items.push(ItemWords { name: name.clone(), state });
            if length > PARCEL_BYTES {
                break;
            }
        }
        taken.put_back_from(items.len());
        let mut apart = apart.iter().peekable();
        let mut descriptors = Vec::with_capacity(descriptors);
        for (index, parked) in taken.parked.iter().enumerate() {
            descriptors.push(parked.descriptor.as_fd());
            if let Some((_, memory)) = apart.next_if(|(at, _)| *at == index) {
                descriptors.push(memory.as_sealed().as_fd());
            }
        }
        send(Some(Format::of::<S>()), items, &descriptors)?;
        Ok(true)
    }

    fn take_back(&self, kept_off: bool) {
        let closed = {
            let mut state = self.state();
            self.enter_phase(&mut state, Phase::Held);
            state.carrier = None;
            let sent = std::mem::take(&mut state.sent);
            let closed = if kept_off {
                state.waiting.extend(sent);
                Vec::new()
            } else {
                sent
            };
            let unsent = std::mem::take(&mut state.unsent);
            state.waiting.extend(unsent);
            closed
        };
        if !closed.is_empty() {
            let count = closed.len();
            tracing::warn!(count, "connections end with the successor that had taken them up");
            closed.into_iter().for_each(|parked| part_from(parked.descriptor));
        }
    }

    fn forget(&self) {
        let forgotten = std::mem::take(&mut self.state().waiting);
        drop(forgotten);
    }

    fn stop(&self) {
        let waiting = {
            let mut state = self.state();
            self.enter_phase(&mut state, Phase::Stopping);
            std::mem::take(&mut state.waiting)
        };
        self.retold.notify(usize::MAX);
        waiting.into_iter().for_each(|parked| part_from(parked.descriptor));
    }

    fn release(&self) {
        {
            let mut state = self.state();
            self.enter_phase(&mut state, Phase::Serving);
            state.interrupted = false;
        }
        self.arrived.notify(usize::MAX);
    }

    fn part(&self) {
        let (sent, unsent, live) = {
            let mut state = self.state();
            self.enter_phase(&mut state, Phase::Parted);
            state.carrier = None;
            let sent = std::mem::take(&mut state.sent);
            (sent, std::mem::take(&mut state.unsent), state.live.len())
        };
        self.retold.notify(usize::MAX);
        // The successor has them, so nothing ends by this.
        drop(sent);
        if !unsent.is_empty() || live > 0 {
            let (parked, busy) = (unsent.len(), live);
            tracing::warn!(parked, busy, "connections that were not carried end here");
        }
        unsent.into_iter().for_each(|parked| part_from(parked.descriptor));
    }

    fn arrive(
        &self,
        name: &str,
        parcels: Vec<Parcel>,
        dropped: &mut Vec<OwnedFd>,
    ) -> Result<CarryFate, CarryError> {
        match self.read_states(name, &parcels) {
            Ok((states, older)) => {
                let items = parcels.into_iter().flat_map(|parcel| parcel.items).zip(states);
                let parked = items.filter_map(|(item, state)| match item {
                    Item::Connection { name, descriptor, .. } => {
                        Some(Parked { name, descriptor, state })
                    }
                    Item::Memory { .. } => None,
                });
                self.state().waiting.extend(parked);
                Ok(older.map_or(CarryFate::Taken, |from| CarryFate::Converted { from }))
            }
            Err(error) if self.may_be_lost => {
                dropped.extend(descriptors_of(parcels));
                Ok(CarryFate::Dropped { why: error.to_string() })
            }
            Err(error) => Err(error),
        }
    }
}

impl<S: Carried> Connections<S> {
    /// A state for each item, in their order; and the format that was converted, if one was.
    fn read_states(
        &self,
        set: &str,
        parcels: &[Parcel],
    ) -> Result<(Vec<S>, Option<String>), CarryError> {
        let (mut states, mut older) = (Vec::new(), None);
        for Parcel { format, items } in parcels {
            let no_format = || CarryError::Channel("connections of no format".into());
            let decoder = self.reads.decoder(set, format.as_ref().ok_or_else(no_format)?)?;
            for item in items {
                let (name, bytes) = match item {
                    Item::Connection { name, state, .. } => (name, state.bytes()),
                    Item::Memory { key, .. } => {
                        let words = format!("memory {key:?} among connections");
                        return Err(CarryError::Channel(words));
                    }
                };
                let state = (decoder.read)(bytes).map_err(|why| CarryError::Damaged {
                    set: set.to_owned(),
                    item: name.clone(),
                    why,
                })?;
                states.push(state);
            }
            older = decoder.older.or(older);
        }
        Ok((states, older))
    }

    fn take_unsent(&self, is_last: bool) -> Taken<'_, S> {
        let mut state = self.state();
        let count = state.unsent.len().min(MOST_AT_ONCE);
        let count = if is_last || count == MOST_AT_ONCE { count } else { 0 };
        Taken { set: self, parked: state.unsent.drain(..count).collect() }
    }
}

/// Parked connections that are being sent. Whatever happens, they count as sent after it: none
/// is lost by an error or a panic.
struct Taken<'a, S> {
    set: &'a Connections<S>,
    parked: Vec<Parked<S>>,
}

impl<S> Taken<'_, S> {
    /// These go with another parcel.
    fn put_back_from(&mut self, first: usize) {
        let left = self.parked.split_off(first);
        let mut state = self.set.state();
        left.into_iter().rev().for_each(|parked| state.unsent.push_front(parked));
    }
}

impl<S> Drop for Taken<'_, S> {
    fn drop(&mut self) {
        let is_sent = {
            let mut state = self.set.state();
            state.sent.append(&mut self.parked);
            state.phase == Phase::CollectingIdle && state.unsent.len() < MOST_AT_ONCE
        };
        if is_sent {
            self.set.changed.notify(usize::MAX);
        }
    }
}

const SERVE: u8 = 0;
const PARK_IDLE: u8 = 1;
const PARK: u8 = 2;
const CLOSE: u8 = 3;
/// For so long no request was served on a connection that is idle.
const IDLE_MS: u32 = 100;
const A_TURN: u32 = 32;
const WOKEN_AT_ONCE: usize = 64;
const A_FEW_PARK: Duration = Duration::from_micros(500);
const LONGEST_NAME: usize = 128;

#[cfg(test)]
mod tests;
