//! Files and directories by descriptor, and their locks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, Stat, Uid, flock, fstat,
    ioctl_ficlone, openat, statat,
};
use rustix::io::{Errno, retry_on_intr};

/// A file or directory of this machine, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    const fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }

    /// The open file.
    pub(crate) fn opened(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::of(&fstat(file)?))
    }

    /// The directory to which a path leads, through links if need be.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&statat(CWD, path, AtFlags::empty())?))
    }

    /// The file of that name in a directory, itself a link or not; none where nothing has it.
    pub(crate) fn named(directory: impl AsFd, name: &str) -> io::Result<Option<Self>> {
        match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Self::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Opens a directory, for its files and its lock.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(retry_on_intr(|| openat(CWD, path, flags, Mode::empty()))?)
}

/// Opens a regular file of a directory; follows no link, and waits for no FIFO and no device. A
/// file that it creates is for its owner alone.
pub(crate) fn open_in(directory: impl AsFd, name: &str, how: OFlags) -> io::Result<File> {
    let flags = how | NEITHER_FOLLOWED_NOR_WAITED_FOR | OFlags::CLOEXEC;
    let opened = retry_on_intr(|| openat(&directory, name, flags, Mode::RUSR | Mode::WUSR));
    regular(opened.map(File::from).map_err(io::Error::from))
}

/// Opens a file, or creates it for its owner alone; refuses a symbolic link, and waits for no
/// writer or device.
pub(crate) fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    options.read(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

/// The error of an open that found something else than a file says what it found.
fn regular(opened: io::Result<File>) -> io::Result<File> {
    let other = |what: &str| {
        let text = format!("it is {what}, and no regular file: move it away");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    };
    match opened {
        Ok(file) => match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(file),
            FileType::Fifo => other("a FIFO"),
            FileType::Directory => other("a directory"),
            _ => other("a device"),
        },
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::LOOP) => other("a symbolic link"),
            Some(Errno::ISDIR) => other("a directory"),
            Some(Errno::NXIO | Errno::NODEV) => other("a socket, a FIFO or a device"),
            _ => Err(error),
        },
    }
}

/// Gives a file that root made to the owner of its directory: a daemon may give up root later, and
/// its successors have to open the file as well.
pub(crate) fn give_to_owner_of(directory: impl AsFd, file: impl AsFd) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let (directory, stat) = (fstat(directory)?, fstat(&file)?);
        if directory.st_uid != 0 && stat.st_uid == 0 {
            let (uid, gid) = (Uid::from_raw(directory.st_uid), Gid::from_raw(directory.st_gid));
            rustix::fs::fchown(file, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// Locks a file; `false` when another process has locked it.
pub(crate) fn try_lock(file: impl AsFd) -> io::Result<bool> {
    match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Releases the lock of [`try_lock`]. A child of this process may hold a copy of the descriptor, so
/// that closing it would not.
pub(crate) fn unlock(file: impl AsFd) -> io::Result<()> {
    Ok(flock(file, FlockOperation::Unlock)?)
}

/// Locks one byte of a file for as long as this description of it is open; `false` when another
/// process has locked it, in whatever namespace that lives. A process that was forked shares the
/// lock.
pub(crate) fn try_lock_byte(file: &File, offset: u64) -> io::Result<bool> {
    match of_one_byte(file, offset, libc::F_OFD_SETLK) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(Errno::from_io_error(&error), Some(Errno::AGAIN | Errno::ACCESS)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether another description of the file has locked that byte.
pub(crate) fn is_byte_locked(file: &File, offset: u64) -> io::Result<bool> {
    Ok(of_one_byte(file, offset, libc::F_OFD_GETLK)? != libc::F_UNLCK as libc::c_short)
}

/// The type of the lock that the kernel found or set.
#[expect(unsafe_code, reason = "rustix has no locks of open file descriptions")]
fn of_one_byte(file: &File, offset: u64, command: libc::c_int) -> io::Result<libc::c_short> {
    let l_start = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the kernel reads and writes one `flock`, of plain
    // integers, which nobody else has.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(lock.l_type) }
}

/// Copies a file and its permissions: a reflink where the file system has them, else byte by byte.
/// Returns whether it is a reflink.
pub(crate) fn clone_or_copy(from: &Path, to: &Path) -> io::Result<bool> {
    let source = File::open(from)?;
    let is_reflink = match ioctl_ficlone(File::create(to)?, &source) {
        Ok(()) => true,
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            io::copy(&mut &source, &mut File::create(to)?)?;
            false
        }
        Err(errno) => return Err(errno.into()),
    };
    std::fs::set_permissions(to, source.metadata()?.permissions())?;
    give_to_owner_of(open_directory(to.parent().unwrap_or(to))?, File::open(to)?)?;
    Ok(is_reflink)
}

/// Creates a folder and those above it, up to `base`, for the owner of that.
pub(crate) fn create_for_owner_of(base: &Path, path: &Path) -> io::Result<()> {
    if path == base || path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        create_for_owner_of(base, above)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => give_to_owner_of(open_directory(base)?, open_directory(path)?),
    }
}

/// Syncs a directory, so that the names in it survive a crash of the machine.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::fsync(open_directory(path)?)?)
}

/// How many names a file has.
pub(crate) fn count_names(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.nlink())
}

const NEITHER_FOLLOWED_NOR_WAITED_FOR: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = open_directory(directory.path()).expect("it opens");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "kept").expect("it is written");
        symlink(at("file"), at("link")).expect("it is made");
        symlink(at("nothing"), at("dangling")).expect("it is made");
        std::fs::create_dir(at("directory")).expect("it is made");
        rustix::fs::mkfifoat(&place, "fifo", Mode::RUSR | Mode::WUSR).expect("it is made");
        let _socket = UnixListener::bind(at("socket")).expect("it is made");
        for how in [OFlags::RDONLY, OFlags::RDWR | OFlags::CREATE] {
            open_in(&place, "file", how).expect("it is a file");
            for (name, what) in [
                ("link", "a symbolic link"),
                ("dangling", "a symbolic link"),
                ("directory", "a directory"),
                ("fifo", "a FIFO"),
                ("socket", "a socket"),
            ] {
                let error = open_in(&place, name, how).expect_err("it is no file").to_string();
                assert!(error.contains(what) && error.contains("move it away"), "{name}: {error}");
            }
        }
        assert!(!at("nothing").exists(), "a link is not followed");
        assert_eq!(std::fs::read(at("file")).expect("it is there"), b"kept");
    }

    #[test]
    fn a_byte_is_locked_against_other_descriptions_alone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = open_directory(directory.path()).expect("it opens");
        let open = || open_in(&place, "file", OFlags::RDWR | OFlags::CREATE).expect("it opens");
        let (one, other) = (open(), open());
        assert!(try_lock_byte(&one, 1 << 40).expect("it can be locked"));
        assert!(try_lock_byte(&one, 1 << 40).expect("it is ours"));
        assert!(!is_byte_locked(&one, 1 << 40).expect("it can be asked"));
        assert!(is_byte_locked(&other, 1 << 40).expect("it can be asked"));
        assert!(!is_byte_locked(&other, 1 << 41).expect("it can be asked"));
        assert!(!try_lock_byte(&other, 1 << 40).expect("it can be asked"));
        assert!(try_lock(&other).expect("a lock of bytes is none of the file"));
        drop(one);
        assert!(try_lock_byte(&other, 1 << 40).expect("it is free"));
    }
}
