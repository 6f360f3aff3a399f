use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::fs::{SealFlags, fcntl_add_seals};

use super::*;
use crate::carry::format::Format;
use crate::carry::pair::{Client, Daemon, Inode, assert_closed, inode, receive, socket, until};
use crate::carry::{Connections, SealedMemory};
use crate::frame::{MAX_FRAME_LEN, encode, write_value};
use crate::protocol::{MAX_SETS, PROTO_MIN};
use crate::sys::memory;
use crate::sys::rights::{self, MAX_DESCRIPTORS};

mod asking;

/// An incumbent that says what it is told to.
struct Incumbent {
    stream: UnixStream,
    claim: Claim,
    /// Of all that it has sent, but the claim.
    sent: Vec<Inode>,
}

impl Incumbent {
    fn connected() -> (Self, UnixStream) {
        let (stream, theirs) = UnixStream::pair().expect("a pair");
        let claim = Claim::new().expect("memory");
        (Self { stream, claim, sent: Vec::new() }, theirs)
    }

    /// One whose offer was received.
    fn offering() -> (Self, Receiver) {
        let (incumbent, receiver, _) = Self::heard();
        (incumbent, receiver)
    }

    /// And what the supervisor is told.
    fn heard() -> (Self, Receiver, mpsc::Receiver<String>) {
        let (mut incumbent, theirs) = Self::connected();
        let claim = incumbent.claim.as_fd().try_clone_to_owned().expect("a descriptor is left");
        incumbent.say(&offer(), vec![claim]);
        incumbent.sent.clear();
        let (tell, told) = mpsc::channel();
        let give_up = move |error: &Error| {
            let _ = tell.send(format!("{error:?}"));
        };
        let receiver = Receiver::start(Connection::new(theirs), give_up);
        (incumbent, receiver.expect("it is offered"), told)
    }

    fn say(&mut self, note: &Note, descriptors: Vec<OwnedFd>) {
        self.say_bytes(&frame(note), descriptors);
    }

    fn say_bytes(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        self.sent.extend(descriptors.iter().map(inode));
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let sent = rights::send_with(&self.stream, &bytes[..1], &descriptors).expect("it is sent");
        assert_eq!(sent, 1);
        (&self.stream).write_all(&bytes[1..]).expect("it is sent");
    }
}

fn frame(note: &Note) -> Vec<u8> {
    encode(PROTO_MIN, note).expect("it is short")
}

fn offer() -> Note {
    Note::Offer { sets: Daemon::new().carriage().words() }
}

fn format() -> Option<Format> {
    Some(Format::of::<Client>())
}

fn state(number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_value(&Client::new(number, 4), &mut bytes).expect("it is written");
    bytes
}

fn inline(number: u32) -> WireItem {
    WireItem { name: number.to_string(), state: WireState::Inline(Bytes(state(number))) }
}

fn apart(length: u64) -> WireItem {
    WireItem { name: "apart".into(), state: WireState::Apart { length } }
}

fn piece(length: u64) -> WireItem {
    WireItem { name: "key".into(), state: WireState::Memory { length } }
}

/// Of the first set of connections.
fn parcel(items: Vec<WireItem>) -> Note {
    Note::Parcel { set: CLIENTS, format: format(), items }
}

fn of_cache(items: Vec<WireItem>) -> Note {
    Note::Parcel { set: CACHE, format: None, items }
}

const CLIENTS: u32 = 0;
const CACHE: u32 = 2;

fn sockets(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| socket()).collect()
}

fn sealed(length: usize) -> OwnedFd {
    let memory = SealedMemory::of_bytes(&vec![7; length]).expect("memory");
    memory.as_sealed().as_fd().try_clone_to_owned().expect("a descriptor is left")
}

/// Nothing of it is used, and the supervisor is told why.
#[track_caller]
fn assert_refused(says: impl Fn(&mut Incumbent), expected: impl Into<Error>) {
    let expected = format!("{:?}", expected.into());
    for is_dead in [false, true] {
        let (mut incumbent, receiver, told) = Incumbent::heard();
        says(&mut incumbent);
        let sent = incumbent.sent.clone();
        assert_eq!(told.recv_timeout(LIVENESS_TIMEOUT), Ok(expected.clone()));
        let arrivals = receiver.finish().expect("it ends");
        assert!(!arrivals.is_whole());
        match arrivals.discard_unusable(true, is_dead) {
            Err(error) => {
                assert!(!is_dead);
                assert_eq!(format!("{error:?}"), expected);
            }
            Ok(mut arrivals) => {
                assert!(is_dead);
                let daemon = Daemon::new();
                arrivals.hand_on(&daemon.carriage()).expect("it has the same sets");
                daemon.carriage().release();
                assert!(daemon.clients.try_arrival().is_none());
                assert_eq!(daemon.cache.keys(), [""; 0]);
            }
        }
        assert_closed(&sent);
    }
}

#[test]
fn what_is_in_order_is_whole_however_it_is_cut() {
    let frames = [
        (parcel(vec![inline(1), inline(2)]), 2),
        (parcel(vec![inline(3)]), 1),
        (Note::End { sent: vec![3, 0, 0] }, 0),
    ];
    for piece in [1, 2, 7, 1000] {
        let (mut incumbent, receiver) = Incumbent::offering();
        for (note, descriptors) in &frames {
            let bytes = frame(note);
            let mut descriptors = sockets(*descriptors);
            for piece in bytes.chunks(piece) {
                incumbent.say_bytes(piece, std::mem::take(&mut descriptors));
            }
        }
        let sent = incumbent.sent.clone();
        let mut arrivals =
            receiver.finish().expect("it ends").discard_unusable(true, false).expect("it is whole");
        let daemon = Daemon::new();
        arrivals.hand_on(&daemon.carriage()).expect("it has the same sets");
        daemon.carriage().release();
        for (number, sent) in (1..4_u32).zip(sent).rev() {
            let arrival = daemon.clients.try_arrival().expect("there are three");
            assert_eq!((inode(&arrival.descriptor), arrival.state), (sent, Client::new(number, 4)));
        }
    }
}

#[test]
fn a_channel_that_is_cut_at_any_byte_is_not_whole() {
    let frames = [
        (frame(&parcel(vec![inline(1), apart(5)])), true),
        (frame(&Note::End { sent: vec![2, 0, 0] }), false),
    ];
    let all: usize = frames.iter().map(|(bytes, _)| bytes.len()).sum();
    let first = frames[0].0.len();
    for cut in 0..all {
        let (mut incumbent, receiver) = Incumbent::offering();
        let mut left = cut;
        for (bytes, is_parcel) in &frames {
            let now = left.min(bytes.len());
            left -= now;
            if now > 0 {
                let mut descriptors = if *is_parcel { sockets(2) } else { Vec::new() };
                if *is_parcel {
                    descriptors.push(sealed(5));
                }
                incumbent.say_bytes(&bytes[..now], descriptors);
            }
        }
        let sent = incumbent.sent.clone();
        drop(incumbent);
        let arrivals = receiver.finish().expect("it ends");
        assert!(matches!(arrivals.end, Ok(End::CutOff)), "at {cut} of {all}: {:?}", arrivals.end);
        let counts: Vec<_> = arrivals.sets.iter().map(|set| set.count).collect();
        assert_eq!(counts, [if cut < first { 0 } else { 2 }, 0, 0]);
        let error = arrivals.discard_unusable(true, false).expect_err("it is not whole");
        assert!(matches!(error, Error::Frame(FrameError::Truncated)), "{error}");
        assert_closed(&sent);
    }
}

#[test]
fn memory_is_of_use_only_if_the_directory_is_as_it_was_sealed() {
    for (is_as_sealed, keys) in [(true, 1), (false, 0)] {
        let (mut incumbent, receiver) = Incumbent::offering();
        incumbent.say(&parcel(vec![inline(1)]), sockets(1));
        incumbent.say(&of_cache(vec![piece(8)]), vec![sealed(8)]);
        incumbent.say(&Note::End { sent: vec![1, 0, 1] }, Vec::new());
        let mut arrivals =
            receiver.finish().expect("it ends").discard_unusable(is_as_sealed, true).expect("dead");
        assert_eq!(arrivals.memory("cache").expect("it is memory").keys().len(), keys);
        let counts: Vec<_> = arrivals.sets.iter().map(|set| set.count).collect();
        assert_eq!(counts, [1, 0, keys as u64]);
    }
}

#[test]
fn another_number_of_descriptors_is_refused() {
    for (words, sent) in
        [(vec![inline(1), inline(2)], 1), (vec![inline(1)], 0), (vec![apart(5)], 1)]
    {
        let expected = words.iter().map(|item| item.state.descriptors()).sum();
        assert_refused(
            |incumbent| {
                incumbent.say(&parcel(vec![inline(9)]), sockets(1));
                incumbent.say(&parcel(words.clone()), sockets(sent));
            },
            CarryError::Descriptors { expected, arrived: sent },
        );
    }
    assert_refused(
        |incumbent| {
            incumbent.say(&parcel(vec![inline(1)]), sockets(3));
            incumbent.say(&Note::End { sent: vec![1, 0, 0] }, Vec::new());
        },
        CarryError::Descriptors { expected: 0, arrived: 2 },
    );
    assert_refused(
        |incumbent| incumbent.say(&Note::End { sent: vec![0; 3] }, sockets(1)),
        CarryError::Descriptors { expected: 0, arrived: 1 },
    );
}

#[test]
fn counts_that_differ_are_refused() {
    for sent in [0, 1, 3, u64::MAX] {
        assert_refused(
            |incumbent| {
                incumbent.say(&parcel(vec![inline(1), inline(2)]), sockets(2));
                incumbent.say(&Note::End { sent: vec![sent, 0, 0] }, Vec::new());
            },
            CarryError::Count { set: "clients".into(), sent, arrived: 2 },
        );
    }
    for sent in [Vec::new(), vec![0; 2], vec![0; 4]] {
        assert_refused(
            |incumbent| incumbent.say(&Note::End { sent: sent.clone() }, Vec::new()),
            CarryError::Channel("it counts other sets".into()),
        );
    }
}

#[test]
fn what_is_of_no_set_or_of_another_kind_is_refused() {
    for set in [3, u32::MAX] {
        assert_refused(
            |incumbent| {
                let items = vec![inline(1)];
                incumbent.say(&Note::Parcel { set, format: format(), items }, sockets(1));
            },
            CarryError::Channel("a parcel of no set".into()),
        );
    }
    let other_kind = |name: &str, set: &str| {
        CarryError::Channel(format!("{name:?} is not of the kind of {set:?}"))
    };
    assert_refused(
        |incumbent| incumbent.say(&parcel(vec![inline(1), piece(3)]), vec![socket(), sealed(3)]),
        other_kind("key", "clients"),
    );
    for (item, name) in [(inline(1), "1"), (apart(3), "apart")] {
        assert_refused(
            |incumbent| incumbent.say(&of_cache(vec![item.clone()]), vec![socket(), sealed(3)]),
            other_kind(name, "cache"),
        );
    }
}

#[test]
fn memory_that_is_not_sealed_or_of_another_length_is_refused() {
    let unsealed = |seals| -> OwnedFd {
        let memory = memory::create("test").expect("memory");
        memory.set_len(8).expect("it grows");
        fcntl_add_seals(&memory, seals).expect("it takes seals");
        memory.into()
    };
    let file = || -> OwnedFd {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8).expect("it grows");
        file.into()
    };
    let kinds: [&dyn Fn() -> OwnedFd; 7] = [
        &|| sealed(7),
        &|| sealed(9),
        &|| sealed(0),
        &|| unsealed(SealFlags::empty()),
        &|| unsealed(SealFlags::SHRINK | SealFlags::GROW),
        &file,
        &socket,
    ];
    for memory in kinds {
        assert_refused(
            |incumbent| incumbent.say(&of_cache(vec![piece(8)]), vec![memory()]),
            CarryError::NotSealed { set: "cache".into(), item: "key".into() },
        );
        assert_refused(
            |incumbent| {
                incumbent.say(&parcel(vec![inline(1)]), sockets(1));
                let items = vec![inline(2), apart(8)];
                incumbent.say(&parcel(items), vec![socket(), socket(), memory()]);
            },
            CarryError::NotSealed { set: "clients".into(), item: "apart".into() },
        );
    }
}

#[test]
fn a_length_beyond_all_memory_is_refused() {
    for length in [1 << 60, u64::MAX] {
        assert_refused(
            |incumbent| {
                let items = vec![inline(1), apart(length)];
                incumbent.say(&parcel(items), vec![socket(), socket(), sealed(8)]);
            },
            CarryError::NotSealed { set: "clients".into(), item: "apart".into() },
        );
    }
}

#[test]
fn what_is_no_frame_is_refused() {
    let beyond = (MAX_FRAME_LEN + 1).to_le_bytes();
    let end = frame(&Note::End { sent: vec![0; 3] });
    let mut trailing = [&end[..], &[0]].concat();
    trailing[0] += 1;
    let cases: [(&[u8], FrameError); 4] = [
        (&[0, 0, 0, 0], FrameError::TooShort(0)),
        (&beyond, FrameError::TooLong(MAX_FRAME_LEN + 1)),
        (b"GET / HTTP/1.1\r\n\r\n", FrameError::TooLong(u32::from_le_bytes(*b"GET "))),
        (&trailing, FrameError::TrailingBytes(1)),
    ];
    for (bytes, expected) in cases {
        assert_refused(
            |incumbent| {
                incumbent.say(&parcel(vec![inline(1)]), sockets(1));
                incumbent.say_bytes(bytes, sockets(2));
            },
            expected,
        );
    }
    // A variant that there is not, and lists that are longer than the frame.
    for payload in
        [&[9][..], &[2, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0x10], &[1, 0, 0, 0xfc, 0, 0, 0, 0x10]]
    {
        let length = u32::try_from(payload.len() + 2).expect("short").to_le_bytes();
        let bytes = [&length[..], &PROTO_MIN.to_le_bytes(), payload].concat();
        let (mut incumbent, receiver) = Incumbent::offering();
        incumbent.say_bytes(&bytes, sockets(1));
        let arrivals = receiver.finish().expect("it ends");
        assert!(
            matches!(&arrivals.end, Err(Error::Frame(FrameError::Payload(_)))),
            "{:?}",
            arrivals.end
        );
        drop(arrivals);
        assert_closed(&incumbent.sent);
    }
}

/// Before they take more memory than the longest frame.
#[test]
fn lists_that_are_too_long_are_refused() {
    let words = WireSet { name: String::new(), kind: CarryKind::Memory, may_be_lost: true };
    let (sets, items) = (vec![words; MAX_SETS + 1], vec![inline(1); MAX_DESCRIPTORS + 1]);
    for note in [parcel(items), Note::End { sent: vec![0; MAX_SETS + 1] }] {
        let (mut incumbent, receiver) = Incumbent::offering();
        incumbent.say(&note, Vec::new());
        let end = receiver.finish().expect("it ends").end;
        assert!(matches!(&end, Err(Error::Frame(FrameError::Payload(_)))), "{end:?}");
    }
    let (mut incumbent, theirs) = Incumbent::connected();
    incumbent.say(&Note::Offer { sets }, Vec::new());
    let error = receive(theirs).expect_err("there are too many");
    assert!(matches!(error, Error::Frame(FrameError::Payload(_))), "{error}");
}

#[test]
fn a_second_offer_is_refused() {
    assert_refused(
        |incumbent| incumbent.say(&offer(), sockets(1)),
        CarryError::Channel("a second offer".into()),
    );
}

#[test]
fn what_does_not_begin_with_an_offer_and_a_claim_is_refused() {
    let no_offer = || CarryError::Channel("it did not begin with an offer".into());
    let no_claim = || CarryError::Channel("the offer came without its claim".into());
    let writable = || -> OwnedFd {
        let memory = memory::create("test").expect("memory");
        memory.set_len(4).expect("it grows");
        memory.into()
    };
    let file = || -> OwnedFd { File::open("/dev/null").expect("it is there").into() };
    let cases = [
        (parcel(vec![inline(1)]), sockets(1), no_offer()),
        (Note::End { sent: Vec::new() }, Vec::new(), no_offer()),
        (offer(), Vec::new(), CarryError::Descriptors { expected: 1, arrived: 0 }),
        (offer(), sockets(1), no_claim()),
        (offer(), vec![writable()], no_claim()),
        (offer(), vec![sealed(4)], no_claim()),
        (offer(), vec![file()], no_claim()),
    ];
    for (note, descriptors, expected) in cases {
        let is_file = descriptors.first().is_some_and(|first| inode(first) == inode(file()));
        let (mut incumbent, theirs) = Incumbent::connected();
        incumbent.say(&note, descriptors);
        let error = receive(theirs).expect_err("it is refused");
        assert_eq!(format!("{error:?}"), format!("{:?}", Error::from(expected)));
        if !is_file {
            assert_closed(&incumbent.sent);
        }
    }
    let (incumbent, theirs) = Incumbent::connected();
    drop(incumbent);
    let error = receive(theirs).expect_err("nothing is said");
    assert_eq!(format!("{error:?}"), format!("{:?}", Error::from(no_offer())));
}

#[test]
fn a_successor_that_gives_up_ends_its_channel() {
    let (mut incumbent, receiver) = Incumbent::offering();
    incumbent.say(&parcel(vec![inline(1)]), sockets(1));
    drop(receiver);
    incumbent.stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it is set");
    // An end, or a reset where something was left unread.
    let ended = incumbent.stream.read(&mut [0]);
    assert!(
        ended.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |n| *n == 0)
    );
    assert_closed(&incumbent.sent);
}

/// What arrived of three sets, one connection in the first and a piece in the last.
fn arrived() -> Arrivals {
    let (mut incumbent, receiver) = Incumbent::offering();
    incumbent.say(&parcel(vec![inline(1)]), sockets(1));
    incumbent.say(&of_cache(vec![piece(8)]), vec![sealed(8)]);
    incumbent.say(&Note::End { sent: vec![1, 0, 1] }, Vec::new());
    receiver.finish().expect("it ends").discard_unusable(true, false).expect("it is whole")
}

fn fates(arrivals: &Arrivals) -> Result<Vec<CarryFate>, CarryError> {
    Ok(arrivals.report()?.into_iter().map(|set| set.fate).collect())
}

#[test]
fn a_set_that_this_build_does_not_have_is_refused_unless_it_may_be_lost() {
    let cache = Memory::new();
    let carriage = Carriage::new().with("cache", &cache);
    let not_taken = CarryError::NotTaken { set: "clients".into() };
    let words = not_taken.to_string();
    let mut arrivals = arrived();
    let error = arrivals.hand_on(&carriage).expect_err("there is no set for it");
    assert_eq!(format!("{error:?}"), format!("{not_taken:?}"));
    // Who goes on in spite of that does not get far.
    let refused = CarryError::Channel("it was refused before".into());
    let error = fates(&arrivals).expect_err("it was refused");
    assert_eq!(format!("{error:?}"), format!("{refused:?}"));
    let error = arrivals.hand_on(&carriage).expect_err("it was refused");
    assert_eq!(format!("{error:?}"), format!("{refused:?}"));
    let error = fates(&arrived()).expect_err("it was not handed on");
    assert_eq!(format!("{error:?}"), format!("{not_taken:?}"));

    let mut arrivals = arrived();
    arrivals.sets[0].words.may_be_lost = true;
    arrivals.hand_on(&carriage).expect("the incumbent may lose it");
    // That nothing came of the second, nobody misses.
    let others = CarryError::NotTaken { set: "others.0".into() }.to_string();
    let dropped = |why| CarryFate::Dropped { why };
    let expected = [dropped(words), dropped(others), CarryFate::Taken];
    assert_eq!(fates(&arrivals).expect("all may be lost"), expected);
    assert_eq!(cache.keys(), ["key"]);
}

#[test]
fn a_set_of_another_kind_is_refused_unless_it_may_be_lost_here() {
    let connections = Connections::<Client>::new();
    let others = [Connections::<Client>::new()];
    let mut arrivals = arrived();
    let carriage = Carriage::new().with("others", &others).with("cache", &connections);
    let carriage = carriage.with("clients", &connections);
    let error = arrivals.hand_on(&carriage).expect_err("it is memory");
    let wrong_kind =
        CarryError::WrongKind { set: "cache".into(), arrived: "memory", expected: "connections" };
    assert_eq!(format!("{error:?}"), format!("{wrong_kind:?}"));

    let lossy = Connections::<Client>::new().may_be_lost();
    let carriage = Carriage::new().with("others", &others).with("cache", &lossy);
    let carriage = carriage.with("clients", &connections);
    let mut arrivals = arrived();
    arrivals.hand_on(&carriage).expect("it may be lost here");
    let fates = fates(&arrivals).expect("all was handed on");
    assert_eq!(fates[2], CarryFate::Dropped { why: wrong_kind.to_string() });
}

/// The incumbent may still serve again: until the commit nothing is said to their peers.
#[test]
fn connections_that_this_build_does_without_are_closed_once_it_serves() {
    for is_taken_back in [false, true] {
        let (mut incumbent, receiver) = Incumbent::offering();
        let (carried, mut peer) = UnixStream::pair().expect("a pair");
        peer.set_read_timeout(Some(Duration::from_secs(20))).expect("it is set");
        peer.write_all(b"unread").expect("it is sent");
        let copy = carried.try_clone().expect("a descriptor is left");
        let words = WireItem { name: "1".into(), state: WireState::Inline(Bytes(vec![])) };
        incumbent.say(&parcel(vec![words]), vec![carried.into()]);
        incumbent.say(&Note::End { sent: vec![1, 0, 0] }, Vec::new());
        let claim = incumbent.claim;
        let mut arrivals =
            receiver.finish().expect("it ends").discard_unusable(true, false).expect("whole");
        let lossy = Connections::<Client>::new().may_be_lost();
        arrivals.hand_on(&Carriage::new().with("clients", &lossy)).expect("it may be lost");
        let CarryFate::Dropped { why } = fates(&arrivals).expect("it was handed on").remove(0)
        else {
            panic!("the state is damaged")
        };
        assert!(why.contains("damaged"), "{why}");
        let rest = arrivals.into_rest();
        // It still goes both ways.
        (&copy).write_all(b"x").expect("it is open");
        assert_eq!(peer.read(&mut [0]).expect("it is open"), 1);
        assert!(!is_taken_back || claim.take_back());
        assert_eq!(rest.take_up(), !is_taken_back);
        if is_taken_back {
            (&copy).write_all(b"y").expect("it is open");
            assert_eq!(peer.read(&mut [0]).expect("it is open"), 1);
        } else {
            assert_eq!(peer.read(&mut [0]).expect("it has ended"), 0);
        }
    }
}

#[test]
fn what_was_handed_on_is_not_handed_on_again() {
    let daemon = Daemon::new();
    let mut arrivals = arrived();
    arrivals.hand_on(&daemon.carriage()).expect("it has the same sets");
    arrivals.hand_on(&daemon.carriage()).expect("it has the same sets");
    daemon.carriage().release();
    until(|| daemon.clients.try_arrival().is_some());
    assert!(daemon.clients.try_arrival().is_none());
    assert_eq!(arrivals.report().expect("all is taken")[0].count, 1);
    let twice = Carriage::new().with("a", &daemon.cache).with("a", &daemon.cache);
    let error = arrived().hand_on(&twice).expect_err("two have one name");
    let expected = CarryError::DuplicateSet { set: "a".into() };
    assert_eq!(format!("{error:?}"), format!("{expected:?}"));
}
