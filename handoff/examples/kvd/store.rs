//! The data: keys spread over shards, each a redb file of its own with one writer.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::thread;

use bytes::Bytes;
use handoff::Shard;
use redb::{Database, ReadableDatabase, ReadableTableMetadata};
use tokio::sync::oneshot;

use crate::writer::{Answer, Change, DATA, Mark, Write, WriteError, write_queued};

/// All shards, in the order of their files. A clone is a handle to the same ones.
#[derive(Clone)]
pub(crate) struct Store {
    shards: Vec<Arc<RedbShard>>,
}

impl Store {
    /// Opens every shard, side by side; creates those that are not there. Whoever calls it
    /// holds the data directory's lock.
    pub(crate) fn open(data_dir: &Path) -> handoff::Result<Self> {
        let paths = (0..SHARDS).map(|index| data_dir.join(format!("shard-{index:02}.redb")));
        let paths: Vec<PathBuf> = paths.collect();
        let is_new = paths.iter().any(|path| !path.exists());
        let opened: handoff::Result<Vec<_>> = thread::scope(|scope| {
            let opening = paths.into_iter().map(|path| scope.spawn(|| RedbShard::open(path)));
            // Collected once before joining, or they would be opened one after another.
            let opening: Vec<_> = opening.collect();
            opening
                .into_iter()
                .map(|shard| shard.join().unwrap_or_else(|_| Err(panicked())))
                .collect()
        });
        if is_new {
            // A file is durable once its name is.
            File::open(data_dir)?.sync_all()?;
        }
        Ok(Self { shards: opened?.into_iter().map(Arc::new).collect() })
    }

    pub(crate) fn shards(&self) -> &[Arc<RedbShard>] {
        &self.shards
    }

    pub(crate) fn get(&self, key: &[u8]) -> handoff::Result<Option<Bytes>> {
        self.shard_of(key).get(key)
    }

    pub(crate) fn set(&self, key: Bytes, value: Bytes) -> oneshot::Receiver<Answer> {
        self.shard_of(&key).queue(Change::Set { key, value })
    }

    pub(crate) fn del(&self, key: Bytes) -> oneshot::Receiver<Answer> {
        self.shard_of(&key).queue(Change::Del { key })
    }

    pub(crate) fn incr(&self, key: Bytes) -> oneshot::Receiver<Answer> {
        self.shard_of(&key).queue(Change::Incr { key })
    }

    pub(crate) fn key_count(&self) -> handoff::Result<u64> {
        self.shards.iter().map(|shard| shard.key_count()).sum()
    }

    /// The same in every build, since it says in which file a key lies.
    fn shard_of(&self, key: &[u8]) -> &RedbShard {
        let hash = blake3::hash(key);
        &self.shards[usize::from(hash.as_bytes()[0]) % self.shards.len()]
    }
}

/// One redb file.
pub(crate) struct RedbShard {
    path: PathBuf,
    /// `None` while sealed.
    open: RwLock<Option<OpenShard>>,
    /// What is on disk: of the last commit, also once sealed.
    mark: Arc<Mutex<Mark>>,
}

struct OpenShard {
    db: Arc<Database>,
    /// Dropping it ends the writer, after it has done what is queued.
    queue: mpsc::Sender<Write>,
    writer: thread::JoinHandle<Result<(), redb::Error>>,
}

impl RedbShard {
    pub(crate) fn open(path: PathBuf) -> handoff::Result<Self> {
        let shard = Self { path, open: RwLock::new(None), mark: Arc::default() };
        shard.resume()?;
        Ok(shard)
    }

    pub(crate) fn get(&self, key: &[u8]) -> handoff::Result<Option<Bytes>> {
        self.read(|db| {
            let data = db.begin_read()?.open_table(DATA)?;
            Ok(data.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
        })
    }

    pub(crate) fn key_count(&self) -> handoff::Result<u64> {
        self.read(|db| Ok(db.begin_read()?.open_table(DATA)?.len()?))
    }

    /// Queues a change. The answer comes once it is durable.
    pub(crate) fn queue(&self, change: Change) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let write = Write { change, answer };
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let refused = match &*open {
            Some(open) => open.queue.send(write).err().map(|unsent| unsent.0),
            None => Some(write),
        };
        if let Some(write) = refused {
            let _ = write.answer.send(Err(WriteError::Sealed));
        }
        answered
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> handoff::Result<T> {
        match &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            Some(open) => Ok(read(&open.db).map_err(io::Error::other)?),
            None => Err(io::Error::other(WriteError::Sealed).into()),
        }
    }

    fn mark(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard for RedbShard {
    /// Ends the writer and closes the file, which releases redb's own lock on it.
    fn seal(&self) -> handoff::Result<u64> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(OpenShard { db, queue, writer }) = open.take() {
            drop(queue);
            writer.join().map_err(|_| panicked())?.map_err(io::Error::other)?;
            let db = Arc::into_inner(db).ok_or_else(|| io::Error::other("the file is in use"))?;
            db.close().map_err(io::Error::other)?;
        }
        Ok(self.mark().revision)
    }

    fn revision(&self) -> u64 {
        self.mark().revision
    }

    fn fingerprint(&self) -> handoff::Result<[u8; 32]> {
        Ok(self.mark().digest)
    }

    fn resume(&self) -> handoff::Result<()> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.is_some() {
            return Ok(());
        }
        let db = Database::builder()
            .set_cache_size(CACHE_PER_SHARD)
            .create(&self.path)
            .map_err(io::Error::other)?;
        let db = Arc::new(db);
        *self.mark() = Mark::load(&db).map_err(io::Error::other)?;

        let (queue, queued) = mpsc::channel();
        let writer = {
            let (db, mark) = (Arc::clone(&db), Arc::clone(&self.mark));
            thread::Builder::new().spawn(move || write_queued(&db, &queued, &mark))?
        };
        *open = Some(OpenShard { db, queue, writer });
        Ok(())
    }
}

fn panicked() -> handoff::Error {
    io::Error::other("a thread of the shard panicked").into()
}

/// Part of the data format: another number finds no key again.
const SHARDS: usize = 16;
const CACHE_PER_SHARD: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> Store {
        Store::open(dir).unwrap()
    }

    fn answer(answered: oneshot::Receiver<Answer>) -> Answer {
        answered.blocking_recv().unwrap()
    }

    fn seal_all(store: &Store) -> Vec<(u64, [u8; 32])> {
        let seal = |shard: &Arc<RedbShard>| (shard.seal().unwrap(), shard.fingerprint().unwrap());
        store.shards().iter().map(seal).collect()
    }

    #[test]
    fn writes_are_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        for n in 0..100 {
            assert_eq!(answer(first.set(format!("k{n}").into(), format!("v{n}").into())), Ok(1));
        }
        assert_eq!(answer(first.del("k0".into())), Ok(1));
        assert_eq!(answer(first.del("k0".into())), Ok(0));
        assert_eq!(answer(first.incr("n".into())), Ok(1));
        assert_eq!(answer(first.incr("n".into())), Ok(2));
        seal_all(&first);

        let second = store(dir.path());
        assert_eq!(second.get(b"k0").unwrap(), None);
        for n in 1..100 {
            let value = second.get(format!("k{n}").as_bytes()).unwrap();
            assert_eq!(value, Some(format!("v{n}").into()));
        }
        assert_eq!(second.get(b"n").unwrap(), Some("2".into()));
        assert_eq!(second.key_count().unwrap(), 100);
    }

    #[test]
    fn a_write_that_cannot_be_done_says_why_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        answer(store.set("text".into(), "abc".into())).unwrap();
        answer(store.set("most".into(), i64::MAX.to_string().into())).unwrap();
        assert_eq!(answer(store.incr("text".into())), Err(WriteError::NotAnInteger));
        assert_eq!(answer(store.incr("most".into())), Err(WriteError::Overflow));
        assert_eq!(store.get(b"text").unwrap(), Some("abc".into()));
        assert_eq!(store.get(b"most").unwrap(), Some(i64::MAX.to_string().into()));
    }

    #[test]
    fn what_is_opened_has_the_revisions_and_fingerprints_that_were_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        let answers: Vec<_> =
            (0..500).map(|n| first.set(format!("k{n}").into(), "v".into())).collect();
        answers.into_iter().for_each(|answered| assert_eq!(answer(answered), Ok(1)));
        let sealed = seal_all(&first);
        assert!(sealed.iter().all(|(revision, _)| *revision > 0));

        let second = store(dir.path());
        let marks = |store: &Store| -> Vec<_> {
            let mark = |shard: &Arc<RedbShard>| (shard.revision(), shard.fingerprint().unwrap());
            store.shards().iter().map(mark).collect()
        };
        assert_eq!(marks(&second), sealed);
        for n in 0..500 {
            answer(second.set(format!("k{n}").into(), "w".into())).unwrap();
        }
        assert!(
            marks(&second).iter().zip(&sealed).all(|(now, then)| now.0 > then.0 && now.1 != then.1)
        );
    }

    #[test]
    fn sealing_does_what_is_queued_and_then_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let shard = RedbShard::open(dir.path().join("shard")).unwrap();
        let set = |n: u32| Change::Set { key: format!("k{n}").into(), value: "v".into() };
        let queued: Vec<_> = (0..1000).map(|n| shard.queue(set(n))).collect();
        let revision = shard.seal().unwrap();
        queued.into_iter().for_each(|answered| assert_eq!(answer(answered), Ok(1)));
        assert_eq!(answer(shard.queue(set(0))), Err(WriteError::Sealed));
        assert!(shard.get(b"k0").is_err_and(|error| error.to_string().contains("sealed")));
        assert_eq!((shard.seal().unwrap(), shard.revision()), (revision, revision));
    }

    #[test]
    fn resuming_opens_what_another_process_wrote_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shard");
        let first = RedbShard::open(path.clone()).unwrap();
        let set = |value: &'static str| Change::Set { key: "k".into(), value: value.into() };
        answer(first.queue(set("old"))).unwrap();
        first.seal().unwrap();

        let second = RedbShard::open(path).unwrap();
        answer(second.queue(set("new"))).unwrap();
        second.seal().unwrap();

        first.resume().unwrap();
        first.resume().unwrap();
        assert_eq!(first.get(b"k").unwrap(), Some("new".into()));
        assert_eq!(first.revision(), 2);
        assert_eq!(first.fingerprint().unwrap(), second.fingerprint().unwrap());
        answer(first.queue(set("newest"))).unwrap();
        assert_eq!(first.revision(), 3);
    }
}
