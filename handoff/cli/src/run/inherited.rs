//! The sockets of a service manager, for the listeners of the configuration. It may pass one socket
//! twice, by a `.socket` unit and out of its store, and those of one name in any order.

use std::os::fd::{AsFd, OwnedFd};

use handoff::error::ListenerError;
use handoff::successor::Listeners;

use crate::config::{Address, ListenerConfig};
use crate::{listen, notify};

/// Takes the sockets of the listeners, in the order of the configuration. Of several listeners of one
/// name each gets the socket at its own address, if that is there.
pub(super) fn take(
    inherited: &mut Listeners,
    listeners: &[ListenerConfig],
) -> Result<Vec<(ListenerConfig, OwnedFd)>, ListenerError> {
    let mut taken: Vec<Option<OwnedFd>> = listeners.iter().map(|_| None).collect();
    for (first, listener) in listeners.iter().enumerate() {
        let is_like = |other: &ListenerConfig| {
            other.name == listener.name && kind(&other.address) == kind(&listener.address)
        };
        if listeners[..first].iter().any(is_like) {
            continue;
        }
        let mut sockets = distinct(inherited, listener)?;
        let alike = || (first..listeners.len()).filter(|at| is_like(&listeners[*at]));
        for at in alike() {
            let is_its = |socket: &OwnedFd| listen::is_at(&listeners[at].address, socket.as_fd());
            taken[at] = sockets.iter().position(is_its).map(|index| sockets.remove(index));
        }
        let mut left = sockets.into_iter();
        for at in alike() {
            taken[at] = taken[at].take().or_else(|| left.next());
        }
        left.for_each(|_| close(&listener.name));
    }
    let of = listeners.iter().zip(taken);
    Ok(of.filter_map(|(listener, socket)| Some((listener.clone(), socket?))).collect())
}

/// Says that an inherited socket is closed, to the operator and to the manager that has it as well.
pub(super) fn close(name: &str) {
    tracing::warn!(
        name,
        "this supervisor inherited a socket that the configuration does not list by this name and kind, and closes it: add it under [[listeners]]"
    );
    notify::forget(name);
}

/// The sockets of that name and kind, each once.
fn distinct(
    inherited: &mut Listeners,
    listener: &ListenerConfig,
) -> Result<Vec<OwnedFd>, ListenerError> {
    let inode = |socket: &OwnedFd| rustix::fs::fstat(socket).map(|stat| stat.st_ino).ok();
    let mut sockets: Vec<OwnedFd> = Vec::new();
    loop {
        match listen::inherited(inherited, listener) {
            Ok(Some(socket)) if sockets.iter().any(|it| inode(it) == inode(&socket)) => {}
            Ok(Some(socket)) => sockets.push(socket),
            Ok(None) => return Ok(sockets),
            // One that a manager has kept since before a change of the configuration has to stop
            // no start: those that are left are closed.
            Err(_) if !sockets.is_empty() || notify::keeps_sockets() => return Ok(sockets),
            Err(error) => return Err(error),
        }
    }
}

/// The kind of the socket at an address.
const fn kind(address: &Address) -> u8 {
    match address {
        Address::Tcp(_) => 0,
        Address::Udp(_) => 1,
        Address::Unix(_) | Address::Abstract(_) => 2,
        Address::UnixDatagram(_) => 3,
    }
}
