//! The one thread that writes a shard. It takes the writes that many connections have queued,
//! commits them as one transaction, and answers all of them.

use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};
use tokio::sync::oneshot;

use crate::cache::Cache;

/// One write that waits for the next transaction. The writer answers it once it is durable.
pub(crate) struct Write {
    pub(crate) change: Change,
    pub(crate) answer: oneshot::Sender<Answer>,
}

pub(crate) enum Change {
    /// Answered with 1.
    Set { key: Bytes, value: Bytes },
    /// Answered with the number of keys removed, 0 or 1.
    Del { key: Bytes },
    /// Answered with the new value.
    Incr { key: Bytes },
}

impl Change {
    const fn key(&self) -> &Bytes {
        match self {
            Self::Set { key, .. } | Self::Del { key } | Self::Incr { key } => key,
        }
    }
}

pub(crate) type Answer = Result<i64, WriteError>;

/// The reason why a write was not done. After a failed commit the write may be on disk or not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    #[error("increment or decrement would overflow")]
    Overflow,
    #[error("the shard is sealed")]
    Sealed,
    #[error("the write failed: {0}")]
    Storage(String),
}

/// How far a shard has been written. It lies in the shard's file and changes in the same
/// transaction as the data, so it always matches the data on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Grows by 1 with each transaction.
    pub(crate) revision: u64,
    /// BLAKE3 over the digest before, the revision, and the changes of the transaction.
    pub(crate) digest: [u8; 32],
}

impl Mark {
    /// Reads it from the file. A new file gets its tables.
    pub(crate) fn load(db: &Database) -> Result<Self, redb::Error> {
        match db.begin_read()?.open_table(META) {
            Ok(meta) => Ok(Self::of(&meta)?),
            Err(redb::TableError::TableDoesNotExist(_)) => {
                let transaction = db.begin_write()?;
                transaction.open_table(DATA)?;
                transaction.open_table(META)?;
                transaction.commit()?;
                Ok(Self::default())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn of(
        meta: &impl ReadableTable<&'static str, (u64, &'static [u8; 32])>,
    ) -> Result<Self, redb::StorageError> {
        Ok(meta.get(MARK)?.map_or_else(Self::default, |mark| {
            let (revision, digest) = mark.value();
            Self { revision, digest: *digest }
        }))
    }
}

/// Writes until the queue's senders are gone and the queue is empty: dropping the sender ends
/// the writer, after it has done every queued write.
///
/// # Errors
///
/// The first commit that failed. The writer answers the writes of a failed commit with errors.
pub(crate) fn write_queued(
    db: &Database,
    queue: &mpsc::Receiver<Write>,
    mark: &Mutex<Mark>,
    cache: &Cache,
) -> Result<(), redb::Error> {
    let mut outcome = Ok(());
    while let Ok(first) = queue.recv() {
        let batch: Vec<Write> =
            std::iter::once(first).chain(queue.try_iter().take(MAX_BATCH - 1)).collect();
        match commit(db, &batch, cache) {
            Ok((committed, answers)) => {
                *mark.lock().unwrap_or_else(PoisonError::into_inner) = committed;
                for (write, answer) in batch.into_iter().zip(answers) {
                    // A connection that is gone takes no answer.
                    let _ = write.answer.send(answer);
                }
            }
            Err(error) => {
                let answer = WriteError::Storage(error.to_string());
                for write in batch {
                    let _ = write.answer.send(Err(answer.clone()));
                }
                outcome = outcome.and(Err(error));
            }
        }
    }
    outcome
}

fn commit(
    db: &Database,
    batch: &[Write],
    cache: &Cache,
) -> Result<(Mark, Vec<Answer>), redb::Error> {
    // Durability::Immediate is the default: commit returns once the file is synced.
    let transaction = db.begin_write()?;
    let mut answers = Vec::with_capacity(batch.len());
    let mark = {
        let mut data = transaction.open_table(DATA)?;
        let mut meta = transaction.open_table(META)?;
        let before = Mark::of(&meta)?;
        let revision = before.revision + 1;
        let mut digest = blake3::Hasher::new();
        digest.update(&before.digest).update(&revision.to_le_bytes());
        for write in batch {
            answers.push(apply(&write.change, &mut data, &mut digest)?);
        }
        let mark = Mark { revision, digest: digest.finalize().into() };
        meta.insert(MARK, (mark.revision, &mark.digest))?;
        mark
    };
    // The writer answers after it drops this guard, so that a client then reads its own write.
    let _changing = cache.changing(batch.iter().map(|write| write.change.key()));
    transaction.commit()?;
    Ok((mark, answers))
}

/// The outer error is the file's and fails the batch. The inner one goes to the client.
fn apply(
    change: &Change,
    data: &mut Table<'_, &'static [u8], &'static [u8]>,
    digest: &mut blake3::Hasher,
) -> Result<Answer, redb::Error> {
    match change {
        Change::Set { key, value } => {
            data.insert(&key[..], &value[..])?;
            chain(digest, b"set", &[key, value]);
            Ok(Ok(1))
        }
        Change::Del { key } => {
            let removed = data.remove(&key[..])?.is_some();
            chain(digest, b"del", &[key]);
            Ok(Ok(i64::from(removed)))
        }
        Change::Incr { key } => {
            let old = data.get(&key[..])?.map_or(Ok(0), |value| integer(value.value()));
            let new = old.and_then(|old| old.checked_add(1).ok_or(WriteError::Overflow));
            if let Ok(new) = new {
                let value = new.to_string();
                data.insert(&key[..], value.as_bytes())?;
                chain(digest, b"set", &[key, value.as_bytes()]);
            }
            Ok(new)
        }
    }
}

/// Lengths go before the bytes, so that no two lists of changes hash alike.
fn chain(digest: &mut blake3::Hasher, verb: &[u8; 3], parts: &[&[u8]]) {
    digest.update(verb);
    for part in parts {
        digest.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
}

fn integer(value: &[u8]) -> Result<i64, WriteError> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok()).ok_or(WriteError::NotAnInteger)
}

pub(crate) const DATA: TableDefinition<&[u8], &[u8]> = TableDefinition::new("data");
const META: TableDefinition<&str, (u64, &[u8; 32])> = TableDefinition::new("meta");
const MARK: &str = "mark";

/// Bounds the time until the first of a batch is answered.
const MAX_BATCH: usize = 4096;
