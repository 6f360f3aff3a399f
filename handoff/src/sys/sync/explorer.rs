//! Explores a model with loom: as it is, and with one of its accesses weakened.

#![expect(unsafe_code, reason = "loom is to find wrong uses of memory, in a process of its own")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::thread::JoinHandle;

/// Some code that a few threads run, and that asserts what has to hold.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    /// The most preemptions in an execution; without it, all executions are explored.
    pub(crate) bound: Option<usize>,
    /// Whether timed waits end by themselves.
    pub(crate) clock_runs: bool,
    pub(crate) run: fn(),
}

/// How an access uses memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    Load,
    Store,
    /// Reads and writes.
    Change,
    /// A compare-exchange, where it exchanges.
    Exchange,
    /// A compare-exchange, where it does not.
    Failure,
    Notify,
    Wait,
}

/// How SeqCst is made of fences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fences {
    AfterWrites,
    BeforeReads,
}

/// A defect that is put into one access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weakening {
    To(Order),
    /// A compare-exchange becomes a load and a store.
    Split,
    /// A wait gives up the lock before it listens.
    Apart,
    /// A notification reaches no thread.
    Lost,
}

/// [`Ordering`] is not ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    Relaxed,
    Acquire,
    Release,
    AcqRel,
}

/// An access in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Site {
    pub(crate) file: &'static str,
    pub(crate) line: u32,
    pub(crate) access: Access,
}

impl Model {
    /// Explores all of it, and prints the number of executions.
    pub(crate) fn hold(&self) {
        SITES.take();
        for fences in [Fences::AfterWrites, Fences::BeforeReads] {
            self.explore(fences, None);
            let bound =
                self.bound.map_or("all".into(), |bound| format!("up to {bound} preemptions"));
            println!("{}: {} executions ({bound}; {fences:?})", self.name, EXECUTIONS.get());
            if !SITES.with_borrow(|sites| sites.values().any(|order| *order == Some(SeqCst))) {
                return;
            }
        }
    }

    /// The accesses that it has, each with the order in which the code asks for it.
    fn sites(&self) -> BTreeMap<Site, Option<Ordering>> {
        SITES.take();
        self.explore(Fences::AfterWrites, None);
        SITES.take()
    }

    /// The failure of the model with the access weakened, and its execution; none if it holds.
    fn failure(&self, fences: Fences, site: Site, weakening: Weakening) -> Option<String> {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        // SAFETY: the child uses its own copy of the memory, on its one thread, and the locks that
        // other threads may have held are those of the standard output, which it does not use.
        match unsafe { libc::fork() } {
            0 => {
                // The first panic ends the child: to unwind would mean to use loom after its end.
                std::panic::set_hook(Box::new(move |panic| {
                    // Loom ends its threads by panics without words.
                    let words = panic.payload_as_str();
                    if let Some(words) = words.and_then(|words| words.split([';', '\n']).next()) {
                        let _ = write!(&writer, "{words} (execution {})", EXECUTIONS.get());
                        exit(FAILS);
                    }
                }));
                self.explore(fences, Some((site, weakening)));
                exit(HOLDS);
            }
            child => {
                drop(writer);
                let mut words = String::new();
                reader.read_to_string(&mut words).expect("it writes words");
                let mut status = 0;
                // SAFETY: the child is this process's own, and the status outlives the call.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                match libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)) {
                    Some(HOLDS) => None,
                    Some(FAILS) => Some(words),
                    _ => panic!("the exploration ended with status {status}"),
                }
            }
        }
    }

    fn explore(&self, fences: Fences, weakened: Option<(Site, Weakening)>) {
        let mut explorer = loom::model::Builder::new();
        explorer.preemption_bound = self.bound;
        explorer.max_branches = 20_000;
        EXECUTIONS.set(0);
        let Self { run, clock_runs, .. } = *self;
        explorer.check(move || {
            EXECUTIONS.set(EXECUTIONS.get() + 1);
            STARTED.take();
            SETTING.set(Setting { fences, weakened, clock_runs, now: BEGIN });
            run();
        });
    }
}

fn exit(status: i32) -> ! {
    // SAFETY: the child has nothing to clean up.
    unsafe { libc::_exit(status) }
}

const HOLDS: i32 = 0;
const FAILS: i32 = 3;

/// Weakens every access of a file that the models reach, one by one, in every way, and prints which
/// model fails by it. Returns the lines of those with which all models hold.
pub(crate) fn unnoticed(models: &[Model], file: &str, source: &str) -> Vec<String> {
    let mut sites = BTreeMap::new();
    for model in models {
        sites.extend(model.sites().into_iter().filter(|(site, _)| site.file.ends_with(file)));
    }
    assert!(!sites.is_empty(), "the models reach no access of {file}");
    let mut unnoticed = Vec::new();
    for (site, order) in sites {
        let line = source.lines().nth(site.line as usize - 1).expect("it is a line").trim();
        for weakening in site.weakenings(order) {
            let found = models.iter().find_map(|model| {
                [Fences::AfterWrites, Fences::BeforeReads].into_iter().find_map(|fences| {
                    let failure = model.failure(fences, site, weakening)?;
                    Some(format!("found by {}: {failure}", model.name))
                })
            });
            println!("{line} {weakening}: {}", found.as_deref().unwrap_or("not found"));
            if found.is_none() {
                unnoticed.push(format!("{line} {weakening}"));
            }
        }
    }
    unnoticed
}

impl Site {
    fn weakenings(self, order: Option<Ordering>) -> Vec<Weakening> {
        let to = |orders: &[Order]| orders.iter().copied().map(Weakening::To).collect();
        let mut weaker: Vec<_> = match (self.access, order) {
            (Access::Notify, _) => return vec![Weakening::Lost],
            (Access::Wait, _) => return vec![Weakening::Apart],
            (_, Some(Relaxed) | None) => Vec::new(),
            (Access::Load | Access::Failure, Some(SeqCst)) => to(&[Order::Acquire, Order::Relaxed]),
            (Access::Store, Some(SeqCst)) => to(&[Order::Release, Order::Relaxed]),
            (_, Some(SeqCst)) => {
                to(&[Order::AcqRel, Order::Acquire, Order::Release, Order::Relaxed])
            }
            (_, Some(AcqRel)) => to(&[Order::Acquire, Order::Release, Order::Relaxed]),
            _ => to(&[Order::Relaxed]),
        };
        if self.access == Access::Exchange {
            weaker.push(Weakening::Split);
        }
        weaker
    }
}

impl fmt::Display for Weakening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(order) => write!(f, "{order:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// The order of the access that calls this, as it is or weakened.
#[track_caller]
pub(super) fn order_here(access: Access, order: Ordering) -> Ordering {
    let site = Site::here(access);
    SITES.with_borrow_mut(|sites| sites.insert(site, Some(order)));
    match weakening_of(site) {
        Some(Weakening::To(Order::Relaxed)) => Relaxed,
        Some(Weakening::To(Order::Acquire)) => Acquire,
        Some(Weakening::To(Order::Release)) => Release,
        Some(Weakening::To(Order::AcqRel)) => AcqRel,
        _ => order,
    }
}

#[track_caller]
pub(super) fn weakening_here(access: Access) -> Option<Weakening> {
    let site = Site::here(access);
    SITES.with_borrow_mut(|sites| {
        sites.entry(site).or_insert(None);
    });
    weakening_of(site)
}

fn weakening_of(site: Site) -> Option<Weakening> {
    SETTING.get().weakened.filter(|(weakened, _)| *weakened == site).map(|(_, how)| how)
}

impl Site {
    #[track_caller]
    fn here(access: Access) -> Self {
        let place = Location::caller();
        Self { file: place.file(), line: place.line(), access }
    }
}

pub(super) fn fences() -> Fences {
    SETTING.get().fences
}

pub(super) fn clock_runs() -> bool {
    SETTING.get().clock_runs
}

pub(super) fn now() -> Duration {
    SETTING.get().now
}

/// The clock shows at least this from here on.
pub(crate) fn pass_until(moment: Duration) {
    let setting = SETTING.get();
    SETTING.set(Setting { now: setting.now.max(moment), ..setting });
}

/// Memory that is not atomic: loom fails where two threads use it without an order between them.
#[derive(Clone)]
pub(crate) struct Plain(Arc<loom::cell::UnsafeCell<()>>);

// SAFETY: there is nothing in it; to find it shared wrongly is its purpose.
unsafe impl Send for Plain {}
// SAFETY: as above.
unsafe impl Sync for Plain {}

impl Plain {
    #[expect(clippy::arc_with_non_send_sync, reason = "loom looks after that: it is its purpose")]
    pub(crate) fn new() -> Self {
        Self(Arc::new(loom::cell::UnsafeCell::new(())))
    }

    #[track_caller]
    pub(crate) fn write(&self) {
        self.0.with_mut(|_| ());
    }
}

pub(crate) use loom::thread::{current, spawn};

/// Waits until the threads have ended that the code started, and that it does not wait for itself.
pub(crate) fn join_started() {
    while let Some(thread) = STARTED.with_borrow_mut(Vec::pop) {
        thread.join().expect("it ends");
    }
}

pub(super) fn has_started(thread: JoinHandle<()>) {
    STARTED.with_borrow_mut(|started| started.push(thread));
}

/// Runs a future on this thread.
pub(crate) fn block_on<T>(mut future: Pin<&mut impl Future<Output = T>>) -> T {
    let woken = Arc::new(Woken {
        is_woken: loom::sync::Mutex::new(false),
        wake: loom::sync::Condvar::new(),
    });
    let waker = Waker::from(Arc::clone(&woken));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut is_woken = woken.is_woken.lock().expect("no thread panics with it");
        while !*is_woken {
            is_woken = woken.wake.wait(is_woken).expect("no thread panics with it");
        }
        *is_woken = false;
    }
}

struct Woken {
    is_woken: loom::sync::Mutex<bool>,
    wake: loom::sync::Condvar,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        *self.is_woken.lock().expect("no thread panics with it") = true;
        self.wake.notify_one();
    }
}

/// All threads of an execution run on the thread that explores, one at a time.
#[derive(Clone, Copy)]
struct Setting {
    fences: Fences,
    weakened: Option<(Site, Weakening)>,
    clock_runs: bool,
    now: Duration,
}

const BEGIN: Duration = Duration::ZERO;

thread_local! {
    static SETTING: Cell<Setting> = const {
        Cell::new(Setting {
            fences: Fences::AfterWrites,
            weakened: None,
            clock_runs: false,
            now: BEGIN,
        })
    };
    static SITES: RefCell<BTreeMap<Site, Option<Ordering>>> = const { RefCell::new(BTreeMap::new()) };
    static STARTED: RefCell<Vec<JoinHandle<()>>> = const { RefCell::new(Vec::new()) };
    static EXECUTIONS: Cell<usize> = const { Cell::new(0) };
}
