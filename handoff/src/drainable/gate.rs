//! The gate that each request passes, so that a drain can keep new ones out and count the rest.

#[cfg(feature = "tokio")]
mod work;

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Instant;

use crate::sys::sync::{AtomicU8, AtomicU64, AtomicUsize, Event, global, thread_local};
use crate::wait;
#[cfg(feature = "tokio")]
pub use work::Work;

/// The gate in a daemon's request path: a drain closes it and waits for the requests inside.
///
/// A gate is **born closed**. A process that begins to serve opens it, through
/// [`Drainable::admit`]: so a successor admits nothing before the commit, and a test or a daemon
/// without handoff calls [`open`](Self::open) itself.
///
/// ```
/// # use handoff::drainable::Gate;
/// # fn answer() {}
/// let gate = Gate::new();
/// assert!(gate.enter().is_err());
/// gate.open();
/// if let Ok(_pass) = gate.enter() {
///     answer(); // a drain waits for this
/// }
/// ```
///
/// `let _ = gate.enter()` gives the pass back at once, and guards nothing; bind it to a name, such as
/// `_pass`. A lint of the compiler, which is not on by default, tells the two apart:
///
/// ```compile_fail
/// #![deny(let_underscore_drop)]
/// # let gate = handoff::Gate::new();
/// let _ = gate.enter();
/// ```
///
/// To enter and leave costs two uncontended atomic operations: no lock, no allocation. Hold
/// a pass for one request, reply included; a connection that is idle waits on
/// [`closed`](Self::closed) beside its socket.
///
/// [`Drainable::admit`]: crate::Drainable::admit
pub struct Gate {
    /// How many passes are inside, each counted in the stripe of the thread that entered.
    stripes: [CacheLine<AtomicU64>; STRIPES],
    /// Bits: [`CLOSED`], [`INTERRUPTED`]. Read by every request, written by swaps alone.
    state: CacheLine<AtomicU8>,
    /// Tells that the gate was opened or closed.
    turned: Event,
    /// Tells that the last pass left a closed gate, or that an interrupt or opening ends the wait.
    emptied: Event,
}

// A thread that enters adds to a stripe and then reads the state; a thread that closes writes the
// state and then reads the stripes. All of it is SeqCst, so one of the two sees the other: no pass
// is both granted and missed. A thread that leaves and a drain that waits for it meet in the same
// way.

impl Gate {
    /// A closed gate with nobody inside.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            stripes: [const { CacheLine(AtomicU64::new(0)) }; STRIPES],
            state: CacheLine(AtomicU8::new(CLOSED)),
            turned: Event::new(),
            emptied: Event::new(),
        }
    }

    /// Enters, or says at once that the gate is closed.
    ///
    /// # Errors
    ///
    /// [`GateClosed`], to which a daemon answers with "try again", or by waiting.
    #[inline]
    pub fn enter(&self) -> Result<Pass<'_>, GateClosed> {
        let stripe = self.admit()?;
        Ok(Pass { gate: self, stripe })
    }

    /// [`enter`](Self::enter), with a pass that a `'static` task can hold. It also counts a
    /// reference to the gate, and all threads contend for that count: prefer [`Pass`] where a
    /// borrow does.
    ///
    /// # Errors
    ///
    /// As [`enter`](Self::enter).
    #[inline]
    pub fn enter_owned(self: &Arc<Self>) -> Result<OwnedPass, GateClosed> {
        let stripe = self.admit()?;
        Ok(OwnedPass { gate: Arc::clone(self), stripe })
    }

    /// Enters, and blocks the thread until the gate is open or `deadline` has passed;
    /// without a deadline, for ever.
    ///
    /// # Errors
    ///
    /// [`GateClosed`] when it was closed until the deadline.
    pub fn enter_blocking(&self, deadline: Option<Instant>) -> Result<Pass<'_>, GateClosed> {
        wait::blocking(&self.turned, deadline, || self.enter().ok()).ok_or(GateClosed)
    }

    /// Enters once the gate is open.
    pub async fn entered(&self) -> Pass<'_> {
        wait::until(&self.turned, || self.enter().ok()).await
    }

    /// [`entered`](Self::entered), with a pass that a `'static` task can hold.
    pub fn entered_owned(self: &Arc<Self>) -> impl Future<Output = OwnedPass> + Send + use<> {
        let gate = Arc::clone(self);
        async move { wait::until(&gate.turned, || gate.enter_owned().ok()).await }
    }

    /// Waits until the gate is open. Runs on any executor.
    pub async fn opened(&self) {
        wait::until(&self.turned, || self.is_turned_to(true)).await;
    }

    /// Waits until the gate is closed. Runs on any executor.
    ///
    /// An idle connection waits for it beside its socket. Each poll takes a lock that all waiting
    /// connections share, and a new future also registers anew: keep one future a connection rather
    /// than one a request. Connections that are carried wait for
    /// [`Ticket::told_to_park`](crate::carry::Ticket::told_to_park) instead, which has a lock each.
    pub async fn closed(&self) {
        // An accept loop that is polled for a new connection sees the change too.
        wait::until(&self.turned, || self.is_turned_to(false)).await;
    }

    /// Blocks the thread until the gate is open; `false` when it was not by `deadline`.
    pub fn wait_open(&self, deadline: Option<Instant>) -> bool {
        wait::blocking(&self.turned, deadline, || self.is_turned_to(true)).is_some()
    }

    /// Blocks the thread until the gate is closed; `false` when it was not by `deadline`.
    pub fn wait_closed(&self, deadline: Option<Instant>) -> bool {
        wait::blocking(&self.turned, deadline, || self.is_turned_to(false)).is_some()
    }

    /// Admits no more. The requests inside stay inside; see [`wait_empty`](Self::wait_empty).
    pub fn close(&self) {
        self.state.0.fetch_or(CLOSED, SeqCst);
        self.turned.notify(usize::MAX);
    }

    /// Admits again, and wakes all that wait to enter. Forgets an
    /// [`interrupt`](Self::interrupt).
    pub fn open(&self) {
        self.state.0.store(OPEN, SeqCst);
        self.turned.notify(usize::MAX);
        self.emptied.notify(usize::MAX);
    }

    /// Whether it admits.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state.0.load(SeqCst) & CLOSED == 0
    }

    /// How many are inside. While the gate is open this is out of date when it returns.
    #[must_use]
    pub fn inside(&self) -> u32 {
        let inside: u64 = self.stripes.iter().map(|stripe| stripe.0.load(SeqCst)).sum();
        u32::try_from(inside).unwrap_or(u32::MAX)
    }

    /// Blocks the thread until nobody is inside, and returns how many still are when it gives
    /// up: at `deadline`, on [`interrupt`](Self::interrupt), or when the gate is open.
    ///
    /// Where it returns 0 and nobody opened the gate meanwhile, all effects of the requests inside
    /// happened before.
    #[must_use = "whoever is still inside may still write"]
    pub fn wait_empty(&self, deadline: Instant) -> u32 {
        let look = || {
            let inside = self.inside();
            (inside == 0 || self.state.0.load(SeqCst) != CLOSED).then_some(inside)
        };
        wait::blocking(&self.emptied, Some(deadline), look).unwrap_or_else(|| self.inside())
    }

    /// Cuts a [`wait_empty`](Self::wait_empty) short, from another thread; also one that has
    /// not begun, until the gate is next opened.
    pub fn interrupt(&self) {
        self.state.0.fetch_or(INTERRUPTED, SeqCst);
        self.emptied.notify(usize::MAX);
    }

    #[inline]
    fn admit(&self) -> Result<usize, GateClosed> {
        // The first look keeps requests at a closed gate from disturbing its counts.
        if !self.is_open() {
            return Err(GateClosed);
        }
        let stripe = stripe_of_this_thread();
        self.stripes[stripe % STRIPES].0.fetch_add(1, SeqCst);
        if self.is_open() {
            return Ok(stripe);
        }
        self.leave(stripe);
        Err(GateClosed)
    }

    #[inline]
    fn leave(&self, stripe: usize) {
        self.stripes[stripe % STRIPES].0.fetch_sub(1, SeqCst);
        if !self.is_open() {
            self.left_closed();
        }
    }

    /// The last thread to leave sees that all are out, so it suffices that this thread tells.
    #[cold]
    fn left_closed(&self) {
        if self.inside() == 0 {
            self.emptied.notify(usize::MAX);
        }
    }

    fn is_turned_to(&self, open: bool) -> Option<()> {
        (self.is_open() == open).then_some(())
    }
}

/// Closed, as [`Gate::new`].
impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("open", &self.is_open())
            .field("inside", &self.inside())
            .finish_non_exhaustive()
    }
}

/// Permission to be inside a [`Gate`]. Dropping it leaves the gate, on any thread.
///
/// A forgotten pass (`mem::forget`) stays inside for ever: drains run to their deadline.
#[derive(Debug)]
#[must_use = "a pass that is dropped at once protects nothing: bind it for as long as the request lasts"]
pub struct Pass<'a> {
    gate: &'a Gate,
    stripe: usize,
}

impl Drop for Pass<'_> {
    #[inline]
    fn drop(&mut self) {
        self.gate.leave(self.stripe);
    }
}

/// A [`Pass`] that keeps its gate alive, for `'static` tasks.
#[derive(Debug)]
#[must_use = "a pass that is dropped at once protects nothing: bind it for as long as the request lasts"]
pub struct OwnedPass {
    gate: Arc<Gate>,
    stripe: usize,
}

impl Drop for OwnedPass {
    #[inline]
    fn drop(&mut self) {
        self.gate.leave(self.stripe);
    }
}

/// A [`Gate`] was closed: a swap is under way, or serving has not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gate is closed")]
pub struct GateClosed;

/// Two neighbouring lines, since processors fetch lines in pairs.
#[repr(align(128))]
struct CacheLine<T>(T);

#[inline]
fn stripe_of_this_thread() -> usize {
    STRIPE.with(|stripe| {
        if stripe.get() == UNASSIGNED {
            stripe.set(NEXT_STRIPE.fetch_add(1, Relaxed) % STRIPES);
        }
        stripe.get()
    })
}

const STRIPES: usize = if cfg!(all(test, handoff_loom)) { 2 } else { 16 };
const UNASSIGNED: usize = usize::MAX;

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const INTERRUPTED: u8 = 2;

global! {
    static NEXT_STRIPE: AtomicUsize = AtomicUsize::new(0);
}

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(UNASSIGNED) };
}

#[cfg(all(test, handoff_loom))]
mod orders;
#[cfg(all(test, not(handoff_loom)))]
mod tests;
