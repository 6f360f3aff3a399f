//! The data directory and its lock file by descriptor: their paths may lead elsewhere later.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::guard::{Guard, stands};
use crate::sys::file::{FileId, give_to_owner_of, open_directory, open_in, try_lock, unlock};
use crate::sys::fork::NotInForks;

/// A data directory that this process opened.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// The same, whatever the working directory is later.
    absolute: PathBuf,
    id: FileId,
    _alone: NotInForks,
    directory: OwnedFd,
    /// The directory in it that `current` leads to, where this process opened that one.
    opened: OnceLock<String>,
}

impl Place {
    /// Opens a directory; creates it if need be.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        create_directory(path).map_err(Error::at("create the data directory", path))?;
        let open = || {
            let directory = open_directory(path)?;
            let id = FileId::opened(&directory)?;
            let alone = NotInForks::new(&directory);
            let absolute = std::path::absolute(path)?;
            let (path, opened) = (path.to_owned(), OnceLock::new());
            Ok(Self { path, absolute, id, _alone: alone, directory, opened })
        };
        open().map_err(Error::at::<io::Error>("open the data directory", path))
    }

    pub(crate) const fn id(&self) -> FileId {
        self.id
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether the path still leads to this directory.
    ///
    /// # Errors
    ///
    /// [`Error::Moved`] where it does not: daemons open their data by the path.
    pub(crate) fn check(&self) -> Result<()> {
        match FileId::at(&self.absolute) {
            Ok(id) if is_in_place(self.id, id) => Ok(()),
            // A process that gave up root may not look there any more.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Ok(_) => Err(Error::Moved(self.path.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::Moved(self.path.clone()))
            }
            Err(error) => Err(Error::at("look at", &self.path)(error)),
        }
    }

    /// Notes that this process opens the directory of that name, which is or becomes `current`.
    pub(crate) fn note_opened(&self, name: &str) {
        let _ = self.opened.set(name.to_owned());
    }

    /// The directory in it that this process opened, if it is one of a format.
    pub(crate) fn opened(&self) -> Option<&str> {
        self.opened.get().map(String::as_str)
    }

    /// Whether `current` still leads to the directory that this process opened.
    ///
    /// # Errors
    ///
    /// [`Error::Converted`].
    pub(crate) fn check_opened(&self) -> Result<()> {
        let Some(opened) = self.opened.get() else { return Ok(()) };
        let link = self.path_of(CURRENT);
        let to = rustix::fs::readlinkat(&self.directory, CURRENT, Vec::new());
        let to = to.map_err(Error::at("read the link", &link))?.to_string_lossy().into_owned();
        if to == *opened {
            return Ok(());
        }
        let opened = opened.clone();
        Err(Error::Converted { link, opened, to })
    }

    pub(crate) fn named(&self, name: &str) -> Result<Option<FileId>> {
        FileId::named(&self.directory, name).map_err(Error::at("look at", &self.path_of(name)))
    }

    /// Opens a regular file for reading; none where there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<File>> {
        match open_in(&self.directory, name, OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some).map_err(Error::at("open", &self.path_of(name))),
        }
    }

    /// Opens a regular file for reading and writing, or creates it.
    pub(crate) fn open_or_create(&self, name: &str) -> Result<File> {
        self.write(name, OFlags::RDWR | OFlags::CREATE)
    }

    /// Creates a file, in the place of anything that has the name.
    pub(crate) fn create(&self, name: &str) -> Result<File> {
        self.remove(name)?;
        self.write(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn write(&self, name: &str, how: OFlags) -> Result<File> {
        let open = || {
            let file = open_in(&self.directory, name, how)?;
            give_to_owner_of(&self.directory, &file)?;
            Ok(file)
        };
        open().map_err(Error::at::<io::Error>("open", &self.path_of(name)))
    }

    /// Removes a file or a link; nothing where there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::at("remove", &self.path_of(name))(errno)),
        }
    }

    /// Puts a file in the place of another one.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        rustix::fs::renameat(&self.directory, from, &self.directory, to)
            .map_err(Error::at("rename to", &self.path_of(to)))
    }

    /// Syncs the directory, so that the names in it survive a crash of the machine.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.directory).map_err(Error::at("sync", &self.path))
    }

    /// Locks the directory itself, so that a lock file that was removed still excludes. `false`
    /// when another process has locked it. A file system without such locks goes without.
    pub(crate) fn try_lock(&self) -> Result<bool> {
        match try_lock(&self.directory) {
            Err(error) if is_unsupported(&error) => Ok(true),
            locked => locked.map_err(Error::at("lock", &self.path)),
        }
    }

    pub(crate) fn unlock(&self) -> Result<()> {
        match unlock(&self.directory) {
            Err(error) if !is_unsupported(&error) => Err(Error::at("unlock", &self.path)(error)),
            _ => Ok(()),
        }
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Whether a directory, which a process has opened, is the one to which its path leads now.
pub(crate) fn is_in_place<Directory: PartialEq>(opened: Directory, now: Directory) -> bool {
    opened == now || !stands(Guard::DirectoryInPlace)
}

/// An open lock file.
#[derive(Debug)]
pub(crate) struct LockFile {
    pub(crate) id: FileId,
    _alone: NotInForks,
    pub(crate) file: File,
}

impl LockFile {
    pub(crate) fn of(file: File) -> io::Result<Self> {
        Ok(Self { id: FileId::opened(&file)?, _alone: NotInForks::new(&file), file })
    }
}

/// Creates a directory, and those above it, where there is none. It survives a crash of the machine,
/// since a daemon that syncs the files in it relies on that.
fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    create_directory(above)?;
    match fs::create_dir(path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => created?,
    }
    File::open(above)?.sync_all()
}

/// Whether the file system has no lock of a directory: some want it open for writing.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK)
    )
}

/// The link to the directory of the format in use ([`migration`](crate::migration)).
pub(crate) const CURRENT: &str = "current";

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use rustix::process::{Uid, geteuid};
    use rustix::thread::set_thread_res_uid;

    use super::*;

    #[test]
    fn a_directory_that_a_process_without_root_may_not_look_at_does_not_count_as_moved() {
        if !geteuid().is_root() {
            println!("skipped: only root can be given up");
            return;
        }
        let above = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(above.path(), Permissions::from_mode(0o700)).expect("it is ours");
        let path = above.path().join("data");
        let place = Place::open(&path).expect("it is created");
        let check_without_root = || {
            let nobody = Uid::from_raw(65_534);
            set_thread_res_uid(nobody, nobody, nobody).expect("root may");
            let looked = FileId::at(&path).map_err(|error| error.kind());
            assert_eq!(looked, Err(io::ErrorKind::PermissionDenied));
            place.check()
        };
        std::thread::scope(|scope| scope.spawn(check_without_root).join().expect("no panic"))
            .expect("it is there");
        fs::remove_dir(&path).expect("it is empty");
        assert!(matches!(place.check(), Err(Error::Moved(moved)) if moved == path));
    }
}
