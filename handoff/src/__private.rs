//! The items that the output of `#[derive(Drainable)]` uses. No part of the API: they change
//! without notice.

use std::marker::PhantomData;
use std::sync::Arc;
pub use std::time::Instant;
pub use std::vec::Vec;

pub use crate::carry::{Carriage, Carry};
pub use crate::drainable::{
    DrainReport, Drainable, Extent, Gate, Gating, Schema, SealProgress, SealReport, SealedShard,
    SealedState, Serve, ShardList, Shards, StateSnapshot,
};
use crate::error::Error;
pub use crate::error::Result;

/// The function that a seal calls after each shard.
pub type Progress<'a> = dyn Fn(SealProgress) + Sync + 'a;

/// The parts of a daemon's state, as its attributes name them. The derive implements this trait,
/// and a [`Drainable`] that hands each of its hooks to the function of the same name below.
pub trait Parts {
    /// All shards, in declared order.
    fn shard_list(&self) -> ShardList<'_>;

    /// All gates, in declared order.
    fn gates(&self) -> Vec<&Gate>;

    /// Whether the daemon has no gate on purpose.
    const NO_GATE: bool;

    /// All carried connections and memory, in declared order.
    fn carriage(&self) -> Carriage<'_>;

    /// Calls the daemon's own function for that moment, if it has one.
    ///
    /// # Errors
    ///
    /// The error of the daemon's function.
    fn hook(&self, moment: Moment) -> Result<()>;
}

/// When a hook of the container's attributes runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the attribute of the same name")]
pub enum Moment {
    BeforeAdmit,
    AfterAdmit,
    BeforeDrain,
    AfterDrain,
    BeforeSeal,
    AfterSeal,
    BeforeResume,
    AfterResume,
}

/// A type of a field. It tells its extent where it is one of shards; the error of one that is not comes
/// from [`Parts::shard_list`], once.
#[derive(Debug)]
pub struct FieldOf<T: ?Sized>(PhantomData<T>);

impl<T: ?Sized> FieldOf<T> {
    /// For a look at the type.
    pub const LOOK: Self = Self(PhantomData);
}

impl<T: Shards> FieldOf<T> {
    /// The extent of a field of shards.
    #[must_use]
    pub fn extent(&self) -> Extent {
        T::extent()
    }
}

/// The extent of any other field.
pub trait AnyExtent {
    /// None that is known.
    fn extent(&self) -> Extent {
        Extent::Varies
    }
}

impl<T: ?Sized> AnyExtent for FieldOf<T> {}

/// A type that a hook may return.
#[diagnostic::on_unimplemented(
    message = "a hook returns nothing or `handoff::Result<()>`, not `{Self}`",
    label = "this hook returns `{Self}`"
)]
pub trait HookOutcome {
    /// The value, as the library's hooks return it.
    ///
    /// # Errors
    ///
    /// The error of the hook.
    fn into_result(self) -> Result<()>;
}

impl HookOutcome for () {
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

impl<E: Into<Error>> HookOutcome for Result<(), E> {
    fn into_result(self) -> Result<()> {
        self.map_err(Into::into)
    }
}

/// A type that a field with `#[handoff(gate)]` may have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a gate",
    label = "`#[handoff(gate)]` is for gates",
    note = "such a field is a `handoff::Gate`, an `Arc<Gate>`, or a `Vec` of either",
    note = "a field that is a shard needs no attribute; `#[handoff(skip)]` leaves one out"
)]
pub trait Gates: Send + Sync {
    /// Adds all gates to `gates`.
    fn gather<'a>(&'a self, gates: &mut Vec<&'a Gate>);
}

impl Gates for Gate {
    fn gather<'a>(&'a self, gates: &mut Vec<&'a Gate>) {
        gates.push(self);
    }
}

impl<T: Gates + ?Sized> Gates for &T {
    fn gather<'a>(&'a self, gates: &mut Vec<&'a Gate>) {
        (**self).gather(gates);
    }
}

impl<T: Gates + ?Sized> Gates for Arc<T> {
    fn gather<'a>(&'a self, gates: &mut Vec<&'a Gate>) {
        (**self).gather(gates);
    }
}

impl<T: Gates> Gates for Vec<T> {
    fn gather<'a>(&'a self, gates: &mut Vec<&'a Gate>) {
        self.iter().for_each(|gate| gate.gather(gates));
    }
}

impl<T: Gates, const N: usize> Gates for [T; N] {
    fn gather<'a>(&'a self, gates: &mut Vec<&'a Gate>) {
        self.iter().for_each(|gate| gate.gather(gates));
    }
}

/// Opens the gates.
///
/// # Errors
///
/// The error of a hook.
pub fn admit(parts: &impl Parts) -> Result<()> {
    parts.hook(Moment::BeforeAdmit)?;
    open_gates(parts);
    parts.hook(Moment::AfterAdmit)
}

/// Settles all shards.
///
/// # Errors
///
/// The error of a shard.
pub fn settle(parts: &impl Parts) -> Result<()> {
    parts.shard_list().settle()
}

/// Closes every gate before it waits for any: a request inside one may come from another.
///
/// # Errors
///
/// The error of a hook.
pub fn drain(parts: &impl Parts, deadline: Instant) -> Result<DrainReport> {
    parts.hook(Moment::BeforeDrain)?;
    let gates = parts.gates();
    gates.iter().for_each(|gate| gate.close());
    let remaining = gates
        .iter()
        .fold(0_u32, |remaining, gate| remaining.saturating_add(gate.wait_empty(deadline)));
    parts.hook(Moment::AfterDrain)?;
    Ok(DrainReport { open_conns_remaining: remaining, accept_closed: !gates.is_empty() })
}

/// Cuts a drain short.
pub fn interrupt(parts: &impl Parts) {
    parts.gates().iter().for_each(|gate| gate.interrupt());
}

/// Seals all shards.
///
/// # Errors
///
/// The error of a hook or of a shard.
pub fn seal_shards(parts: &impl Parts, progress: &Progress<'_>) -> Result<SealedState> {
    parts.hook(Moment::BeforeSeal)?;
    let sealed = parts.shard_list().seal(progress)?;
    parts.hook(Moment::AfterSeal)?;
    Ok(SealedState::of_shards(sealed))
}

/// Seals all shards, without reports of its progress.
///
/// # Errors
///
/// The error of a hook or of a shard.
pub fn seal(parts: &impl Parts) -> Result<SealReport> {
    seal_shards(parts, &|_| ()).map(|sealed| sealed.report)
}

/// The shards as they are now.
///
/// # Errors
///
/// The error of a shard.
pub fn opened_shards(parts: &impl Parts) -> Result<Vec<SealedShard>> {
    parts.shard_list().inspect()
}

/// Whether a swap can seal the shards.
///
/// # Errors
///
/// As [`ShardList::check`].
pub fn check(parts: &impl Parts) -> Result<()> {
    parts.shard_list().check()
}

/// The way in which a drain keeps new requests out.
pub fn gating<P: Parts>(parts: &P) -> Gating {
    match parts.gates().is_empty() {
        false => Gating::Gates,
        true if P::NO_GATE => Gating::NoneWanted,
        true => Gating::None,
    }
}

/// Resumes the shards. The gates stay closed until `admit`: the incumbent first compares the shards
/// with those that it sealed, and after a failure repeats all steps (invariant 5), which must not
/// happen to shards that requests already use.
///
/// # Errors
///
/// The error of a hook or of a shard.
pub fn resume_after_abort(parts: &impl Parts) -> Result<()> {
    parts.hook(Moment::BeforeResume)?;
    parts.shard_list().resume()?;
    parts.hook(Moment::AfterResume)
}

/// The revisions of the shards, and the number of passes inside the gates.
pub fn snapshot_state(parts: &impl Parts) -> StateSnapshot {
    let shard_list = parts.shard_list();
    let open_conns =
        parts.gates().iter().fold(0_u32, |open, gate| open.saturating_add(gate.inside()));
    StateSnapshot {
        shard_count: u32::try_from(shard_list.len()).unwrap_or(u32::MAX),
        open_conns,
        last_revision_per_shard: shard_list.revisions(),
    }
}

fn open_gates(parts: &impl Parts) {
    parts.gates().iter().for_each(|gate| gate.open());
}
