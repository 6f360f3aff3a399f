//! The directories of the formats, and the link to the one in use.
//!
//! A directory's name is used once. Until `current` leads to it, it has a mark, and its process has it
//! locked: a directory with the mark that is not locked, and to which `current` does not lead, is
//! nobody's any more. One that was in use is removed by its name alone: when it is the one before the
//! one before, or when the time of the one before is over.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::datadir::{CURRENT, is_unsupported};
use crate::error::{Error, Result};
use crate::protocol::HandoffId;
use crate::sys::file::{FileId, give_to_owner_of, open_directory, sync_directory, try_lock};

/// The folder of all of them: the data directory.
#[derive(Debug, Clone)]
pub(super) struct Directories(PathBuf);

/// The directory of a process that has not committed.
#[derive(Debug)]
pub(super) struct Attempt {
    name: String,
    path: PathBuf,
    /// Locked for as long as it is open.
    directory: OwnedFd,
}

impl Directories {
    /// The working directory may change later.
    pub(super) fn in_(data_dir: &Path) -> Result<Self> {
        let absolute = std::path::absolute(data_dir);
        absolute.map(Self).map_err(Error::at("find", data_dir))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn link(&self) -> PathBuf {
        self.0.join(CURRENT)
    }

    /// The directory in use; none where the data lies in the folder itself.
    pub(super) fn current(&self) -> Result<Option<String>> {
        let link = self.link();
        let refused = |text: String| Err(Error::at("follow", &link)(io::Error::other(text)));
        match target_of(&link) {
            Ok(Some(name)) if format_of(&name).is_some() && self.path_of(&name).is_dir() => {
                Ok(Some(name))
            }
            Ok(Some(name)) => refused(format!(
                "it leads to `{name}`, and not to a directory format-N.ID beside it: let it lead to the directory of the data again (ln -sfn format-N.ID {})",
                link.display()
            )),
            Ok(None) => match self.names()?.into_iter().find(|name| !self.is_marked(name)) {
                None => Ok(None),
                Some(name) => refused(format!(
                    "it is gone, and `{name}` beside it has data that was in use: let it lead to the directory of the data again (ln -sfn format-N.ID {})",
                    link.display()
                )),
            },
            Err(error) => Err(Error::at("read the link", &link)(error)),
        }
    }

    /// All directories of formats.
    fn names(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(&self.0).and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
        });
        let names = names.map_err(Error::at("list", &self.0))?.into_iter();
        let names = names.filter_map(|name| name.into_string().ok());
        let is_one = |name: &String| {
            let metadata = fs::symlink_metadata(self.path_of(name));
            format_of(name).is_some() && metadata.is_ok_and(|metadata| metadata.is_dir())
        };
        Ok(names.filter(is_one).collect())
    }

    fn is_marked(&self, name: &str) -> bool {
        self.path_of(name).join(MARK).exists()
    }

    pub(super) fn begin(&self, format: u32) -> Result<Attempt> {
        loop {
            let name = format!("{PREFIX}{format}.{}", HandoffId::new());
            let path = self.path_of(&name);
            let begin = || {
                fs::create_dir(&path)?;
                let directory = open_directory(&path)?;
                let is_locked = try_lock_if_supported(&directory)?.unwrap_or(true);
                give_to_owner_of(open_directory(&self.0)?, &directory)?;
                give_to_owner_of(&directory, fs::File::create(path.join(MARK))?)?;
                Ok((is_locked, directory))
            };
            let begun = begin().map_err(Error::at::<io::Error>("create", &path));
            let (is_locked, directory) = begun?;
            let attempt = Attempt { name, path, directory };
            if is_locked && attempt.check().is_ok() {
                return Ok(attempt);
            }
        }
    }

    /// Lets `current` lead to the attempt; again is as once.
    pub(super) fn switch(&self, attempt: &Attempt) -> Result<()> {
        attempt.check()?;
        let link = self.link();
        let switch = || {
            if target_of(&link)?.as_ref() != Some(&attempt.name) {
                let new = attempt.path.join(NEW);
                if !new.is_symlink() {
                    symlink(&attempt.name, &new)?;
                }
                fs::rename(&new, &link)?;
            }
            sync_directory(&self.0)
        };
        switch().map_err(Error::at("move the link", &link))?;
        self.unmark(&attempt.name)
    }

    /// The directory was in use from here on.
    pub(super) fn unmark(&self, name: &str) -> Result<()> {
        let mark = self.path_of(name).join(MARK);
        remove_link(&mark).map_err(Error::at("remove", &mark))
    }

    /// The directory that was in use before that one, if it is there.
    fn previous_of(&self, name: &str) -> Result<Option<String>> {
        let link = self.path_of(name).join(PREVIOUS);
        let target = target_of(&link).map_err(Error::at("read the link", &link))?;
        let name = target.as_deref().and_then(|target| target.strip_prefix("../"));
        Ok(name.filter(|name| format_of(name).is_some()).map(str::to_owned))
    }

    pub(super) fn has_previous(&self, current: &str) -> bool {
        self.path_of(current).join(PREVIOUS).is_symlink()
    }

    /// The time for which `current` has led where it does, by the clock of the machine.
    pub(super) fn age(&self, current: &str) -> Duration {
        // Written just before the link was moved.
        let written = fs::symlink_metadata(self.path_of(current).join(PREVIOUS))
            .and_then(|metadata| metadata.modified());
        written.ok().and_then(|written| written.elapsed().ok()).unwrap_or_default()
    }

    /// Removes the directory that was in use before that one, and then the link to it.
    pub(super) fn remove_previous_of(&self, name: &str) -> Result<()> {
        let previous = self.previous_of(name)?;
        if let Some(previous) = previous.filter(|previous| previous != name) {
            // Those before it have no other link that leads to them.
            if self.path_of(&previous).is_dir() {
                self.remove_previous_of(&previous)?;
            }
            self.remove(&self.path_of(&previous))?;
        }
        let link = self.path_of(name).join(PREVIOUS);
        remove_link(&link).map_err(Error::at("remove", &link))
    }

    /// Lets `current` lead to the directory that was in use before, of that format; or removes it, where
    /// the data lay in the folder itself. The directory that was in use gets another name.
    pub(super) fn go_back(&self, format: u32) -> Result<()> {
        let link = self.link();
        let no_way = |text: &str| Err(Error::at("go back behind", &link)(io::Error::other(text)));
        let Some(current) = self.current()? else {
            return no_way("no migration has been made here");
        };
        if !self.has_previous(&current) {
            return no_way("the directory of the format before was removed");
        }
        let previous = self.previous_of(&current)?;
        if previous.as_deref().and_then(format_of).is_some_and(|found| found != format) {
            return no_way("the data of the format before is of another one");
        }
        if previous.as_deref().is_some_and(|previous| !self.path_of(previous).is_dir()) {
            return no_way("the directory of the format before was removed");
        }
        let given_up = self.0.join(format!("given-up.{current}"));
        let go_back = || {
            match &previous {
                Some(previous) => {
                    let new = self.path_of(&current).join(NEW);
                    remove_link(&new)?;
                    symlink(previous, &new)?;
                    fs::rename(&new, &link)?;
                }
                None => remove_link(&link)?,
            }
            fs::rename(self.path_of(&current), given_up)?;
            sync_directory(&self.0)
        };
        go_back().map_err(Error::at("move the link", &link))
    }

    /// Removes the directories that are nobody's, and the one before the one before.
    pub(super) fn sweep(&self) -> Result<()> {
        let Some(current) = self.current()? else {
            return self.names()?.iter().try_for_each(|name| self.remove_unused(name));
        };
        self.names()?.iter().try_for_each(|name| self.remove_unused(name))?;
        match self.previous_of(&current)? {
            Some(previous) if previous != current && self.path_of(&previous).is_dir() => {
                self.remove_previous_of(&previous)
            }
            _ => Ok(()),
        }
    }

    fn remove_unused(&self, name: &str) -> Result<()> {
        let path = self.path_of(name);
        let Ok(directory) = open_directory(&path) else { return Ok(()) };
        // The lock first: after that `current` can no longer come to lead to it.
        let locked = try_lock_if_supported(&directory).map_err(Error::at("lock", &path))?;
        let is_nobodys = locked == Some(true)
            && self.is_marked(name)
            && self.current()?.is_none_or(|current| current != name);
        if is_nobodys { self.remove(&path) } else { Ok(()) }
    }

    #[expect(clippy::unused_self, reason = "what it removes is of this folder")]
    fn remove(&self, path: &Path) -> Result<()> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::at("remove", path)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Attempt {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory of this process is still there.
    pub(super) fn check(&self) -> Result<()> {
        let check = || {
            if FileId::at(&self.path)? == FileId::opened(&self.directory)? {
                return Ok(());
            }
            Err(io::Error::other("another directory has taken its place: try again"))
        };
        check().map_err(Error::at("find", &self.path))
    }

    /// Creates all that [`Directories::switch`] needs, and names the directory that was in use before:
    /// here a failure still undoes the swap.
    pub(super) fn prepare(&self, previous: Option<&str>) -> Result<()> {
        let prepare = || {
            let (link, new) = (self.path.join(PREVIOUS), self.path.join(NEW));
            remove_link(&link)?;
            remove_link(&new)?;
            symlink(previous.map_or_else(|| "..".to_owned(), |name| format!("../{name}")), link)?;
            symlink(&self.name, new)?;
            sync_directory(&self.path)?;
            self.path.parent().map_or(Ok(()), sync_directory)
        };
        prepare().map_err(Error::at("create the links in", &self.path))
    }
}

/// The format of a directory, by its name.
pub(super) fn format_of(name: &str) -> Option<u32> {
    let (format, id) = name.strip_prefix(PREFIX)?.split_once('.')?;
    let is_ours = !id.is_empty() && !id.contains('/') && format != "0" && !format.starts_with('+');
    format.parse().ok().filter(|_| is_ours)
}

/// The files that were synced, by their state at that time.
pub(super) type Synced = HashMap<PathBuf, (u64, i64, i64)>;

/// Syncs all files and folders below, and the folder itself, but for files that have not changed since
/// they were synced. A link is not followed.
pub(super) fn sync_tree(directory: &Path, synced: &mut Synced) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            sync_tree(&path, synced)?;
        } else if kind.is_file() {
            let now = SystemTime::now();
            let metadata = entry.metadata()?;
            let state = (metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
            if synced.get(&path) == Some(&state) {
                continue;
            }
            fs::File::open(&path)?.sync_all()?;
            // A change within the same tick of the kernel's clock would not show.
            let changed =
                UNIX_EPOCH + Duration::from_secs(u64::try_from(state.1).unwrap_or(u64::MAX / 2));
            if now.duration_since(changed).is_ok_and(|age| age > A_TICK) {
                synced.insert(path, state);
            }
        }
    }
    sync_directory(directory)
}

/// None on a file system without such locks.
fn try_lock_if_supported(directory: &OwnedFd) -> io::Result<Option<bool>> {
    match try_lock(directory) {
        Err(error) if is_unsupported(&error) => Ok(None),
        locked => locked.map(Some),
    }
}

/// Where a link leads; none where nothing has the name.
fn target_of(link: &Path) -> io::Result<Option<String>> {
    match fs::read_link(link) {
        Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(io::Error::other(
            "it is no link to a directory format-N.ID: move it away, and if such directories are beside it, let it lead to the one of the data (ln -s format-N.ID)",
        )),
        Err(error) => Err(error),
    }
}

fn remove_link(link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

const NEW: &str = ".handoff.current";
const PREVIOUS: &str = ".handoff.previous";
/// In a directory to which `current` has never led.
const MARK: &str = ".handoff.attempt";
const PREFIX: &str = "format-";
/// Longer than one of the kernel's clock, with whole seconds cut off.
const A_TICK: Duration = Duration::from_secs(2);
