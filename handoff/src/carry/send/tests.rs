use std::collections::BTreeMap;
use std::io::Write;
use std::iter::repeat_n;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::carry::pair::{
    Client, Daemon, Inode, Pair, assert_closed, incumbent, inode, receive, socket, until,
};
use crate::carry::receive::Arrivals;
use crate::carry::wire::{MAX_INLINE_LEN, PARCEL_BYTES};
use crate::carry::{Arrival, Connections, Reads, SealedMemory};
use crate::protocol::{CarriedSet, CarryFate, CarryKind};

/// What was parked of one set, in order.
type Parked = Vec<(Inode, Client)>;

fn park(set: &Arc<Connections<Client>>, state: Client) -> (Inode, Client) {
    let (descriptor, ticket) = (socket(), set.enter(format!("client {}", state.number)));
    let parked = (inode(&descriptor), state.clone());
    ticket.park(descriptor, state);
    parked
}

/// All that arrived, in the order in which it was sent; it still has its handlers then.
fn take_arrivals(set: &Arc<Connections<Client>>) -> (Parked, Vec<Arrival<Client>>) {
    let mut arrivals: Vec<_> = std::iter::from_fn(|| set.try_arrival()).collect();
    arrivals.reverse();
    let parked = |arrival: &Arrival<Client>| (inode(&arrival.descriptor), arrival.state.clone());
    (arrivals.iter().map(parked).collect(), arrivals)
}

/// The successor's sets, with all that arrived in them.
fn opened(arrivals: &mut Arrivals) -> Arc<Daemon> {
    let successor = Daemon::new();
    arrivals.hand_on(&successor.carriage()).expect("it has the same sets");
    assert!(successor.clients.try_arrival().is_none(), "it does not serve yet");
    successor.carriage().release();
    successor
}

/// Lengths about the bounds: of a state that goes with its frame, and of a parcel.
fn lengths() -> impl Strategy<Value = usize> {
    let inline = MAX_INLINE_LEN;
    prop_oneof![
        3 => 0..300_usize,
        // A number and a length come before the bytes.
        3 => inline - 12..inline + 4,
        1 => PARCEL_BYTES - 2 * inline..PARCEL_BYTES + 2,
        1 => 4000..9000_usize,
    ]
}

/// So many connections with states of one length, in one set; before the drain or in it.
type Group = (usize, usize, usize);

fn groups() -> impl Strategy<Value = Vec<Group>> {
    // About what fills a parcel, by count and by what goes beside.
    let count = prop_oneof![1..5_usize, 14..19_usize, 120..130_usize, 250..258_usize];
    let group = (0..2_usize, count, lengths());
    let bounded = group
        .prop_map(|(set, count, length)| (set, count.min(MAX_TOTAL_LEN / (length + 1)), length));
    prop::collection::vec(bounded, 0..5)
}

const MAX_TOTAL_LEN: usize = 3 << 20;

fn check_carried(groups: &[Group], memory: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let daemon = Daemon::new();
    daemon.carriage().release();
    for (key, bytes) in memory.iter().enumerate() {
        daemon.cache.put(key.to_string(), SealedMemory::of_bytes(bytes).expect("memory"));
    }
    let mut parked = [Parked::new(), Parked::new()];
    let pair = Pair::begin(&daemon);
    let mut number = 0;
    for &(set, count, length) in groups {
        for length in repeat_n(length, count) {
            parked[set].push(park(daemon.sets()[set], Client::new(number, length)));
            number += 1;
        }
    }
    let mut arrivals = pair.finish().expect("nothing is wrong");
    let successor = opened(&mut arrivals);
    for (set, parked) in successor.sets().into_iter().zip(&parked) {
        let (arrived, _handlers) = take_arrivals(set);
        prop_assert_eq!(&arrived, parked);
        let mut names: Vec<_> =
            parked.iter().map(|(_, state)| format!("client {}", state.number)).collect();
        names.sort();
        prop_assert_eq!(successor.names(), names);
    }
    for (key, bytes) in memory.iter().enumerate() {
        let arrived = successor.cache.get(&key.to_string());
        prop_assert_eq!(arrived.as_deref(), Some(&**bytes));
    }
    let length = |state: &Client| {
        let mut bytes = Vec::new();
        crate::frame::write_value(state, &mut bytes).expect("it is written");
        bytes.len() as u64
    };
    let told = |name: &str, parked: &Parked| CarriedSet {
        name: name.into(),
        kind: CarryKind::Connections,
        count: parked.len() as u64,
        bytes: parked.iter().map(|(_, state)| length(state)).sum(),
        fate: CarryFate::Taken,
    };
    let [clients, others] = &parked;
    let cache = CarriedSet {
        name: "cache".into(),
        kind: CarryKind::Memory,
        count: memory.len() as u64,
        bytes: memory.iter().map(|bytes| bytes.len() as u64).sum(),
        fate: CarryFate::Taken,
    };
    let all = [told("clients", clients), told("others.0", others), cache];
    prop_assert_eq!(arrivals.report().expect("all is taken"), all);
    // The incumbent's copies are still open, and are closed by the commit.
    let (all, last) = (parked.concat(), successor);
    let inodes: Vec<_> = all.iter().map(|(inode, _)| *inode).collect();
    drop((last, arrivals));
    let open = crate::carry::pair::inodes();
    prop_assert!(inodes.iter().all(|inode| open.contains(inode)));
    daemon.carriage().part();
    assert_closed(&inodes);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn everything_arrives_once_in_order_and_as_it_was(
        groups in groups(),
        memory in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..4),
    ) {
        check_carried(&groups, &memory)?;
    }
}

#[test]
fn what_many_threads_park_while_it_is_sent_arrives_once() {
    const THREADS: u32 = 4;
    const EACH: u32 = 300;
    let daemon = Daemon::new();
    daemon.carriage().release();
    let pair = Pair::begin(&daemon);
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let daemon = Arc::clone(&daemon);
            thread::spawn(move || {
                let numbers = (0..EACH).map(|number| thread * EACH + number);
                let park = |number| {
                    let set = daemon.sets()[number as usize % 2];
                    let length = if number % 50 == 7 { MAX_INLINE_LEN } else { number as usize };
                    park(set, Client::new(number, length))
                };
                numbers.map(park).collect::<Parked>()
            })
        })
        .collect();
    let parked: BTreeMap<_, _> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("it parks"))
        .map(|(inode, state)| (state.number, (inode, state)))
        .collect();
    assert_eq!(daemon.names(), [""; 0]);
    let successor = opened(&mut pair.finish().expect("nothing is wrong"));
    let (mut arrived, handlers) = take_arrivals(&successor.clients);
    let (others, more_handlers) = take_arrivals(&successor.others[0]);
    arrived.extend(others);
    assert_eq!(arrived.len(), parked.len());
    let arrived: BTreeMap<_, _> =
        arrived.into_iter().map(|(inode, state)| (state.number, (inode, state))).collect();
    assert_eq!(arrived, parked);
    drop((handlers, more_handlers));
}

/// A carrier whose peer has read nothing.
struct Unread {
    daemon: Arc<Daemon>,
    carrier: Carrier,
    claim: Arc<Claim>,
    ours: UnixStream,
    theirs: UnixStream,
}

impl Unread {
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let daemon = Daemon::new();
        daemon.carriage().release();
        let (carrier, claim) = incumbent(&daemon, ours.try_clone().expect("a descriptor is left"));
        Self { daemon, carrier, claim, ours, theirs }
    }

    /// Parks more than the kernel has room for, and waits until that is full.
    fn fill(&self) -> Parked {
        let park = |number| park(&self.daemon.clients, Client::new(number, 9000));
        let parked = (0..3 * 253).map(park).collect();
        until(|| !poll::is_ready(self.ours.as_fd(), PollFlags::OUT).expect("it is polled"));
        parked
    }
}

/// What it returns; a test is not to hang with what it tests.
#[track_caller]
fn ended<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let work = thread::spawn(work);
    until(|| work.is_finished());
    work.join().expect("it ends")
}

#[test]
fn a_swap_is_given_up_although_nobody_reads_what_is_sent() {
    let unread = Unread::new();
    let parked = unread.fill();
    let Unread { daemon, carrier, claim, theirs: _theirs, .. } = unread;
    ended(move || carrier.give_up());
    let kept_off = claim.take_back();
    daemon.carriage().take_back(kept_off);
    daemon.carriage().release();
    assert_eq!(take_arrivals(&daemon.clients).0, parked);
}

#[test]
fn the_last_of_it_is_cut_short_from_another_thread() {
    let unread = Unread::new();
    unread.fill();
    let Unread { daemon, carrier, theirs: _theirs, .. } = unread;
    let stopper = carrier.stopper();
    let sealing = thread::spawn(move || carrier.finish(&daemon.carriage()));
    stopper.stop();
    let error = ended(move || sealing.join().expect("it ends")).expect_err("it was given up");
    assert!(matches!(error, Error::Carry(CarryError::GivenUp)), "{error}");
}

#[test]
fn a_successor_that_is_gone_is_an_error_and_no_loss() {
    let Unread { daemon, carrier, theirs, .. } = Unread::new();
    drop(theirs);
    let parked: Parked = (0..300).map(|n| park(&daemon.clients, Client::new(n, 3))).collect();
    let error = carrier.finish(&daemon.carriage()).expect_err("nobody is there");
    assert!(matches!(error, Error::Carry(CarryError::Closed)), "{error}");
    daemon.carriage().take_back(true);
    daemon.carriage().release();
    assert_eq!(take_arrivals(&daemon.clients).0, parked);
}

#[test]
fn an_abort_at_any_moment_leaves_each_connection_in_one_place() {
    for pause in [0, 1, 20, 100, 253, 254, 300, 700] {
        let daemon = Daemon::new();
        daemon.carriage().release();
        let Pair { carrier, claim, receiver, .. } = Pair::begin(&daemon);
        let mut parked: Parked =
            (0..pause).map(|n| park(&daemon.clients, Client::new(n, 9))).collect();
        ended(move || carrier.give_up());
        assert!(claim.take_back());
        daemon.carriage().take_back(true);
        parked.extend((pause..pause + 3).map(|n| park(&daemon.clients, Client::new(n, 9))));
        daemon.carriage().release();
        assert_eq!(take_arrivals(&daemon.clients).0, parked);
        // The successor sees both: that it is not whole, and that it was taken back.
        let arrivals = receiver.finish().expect("the channel is closed");
        assert!(!arrivals.is_whole());
        let arrivals = arrivals.discard_unusable(true, false).expect("nothing of it is used");
        let counts = arrivals.report().expect("there is nothing to take");
        assert!(counts.into_iter().all(|set| (set.count, set.bytes) == (0, 0)));
    }
}

#[test]
fn a_successor_has_the_connections_of_an_incumbent_that_died_if_it_had_not_taken_them_back() {
    for is_taken_back in [false, true] {
        let daemon = Daemon::new();
        daemon.carriage().release();
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let carriage = daemon.carriage();
        let channel = SendingEnd::open(ours, &carriage).expect("the kernel has room");
        let receiver = receive(theirs).expect("it is offered");
        carriage.collect(None);
        let parked: Parked = (0..300).map(|n| park(&daemon.others[0], Client::new(n, 9))).collect();
        daemon.cache.put("key", SealedMemory::of_bytes(b"value").expect("memory"));
        let cancel = Cancel::new().expect("an event");
        for (set, index) in carriage.sets().zip(0..) {
            let mut send = |format, items, descriptors: &[BorrowedFd<'_>]| {
                channel.send(&Note::Parcel { set: index, format, items }, descriptors, &cancel)
            };
            while set.send_next(true, &mut send).expect("it is sent") {}
        }
        if is_taken_back {
            assert!(channel.claim().take_back());
        }
        // It dies before the end is said.
        drop(channel);
        carriage.part();
        let arrivals = receiver.finish().expect("the channel is closed");
        let mut arrivals = arrivals.discard_unusable(true, true).expect("it is dead");
        let successor = opened(&mut arrivals);
        let (inodes, expected) = match is_taken_back {
            true => (parked.iter().map(|(inode, _)| *inode).collect(), Parked::new()),
            false => (Vec::new(), parked),
        };
        assert_eq!(take_arrivals(&successor.others[0]).0, expected);
        assert_eq!(successor.cache.keys(), [""; 0], "memory is of use only when it is whole");
        let counts: Vec<_> =
            arrivals.report().expect("taken").iter().map(|set| set.count).collect();
        assert_eq!(counts, [0, expected.len() as u64, 0]);
        assert_closed(&inodes);
    }
}

#[test]
fn a_value_arrives_as_it_was_put() {
    let daemon = Daemon::new();
    daemon.cache.put_value("hot", &Client::new(1, 100_000)).expect("memory");
    let pair = Pair::begin(&daemon);
    let mut arrivals = pair.finish().expect("nothing is wrong");
    let memory = arrivals.memory("cache").expect("it is memory");
    let hot = memory.value("hot", &Reads::<Client>::new()).expect("it is read");
    assert_eq!(hot, Some(Client::new(1, 100_000)));
    assert_eq!(arrivals.memory("no such").expect("none arrived").keys(), [""; 0]);
    let error = arrivals.memory("clients").expect_err("it is none");
    let CarryError::WrongKind { set, arrived, expected } = error else { panic!("{error}") };
    assert_eq!((&*set, arrived, expected), ("clients", "connections", "memory"));
}

#[test]
fn a_peer_that_has_no_room_for_the_offer_is_refused() {
    let (mut ours, _theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("it is set");
    while ours.write(&[0; 4096]).is_ok() {}
    let daemon = Daemon::new();
    let error = SendingEnd::open(ours, &daemon.carriage()).expect_err("there is no room");
    assert!(matches!(error, Error::PeerMisbehaved(PeerMisbehaved::DoesNotRead)), "{error}");
}
