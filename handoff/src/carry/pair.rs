//! Both ends of a carry channel in one process, for the tests.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::wire::Bytes;
use super::*;
use crate::control::Connection;
use crate::error::Result;

/// A state of any length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Client {
    pub(super) number: u32,
    pub(super) unparsed: Bytes,
}

impl Client {
    pub(super) fn new(number: u32, length: usize) -> Self {
        let seed = number.to_le_bytes()[0];
        Self { number, unparsed: Bytes((0..length).map(|at| (at % 251) as u8 ^ seed).collect()) }
    }
}

impl Carried for Client {
    const NAME: &'static str = "test.client";
    const VERSION: u32 = 7;
}

/// Two sets of connections, and memory.
pub(super) struct Daemon {
    pub(super) clients: Arc<Connections<Client>>,
    pub(super) others: [Arc<Connections<Client>>; 1],
    pub(super) cache: Memory,
}

impl Daemon {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            clients: Arc::default(),
            others: [Arc::default()],
            cache: Memory::default(),
        })
    }

    pub(super) fn sets(&self) -> [&Arc<Connections<Client>>; 2] {
        [&self.clients, &self.others[0]]
    }

    pub(super) fn carriage(&self) -> Carriage<'_> {
        Carriage::new()
            .with("clients", &self.clients)
            .with("others", &self.others)
            .with("cache", &self.cache)
    }

    /// The names of the connections that have a handler.
    pub(super) fn names(&self) -> Vec<String> {
        self.carriage().wait_parked(Instant::now())
    }
}

impl Source for Daemon {
    fn carries(&self) -> Carriage<'_> {
        self.carriage()
    }
}

/// An incumbent that drains, and its successor.
pub(super) struct Pair {
    daemon: Arc<Daemon>,
    pub(super) carrier: Carrier,
    pub(super) claim: Arc<Claim>,
    pub(super) receiver: Receiver,
}

impl Pair {
    pub(super) fn begin(daemon: &Arc<Daemon>) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (carrier, claim) = incumbent(daemon, ours);
        let receiver = receive(theirs).expect("it is offered");
        Self { daemon: Arc::clone(daemon), carrier, claim, receiver }
    }

    /// Seals; the arrivals of the successor.
    pub(super) fn finish(self) -> Result<Arrivals> {
        self.carrier.finish(&self.daemon.carriage())?;
        self.receiver.finish()?.discard_unusable(true, false)
    }
}

/// The successor's side alone; it tells nobody of an error.
pub(super) fn receive(stream: UnixStream) -> Result<Receiver> {
    Receiver::start(Connection::new(stream), |_| ())
}

/// The incumbent's side alone.
pub(super) fn incumbent(daemon: &Arc<Daemon>, stream: UnixStream) -> (Carrier, Arc<Claim>) {
    let channel = SendingEnd::open(stream, &daemon.carriage()).expect("the kernel has room");
    let claim = channel.claim();
    let carrier = Carrier::start(Arc::clone(daemon), channel).expect("a thread");
    daemon.carriage().collect(Some(carrier.thread()));
    (carrier, claim)
}

/// A socket that no other descriptor is of.
pub(super) fn socket() -> OwnedFd {
    allow_many_descriptors();
    UnixDatagram::unbound().expect("a socket").into()
}

/// Device and inode, which tell a socket, or memory, from all others.
pub(super) type Inode = (u64, u64);

pub(super) fn inode(of: impl AsFd) -> Inode {
    let stat = rustix::fs::fstat(of).expect("it is open");
    (stat.st_dev, stat.st_ino)
}

/// All that this process has open or mapped.
pub(super) fn inodes() -> BTreeSet<Inode> {
    let open = std::fs::read_dir("/proc/self/fd").expect("it is listed");
    let open = open.flatten().filter_map(|entry| std::fs::metadata(entry.path()).ok());
    let maps = std::fs::read_to_string("/proc/self/maps").expect("it is listed");
    let mapped = maps.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(3);
        let (major, minor) = words.next()?.split_once(':')?;
        let [major, minor] = [major, minor].map(|hex| u32::from_str_radix(hex, 16).ok());
        Some((rustix::fs::makedev(major?, minor?), words.next()?.parse().ok()?))
    });
    open.map(|metadata| (metadata.dev(), metadata.ino())).chain(mapped).collect()
}

/// Waits until none of these is open or mapped.
#[track_caller]
pub(super) fn assert_closed(left: &[Inode]) {
    until(|| inodes().is_disjoint(&left.iter().copied().collect()));
}

/// Waits for a fact; only a defect reaches the deadline.
#[track_caller]
pub(super) fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = soon();
    while !is_so() {
        assert!(Instant::now() < deadline, "it has not come about");
        thread::yield_now();
    }
}

/// Far enough that only a defect reaches it.
pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn allow_many_descriptors() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("it is allowed");
    });
}
