//! The data of the daemon: one file, to which a line is appended for each `put`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use handoff::Shard;

use crate::tell::{Tell, now};

/// Written, but not synced, before it is acknowledged; synced when it is sealed.
pub(crate) struct Log {
    path: PathBuf,
    tell: Arc<Tell>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// None once sealed.
    file: Option<File>,
    lines: u64,
    /// Of all lines, where the mechanism verifies what it opens.
    digest: Option<blake3::Hasher>,
}

impl Log {
    /// Opens it anew, which takes `slow` longer than it has to, and counts its lines.
    pub(crate) fn open(
        path: &Path,
        verifies: bool,
        slow: Duration,
        tell: Arc<Tell>,
    ) -> io::Result<Self> {
        let start = now();
        thread::sleep(slow);
        let inner = Mutex::new(Inner::open(path, verifies)?);
        tell.opened(start);
        Ok(Self { path: path.to_owned(), tell, inner })
    }

    /// Appends a line, and says how many there are.
    pub(crate) fn append(&self, line: &[u8]) -> io::Result<u64> {
        let mut inner = self.inner();
        let Inner { file: Some(file), lines, digest } = &mut *inner else {
            return Err(io::Error::other("the log is sealed"));
        };
        file.write_all(line)?;
        *lines += 1;
        if let Some(digest) = digest {
            digest.update(line);
        }
        Ok(*lines)
    }

    /// Syncs what is there, while more is appended.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let file = self.inner().file.as_ref().map(File::try_clone).transpose()?;
        file.map_or(Ok(()), |file| file.sync_data())
    }

    /// Syncs and closes; the count of lines.
    pub(crate) fn close(&self) -> io::Result<u64> {
        let start = now();
        let mut inner = self.inner();
        if let Some(file) = inner.file.take() {
            file.sync_data()?;
        }
        self.tell.sealed(start);
        Ok(inner.lines)
    }

    pub(crate) fn lines(&self) -> u64 {
        self.inner().lines
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics with it")
    }
}

impl Inner {
    fn open(path: &Path, verifies: bool) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let mut contents = Vec::new();
        file.read_to_end(&mut contents)?;
        let lines = contents.iter().filter(|byte| **byte == b'\n').count() as u64;
        let digest = verifies.then(|| {
            let mut digest = blake3::Hasher::new();
            digest.update(&contents);
            digest
        });
        Ok(Self { file: Some(file), lines, digest })
    }
}

impl Shard for Log {
    fn seal(&self) -> handoff::Result<u64> {
        Ok(self.close()?)
    }

    fn revision(&self) -> u64 {
        self.lines()
    }

    fn fingerprint(&self) -> handoff::Result<[u8; 32]> {
        let digest = self.inner().digest.as_ref().map(blake3::Hasher::finalize);
        Ok(digest.map_or([0; 32], Into::into))
    }

    fn resume(&self) -> handoff::Result<()> {
        let mut inner = self.inner();
        if inner.file.is_none() {
            *inner = Inner::open(&self.path, inner.digest.is_some())?;
        }
        Ok(())
    }
}
