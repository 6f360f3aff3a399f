//! The lock of a data directory.

mod fencing;
mod file;
mod fit;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use fencing::Fencing;
use fencing::Shared;
use file::{LOCK_FILE, open_lock_file};
use fit::Note;
pub(crate) use fit::{Fit, Leaves};

use super::place::{LockFile, Place};
use super::record::{byte_of_swap, byte_of_writer};
use super::{OwnerRecord, RecordPhase, SealManifest, Sight, Succession};
use crate::drainable::Schema;
use crate::error::{Error, Result};
use crate::guard::{Guard, stands};
use crate::log;
use crate::protocol::HandoffId;
use crate::sys::file::{is_byte_locked, try_lock_byte};
use crate::sys::process::{ProcessId, boot_id, holder_of};

/// The right to write a data directory: an exclusive `flock` on `<data_dir>/.handoff.lock`, and
/// one on the directory itself, in case the file is removed.
///
/// The process that holds it may open the data for writing; no other process may. The kernel
/// frees it when the process ends, however it ends; a child that the process forked does not keep
/// it. The owner record in the file names the writer and its generation. Dropping the lock
/// releases it.
///
/// It protects against processes of this machine: keep the directory on a local file system.
#[derive(Debug)]
pub struct DataDirLock {
    shared: Arc<Shared>,
    record: OwnerRecord,
    /// The record as it was before this process wrote it.
    found: OwnerRecord,
    is_held: bool,
    /// The process that opened it: a child that is forked does not have it.
    pid: u32,
    /// The phase of the record when this process had the lock again.
    found_phase: Option<RecordPhase>,
    /// Whether it is taken to start: a start that fails leaves the seal as it was (invariant 11).
    is_start: bool,
    /// Of this build, once it writes.
    own: Option<Schema>,
    note: Option<Note>,
    /// Whether a drop leaves it held until the process ends (invariant 1).
    outlives_drop: bool,
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
    /// the data offline: the next start no longer expects the state that was sealed before, also
    /// after a crash of the machine.
    ///
    /// # Errors
    ///
    /// [`Error::LockHeld`] when another process has it; [`Error::Damaged`] when the owner
    /// record is damaged, see [`repair`](Self::repair); [`Error::Path`] when the directory cannot
    /// be created or written. None of them changes the owner record, but a failed sync: it leaves
    /// the next start nothing to verify against.
    pub fn acquire(data_dir: &Path) -> Result<Self> {
        let mut lock = Self::open(data_dir)?;
        lock.flock()?;
        lock.find_record()?;
        lock.take_over(RecordPhase::Held, None)?;
        // A crash of the machine must not bring the seal back, beside data that the caller changes.
        lock.shared.sync(lock.generation())?;
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
        lock.flock()?;
        lock.refuse_if_reserved()?;
        lock.find_record()?;
        try_failpoint!(ColdStartLocked)?;
        lock.is_start = true;
        lock.take_over(RecordPhase::Held, None)?;
        Ok(lock)
    }

    /// Does everything that a successor can do before it may take the lock. From here on the
    /// reservation of that swap holds in every namespace (invariant 9).
    pub(crate) fn ahead(data_dir: &Path, handoff_id: Option<HandoffId>) -> Result<Self> {
        // Looked up once, and then known.
        let _ = (ProcessId::own(), boot_id());
        let lock = Self::open(data_dir)?;
        if let Some(id) = handoff_id {
            // Where it cannot be locked, the successor is known by its pid alone.
            let _ = try_lock_byte(&lock.file().file, byte_of_swap(id));
        }
        Ok(lock)
    }

    /// Takes the lock that the incumbent of `handoff_id` released, or left behind by dying. It
    /// asks `patience` how long to wait only where another process holds the lock.
    pub(crate) fn acquire_as_successor(
        mut self,
        handoff_id: HandoffId,
        patience: impl FnOnce() -> Duration,
    ) -> Result<Self> {
        if !self.try_flock()? {
            let deadline = Instant::now() + patience();
            // A stray cold start may hold it for as long as it takes to read the record.
            while !self.try_flock()? {
                if Instant::now() >= deadline {
                    return Err(self.held());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.shared.place.check()?;
        self.find_record()?;
        try_failpoint!(SuccessorLocked)?;
        let data_dir = self.data_dir().to_owned();
        match self.found.succession(handoff_id, boot_id(), &self) {
            Succession::Admitted => {}
            Succession::OfAnother => {
                let writer_pid = self.found.writer.pid;
                return Err(Error::NotReserved { writer_pid, data_dir });
            }
            Succession::Stopped => return Err(Error::Stopped(data_dir)),
            Succession::NeverServed => return Err(Error::Moved(data_dir)),
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
        let place = Place::open(data_dir).ok()?;
        let record = OwnerRecord::read(&place.read(LOCK_FILE).ok()??, data_dir).ok()?;
        let serves = matches!(record.phase, RecordPhase::Serving | RecordPhase::Sealed);
        (serves && record.boot_id == boot_id()).then_some(record.writer)
    }

    /// Whether a start on the directory, which exists, would find a seal to verify against. Takes no
    /// lock, and writes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], and [`Error::Path`].
    pub(crate) fn is_sealed(data_dir: &Path) -> Result<bool> {
        let place = Place::open(data_dir)?;
        let Some(file) = place.read(LOCK_FILE)? else { return Ok(false) };
        let record = OwnerRecord::read(&file, &place.path_of(LOCK_FILE))?;
        let sealed = record.generation_to_verify(boot_id());
        let manifest = SealManifest::read(&place)?;
        Ok(sealed != 0 && manifest.is_some_and(|manifest| manifest.generation == sealed))
    }

    /// Mends a damaged owner record, which [`acquire`](Self::acquire) and a start refuse to
    /// overwrite, and a damaged seal manifest, which a start refuses to verify against. Call it
    /// once it is certain that nobody serves the directory.
    ///
    /// The generation that was lost is replaced by one that is larger than any that was
    /// counted up: the microseconds since the epoch. The format of the data comes from the schema and
    /// the manifest beside the record. A damaged manifest is removed, so the next
    /// start has nothing to verify against. A free lock is reserved for nobody afterwards. All of
    /// that is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::LockHeld`] when a process does serve it, and [`Error::Path`].
    pub fn repair(data_dir: &Path) -> Result<()> {
        let mut lock = Self::open(data_dir)?;
        lock.flock()?;
        match lock.read_record() {
            Ok(found) => {
                // The phase, which a build without the flag tells it by, is lost below.
                let is_seal_unsynced = found.has_unsynced_seal();
                lock.record = OwnerRecord { is_seal_unsynced, ..found };
            }
            Err(Error::Damaged { .. }) => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let since = since.map_or(0, |since| since.as_micros());
                lock.record.generation = u64::try_from(since).unwrap_or(u64::MAX);
                lock.record.format = lock.format_beside_the_record();
            }
            Err(error) => return Err(error),
        }
        if let Err(Error::Damaged { .. }) = SealManifest::read(lock.place()) {
            SealManifest::remove(lock.place())?;
        }
        lock.record.phase = RecordPhase::Released;
        // In the place of the damage: an empty file would be a record without a generation.
        lock.write_record()?;
        lock.shared.sync(lock.generation())?;
        lock.place().sync()
    }

    /// After the data was put back from a backup: notes that it has that format, so that a build which
    /// reads no higher one starts on it. What is known of newer data, the manifest and the schema, is
    /// removed. The generation stays, so that no fencing token is given twice: leave `.handoff.lock` out
    /// of the backup. Call it while no daemon runs. All is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::LockHeld`] when a process serves the directory, and [`Error::Damaged`] for a record that
    /// [`repair`](Self::repair) has to write anew first.
    pub fn restored(data_dir: &Path, format: u32) -> Result<()> {
        let mut lock = Self::acquire(data_dir)?;
        SealManifest::remove(lock.place())?;
        crate::datadir::schema::remove(lock.place())?;
        lock.record.format = format;
        lock.found.format = format;
        lock.write_record()?;
        lock.shared.sync(lock.generation())?;
        lock.place().sync()
    }

    /// The directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.shared.place.path()
    }

    /// The directory, by descriptor.
    pub(crate) fn place(&self) -> &Arc<Place> {
        &self.shared.place
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
        Fencing(Arc::clone(&self.shared))
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
        let sealed = self.found.generation_to_verify(boot_id());
        if sealed == 0 {
            return Ok(None);
        }
        let manifest = SealManifest::read(self.place())?.filter(|manifest| {
            manifest.generation == sealed && manifest.is_of_this_boot_or_durable()
        });
        // A start may be told to accept the data as it is, by the removal of the manifest. In a
        // swap no operator had a moment for that: something else removed it, and more perhaps.
        if manifest.is_none() && self.record.phase == RecordPhase::Opening {
            return Err(SealManifest::missing(self.place()));
        }
        Ok(manifest)
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
        let is_commit = self.record.phase == RecordPhase::Opening;
        let found_synced_seal =
            self.found.sealed_generation != 0 && !self.found.has_unsynced_seal();
        self.record.sealed_generation = 0;
        self.record.is_seal_unsynced = false;
        self.record.is_unserved = false;
        self.record.build_id = build_id.to_vec();
        self.check()?;
        // A synced record of a seal must not come back by a crash of the machine, beside data
        // that is written from here on. A cold start syncs in any case: the start before it may
        // have failed to. Where the sync fails, the record does not say that this process serves.
        if !is_commit || found_synced_seal {
            self.write_record()?;
            self.shared.sync(self.generation())?;
        }
        self.record.phase = RecordPhase::Serving;
        self.write_record()
    }

    /// Releases the lock and reserves it for that process (invariant 9).
    pub(crate) fn release_for(&mut self, handoff_id: HandoffId, reserved: ProcessId) -> Result<()> {
        self.mend()?;
        let byte = is_byte_locked(&self.file().file, byte_of_swap(handoff_id));
        let sealed = OwnerRecord {
            phase: RecordPhase::Sealed,
            sealed_generation: self.record.generation,
            is_seal_unsynced: true,
            reserved,
            reserved_by_byte: byte.unwrap_or_default(),
            handoff_id: Some(handoff_id),
            ..self.record.clone()
        };
        try_failpoint!(IncumbentRecordsSealed)?;
        let before = std::mem::replace(&mut self.record, sealed);
        self.write_record().inspect_err(|_| self.record = before.clone())?;
        let unlocked =
            try_failpoint!(IncumbentUnlocks).map_err(Error::from).and_then(|()| self.unlock());
        if unlocked.is_err() {
            // This process serves again, so no later start may trust the seal.
            self.record = before;
            self.write_record()?;
        }
        unlocked
    }

    /// After [`release_for`](Self::release_for): takes the lock again if it is free, else says
    /// which process holds it. That is undecided if the record cannot be read (invariant 12).
    pub(crate) fn retake(&mut self) -> Result<Decision> {
        try_failpoint!(IncumbentTriesLock)?;
        // The daemon would resume from the path.
        self.shared.place.check()?;
        let is_free = self.try_flock()?;
        let now = self.read_named_record().ok();
        let own = self.record.generation;
        let decision = Decision::of(is_free, now.as_ref(), own);
        if decision == Decision::Retaken {
            try_failpoint!(IncumbentRetook)?;
            let place = Arc::clone(&self.shared.place);
            let reads = now.as_ref().map_or(Ok(()), |now| self.reads(now));
            let goes_on = reads.and_then(|()| place.check_opened());
            goes_on.or_else(|error| self.unlock().and(Err(error)))?;
            if let Some(now) = &now {
                self.record.format = self.record.format.max(now.format);
            }
            self.found = OwnerRecord::default();
            self.found_phase = now.as_ref().map(|now| now.phase);
            let had_another = now.as_ref().is_some_and(|now| now.writer != self.record.writer);
            self.record.generation = now.map_or(own, |now| now.generation).max(own);
            self.take_over(RecordPhase::Serving, None)?;
            if had_another {
                self.leave_schema_again();
            }
        }
        Ok(decision)
    }

    /// A clean stop: makes the record durable, and releases the lock, reserved for nobody.
    pub(crate) fn release_sealed(&mut self, is_seal_synced: bool) -> Result<()> {
        self.record.phase = RecordPhase::Released;
        self.record.sealed_generation = self.record.generation;
        self.record.is_seal_unsynced = !is_seal_synced;
        self.write_record()?;
        self.shared.sync(self.generation())?;
        self.unlock()
    }

    /// The phase of the record when this process had the lock again: the data is as it sealed it in
    /// phase `Sealed`, and was opened by a successor that did not serve in phase `Opening`.
    pub(crate) const fn found_phase(&self) -> Option<RecordPhase> {
        self.found_phase
    }

    /// Whether this process may write the directory that its path leads to: that is the one that it
    /// locked, and this process the one that locked it.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_own()?;
        self.shared.place.check()
    }

    /// Whether this process is the one that took the lock: a child that it forked does not have it.
    pub(crate) fn check_own(&self) -> Result<()> {
        if self.pid == std::process::id() {
            return Ok(());
        }
        let (pid, data_dir) = (self.pid, self.data_dir().to_owned());
        Err(Error::Forked { pid, data_dir })
    }

    fn open(data_dir: &Path) -> Result<Self> {
        let place = Place::open(data_dir)?;
        let file = open_lock_file(&place)?;
        let (place, file) = (Arc::new(place), Mutex::new(Arc::new(file)));
        Ok(Self {
            shared: Arc::new(Shared {
                place,
                file,
                generation: AtomicU64::new(0),
                syncs: Mutex::default(),
            }),
            record: OwnerRecord::default(),
            found: OwnerRecord::default(),
            is_held: false,
            pid: std::process::id(),
            found_phase: None,
            is_start: false,
            own: None,
            note: None,
            outlives_drop: false,
        })
    }

    fn file(&self) -> Arc<LockFile> {
        self.shared.file()
    }

    /// Writes this process into the record as the next generation (invariant 10).
    fn take_over(&mut self, phase: RecordPhase, handoff_id: Option<HandoffId>) -> Result<()> {
        // A start has not served yet: until it does, the seal holds (invariant 11).
        let only_opens = self.is_start && matches!(phase, RecordPhase::Held | RecordPhase::Opening);
        let kept = if only_opens { self.found.generation_to_verify(boot_id()) } else { 0 };
        let record = OwnerRecord {
            phase,
            generation: self
                .found
                .generation
                .max(self.record.generation)
                .max(self.generation_of_manifest())
                .saturating_add(1),
            sealed_generation: kept,
            is_seal_unsynced: kept != 0 && self.found.has_unsynced_seal(),
            writer: ProcessId::own(),
            by_byte: try_lock_byte(&self.file().file, byte_of_writer(ProcessId::own()))
                .unwrap_or_default(),
            reserved: ProcessId::default(),
            reserved_by_byte: false,
            is_unserved: matches!(phase, RecordPhase::Held | RecordPhase::Opening)
                && (self.found.generation == 0 || self.found.is_unserved),
            handoff_id,
            build_id: std::mem::take(&mut self.record.build_id),
            format: self.found.format.max(self.record.format),
            boot_id: boot_id(),
        };
        let before = std::mem::replace(&mut self.record, record);
        self.write_record().inspect_err(|_| self.record = before)?;
        self.shared.generation.store(self.record.generation, Ordering::Release);
        Ok(())
    }

    fn refuse_if_reserved(&self) -> Result<()> {
        let Some(successor) = self.read_record()?.reservation(boot_id(), self) else {
            return Ok(());
        };
        let data_dir = self.data_dir().to_owned();
        Err(Error::Reserved { successor_pid: successor.pid, data_dir })
    }

    /// Where the lock file was lost, the format comes from what lies beside it.
    fn find_record(&mut self) -> Result<()> {
        self.found = self.read_record()?;
        if self.found.generation == 0 {
            self.found.format = self.format_beside_the_record();
        }
        Ok(())
    }

    fn read_record(&self) -> Result<OwnerRecord> {
        OwnerRecord::read(&self.file().file, &self.place().path_of(LOCK_FILE))
    }

    /// The record of the file that has the name: another process may have made that.
    fn read_named_record(&self) -> Result<OwnerRecord> {
        match self.place().read(LOCK_FILE)? {
            Some(named) => OwnerRecord::read(&named, &self.place().path_of(LOCK_FILE)),
            None => self.read_record(),
        }
    }

    /// The generation of the last seal, where the lock file was lost: generations do not fall.
    fn generation_of_manifest(&self) -> u64 {
        match SealManifest::read(self.place()) {
            Ok(Some(manifest)) if self.found.generation == 0 => manifest.generation,
            _ => 0,
        }
    }

    /// The caller holds the lock.
    fn write_record(&self) -> Result<()> {
        self.record.write(&self.file().file, &self.place().path_of(LOCK_FILE))
    }

    /// The error of a lock that another process has.
    fn held(&self) -> Error {
        let data_dir = self.data_dir().to_owned();
        let record = self.read_record().unwrap_or_default();
        let holder_pid = record.writer.pid;
        let is_of_this_boot = record.boot_id == boot_id();
        if is_of_this_boot && holder_pid != 0 && !record.writer.is_alive() {
            let holder = holder_of(&[self.file().id, self.place().id()]);
            if let Some(child_pid) = holder {
                return Error::LockInherited { writer_pid: holder_pid, child_pid, data_dir };
            }
        }
        Error::LockHeld { holder_pid, data_dir }
    }
}

impl Sight for DataDirLock {
    fn is_locked(&self, byte: u64) -> bool {
        is_byte_locked(&self.file().file, byte).unwrap_or(true)
    }

    fn is_alive(&self, process: ProcessId) -> bool {
        process.is_alive()
    }
}

impl Drop for DataDirLock {
    fn drop(&mut self) {
        static KEPT: Mutex<Vec<Arc<Shared>>> = Mutex::new(Vec::new());
        // A child that was forked does not have the lock, and must not release its parent's.
        self.is_held &= self.pid == std::process::id();
        if self.is_held && self.outlives_drop && stands(Guard::LockOutlivesDrop) {
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&self.shared));
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
                let is_seal_unsynced = self.record.is_seal_unsynced;
                // This process may live on, and has had its turn: it stays reserved for nobody.
                let reserved = ProcessId::default();
                let reserved_by_byte = false;
                self.record = OwnerRecord {
                    format: self.record.format,
                    is_unserved: self.record.is_unserved,
                    generation,
                    sealed_generation,
                    is_seal_unsynced,
                    reserved,
                    reserved_by_byte,
                    ..found
                };
            } else {
                self.record.phase = RecordPhase::Released;
            }
            if let Err(error) = self.write_record() {
                log::warn!(
                    path = %self.data_dir().display(), %error,
                    "this process cannot note in the owner record that it releases the lock: the next start takes that for a crash"
                );
            }
        }
        if self.is_held {
            let _ = self.unlock();
        }
    }
}

#[cfg(test)]
mod tests;
