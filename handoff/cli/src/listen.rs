//! The sockets that the supervisor holds: inherited, or bound.

use std::fs;
use std::io;
use std::net::{self, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use anyhow::anyhow;
use handoff::error::ListenerError;
use handoff::successor::Listeners;

use crate::config::{Access, Address, ListenerConfig};

/// The name under which a supervisor that is upgraded passes its own socket on.
pub(crate) const OWN: &str = "handoff.supervisor";

/// The inherited socket of that name and kind, if there is one.
pub(crate) fn inherited(
    listeners: &mut Listeners,
    config: &ListenerConfig,
) -> Result<Option<OwnedFd>, ListenerError> {
    let name = &config.name;
    let taken = match config.address {
        Address::Tcp(_) => listeners.take_tcp(name).map(OwnedFd::from),
        Address::Udp(_) => listeners.take_udp(name).map(OwnedFd::from),
        Address::Unix(_) | Address::Abstract(_) => listeners.take_unix(name).map(OwnedFd::from),
        Address::UnixDatagram(_) => listeners.take_unix_datagram(name).map(OwnedFd::from),
    };
    match taken {
        Ok(socket) => Ok(Some(socket)),
        Err(ListenerError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Binds the listener.
pub(crate) fn bind(config: &ListenerConfig) -> anyhow::Result<OwnedFd> {
    let bound = match &config.address {
        Address::Tcp(address) => TcpListener::bind(address).map(OwnedFd::from),
        Address::Udp(address) => UdpSocket::bind(address).map(OwnedFd::from),
        Address::Unix(path) => {
            clear(path).and_then(|()| UnixListener::bind(path)).map(OwnedFd::from)
        }
        Address::Abstract(name) => SocketAddr::from_abstract_name(name)
            .and_then(|address| UnixListener::bind_addr(&address))
            .map(OwnedFd::from),
        Address::UnixDatagram(path) => {
            clear(path).and_then(|()| UnixDatagram::bind(path)).map(OwnedFd::from)
        }
    };
    let bound = bound.and_then(|socket| {
        open_to(config)?;
        set_up(config, &socket)?;
        Ok(socket)
    });
    bound.map_err(|error| {
        let ListenerConfig { name, address, .. } = config;
        let advice = advice(error.kind(), address);
        anyhow!("cannot listen on {address} for {name:?}: {error}{advice}")
    })
}

/// The operator's remedy for a socket that cannot be bound.
fn advice(kind: io::ErrorKind, address: &Address) -> String {
    match (kind, address) {
        (io::ErrorKind::AddrInUse, Address::Tcp(at)) => {
            format!("; who has it says: ss -ltnp 'sport = :{}'", at.port())
        }
        (io::ErrorKind::AddrInUse, Address::Udp(at)) => {
            format!("; who has it says: ss -lunp 'sport = :{}'", at.port())
        }
        (io::ErrorKind::AddrInUse, Address::Unix(path) | Address::UnixDatagram(path)) => {
            format!("; who has it says: ss -lxp src {}", path.display())
        }
        (io::ErrorKind::PermissionDenied, Address::Tcp(_) | Address::Udp(_)) => {
            "; a port below 1024 is root's, or takes CAP_NET_BIND_SERVICE".into()
        }
        (io::ErrorKind::AddrNotAvailable, _) => {
            "; no interface of this machine has that address".into()
        }
        _ => String::new(),
    }
}

/// The settings that all processes share that have the socket: before a daemon has it.
pub(crate) fn set_up(config: &ListenerConfig, socket: impl AsFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&socket, !config.blocking)?;
    if matches!(config.address, Address::Tcp(_) | Address::Unix(_) | Address::Abstract(_)) {
        rustix::net::listen(&socket, config.backlog)?;
    }
    Ok(())
}

/// Lets those connect that the configuration names.
fn open_to(config: &ListenerConfig) -> io::Result<()> {
    let (Address::Unix(path) | Address::UnixDatagram(path)) = &config.address else {
        return Ok(());
    };
    let Access { mode, owner, group } = config.access;
    if owner.is_some() || group.is_some() {
        std::os::unix::fs::lchown(path, owner, group)?;
    }
    if let Some(mode) = mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// The address of a socket, if it is not the configured one.
pub(crate) fn differs(address: &Address, socket: BorrowedFd<'_>) -> Option<net::SocketAddr> {
    let (Address::Tcp(wanted) | Address::Udp(wanted)) = address else { return None };
    // The kernel is asked the same of every kind of socket.
    let at = TcpListener::from(socket.try_clone_to_owned().ok()?).local_addr().ok()?;
    let is_it = at.ip() == wanted.ip() && (wanted.port() == 0 || at.port() == wanted.port());
    (!is_it).then_some(at)
}

/// Removes a socket that no process listens on any more.
pub(crate) fn clear(path: &Path) -> io::Result<()> {
    let is_socket = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type().is_socket(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !is_socket {
        let words = "there is a file of that name, and it is no socket; it was left alone";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, words));
    }
    let stream = UnixStream::connect(path).err().map(|error| error.kind());
    let datagram = UnixDatagram::unbound()?.connect(path).err().map(|error| error.kind());
    let refused = Some(io::ErrorKind::ConnectionRefused);
    if stream == refused && datagram == refused {
        fs::remove_file(path)
    } else {
        Err(io::ErrorKind::AddrInUse.into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn config(address: Address) -> ListenerConfig {
        let access = Access::default();
        ListenerConfig { name: "resp".into(), address, blocking: false, backlog: 4096, access }
    }

    fn tcp(address: net::SocketAddr) -> ListenerConfig {
        config(Address::Tcp(address))
    }

    #[test]
    fn a_port_in_use_is_told_with_the_command_that_says_by_whom() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let words = bind(&tcp(address)).unwrap_err().to_string();
        let begin = format!("cannot listen on {address} for \"resp\": Address already in use");
        assert!(words.starts_with(&begin), "{words}");
        assert!(words.ends_with(&format!("ss -ltnp 'sport = :{}'", address.port())), "{words}");
    }

    #[test]
    fn clients_wait_in_the_queue_while_nobody_accepts() {
        let listener = bind(&tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
        let connect = |_| TcpStream::connect_timeout(&address, TIMEOUT).unwrap();
        let clients: Vec<_> = (0..400).map(connect).collect();
        assert_eq!(clients.len(), 400);
    }

    #[test]
    fn a_socket_is_for_whom_the_configuration_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.sock");
        let access = Access { mode: Some(0o620), owner: None, group: None };
        let config = ListenerConfig { access, ..config(Address::Unix(path.clone())) };
        let _bound = bind(&config).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        let nobody = Access { owner: Some(u32::MAX - 1), ..access };
        let other = directory.path().join("other.sock");
        let config =
            ListenerConfig { access: nobody, ..super::tests::config(Address::Unix(other)) };
        // Who is not root may not give it away, and is told so.
        assert_eq!(bind(&config).is_ok(), rustix::process::geteuid().is_root());
    }

    #[test]
    fn an_abstract_name_has_no_file() {
        let name = format!("handoff-test-{}", std::process::id());
        let address = Address::Abstract(name.clone());
        let bound = bind(&config(address.clone())).unwrap();
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let words = bind(&config(address)).unwrap_err().to_string();
        assert!(words.contains(&format!("unix:@{name}")) && words.contains("in use"), "{words}");
        drop(bound);
    }

    #[test]
    fn a_socket_that_is_inherited_blocks_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = ListenerConfig { backlog: 1, ..tcp(listener.local_addr().unwrap()) };
        set_up(&config, &listener).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_replaced_and_one_in_use_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.sock");
        for kind in [Address::Unix, Address::UnixDatagram] {
            let config = config(kind(path.clone()));
            let bound = bind(&config).unwrap();
            let words = bind(&config).unwrap_err().to_string();
            assert!(words.contains("use; who has it says: ss -lxp src "), "{words}");
            drop(bound);
            // What another test of this program starts holds every descriptor between its
            // fork and its exec.
            let since = Instant::now();
            while let Err(error) = bind(&config) {
                assert!(since.elapsed() < TIMEOUT, "{error}");
                thread::yield_now();
            }
            fs::remove_file(&path).unwrap();
            fs::write(&path, "mine").unwrap();
            let words = bind(&config).unwrap_err().to_string();
            assert!(words.contains("it is no socket; it was left alone"), "{words}");
            fs::remove_file(&path).unwrap();
        }
    }
}
