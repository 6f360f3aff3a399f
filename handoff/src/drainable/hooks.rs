//! The trait between the library and a daemon.

use std::time::Instant;

use crate::carry::{Carriage, Source};
use crate::drainable::{
    DrainReport, Schema, SealProgress, SealReport, SealedShard, SealedState, StateSnapshot,
};
use crate::error::Result;

/// A daemon's state, as the [`Incumbent`](crate::Incumbent) drives it through a swap.
///
/// Most daemons derive it (`#[derive(Drainable)]`). The hooks run on threads of the library, one
/// after the other, in this order. The next drain of a swap, or the last seal of a clean stop,
/// waits for the [`settle`](Self::settle) after a commit:
///
/// ```text
/// admit -> (settle, after a commit)
///   -> settle -> drain -> seal -> (replaced: nothing more is called)
///                             -> resume_after_abort -> admit ...
/// ```
///
/// A hook that panics counts as one that returned an error. A hook that never returns keeps the
/// daemon from serving: the incumbent can undo nothing beside it, and the supervisor reports
/// `Unknown`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be drained and sealed",
    note = "put `#[derive(handoff::Drainable)]` on it, or implement its four hooks by hand"
)]
pub trait Drainable: Send + Sync {
    /// Does ahead of a [`drain`](Self::drain), while the daemon still admits requests, work that
    /// the seal would else do while clients wait. The library calls it also after a commit, from
    /// another thread, and before the last seal of a clean stop. See
    /// [`Shard::settle`](crate::Shard::settle).
    ///
    /// # Errors
    ///
    /// Ahead of a `drain` any error undoes the swap. For the other two calls see
    /// [`Shard::settle`](crate::Shard::settle).
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Stops admitting work, and waits until the work in flight has ended or `deadline` has passed.
    /// A hook that is written by hand may make acknowledged writes durable here too, so that the
    /// [`seal`](Self::seal) takes less time; the seal has to in any case. The derived hook makes
    /// none durable: it closes the gates, and waits for the requests inside.
    ///
    /// # Errors
    ///
    /// Any error undoes the swap: [`resume_after_abort`](Self::resume_after_abort) follows.
    fn drain(&self, deadline: Instant) -> Result<DrainReport>;

    /// Flushes, syncs and closes every shard for writing. The incumbent releases the lock once
    /// this has returned, so nothing may write any more (invariant 2).
    /// [`Shard::seal`](crate::Shard::seal) says which syncs may come later.
    ///
    /// # Errors
    ///
    /// Any error undoes the swap: [`resume_after_abort`](Self::resume_after_abort) follows.
    fn seal(&self) -> Result<SealReport>;

    /// Serves again, once this process holds the lock again. Another process may have written in
    /// between: this hook opens the state from disk anew (invariant 2).
    ///
    /// The incumbent calls it after every `drain` that no commit followed, until it succeeds
    /// (invariant 5). Where the drain was cut short, or the seal never ran, requests may still be
    /// in flight.
    ///
    /// # Errors
    ///
    /// The incumbent logs an error, and repeats the call after a pause.
    fn resume_after_abort(&self) -> Result<()>;

    /// The state at a glance. The library calls it at any time, and from another thread while the
    /// hooks run: about once a second during a drain, to tell the supervisor how many connections
    /// are open. No hook waits for such a look.
    fn snapshot_state(&self) -> StateSnapshot;

    /// Begins to admit work: this process is the writer. The library calls it at a cold start,
    /// after a commit and never before it, and after
    /// [`resume_after_abort`](Self::resume_after_abort). A successor says that it serves only once
    /// this has returned, or has failed for a minute: it is part of the pause, and the deadline of
    /// the swap limits it.
    ///
    /// # Errors
    ///
    /// An error ends the [`Incumbent::serve`](crate::Incumbent::serve) of a cold start. After a
    /// commit the successor repeats the call until it succeeds; at the deadline the supervisor
    /// ends the successor, and the incumbent serves again.
    fn admit(&self) -> Result<()> {
        Ok(())
    }

    /// Cuts a running [`drain`](Self::drain) short, because the swap was given up. The incumbent
    /// calls it from another thread while the drain runs, or when it has just ended and the seal
    /// has begun. The drain may return any result.
    fn interrupt(&self) {}

    /// Does as [`seal`](Self::seal), tells `progress` after each shard, and returns the sealed
    /// shards too. The incumbent writes them to the seal manifest; the successor compares it with
    /// the shards that it opens (invariant 11). The incumbent calls this, and never `seal`.
    ///
    /// By default there is no progress, and no shard has a name.
    ///
    /// # Errors
    ///
    /// As [`seal`](Self::seal).
    fn seal_shards(&self, progress: &(dyn Fn(SealProgress) + Sync)) -> Result<SealedState> {
        let _ = progress;
        self.seal().map(SealedState::from)
    }

    /// The connections and memory that go to the next process without being closed or rebuilt.
    /// The library sends idle connections ahead of the [`drain`](Self::drain), the others as they
    /// park, memory after the [`seal`](Self::seal), and gives all back where the swap is given up.
    /// The names tell the sets apart, and the next build finds the sets by them. The library calls
    /// this several times in a swap, also while a hook runs: return the same sets in the same
    /// order, each time.
    fn carriage(&self) -> Carriage<'_> {
        Carriage::new()
    }

    /// The shards as they are now, in declared order, for the comparison with the seal manifest.
    /// The library calls it on a state that was just opened, before it admits work.
    ///
    /// # Errors
    ///
    /// Any error means that the state cannot be trusted: the swap is undone.
    fn opened_shards(&self) -> Result<Vec<SealedShard>> {
        Ok(Vec::new())
    }

    /// The shards that this build opens, the formats that it reads and writes, and the differences
    /// from older builds. The derived function says what the struct's fields and attributes declare.
    fn schema() -> Schema
    where
        Self: Sized,
    {
        Schema::new()
    }

    /// Whether a swap could seal this state at all. The library calls it before a first daemon
    /// serves, and before a successor says that it could serve. The derived hook checks the names
    /// and the number of the shards ([`ShardList::check`](crate::drainable::ShardList::check)).
    ///
    /// # Errors
    ///
    /// An error keeps the process from serving.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The way in which a [`drain`](Self::drain) keeps new requests out. A first daemon without a
    /// gate that carries connections does not serve.
    fn gating(&self) -> Gating {
        Gating::ByHooks
    }
}

/// The way in which a drain keeps new requests out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gating {
    /// By hooks that are written by hand: the library cannot tell how.
    ByHooks,
    /// By the state's [`Gate`](crate::Gate), or several.
    Gates,
    /// Not at all: requests that arrive during a swap reach sealed shards. The daemon logs this
    /// when it starts.
    None,
    /// Not at all, on purpose: `#[handoff(no_gate)]`.
    NoneWanted,
}

/// Whether a process may serve this state: what a swap would find is found before.
pub(crate) fn check(drainable: &impl Drainable) -> Result<()> {
    drainable.check()?;
    let carriage = drainable.carriage();
    carriage.check()?;
    if matches!(drainable.gating(), Gating::None | Gating::NoneWanted) {
        carriage.check_gateless()?;
    }
    Ok(())
}

impl<D: Drainable + ?Sized> Source for D {
    fn carries(&self) -> Carriage<'_> {
        self.carriage()
    }
}
