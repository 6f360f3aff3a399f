//! Data of a new format, made beside the data of the old one while the old process serves.
//!
//! The data of each format has a directory of its own in the data directory, and the link `current`
//! there leads to the one that is in use:
//!
//! ```text
//! data/current -> format-2.0d3c…          the next build converts it, and its readers do not notice
//! data/format-2.0d3c…/                    stays as it is, for a rollback
//! data/format-3.91fe…/                    the copy; `current` leads to it behind the commit point
//! data/format-3.91fe…/.handoff.previous -> ../format-2.0d3c…
//! ```
//!
//! The conversion goes in rounds. [`Migration::ahead`], in the first closure of
//! [`Daemon::run`](crate::daemon::Daemon::run), runs them while the old process writes on: each round
//! converts what that process wrote during the round before, so that they get shorter.
//! [`Migration::finish`], in the second closure, runs the last one, with the old process gone: clients
//! wait for that one alone, whatever the size of the data. The daemon opens the directory that it
//! returns. The library moves `current` behind the commit point, before the first admission
//! ([`Opening::on_commit`]). Until then a rollback leaves the old process with its own directory, which
//! no round has changed.
//!
//! ```no_run
//! use handoff::daemon::Daemon;
//! use handoff::migration::{Migration, Round};
//! # struct Log;
//! # impl handoff::Shard for Log {
//! #     fn seal(&self) -> handoff::Result<u64> { Ok(0) }
//! #     fn revision(&self) -> u64 { 0 }
//! #     fn fingerprint(&self) -> handoff::Result<[u8; 32]> { Ok([0; 32]) }
//! #     fn resume(&self) -> handoff::Result<()> { Ok(()) }
//! # }
//! # impl Log { fn open(_: &std::path::Path, _: Import) -> handoff::Result<Log> { Ok(Log) } }
//!
//! #[derive(handoff::Drainable)]
//! #[handoff(format = 3, reads = 2..=3)]
//! struct Notes {
//!     #[handoff(gate)]
//!     gate: handoff::Gate,
//!     log: Log,
//! }
//!
//! /// Where the rounds are in the old log; it lives from the first one to the last.
//! #[derive(Default)]
//! struct Import { converted: u64 }
//!
//! impl Import {
//!     fn round(&mut self, round: &Round<'_>) -> handoff::Result<()> {
//!         // From `self.converted` on: reads `round.from()`, and appends to the file in `round.to()`.
//!         # let _ = round;
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> handoff::Result<()> {
//! Daemon::new("/run/notes/control.sock", "/var/lib/notes").run(
//!     |warm| {
//!         let mut import = Import::default();
//!         let migration = Migration::ahead(warm.data_dir(), 3, |round| import.round(round))?;
//!         Ok((migration, import))
//!     },
//!     |(migration, mut import), opening| {
//!         let directory = migration.finish(opening, |round| import.round(round))?;
//!         Ok(Notes { gate: handoff::Gate::new(), log: Log::open(&directory, import)? })
//!     },
//! )?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a shard says of converted data
//!
//! The new process verifies what it opened against what the old one sealed. Where the formats differ
//! that is the revision: until the process serves, a shard that was converted has the revision of the
//! *old* data. Let the conversion count it as it reads, and the shard forget it in a step of
//! [`Opening::on_commit`]. `handoff/examples/ledger` does so.
//!
//! # The old directory
//!
//! It stays until the start after the next migration, so that an operator can go back to it and lose the
//! writes since ([`go_back`]). [`Migration::keep_previous`] removes it once the probation is over, and
//! [`discard_previous`] at a word of the operator. Files that lay in the data directory itself, before
//! the first migration, are the daemon's own to remove. A start removes what failed swaps have left.
//!
//! Copy and restore the data directory with its links (`rsync -a`, `cp -a`): without `current` no
//! process starts that migrates.

mod directories;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use crate::daemon::Opening;
use crate::datadir::DataDirLock;
use crate::drainable::Schema;
use crate::error::{Error, Result};
use crate::log;
use crate::sys::file;
use directories::{Attempt, Directories, Synced};

/// A conversion that has begun, or the finding that there is none to do.
#[derive(Debug)]
#[must_use = "`Migration::finish` returns the directory to open"]
pub struct Migration {
    directories: Directories,
    /// The directory that `current` led to; none where the data lies in the data directory itself.
    from: Option<String>,
    /// None where the data has the format already.
    attempt: Option<Attempt>,
    synced: Synced,
    rounds: u32,
    keep_previous: Option<Duration>,
}

/// One round of a conversion.
#[derive(Debug)]
pub struct Round<'a> {
    from: &'a Path,
    from_format: Option<u32>,
    to: &'a Path,
    is_last: bool,
}

impl Migration {
    /// Converts the data in rounds, while another process may write it: call it in the first closure
    /// of [`Daemon::run`](crate::daemon::Daemon::run). Where the data has the format already it does
    /// nothing.
    ///
    /// The rounds of one process go to one new directory, which is empty at the first. Each one is
    /// synced. They end when one takes less than 50 ms, when they no longer get shorter, or after
    /// sixteen.
    ///
    /// `round` reads what does not change any more and is not taken back: whole records of an
    /// append-only file, closed segments, a snapshot of a database. The rest it leaves to the last round.
    ///
    /// # Errors
    ///
    /// The error of a round, and that of the file system; `current` leads to no directory of a format, or
    /// is gone. A successor that fails so leaves the incumbent serving.
    pub fn ahead(
        data_dir: &Path,
        format: u32,
        mut round: impl FnMut(&Round<'_>) -> Result<()>,
    ) -> Result<Self> {
        if format == 0 {
            return Err(Error::other("the format of a migration is a number from 1 on"));
        }
        let directories = Directories::in_(data_dir)?;
        directories.sweep()?;
        let from = directories.current()?;
        let (attempt, synced) = (None, Synced::new());
        let mut migration =
            Self { directories, from, attempt, synced, rounds: 0, keep_previous: None };
        if migration.old_format() == Some(format) {
            return Ok(migration);
        }
        let attempt = migration.directories.begin(format)?;
        migration.attempt = Some(attempt);
        let mut before = Duration::MAX;
        while migration.rounds < MAX_ROUNDS {
            let begun = Instant::now();
            migration.run(&mut round, false)?;
            let took = begun.elapsed();
            if !is_worth_another(before, took) {
                break;
            }
            before = took;
        }
        Ok(migration)
    }

    /// Removes the directory of the format before, so long after the first commit of a process with
    /// the new one: longer than the probation. Later processes go on counting. The directory stays
    /// without this call.
    pub const fn keep_previous(mut self, time: Duration) -> Self {
        self.keep_previous = Some(time);
        self
    }

    /// Runs the last round, and returns the directory of the data, which this process then opens. It
    /// moves `current` there behind the commit point. Clients wait for it: it converts what the old
    /// process wrote since the last round.
    ///
    /// # Errors
    ///
    /// The error of the round, and that of the file system; another process has moved `current` or
    /// removed the new directory meanwhile. The swap is rolled back then: the old directory is as it
    /// was.
    pub fn finish(
        mut self,
        opening: &mut Opening<'_>,
        mut round: impl FnMut(&Round<'_>) -> Result<()>,
    ) -> Result<PathBuf> {
        let now = self.directories.current()?;
        if now != self.from {
            return Err(self.moved(now.as_deref()));
        }
        self.run(&mut round, true)?;
        let Self { directories, from, attempt, mut keep_previous, .. } = self;
        let name = match (&attempt, from.clone()) {
            (Some(attempt), _) => {
                attempt.check()?;
                attempt.prepare(from.as_deref())?;
                attempt.name().to_owned()
            }
            (None, Some(current)) => current,
            (None, None) => unreachable!("data without a directory has no format"),
        };
        let path = directories.path_of(&name);
        opening.lock().place().note_opened(&name);
        let mut attempt = attempt;
        opening.on_commit(move || {
            match &attempt {
                Some(attempt) => directories.switch(attempt)?,
                // A process that died just behind the switch has left it.
                None => directories.unmark(&name)?,
            }
            attempt = None; // and its lock
            if let Some(time) = keep_previous.take() {
                remove_previous_later(&directories, &name, time);
            }
            Ok(())
        });
        Ok(path)
    }

    fn old_format(&self) -> Option<u32> {
        self.from.as_deref().and_then(directories::format_of)
    }

    fn run(
        &mut self,
        round: &mut dyn FnMut(&Round<'_>) -> Result<()>,
        is_last: bool,
    ) -> Result<()> {
        let Some(attempt) = &self.attempt else { return Ok(()) };
        let from = match &self.from {
            Some(name) => self.directories.path_of(name),
            None => self.directories.path().to_owned(),
        };
        let from_format = self.old_format();
        round(&Round { from: &from, from_format, to: attempt.path(), is_last })?;
        self.rounds += 1;
        directories::sync_tree(attempt.path(), &mut self.synced)
            .map_err(Error::at("sync", attempt.path()))
    }

    fn moved(&self, now: Option<&str>) -> Error {
        let shown =
            |name: Option<&str>| name.map_or_else(|| "none".to_owned(), |name| format!("`{name}`"));
        let text = format!(
            "it led to {} when the conversion began, and to {} when this process had the lock: try again",
            shown(self.from.as_deref()),
            shown(now),
        );
        Error::at("convert the data behind", &self.directories.link())(io::Error::other(text))
    }
}

impl Round<'_> {
    /// The directory of the old data; nothing may be changed in it. It is the data directory itself
    /// where no process has migrated yet, and then may hold nothing to convert: the daemon is new.
    #[must_use]
    pub const fn from(&self) -> &Path {
        self.from
    }

    /// The format of the old data, which may be a higher one: a build that is swapped back converts
    /// down. None where no process has migrated yet.
    #[must_use]
    pub const fn from_format(&self) -> Option<u32> {
        self.from_format
    }

    /// The directory of the new data.
    #[must_use]
    pub const fn to(&self) -> &Path {
        self.to
    }

    /// Whether no other process writes any more, and no round comes after this one.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        self.is_last
    }

    /// Gives a file of the old data, at the path below [`from`](Self::from), to the new one as well,
    /// as a hard link: for a file that no build changes any more. What is there from an earlier round
    /// stays.
    ///
    /// # Errors
    ///
    /// The error of the file system.
    pub fn link(&self, name: impl AsRef<Path>) -> Result<()> {
        let (from, to) = self.paths(name.as_ref())?;
        match fs::hard_link(from, &to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked.map_err(Error::at("link", &to)),
        }
    }

    /// Gives the new data a copy of a file, in the place of one from an earlier round: a reflink on a
    /// file system that has them (btrfs, XFS, bcachefs), which takes neither time nor room, and else
    /// one byte by byte: all of it in each round, also in the last one, for which clients wait. Returns
    /// whether it is a reflink. A file that another process writes meanwhile may be copied half old, half
    /// new.
    ///
    /// # Errors
    ///
    /// The error of the file system.
    pub fn clone_file(&self, name: impl AsRef<Path>) -> Result<bool> {
        let (from, to) = self.paths(name.as_ref())?;
        let half = to.with_added_extension(HALF);
        let copy = || {
            let is_reflink = file::clone_or_copy(&from, &half)?;
            fs::rename(&half, &to)?;
            Ok(is_reflink)
        };
        copy().map_err(Error::at::<io::Error>("copy", &from))
    }

    fn paths(&self, name: &Path) -> Result<(PathBuf, PathBuf)> {
        let to = self.to.join(name);
        let parent = to.parent().unwrap_or(self.to);
        if !parent.is_dir() {
            file::create_for_owner_of(self.to, parent).map_err(Error::at("create", parent))?;
        }
        Ok((self.from.join(name), to))
    }
}

/// Removes the directory of the format before at once: for a command of the daemon's operator. The
/// way back to it is gone.
///
/// # Errors
///
/// The error of the file system.
pub fn discard_previous(data_dir: &Path) -> Result<()> {
    let directories = Directories::in_(data_dir)?;
    match directories.current()? {
        Some(current) => directories.remove_previous_of(&current),
        None => Ok(()),
    }
}

/// Goes back to the data of the format before, which lacks all that was written since, and notes that
/// the data is of `format` again: for a command of the operator, while no daemon runs. The next start of
/// a build that reads `format` opens that data. The newer data stays, as `given-up.format-N.ID`.
///
/// # Errors
///
/// A process serves the directory; no migration was made, or the data of the format before was removed;
/// it has another format. Nothing is changed then.
pub fn go_back(data_dir: &Path, format: u32) -> Result<()> {
    let directories = Directories::in_(data_dir)?;
    let lock = DataDirLock::acquire(data_dir)?;
    directories.go_back(format)?;
    drop(lock);
    DataDirLock::restored(data_dir, format)
}

/// Whether the directory that was opened is of the format that the struct declares.
pub(crate) fn check_format(lock: &DataDirLock, own: &Schema) -> Result<()> {
    let opened = lock.place().opened().and_then(directories::format_of);
    match opened {
        Some(migrated) if migrated != own.formats.written => Err(Error::other(format!(
            "the migration is to format {migrated}, and the struct declares format {0}: write `#[handoff(format = {migrated}, ...)]`, or let the migration be to {0}",
            own.formats.written
        ))),
        _ => Ok(()),
    }
}

/// While the process serves.
fn remove_previous_later(directories: &Directories, current: &str, time: Duration) {
    if !directories.has_previous(current) {
        return;
    }
    let (directories, current) = (directories.clone(), current.to_owned());
    let remove = move || {
        thread::sleep(time.saturating_sub(directories.age(&current)));
        if let Err(error) = directories.remove_previous_of(&current) {
            log::warn!(%error, "this daemon cannot remove its data of the format before, which takes up room and does no harm otherwise; its next start tries again");
        }
    };
    // Without the thread the next start does it.
    let _ = thread::Builder::new().name("handoff-previous".into()).spawn(remove);
}

/// A round that is shorter has left next to nothing to the next one.
/// Whether another round would take clearly less time than this one, which counts in the pause.
fn is_worth_another(before: Duration, took: Duration) -> bool {
    took >= SHORT && took <= before / 10 * 9
}

const SHORT: Duration = Duration::from_millis(50);
const MAX_ROUNDS: u32 = 16;
const HALF: &str = "handoff-half";

#[cfg(test)]
mod tests;
