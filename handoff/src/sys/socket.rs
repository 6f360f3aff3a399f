//! Unix sockets: bound where nobody sees them yet, published by a rename; and their peers.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::fork::NotInForks;
use super::process::ProcessId;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Stat, Uid};
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

/// The maximum length of a path that a Unix socket can be connected to by.
pub(crate) const MAX_PATH: usize = 107;

/// A listening Unix socket, mode 0600, that lies under a name of its own beside its path
/// until it is published there.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    _alone: NotInForks,
    listener: UnixListener,
    directory: OwnedFd,
    name: OsString,
    hidden: Option<String>,
    /// Of its name in the file system.
    inode: u64,
    path: PathBuf,
    /// The same, whatever the working directory is later.
    absolute: PathBuf,
}

impl ControlSocket {
    /// Binds and listens. Nothing is changed at `path`.
    pub(crate) fn bind_beside(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let directory = swept_parent_of(path)?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let hidden = format!("{HIDDEN}{}-{count}", std::process::id());
        // The directory's own path may fill all that an address can hold; this one is short.
        let through = format!("/proc/self/fd/{}/{hidden}", directory.as_raw_fd());
        let bind = || Self::listen(&through, &directory, &hidden);
        let (listener, inode) = match bind() {
            // Left by a process of the same pid that was killed.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                rustix::fs::unlinkat(&directory, &hidden, AtFlags::empty())?;
                bind()?
            }
            bound => bound?,
        };
        let alone = NotInForks::new(&listener);
        let (hidden, absolute, path) = (Some(hidden), std::path::absolute(path)?, path.to_owned());
        Ok(Self { _alone: alone, listener, name, inode, hidden, directory, path, absolute })
    }

    /// Binds and listens at the path itself, where no process may listen: a name that came by a
    /// rename is none by the kernel's list of sockets, so that a tool that removes stale ones
    /// would take it for one. Removes a stale socket.
    pub(crate) fn bind_at(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let directory = swept_parent_of(path)?;
        match rustix::fs::unlinkat(&directory, &name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let absolute = std::path::absolute(path)?;
        let listed = if path_length(&absolute) <= MAX_PATH { &absolute } else { path };
        let (listener, inode) = Self::listen(listed, &directory, &name)?;
        let alone = NotInForks::new(&listener);
        let (path, hidden) = (path.to_owned(), None);
        Ok(Self { _alone: alone, listener, name, inode, hidden, directory, path, absolute })
    }

    /// The same socket anew, at its path; makes the directory again if that was removed. Where a
    /// process answers at the path, takes it over from that in one step.
    pub(crate) fn bind_again(&self) -> io::Result<Self> {
        if !parent_of(&self.path).exists() {
            self.make_directory()?;
        }
        if look_at(&self.path)? == Found::Alive {
            let mut socket = Self::bind_beside(&self.path)?;
            socket.publish()?;
            return Ok(socket);
        }
        Self::bind_at(&self.path)
    }

    /// Makes the directory as the one was that was removed.
    fn make_directory(&self) -> io::Result<()> {
        let parent = parent_of(&self.path);
        let was = rustix::fs::fstat(&self.directory)?;
        match rustix::fs::mkdir(parent, Mode::RWXU) {
            // Another process made it as it wants it.
            Err(rustix::io::Errno::EXIST) => return Ok(()),
            made => made?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(was.st_uid), Gid::from_raw(was.st_gid));
            rustix::fs::fchown(&made, Some(uid), Some(gid))?;
        }
        Ok(rustix::fs::fchmod(&made, Mode::from_raw_mode(was.st_mode))?)
    }

    /// A socket that listens at `address`, which is that name in the directory, and its inode.
    fn listen(
        address: impl AsRef<Path>,
        directory: &OwnedFd,
        name: impl AsRef<Path>,
    ) -> io::Result<(UnixListener, u64)> {
        let (socket, name) = (stream_socket()?, name.as_ref());
        // The kernel gives the name the mode that the socket has before it is bound.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(address.as_ref())?)?;
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        give_to_owner(directory, name, &stat)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok((socket.into(), stat.st_ino))
    }

    /// Takes the path over from any file there, in one step: there is no moment at which
    /// nobody answers. Does nothing when it was done before.
    pub(crate) fn publish(&mut self) -> io::Result<()> {
        if let Some(hidden) = &self.hidden {
            rustix::fs::renameat(&self.directory, hidden, &self.directory, &self.name)?;
            self.hidden = None;
        }
        Ok(())
    }

    pub(crate) const fn is_hidden(&self) -> bool {
        self.hidden.is_some()
    }

    /// Whether a peer that connects to the path comes here.
    pub(crate) fn is_published(&self) -> bool {
        rustix::fs::statat(CWD, &self.absolute, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_ino == self.inode)
    }

    pub(crate) const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            let _ = rustix::fs::unlinkat(&self.directory, hidden, AtFlags::empty());
        }
    }
}

/// Removes the unpublished sockets of processes that were killed, beside `path`.
pub(crate) fn sweep(path: &Path) {
    let _ = swept_parent_of(path);
}

/// The directory of `path`, swept.
fn swept_parent_of(path: &Path) -> io::Result<OwnedFd> {
    let parent = parent_of(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(HIDDEN)?.split_once('-')?.0.parse().ok());
        let is_dead = pid.is_some_and(|pid: u32| ProcessId::of(pid).is_none());
        // A pid of another namespace says nothing, so see whether a process listens.
        if is_dead && !matches!(look_at(&parent.join(&name)), Ok(Found::Alive)) {
            let _ = rustix::fs::unlinkat(&directory, &name, AtFlags::empty());
        }
    }
    Ok(directory)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Closes a descriptor. If it is a connected socket, its peer reads all that it was sent and then
/// the end of the stream: bytes that lie unread at `close` would make the kernel send a reset,
/// which may overtake both.
pub(crate) fn part_from(descriptor: OwnedFd) {
    if rustix::net::shutdown(&descriptor, Shutdown::Write).is_ok() {
        let mut unwanted = [0; 4096];
        for _ in 0..MAX_UNWANTED_READS {
            match rustix::net::recv(&descriptor, &mut unwanted, RecvFlags::DONTWAIT) {
                Ok((_, length)) if length > 0 => {}
                _ => break,
            }
        }
    }
}

/// The kind of file at a path where a socket is to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A socket that nobody listens on.
    Stale,
    /// A socket that answers.
    Alive,
    Other,
}

/// Looks at `path`, without waiting for a process that may listen there.
pub(crate) fn look_at(path: &Path) -> io::Result<Found> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => return Ok(Found::Other),
        Ok(_) => {}
    }
    match rustix::net::connect(stream_socket()?, &SocketAddrUnix::new(path)?) {
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(Found::Stale),
        // A full backlog is a sign of life.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(Found::Alive),
        Err(errno) => Err(errno.into()),
    }
}

/// Connects to a listening Unix socket. Where its backlog is full, tries again until `deadline`.
pub(crate) fn connect(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    loop {
        let socket = stream_socket()?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket.into()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// One that neither blocks nor is inherited.
fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Gives a socket that root bound to the owner of its directory: a daemon may give up root later.
fn give_to_owner(directory: &OwnedFd, name: &Path, stat: &Stat) -> io::Result<()> {
    let owner = rustix::fs::fstat(directory)?;
    if rustix::process::geteuid().is_root() && owner.st_uid != 0 && stat.st_uid == 0 {
        let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
        rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// The bytes of a path, as the kernel counts them.
pub(crate) fn path_length(path: &Path) -> usize {
    path.as_os_str().as_bytes().len()
}

/// The process at the other end of a Unix socket, by the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

impl Peer {
    /// Fails for a peer of another pid namespace, of which the kernel tells no pid.
    #[expect(unsafe_code, reason = "rustix takes a pid of 0 for one that cannot be")]
    pub(crate) fn of(socket: impl AsFd) -> io::Result<Self> {
        let mut credentials = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes, of
        // plain integers, into a value of that size which nobody else has.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut credentials).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        match u32::try_from(credentials.pid) {
            Ok(pid) if pid > 0 => Ok(Self { pid, uid: credentials.uid }),
            _ => Err(io::Error::other(
                "the peer is of another pid namespace, so the kernel does not tell its pid; run both in one",
            )),
        }
    }

    /// Whether it runs as the same user as this process, or as root.
    pub(crate) fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }

    /// Whether it may serve the control socket at `path`: as above, or, where this process is
    /// root and starts daemons as another user, as the owner of the socket's directory.
    pub(crate) fn is_trusted_at(self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let owner =
            || std::fs::metadata(parent_of(path)).is_ok_and(|parent| parent.uid() == self.uid);
        self.is_trusted() || (rustix::process::geteuid().is_root() && owner())
    }
}

/// Sets the maximum of a listener's queue.
#[cfg(feature = "http")]
pub(crate) fn listen_on(listener: impl AsFd, backlog: i32) -> io::Result<()> {
    Ok(rustix::net::listen(listener, backlog)?)
}

const BACKLOG: i32 = 1024;
/// Reads of 4 KiB that may lie unread in a connection that is closed.
const MAX_UNWANTED_READS: usize = 256;
/// How unpublished sockets are called: this, the pid, a dash, a count.
const HIDDEN: &str = ".handoff-";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_is_published_at_once_with_its_mode() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("control.sock");
        let mut socket = ControlSocket::bind_beside(&path).expect("it binds");
        assert_eq!(look_at(&path).expect("it can be looked at"), Found::Nothing);
        socket.publish().expect("it is published");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(look_at(&path).expect("it can be looked at"), Found::Alive);
        let stream = UnixStream::connect(&path).expect("it listens");
        let peer = Peer::of(&stream).expect("the kernel knows");
        assert!(peer.is_trusted());
        drop(socket);
        // A process that another test is about to start has a copy until it runs.
        let deadline = Instant::now() + Duration::from_secs(30);
        while look_at(&path).expect("it can be looked at") == Found::Alive {
            assert!(Instant::now() < deadline, "somebody listens");
            std::thread::yield_now();
        }
        assert_eq!(look_at(&path).expect("it can be looked at"), Found::Stale);
    }

    #[test]
    fn a_path_of_the_greatest_length_can_be_bound() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let room = MAX_PATH - path_length(directory.path()) - 1;
        let path = directory.path().join("s".repeat(room));
        let mut socket = ControlSocket::bind_beside(&path).expect("it binds");
        socket.publish().expect("it is published");
        UnixStream::connect(&path).expect("it listens");
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_a_live_one_has_is_not() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("control.sock");
        let mut child = std::process::Command::new("true").spawn().expect("it runs");
        child.wait().expect("it ends");
        let left = directory.path().join(format!("{HIDDEN}{}-0", child.id()));
        let others = directory.path().join(".handoff-notes");
        std::fs::write(&left, "").expect("it is written");
        std::fs::write(&others, "").expect("it is written");
        let mut socket = ControlSocket::bind_beside(&path).expect("it binds");
        sweep(&path);
        assert!(!left.exists());
        assert!(others.exists());
        assert!(!socket.is_published());
        socket.publish().expect("its own was left alone");
        assert!(socket.is_published());
        let mut newer = ControlSocket::bind_beside(&path).expect("it binds");
        newer.publish().expect("it is published");
        assert!(!socket.is_published(), "another took the path over");
    }

    /// Seen from inside a namespace, whoever is outside has no pid.
    #[test]
    fn a_peer_of_another_pid_namespace_is_refused() {
        const INSIDE: &str = "HANDOFF_TEST_INSIDE";
        if std::env::var_os(INSIDE).is_some() {
            let error = Peer::of(io::stdin()).expect_err("its pid is not known");
            assert!(error.to_string().contains("pid namespace"), "{error}");
            return;
        }
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let status = std::process::Command::new("unshare")
            .args(["--pid", "--fork"])
            .arg(std::env::current_exe().expect("a process has an executable"))
            .args(["--exact", "sys::socket::tests::a_peer_of_another_pid_namespace_is_refused"])
            .env(INSIDE, "1")
            .stdin(OwnedFd::from(theirs))
            .stdout(std::process::Stdio::null())
            .status();
        drop(ours);
        match status.ok().and_then(|status| status.code()) {
            Some(0) => {}
            // A test that fails ends with 101.
            None | Some(1) => println!("skipped: no namespace can be made here"),
            Some(code) => panic!("it fails inside: {code}"),
        }
    }

    #[test]
    fn what_was_never_published_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        drop(ControlSocket::bind_beside(&directory.path().join("control.sock")).expect("it binds"));
        assert_eq!(std::fs::read_dir(directory.path()).expect("it can be read").count(), 0);
    }
}
