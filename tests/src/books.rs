//! The state of `fixture-books`: two append-only logs, of which one is synced before each
//! acknowledgement, and the other not. The power-cut test opens the same state in its own process.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use handoff::drainable::{Schema, SealProgress, SealedShard, SealedState, digest_file};
use handoff::{DrainReport, Drainable, Gate, Result, SealReport, Shard, StateSnapshot};

/// When the writes of a book reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Before they are acknowledged.
    AtOnce,
    /// By the next `settle`.
    Later,
}

/// A file of lines, each with a checksum. Its revision is their number.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    keeps: Keeps,
    opened: Mutex<Opened>,
    /// Whether a sync failed: the kernel may have dropped the writes, and forgets the error.
    is_broken: AtomicBool,
    /// Whether the book forgets it too.
    is_forgetful: AtomicBool,
}

#[derive(Debug)]
struct Opened {
    /// None while it is sealed.
    file: Option<File>,
    keys: BTreeSet<String>,
    length: u64,
}

impl Book {
    /// Opens a book, or creates it durably. A line that was cut off by a crash ends it.
    ///
    /// # Errors
    ///
    /// It cannot be opened, read or cut.
    pub fn open(path: &Path, keeps: Keeps) -> io::Result<Self> {
        let (path, opened) = (path.to_owned(), Mutex::new(Opened::read(path)?));
        let (is_broken, is_forgetful) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { path, keeps, opened, is_broken, is_forgetful })
    }

    /// Appends, and returns once the key is kept.
    ///
    /// # Errors
    ///
    /// The book is sealed, the disk takes no more, or a sync has failed before.
    pub fn put(&self, key: &str) -> io::Result<()> {
        let mut opened = self.lock();
        self.check()?;
        let (file, length) = (opened.file()?, opened.length);
        let line = line(key);
        file.write_all_at(line.as_bytes(), length)?;
        if self.keeps == Keeps::AtOnce {
            self.sync(file)?;
        }
        opened.length += line.len() as u64;
        opened.keys.insert(key.to_owned());
        Ok(())
    }

    /// The keys that it holds.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<String> {
        self.lock().keys.clone()
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data().inspect_err(|_| self.is_broken.store(true, Ordering::Release))
    }

    /// After a sync that failed, none is to be believed: this process cannot know which of its
    /// writes the disk has.
    fn check(&self) -> io::Result<()> {
        let is_forgetful = self.is_forgetful.load(Ordering::Acquire);
        if self.is_broken.load(Ordering::Acquire) && !is_forgetful {
            return Err(io::Error::other("a sync of this book has failed before"));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    fn read(path: &Path) -> io::Result<Self> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => create(path)?,
            opened => opened?,
        };
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let mut keys = BTreeSet::new();
        let mut length = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(key) = key(line) else { break };
            keys.insert(key);
            length += line.len();
        }
        if length < bytes.len() {
            file.set_len(length as u64)?;
        }
        Ok(Self { file: Some(file), keys, length: length as u64 })
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::Error::other("the book is sealed"))
    }
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
    File::open(directory)?.sync_all()?;
    Ok(file)
}

fn line(key: &str) -> String {
    let sum = key.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("{key} {sum:08x}\n")
}

fn key(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (key, _) = text.split_once(' ')?;
    (line(key) == text).then(|| key.to_owned())
}

impl Shard for Book {
    fn settle(&self) -> Result<()> {
        self.check()?;
        let file = self.lock().file.as_ref().map(File::try_clone).transpose()?;
        // A sealed book is settled by the next process.
        file.map_or(Ok(()), |file| Ok(self.sync(&file)?))
    }

    fn seal(&self) -> Result<u64> {
        self.check()?;
        let mut opened = self.lock();
        if let Some(file) = opened.file.take()
            && self.keeps == Keeps::AtOnce
        {
            self.sync(&file)?;
        }
        Ok(opened.keys.len() as u64)
    }

    fn revision(&self) -> u64 {
        self.lock().keys.len() as u64
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        digest_file(&self.path)
    }

    fn resume(&self) -> Result<()> {
        let mut opened = self.lock();
        if opened.file.is_none() {
            *opened = Opened::read(&self.path)?;
        }
        Ok(())
    }
}

/// The format of this process's build.
pub static FORMAT: AtomicU32 = AtomicU32::new(0);

/// Both books, behind a gate. A copy is the same books.
#[derive(Debug, Clone)]
pub struct Books {
    parts: Arc<Parts>,
    /// Whether a request outlives the next drain, and writes between the settling and the seal.
    is_late: Arc<AtomicBool>,
}

#[derive(Debug, Drainable)]
struct Parts {
    #[handoff(gate)]
    gate: Gate,
    at_once: Book,
    later: Book,
}

impl Books {
    /// Opens the books of a data directory.
    ///
    /// # Errors
    ///
    /// As [`Book::open`].
    pub fn open(data: &Path) -> Result<Self> {
        let at_once = Book::open(&data.join(AT_ONCE), Keeps::AtOnce)?;
        let later = Book::open(&data.join(LATER), Keeps::Later)?;
        let parts = Arc::new(Parts { gate: Gate::new(), at_once, later });
        Ok(Self { parts, is_late: Arc::default() })
    }

    /// Appends to one of the books, as a request does.
    ///
    /// # Errors
    ///
    /// The gate is closed, or as [`Book::put`].
    pub fn put(&self, keeps: Keeps, key: &str) -> Result<()> {
        let _pass = self.parts.gate.enter().map_err(|_| io::Error::other("nothing is admitted"))?;
        self.book(keeps).put(key)?;
        Ok(())
    }

    /// One of the books.
    #[must_use]
    pub fn book(&self, keeps: Keeps) -> &Book {
        match keeps {
            Keeps::AtOnce => &self.parts.at_once,
            Keeps::Later => &self.parts.later,
        }
    }

    /// From now on the book without durable acknowledgements forgets that a sync has failed, as
    /// the kernel does.
    pub fn forget(&self) {
        self.parts.later.is_forgetful.store(true, Ordering::Release);
    }

    /// Plans a request that outlives the next drain.
    pub fn be_late(&self) {
        self.is_late.store(true, Ordering::Release);
    }
}

impl Drainable for Books {
    fn settle(&self) -> Result<()> {
        self.parts.settle()
    }

    fn drain(&self, deadline: Instant) -> Result<DrainReport> {
        self.parts.drain(deadline)
    }

    fn seal(&self) -> Result<SealReport> {
        self.seal_shards(&|_| ()).map(|sealed| sealed.report)
    }

    fn seal_shards(&self, progress: &(dyn Fn(SealProgress) + Sync)) -> Result<SealedState> {
        if self.is_late.swap(false, Ordering::AcqRel) {
            self.parts.later.put("late")?;
        }
        self.parts.seal_shards(progress)
    }

    fn resume_after_abort(&self) -> Result<()> {
        self.parts.resume_after_abort()
    }

    fn snapshot_state(&self) -> StateSnapshot {
        self.parts.snapshot_state()
    }

    fn admit(&self) -> Result<()> {
        self.parts.admit()
    }

    fn interrupt(&self) {
        self.parts.interrupt();
    }

    fn schema() -> Schema {
        let format = FORMAT.load(Ordering::Relaxed).max(1);
        Parts::schema().format(format, 1..=format)
    }

    fn opened_shards(&self) -> Result<Vec<SealedShard>> {
        self.parts.opened_shards()
    }
}

const AT_ONCE: &str = "at-once.log";
const LATER: &str = "later.log";
