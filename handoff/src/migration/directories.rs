//! The directories of the formats, and the link to the one in use.
//!
//! A directory's name is used once, and its process has it locked until `current` leads to it or
//! the process has ended. So a directory that is not locked, to which `current` does not lead, and
//! which the one in use does not name as the one before, is nobody's any more.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::datadir::CURRENT;
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
    pub(super) fn in_(data_dir: &Path) -> Self {
        Self(data_dir.to_owned())
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
        let name = match target_of(&link) {
            Ok(None) => return Ok(None),
            Ok(Some(target)) => target,
            Err(error) => return Err(Error::at("read the link", &link)(error)),
        };
        let is_ours = format_of(&name).is_some() && self.path_of(&name).is_dir();
        if is_ours {
            return Ok(Some(name));
        }
        let text = format!(
            "it leads to `{name}`, and not to a directory format-N.ID beside it: let it lead to the directory of the data again"
        );
        Err(Error::at("follow", &link)(io::Error::other(text)))
    }

    pub(super) fn begin(&self, format: u32) -> Result<Attempt> {
        loop {
            let name = format!("{PREFIX}{format}.{}", HandoffId::new());
            let path = self.path_of(&name);
            let begin = || {
                fs::create_dir(&path)?;
                let directory = open_directory(&path)?;
                give_to_owner_of(open_directory(&self.0)?, &directory)?;
                Ok((try_lock(&directory)?, directory))
            };
            let begun = begin().map_err(Error::at::<io::Error>("create", &path));
            let (is_locked, directory) = begun?;
            let attempt = Attempt { name, path, directory };
            // A process that sweeps may have found it before it was locked.
            if is_locked && attempt.check().is_ok() {
                return Ok(attempt);
            }
        }
    }

    /// Lets `current` lead to the attempt; again is as once.
    pub(super) fn switch(&self, attempt: &Attempt) -> Result<()> {
        attempt.check()?;
        let (link, new) = (self.link(), self.0.join(NEW));
        let switch = || {
            remove_link(&new)?;
            symlink(&attempt.name, &new)?;
            fs::rename(&new, &link)?;
            sync_directory(&self.0)
        };
        switch().map_err(Error::at("move the link", &link))
    }

    pub(super) fn has_previous(&self, current: &str) -> bool {
        self.path_of(current).join(PREVIOUS).is_symlink()
    }

    /// The time for which `current` has led where it does.
    pub(super) fn age(&self, current: &str) -> Duration {
        // Written just before the link was moved.
        let written = fs::symlink_metadata(self.path_of(current).join(PREVIOUS))
            .and_then(|metadata| metadata.modified());
        written.ok().and_then(|written| written.elapsed().ok()).unwrap_or_default()
    }

    pub(super) fn forget_previous(&self, current: &str) -> Result<()> {
        let link = self.path_of(current).join(PREVIOUS);
        remove_link(&link).map_err(Error::at("remove", &link))
    }

    /// Removes the directories that are nobody's.
    pub(super) fn sweep(&self) -> Result<()> {
        let names = fs::read_dir(&self.0).and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
        });
        let names = names.map_err(Error::at("list", &self.0))?;
        for name in names.iter().filter_map(|name| name.to_str()) {
            if format_of(name).is_some() && !self.path_of(name).is_symlink() {
                self.remove_unused(name)?;
            }
        }
        Ok(())
    }

    fn remove_unused(&self, name: &str) -> Result<()> {
        let path = self.path_of(name);
        let Ok(directory) = open_directory(&path) else { return Ok(()) };
        // The lock first: after that `current` can no longer come to lead to it.
        if !try_lock(&directory).map_err(Error::at("lock", &path))? {
            return Ok(());
        }
        let Some(current) = self.current()? else { return self.remove(&path) };
        let previous = target_of(&self.path_of(&current).join(PREVIOUS))
            .map_err(Error::at("read the link in", &self.path_of(&current)))?;
        let is_previous = previous.is_some_and(|target| target == format!("../{name}"));
        if current == name || is_previous { Ok(()) } else { self.remove(&path) }
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

    /// Names the directory that was in use before.
    pub(super) fn remember(&self, previous: Option<&str>) -> Result<()> {
        let Some(previous) = previous else { return Ok(()) };
        let link = self.path.join(PREVIOUS);
        let remember = || {
            remove_link(&link)?;
            symlink(format!("../{previous}"), &link)?;
            sync_directory(&self.path)
        };
        remember().map_err(Error::at("create", &link))
    }
}

/// The format of a directory, by its name.
pub(super) fn format_of(name: &str) -> Option<u32> {
    let (format, id) = name.strip_prefix(PREFIX)?.split_once('.')?;
    let is_ours = !id.is_empty() && !id.contains('/') && format != "0" && !format.starts_with('+');
    format.parse().ok().filter(|_| is_ours)
}

/// Syncs all files and folders below, and the folder itself. A link is not followed.
pub(super) fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(directory)
}

/// Where a link leads; none where nothing has the name.
fn target_of(link: &Path) -> io::Result<Option<String>> {
    match fs::read_link(link) {
        Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(io::Error::other("it is no link: move it away"))
        }
        Err(error) => Err(error),
    }
}

fn remove_link(link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

const NEW: &str = ".handoff.current.new";
const PREVIOUS: &str = ".handoff.previous";
const PREFIX: &str = "format-";
