//! One start of a build on a data directory, without a process of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::control::Listeners;
use crate::daemon::Opening;
use crate::datadir::{DataDirLock, SealManifest};
use crate::drainable::{Drainable, SealedShard, SealedState, check};
use crate::error::Result;
use crate::fence::fenced;
use crate::incumbent::{OnCommit, StopHandle};

/// The sockets that each start gets.
#[derive(Debug, Default)]
pub(super) struct Sockets(pub(super) Vec<(String, OwnedFd)>);

impl Sockets {
    fn listeners(&self) -> io::Result<Listeners> {
        let duplicate =
            |(name, socket): &(String, OwnedFd)| Ok((name.clone(), socket.try_clone()?));
        Listeners::new(self.0.iter().map(duplicate).collect::<io::Result<Vec<_>>>()?)
    }
}

/// The state in which a start finds the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The incumbent of a swap has sealed it.
    Swap,
    /// A clean stop has sealed it.
    Stop,
    /// It has no seal: its writer has crashed, or there was none.
    Crash,
}

/// A build that has opened the data and verified it against the seal.
pub(super) struct Started<D> {
    pub(super) state: D,
    pub(super) on_commit: OnCommit,
    // The last: nothing of the state may outlive it.
    lock: DataDirLock,
}

impl<D: Drainable> Started<D> {
    pub(super) fn on(
        data_dir: &Path,
        after: After,
        sockets: &Sockets,
        open: &dyn Fn(&mut Opening<'_>) -> Result<D>,
    ) -> Result<Self> {
        let lock = DataDirLock::acquire_or_break_stale(data_dir)?;
        lock.check_schema(&D::schema())?;
        let manifest = lock.manifest()?;
        if manifest.is_none() && after != After::Crash {
            return Err(SealManifest::missing(lock.place()));
        }
        let (mut listeners, stop) = (sockets.listeners()?, StopHandle::new()?);
        let is_successor = after == After::Swap;
        let mut opening = Opening::new(&lock, &mut listeners, is_successor, None, &stop);
        let state = fenced("open", || open(&mut opening))?;
        let (healthy, on_commit) = opening.finish();
        let started = Self { state, on_commit, lock };
        if let Some(manifest) = manifest {
            manifest.verify(&started.shards()?, &D::schema())?;
        }
        fenced("check", || check(&started.state))?;
        if is_successor && !healthy {
            let words = "its own check of its health failed, so that a swap is rolled back";
            return Err(io::Error::other(words).into());
        }
        Ok(started)
    }

    pub(super) fn shards(&self) -> Result<Vec<SealedShard>> {
        fenced("opened_shards", || self.state.opened_shards())
    }

    /// Becomes the writer, and runs so many steps of `on_commit`.
    pub(super) fn commit(&mut self, steps: usize) -> Result<()> {
        let leaves = self.lock.record_schema(&D::schema())?;
        self.lock.record_serving(&[])?;
        leaves.write();
        fenced("on_commit", || self.on_commit.run_first(steps))
    }

    /// Serves for as long as `during` takes, and stops cleanly.
    pub(super) fn serve(mut self, during: impl FnOnce(&D) -> Result<()>) -> Result<()> {
        let Self { state, lock, .. } = &mut self;
        fenced("admit", || state.admit())?;
        during(state)?;
        fenced("drain", || state.drain(Instant::now() + GRACE))?;
        fenced("settle", || state.settle())?;
        let SealedState { report, shards } = fenced("seal", || state.seal_shards(&|_| ()))?;
        let generation = lock.generation();
        SealManifest::of_seal(generation, &report, shards, D::schema(), true)
            .write(lock.place())?;
        lock.release_sealed(true)
    }
}

/// Of a drain: nothing is in flight but what the test itself has left.
const GRACE: Duration = Duration::from_secs(10);
