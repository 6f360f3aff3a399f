//! The log: lines, and from format 2 on the time of each line before it.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, prelude::*};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use handoff::drainable::{Checkpoint, RollingDigest};
use handoff::{Shard, migration::Round};

/// What a shard is verified by: its revision, here its length, and its fingerprint.
pub(crate) type Sealed = (u64, [u8; 32]);

pub(crate) struct Log {
    path: PathBuf,
    format: u32,
    /// Of the data before its conversion, until this process serves.
    converted_from: Mutex<Option<Sealed>>,
    opened: Mutex<(Option<File>, RollingDigest)>, // no file while it is sealed
}

impl Log {
    pub(crate) fn open(directory: &Path, format: u32, import: Import) -> handoff::Result<Self> {
        let (path, opened) = (directory.join(NAME), Mutex::default());
        let converted_from = Mutex::new(import.sealed());
        let log = Self { path, format, converted_from, opened };
        log.resume()?;
        Ok(log)
    }

    /// This process serves: from here on the log is what it says.
    pub(crate) fn forget_the_conversion(&self) {
        *lock(&self.converted_from) = None;
    }

    /// Appends a line, and returns the log's length once the line is on the disk.
    pub(crate) fn append(&self, line: &[u8]) -> io::Result<u64> {
        let (file, digest) = &mut *lock(&self.opened);
        let file = file.as_mut().ok_or_else(|| io::Error::other("the log is sealed"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let entry = if self.format == 1 { line.to_vec() } else { entry(now, line) };
        let written = file.write_all(&entry).and_then(|()| file.sync_data());
        // A write that fails leaves no half of an entry behind.
        written.inspect_err(|_| drop(file.set_len(digest.length())))?;
        digest.update(&entry);
        Ok(digest.length())
    }
}

impl Shard for Log {
    fn seal(&self) -> handoff::Result<u64> {
        let (file, digest) = &mut *lock(&self.opened);
        *file = None; // `append` has synced each entry
        fs::write(self.path.with_extension(CHECKPOINT), digest.checkpoint().to_bytes())?;
        Ok(digest.length())
    }

    fn revision(&self) -> u64 {
        let converted_from = *lock(&self.converted_from);
        converted_from.map_or_else(|| lock(&self.opened).1.length(), |(length, _)| length)
    }

    fn fingerprint(&self) -> handoff::Result<[u8; 32]> {
        let converted_from = *lock(&self.converted_from);
        Ok(converted_from.map_or_else(|| lock(&self.opened).1.digest(), |(_, digest)| digest))
    }

    fn resume(&self) -> handoff::Result<()> {
        let file = File::options().create(true).read(true).append(true).open(&self.path)?;
        let kept = fs::read(self.path.with_extension(CHECKPOINT)).unwrap_or_default();
        let checkpoint = Checkpoint::from_bytes(&kept).ok();
        let went_on = checkpoint.and_then(|kept| RollingDigest::go_on(kept, &file).ok());
        let mut digest = went_on.unwrap_or_default();
        digest.catch_up(&file)?;
        *lock(&self.opened) = (Some(file), digest);
        Ok(())
    }
}

/// The conversion of a log of format 1; it lives from the first round to the last.
#[derive(Default)]
pub(crate) struct Import {
    from: RollingDigest,
    to: RollingDigest,
}

impl Import {
    /// Converts the lines that were written since the round before.
    pub(crate) fn round(&mut self, round: &Round<'_>) -> handoff::Result<()> {
        let Ok(mut from) = File::open(round.from().join(NAME)) else { return Ok(()) }; // it is new
        from.seek(SeekFrom::Start(self.from.length()))?;
        let mut lines = BufReader::with_capacity(BUFFER, from);
        let path = round.to().join(NAME);
        let to = File::options().create(true).append(true).open(&path)?;
        let mut entries = BufWriter::with_capacity(BUFFER, to);
        let (mut line, mut synced) = (Vec::new(), self.to.length());
        // A line without its end is still being written, or was never acknowledged.
        while lines.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            let entry = entry(0, &line);
            entries.write_all(&entry)?;
            self.from.update(&line);
            self.to.update(&entry);
            line.clear();
            if self.to.length() >= synced + SYNC_EVERY {
                synced = self.to.length();
                entries.get_ref().sync_data()?; // else the old process would wait for all of it
            }
        }
        entries.flush()?;
        // `Log::open` reads nothing of what lies before it.
        Ok(fs::write(path.with_extension(CHECKPOINT), self.to.checkpoint().to_bytes())?)
    }

    fn sealed(&self) -> Option<Sealed> {
        (self.from.length() > 0).then(|| (self.from.length(), self.from.digest()))
    }
}

fn entry(seconds: u64, line: &[u8]) -> Vec<u8> {
    [format!("{seconds} ").as_bytes(), line].concat()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const NAME: &str = "ledger.log";
const CHECKPOINT: &str = "checkpoint";
const BUFFER: usize = 1 << 20;
const SYNC_EVERY: u64 = 8 << 20;
