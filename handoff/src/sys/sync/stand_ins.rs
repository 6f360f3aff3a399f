//! What `real` exports, as loom explores it.
//!
//! Loom takes a SeqCst access for an AcqRel one. Two ways to get SeqCst from fences are known, and
//! processors use both: a fence after each write, or a fence before each read. The explorer goes
//! through each model in both ways, so it finds a write that is too weak by the first and a read
//! that is too weak by the second.
//!
//! An atomic is made when it is first used, since loom's constructors are not const: a model uses
//! each once before it starts a thread.

#![expect(unsafe_code, reason = "an unsafe function of the standard library has its stand-in")]

use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::{Arc, LockResult, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::sync::atomic::fence;

use super::explorer::{self, Access, Fences, Weakening};

macro_rules! global {
    (static $name:ident: $type:ty = $value:expr;) => {
        loom::lazy_static! { static ref $name: $type = $value; }
    };
}
pub(crate) use global;

macro_rules! local {
    (static $name:ident: $type:ty = const $value:block;) => {
        loom::thread_local! { static $name: $type = $value; }
    };
}
pub(crate) use local as thread_local;

/// Runs an access, with the fences that make it SeqCst.
fn ordered<T>(access: Access, order: Ordering, run: impl FnOnce(Ordering) -> T) -> T {
    let plain = match (order, access) {
        (SeqCst, Access::Load) => Acquire,
        (SeqCst, Access::Store) => Release,
        (SeqCst, _) => AcqRel,
        _ => order,
    };
    let fences = (order == SeqCst).then(explorer::fences);
    if fences == Some(Fences::BeforeReads) && access != Access::Store {
        fence(SeqCst);
    }
    let result = run(plain);
    if fences == Some(Fences::AfterWrites) && access != Access::Load {
        fence(SeqCst);
    }
    result
}

macro_rules! atomic {
    ($($name:ident: $type:ty;)*) => {$(
        pub(crate) struct $name {
            first: $type,
            made: OnceLock<loom::sync::atomic::$name>,
        }

        #[allow(dead_code, reason = "not all of them are used on all types")]
        impl $name {
            pub(crate) const fn new(first: $type) -> Self {
                Self { first, made: OnceLock::new() }
            }

            fn made(&self) -> &loom::sync::atomic::$name {
                self.made.get_or_init(|| loom::sync::atomic::$name::new(self.first))
            }

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $type {
                let order = explorer::order_here(Access::Load, order);
                ordered(Access::Load, order, |order| self.made().load(order))
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $type, order: Ordering) {
                let order = explorer::order_here(Access::Store, order);
                ordered(Access::Store, order, |order| self.made().store(value, order));
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                from: $type,
                to: $type,
                order: Ordering,
                otherwise: Ordering,
            ) -> Result<$type, $type> {
                if explorer::weakening_here(Access::Exchange) == Some(Weakening::Split) {
                    let found = self.made().load(Acquire);
                    if found != from {
                        return Err(found);
                    }
                    self.made().store(to, order);
                    return Ok(found);
                }
                let order = explorer::order_here(Access::Exchange, order);
                let otherwise = explorer::order_here(Access::Failure, otherwise);
                ordered(Access::Exchange, order, |order| {
                    self.made().compare_exchange(from, to, order, otherwise)
                })
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

atomic! {
    AtomicBool: bool;
    AtomicU8: u8;
    AtomicU32: u32;
    AtomicU64: u64;
    AtomicUsize: usize;
}

macro_rules! arithmetic {
    ($($name:ident: $type:ty { $($method:ident)* })*) => {$(
        impl $name {$(
            #[track_caller]
            pub(crate) fn $method(&self, value: $type, order: Ordering) -> $type {
                let order = explorer::order_here(Access::Change, order);
                ordered(Access::Change, order, |order| self.made().$method(value, order))
            }
        )*}
    )*};
}

arithmetic! {
    AtomicU8: u8 { fetch_or }
    AtomicU64: u64 { fetch_add fetch_sub }
    AtomicUsize: usize { fetch_add }
}

impl AtomicU32 {
    /// # Safety
    ///
    /// None: it panics.
    pub(crate) unsafe fn from_ptr<'a>(_: *mut u32) -> &'a Self {
        panic!("loom maps no memory")
    }
}

/// A lock that is made when it is first used.
#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    of: &'a Mutex<T>,
    guard: loom::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let guard = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(MutexGuard { of: self, guard })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[derive(Debug)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    #[track_caller]
    pub(crate) fn wait<'a, T>(&self, mut held: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        if explorer::weakening_here(Access::Wait) == Some(Weakening::Apart) {
            let of = held.of;
            drop(held);
            held = of.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        let MutexGuard { of, guard } = held;
        let guard = self.0.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(MutexGuard { of, guard })
    }

    /// Where the clock runs, the time is over once each other thread waits or has had a turn. Where
    /// it stands, only a notification ends it.
    #[track_caller]
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        held: MutexGuard<'a, T>,
        time: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        if !explorer::clock_runs() {
            let held = self.wait(held).unwrap_or_else(std::sync::PoisonError::into_inner);
            return Ok((held, ()));
        }
        let (of, over) = (held.of, explorer::now().saturating_add(time));
        drop(held);
        loom::thread::yield_now();
        let held = of.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        explorer::pass_until(over);
        Ok((held, ()))
    }

    #[track_caller]
    pub(crate) fn notify_one(&self) {
        if explorer::weakening_here(Access::Notify) != Some(Weakening::Lost) {
            self.0.notify_one();
        }
    }

    #[track_caller]
    pub(crate) fn notify_all(&self) {
        if explorer::weakening_here(Access::Notify) != Some(Weakening::Lost) {
            self.0.notify_all();
        }
    }
}

pub(crate) struct Builder(loom::thread::Builder);

impl Builder {
    pub(crate) fn new() -> Self {
        Self(loom::thread::Builder::new())
    }

    pub(crate) fn name(self, name: String) -> Self {
        Self(self.0.name(name))
    }

    pub(crate) fn spawn(self, work: fn()) -> std::io::Result<()> {
        self.0.spawn(work).map(explorer::has_started)
    }
}

/// A moment of the model's clock. While that stands, the beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(if explorer::clock_runs() { explorer::now() } else { Duration::ZERO })
    }

    pub(crate) fn elapsed(self) -> Duration {
        match explorer::now() {
            Duration::MAX => Duration::MAX,
            now => now - self.0,
        }
    }
}

/// The part of `event_listener::Event` that its documentation promises: `listen` ends with a SeqCst
/// fence and `notify` begins with one; `notify` takes the lock only if it sees a listener.
pub(crate) struct Event(OnceLock<Arc<Listeners>>);

struct Listeners {
    /// How many there are, as a look without the lock tells.
    count: loom::sync::atomic::AtomicUsize,
    list: loom::sync::Mutex<Vec<Entry>>,
    told: loom::sync::Condvar,
}

struct Entry {
    id: usize,
    is_notified: bool,
    waker: Option<Waker>,
}

impl Event {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    fn listeners(&self) -> &Arc<Listeners> {
        self.0.get_or_init(|| {
            Arc::new(Listeners {
                count: loom::sync::atomic::AtomicUsize::new(0),
                list: loom::sync::Mutex::new(Vec::new()),
                told: loom::sync::Condvar::new(),
            })
        })
    }

    pub(crate) fn listen(&self) -> EventListener {
        let of = Arc::clone(self.listeners());
        let id = {
            let mut list = of.list();
            let id = list.last().map_or(0, |last| last.id + 1);
            list.push(Entry { id, is_notified: false, waker: None });
            of.count.store(list.len(), Release);
            id
        };
        fence(SeqCst);
        EventListener { of, id }
    }

    /// Notifies all: the models have no other notification.
    #[track_caller]
    pub(crate) fn notify(&self, _: impl IntoNotification) {
        if explorer::weakening_here(Access::Notify) == Some(Weakening::Lost) {
            return;
        }
        fence(SeqCst);
        let of = self.listeners();
        if of.count.load(Acquire) == 0 {
            return;
        }
        let wakers: Vec<_> = {
            let mut list = of.list();
            list.iter_mut().for_each(|entry| entry.is_notified = true);
            list.iter_mut().filter_map(|entry| entry.waker.take()).collect()
        };
        of.told.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn total_listeners(&self) -> usize {
        self.listeners().list().len()
    }

    /// Makes what loom tracks.
    pub(crate) fn touch(&self) {
        self.listeners();
    }
}

impl Listeners {
    fn list(&self) -> loom::sync::MutexGuard<'_, Vec<Entry>> {
        self.list.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Event")
    }
}

pub(crate) trait IntoNotification: Sized {
    fn additional(self) -> Self {
        self
    }
}

impl IntoNotification for usize {}
impl IntoNotification for i32 {}

pub(crate) trait Listener {
    fn wait(self);
    fn wait_deadline(self, deadline: std::time::Instant) -> Option<()>;
}

pub(crate) struct EventListener {
    of: Arc<Listeners>,
    id: usize,
}

impl Listener for EventListener {
    fn wait(self) {
        let mut list = self.of.list();
        while !list.iter().any(|entry| entry.id == self.id && entry.is_notified) {
            list = self.of.told.wait(list).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// No deadline passes.
    fn wait_deadline(self, _: std::time::Instant) -> Option<()> {
        self.wait();
        Some(())
    }
}

impl Future for EventListener {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut list = self.of.list();
        let entry = list.iter_mut().find(|entry| entry.id == self.id).expect("it is in the list");
        if entry.is_notified {
            return Poll::Ready(());
        }
        entry.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for EventListener {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut list = self.of.list();
        list.retain(|entry| entry.id != self.id);
        self.of.count.store(list.len(), Relaxed);
    }
}
