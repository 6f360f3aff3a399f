//! The successor's end of a carry channel.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use rustix::event::PollFlags;

use crate::carry::claim::{Claim, End, Usable};
use crate::carry::memory::Memory;
use crate::carry::send::Cancel;
use crate::carry::set::{Carriage, Item, Parcel, StateBytes, descriptors_of};
use crate::carry::wire::{Bytes, Note, WireItem, WireSet, WireState};
use crate::control::{
    Connection, Greeting, Heard, LIVENESS_TIMEOUT, Link, connect, hear_hello, hello_ack,
};
use crate::error::{CarryError, Error, FrameError, Result};
use crate::log;
use crate::protocol::{
    CarriedSet, CarryFate, CarryKind, HandoffId, Message, ProtoVersion, Side, in_words,
};
use crate::sys::memory::Sealed;
use crate::sys::socket::part_from;

/// Receives on a thread of its own, from before the drain until the channel ends.
#[derive(Debug)]
pub(crate) struct Receiver {
    cancel: Arc<Cancel>,
    received: mpsc::Receiver<Arrivals>,
}

impl Receiver {
    /// Asks the process that serves `control_socket` for its sets; none where it carries nothing
    /// or cannot be greeted.
    pub(crate) fn ask(
        control_socket: &Path,
        handoff_id: HandoffId,
        supervisor: Arc<Link>,
    ) -> Result<Option<Self>> {
        let (connection, version) = match greeted(control_socket) {
            Ok((_, (greeting, _))) if !greeting.capabilities.carries() => return Ok(None),
            Ok((connection, (_, version))) => (connection, version),
            Err(error) => {
                log::warn!(
                    swap = %handoff_id, path = %control_socket.display(), %error,
                    "this successor cannot ask the incumbent for connections and memory, and goes on without"
                );
                return Ok(None);
            }
        };
        let asked = [hello_ack(version, handoff_id), Message::Fetch { handoff_id }];
        connection.send_before(&asked, Instant::now() + LIVENESS_TIMEOUT)?;
        let give_up = move |error: &Error| {
            let reason = in_words(error);
            if let Err(error) = supervisor.send(&Message::Abort { handoff_id, reason }) {
                log::debug!(swap = %handoff_id, %error, "the supervisor cannot be told");
            }
        };
        Self::start(connection, give_up).map(Some)
    }

    /// Waits for the offer, then starts the thread that receives the parcels. The thread tells
    /// `give_up` of an error before the incumbent can see that this process receives no more.
    pub(super) fn start(
        connection: Connection,
        give_up: impl FnOnce(&Error) + Send + 'static,
    ) -> Result<Self> {
        let mut channel = ReceivingEnd::new(connection)?;
        let cancel = Arc::clone(&channel.cancel);
        let mut arrivals = channel.greet()?;
        let (sender, received) = mpsc::channel();
        thread::Builder::new().name("handoff-receiver".into()).spawn(move || {
            arrivals.end = channel.receive(&mut arrivals.sets).inspect_err(|error| {
                // If the incumbent has died, only this process may be left (invariant 3).
                let is_over = channel.connection.is_hung_up();
                if !channel.cancel.is_cancelled() {
                    log::error!(
                        %error,
                        "this successor did not receive all of the incumbent's connections and memory"
                    );
                    if !is_over {
                        give_up(error);
                    }
                }
            });
            let _ = sender.send(arrivals);
        })?;
        Ok(Self { cancel, received })
    }

    /// The arrivals, once the incumbent has sealed or is dead.
    pub(crate) fn finish(self) -> Result<Arrivals> {
        self.received.recv_timeout(LIVENESS_TIMEOUT).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                Error::TimedOut("waiting for the end of the incumbent's sets")
            }
            RecvTimeoutError::Disconnected => {
                Error::HookPanicked { hook: "receive", message: "the thread panicked".to_owned() }
            }
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A connection to the process that serves a control socket, and the hello that it said.
fn greeted(control_socket: &Path) -> Result<(Connection, (Greeting, ProtoVersion))> {
    let deadline = Instant::now() + LIVENESS_TIMEOUT;
    let (mut connection, peer) = connect(control_socket, deadline)?;
    let heard = hear_hello(&mut connection, Side::Incumbent, peer.pid, deadline, None)?;
    Ok((connection, heard))
}

/// Everything that a successor got from its incumbent.
#[derive(Debug)]
pub(crate) struct Arrivals {
    claim: Claim,
    sets: Vec<ArrivedSet>,
    end: Result<End>,
    /// Connections that this build does without. It closes them once it serves, and not before:
    /// the incumbent may serve again.
    dropped: Vec<OwnedFd>,
    /// `hand_on` has failed, and the parcels that it took out are gone.
    is_refused: bool,
}

/// The rest of the arrivals once every set was handed on.
#[derive(Debug)]
pub(crate) struct Rest {
    claim: Claim,
    dropped: Vec<OwnedFd>,
}

impl Rest {
    /// Claims the connections for this process, which serves; `false` when the incumbent has
    /// taken them back (invariant 13).
    pub(crate) fn take_up(self) -> bool {
        let is_ours = self.claim.take_up();
        if is_ours {
            self.dropped.into_iter().for_each(part_from);
        }
        is_ours
    }
}

#[derive(Debug)]
struct ArrivedSet {
    words: WireSet,
    parcels: Vec<Parcel>,
    count: u64,
    bytes: u64,
    /// None until it is handed on.
    fate: Option<CarryFate>,
}

impl Arrivals {
    /// Whether the incumbent has sent all that it had.
    pub(crate) const fn is_whole(&self) -> bool {
        matches!(self.end, Ok(End::Whole))
    }

    /// Clears the sets that this process, which now holds the lock, may not use; see [`Usable`].
    /// `is_as_sealed`: it found the directory as the incumbent had sealed it for this swap.
    pub(crate) fn discard_unusable(
        mut self,
        is_as_sealed: bool,
        incumbent_is_dead: bool,
    ) -> Result<Self> {
        let end = self.end.as_ref().copied().unwrap_or(End::Broken);
        match Usable::of(end, is_as_sealed, self.claim.held(), incumbent_is_dead) {
            Some(Usable::All) => {}
            Some(Usable::Connections) => {
                let is_memory = |set: &&mut ArrivedSet| set.words.kind == CarryKind::Memory;
                self.sets.iter_mut().filter(is_memory).for_each(ArrivedSet::clear);
            }
            Some(Usable::Nothing) => self.sets.iter_mut().for_each(ArrivedSet::clear),
            None => return Err(self.end.err().unwrap_or_else(|| FrameError::Truncated.into())),
        }
        Ok(self)
    }

    /// The memory of that name; empty where none arrived.
    pub(crate) fn memory(&mut self, name: &str) -> Result<Memory, CarryError> {
        let memory = Memory::new();
        if let Some(set) = self.sets.iter_mut().find(|set| set.words.name == name) {
            set.check_kind(CarryKind::Memory)?;
            memory.fill(std::mem::take(&mut set.parcels));
        }
        Ok(memory)
    }

    /// Hands everything to the sets of the same names; see
    /// [`Successor::hand_on`](crate::successor::Successor::hand_on).
    pub(crate) fn hand_on(&mut self, carriage: &Carriage<'_>) -> Result<(), CarryError> {
        carriage.check()?;
        self.check_not_refused()?;
        self.is_refused = true;
        for set in self.sets.iter_mut().filter(|set| set.fate.is_none()) {
            let mut parcels = std::mem::take(&mut set.parcels);
            let name = &set.words.name;
            let Some(own) = carriage.set(name) else {
                self.dropped.extend(descriptors_of(parcels));
                set.fate = Some(set.not_taken()?);
                continue;
            };
            let fits = set.check_kind(own.kind());
            set.fate = Some(match fits.and_then(|()| own.arrive(name, &mut parcels)) {
                Ok(fate) => fate,
                Err(error) if own.may_be_lost() => {
                    self.dropped.extend(descriptors_of(parcels));
                    CarryFate::Dropped { why: error.to_string() }
                }
                Err(error) => return Err(error),
            });
        }
        self.is_refused = false;
        Ok(())
    }

    fn check_not_refused(&self) -> Result<(), CarryError> {
        match self.is_refused {
            true => Err(CarryError::Channel("it was refused before".into())),
            false => Ok(()),
        }
    }

    /// The fate of each set; an error if a set that may not be lost was not handed on.
    pub(crate) fn report(&self) -> Result<Vec<CarriedSet>, CarryError> {
        self.check_not_refused()?;
        self.sets.iter().map(ArrivedSet::report).collect()
    }

    pub(crate) fn into_rest(self) -> Rest {
        Rest { claim: self.claim, dropped: self.dropped }
    }
}

impl ArrivedSet {
    fn clear(&mut self) {
        self.parcels.clear();
        (self.count, self.bytes) = (0, 0);
    }

    fn check_kind(&self, expected: CarryKind) -> Result<(), CarryError> {
        if self.words.kind == expected {
            return Ok(());
        }
        Err(CarryError::WrongKind {
            set: self.words.name.clone(),
            arrived: self.words.kind.name(),
            expected: expected.name(),
        })
    }

    fn not_taken(&self) -> Result<CarryFate, CarryError> {
        let error = CarryError::NotTaken { set: self.words.name.clone() };
        if self.words.may_be_lost || self.count == 0 {
            return Ok(CarryFate::Dropped { why: error.to_string() });
        }
        Err(error)
    }

    fn report(&self) -> Result<CarriedSet, CarryError> {
        let WireSet { name, kind, .. } = self.words.clone();
        let fate = self.fate.clone().map_or_else(|| self.not_taken(), Ok)?;
        Ok(CarriedSet { name, kind, count: self.count, bytes: self.bytes, fate })
    }

    fn add(&mut self, parcel: Parcel) {
        self.count += parcel.items.len() as u64;
        self.bytes += parcel.items.iter().map(|item| item.bytes().len() as u64).sum::<u64>();
        self.parcels.push(parcel);
    }
}

#[cfg(feature = "fuzzing")]
impl Arrivals {
    /// Receives a whole stream, without a thread.
    pub(crate) fn of(connection: Connection) -> Result<Self> {
        let mut channel = ReceivingEnd::new(connection)?;
        let mut arrivals = channel.greet()?;
        arrivals.end = channel.receive(&mut arrivals.sets);
        Ok(arrivals)
    }
}

/// The connection on which the incumbent alone speaks.
struct ReceivingEnd {
    connection: Connection,
    cancel: Arc<Cancel>,
}

impl ReceivingEnd {
    fn new(connection: Connection) -> Result<Self> {
        let connection = connection.with_descriptors(usize::MAX);
        Ok(Self { connection, cancel: Arc::new(Cancel::new()?) })
    }

    /// Waits for the offer.
    fn greet(&mut self) -> Result<Arrivals> {
        let deadline = Instant::now() + LIVENESS_TIMEOUT;
        let Some(Note::Offer { sets }) = self.next(Some(deadline))? else {
            return Err(CarryError::Channel("it did not begin with an offer".into()).into());
        };
        let not_a_claim = |_| CarryError::Channel("the offer came without its claim".into());
        let claim = Claim::of(self.descriptor()?).map_err(not_a_claim)?;
        let arrived =
            |words| ArrivedSet { words, parcels: Vec::new(), count: 0, bytes: 0, fate: None };
        let sets = sets.into_iter().map(arrived).collect();
        Ok(Arrivals { claim, sets, end: Ok(End::CutOff), dropped: Vec::new(), is_refused: false })
    }

    /// Receives until the end.
    fn receive(&mut self, sets: &mut [ArrivedSet]) -> Result<End> {
        loop {
            match self.next(None)? {
                None => return Ok(End::CutOff),
                Some(Note::Offer { .. }) => {
                    return Err(CarryError::Channel("a second offer".into()).into());
                }
                Some(Note::Parcel { set, format, items }) => {
                    let set = usize::try_from(set).ok().and_then(|set| sets.get_mut(set));
                    let Some(set) = set else {
                        return Err(CarryError::Channel("a parcel of no set".into()).into());
                    };
                    let expected = items.iter().map(|item| item.state.descriptors()).sum();
                    let arrived = self.connection.descriptors();
                    if arrived < expected {
                        return Err(CarryError::Descriptors { expected, arrived }.into());
                    }
                    let items = items.into_iter().map(|item| self.item(&set.words, item));
                    set.add(Parcel { format, items: items.collect::<Result<_>>()? });
                    try_failpoint!(SuccessorReceived)?;
                }
                Some(Note::End { sent }) => {
                    let arrived = self.connection.descriptors();
                    if arrived > 0 {
                        return Err(CarryError::Descriptors { expected: 0, arrived }.into());
                    }
                    if sent.len() != sets.len() {
                        return Err(CarryError::Channel("it counts other sets".into()).into());
                    }
                    for (set, sent) in sets.iter().zip(sent) {
                        if sent != set.count {
                            let (set, arrived) = (set.words.name.clone(), set.count);
                            return Err(CarryError::Count { set, sent, arrived }.into());
                        }
                    }
                    return Ok(End::Whole);
                }
            }
        }
    }

    /// One item of a parcel. The caller has checked that its descriptors are there.
    fn item(&mut self, set: &WireSet, item: WireItem) -> Result<Item> {
        let WireItem { name, state } = item;
        let not_sealed = || CarryError::NotSealed { set: set.name.clone(), item: name.clone() };
        let sealed = |descriptor, length: u64| match Sealed::map(descriptor) {
            Ok(memory) if memory.len() as u64 == length => Ok(memory),
            Err(error) if error.kind() != ErrorKind::InvalidInput => Err(Error::from(error)),
            _ => Err(not_sealed().into()),
        };
        Ok(match (set.kind, state) {
            (CarryKind::Connections, WireState::Inline(Bytes(inline))) => {
                let (descriptor, state) = (self.descriptor()?, StateBytes::Inline(inline));
                Item::Connection { name, descriptor, state }
            }
            (CarryKind::Connections, WireState::Apart { length }) => {
                let descriptor = self.descriptor()?;
                let state = StateBytes::Apart(sealed(self.descriptor()?, length)?);
                Item::Connection { name, descriptor, state }
            }
            (CarryKind::Memory, WireState::Memory { length }) => {
                let memory = sealed(self.descriptor()?, length)?;
                Item::Memory { key: name, memory }
            }
            (CarryKind::Memory, _) | (CarryKind::Connections, WireState::Memory { .. }) => {
                let words = format!("{name:?} is not of the kind of {:?}", set.name);
                return Err(CarryError::Channel(words).into());
            }
        })
    }

    fn descriptor(&mut self) -> Result<OwnedFd> {
        let missing = CarryError::Descriptors { expected: 1, arrived: 0 };
        Ok(self.connection.take_descriptor().ok_or(missing)?)
    }

    /// The next frame; none at the end of the stream, even where the end cuts a frame off.
    fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Note>> {
        loop {
            match self.connection.next_of() {
                Ok(Heard::Frame((_, note))) => return Ok(Some(note)),
                Ok(Heard::End) | Err(Error::Frame(FrameError::Truncated)) => return Ok(None),
                Ok(Heard::Nothing) => {
                    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Err(Error::TimedOut("waiting for the incumbent's sets"));
                    }
                    self.cancel.wait_for(self.connection.stream(), PollFlags::IN, deadline)?;
                }
                Err(Error::Io(error)) if error.raw_os_error() == Some(libc::EMFILE) => {
                    return Err(CarryError::NoDescriptorsLeft.into());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
