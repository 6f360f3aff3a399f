//! What is parked, sent, given back and closed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::*;
use crate::Error;
use crate::carry::format::Format;
use crate::carry::pair::{Client, Inode, assert_closed, inode, socket, soon};
use crate::carry::set::{Item, Parcel};
use crate::carry::wire::{MAX_INLINE_LEN, WireState};
use crate::error::{CarryError, Result};
use crate::frame::write_value;
use crate::protocol::CarryFate;

mod arriving;
mod waiting;

type Shared<S = Client> = Arc<Connections<S>>;

fn serving<S: Carried>() -> Shared<S> {
    let set = Arc::new(Connections::new());
    set.release();
    set
}

fn draining<S: Carried>() -> Shared<S> {
    let set = serving();
    set.collect(None);
    set
}

/// What is parked, by its name.
type Parked = BTreeMap<String, (Inode, Client)>;

fn park(set: &Shared, number: u32, length: usize, parked: &mut Parked) {
    let (name, descriptor, state) = (format!("{number:04}"), socket(), Client::new(number, length));
    parked.insert(name.clone(), (inode(&descriptor), state.clone()));
    set.enter(name).park(descriptor, state);
}

/// All that waits, in the order in which handlers take it; with the names.
fn take_all(set: &Shared) -> Vec<(String, (Inode, Client))> {
    let mut taken = Vec::new();
    while let Some(Arrival { descriptor, state, ticket }) = set.try_arrival() {
        let name = ticket.name();
        taken.push((name, (inode(&descriptor), state)));
    }
    taken
}

/// Sends parcels until `max` are out, and then fails; the names of what a peer got.
fn send_parcels(set: &Shared, max: usize) -> Result<Vec<String>> {
    let (mut sent, mut names) = (0, Vec::new());
    while set.send_next(true, &mut |_, items, descriptors| {
        assert!(descriptors.len() <= MAX_DESCRIPTORS);
        names.extend(items.into_iter().map(|item| item.name));
        sent += 1;
        if sent > max { Err(CarryError::GivenUp.into()) } else { Ok(()) }
    })? {}
    Ok(names)
}

/// Full parcels of each kind: by the count, by the bytes, and by what goes beside.
fn many(set: &Shared) -> Parked {
    let mut parked = Parked::new();
    let lengths = [(0, 300), (MAX_INLINE_LEN - 16, 40), (MAX_INLINE_LEN + 1, 140)];
    let lengths = lengths.iter().flat_map(|(length, count)| std::iter::repeat_n(*length, *count));
    for (number, length) in (0..).zip(lengths) {
        park(set, number, length, &mut parked);
    }
    parked
}

#[test]
fn an_abort_at_any_frame_gives_back_each_connection_once() {
    let frames = {
        let set = draining();
        many(&set);
        let mut frames = 0;
        while set.send_next(true, &mut |_, _, _| Ok(())).expect("it is sent") {
            frames += 1;
        }
        frames
    };
    assert!(frames >= 5, "{frames} frames");
    for max in 0..=frames {
        let set = draining();
        let parked = many(&set);
        let sent = send_parcels(&set, max);
        assert_eq!(sent.is_ok(), max == frames);
        set.take_back(true);
        set.release();
        let taken = take_all(&set);
        assert_eq!(taken.len(), parked.len());
        assert!(taken.into_iter().eq(parked.into_iter().rev()), "in {max} of {frames} frames");
    }
}

#[test]
fn what_a_successor_has_received_is_closed_and_nothing_else() {
    for max in [0, 1, 3] {
        let set = draining();
        let mut parked = many(&set);
        let mut sent = Vec::new();
        for _ in 0..max {
            let more = set.send_next(true, &mut |_, items, _| {
                sent.extend(items.into_iter().map(|item| item.name));
                Ok(())
            });
            assert!(more.expect("it is sent"));
        }
        let closed: Vec<Inode> =
            sent.iter().map(|name| parked.remove(name).expect("once").0).collect();
        set.take_back(false);
        assert_closed(&closed);
        set.release();
        assert!(take_all(&set).into_iter().eq(parked.into_iter().rev()), "after {max} frames");
    }
}

/// Its last one cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Faulty {
    Sound(u32),
    Refuses,
    Panics,
}

impl Serialize for Faulty {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Sound(number) => serializer.serialize_u32(*number),
            Self::Refuses => Err(serde::ser::Error::custom("it refuses")),
            Self::Panics => panic!("it panics"),
        }
    }
}

impl Carried for Faulty {
    const NAME: &'static str = "test.faulty";
    const VERSION: u32 = 1;
}

#[test]
fn a_state_that_cannot_be_written_loses_no_connection() {
    for (at, fault) in [(0, Faulty::Refuses), (300, Faulty::Refuses), (300, Faulty::Panics)] {
        let set = draining();
        for number in 0..400 {
            let state = if number == at { fault } else { Faulty::Sound(number) };
            set.enter(number.to_string()).park(socket(), state);
        }
        let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| -> Result<()> {
            while set.send_next(true, &mut |_, _, _| Ok(()))? {}
            Ok(())
        }));
        match (fault, sent) {
            (Faulty::Panics, Err(_)) => {}
            (Faulty::Refuses, Ok(Err(Error::Carry(CarryError::Unwritable { set, item, why })))) => {
                assert_eq!((&*set, item), ("test.faulty", at.to_string()));
                assert!(why.contains("it refuses"), "{why}");
            }
            (_, sent) => panic!("{sent:?}"),
        }
        set.take_back(true);
        set.release();
        let mut states = Vec::new();
        while let Some(arrival) = set.try_arrival() {
            states.push(arrival.state);
        }
        let sound = |number| if number == at { fault } else { Faulty::Sound(number) };
        assert!(states.into_iter().rev().eq((0..400).map(sound)), "{fault:?} at {at}");
    }
}

#[test]
fn what_parks_after_its_drain_was_given_up_is_served_here() {
    let set = draining();
    let (before, late, later) = (set.enter("before"), set.enter("late"), set.enter("later"));
    before.park(socket(), Client::new(1, 0));
    set.take_back(true);
    late.park(socket(), Client::new(2, 0));
    assert!(set.try_arrival().is_none(), "it does not serve yet");
    set.release();
    later.park(socket(), Client::new(3, 0));
    let taken: Vec<_> = take_all(&set).into_iter().map(|(name, _)| name).collect();
    assert_eq!(taken, ["later", "late", "before"]);
}

#[test]
fn what_no_handler_has_taken_goes_on_with_the_next_swap() {
    let set = draining();
    let mut parked = Parked::new();
    (0..3).for_each(|number| park(&set, number, 10, &mut parked));
    set.take_back(true);
    set.release();
    assert!(!set.is_vacant());
    let Some(Arrival { descriptor, state, ticket }) = set.try_arrival() else { panic!("none") };
    set.collect(None);
    assert!(set.try_arrival().is_none(), "it drains");
    ticket.park(descriptor, state);
    let names = send_parcels(&set, 1).expect("they are sent");
    assert_eq!(names, ["0000", "0001", "0002"]);
}

#[test]
fn a_parcel_that_is_not_full_waits_for_the_seal() {
    let set = draining();
    let mut parked = Parked::new();
    let mut lengths = Vec::new();
    let mut send = |is_last| {
        set.send_next(is_last, &mut |format, items, descriptors| {
            assert_eq!(format, Some(Format::of::<Client>()));
            assert_eq!(items.len(), descriptors.len());
            lengths.push(items.len());
            Ok(())
        })
        .expect("it is sent")
    };
    let max = u32::try_from(MAX_DESCRIPTORS).expect("few");
    (0..max - 1).for_each(|number| park(&set, number, 1, &mut parked));
    assert!(!send(false));
    (max - 1..max + 1).for_each(|number| park(&set, number, 1, &mut parked));
    assert!(send(false));
    assert!(!send(false));
    assert!(send(true));
    assert!(!send(true));
    assert_eq!(lengths, [MAX_DESCRIPTORS, 1]);
}

#[test]
fn a_state_goes_with_its_frame_unless_it_is_too_long() {
    let bare = {
        let mut bytes = Vec::new();
        write_value(&Client::new(1, MAX_INLINE_LEN / 2), &mut bytes).expect("it is written");
        bytes.len() - MAX_INLINE_LEN / 2
    };
    for (beyond, is_inline) in [(0, true), (1, false)] {
        let set = draining();
        park(&set, 1, MAX_INLINE_LEN - bare + beyond, &mut Parked::new());
        let sent = set.send_next(true, &mut |_, items, descriptors| {
            assert_eq!(items[0].state.descriptors(), descriptors.len());
            let length = (MAX_INLINE_LEN + beyond) as u64;
            match &items[0].state {
                WireState::Inline(bytes) => assert_eq!(bytes.0.len() as u64, length),
                other => assert_eq!(other, &WireState::Apart { length }),
            }
            assert_eq!(descriptors.len(), if is_inline { 1 } else { 2 });
            Ok(())
        });
        assert!(sent.expect("it is sent"));
    }
}

/// A connected socket with an unread byte in it, and its peer.
fn with_unread() -> [(OwnedFd, Box<dyn Read>); 2] {
    let listener = TcpListener::bind("127.0.0.1:0").expect("it binds");
    let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it connects");
    let (accepted, _) = listener.accept().expect("it connects");
    peer.write_all(b"x").expect("it is sent");
    accepted.peek(&mut [0]).expect("it arrives");
    peer.set_read_timeout(Some(Duration::from_secs(20))).expect("it is set");
    let (ours, mut unix_peer) = UnixStream::pair().expect("a pair");
    unix_peer.write_all(b"x").expect("it is sent");
    unix_peer.set_read_timeout(Some(Duration::from_secs(20))).expect("it is set");
    [(accepted.into(), Box::new(peer)), (ours.into(), Box::new(unix_peer))]
}

fn assert_ended(mut peer: Box<dyn Read>) {
    assert_eq!(peer.read(&mut [0]).map_err(|error| error.kind()), Ok(0));
}

#[test]
fn what_parks_too_late_is_closed_so_that_its_peer_reads_an_end() {
    for (descriptor, peer) in with_unread() {
        let set = draining();
        let ticket = set.enter("late");
        set.part();
        ticket.park(descriptor, Client::new(1, 1));
        assert_ended(peer);
        assert_eq!(set.live(), 0);
    }
}

#[test]
fn what_was_not_sent_is_closed_so_that_its_peer_reads_an_end() {
    for (descriptor, peer) in with_unread() {
        let set = draining();
        set.enter("lost").park(descriptor, Client::new(1, 1));
        set.part();
        assert_ended(peer);
    }
}

/// A clean stop, soon after a swap.
#[test]
fn what_no_handler_has_taken_is_closed_so_that_its_peer_reads_an_end() {
    for (descriptor, peer) in with_unread() {
        let set = serving();
        set.enter("waits").park(descriptor, Client::new(1, 1));
        set.stop();
        assert_ended(peer);
        assert!(set.try_arrival().is_none());
    }
}

#[test]
fn what_parks_while_the_process_stops_is_closed_so_that_its_peer_reads_an_end() {
    for (descriptor, peer) in with_unread() {
        let set = serving();
        let ticket = set.enter("late");
        set.stop();
        ticket.park(descriptor, Client::new(1, 1));
        assert_ended(peer);
        assert_eq!(set.wait_parked(soon()), [""; 0]);
    }
}

#[test]
fn what_was_sent_lives_on_where_it_was_sent_to() {
    for (descriptor, mut peer) in with_unread() {
        let set = draining();
        let theirs = UnixStream::from(descriptor.try_clone().expect("a descriptor is left"));
        theirs.set_read_timeout(Some(Duration::from_secs(20))).expect("it is set");
        set.enter("carried").park(descriptor, Client::new(1, 1));
        send_parcels(&set, 1).expect("it is sent");
        set.part();
        assert_eq!((&theirs).read(&mut [0]).expect("it is unread"), 1);
        (&theirs).write_all(b"y").expect("it is open");
        assert_eq!(peer.read(&mut [0]).expect("it is open"), 1);
    }
}

#[test]
fn a_connection_that_ends_is_not_carried() {
    let set = draining::<Client>();
    drop(set.enter("over"));
    assert_eq!((set.live(), set.is_vacant()), (0, true));
    assert!(!set.send_next(true, &mut |_, _, _| panic!("there is none")).expect("none"));
}
