//! The listeners that a process was started with, by name.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Arc;

use crate::error::{LaunchError, ListenerError, Result};
use crate::protocol::MAX_LISTENERS;
use crate::sys::inherited::{self, Kind};
use crate::sys::rights;

/// The variable of a successor's environment: `FD:INODE` of its control connection.
pub(crate) const CONTROL_VARIABLE: &str = "HANDOFF_CONTROL";
pub(crate) const ONE_WAY_VARIABLE: &str = "HANDOFF_ONE_WAY";
/// The number of the first passed descriptor.
pub(crate) const FIRST_DESCRIPTOR: RawFd = inherited::FIRST;

/// The sockets that this process inherited and has not taken yet.
///
/// The library keeps a duplicate of each for as long as this process serves, taken or not: a
/// supervisor that is started after another one died gets the listeners back from this process.
///
/// A name may stand several times: each call takes the next one, in the order in which they
/// were passed. A socket is as it was passed. In particular every process that has it shares its
/// `O_NONBLOCK`: the library never changes it, and the daemon must not.
#[derive(Debug, Default)]
pub struct Listeners {
    waiting: Vec<(String, Kind, OwnedFd)>,
    kept: Vec<(String, OwnedFd)>,
}

impl Listeners {
    pub(crate) fn new(sockets: impl IntoIterator<Item = (String, OwnedFd)>) -> io::Result<Self> {
        let mut listeners = Self::default();
        for (name, socket) in sockets {
            listeners.keep_duplicate(&name, &socket)?;
            listeners.waiting.push((name, Kind::of(&socket), socket));
        }
        Ok(listeners)
    }

    /// Counts a socket that the daemon has bound itself among those that it was passed, so
    /// that a supervisor that adopts this process passes it on.
    ///
    /// # Errors
    ///
    /// [`LaunchError::ListenerName`] for a name that cannot be passed on;
    /// [`LaunchError::TooManyListeners`];
    /// [`Error::Io`](crate::Error::Io) when the process has no descriptor left.
    pub fn keep(&mut self, name: &str, socket: impl AsFd) -> Result<()> {
        check_name(name)?;
        if self.kept.len() >= MAX_LISTENERS {
            return Err(LaunchError::TooManyListeners(self.kept.len() + 1).into());
        }
        Ok(self.keep_duplicate(name, socket)?)
    }

    fn keep_duplicate(&mut self, name: &str, socket: impl AsFd) -> io::Result<()> {
        self.kept.push((name.to_owned(), socket.as_fd().try_clone_to_owned()?));
        Ok(())
    }

    pub(crate) fn take_kept(&mut self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut self.kept)
    }

    /// The names of those that are left, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.waiting.iter().map(|(name, ..)| name.clone()).collect()
    }

    /// Whether none is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next listening TCP socket of that name.
    ///
    /// # Errors
    ///
    /// [`ListenerError`]; then no socket is taken. So for the three methods below.
    pub fn take_tcp(&mut self, name: &str) -> Result<TcpListener, ListenerError> {
        self.take(name, Kind::Tcp).map(TcpListener::from)
    }

    /// The next listening TCP socket of that name, for tokio.
    ///
    /// # Errors
    ///
    /// As [`take_tcp`](Self::take_tcp); and for a socket that blocks. All processes that have it share
    /// that flag: the process that binds it, or its service manager (`NonBlocking=true`), sets it.
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio.
    #[cfg(feature = "tokio")]
    pub fn take_tokio_tcp(&mut self, name: &str) -> crate::Result<tokio::net::TcpListener> {
        let listener = self.take_tcp(name)?;
        not_blocking(name, &listener)?;
        Ok(tokio::net::TcpListener::from_std(listener)?)
    }

    /// The next listening Unix stream socket of that name, for tokio.
    ///
    /// # Errors
    ///
    /// As [`take_tokio_tcp`](Self::take_tokio_tcp).
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio.
    #[cfg(feature = "tokio")]
    pub fn take_tokio_unix(&mut self, name: &str) -> crate::Result<tokio::net::UnixListener> {
        let listener = self.take_unix(name)?;
        not_blocking(name, &listener)?;
        Ok(tokio::net::UnixListener::from_std(listener)?)
    }

    /// The next UDP socket of that name, for tokio.
    ///
    /// # Errors
    ///
    /// As [`take_tokio_tcp`](Self::take_tokio_tcp).
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio.
    #[cfg(feature = "tokio")]
    pub fn take_tokio_udp(&mut self, name: &str) -> crate::Result<tokio::net::UdpSocket> {
        let socket = self.take_udp(name)?;
        not_blocking(name, &socket)?;
        Ok(tokio::net::UdpSocket::from_std(socket)?)
    }

    /// The next listening Unix stream socket of that name.
    ///
    /// # Errors
    ///
    /// As [`take_tcp`](Self::take_tcp).
    pub fn take_unix(&mut self, name: &str) -> Result<UnixListener, ListenerError> {
        self.take(name, Kind::UnixStream).map(UnixListener::from)
    }

    /// The next UDP socket of that name.
    ///
    /// # Errors
    ///
    /// As [`take_tcp`](Self::take_tcp).
    pub fn take_udp(&mut self, name: &str) -> Result<UdpSocket, ListenerError> {
        self.take(name, Kind::Udp).map(UdpSocket::from)
    }

    /// The next Unix datagram socket of that name.
    ///
    /// # Errors
    ///
    /// As [`take_tcp`](Self::take_tcp).
    pub fn take_unix_datagram(&mut self, name: &str) -> Result<UnixDatagram, ListenerError> {
        self.take(name, Kind::UnixDatagram).map(UnixDatagram::from)
    }

    fn take(&mut self, name: &str, wanted: Kind) -> Result<OwnedFd, ListenerError> {
        let of_name = |(other, ..): &&(String, Kind, OwnedFd)| other == name;
        let index =
            self.waiting.iter().position(|(other, kind, _)| other == name && *kind == wanted);
        match (index, self.waiting.iter().find(of_name)) {
            (Some(index), _) => Ok(self.waiting.remove(index).2),
            (None, Some((_, found, _))) => Err(ListenerError::WrongKind {
                name: name.to_owned(),
                found: found.name(),
                wanted: wanted.name(),
            }),
            (None, None) => {
                Err(ListenerError::Missing { name: name.to_owned(), available: self.names() })
            }
        }
    }
}

/// Refuses a socket that would block a thread of the runtime.
#[cfg(feature = "tokio")]
pub(crate) fn not_blocking(name: &str, socket: impl AsFd) -> crate::Result<()> {
    if rustix::fs::fcntl_getfl(socket)
        .map_err(io::Error::from)?
        .contains(rustix::fs::OFlags::NONBLOCK)
    {
        return Ok(());
    }
    Err(crate::Error::other(format!(
        "the socket `{name}` blocks, and tokio needs one that does not: call set_nonblocking(true) where it is bound (systemd: NonBlocking=true); all processes that have it share the flag"
    )))
}

/// Whether a name can be passed on: one variable holds the names of all sockets, with colons.
pub(crate) fn check_name(name: &str) -> Result<(), LaunchError> {
    if name.contains(|character: char| character == ':' || character.is_control()) {
        return Err(LaunchError::ListenerName(name.to_owned()));
    }
    Ok(())
}

/// The duplicates that this process keeps for a supervisor that adopts it, or a part of them.
#[derive(Debug, Clone)]
pub(crate) struct Passed {
    all: Arc<Vec<(String, OwnedFd)>>,
    part: Range<usize>,
}

impl Passed {
    pub(crate) fn new(all: Vec<(String, OwnedFd)>) -> Self {
        Self { part: 0..all.len(), all: Arc::new(all) }
    }

    /// Parts that go into one message each; one that is empty where there are none at all.
    pub(crate) fn batches(&self) -> Vec<Self> {
        let last = self.all.len();
        let part = |first| first..last.min(first + rights::MAX_DESCRIPTORS);
        let firsts = (0..last.max(1)).step_by(rights::MAX_DESCRIPTORS);
        firsts.map(|first| Self { all: Arc::clone(&self.all), part: part(first) }).collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.all[self.part.clone()].iter().map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all[self.part.clone()].iter().map(|(_, socket)| socket.as_fd())
    }

    /// How many come after this part.
    pub(crate) fn left(&self) -> u32 {
        u32::try_from(self.all.len() - self.part.end).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn listeners() -> (Listeners, Vec<u16>) {
        let tcp = || TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let (first, second) = (tcp(), tcp());
        let ports = [&first, &second]
            .map(|listener| listener.local_addr().expect("it is bound").port())
            .to_vec();
        let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
        let (connected, _) = UnixStream::pair().expect("a pair");
        let sockets: Vec<(&str, OwnedFd)> = vec![
            ("dns", udp.into()),
            ("dns", first.into()),
            ("dns", second.into()),
            ("peer", connected.into()),
            ("file", File::open("/dev/null").expect("it is there").into()),
        ];
        let named = sockets.into_iter().map(|(name, socket)| (name.to_owned(), socket));
        (Listeners::new(named).expect("descriptors are left"), ports)
    }

    #[test]
    fn duplicates_are_kept_in_order_and_by_kind() {
        let (mut listeners, ports) = listeners();
        for port in ports {
            let taken = listeners.take_tcp("dns").expect("there is one");
            assert_eq!(taken.local_addr().expect("it is bound").port(), port);
        }
        listeners.take_udp("dns").expect("there is one");
        assert_eq!(
            listeners.take_tcp("dns").err(),
            Some(ListenerError::Missing {
                name: "dns".into(),
                available: vec!["peer".into(), "file".into()]
            })
        );
    }

    #[test]
    fn what_was_passed_is_kept_although_it_is_taken_and_goes_out_in_batches() {
        let (mut listeners, _) = listeners();
        listeners.take_udp("dns").expect("there is one");
        let bound = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        listeners.keep("own", &bound).expect("a descriptor is left");
        assert!(matches!(
            listeners.keep("o:n", &bound),
            Err(crate::Error::Launch(LaunchError::ListenerName(name))) if name == "o:n"
        ));
        let passed = Passed::new(listeners.take_kept());
        let batches = passed.batches();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].names(), ["dns", "dns", "dns", "peer", "file", "own"]);
        assert_eq!((batches[0].descriptors().count(), batches[0].left()), (6, 0));
        let none = Passed::new(Vec::new()).batches();
        assert_eq!((none.len(), none[0].names().len(), none[0].left()), (1, 0, 0));
        let many = (0..600).map(|index| {
            let copy = bound.as_fd().try_clone_to_owned().expect("a descriptor is left");
            (index.to_string(), copy)
        });
        let passed = Passed::new(many.collect());
        let shape: Vec<_> =
            passed.batches().iter().map(|batch| (batch.names().len(), batch.left())).collect();
        assert_eq!(shape, [(253, 347), (253, 94), (94, 0)]);
    }

    #[test]
    fn nothing_is_adopted_that_is_not_what_it_is_said_to_be() {
        let (mut listeners, _) = listeners();
        for (name, found) in [("peer", Kind::Connected), ("file", Kind::NoSocket)] {
            assert_eq!(
                listeners.take_tcp(name).err(),
                Some(ListenerError::WrongKind {
                    name: name.into(),
                    found: found.name(),
                    wanted: Kind::Tcp.name()
                })
            );
        }
        assert!(listeners.take_unix("dns").is_err());
        assert_eq!(listeners.names().len(), 5);
    }
}
