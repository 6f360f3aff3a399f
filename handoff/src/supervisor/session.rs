//! `Session<Phase>`: the order of a swap, in the types.

use std::fmt;

use crate::drainable::{DrainReport, ReadinessSnapshot, SealReport};
use crate::machine::AfterDrain;
use crate::machine::supervisor::Command;
use crate::protocol::HandoffId;
use crate::supervisor::drive::{Learnt, SharedSwap, Swap};
use crate::supervisor::{CarryReport, Committed, Failed, RolledBack, Timings};

/// A swap in flight. Its phase says which steps are done, and so which step can be next.
///
/// Each transition takes the session and gives it back in the next phase. A transition that
/// fails has rolled the swap back before it returns. Dropping a session rolls the swap back
/// too, which may take until the incumbent has confirmed that it serves.
///
/// The [deadline](crate::SpawnSpec::deadline) and the [limit of the
/// pause](crate::SpawnSpec::pause_limit) need no call: when one passes, a thread of the library rolls back a swap whose session is held, or was forgotten (`mem::forget`), and one
/// whose caller's observer or policy does not return. The next transition returns
/// [`Failed`] with that rollback's report.
///
/// ```compile_fail,E0599
/// # fn wrong(session: handoff::Session<handoff::supervisor::Paired>) {
/// session.commit(); // nothing is drained, sealed, or opened yet
/// # }
/// ```
#[must_use = "dropping a session rolls the swap back"]
pub struct Session<P: Phase> {
    swap: SharedSwap,
    handoff_id: HandoffId,
    successor_pid: u32,
    /// As it was when the phase was reached.
    learnt: Learnt,
    timings: Timings,
    phase: P,
}

/// A phase of a swap. Sealed: these are all there are.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no phase of a swap",
    note = "the phases are Paired, Warmed, Prepared, Sealed and Ready; each is reached from the one before"
)]
pub trait Phase: sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

/// A phase in which the incumbent is drained: [`Prepared`], [`Sealed`] and [`Ready`]. Sealed.
pub trait Drained: Phase {}

macro_rules! phases {
    ($($(#[$doc:meta])* $phase:ident: $($is:ident),*;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone)]
            pub struct $phase(());

            $(impl $is for $phase {})*
            impl sealed::Sealed for $phase {}
        )*
    };
}

phases! {
    /// Both processes have said hello. Next: [`Session::warm`].
    Paired: Phase;
    /// The successor has done its slow start-up work. Next: [`Session::prepare`].
    Warmed: Phase;
    /// The incumbent is drained. Next: [`Session::seal`].
    Prepared: Phase, Drained;
    /// The incumbent is sealed and has released the lock. Next: [`Session::begin`].
    Sealed: Phase, Drained;
    /// The successor holds the lock, has verified, and could serve. Next: [`Session::commit`].
    Ready: Phase, Drained;
}

impl Session<Paired> {
    pub(super) fn paired(swap: SharedSwap) -> Self {
        let look = |swap: &Swap| {
            let (handoff_id, successor_pid) = (swap.handoff_id(), swap.successor_pid());
            (handoff_id, successor_pid, swap.learnt().clone(), swap.timings())
        };
        let (handoff_id, successor_pid, learnt, timings) = swap.look(look);
        Self { swap, handoff_id, successor_pid, learnt, timings, phase: Paired(()) }
    }

    /// The build id that the incumbent's hello says.
    #[must_use]
    pub fn incumbent_build_id(&self) -> &[u8] {
        &self.learnt.incumbent_build_id
    }

    /// The build id that the successor's hello says.
    #[must_use]
    pub fn successor_build_id(&self) -> &[u8] {
        &self.learnt.successor_build_id
    }

    /// Waits until the successor has done its slow start-up work.
    ///
    /// # Errors
    ///
    /// [`Failed`]. The incumbent was not touched and holds the lock. If it died, the successor
    /// may serve in its place: see [`Failed::promoted`].
    pub fn warm(self) -> Result<Session<Warmed>, Failed> {
        self.transition(|_| Command::Warm, Warmed(()))
    }
}

impl Session<Warmed> {
    /// Drains the incumbent: clients wait from the moment in which it closes its gate.
    ///
    /// # Errors
    ///
    /// [`Failed`]. The incumbent held the lock throughout and was told to serve again. If it
    /// died, the successor may serve in its place: see [`Failed::promoted`].
    pub fn prepare(self) -> Result<Session<Prepared>, Failed> {
        self.transition(|swap| swap.prepare_command(AfterDrain::Wait), Prepared(()))
    }

    /// [`prepare`](Session::prepare) and [`seal`](Session::seal) in one: the supervisor asks for
    /// the seal along with the drain, so that clients do not wait for a round trip in between. For
    /// a caller that does not decide by the drain report. The supervisor asks an incumbent of a
    /// build that does not know of this for the drain first, and then for the seal.
    ///
    /// # Errors
    ///
    /// As [`seal`](Session::seal).
    pub fn prepare_and_seal(self) -> Result<Session<Sealed>, Failed> {
        match self.swap.look(Swap::after_drain) {
            AfterDrain::Wait => self.prepare()?.seal(),
            AfterDrain::Seal => {
                self.transition(|swap| swap.prepare_command(AfterDrain::Seal), Sealed(()))
            }
        }
    }
}

impl Session<Prepared> {
    /// Seals the incumbent. It releases the lock, reserved for the successor (invariant 9).
    ///
    /// # Errors
    ///
    /// As [`prepare`](Session::prepare). An incumbent that had released the lock already was
    /// told to take it again.
    pub fn seal(self) -> Result<Session<Sealed>, Failed> {
        self.transition(|_| Command::Seal, Sealed(()))
    }
}

impl Session<Sealed> {
    /// The incumbent's report of its seal.
    #[must_use]
    pub const fn seal_report(&self) -> &SealReport {
        &self.learnt.sealed
    }

    /// Lets the successor take the lock, open and verify; then asks the policy.
    ///
    /// # Errors
    ///
    /// [`Failed`]. The supervisor killed the successor, which frees the lock, and told the
    /// incumbent to take the lock and serve. The incumbent opens the data that it sealed, with the
    /// changes that the successor's opening made. Where the successor had not ended within a
    /// minute, it may still hold the lock, and the incumbent waits for it:
    /// [`Failed::incumbent`] is `Unknown`. If the incumbent died meanwhile, the successor may
    /// serve in its place: see [`Failed::promoted`].
    pub fn begin(self) -> Result<Session<Ready>, Failed> {
        self.transition(|_| Command::Begin, Ready(()))
    }
}

impl Session<Ready> {
    /// The incumbent's report of its seal.
    #[must_use]
    pub const fn seal_report(&self) -> &SealReport {
        &self.learnt.sealed
    }

    /// The successor's report of its readiness.
    #[must_use]
    pub const fn readiness(&self) -> &ReadinessSnapshot {
        &self.learnt.ready
    }

    /// Tells the successor to be the writer, and returns once it serves.
    ///
    /// # Errors
    ///
    /// [`Failed`]. The supervisor killed the successor, whether or not it had committed; the lock
    /// and a successor that does not end are as for [`begin`](Session::begin). The kernel keeps
    /// the writes that the successor had handed to it, and the incumbent opens them again
    /// (invariant 8); a crash of the machine can still lose those that were not synced. If the
    /// incumbent died meanwhile, see [`Failed::promoted`].
    pub fn commit(self) -> Result<Committed, Failed> {
        self.swap.command(|_| Command::Commit)?;
        self.swap.committed()
    }
}

impl<P: Phase> Session<P> {
    /// The swap.
    #[must_use]
    pub const fn handoff_id(&self) -> HandoffId {
        self.handoff_id
    }

    /// The successor's pid.
    #[must_use]
    pub const fn successor_pid(&self) -> u32 {
        self.successor_pid
    }

    /// The carry report so far: the late connections once [`prepare`](Session::prepare) has
    /// returned, and the sets that arrived once [`begin`](Session::begin) has.
    #[must_use]
    pub const fn carry_report(&self) -> &CarryReport {
        &self.learnt.carried
    }

    /// How long each phase took so far.
    #[must_use]
    pub const fn timings(&self) -> Timings {
        self.timings
    }

    /// Gives the swap up: the supervisor ends the successor, and the incumbent serves again.
    #[must_use = "the incumbent may not have confirmed that it serves"]
    pub fn abort(self, reason: impl Into<String>) -> RolledBack {
        self.swap.abort(reason.into())
    }

    fn transition<Q: Phase>(
        self,
        command: impl FnOnce(&Swap) -> Command,
        phase: Q,
    ) -> Result<Session<Q>, Failed> {
        let (learnt, timings) = self.swap.command(command)?;
        let Self { swap, handoff_id, successor_pid, .. } = self;
        Ok(Session { swap, handoff_id, successor_pid, learnt, timings, phase })
    }
}

impl<P: Drained> Session<P> {
    /// The incumbent's report of its drain.
    #[must_use]
    pub const fn drain_report(&self) -> &DrainReport {
        &self.learnt.drain
    }
}

impl<P: Phase + fmt::Debug> fmt::Debug for Session<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("handoff_id", &self.handoff_id())
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
