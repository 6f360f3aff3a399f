//! The successor's end of a carry channel.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use serde::{Deserialize, Serialize};

use super::Input;
use crate::carry::wire::{Bytes, MAX_INLINE_LEN, Note, WireItem, WireSet, WireState};
use crate::carry::{
    Arrivals, Carriage, Carried, CarryFate, CarryKind, Claim, Connections, Format, Memory,
    MemoryWriter, Reads,
};
use crate::control::Connection;
use crate::error::{CarryError, Error};
use crate::frame::{encode, write_value};
use crate::protocol::PROTO_MIN;
use crate::sys::{memory, poll, rights};

/// The successor uses and reports no more than arrived, even from an incumbent that breaks the
/// protocol. It hands a sound arrival on as it was parked. It leaves no descriptor open.
///
/// An input is a byte of circumstances, and the incumbent's steps: see `Incumbent::step`.
pub fn carry(input: &[u8]) {
    let mut input = Input(input);
    let circumstances = input.byte();
    let [offers, takes_back, is_as_sealed, is_dead, may_lose] =
        [0, 1, 2, 3, 4].map(|bit| circumstances & (1 << bit) != 0);
    let (mut incumbent, theirs) = Incumbent::new(offers);
    for _ in 0..MAX_STEPS {
        if input.is_empty() || incumbent.has_ended {
            break;
        }
        incumbent.step(&mut input);
    }
    assert!(!takes_back || incumbent.claim.take_back());
    let is_whole = incumbent.is_sound && incumbent.has_ended;
    // The stream ends as it does when the incumbent's process ends.
    let Incumbent { bytes, descriptors, peers, parked, .. } = incumbent.leave();
    match Arrivals::of(Connection::new(theirs)) {
        Ok(arrivals) => {
            assert!(arrivals.is_whole() || !is_whole);
            match arrivals.discard_unusable(is_as_sealed, is_dead) {
                Ok(arrivals) => {
                    let taken = hand_on_all(arrivals, may_lose, bytes, descriptors);
                    let has_all = is_whole && (is_as_sealed || is_dead) && !takes_back;
                    let has_none = taken.as_ref().is_none_or(Vec::is_empty);
                    assert!(has_none || !(offers && takes_back), "the incumbent serves");
                    assert!(!has_all || taken == Some(parked), "it is in order");
                }
                Err(error) => {
                    assert!(!(is_whole && is_as_sealed), "{error}");
                    assert!(!is_dead, "{error}");
                }
            }
        }
        Err(Error::Frame(_) | Error::Carry(_)) => assert!(!is_whole),
        Err(error) => panic!("{error}"),
    }
    for peer in peers {
        // A child of another test has a copy of the socket until it executes.
        let ended = poll::wait_for(peer.as_fd(), PollFlags::IN, Some(Instant::now() + LONG));
        assert!(ended.expect("it is polled"), "a descriptor is left behind");
    }
}

/// The states of all connections, in the order in which the incumbent sent them; none where the
/// successor refuses them.
fn hand_on_all(
    mut arrivals: Arrivals,
    may_lose: bool,
    bytes: usize,
    descriptors: usize,
) -> Option<Vec<Client>> {
    let cache = match arrivals.memory("cache") {
        Ok(cache) => cache,
        Err(CarryError::WrongKind { .. }) => Memory::new(),
        Err(error) => panic!("{error}"),
    };
    for key in cache.keys() {
        match cache.value("key", &Reads::<Client>::new()) {
            Ok(value) => assert!(value.is_none_or(|client| client.text.len() <= bytes)),
            Err(Error::Carry(CarryError::Unreadable { .. } | CarryError::Damaged { .. })) => {}
            Err(error) => panic!("{key:?}: {error}"),
        }
    }
    let clients = Connections::<Client>::new().from::<OldClient>();
    let clients = Arc::new(if may_lose { clients.may_be_lost() } else { clients });
    let carriage = Carriage::new().with("clients", &clients).with("cache", &cache);
    match arrivals.hand_on(&carriage) {
        Ok(()) => {}
        Err(CarryError::NotTaken { .. } | CarryError::WrongKind { .. }) => return None,
        Err(
            CarryError::Unreadable { .. } | CarryError::Damaged { .. } | CarryError::Channel(_),
        ) => {
            assert!(!may_lose);
            return None;
        }
        Err(error) => panic!("{error}"),
    }
    let report = arrivals.report().expect("all was handed on");
    let count: u64 = report.iter().map(|set| set.count).sum();
    assert!(count <= descriptors as u64, "{count} of {descriptors} descriptors");
    let told: u64 = report.iter().map(|set| set.bytes).sum();
    assert!(told <= bytes as u64, "{told} of {bytes} bytes");
    assert!(clients.try_arrival().is_none(), "it does not serve yet");
    arrivals.into_rest().take_up();
    carriage.release();
    let mut taken: Vec<_> =
        std::iter::from_fn(|| clients.try_arrival()).map(|arrival| arrival.state).collect();
    taken.reverse();
    let is_taken = |fate: &CarryFate| !matches!(fate, CarryFate::Dropped { .. });
    let counted: u64 = report
        .iter()
        .filter(|set| set.name == "clients" && is_taken(&set.fate))
        .map(|set| set.count)
        .sum();
    assert_eq!(taken.len() as u64, counted);
    Some(taken)
}

/// The incumbent's end, and an account of the bytes and descriptors that it sent.
struct Incumbent {
    stream: UnixStream,
    claim: Claim,
    /// On the stream, and in memory.
    bytes: usize,
    descriptors: usize,
    /// The other ends of all sockets that it sends.
    peers: Vec<UnixStream>,
    parked: Vec<Client>,
    /// Whether a successor has no reason to refuse it.
    is_sound: bool,
    has_ended: bool,
}

impl Incumbent {
    fn new(offers: bool) -> (Self, UnixStream) {
        let (stream, theirs) = UnixStream::pair().expect("a pair");
        stream.set_nonblocking(true).expect("it is set");
        let claim = Claim::new().expect("memory");
        let copy = claim.as_fd().try_clone_to_owned().expect("a descriptor is left");
        let mut incumbent = Self {
            stream,
            claim,
            bytes: 0,
            descriptors: 0,
            peers: Vec::new(),
            parked: Vec::new(),
            is_sound: offers,
            has_ended: false,
        };
        if offers {
            let words =
                |name: &str, kind, may_be_lost| WireSet { name: name.into(), kind, may_be_lost };
            let sets = vec![
                words("clients", CarryKind::Connections, false),
                words("lost", CarryKind::Connections, true),
                words("cache", CarryKind::Memory, false),
            ];
            incumbent.say(&Note::Offer { sets }, vec![copy]);
        }
        (incumbent, theirs)
    }

    fn leave(self) -> Self {
        self.stream.shutdown(std::net::Shutdown::Both).expect("it is connected");
        self
    }

    /// By its first byte:
    ///
    /// - 0: bytes, and descriptors;
    /// - 1: the same, in a frame;
    /// - 2: a connection with a state of the length that two bytes give;
    /// - 3: the end, in order;
    /// - 4: a set, a format, an item of words, and descriptors.
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 5 {
            tag @ (0 | 1) => {
                let length = usize::from(input.byte());
                let bytes = input.bytes(length);
                let length = u32::try_from(bytes.len() + 2).expect("it is short").to_le_bytes();
                let head = [&length[..], &PROTO_MIN.to_le_bytes()].concat();
                let bytes = [if tag == 0 { &[][..] } else { &head }, bytes].concat();
                let descriptors = self.descriptors(input);
                self.is_sound = false;
                self.say_bytes(&bytes, descriptors);
            }
            2 => {
                let number = u16::from_le_bytes(input.array());
                let client = Client { number, text: "x".repeat(number.into()) };
                let mut bytes = Vec::new();
                write_value(&client, &mut bytes).expect("it is written");
                self.parked.push(client);
                let mut descriptors = vec![self.socket()];
                let state = if bytes.len() > MAX_INLINE_LEN {
                    descriptors.push(self.sealed(&bytes));
                    WireState::Apart { length: bytes.len() as u64 }
                } else {
                    WireState::Inline(Bytes(bytes))
                };
                self.parcel(0, Some(Format::of::<Client>()), state, descriptors);
            }
            3 => {
                self.has_ended = true;
                self.say(&Note::End { sent: vec![self.parked.len() as u64, 0, 0] }, Vec::new());
            }
            _ => {
                let set = u32::from(input.byte() % 4);
                let format = match input.byte() % 4 {
                    0 => None,
                    1 => Some(Format::of::<Client>()),
                    2 => Some(Format::of::<OldClient>()),
                    _ => Some(Format { name: "another".into(), version: 1 }),
                };
                let state = match input.byte() % 4 {
                    0 => WireState::Apart { length: input.number() },
                    1 => WireState::Memory { length: input.byte().into() },
                    _ => {
                        let length = usize::from(input.byte());
                        WireState::Inline(Bytes(input.bytes(length).to_vec()))
                    }
                };
                let descriptors = self.descriptors(input);
                self.is_sound = false;
                self.parcel(set, format, state, descriptors);
            }
        }
    }

    fn parcel(&mut self, set: u32, format: Option<Format>, state: WireState, with: Vec<OwnedFd>) {
        let items = vec![WireItem { name: "key".into(), state }];
        self.say(&Note::Parcel { set, format, items }, with);
    }

    /// Up to three, of any kind.
    fn descriptors(&mut self, input: &mut Input<'_>) -> Vec<OwnedFd> {
        let count = input.byte() % 4;
        let of_kind = |_| match input.byte() % 5 {
            0 => self.socket(),
            1 => {
                let length = usize::from(input.byte());
                self.sealed(input.bytes(length))
            }
            2 => memory::create("fuzz").expect("memory").into(),
            3 => File::open("/dev/null").expect("it is there").into(),
            _ => self.claim.as_fd().try_clone_to_owned().expect("a descriptor is left"),
        };
        (0..count).map(of_kind).collect()
    }

    fn socket(&mut self) -> OwnedFd {
        let (socket, peer) = UnixStream::pair().expect("a pair");
        self.peers.push(peer);
        socket.into()
    }

    fn sealed(&mut self, bytes: &[u8]) -> OwnedFd {
        self.bytes += bytes.len();
        let mut writer = MemoryWriter::new().expect("memory");
        writer.write_all(bytes).expect("memory");
        let sealed = writer.seal().expect("memory");
        sealed.as_sealed().as_fd().try_clone_to_owned().expect("a descriptor is left")
    }

    fn say(&mut self, note: &Note, descriptors: Vec<OwnedFd>) {
        self.say_bytes(&encode(PROTO_MIN, note).expect("it is short"), descriptors);
    }

    fn say_bytes(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        match rights::send_with(&self.stream, bytes, &borrowed) {
            Ok(sent) => {
                self.bytes += sent;
                self.descriptors += descriptors.len();
                self.is_sound &= sent == bytes.len();
            }
            // The kernel takes no more.
            Err(_) => self.is_sound = false,
        }
    }
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Client {
    number: u16,
    text: String,
}

impl Carried for Client {
    const NAME: &'static str = "fuzz.client";
    const VERSION: u32 = 2;
}

#[derive(Serialize, Deserialize)]
struct OldClient(u16);

impl Carried for OldClient {
    const NAME: &'static str = "fuzz.client";
    const VERSION: u32 = 1;
}

impl From<OldClient> for Client {
    fn from(old: OldClient) -> Self {
        Self { number: old.0, text: String::new() }
    }
}

/// So many steps leave room for descriptors in the process and for bytes in the socket.
const MAX_STEPS: usize = 64;
const LONG: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::seeds;

    /// The seeds reach each kind of an end.
    #[test]
    fn the_seeds_reach_each_end() {
        let ended = |wanted: &str| {
            let seeds = seeds::of("carry");
            let (_, seed) = seeds.iter().find(|(name, _)| name == wanted).expect("there is one");
            let mut input = Input(seed);
            let offers = input.byte() & 1 != 0;
            let (mut incumbent, theirs) = Incumbent::new(offers);
            while !input.is_empty() && !incumbent.has_ended {
                incumbent.step(&mut input);
            }
            let incumbent = incumbent.leave();
            let arrivals = Arrivals::of(Connection::new(theirs))
                .and_then(|arrivals| arrivals.discard_unusable(true, false));
            let taken = arrivals.map(|all| {
                hand_on_all(all, false, incumbent.bytes, incumbent.descriptors).map(|all| all.len())
            });
            taken.map_err(|error| format!("{error:?}"))
        };
        for (name, taken) in [("whole", 3), ("nothing-to-carry", 0)] {
            assert_eq!(ended(name), Ok(Some(taken)), "{name}");
        }
        assert_eq!(ended("damaged"), Ok(None));
        assert_eq!(ended("older"), Ok(Some(1)));
        for (name, why) in [
            ("cut-off", "Truncated"),
            ("no-offer", "did not begin with an offer"),
            ("not-sealed", "NotSealed"),
            ("no-descriptor", "Descriptors { expected: 1, arrived: 0 }"),
            ("another-kind", "is not of the kind"),
            ("no-set", "a parcel of no set"),
            ("too-long", "TooLong"),
        ] {
            let error = ended(name).expect_err(name);
            assert!(error.contains(why), "{name}: {error}");
        }
    }
}
