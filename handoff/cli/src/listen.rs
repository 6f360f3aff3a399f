//! The sockets that the supervisor holds: inherited, or bound.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use anyhow::anyhow;
use handoff::error::ListenerError;
use handoff::successor::Listeners;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt,
};

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
    let ListenerConfig { name, address, access, only_v6, .. } = config;
    let bound = match address {
        Address::Tcp(at) => bind_inet(*at, SocketType::STREAM, *only_v6),
        Address::Udp(at) => bind_inet(*at, SocketType::DGRAM, *only_v6),
        Address::Unix(path) => bind_file(path, SocketType::STREAM, *access),
        Address::UnixDatagram(path) => bind_file(path, SocketType::DGRAM, *access),
        Address::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())
            .and_then(|address| bound(AddressFamily::UNIX, SocketType::STREAM, &address))
            .map_err(io::Error::from),
    };
    let bound = bound.and_then(|socket| {
        set_up(config, &socket)?;
        listen(config, &socket, DEFAULT_BACKLOG)?;
        Ok(socket)
    });
    bound.map_err(|error| {
        let advice = advice(error.kind(), address);
        anyhow!("cannot listen on {address} for {name:?}: {error}{advice}")
    })
}

/// A socket of IPv6 takes connections of IPv4 as well, whatever the machine's default is, unless
/// another listener does.
fn bind_inet(at: net::SocketAddr, kind: SocketType, only_v6: bool) -> io::Result<OwnedFd> {
    let family = if at.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_v6)?;
    }
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &at)?;
    Ok(socket)
}

fn bound(
    family: AddressFamily,
    kind: SocketType,
    address: &SocketAddrUnix,
) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, address)?;
    Ok(socket)
}

/// Binds a socket at its final name, by which the kernel lists it: a cleaner takes a socket that was
/// renamed for one that no process has. The file never has a wider mode than the configured one, and
/// nobody can connect to a stream before [`listen`].
pub(crate) fn bind_file(path: &Path, kind: SocketType, access: Access) -> io::Result<OwnedFd> {
    clear(path)?;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    if let Some(mode) = access.mode {
        // The file gets the mode of the socket, less the umask.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    open_to(path, access)?;
    Ok(socket)
}

/// Lets those connect to the socket at that path that the configuration names.
pub(crate) fn open_to(path: &Path, access: Access) -> io::Result<()> {
    if access == Access::default() {
        return Ok(());
    }
    // This very file, even if another one takes its name.
    let file =
        rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file there is no socket"));
    }
    let Access { mode, owner, group } = access;
    let named = format!("/proc/self/fd/{}", file.as_raw_fd());
    if owner.is_some() || group.is_some() {
        std::os::unix::fs::chown(&named, owner, group)?;
    }
    if let Some(mode) = mode {
        fs::set_permissions(&named, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
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

/// The settings that all processes share that have the socket.
pub(crate) fn set_up(config: &ListenerConfig, socket: impl AsFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&socket, !config.blocking)?;
    match config.backlog {
        Some(backlog) => listen(config, socket, backlog),
        None => Ok(()),
    }
}

/// Lets connections wait for a process to accept them, so many at the most.
fn listen(config: &ListenerConfig, socket: impl AsFd, backlog: i32) -> io::Result<()> {
    if matches!(config.address, Address::Tcp(_) | Address::Unix(_) | Address::Abstract(_)) {
        rustix::net::listen(&socket, config.backlog.unwrap_or(backlog))?;
    }
    Ok(())
}

/// Whether the socket is of the kind, and at the address, that the configuration says.
pub(crate) fn is_at(address: &Address, socket: BorrowedFd<'_>) -> bool {
    let wanted = match address {
        Address::Tcp(_) | Address::Unix(_) | Address::Abstract(_) => SocketType::STREAM,
        Address::Udp(_) | Address::UnixDatagram(_) => SocketType::DGRAM,
    };
    let Some(at) = address_of(socket).filter(|_| sockopt::socket_type(socket) == Ok(wanted)) else {
        return false;
    };
    match address {
        Address::Tcp(wanted) | Address::Udp(wanted) => {
            net::SocketAddr::try_from(at).is_ok_and(|at| {
                at.ip() == wanted.ip() && (wanted.port() == 0 || at.port() == wanted.port())
            })
        }
        Address::Unix(path) | Address::UnixDatagram(path) => SocketAddrUnix::try_from(at)
            .is_ok_and(|at| {
                at.path_bytes().is_some_and(|at| is_same(Path::new(OsStr::from_bytes(at)), path))
            }),
        Address::Abstract(name) => {
            SocketAddrUnix::try_from(at).is_ok_and(|at| at.abstract_name() == Some(name.as_bytes()))
        }
    }
}

/// By the names, where the file is gone.
fn is_same(one: &Path, other: &Path) -> bool {
    let canonical = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    one == other || canonical(one) == canonical(other)
}

fn address_of(socket: BorrowedFd<'_>) -> Option<SocketAddrAny> {
    rustix::net::getsockname(socket).ok()
}

/// The port of a socket of TCP or UDP.
pub(crate) fn port_of(socket: BorrowedFd<'_>) -> Option<u16> {
    net::SocketAddr::try_from(address_of(socket)?).ok().map(|at| at.port())
}

/// Where a socket is, for a person.
pub(crate) fn shown(socket: BorrowedFd<'_>) -> String {
    let unknown = || "an address that cannot be read".to_owned();
    let Some(at) = address_of(socket) else { return unknown() };
    if let Ok(inet) = net::SocketAddr::try_from(at.clone()) {
        return inet.to_string();
    }
    let Ok(unix) = SocketAddrUnix::try_from(at) else { return unknown() };
    match (unix.path_bytes(), unix.abstract_name()) {
        (Some(path), _) => format!("unix:{}", String::from_utf8_lossy(path)),
        (None, Some(name)) => format!("unix:@{}", String::from_utf8_lossy(name)),
        (None, None) => unknown(),
    }
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

/// The kernel's own maximum, `net.core.somaxconn`, is 4096 where nobody has changed it. Clients wait
/// there during a swap: std's listeners have room for 128.
const DEFAULT_BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn config(address: Address) -> ListenerConfig {
        let access = Access::default();
        let (name, blocking, backlog, only_v6) = ("resp".into(), false, None, false);
        ListenerConfig { name, address, blocking, backlog, access, only_v6 }
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
    fn a_port_of_ipv6_is_one_of_ipv4_as_well_unless_another_listener_has_it() {
        let at = "[::]:0".parse().unwrap();
        for only_v6 in [false, true] {
            let Ok(bound) = bind(&ListenerConfig { only_v6, ..tcp(at) }) else {
                eprintln!("skipped: a machine without IPv6");
                return;
            };
            let port = port_of(bound.as_fd()).unwrap();
            let v4 = tcp(([0, 0, 0, 0], port).into());
            assert_eq!(bind(&v4).is_ok(), only_v6);
            assert!(is_at(&Address::Tcp(at), bound.as_fd()));
            assert!(!is_at(&v4.address, bound.as_fd()));
            assert!(!is_at(&Address::Udp(at), bound.as_fd()));
        }
    }

    /// Whatever the umask is.
    #[test]
    fn a_socket_is_never_open_to_more_than_configured() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.sock");
        let access = Access { mode: Some(0o777), ..Access::default() };
        let _bound = bind_file(&path, SocketType::STREAM, access).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        // Nobody can connect before it listens.
        let refused = UnixStream::connect(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // Another file that has taken the name keeps its mode.
        fs::remove_file(&path).unwrap();
        let other = directory.path().join("other");
        fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let mode = fs::metadata(&other).unwrap().permissions().mode();
        open_to(&path, access).unwrap_err();
        assert_eq!(fs::metadata(&other).unwrap().permissions().mode(), mode);
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
        let config = ListenerConfig { backlog: Some(1), ..tcp(listener.local_addr().unwrap()) };
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
