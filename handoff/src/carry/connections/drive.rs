//! The library's calls on connections, in the order of a swap.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::{Connections, Inner, Mode, Parked, Served, WOKEN_AT_ONCE};
use crate::carry::SealedMemory;
use crate::carry::format::{Carried, Format};
use crate::carry::set::{AnySet, Carry, Item, Parcel, SendParcel, Set};
use crate::carry::wire::{Bytes, MAX_INLINE_LEN, PARCEL_BYTES, WireItem, WireState};
use crate::error::{CarryError, Result};
use crate::frame::write_value;
use crate::log;
use crate::protocol::{CarryFate, CarryKind};
use crate::sys::rights::MAX_DESCRIPTORS;
use crate::sys::socket::part_from;
use crate::sys::sync::Listener;
use crate::wait;

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

    fn tell_to_leave(&self) {
        let told: Vec<Arc<Served>> = {
            let mut state = self.state();
            self.enter_mode(&mut state, Mode::Leaving);
            let leaving = state.live.values().filter(|live| live.leaves);
            leaving.map(|live| Arc::clone(&live.served)).collect()
        };
        told.iter().for_each(|served| served.wake());
    }

    fn wait_left(&self, told: Instant, deadline: Instant) {
        let deadline = deadline.min(told + self.leave_grace);
        let over = || {
            let state = self.state();
            let is_over = state.interrupted || !state.live.values().any(|live| live.leaves);
            is_over.then_some(())
        };
        let _ = wait::blocking(&self.changed, Some(deadline), over);
    }

    fn collect_idle(&self, carrier: &Thread) {
        if !self.told.has_listeners() {
            return;
        }
        let mut state = self.state();
        let Inner { live, awaited, unwoken, .. } = &mut *state;
        unwoken.clear();
        for live in live.values_mut() {
            live.is_awaited = self.told.is_idle(&live.served);
            if live.is_awaited {
                unwoken.push(Arc::clone(&live.served));
            }
        }
        *awaited = unwoken.len();
        self.enter_mode(&mut state, Mode::CollectingIdle);
        state.carrier = Some(carrier.clone());
        state.send_waiting();
    }

    fn wait_idle(&self, deadline: Instant) {
        let mut turns_of_nobody = 0;
        loop {
            let changed = self.changed.listen();
            let woken = {
                let mut state = self.state();
                let is_sent = state.unsent.len() < MAX_DESCRIPTORS;
                let is_over = state.awaited == 0 && is_sent || state.interrupted;
                let is_told = state.unwoken.is_empty() && turns_of_nobody >= TURNS_OF_NOBODY;
                if is_over || is_told || state.mode != Mode::CollectingIdle {
                    return;
                }
                let left = state.unwoken.len().saturating_sub(WOKEN_AT_ONCE);
                state.unwoken.split_off(left)
            };
            // A few at a time: those that are busy have their turn in between.
            woken.iter().for_each(|served| served.wake());
            let turn = Instant::now() + A_FEW_PARK;
            if changed.wait_deadline(turn.min(deadline)).is_none() {
                if Instant::now() >= deadline {
                    return;
                }
                turns_of_nobody += 1;
                self.let_go_of_the_busy();
            } else {
                turns_of_nobody = 0;
            }
        }
    }

    fn collect(&self, carrier: Option<&Thread>) {
        {
            let mut state = self.state();
            self.enter_mode(&mut state, Mode::Collecting);
            state.carrier = carrier.cloned();
            // From here on all of them are woken.
            state.unwoken.clear();
            state.send_waiting();
        }
        self.wake_all();
    }

    fn wait_parked(&self, deadline: Instant) -> Vec<String> {
        let mut left = self.live();
        loop {
            // A drain waits for passes; for handlers without one it waits while others park.
            let turn = deadline.min(Instant::now() + PARK_GRACE);
            // One that had to leave and has not cannot park either.
            let can_none_park = |state: &Inner<S>| state.live.values().all(|live| live.leaves);
            if let Some(names) = self.over_by(turn, can_none_park) {
                return names;
            }
            let live = self.live();
            if live >= left || Instant::now() >= deadline {
                return self.state().names();
            }
            left = live;
        }
    }

    #[cfg(feature = "tokio")]
    fn wait_over(&self, deadline: Instant) {
        let _ = self.over_by(deadline, |state| state.live.is_empty());
    }

    fn not_parked(&self, max: usize) -> (Vec<String>, usize) {
        let state = self.state();
        let mut names: Vec<_> = state.live.values().map(|live| live.name.as_str()).collect();
        // Under the lock, so the names that are left out are neither copied nor sorted.
        if names.len() > max {
            names.select_nth_unstable(max);
        }
        let more = names.len().saturating_sub(max);
        names.truncate(max);
        names.sort_unstable();
        (names.into_iter().map(str::to_owned).collect(), more)
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
            let state = if bytes.len() > MAX_INLINE_LEN {
                let length = bytes.len() as u64;
                let memory = SealedMemory::of_bytes(&bytes).map_err(|source| {
                    CarryError::NoMemory { set: S::NAME.to_owned(), item: name.clone(), source }
                })?;
                apart.push((index, memory));
                WireState::Apart { length }
            } else {
                length += bytes.len();
                WireState::Inline(Bytes(bytes))
            };
            descriptors += state.descriptors();
            if descriptors > MAX_DESCRIPTORS {
                break;
            }
            length += name.len();
            items.push(WireItem { name: name.clone(), state });
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
            self.enter_mode(&mut state, Mode::Held);
            state.carrier = None;
            let Inner { sent, unsent, waiting, .. } = &mut *state;
            if kept_off {
                waiting.append(sent);
            }
            waiting.extend(unsent.drain(..));
            std::mem::take(sent)
        };
        if !closed.is_empty() {
            let count = closed.len();
            log::warn!(
                count,
                "the successor used carried connections before it ended, so this incumbent closes them"
            );
            closed.into_iter().for_each(|parked| part_from(parked.descriptor));
        }
    }

    fn forget(&self) {
        let forgotten = std::mem::take(&mut self.state().waiting);
        drop(forgotten);
    }

    fn stop(&self) {
        let (waiting, unsent) = {
            let mut state = self.state();
            self.enter_mode(&mut state, Mode::Stopping);
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.unsent))
        };
        self.wake_all();
        waiting.into_iter().chain(unsent).for_each(|parked| part_from(parked.descriptor));
    }

    fn release(&self) {
        {
            let mut state = self.state();
            self.enter_mode(&mut state, Mode::Serving);
            state.interrupted = false;
        }
        self.arrived.notify(usize::MAX);
        // Those that were told to leave, and to nothing more.
        self.wake_all();
    }

    fn part(&self) {
        let (sent, unsent, live) = {
            let mut state = self.state();
            self.enter_mode(&mut state, Mode::Parted);
            state.carrier = None;
            let sent = std::mem::take(&mut state.sent);
            (sent, std::mem::take(&mut state.unsent), state.live.len())
        };
        self.wake_all();
        // The successor has them, so nothing ends by this.
        drop(sent);
        if !unsent.is_empty() || live > 0 {
            let (parked, busy) = (unsent.len(), live);
            log::warn!(
                parked,
                busy,
                "this process ends with connections that it did not carry: it closes the parked ones, and the busy ones end with it at the latest"
            );
        }
        unsent.into_iter().for_each(|parked| part_from(parked.descriptor));
    }

    fn arrive(&self, name: &str, parcels: &mut Vec<Parcel>) -> Result<CarryFate, CarryError> {
        let (states, older) = self.read_states(name, parcels)?;
        let items = parcels.drain(..).flat_map(|parcel| parcel.items).zip(states);
        let parked = items.filter_map(|(item, state)| match item {
            Item::Connection { name, descriptor, .. } => Some(Parked { name, descriptor, state }),
            Item::Memory { .. } => None,
        });
        let mut state = self.state();
        self.enter_mode(&mut state, Mode::Arrived);
        state.waiting.extend(parked);
        drop(state);
        Ok(older.map_or(CarryFate::Taken, |from| CarryFate::Converted { from }))
    }
}

impl<S: Carried> Connections<S> {
    /// Waits until it is so, or the wait is interrupted: the names of the connections that still have a
    /// handler.
    fn over_by(&self, deadline: Instant, is_so: impl Fn(&Inner<S>) -> bool) -> Option<Vec<String>> {
        let over = || {
            let state = self.state();
            (is_so(&state) || state.interrupted).then(|| state.names())
        };
        wait::blocking(&self.changed, Some(deadline), over)
    }

    /// Stops waiting for connections that got a request since they were counted among the idle.
    fn let_go_of_the_busy(&self) {
        let mut state = self.state();
        let Inner { live, awaited, .. } = &mut *state;
        for live in live.values_mut().filter(|live| live.is_awaited) {
            live.is_awaited = self.told.is_idle(&live.served);
            *awaited -= usize::from(!live.is_awaited);
        }
    }

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
                match item {
                    Item::Connection { name, .. } => {
                        states.push(decoder.read(set, name, item.bytes())?);
                    }
                    Item::Memory { key, .. } => {
                        let words = format!("memory {key:?} among connections");
                        return Err(CarryError::Channel(words));
                    }
                }
            }
            older = decoder.older.or(older);
        }
        Ok((states, older))
    }

    fn take_unsent(&self, is_last: bool) -> Taken<'_, S> {
        let mut state = self.state();
        let count = state.unsent.len().min(MAX_DESCRIPTORS);
        let count = if is_last || count == MAX_DESCRIPTORS { count } else { 0 };
        Taken { set: self, parked: state.unsent.drain(..count).collect() }
    }
}

/// Parked connections that are being sent. Dropping it counts them as sent, so neither an error
/// nor a panic loses one (invariant 14).
struct Taken<'a, S> {
    set: &'a Connections<S>,
    parked: Vec<Parked<S>>,
}

impl<S> Taken<'_, S> {
    /// Leaves the connections from `first` on to another parcel.
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
            state.mode == Mode::CollectingIdle && state.unsent.len() < MAX_DESCRIPTORS
        };
        if is_sent {
            self.set.changed.notify(usize::MAX);
        }
    }
}

/// For a handler that is told to park, and for as long again as others park.
pub(super) const PARK_GRACE: Duration = Duration::from_millis(300);
/// From one wake-up of a few to the next, if they have not parked before.
const A_FEW_PARK: Duration = Duration::from_micros(500);
/// After so many turns in which nobody parks, the rest are busy with long requests.
const TURNS_OF_NOBODY: u32 = 16;
