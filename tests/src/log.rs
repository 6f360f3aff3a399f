//! A log as a shard whose fingerprint costs what was appended: for benches.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use handoff::drainable::{Checkpoint, RollingDigest};
use handoff::{Result, Shard};

/// A file to which is only appended; a checkpoint of its digest lies beside it.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// None once sealed.
    file: Option<File>,
    digest: RollingDigest,
}

impl Log {
    /// Reads what came after the checkpoint, by a process that need not have the lock.
    ///
    /// # Errors
    ///
    /// The file is there, and cannot be read.
    pub fn read_ahead(path: &Path) -> Result<RollingDigest> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(RollingDigest::new());
            }
            Err(error) => return Err(error.into()),
        };
        let kept = fs::read(checkpoint_of(path)).unwrap_or_default();
        let kept = Checkpoint::from_bytes(&kept).unwrap_or_default();
        Ok(RollingDigest::go_on(kept, &file)?)
    }

    /// Opens it for writing, and reads what came after what was read.
    ///
    /// # Errors
    ///
    /// It cannot be opened or read.
    pub fn open(path: &Path, mut digest: RollingDigest) -> Result<Self> {
        let file = open(path)?;
        catch_up(&mut digest, &file)?;
        let inner = Mutex::new(Inner { file: Some(file), digest });
        Ok(Self { path: path.to_owned(), inner })
    }

    /// Appends.
    ///
    /// # Errors
    ///
    /// It is sealed, or cannot be written.
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        let Inner { file: Some(file), digest } = &mut *inner else {
            return Err(io::Error::other("the log is sealed"));
        };
        file.write_all(bytes)?;
        digest.update(bytes);
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard for Log {
    fn settle(&self) -> Result<()> {
        let (file, checkpoint) = {
            let inner = self.inner();
            let file = inner.file.as_ref().map(File::try_clone).transpose()?;
            (file, inner.digest.checkpoint())
        };
        if let Some(file) = file {
            file.sync_data()?;
            // Of what is durable now.
            let beside = checkpoint_of(&self.path).with_extension("new");
            fs::write(&beside, checkpoint.to_bytes())?;
            fs::rename(beside, checkpoint_of(&self.path))?;
        }
        Ok(())
    }

    fn seal(&self) -> Result<u64> {
        let mut inner = self.inner();
        inner.file = None;
        Ok(inner.digest.length())
    }

    fn revision(&self) -> u64 {
        self.inner().digest.length()
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        Ok(self.inner().digest.digest())
    }

    fn resume(&self) -> Result<()> {
        let mut inner = self.inner();
        if inner.file.is_none() {
            let file = open(&self.path)?;
            catch_up(&mut inner.digest, &file)?;
            inner.file = Some(file);
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).open(path)
}

fn catch_up(digest: &mut RollingDigest, file: &File) -> io::Result<()> {
    digest.catch_up(file).map(drop)
}

fn checkpoint_of(path: &Path) -> PathBuf {
    path.with_extension("digest")
}
