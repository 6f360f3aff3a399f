//! Holds the values of a shard that clients read last, so that not every read goes to the file.
//!
//! A cached value equals the value on disk, at every moment. The writer takes a value out before
//! the transaction that changes it commits. A reader puts a value in only if no such transaction
//! was under way since the miss. So a value may be served without a look at the file, and may go
//! to the next process, which opens the same file.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Of one shard.
pub(crate) struct Cache {
    state: Mutex<Inner>,
    hits: AtomicU64,
    carried: AtomicU64,
}

struct Inner {
    values: HashMap<Bytes, Entry>,
    /// Keys in the order in which they came. A key that was taken out stays until its turn.
    order: VecDeque<Bytes>,
    hasher: RandomState,
    /// One for all keys that share it: odd while a transaction that changes one of them commits.
    versions: Box<[u64]>,
}

struct Entry {
    value: Bytes,
    /// Whether it was read since the cache last passed over it to make room.
    was_read: bool,
}

/// A miss. The reader reads the file after this, and not before.
pub(crate) struct Miss {
    version: u64,
}

impl Cache {
    pub(crate) fn new() -> Self {
        let state = Inner {
            values: HashMap::new(),
            order: VecDeque::new(),
            hasher: RandomState::new(),
            versions: vec![0; VERSIONS].into(),
        };
        Self { state: Mutex::new(state), hits: AtomicU64::new(0), carried: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Bytes, Miss> {
        let mut state = self.state();
        if let Some(entry) = state.values.get_mut(key) {
            entry.was_read = true;
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(entry.value.clone());
        }
        Err(Miss { version: *state.version(key) })
    }

    /// Puts in a value that was read from the file after the miss, unless it may have changed.
    pub(crate) fn fill(&self, miss: &Miss, key: &[u8], value: &Bytes) {
        let mut state = self.state();
        let version = *state.version(key);
        if version == miss.version && version.is_multiple_of(2) {
            state.put(Bytes::copy_from_slice(key), value.clone());
        }
    }

    /// Takes these keys out, and keeps them out until the guard is dropped.
    pub(crate) fn changing<'a>(&self, keys: impl Iterator<Item = &'a Bytes>) -> Changing<'_> {
        let mut state = self.state();
        let mut odd = Vec::new();
        for key in keys {
            state.values.remove(key);
            let index = state.index(key);
            if state.versions[index].is_multiple_of(2) {
                state.versions[index] += 1;
                odd.push(index);
            }
        }
        Changing { cache: self, odd }
    }

    /// Empties the cache: another process may have written the file.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.values.clear();
        state.order.clear();
    }

    /// All values, for [`load`](Self::load): for each the lengths of its key and value, then the
    /// key and the value.
    pub(crate) fn pack(&self) -> Bytes {
        let state = self.state();
        let length = |bytes: &Bytes| u16::try_from(bytes.len()).unwrap_or(0);
        let mut packed = BytesMut::new();
        for (key, Entry { value, .. }) in &state.values {
            packed.put_u16_le(length(key));
            packed.put_u16_le(length(value));
            packed.put_slice(key);
            packed.put_slice(value);
        }
        packed.freeze()
    }

    /// Puts in the values of another process, which sealed the shard as it is now.
    pub(crate) fn load(&self, mut packed: Bytes) {
        let mut state = self.state();
        while let (Ok(key), Ok(value)) = (packed.try_get_u16_le(), packed.try_get_u16_le()) {
            let (key, value) = (usize::from(key), usize::from(value));
            if packed.len() < key + value {
                break;
            }
            let (key, value) = (packed.split_to(key), packed.split_to(value));
            state.put(key, value);
        }
        self.carried.store(state.values.len() as u64, Ordering::Relaxed);
    }

    /// How often a read did not go to the file.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// How many values came from the process before this one.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn put(&mut self, key: Bytes, value: Bytes) {
        if key.len() + value.len() > MAX_ENTRY {
            return;
        }
        // A value that was read since its last turn gets another turn.
        while self.order.len() >= CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            match self.values.get_mut(&oldest) {
                Some(entry) if entry.was_read => {
                    entry.was_read = false;
                    self.order.push_back(oldest);
                }
                _ => drop(self.values.remove(&oldest)),
            }
        }
        self.order.push_back(key.clone());
        self.values.insert(key, Entry { value, was_read: false });
    }

    fn index(&self, key: &[u8]) -> usize {
        usize::try_from(self.hasher.hash_one(key) % VERSIONS as u64).unwrap_or(0)
    }

    fn version(&mut self, key: &[u8]) -> &mut u64 {
        let index = self.index(key);
        &mut self.versions[index]
    }
}

/// A transaction that commits, or fails.
#[must_use = "the keys may be put in again when this is dropped"]
pub(crate) struct Changing<'a> {
    cache: &'a Cache,
    odd: Vec<usize>,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        for index in &self.odd {
            state.versions[*index] += 1;
        }
    }
}

/// Of each of the sixteen shards: 8192 values in all.
const CAPACITY: usize = 512;
/// The maximum length of a key and its value together; a longer pair is not cached.
const MAX_ENTRY: usize = 1 << 10;
const VERSIONS: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(cache: &Cache, key: &[u8]) -> Miss {
        cache.get(key).err().unwrap()
    }

    fn fill(cache: &Cache, key: &str, value: &str) {
        cache.fill(&missing(cache, key.as_bytes()), key.as_bytes(), &value.to_owned().into());
    }

    #[test]
    fn what_was_read_before_a_change_or_during_it_is_not_put_in() {
        let cache = Cache::new();
        let (key, value) = (Bytes::from("k"), Bytes::from("old"));
        let before = missing(&cache, &key);
        let changing = cache.changing([&key].into_iter());
        cache.fill(&before, &key, &value);
        let during = missing(&cache, &key);
        cache.fill(&during, &key, &value);
        let _ = missing(&cache, &key);
        drop(changing);
        cache.fill(&before, &key, &value);
        cache.fill(&during, &key, &value);
        let after = missing(&cache, &key);
        cache.fill(&after, &key, &"new".into());
        assert_eq!(cache.get(&key).ok(), Some("new".into()));
    }

    #[test]
    fn what_changes_is_taken_out_before_it_does() {
        let cache = Cache::new();
        fill(&cache, "k", "old");
        fill(&cache, "other", "value");
        let _changing = cache.changing([&"k".into()].into_iter());
        let _ = missing(&cache, b"k");
        assert_eq!(cache.get(b"other").ok(), Some("value".into()));
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_read() {
        let cache = Cache::new();
        fill(&cache, "hot", "value");
        for n in 0..CAPACITY * 3 {
            fill(&cache, &format!("k{n}"), "value");
            assert_eq!(cache.get(b"hot").ok(), Some("value".into()), "after {n}");
        }
        assert_eq!(cache.state().values.len(), CAPACITY);
        let _ = missing(&cache, b"k0");
        // Keys that were changed leave the order too, in the end.
        for _ in 0..CAPACITY * 3 {
            drop(cache.changing([&"k".into()].into_iter()));
            fill(&cache, "k", "value");
        }
        assert!(cache.state().order.len() <= CAPACITY);
        fill(&cache, "large", &"x".repeat(MAX_ENTRY));
        let _ = missing(&cache, b"large");
    }

    #[test]
    fn what_is_carried_is_what_was_in_it() {
        let (old, new) = (Cache::new(), Cache::new());
        fill(&old, "a", "1");
        fill(&old, "b", "2");
        new.load(old.pack());
        assert_eq!((new.get(b"a").ok(), new.get(b"b").ok()), (Some("1".into()), Some("2".into())));
        assert_eq!((new.carried(), new.hits(), old.hits()), (2, 2, 0));
        // A value that is cut off is not put in.
        let packed = old.pack();
        new.clear();
        new.load(packed.slice(..packed.len() - 1));
        assert_eq!(new.carried(), 1);
    }
}
