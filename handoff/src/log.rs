//! The library's log lines: a thread of their own tells them, so no step of a swap waits for the
//! log.
//!
//! A subscriber is the daemon's or the supervisor's own code, and may block or panic. The thread
//! that has something to say evaluates the fields and puts the line into a queue. The queue has a
//! maximum; a line that finds it full is counted, and the count is told later. No code of a
//! subscriber runs on the thread that speaks. A line has the time and the thread of its telling,
//! and no span.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::field::{DisplayValue, display};
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing::{Dispatch, Level, Value, dispatcher};

/// As the macro of `tracing` with that name: `name = value`, `%shown`, `?shown`, and a message.
macro_rules! error {
    ($($line:tt)+) => { $crate::log::line!(ERROR, $($line)+) };
}
macro_rules! warning {
    ($($line:tt)+) => { $crate::log::line!(WARN, $($line)+) };
}
macro_rules! info {
    ($($line:tt)+) => { $crate::log::line!(INFO, $($line)+) };
}
macro_rules! debug {
    ($($line:tt)+) => { $crate::log::line!(DEBUG, $($line)+) };
}
macro_rules! trace {
    ($($line:tt)+) => { $crate::log::line!(TRACE, $($line)+) };
}

/// Evaluates the fields of a line, one after the other, and puts the line into the queue.
macro_rules! line {
    (@ $level:ident [$($name:ident = $value:expr,)*] $message:literal $(,)?) => {{
        // All is evaluated before a name of a field hides a variable.
        let message = format!($message);
        let ($($name,)*) = ($($value,)*);
        $crate::log::push(move || {
            tracing::event!(tracing::Level::$level, $($name = $name,)* "{message}");
        });
    }};
    (@ $level:ident [$($done:tt)*] $name:ident = %$value:expr, $($rest:tt)+) => {
        $crate::log::line!(@ $level [$($done)* $name = $crate::log::shown(&$value),] $($rest)+)
    };
    (@ $level:ident [$($done:tt)*] $name:ident = ?$value:expr, $($rest:tt)+) => {
        $crate::log::line!(@ $level
            [$($done)* $name = $crate::log::shown(&format_args!("{:?}", $value)),] $($rest)+)
    };
    (@ $level:ident [$($done:tt)*] $name:ident = $value:expr, $($rest:tt)+) => {
        $crate::log::line!(@ $level [$($done)* $name = $crate::log::Owned::owned(&$value),] $($rest)+)
    };
    (@ $level:ident [$($done:tt)*] %$name:ident, $($rest:tt)+) => {
        $crate::log::line!(@ $level [$($done)*] $name = %$name, $($rest)+)
    };
    (@ $level:ident [$($done:tt)*] ?$name:ident, $($rest:tt)+) => {
        $crate::log::line!(@ $level [$($done)*] $name = ?$name, $($rest)+)
    };
    (@ $level:ident [$($done:tt)*] $name:ident, $($rest:tt)+) => {
        $crate::log::line!(@ $level [$($done)*] $name = $name, $($rest)+)
    };
    ($level:ident, $($line:tt)+) => {
        if $crate::log::is_enabled(tracing::Level::$level) {
            $crate::log::line!(@ $level [] $($line)+)
        }
    };
}

pub(crate) use {debug, error, info, line, trace, warning as warn};

/// Whether some subscriber may want lines of that level. Asks no subscriber.
pub(crate) fn is_enabled(level: Level) -> bool {
    level <= STATIC_MAX_LEVEL && level <= LevelFilter::current()
}

/// A value in its words.
pub(crate) fn shown(value: &(impl std::fmt::Display + ?Sized)) -> DisplayValue<String> {
    display(value.to_string())
}

/// A field that is copied, so that another thread can tell it.
pub(crate) trait Owned {
    type Value: Value + Send + 'static;

    fn owned(&self) -> Self::Value;
}

macro_rules! copied {
    ($($of:ty)*) => { $(
        impl Owned for $of {
            type Value = Self;

            fn owned(&self) -> Self {
                *self
            }
        }
    )* };
}

copied!(bool u32 u64 usize i32);

impl Owned for str {
    type Value = String;

    fn owned(&self) -> String {
        self.to_owned()
    }
}

impl Owned for String {
    type Value = Self;

    fn owned(&self) -> Self {
        self.clone()
    }
}

impl<T: std::fmt::Display> Owned for DisplayValue<T> {
    type Value = DisplayValue<String>;

    fn owned(&self) -> DisplayValue<String> {
        shown(self)
    }
}

impl<T: Owned> Owned for Option<T> {
    type Value = Option<T::Value>;

    fn owned(&self) -> Option<T::Value> {
        self.as_ref().map(T::owned)
    }
}

impl<T: Owned + ?Sized> Owned for &T {
    type Value = T::Value;

    fn owned(&self) -> T::Value {
        T::owned(self)
    }
}

/// Puts a line into the queue, with the subscriber of this thread.
pub(crate) fn push(tell: impl FnOnce() + Send + 'static) {
    let subscriber = dispatcher::get_default(Dispatch::clone);
    LINES.push(Line { subscriber, tell: Box::new(tell) });
}

/// Waits until the lines of before have been told, or until the timeout. Called where a process or
/// a session ends, after the last moment at which a client waits.
pub(crate) fn flush(timeout: Duration) {
    LINES.flush(Instant::now() + timeout);
}

/// The last field of a value at whose end no client waits any more: [`flush`]es when it is dropped.
#[derive(Debug)]
pub(crate) struct FlushAtEnd(pub(crate) Duration);

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        flush(self.0);
    }
}

/// A line that is to be told.
struct Line {
    subscriber: Dispatch,
    tell: Box<dyn FnOnce() + Send>,
}

impl Line {
    fn tell(self) {
        // The subscriber goes in here as well: its destructor may panic.
        let _ = catch_unwind(AssertUnwindSafe(move || {
            dispatcher::with_default(&self.subscriber, self.tell);
        }));
    }
}

/// Lines that found the queue full.
struct Lost {
    lines: u64,
    since: Instant,
    /// Of the first of them.
    subscriber: Dispatch,
}

impl Lost {
    fn into_line(self) -> Line {
        let Self { lines, since, subscriber } = self;
        let tell = Box::new(move || {
            let seconds = since.elapsed().as_secs();
            tracing::error!(
                lines,
                seconds,
                "the log was too slow, so this process dropped lines: so many, since so many seconds ago"
            );
        });
        Line { subscriber, tell }
    }
}

struct Lines {
    state: Mutex<State>,
    /// A line came.
    came: Condvar,
    /// A line was told.
    told: Condvar,
}

struct State {
    lines: VecDeque<Line>,
    lost: Option<Lost>,
    /// The process whose thread tells the lines: a forked child has the state and no thread.
    runs_in: Option<u32>,
    /// Lines that came, and lines that were told.
    came: u64,
    told: u64,
}

static LINES: Lines = Lines::new();

impl Lines {
    const fn new() -> Self {
        let lines = VecDeque::new();
        let state = State { lines, lost: None, runs_in: None, came: 0, told: 0 };
        Self { state: Mutex::new(state), came: Condvar::new(), told: Condvar::new() }
    }

    fn push(&'static self, line: Line) {
        // Held for long only in a child that was forked while another thread held it.
        let Some(mut state) = self.lock_soon() else { return };
        let is_running = state.push(line);
        drop(state);
        self.came.notify_one();
        if !is_running {
            self.start();
        }
    }

    fn start(&'static self) {
        let run = move || {
            while let Some(line) = self.next() {
                line.tell();
                self.lock().told += 1;
                self.told.notify_all();
            }
        };
        if thread::Builder::new().name("handoff-log".into()).spawn(run).is_err() {
            self.lock().runs_in = None; // the next line tries again
        }
    }

    /// The next line; none once none has come for a while: then the thread ends.
    fn next(&self) -> Option<Line> {
        let mut state = self.lock();
        if state.lines.is_empty() {
            state.tell_lost();
        }
        let is_empty = |state: &mut State| state.lines.is_empty();
        let waited = self.came.wait_timeout_while(state, IDLE, is_empty);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let line = state.lines.pop_front();
        if line.is_none() {
            state.runs_in = None;
        }
        line
    }

    fn flush(&'static self, deadline: Instant) {
        let Some(mut state) = self.lock_soon() else { return };
        let is_running = state.lines.is_empty() || state.is_running();
        let end = state.came;
        if !is_running {
            drop(state);
            self.start();
            state = self.lock();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        drop(self.told.wait_timeout_while(state, left, |state| state.told < end));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_soon(&self) -> Option<MutexGuard<'_, State>> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match self.state.try_lock() {
                Ok(state) => return Some(state),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
    }
}

impl State {
    /// Takes the line, or counts it. Returns false where the caller has to start the thread.
    fn push(&mut self, line: Line) -> bool {
        let is_running = self.is_running();
        if self.lines.len() >= MAX_LINES {
            let Line { subscriber, .. } = line;
            let lost = || Lost { lines: 0, since: Instant::now(), subscriber };
            self.lost.get_or_insert_with(lost).lines += 1;
        } else {
            self.tell_lost();
            self.add(line);
        }
        is_running
    }

    fn add(&mut self, line: Line) {
        self.lines.push_back(line);
        self.came += 1;
    }

    fn tell_lost(&mut self) {
        if let Some(lost) = self.lost.take() {
            self.add(lost.into_line());
        }
    }

    /// Whether a thread of this process tells the lines. If not, the caller starts it.
    fn is_running(&mut self) -> bool {
        let own = Some(std::process::id());
        let is_running = self.runs_in == own;
        if !is_running {
            self.runs_in = own;
            // The line that the parent's thread was telling is the parent's.
            self.told = self.came - self.lines.len() as u64;
        }
        is_running
    }
}

/// Some swaps' worth of lines.
const MAX_LINES: usize = 1024;
/// A thread that has had no line for so long ends: at rest a daemon has no thread of this.
const IDLE: Duration = Duration::from_secs(2);
const LOCK_PATIENCE: Duration = Duration::from_millis(20);
/// The timeout for the last lines at the end of a process.
pub(crate) const LAST_LINES: Duration = Duration::from_secs(1);
/// The same where another process may wait for the end of this one, or a caller for its result.
pub(crate) const SHORT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
