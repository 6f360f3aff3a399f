//! The lock of a data directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::FlockOperation;

use super::manifest::sync_directory;
use super::{OwnerRecord, RecordPhase, SealManifest, Succession};
use crate::error::{Error, Result};
use crate::guard::{Guard, stands};
use crate::log;
use crate::protocol::HandoffId;
use crate::sys::file::{open_private, try_lock};
use crate::sys::process::{ProcessId, boot_id};

/// The right to write a data directory: an exclusive `flock` on `<data_dir>/.handoff.lock`.
///
/// The process that holds it may open the data for writing; no other process may. The kernel
/// frees it when the process ends, however it ends. The owner record in the file names the
/// writer and its generation. Dropping the lock releases it.
///
/// It protects against processes of this machine: keep the directory on a local file system.
#[derive(Debug)]
pub struct DataDirLock {
    file: Arc<File>,
    path: PathBuf,
    data_dir: PathBuf,
    record: OwnerRecord,
    /// The record as it was before this process wrote it.
    found: OwnerRecord,
    /// As in the record, for the fencing tokens.
    generation: Arc<AtomicU64>,
    is_held: bool,
    /// Whether it is taken to start: a start that fails leaves the seal as it was (invariant 11).
    is_start: bool,
    /// Whether a drop leaves it held until the process ends (invariant 1).
    outlives_drop: bool,
}

/// Gives fencing tokens for as long as the daemon serves; see [`DataDirLock::fencing`].
#[derive(Debug, Clone)]
pub struct Fencing {
    file: Arc<File>,
    path: PathBuf,
    data_dir: PathBuf,
    generation: Arc<AtomicU64>,
}

impl Fencing {
    /// The generation now, once it is certain to survive a crash of the machine. It changes
    /// when a swap is undone after the lock had been released: ask anew for every use.
    ///
    /// # Errors
    ///
    /// [`Error::Path`] when the lock file or its directory cannot be synced.
    pub fn token(&self) -> Result<u64> {
        let generation = self.generation.load(Ordering::Acquire);
        self.file.sync_data().map_err(Error::at("sync", &self.path))?;
        sync_directory(&self.data_dir)?;
        Ok(generation)
    }
}

/// The state of a directory whose lock this process has released (invariant 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The lock is free, so it was taken again: this process is the writer.
    Retaken,
    /// A newer generation serves.
    Replaced { generation: u64, holder: ProcessId },
    /// Another process holds the lock and has not decided yet.
    Undecided { holder: ProcessId },
}

impl Decision {
    /// By the lock first, and by the record only where another process holds it.
    pub(crate) fn of(is_free: bool, now: Option<&OwnerRecord>, own_generation: u64) -> Self {
        if is_free && stands(Guard::LockBeforeRecord) {
            return Self::Retaken;
        }
        match now {
            Some(now) if now.generation <= own_generation && stands(Guard::NewerGeneration) => {
                Self::Undecided { holder: ProcessId::default() }
            }
            Some(now) if now.phase == RecordPhase::Serving || !stands(Guard::ServingInRecord) => {
                Self::Replaced { generation: now.generation, holder: now.writer }
            }
            _ if is_free => Self::Retaken,
            Some(now) => Self::Undecided { holder: now.writer },
            None => Self::Undecided { holder: ProcessId::default() },
        }
    }
}

impl DataDirLock {
    /// Takes the lock, at once or not at all. Creates the directory if need be.
    ///
    /// It looks at nothing but the lock: a daemon's cold start wants
    /// [`acquire_or_break_stale`](Self::acquire_or_break_stale). It is for a program that changes
    /// the data offline: the next start no longer expects the state that was sealed before.
    ///
    /// # Errors
    ///
    /// [`Error::LockHeld`] when another process has it; [`Error::Damaged`] when the owner
    /// record is damaged, see [`repair`](Self::repair); [`Error::Path`] when the directory cannot
    /// be created or written. None of them changes the owner record.
    pub fn acquire(data_dir: &Path) -> Result<Self> {
        let mut lock = Self::open(data_dir)?;
        lock.try_flock()?;
        lock.found = lock.read_record()?;
        lock.take_over(RecordPhase::Held, None)?;
        Ok(lock)
    }

    /// Takes the lock for a cold start. It overwrites the owner record that a dead process left.
    /// A lock that is free only because a swap is between its two processes it leaves to the
    /// successor while that lives.
    ///
    /// # Errors
    ///
    /// [`Error::Reserved`], and those of [`acquire`](Self::acquire).
    pub fn acquire_or_break_stale(data_dir: &Path) -> Result<Self> {
        let mut lock = Self::open(data_dir)?;
        // Before it touches the lock, so that not even for a moment it stands in the
        // successor's way (invariant 9).
        lock.refuse_if_reserved()?;
        lock.try_flock()?;
        lock.refuse_if_reserved()?;
        lock.found = lock.read_record()?;
        try_failpoint!(ColdStartLocked)?;
        lock.is_start = true;
        lock.take_over(RecordPhase::Held, None)?;
        Ok(lock)
    }

    /// Does everything that a successor can do before it may take the lock.
    pub(crate) fn ahead(data_dir: &Path) -> Result<Self> {
        // Looked up once, and then known.
        let _ = (ProcessId::own(), boot_id());
        Self::open(data_dir)
    }

    /// Takes the lock that the incumbent of `handoff_id` released, or left behind by dying. It
    /// asks `patience` how long to wait only where another process holds the lock.
    pub(crate) fn acquire_as_successor(
        mut self,
        handoff_id: HandoffId,
        patience: impl FnOnce() -> Duration,
    ) -> Result<Self> {
        if self.try_flock().is_err() {
            let deadline = Instant::now() + patience();
            // A stray cold start may hold it for as long as it takes to read the record.
            while let Err(error) = self.try_flock() {
                if Instant::now() >= deadline {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.found = self.read_record()?;
        try_failpoint!(SuccessorLocked)?;
        let found = &self.found;
        let writer_died = || found.boot_id != boot_id() || !found.writer.is_alive();
        match found.succession(handoff_id, writer_died) {
            Succession::Admitted => {}
            Succession::OfAnother => return Err(self.held_by(self.found.writer.pid)),
            Succession::Stopped => return Err(Error::Stopped(self.data_dir.clone())),
        }
        self.is_start = true;
        self.take_over(RecordPhase::Opening, Some(handoff_id))?;
        try_failpoint!(SuccessorRecordedOpening)?;
        Ok(self)
    }

    /// Whether this successor found the directory as the incumbent had sealed it for that swap.
    pub(crate) fn was_reserved_for(&self, handoff_id: HandoffId) -> bool {
        self.found.is_reserved_for(handoff_id)
    }

    /// The process that serves a directory, or has sealed it, by the owner record; none where
    /// that cannot be read, or is of another boot.
    pub(crate) fn incumbent_of(data_dir: &Path) -> Option<ProcessId> {
        let path = data_dir.join(LOCK_FILE);
        let record = OwnerRecord::read(&File::open(&path).ok()?, &path).ok()?;
        let serves = matches!(record.phase, RecordPhase::Serving | RecordPhase::Sealed);
        (serves && record.boot_id == boot_id()).then_some(record.writer)
    }

    /// Mends a damaged owner record, which [`acquire`](Self::acquire) and a start refuse to
    /// overwrite, and a damaged seal manifest, which a start refuses to verify against. Call it
    /// once it is certain that nobody serves the directory.
    ///
    /// The generation that was lost is replaced by one that is larger than any that was
    /// counted up: the seconds since the epoch. A damaged manifest is removed, so the next
    /// start has nothing to verify against. A free lock is reserved for nobody afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::LockHeld`] when a process does serve it, and [`Error::Path`].
    pub fn repair(data_dir: &Path) -> Result<()> {
        let mut lock = Self::open(data_dir)?;
        lock.try_flock()?;
        match lock.read_record() {
            Ok(found) => lock.record = found,
            Err(Error::Damaged { .. }) => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                lock.record.generation = since.map_or(0, |since| since.as_secs());
                lock.file.set_len(0).map_err(Error::at("truncate", &lock.path))?;
            }
            Err(error) => return Err(error),
        }
        if let Err(Error::Damaged { path, .. }) = SealManifest::read(data_dir) {
            fs::remove_file(&path).map_err(Error::at("remove", &path))?;
        }
        lock.record.phase = RecordPhase::Released;
        lock.record.write(&lock.file, &lock.path)
    }

    /// The directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A number that grows with every change of writer: larger than for every writer before.
    ///
    /// To use it as a fencing token, see [`fencing_token`](Self::fencing_token).
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.record.generation
    }

    /// The generation, once it is certain to survive a crash of the machine: the number that
    /// a daemon sends to other systems, so that they refuse the writer before.
    ///
    /// # Errors
    ///
    /// As [`Fencing::token`].
    pub fn fencing_token(&self) -> Result<u64> {
        self.fencing().token()
    }

    /// A handle that gives fencing tokens while the lock itself is with the library.
    #[must_use]
    pub fn fencing(&self) -> Fencing {
        Fencing {
            file: Arc::clone(&self.file),
            path: self.path.clone(),
            data_dir: self.data_dir.clone(),
            generation: Arc::clone(&self.generation),
        }
    }

    /// From now on a drop does not release the lock, until
    /// [`release_on_drop`](Self::release_on_drop): after an error or a panic the daemon's own
    /// threads may still write (invariant 1).
    pub(crate) const fn hold_past_drop(&mut self) {
        self.outlives_drop = true;
    }

    /// A drop may release the lock: another process is the writer, or the data is sealed for good.
    pub(crate) const fn release_on_drop(&mut self) {
        self.outlives_drop = false;
    }

    /// The manifest of the previous writer's seal, if nothing can have been written since. The
    /// process that opens the data now verifies against it.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], and [`Error::Path`] when it cannot be read.
    pub fn manifest(&self) -> Result<Option<SealManifest>> {
        let sealed = self.found.sealed_generation;
        if sealed == 0 || self.found_is_swap_of_another_boot() {
            return Ok(None);
        }
        let manifest = SealManifest::read(&self.data_dir)?;
        Ok(manifest.filter(|manifest| {
            manifest.generation == sealed && manifest.is_of_this_boot_or_durable()
        }))
    }

    /// The process for which the lock was released.
    pub(crate) const fn reserved(&self) -> ProcessId {
        self.record.reserved
    }

    pub(crate) fn build_id(&self) -> &[u8] {
        &self.record.build_id
    }

    /// Writes into the record that this process serves.
    pub(crate) fn record_serving(&mut self, build_id: &[u8]) -> Result<()> {
        self.record.phase = RecordPhase::Serving;
        self.record.sealed_generation = 0;
        self.record.build_id = build_id.to_vec();
        self.record.write(&self.file, &self.path)?;
        // A durable record of a seal must not come back by a crash of the machine, beside data
        // that was written since. The record of a swap was not durable.
        if self.found.sealed_generation != 0 && self.found.phase != RecordPhase::Sealed {
            self.file.sync_data().map_err(Error::at("sync", &self.path))?;
        }
        Ok(())
    }

    /// Releases the lock and reserves it for that process (invariant 9).
    pub(crate) fn release_for(&mut self, handoff_id: HandoffId, reserved: ProcessId) -> Result<()> {
        let sealed = OwnerRecord {
            phase: RecordPhase::Sealed,
            sealed_generation: self.record.generation,
            reserved,
            handoff_id: Some(handoff_id),
            ..self.record.clone()
        };
        try_failpoint!(IncumbentRecordsSealed)?;
        sealed.write(&self.file, &self.path)?;
        let before = std::mem::replace(&mut self.record, sealed);
        let unlocked =
            try_failpoint!(IncumbentUnlocks).map_err(Error::from).and_then(|()| self.unlock());
        if unlocked.is_err() {
            // This process serves again, so no later start may trust the seal.
            self.record = before;
            self.record.write(&self.file, &self.path)?;
        }
        unlocked
    }

    /// After [`release_for`](Self::release_for): takes the lock again if it is free, else says
    /// which process holds it. That is undecided if the record cannot be read (invariant 12).
    pub(crate) fn retake(&mut self) -> Result<Decision> {
        try_failpoint!(IncumbentTriesLock)?;
        let is_free = match self.try_flock() {
            Ok(()) => true,
            Err(Error::LockHeld { .. }) => false,
            Err(error) => return Err(error),
        };
        let now = self.read_record().ok();
        let own = self.record.generation;
        let decision = Decision::of(is_free, now.as_ref(), own);
        if decision == Decision::Retaken {
            try_failpoint!(IncumbentRetook)?;
            self.found = OwnerRecord::default();
            self.record.generation = now.map_or(own, |now| now.generation).max(own);
            self.take_over(RecordPhase::Serving, None)?;
        }
        Ok(decision)
    }

    /// A clean stop: makes the record durable, and releases the lock, reserved for nobody.
    pub(crate) fn release_sealed(&mut self) -> Result<()> {
        self.record.phase = RecordPhase::Released;
        self.record.sealed_generation = self.record.generation;
        self.record.write(&self.file, &self.path)?;
        self.file.sync_data().map_err(Error::at("sync", &self.path))?;
        self.unlock()
    }

    fn open(data_dir: &Path) -> Result<Self> {
        fs::create_dir_all(data_dir).map_err(Error::at("create the data directory", data_dir))?;
        let path = data_dir.join(LOCK_FILE);
        let file = open_lock_file(&path).map_err(Error::at("open the lock file", &path))?;
        Ok(Self {
            file: Arc::new(file),
            path,
            data_dir: data_dir.to_owned(),
            record: OwnerRecord::default(),
            found: OwnerRecord::default(),
            generation: Arc::default(),
            is_held: false,
            is_start: false,
            outlives_drop: false,
        })
    }

    fn try_flock(&mut self) -> Result<()> {
        loop {
            if !try_lock(&self.file).map_err(Error::at("lock", &self.path))? {
                let holder = self.read_record().map_or(0, |record| record.writer.pid);
                return Err(self.held_by(holder));
            }
            // A lock on a file that was renamed over or removed excludes nobody.
            let opened = self.file.metadata().map_err(Error::at("look at", &self.path))?;
            let named = fs::metadata(&self.path).ok();
            if named.is_some_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino()))
            {
                self.is_held = true;
                return Ok(());
            }
            let file = open_lock_file(&self.path).map_err(Error::at("open", &self.path))?;
            self.file = Arc::new(file);
        }
    }

    fn unlock(&mut self) -> Result<()> {
        // Explicitly, since a child of this process may hold a copy of the descriptor.
        rustix::fs::flock(&self.file, FlockOperation::Unlock)
            .map_err(Error::at("unlock", &self.path))?;
        self.is_held = false;
        Ok(())
    }

    /// Writes this process into the record as the next generation (invariant 10).
    fn take_over(&mut self, phase: RecordPhase, handoff_id: Option<HandoffId>) -> Result<()> {
        // A start has not served yet: until it does, the seal holds (invariant 11).
        let only_opens = self.is_start && matches!(phase, RecordPhase::Held | RecordPhase::Opening);
        let keeps_seal = only_opens && !self.found_is_swap_of_another_boot();
        let record = OwnerRecord {
            phase,
            generation: self.found.generation.max(self.record.generation).saturating_add(1),
            sealed_generation: if keeps_seal { self.found.sealed_generation } else { 0 },
            writer: ProcessId::own(),
            reserved: ProcessId::default(),
            handoff_id,
            build_id: std::mem::take(&mut self.record.build_id),
            boot_id: boot_id(),
        };
        record.write(&self.file, &self.path)?;
        self.record = record;
        self.generation.store(self.record.generation, Ordering::Release);
        Ok(())
    }

    /// The manifest of a swap is not synced: after a reboot it may be anything (invariant 11).
    fn found_is_swap_of_another_boot(&self) -> bool {
        self.found.phase == RecordPhase::Sealed && self.found.boot_id != boot_id()
    }

    fn refuse_if_reserved(&self) -> Result<()> {
        let Some(successor) = self.read_record()?.live_reservation() else { return Ok(()) };
        let data_dir = self.data_dir.clone();
        Err(Error::Reserved { successor_pid: successor.pid, data_dir })
    }

    fn read_record(&self) -> Result<OwnerRecord> {
        OwnerRecord::read(&self.file, &self.path)
    }

    fn held_by(&self, holder_pid: u32) -> Error {
        Error::LockHeld { holder_pid, data_dir: self.data_dir.clone() }
    }
}

impl Drop for DataDirLock {
    fn drop(&mut self) {
        static KEPT: Mutex<Vec<Arc<File>>> = Mutex::new(Vec::new());
        if self.is_held && self.outlives_drop && stands(Guard::LockOutlivesDrop) {
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&self.file));
            return;
        }
        // Written only where this process put itself into the record.
        if self.is_held && self.record.writer == ProcessId::own() {
            let generation = self.record.generation;
            if self.is_start
                && matches!(self.record.phase, RecordPhase::Held | RecordPhase::Opening)
            {
                // A start that failed: the last writer may have died, and its successor may yet
                // come.
                let found = std::mem::take(&mut self.found);
                let sealed_generation = self.record.sealed_generation;
                // This process may live on, and has had its turn: it stays reserved for nobody.
                let reserved = ProcessId::default();
                self.record = OwnerRecord { generation, sealed_generation, reserved, ..found };
            } else {
                self.record.phase = RecordPhase::Released;
            }
            if let Err(error) = self.record.write(&self.file, &self.path) {
                log::warn!(
                    path = %self.data_dir.display(), %error,
                    "this process cannot note in the owner record that it releases the lock: the next start takes that for a crash"
                );
            }
        }
        if self.is_held {
            let _ = self.unlock();
        }
    }
}

fn open_lock_file(path: &Path) -> io::Result<File> {
    open_private(path, OpenOptions::new().write(true))
}

const LOCK_FILE: &str = ".handoff.lock";

#[cfg(test)]
mod tests;
