//! Listeners that a process was started with, by name.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

use crate::error::ListenerError;
use crate::sys::inherited::Kind;

/// The sockets that this process inherited and has not taken yet. What is never taken is
/// closed in this process with the value, and lives on in the others.
///
/// A name may stand several times: each call takes the next one, in the order in which they
/// were passed. A socket is as it was passed: in particular its `O_NONBLOCK` is shared with
/// every process that has it, so it is never changed here, and must not be by the daemon.
#[derive(Debug, Default)]
pub struct Listeners {
    waiting: Vec<(String, Kind, OwnedFd)>,
}

impl Listeners {
    pub(super) fn new(sockets: impl IntoIterator<Item = (String, OwnedFd)>) -> Self {
        let waiting =
            sockets.into_iter().map(|(name, socket)| (name, Kind::of(&socket), socket)).collect();
        Self { waiting }
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
    /// [`ListenerError`], by which nothing is taken; so for the three below.
    pub fn take_tcp(&mut self, name: &str) -> Result<TcpListener, ListenerError> {
        self.take(name, Kind::Tcp).map(TcpListener::from)
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
        (Listeners::new(named), ports)
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
