//! The two locks of a directory, and the lock file that is made again where it was removed.

use std::io::{Read, Seek, SeekFrom, Write};

use super::DataDirLock;
use crate::datadir::OwnerRecord;
use crate::datadir::place::{LockFile, Place};
use crate::datadir::record::byte_of_writer;
use crate::error::{Error, Result};
use crate::sys::file::{FileId, count_names, try_lock, try_lock_byte, unlock};

impl DataDirLock {
    /// Makes the lock file again where its name was removed, or given to another file that no
    /// process has locked. Returns whether it had to.
    ///
    /// # Errors
    ///
    /// [`Error::Moved`]; [`Error::LockHeld`] where another process holds the file that has the name.
    pub(crate) fn mend(&mut self) -> Result<bool> {
        self.check()?;
        let file = self.file();
        if self.place().named(LOCK_FILE)? == Some(file.id) && !has_other_names(&file) {
            return Ok(false);
        }
        if let Some(other) = self.place().read(LOCK_FILE)? {
            let is_free = FileId::opened(&other).is_ok_and(|id| id == file.id)
                || try_lock(&other).map_err(Error::at("lock", &self.place().path_of(LOCK_FILE)))?;
            if !is_free {
                return Err(self.held());
            }
        }
        self.make_file()?;
        Ok(true)
    }

    pub(super) fn flock(&mut self) -> Result<()> {
        if self.try_flock()? {
            // The record is about to be written: into a file that is nothing else.
            if has_other_names(&self.file()) {
                self.read_record()?;
                self.make_file()?;
            }
            return Ok(());
        }
        Err(self.held())
    }

    /// Locks the directory and the lock file; `false` when another process has either.
    pub(super) fn try_flock(&mut self) -> Result<bool> {
        if !self.place().try_lock()? {
            return Ok(false);
        }
        self.is_held = match self.try_flock_file() {
            Ok(true) => true,
            other => {
                self.place().unlock()?;
                return other;
            }
        };
        Ok(true)
    }

    /// The caller has locked the directory.
    fn try_flock_file(&self) -> Result<bool> {
        let try_lock = |file: &LockFile| {
            try_lock(&file.file).map_err(Error::at("lock", &self.place().path_of(LOCK_FILE)))
        };
        loop {
            let file = self.file();
            if !try_lock(&file)? {
                return Ok(false);
            }
            // A lock on a file that was renamed over or removed excludes nobody.
            match self.place().named(LOCK_FILE)? {
                Some(id) if id == file.id => return Ok(true),
                None => self.make_file()?,
                Some(_) => {
                    let other = open_lock_file(self.place())?;
                    let is_blank = |file: &LockFile| {
                        OwnerRecord::read(&file.file, &self.place().path_of(LOCK_FILE))
                            .is_ok_and(|record| record.generation == 0)
                    };
                    // A process that came while the name was gone made it, and wrote nothing.
                    if is_blank(&other) && !is_blank(&file) {
                        if !try_lock(&other)? {
                            return Ok(false);
                        }
                        self.make_file()?;
                    } else {
                        self.shared.set_file(other);
                    }
                }
            }
        }
    }

    /// Makes the lock file anew, locked, with the contents of the one that this process has. The
    /// caller has locked the directory, and no process has the file that has the name.
    fn make_file(&self) -> Result<()> {
        let (place, old) = (self.place(), self.file());
        let path = place.path_of(LOCK_FILE);
        let new = place.create(NEW_LOCK_FILE)?;
        let mut contents = Vec::new();
        let copied = (&old.file).seek(SeekFrom::Start(0));
        copied
            .and_then(|_| (&old.file).take(MAX_COPIED).read_to_end(&mut contents))
            .and_then(|_| (&new).write_all(&contents))
            .map_err(Error::at("copy the lock file to", &path))?;
        if self.record.by_byte {
            let _ = try_lock_byte(&new, byte_of_writer(self.record.writer));
        }
        if !try_lock(&new).map_err(Error::at("lock", &path))? {
            return Err(self.held());
        }
        new.sync_all().map_err(Error::at("sync", &path))?;
        place.rename(NEW_LOCK_FILE, LOCK_FILE)?;
        self.shared.set_file(LockFile::of(new).map_err(Error::at("look at", &path))?);
        place.sync()
    }

    pub(super) fn unlock(&mut self) -> Result<()> {
        // Explicitly, since a child of this process may hold a copy of the descriptors.
        unlock(&self.file().file).map_err(Error::at("unlock", &self.place().path_of(LOCK_FILE)))?;
        self.place().unlock()?;
        self.is_held = false;
        Ok(())
    }
}

pub(super) fn open_lock_file(place: &Place) -> Result<LockFile> {
    let file = place.open_or_create(LOCK_FILE)?;
    LockFile::of(file).map_err(Error::at("look at", &place.path_of(LOCK_FILE)))
}

/// Whether the record would be written into a file that has another name elsewhere as well.
fn has_other_names(file: &LockFile) -> bool {
    count_names(&file.file).is_ok_and(|names| names > 1)
}

pub(super) const LOCK_FILE: &str = ".handoff.lock";
const NEW_LOCK_FILE: &str = ".handoff.lock.new";
/// A record, and no more than that of a file that is none.
const MAX_COPIED: u64 = 1 << 12;
