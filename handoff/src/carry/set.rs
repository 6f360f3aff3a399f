//! One set, and all sets of a daemon, without the types in them.

use std::collections::HashSet;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::carry::format::Format;
use crate::carry::wire::{WireItem, WireSet};
use crate::error::{CarryError, Result};
use crate::protocol::{CarryFate, CarryKind, MAX_SETS};
use crate::sys::memory::Sealed;

/// The type of a field with `#[handoff(carry)]`: [`Connections`](crate::carry::Connections),
/// [`Memory`](crate::carry::Memory), an `Arc` of either, or a collection of those.
///
/// The elements of the field `clients` are named `clients.0`, `clients.1`. A successor finds
/// its set again by the name.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be carried from one process to the next",
    label = "`#[handoff(carry)]` is for connections and memory",
    note = "such a field is a `handoff::carry::Connections`, a `handoff::carry::Memory`, an \
            `Arc` of either, or a `Vec`, an array or an `Option` of those"
)]
pub trait Carry: Send + Sync {
    /// Calls `visit` with every set and its name. `name` is the name of the whole.
    fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>));
}

/// A process's state, as far as it is carried.
pub(crate) trait Source: Send + Sync {
    /// All sets of the daemon.
    fn carries(&self) -> Carriage<'_>;
}

/// One set of connections or of memory, of any type.
#[derive(Clone, Copy)]
pub struct AnySet<'a>(pub(super) &'a dyn Set);

impl fmt::Debug for AnySet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind().name())
    }
}

macro_rules! deref_carry {
    ($($pointer:ty),*) => {$(
        impl<T: Carry + ?Sized> Carry for $pointer {
            fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>)) {
                (**self).each_set(name, visit);
            }
        }
    )*};
}

deref_carry!(&T, Box<T>, Arc<T>);

impl<T: Carry> Carry for Option<T> {
    fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>)) {
        self.iter().for_each(|set| set.each_set(name, visit));
    }
}

impl<T: Carry> Carry for [T] {
    fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>)) {
        for (index, set) in self.iter().enumerate() {
            set.each_set(&format!("{name}.{index}"), visit);
        }
    }
}

impl<T: Carry> Carry for Vec<T> {
    fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>)) {
        self.as_slice().each_set(name, visit);
    }
}

impl<T: Carry, const N: usize> Carry for [T; N] {
    fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>)) {
        self.as_slice().each_set(name, visit);
    }
}

/// The library's calls on a set, in the order of a swap. The calls that concern handlers do
/// nothing by default: memory has no handlers.
pub(super) trait Set: Send + Sync {
    fn kind(&self) -> CarryKind;

    /// Whether a swap may do without it.
    fn may_be_lost(&self) -> bool;

    /// Whether there is nothing in it.
    fn is_vacant(&self) -> bool;

    /// Tells connections that cannot be carried to leave.
    fn tell_to_leave(&self) {}

    /// Waits until those have left that were told so then, at most until the deadline.
    fn wait_left(&self, _told: Instant, _deadline: Instant) {}

    /// A drain is about to begin: idle connections park, while the others are still served.
    fn collect_idle(&self, _carrier: &Thread) {}

    /// Waits until the idle connections are parked and sent, at most until the deadline.
    fn wait_idle(&self, _deadline: Instant) {}

    /// A drain begins: the set keeps the connections that park for `carrier`, and wakes it.
    fn collect(&self, carrier: Option<&Thread>);

    /// Waits until every connection is parked or over; the names of those that are not when no other
    /// one has parked for a while, when the deadline passes, or when the wait is interrupted.
    fn wait_parked(&self, _deadline: Instant) -> Vec<String> {
        Vec::new()
    }

    /// Waits until every connection is parked or over, at most until the deadline.
    #[cfg(feature = "tokio")]
    fn wait_over(&self, _deadline: Instant) {}

    /// Of the connections that have a handler now, the first `max` by name; and how many more.
    fn not_parked(&self, _max: usize) -> (Vec<String>, usize) {
        (Vec::new(), 0)
    }

    /// Cuts [`wait_parked`](Self::wait_parked) short, also one that has not begun, until this
    /// process serves again.
    fn interrupt(&self) {}

    /// Sends the next parcel. Without `is_last` it sends only a full one. `false` when there was
    /// none to send.
    fn send_next(&self, is_last: bool, send: &mut SendParcel<'_>) -> Result<bool>;

    /// The swap was given up. The incumbent keeps the connections that it sent if the successor
    /// has `kept_off` them, and closes them otherwise (invariant 13).
    fn take_back(&self, _kept_off: bool) {}

    /// The incumbent has taken everything back: the successor drops the connections that it was
    /// sent (invariant 13).
    fn forget(&self) {}

    /// This process serves, from here on or again.
    fn release(&self) {}

    /// This process is being stopped, and nobody takes its place.
    fn stop(&self) {}

    /// Another process serves, or this one stops: it closes its copies.
    fn part(&self);

    /// Puts the parcels into the set of the successor, which uses nothing before `release`. Where
    /// a state cannot be read, the parcels are as they were.
    fn arrive(&self, name: &str, parcels: &mut Vec<Parcel>) -> Result<CarryFate, CarryError>;
}

/// Sends a parcel: the format of its states, its items, and the descriptors.
pub(super) type SendParcel<'a> =
    dyn FnMut(Option<Format>, Vec<WireItem>, &[BorrowedFd<'_>]) -> Result<()> + 'a;

/// One parcel, as it arrived.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) format: Option<Format>,
    pub(super) items: Vec<Item>,
}

/// A connection with its state, or a piece of memory.
#[derive(Debug)]
pub(super) enum Item {
    Connection { name: String, descriptor: OwnedFd, state: StateBytes },
    Memory { key: String, memory: Sealed },
}

/// The connections in these parcels.
pub(super) fn descriptors_of(parcels: Vec<Parcel>) -> impl Iterator<Item = OwnedFd> {
    parcels.into_iter().flat_map(|parcel| parcel.items).filter_map(|item| match item {
        Item::Connection { descriptor, .. } => Some(descriptor),
        Item::Memory { .. } => None,
    })
}

impl Item {
    /// The state, or the contents of the memory.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Connection { state: StateBytes::Inline(bytes), .. } => bytes,
            Self::Connection { state: StateBytes::Apart(memory), .. }
            | Self::Memory { memory, .. } => memory,
        }
    }
}

/// The state of a connection, as bytes.
#[derive(Debug)]
pub(super) enum StateBytes {
    Inline(Vec<u8>),
    Apart(Sealed),
}

/// All that a daemon carries, in declared order.
///
/// `#[derive(Drainable)]` gathers it. A [`Drainable`](crate::Drainable) written by hand does the
/// same in [`carriage`](crate::Drainable::carriage), and the library does the rest.
///
/// ```
/// # use std::sync::Arc;
/// # use handoff::carry::{Carriage, Carried, Connections, Memory};
/// # struct Daemon<C: Carried> { clients: Arc<Connections<C>>, cache: Memory }
/// # impl<C: Carried> Daemon<C> {
/// fn carriage(&self) -> Carriage<'_> {
///     Carriage::new().with("clients", &self.clients).with("cache", &self.cache)
/// }
/// # }
/// ```
#[derive(Default)]
pub struct Carriage<'a> {
    sets: Vec<(String, AnySet<'a>)>,
}

impl<'a> Carriage<'a> {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { sets: Vec::new() }
    }

    /// With one more set, or a collection of them, after the others.
    #[must_use]
    pub fn with<C: Carry + ?Sized>(mut self, name: &str, sets: &'a C) -> Self {
        sets.each_set(name, &mut |name, set| self.sets.push((name, set)));
        self
    }

    /// How many sets there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Whether the names tell the sets apart, and are not too many.
    pub(crate) fn check(&self) -> Result<(), CarryError> {
        if self.len() > MAX_SETS {
            return Err(CarryError::TooManySets(self.len()));
        }
        let mut names = HashSet::new();
        match self.sets.iter().find(|(name, _)| !names.insert(name)) {
            Some((set, _)) => Err(CarryError::DuplicateSet { set: set.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses connections that are carried where no gate keeps new requests out: one that is
    /// accepted during a drain would miss its set.
    pub(crate) fn check_gateless(&self) -> Result<(), CarryError> {
        let is_of_connections =
            |(_, set): &&(String, AnySet<'_>)| set.0.kind() == CarryKind::Connections;
        match self.sets.iter().find(is_of_connections) {
            Some((set, _)) => Err(CarryError::NoGate { set: set.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn words(&self) -> Vec<WireSet> {
        let words = |(name, set): &(String, AnySet<'_>)| WireSet {
            name: name.clone(),
            kind: set.0.kind(),
            may_be_lost: set.0.may_be_lost(),
        };
        self.sets.iter().map(words).collect()
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = &'a dyn Set> {
        self.sets.iter().map(|(_, set)| set.0)
    }

    pub(super) fn set(&self, name: &str) -> Option<&'a dyn Set> {
        self.sets.iter().find(|(own, _)| own == name).map(|(_, set)| set.0)
    }

    /// Refuses a swap to a successor that did not ask for the sets, if it would lose one.
    pub(crate) fn check_asked_for(&self) -> Result<(), CarryError> {
        let would_be_lost =
            |(_, set): &&(String, AnySet<'_>)| !set.0.may_be_lost() && !set.0.is_vacant();
        match self.sets.iter().find(would_be_lost) {
            Some((set, _)) => Err(CarryError::NotAskedFor { set: set.clone() }),
            None => Ok(()),
        }
    }

    /// A drain is about to begin: connections that cannot be carried leave, while all are served. No
    /// gate has closed.
    pub(crate) fn leave(&self, deadline: Instant) {
        self.sets().for_each(Set::tell_to_leave);
        let told = Instant::now();
        self.sets().for_each(|set| set.wait_left(told, deadline));
    }

    /// A drain is about to begin: idle connections go ahead, while the rest are still served.
    pub(crate) fn send_idle(&self, carrier: &Thread, deadline: Instant) {
        self.sets().for_each(|set| set.collect_idle(carrier));
        let deadline = deadline.min(Instant::now() + IDLE_TIMEOUT);
        self.sets().for_each(|set| set.wait_idle(deadline));
    }

    /// A drain begins.
    pub(crate) fn collect(&self, carrier: Option<&Thread>) {
        self.sets().for_each(|set| set.collect(carrier));
    }

    /// Waits until every connection is parked or over; those that are not, by name.
    pub(crate) fn wait_parked(&self, deadline: Instant) -> Vec<String> {
        self.sets().flat_map(|set| set.wait_parked(deadline)).collect()
    }

    /// Waits until every connection is parked or over.
    #[cfg(feature = "tokio")]
    pub(crate) fn wait_over(&self, deadline: Instant) {
        self.sets().for_each(|set| set.wait_over(deadline));
    }

    /// The connections that are neither parked nor over, at most `max` by name; and how many
    /// more.
    pub(crate) fn not_parked(&self, max: usize) -> (Vec<String>, usize) {
        self.sets().fold((Vec::new(), 0), |(mut names, mut more), set| {
            let (named, unnamed) = set.not_parked(max - names.len());
            names.extend(named);
            more += unnamed;
            (names, more)
        })
    }

    pub(crate) fn interrupt(&self) {
        self.sets().for_each(Set::interrupt);
    }

    /// The swap was given up. `kept_off`: the successor has not taken the connections up.
    pub(crate) fn take_back(&self, kept_off: bool) {
        self.sets().for_each(|set| set.take_back(kept_off));
    }

    /// The incumbent has taken everything back: drops the connections that arrived.
    pub(crate) fn forget(&self) {
        self.sets().for_each(Set::forget);
    }

    /// This process serves: handlers may take the connections that arrived, or came back.
    pub(crate) fn release(&self) {
        self.sets().for_each(Set::release);
    }

    /// This process is being stopped: a connection that parks is closed.
    pub(crate) fn stop(&self) {
        self.sets().for_each(Set::stop);
    }

    /// Another process serves, or this one stops: it closes its copies.
    pub(crate) fn part(&self) {
        self.sets().for_each(Set::part);
    }
}

impl fmt::Debug for Carriage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.sets.iter().map(|(name, set)| (name, set))).finish()
    }
}

/// The maximum wait for idle connections that are told to park while others are served.
const IDLE_TIMEOUT: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
