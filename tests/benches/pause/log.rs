//! The data of the daemon: one file, to which a line is appended for each `put`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use handoff::Shard;
use handoff::drainable::RollingDigest;

use crate::tell::{Tell, now};

/// Written, but not synced, before it is acknowledged.
pub(crate) struct Log {
    path: PathBuf,
    /// When it is sealed. Else that is left to whoever has it next.
    syncs: bool,
    tell: Arc<Tell>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// None once sealed.
    file: Option<File>,
    contents: Contents,
}

/// What a process knows of the log that it has read.
pub(crate) struct Contents {
    lines: u64,
    read: u64,
    /// Of all of it, where the mechanism verifies what it opens.
    digest: Option<RollingDigest>,
}

impl Contents {
    pub(crate) fn new(verifies: bool) -> Self {
        Self { lines: 0, read: 0, digest: verifies.then(RollingDigest::new) }
    }

    /// Reads what the file has beyond what was read.
    pub(crate) fn read(&mut self, file: &File) -> io::Result<()> {
        let mut lines = 0;
        let mut count =
            |bytes: &[u8]| lines += bytes.iter().filter(|b| **b == b'\n').count() as u64;
        self.read += match &mut self.digest {
            Some(digest) => digest.catch_up_with(file, count)?,
            None => {
                use std::os::unix::fs::FileExt;
                let left = file.metadata()?.len() - self.read;
                let mut bytes = vec![0; usize::try_from(left).map_err(io::Error::other)?];
                file.read_exact_at(&mut bytes, self.read)?;
                count(&bytes);
                left
            }
        };
        self.lines += lines;
        Ok(())
    }

    fn add(&mut self, line: &[u8]) {
        self.lines += 1;
        self.read += line.len() as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(line);
        }
    }
}

impl Log {
    /// Opens it, which takes `slow` longer than it has to, and counts the lines that are not
    /// counted yet.
    pub(crate) fn open(
        path: &Path,
        mut contents: Contents,
        syncs: bool,
        slow: Duration,
        tell: Arc<Tell>,
    ) -> io::Result<Self> {
        let start = now();
        thread::sleep(slow);
        let file = open(path)?;
        contents.read(&file)?;
        let inner = Mutex::new(Inner { file: Some(file), contents });
        tell.opened(start);
        Ok(Self { path: path.to_owned(), syncs, tell, inner })
    }

    /// Appends a line, and says how many there are.
    pub(crate) fn append(&self, line: &[u8]) -> io::Result<u64> {
        let mut inner = self.inner();
        let Inner { file: Some(file), contents } = &mut *inner else {
            return Err(io::Error::other("the log is sealed"));
        };
        file.write_all(line)?;
        contents.add(line);
        Ok(contents.lines)
    }

    /// Syncs what is there, while more is appended.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let file = self.inner().file.as_ref().map(File::try_clone).transpose()?;
        file.map_or(Ok(()), |file| file.sync_data())
    }

    /// Closes it; the count of lines.
    pub(crate) fn close(&self) -> io::Result<u64> {
        let start = now();
        let mut inner = self.inner();
        if let Some(file) = inner.file.take()
            && self.syncs
        {
            file.sync_data()?;
        }
        self.tell.sealed(start);
        Ok(inner.contents.lines)
    }

    pub(crate) fn lines(&self) -> u64 {
        self.inner().contents.lines
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics with it")
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).open(path)
}

impl Shard for Log {
    fn seal(&self) -> handoff::Result<u64> {
        Ok(self.close()?)
    }

    fn revision(&self) -> u64 {
        self.lines()
    }

    fn fingerprint(&self) -> handoff::Result<[u8; 32]> {
        let digest = self.inner().contents.digest.as_ref().map(RollingDigest::digest);
        Ok(digest.unwrap_or_default())
    }

    fn resume(&self) -> handoff::Result<()> {
        let mut inner = self.inner();
        if inner.file.is_none() {
            let file = open(&self.path)?;
            inner.contents.read(&file)?;
            inner.file = Some(file);
        }
        Ok(())
    }
}
