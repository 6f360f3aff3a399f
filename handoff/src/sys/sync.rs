//! Atomics, locks, events and threads: those of the standard library and of `event-listener`. With
//! `--cfg handoff_loom`, which only tests use, stand-ins that loom explores.

#[cfg(all(test, handoff_loom))]
pub(crate) mod explorer;
#[cfg(all(test, handoff_loom))]
mod stand_ins;

#[cfg(not(all(test, handoff_loom)))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread::Builder;
    pub(crate) use std::thread_local;
    pub(crate) use std::time::Instant;

    pub(crate) use event_listener::{Event, IntoNotification, Listener};

    /// A static; loom makes a new one for each execution.
    macro_rules! global {
        (static $name:ident: $type:ty = $value:expr;) => {
            static $name: $type = $value;
        };
    }
    pub(crate) use global;
}

#[cfg(not(all(test, handoff_loom)))]
pub(crate) use real::*;
#[cfg(all(test, handoff_loom))]
pub(crate) use stand_ins::*;
