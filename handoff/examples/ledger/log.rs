//! The log: lines, and from format 2 on the time of each line before it.

use std::fs::{self, File};
use std::io::ErrorKind::NotFound;
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, prelude::*};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use handoff::drainable::{Checkpoint, RollingDigest};
use handoff::{Shard, migration::Round};

pub(crate) struct Log {
    path: PathBuf,
    format: u32,
    /// The revision of the data before its conversion, until this process serves.
    converted_from: Mutex<Option<u64>>,
    opened: Mutex<(Option<File>, RollingDigest)>, // no file while it is sealed
}

impl Log {
    pub(crate) fn open(directory: &Path, format: u32, import: Import) -> handoff::Result<Self> {
        let (path, opened) = (directory.join(NAME), Mutex::default());
        let converted_from = Mutex::new(import.revision());
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
        let opened = file.as_mut().ok_or_else(|| io::Error::other("the log is closed"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let entry = if self.format == 1 { line.to_vec() } else { entry(now, line) };
        let written = opened.write_all(&entry).and_then(|()| opened.sync_data());
        // What a failed write has left is not known: the next start looks.
        written.inspect_err(|_| *file = None)?;
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
        converted_from.unwrap_or_else(|| lock(&self.opened).1.length())
    }

    fn fingerprint(&self) -> handoff::Result<[u8; 32]> {
        Ok(lock(&self.opened).1.digest()) // not compared where the formats differ
    }

    fn resume(&self) -> handoff::Result<()> {
        let file = File::options().create(true).read(true).append(true).open(&self.path)?;
        file.set_len(end_of_last_line(&file)?)?;
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
    converted: u64, // bytes of the old log
    to: RollingDigest,
}

impl Import {
    /// Converts the lines that were written since the round before.
    pub(crate) fn round(&mut self, round: &Round<'_>) -> handoff::Result<()> {
        let mut from = match File::open(round.from().join(NAME)) {
            Err(error) if error.kind() == NotFound && round.from_format().is_none() => {
                return Ok(());
            }
            opened => opened?, // else the daemon is new
        };
        from.seek(SeekFrom::Start(self.converted))?;
        let mut lines = BufReader::with_capacity(BUFFER, from);
        let path = round.to().join(NAME);
        let to = File::options().create(true).append(true).open(&path)?;
        let mut entries = BufWriter::with_capacity(BUFFER, to);
        let (mut line, mut synced) = (Vec::new(), self.to.length());
        // A line without its end is still being written, or was never acknowledged.
        while lines.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            let entry = entry(0, &line);
            entries.write_all(&entry)?;
            self.converted += line.len() as u64;
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

    fn revision(&self) -> Option<u64> {
        (self.converted > 0).then_some(self.converted)
    }
}

/// A crash in the midst of a write leaves a part of a line, which nobody was told of.
fn end_of_last_line(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut tail = vec![0; usize::try_from(length).unwrap_or(MAX_ENTRY).min(MAX_ENTRY)];
    let start = length - tail.len() as u64;
    file.read_exact_at(&mut tail, start)?;
    let end = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok(start + end as u64)
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
const MAX_ENTRY: usize = 1 << 17;
const SYNC_EVERY: u64 = 8 << 20;
