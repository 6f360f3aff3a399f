//! The trait between the library and a daemon.

use std::time::Instant;

use crate::carry::{Carriage, Source};
use crate::drainable::{
    DrainReport, SealProgress, SealReport, SealedShard, SealedState, StateSnapshot,
};
use crate::error::Result;

/// A daemon's state, as the [`Incumbent`](crate::Incumbent) drives it through a swap.
///
/// Most daemons derive it (`#[derive(Drainable)]`). The hooks run on threads of the library's, one
/// after the other, in this order; a [`settle`](Self::settle) behind a commit is waited for by the
/// next drain:
///
/// ```text
/// admit -> (settle, after a commit)
///   -> settle -> drain -> seal -> (replaced: nothing more is called)
///                             -> resume_after_abort -> admit ...
/// ```
///
/// A hook that panics counts as one that returned an error. One that never returns keeps the
/// daemon from serving: nothing can be undone beside it, and the supervisor is told `Unknown`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be drained and sealed",
    note = "put `#[derive(handoff::Drainable)]` on it, or implement its four hooks by hand"
)]
pub trait Drainable: Send + Sync {
    /// Does ahead of a [`drain`](Self::drain) what its seal would else have to do while clients
    /// wait: everything is still admitted. Called after a commit, too, from another thread, and
    /// before the last seal of a clean stop. See [`Shard::settle`](crate::Shard::settle).
    ///
    /// # Errors
    ///
    /// Any error undoes the swap, as one of `drain`; see there for the other two.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Stops admitting work, waits until what is in flight has ended or `deadline` has
    /// passed, and makes what was acknowledged durable.
    ///
    /// # Errors
    ///
    /// Any error undoes the swap: [`resume_after_abort`](Self::resume_after_abort) follows.
    fn drain(&self, deadline: Instant) -> Result<DrainReport>;

    /// Flushes, syncs and closes every shard for writing. The lock is released once it has
    /// returned, so nothing may write any more. What may be left to be synced is said at
    /// [`Shard::seal`](crate::Shard::seal).
    ///
    /// # Errors
    ///
    /// Any error undoes the swap: [`resume_after_abort`](Self::resume_after_abort) follows.
    fn seal(&self) -> Result<SealReport>;

    /// Serves again, after the lock is held again. Another process may have written in
    /// between: what lies on disk is opened anew.
    ///
    /// It is called after every `drain` that no commit followed, and again and again until it
    /// succeeds. Where the drain was cut short, or the seal never ran, requests may still be in
    /// flight.
    ///
    /// # Errors
    ///
    /// An error is logged, and the call repeated after a pause.
    fn resume_after_abort(&self) -> Result<()>;

    /// The state at a glance; called at any time, and from another thread while the hooks run:
    /// about once a second during a drain, so that whoever looks on sees what it waits for. No hook
    /// waits for it.
    fn snapshot_state(&self) -> StateSnapshot;

    /// Begins to admit work: this process is the writer. Called when serving begins, at a
    /// cold start and after a commit, and never before the commit. After a commit the supervisor
    /// is told that this process serves only when it has returned: it is part of the pause, and of
    /// what the deadline of the swap limits.
    ///
    /// # Errors
    ///
    /// An error ends the [`Incumbent::serve`](crate::Incumbent::serve) of a cold start. After a commit
    /// the call is repeated until it succeeds; at the deadline the supervisor ends this process, and
    /// the old one serves again.
    fn admit(&self) -> Result<()> {
        Ok(())
    }

    /// Cuts a running [`drain`](Self::drain) short, because the swap was given up; called
    /// from another thread while it runs, or when it has just ended and the seal has begun. The drain
    /// may return whatever it likes.
    fn interrupt(&self) {}

    /// [`seal`](Self::seal), telling `progress` after each shard, and with the shards that were
    /// sealed: the incumbent writes them to the seal manifest, which the successor compares with
    /// the shards that it opens. The incumbent calls this, and never `seal`.
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

    /// What goes to the next process without being closed or rebuilt: the library sends it
    /// there between [`drain`](Self::drain) and [`seal`](Self::seal), and gives it back where the
    /// swap is given up. The names tell the sets apart; the next build finds them by these.
    /// It is asked several times in a swap, also while a hook runs: the same sets in the same
    /// order, each time.
    fn carriage(&self) -> Carriage<'_> {
        Carriage::new()
    }

    /// The shards as they are now, in declared order, for the comparison with a manifest.
    /// Called on a state that was just opened, before anything is admitted.
    ///
    /// # Errors
    ///
    /// Any error means that the state cannot be trusted: the swap is undone.
    fn opened_shards(&self) -> Result<Vec<SealedShard>> {
        Ok(Vec::new())
    }
}

impl<D: Drainable + ?Sized> Source for D {
    fn carries(&self) -> Carriage<'_> {
        self.carriage()
    }
}
