//! Fencing tokens: generations that survive a crash of the machine.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::file::LOCK_FILE;
use crate::datadir::place::{LockFile, Place};
use crate::error::{Error, Result};

/// The directory and the lock file, for the lock and its fencing tokens.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) place: Arc<Place>,
    /// Another one once the lock file was removed and this process has made it again.
    pub(super) file: Mutex<Arc<LockFile>>,
    /// As in the record.
    pub(super) generation: AtomicU64,
    /// The syncs of the lock file, of which one runs at a time.
    pub(super) syncs: Mutex<Syncs>,
}

impl Shared {
    pub(super) fn file(&self) -> Arc<LockFile> {
        Arc::clone(&self.file.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_file(&self, file: LockFile) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
    }

    /// Makes the record of that generation durable that was just written, whatever failed before.
    pub(super) fn sync(&self, generation: u64) -> Result<()> {
        let mut syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        syncs.run(generation, || self.sync_file())
    }

    fn sync_file(&self) -> Result<()> {
        self.file().file.sync_data().map_err(Error::at("sync", &self.place.path_of(LOCK_FILE)))
    }
}

/// Gives fencing tokens for as long as the daemon serves; see
/// [`DataDirLock::fencing`](crate::DataDirLock::fencing).
#[derive(Debug, Clone)]
pub struct Fencing(pub(super) Arc<Shared>);

/// The syncs of a lock file, one at a time: the kernel tells the error of a sync to one caller,
/// once, and may have dropped the write.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    /// The generation of which a sync has failed, and its error.
    failed: Option<(u64, String)>,
}

impl Syncs {
    fn run(&mut self, generation: u64, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        sync().inspect_err(|error| self.failed = Some((generation, error.to_string())))
    }
}

impl Fencing {
    /// The generation now, once it is certain to survive a crash of the machine. It changes
    /// when a swap is undone after the lock had been released: ask anew for every use.
    ///
    /// # Errors
    ///
    /// [`Error::Path`] when the lock file or its directory cannot be synced. From then on there is
    /// no token for this generation: the kernel may have dropped the record, and would not say so
    /// again.
    pub fn token(&self) -> Result<u64> {
        let Shared { place, generation, syncs, .. } = &*self.0;
        let mut syncs = syncs.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = generation.load(Ordering::Acquire);
        if let Some((_, words)) = syncs.failed.as_ref().filter(|(of, _)| *of == generation) {
            let words = format!("it has failed before for this generation: {words}");
            return Err(Error::at("sync", &place.path_of(LOCK_FILE))(io::Error::other(words)));
        }
        syncs.run(generation, || {
            self.0.sync_file()?;
            place.sync()
        })?;
        Ok(generation)
    }
}
