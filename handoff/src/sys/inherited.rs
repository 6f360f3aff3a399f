//! Descriptors that a process was started with.

#![expect(unsafe_code, reason = "a number from the environment becomes an owned descriptor")]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketType};

/// The first descriptor that a service manager passes.
pub(crate) const FIRST: RawFd = 3;

/// Takes ownership of a descriptor that this process was started with, if it is `as_said`,
/// and makes it close-on-exec. Each number is given once in a process's life; anything else
/// is refused and left alone: a closed number, one given before, and the standard streams.
pub(crate) fn take(
    number: RawFd,
    as_said: impl FnOnce(BorrowedFd<'_>) -> bool,
) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());
    if number < FIRST {
        return Err(rustix::io::Errno::BADF.into());
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the borrow ends in this function, and the number is only asked about.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(borrowed)?;
    // A descriptor that this process opened is close-on-exec; an inherited one is not.
    if flags.contains(FdFlags::CLOEXEC) || !as_said(borrowed) || !taken.insert(number) {
        return Err(rustix::io::Errno::BADF.into());
    }
    rustix::io::fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open, was passed to this process by the one that started it,
    // and is given out once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The kind of listener that a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    UnixStream,
    Udp,
    UnixDatagram,
    /// A socket that does not listen.
    Connected,
    NoSocket,
}

impl Kind {
    pub(crate) fn of(fd: impl AsFd) -> Self {
        let (Ok(kind), Ok(domain)) =
            (rustix::net::sockopt::socket_type(&fd), rustix::net::sockopt::socket_domain(&fd))
        else {
            return Self::NoSocket;
        };
        let listens = rustix::net::sockopt::socket_acceptconn(&fd).unwrap_or(false);
        match (domain, kind) {
            (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM) => Self::Udp,
            (AddressFamily::UNIX, SocketType::DGRAM) => Self::UnixDatagram,
            (AddressFamily::INET | AddressFamily::INET6, SocketType::STREAM) if listens => {
                Self::Tcp
            }
            (AddressFamily::UNIX, SocketType::STREAM) if listens => Self::UnixStream,
            _ => Self::Connected,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "a listening TCP socket",
            Self::UnixStream => "a listening Unix stream socket",
            Self::Udp => "a UDP socket",
            Self::UnixDatagram => "a Unix datagram socket",
            Self::Connected => "a socket that does not listen",
            Self::NoSocket => "no socket",
        }
    }
}

/// The inode of a descriptor's file: a socket's is its own while the machine runs.
pub(crate) fn inode(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_ino)
}
