//! The data: keys spread over shards. Each shard is a redb file of its own with one writer.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::thread;

use bytes::Bytes;
use handoff::Shard;
use handoff::carry::Carried;
use redb::{Database, ReadableDatabase, ReadableTableMetadata};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::cache::Cache;
use crate::writer::{Answer, Change, DATA, Mark, Write, WriteError, write_queued};

/// All shards, in the order of their files. A clone is a handle to the same ones.
#[derive(Clone)]
pub(crate) struct Store {
    shards: Vec<Arc<RedbShard>>,
}

impl Store {
    /// Opens every shard, side by side; creates those that are not there. The caller holds the data
    /// directory's lock (invariant 1).
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

    /// The values in the caches of the sealed shards.
    pub(crate) fn hot_values(&self) -> HotValues {
        let of_shard = |shard: &Arc<RedbShard>| ShardValues {
            digest: shard.mark().digest,
            values: shard.cache.pack(),
        };
        HotValues(self.shards.iter().map(of_shard).collect())
    }

    /// Fills each cache with the values of another process, where its shard has not changed since.
    /// The caller does so before it writes anything.
    pub(crate) fn warm(&self, HotValues(shards): HotValues) {
        for (shard, ShardValues { digest, values }) in self.shards.iter().zip(shards) {
            if shard.mark().digest == digest {
                shard.cache.load(values);
            }
        }
    }

    /// How often a cache served a value.
    pub(crate) fn cache_hits(&self) -> u64 {
        self.shards.iter().map(|shard| shard.cache.hits()).sum()
    }

    /// How many values the caches received from the process before this one.
    pub(crate) fn cache_carried(&self) -> u64 {
        self.shards.iter().map(|shard| shard.cache.carried()).sum()
    }

    /// The shard of a key, the same in every build: it names the file in which a key lies.
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
    /// The mark on disk, of the last commit; it stays after the seal.
    mark: Arc<Mutex<Mark>>,
    cache: Arc<Cache>,
}

/// The caches of all shards, on their way to the next process.
#[derive(Serialize, Deserialize)]
pub(crate) struct HotValues(Vec<ShardValues>);

#[derive(Serialize, Deserialize)]
struct ShardValues {
    /// Of the shard as it was sealed: see [`Mark`].
    digest: [u8; 32],
    /// See [`Cache::pack`].
    #[serde(with = "crate::blob")]
    values: Bytes,
}

impl Carried for HotValues {
    const NAME: &'static str = "kvd.hot-values";
    const VERSION: u32 = 1;
}

struct OpenShard {
    db: Arc<Database>,
    /// Dropping it ends the writer, after that has done all queued writes.
    queue: mpsc::Sender<Write>,
    writer: thread::JoinHandle<Result<(), redb::Error>>,
}

impl RedbShard {
    pub(crate) fn open(path: PathBuf) -> handoff::Result<Self> {
        let (mark, cache) = (Arc::default(), Arc::new(Cache::new()));
        let shard = Self { path, open: RwLock::new(None), mark, cache };
        shard.resume()?;
        Ok(shard)
    }

    pub(crate) fn get(&self, key: &[u8]) -> handoff::Result<Option<Bytes>> {
        self.read(|db| {
            let miss = match self.cache.get(key) {
                Ok(value) => return Ok(Some(value)),
                Err(miss) => miss,
            };
            let value = read_file(db, key)?;
            if let Some(value) = &value {
                self.cache.fill(&miss, key, value);
            }
            Ok(value)
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

    /// Reads nothing of a sealed shard, not even from the cache: another process may have changed
    /// it.
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
        let found = Mark::load(&db).map_err(io::Error::other)?;
        let sealed = std::mem::replace(&mut *self.mark(), found);
        if found != sealed {
            self.cache.clear();
        }

        let (queue, queued) = mpsc::channel();
        let writer = {
            let (db, mark) = (Arc::clone(&db), Arc::clone(&self.mark));
            let cache = Arc::clone(&self.cache);
            thread::Builder::new().spawn(move || write_queued(&db, &queued, &mark, &cache))?
        };
        *open = Some(OpenShard { db, queue, writer });
        Ok(())
    }
}

fn read_file(db: &Database, key: &[u8]) -> Result<Option<Bytes>, redb::Error> {
    let data = db.begin_read()?.open_table(DATA)?;
    Ok(data.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
}

fn panicked() -> handoff::Error {
    io::Error::other("a thread of the shard panicked").into()
}

/// Part of the data format: another number finds no key again.
const SHARDS: usize = 16;
const CACHE_PER_SHARD: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

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

    #[test]
    fn a_value_that_was_read_before_a_write_is_not_served_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let shard = RedbShard::open(dir.path().join("shard")).unwrap();
        let set = |value: &'static str| Change::Set { key: "k".into(), value: value.into() };
        let read = |shard: &RedbShard| {
            shard.read(|db| read_file(db, b"k")).unwrap().expect("it was written")
        };
        answer(shard.queue(set("old"))).unwrap();
        let miss = shard.cache.get(b"k").err().unwrap();
        let old = read(&shard);
        answer(shard.queue(set("new"))).unwrap();
        // The reader was slow.
        shard.cache.fill(&miss, b"k", &old);
        assert_eq!((old, shard.get(b"k").unwrap()), ("old".into(), Some("new".into())));

        assert_eq!((shard.cache.hits(), shard.get(b"k").unwrap()), (0, Some("new".into())));
        assert_eq!(shard.cache.hits(), 1);
        answer(shard.queue(Change::Del { key: "k".into() })).unwrap();
        assert_eq!((shard.get(b"k").unwrap(), shard.cache.hits()), (None, 1));
        answer(shard.queue(Change::Incr { key: "k".into() })).unwrap();
        assert_eq!(shard.get(b"k").unwrap(), Some("1".into()));
    }

    #[test]
    fn no_reader_goes_back_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let shard = RedbShard::open(dir.path().join("shard")).unwrap();
        let (acknowledged, done) = (AtomicI64::new(0), AtomicBool::new(false));
        let number = |value: Option<Bytes>| -> i64 {
            value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap())
        };
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !done.load(Ordering::SeqCst) {
                        let least = acknowledged.load(Ordering::SeqCst).max(last);
                        last = number(shard.get(b"n").unwrap());
                        assert!(last >= least, "{last} was read after {least}");
                    }
                });
            }
            for n in 1..=500 {
                assert_eq!(answer(shard.queue(Change::Incr { key: "n".into() })), Ok(n));
                acknowledged.store(n, Ordering::SeqCst);
            }
            done.store(true, Ordering::SeqCst);
        });
        assert!(shard.cache.hits() > 0);
    }

    #[test]
    fn a_cache_is_carried_where_its_shard_is_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        for n in 0..100 {
            answer(first.set(format!("k{n}").into(), format!("v{n}").into())).unwrap();
            first.get(format!("k{n}").as_bytes()).unwrap();
        }
        seal_all(&first);
        let hot_values = first.hot_values();

        let second = store(dir.path());
        second.warm(hot_values);
        assert_eq!((second.cache_carried(), second.cache_hits()), (100, 0));
        for n in 0..100 {
            let value = second.get(format!("k{n}").as_bytes()).unwrap();
            assert_eq!(value, Some(format!("v{n}").into()));
        }
        assert_eq!(second.cache_hits(), 100);
        let hot_values = second.hot_values();
        answer(second.set("k0".into(), "other".into())).unwrap();
        seal_all(&second);

        let third = store(dir.path());
        third.warm(hot_values);
        assert!(third.cache_carried() < 100);
        assert_eq!(third.get(b"k0").unwrap(), Some("other".into()));
    }

    #[test]
    fn resuming_keeps_the_cache_where_nobody_wrote_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shard");
        let first = RedbShard::open(path.clone()).unwrap();
        let set = |value: &'static str| Change::Set { key: "k".into(), value: value.into() };
        answer(first.queue(set("old"))).unwrap();
        let get = || first.get(b"k").unwrap();
        assert_eq!((get(), get(), first.cache.hits()), (Some("old".into()), Some("old".into()), 1));
        first.seal().unwrap();
        assert!(first.get(b"k").is_err_and(|error| error.to_string().contains("sealed")));
        first.resume().unwrap();
        assert_eq!((get(), first.cache.hits()), (Some("old".into()), 2));

        first.seal().unwrap();
        let second = RedbShard::open(path).unwrap();
        answer(second.queue(set("new"))).unwrap();
        second.seal().unwrap();
        first.resume().unwrap();
        assert_eq!((get(), first.cache.hits()), (Some("new".into()), 2));
    }
}
