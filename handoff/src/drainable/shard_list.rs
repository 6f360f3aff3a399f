//! All shards of a daemon, sealed side by side and resumed in reverse.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Mutex, PoisonError};

use crate::drainable::{Fingerprint, SealProgress, SealReport, SealedShard, Shard, Shards};
use crate::error::{Error, Result};
use crate::fence::fenced;
use crate::log;
use crate::sys::pool;
use crate::terms::MAX_SHARDS;

/// All shards of a daemon with their names, in declared order.
///
/// `#[derive(Drainable)]` gathers one for each hook. An implementation of
/// [`Drainable`](crate::Drainable) by hand may do the same.
///
/// ```
/// # use handoff::drainable::{ShardList, SealReport, Shard};
/// # fn seal(log: &impl Shard, tables: &Vec<impl Shard>) -> handoff::Result<SealReport> {
/// let shard_list = ShardList::new().with("log", log).with("tables", tables);
/// let sealed = shard_list.seal(&|progress| println!("{progress:?}"))?;
/// Ok(SealReport::of_shards(&sealed))
/// # }
/// ```
#[derive(Default)]
pub struct ShardList<'a> {
    members: Vec<Member<'a>>,
}

impl<'a> ShardList<'a> {
    /// Without shards.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more shard, or a collection of them, after the others.
    #[must_use]
    pub fn with<S: Shards>(mut self, name: &str, shards: &'a S) -> Self {
        let field = self.members.last().map_or(0, |last| last.field + 1);
        shards.each_shard(name, &mut |name, shard| {
            self.members.push(Member { name, field, shard });
        });
        self
    }

    /// How many shards there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The revisions now, in declared order.
    #[must_use]
    pub fn revisions(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.shard.revision()).collect()
    }

    /// Settles all shards, side by side; in a swap the threads for it stay for the seal.
    ///
    /// # Errors
    ///
    /// [`Error::Shard`] names the first shard, in declared order, of those that failed or
    /// panicked. No further one was begun.
    pub fn settle(&self) -> Result<()> {
        pool::prepare(self.len().min(MAX_WORKERS).saturating_sub(1));
        self.each(|member| member.fenced("settle", |shard| shard.settle())).map(drop)
    }

    /// Seals all shards, side by side, and takes their fingerprints. A thread that has sealed a
    /// shard calls `progress`, one thread at a time.
    ///
    /// # Errors
    ///
    /// [`Error::Shard`] names the first shard, in declared order, of those that failed or
    /// panicked. No further one was begun, and this has resumed the sealed ones; a failure to
    /// resume is logged. As [`check`](Self::check); nothing was sealed then.
    pub fn seal(&self, progress: &(dyn Fn(SealProgress) + Sync)) -> Result<Vec<SealedShard>> {
        self.check()?;
        let seals = self.members.iter().map(|_| None).collect();
        let mut sealing = Sealing { shard_list: self, seals, sealed: 0 };
        side_by_side(
            self.len(),
            |index| self.members[index].seal(),
            |seal| matches!(seal, Seal::Done(_)),
            |index, seal| sealing.note(index, seal, progress),
        );
        sealing.finish()
    }

    /// Resumes all shards: the last field first, and those of one collection side by side.
    /// A shard that fails keeps no other from resuming.
    ///
    /// # Errors
    ///
    /// [`Error::Shard`] names the first that failed; the others are logged.
    pub fn resume(&self) -> Result<()> {
        resume(&self.members.iter().collect::<Vec<_>>())
    }

    /// The shards as they are now, in declared order, with their fingerprints.
    ///
    /// # Errors
    ///
    /// [`Error::Shard`] names the first shard, in declared order, that failed to give its
    /// fingerprint. As [`check`](Self::check).
    pub fn inspect(&self) -> Result<Vec<SealedShard>> {
        self.check()?;
        self.each(Member::inspect)
    }

    /// The results of `task` for all members, side by side; or the first failure in declared order.
    fn each<T: Send>(&self, task: impl Fn(&Member<'a>) -> Result<T> + Sync) -> Result<Vec<T>> {
        let mut said: Vec<_> = self.members.iter().map(|_| None).collect();
        side_by_side(
            self.len(),
            |index| task(&self.members[index]),
            Result::is_ok,
            |index, result| said[index] = Some(result),
        );
        said.into_iter().flatten().collect()
    }

    /// Whether a swap can seal these shards.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateShard`] when two have one name: a collection may give one of its shards
    /// the name of another field. [`Error::TooManyShards`].
    pub fn check(&self) -> Result<()> {
        if self.len() > MAX_SHARDS {
            return Err(Error::TooManyShards(self.len()));
        }
        let mut names = HashSet::new();
        match self.members.iter().find(|member| !names.insert(&member.name)) {
            Some(member) => Err(Error::DuplicateShard { name: member.name.clone() }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ShardList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|member| &member.name)).finish()
    }
}

impl SealReport {
    /// The report of these shards; its fingerprint is that of [`Fingerprint::of_shards`].
    #[must_use]
    pub fn of_shards(shards: &[SealedShard]) -> Self {
        Self {
            last_revision_per_shard: shards.iter().map(|shard| shard.revision).collect(),
            data_dir_fingerprint: Fingerprint::of_shards(shards),
        }
    }
}

struct Member<'a> {
    name: String,
    /// Which call of [`ShardList::with`] it came by.
    field: usize,
    shard: &'a dyn Shard,
}

impl Member<'_> {
    fn seal(&self) -> Seal {
        let revision = match self.fenced("seal", |shard| shard.seal()) {
            Ok(revision) => revision,
            Err(error) => return Seal::Failed(error),
        };
        match self.fenced("fingerprint", |shard| shard.fingerprint()) {
            Ok(digest) => Seal::Done(SealedShard { name: self.name.clone(), revision, digest }),
            Err(error) => Seal::Unread(error),
        }
    }

    fn inspect(&self) -> Result<SealedShard> {
        self.fenced("fingerprint", |shard| {
            let (revision, digest) = (shard.revision(), shard.fingerprint()?);
            Ok(SealedShard { name: self.name.clone(), revision, digest })
        })
    }

    /// Calls the shard. An error, or a panic as an error, gets the shard's name.
    fn fenced<T>(&self, hook: &'static str, call: impl Fn(&dyn Shard) -> Result<T>) -> Result<T> {
        fenced(hook, || call(self.shard))
            .map_err(|source| Error::Shard { name: self.name.clone(), source: Box::new(source) })
    }
}

/// The result of one shard's seal.
enum Seal {
    Done(SealedShard),
    /// It is sealed, but its fingerprint failed.
    Unread(Error),
    Failed(Error),
}

/// A seal of all shards that is under way.
struct Sealing<'a> {
    shard_list: &'a ShardList<'a>,
    /// In declared order; `None` was not begun.
    seals: Vec<Option<Seal>>,
    sealed: u32,
}

impl Sealing<'_> {
    fn note(&mut self, index: usize, seal: Seal, progress: &(dyn Fn(SealProgress) + Sync)) {
        if let Seal::Done(shard) = &seal {
            self.sealed += 1;
            progress(SealProgress {
                shards_sealed: self.sealed,
                shards_total: u32::try_from(self.shard_list.len()).unwrap_or(u32::MAX),
                last_revision: shard.revision,
            });
        }
        self.seals[index] = Some(seal);
    }

    /// All shards, or none: where one failed, this resumes the sealed ones.
    fn finish(self) -> Result<Vec<SealedShard>> {
        let mut shards = Vec::with_capacity(self.seals.len());
        let mut sealed = Vec::new();
        let mut failure = None;
        for (member, seal) in self.shard_list.members.iter().zip(self.seals) {
            match seal {
                None => {}
                Some(Seal::Done(shard)) => {
                    sealed.push(member);
                    shards.push(shard);
                }
                Some(Seal::Unread(error)) => {
                    sealed.push(member);
                    failure.get_or_insert(error);
                }
                Some(Seal::Failed(error)) => {
                    failure.get_or_insert(error);
                }
            }
        }
        let Some(failure) = failure else {
            return Ok(shards);
        };
        // The incumbent resumes everything in `resume_after_abort`, until it succeeds (invariant
        // 5): here a failure to resume must not hide the cause of the failed seal.
        if let Err(error) = resume(&sealed) {
            log::warn!(
                %error,
                "a shard could not be resumed after a failed seal; the incumbent resumes it again before it serves"
            );
        }
        Err(failure)
    }
}

/// Resumes members that are in declared order.
fn resume(members: &[&Member<'_>]) -> Result<()> {
    let mut outcome = Ok(());
    for field in members.chunk_by(|one, next| one.field == next.field).rev() {
        let resume = |index: usize| field[index].fenced("resume", |shard| shard.resume());
        side_by_side(
            field.len(),
            resume,
            |_| true,
            |_, result| match result {
                Err(error) if outcome.is_err() => {
                    log::warn!(%error, "another shard could not be resumed either");
                }
                Err(error) => outcome = Err(error),
                Ok(()) => {}
            },
        );
    }
    outcome
}

/// Calls `task` with each index, on this thread and, where that takes long, on as many others as
/// are useful. Calls `done` with each result, one at a time, in the order of completion. The tasks
/// begin in the order of the indices, and none begins once a result is not `good`.
fn side_by_side<T: Send>(
    count: usize,
    task: impl Fn(usize) -> T + Sync,
    good: impl Fn(&T) -> bool + Sync,
    done: impl FnMut(usize, T) + Send,
) {
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let done = Mutex::new(done);
    let work = || {
        while !stopped.load(Relaxed) {
            let index = next.fetch_add(1, Relaxed);
            if index >= count {
                return;
            }
            let result = task(index);
            if !good(&result) {
                stopped.store(true, Relaxed);
            }
            (done.lock().unwrap_or_else(PoisonError::into_inner))(index, result);
        }
    };
    let others = count.min(MAX_WORKERS).saturating_sub(1);
    pool::side_by_side(others, &work);
}

/// Seals wait for disks rather than for processors, so more threads than processors help.
const MAX_WORKERS: usize = 64;

#[cfg(test)]
mod tests;
