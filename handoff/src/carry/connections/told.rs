//! The word that tells handlers to serve, park or close. They look at it without a lock.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Instant;

use crate::sys::sync::Event;
use crate::wait;

/// The word for all handlers of a set.
pub(super) struct Told {
    word: AtomicU8,
    /// Whether any handler has ever listened.
    is_heard: AtomicBool,
    /// Milliseconds are counted from here.
    begun: Instant,
}

/// An instruction to handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Serve,
    /// A connection that cannot be carried ends by itself, the others serve.
    Leave,
    /// A handler whose connection is idle parks, the others serve.
    ParkIfIdle,
    Park,
    /// Another process serves, or this one has stopped.
    Close,
}

/// The event that wakes a handler, and the time of its last request.
#[derive(Debug)]
pub(super) struct Served {
    /// When a request was last served on the connection, in milliseconds.
    at: AtomicU32,
    /// There is another word. Each connection has its own event, since every poll takes the
    /// event's lock: the threads of a runtime would contend for a shared one at every request.
    retold: Event,
}

impl Told {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU8::new(Word::Park as u8),
            is_heard: AtomicBool::new(false),
            begun: Instant::now(),
        }
    }

    /// Changes the word, and wakes no handler.
    pub(super) fn set(&self, word: Word) {
        self.word.store(word as u8, Ordering::SeqCst);
    }

    pub(super) fn to_park(&self, served: &Served) -> bool {
        match self.word.load(Ordering::SeqCst) {
            word if word == Word::Serve as u8 || word == Word::Leave as u8 => false,
            word if word == Word::ParkIfIdle as u8 => self.is_idle(served),
            _ => true,
        }
    }

    pub(super) fn to_leave(&self) -> bool {
        self.word.load(Ordering::SeqCst) != Word::Serve as u8
    }

    pub(super) fn to_close(&self) -> bool {
        self.word.load(Ordering::SeqCst) == Word::Close as u8
    }

    pub(super) fn is_listened_to(&self) {
        self.is_heard.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_listeners(&self) -> bool {
        self.is_heard.load(Ordering::Relaxed)
    }

    /// A connection that was served just now.
    pub(super) fn served(&self) -> Served {
        Served { at: AtomicU32::new(self.now()), retold: Event::new() }
    }

    pub(super) fn note(&self, served: &Served) {
        served.at.store(self.now(), Ordering::Relaxed);
    }

    pub(super) fn is_idle(&self, served: &Served) -> bool {
        self.now().wrapping_sub(served.at.load(Ordering::Relaxed)) >= IDLE_MS
    }

    /// In milliseconds. It wraps after 49 days, and then an idle connection may count as busy.
    fn now(&self) -> u32 {
        self.begun.elapsed().as_millis() as u32
    }
}

impl Served {
    pub(super) fn wake(&self) {
        self.retold.notify(usize::MAX);
    }

    /// Waits until `is_so`, which is asked again at each wake-up. The future may be polled again after
    /// that, and then waits anew.
    pub(super) fn wait(
        self: Arc<Self>,
        is_so: impl Fn(&Self) -> bool + Send + Unpin,
    ) -> impl Future<Output = ()> + Send + Unpin {
        let served = Arc::clone(&self);
        poll_fn(wait::polled(move || served.retold.listen(), move || is_so(&self).then_some(())))
    }
}

#[cfg(test)]
impl Told {
    /// As if nothing had been served for long.
    pub(super) fn forget(&self, served: &Served) {
        served.at.store(self.now().wrapping_sub(10 * IDLE_MS), Ordering::SeqCst);
    }
}

/// A connection on which no request was served for so long is idle.
const IDLE_MS: u32 = 100;
