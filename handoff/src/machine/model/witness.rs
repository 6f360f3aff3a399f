//! Events that some step showed: no single state shows them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::machine::phase::Phase;

/// A step worth seeing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Sight {
    /// The supervisor gave the swap up in that phase.
    GivenUp(Phase),
    /// The seal followed the drain, since the supervisor had asked for it ahead.
    SealFollows,
    LastLookFindsCommit,
    LastLookFindsNothing,
    GoesOnAlone,
    StrayRefused,
    IncumbentRetakes,
    IncumbentLeavesByTheRecord,
    IncumbentEndsTheSuccessor,
    AdopterEndsTheSuccessor,
    AdopterAttaches,
}

impl Sight {
    pub(super) fn all() -> Vec<Self> {
        let phases = [
            Phase::Warming,
            Phase::Warmed,
            Phase::Draining,
            Phase::Prepared,
            Phase::Sealing,
            Phase::Sealed,
            Phase::Opening,
            Phase::Ready,
            Phase::Committing,
        ];
        let given_up = phases.map(Self::GivenUp).into_iter();
        let others = [
            Self::SealFollows,
            Self::LastLookFindsCommit,
            Self::LastLookFindsNothing,
            Self::GoesOnAlone,
            Self::StrayRefused,
            Self::IncumbentRetakes,
            Self::IncumbentLeavesByTheRecord,
            Self::IncumbentEndsTheSuccessor,
            Self::AdopterEndsTheSuccessor,
            Self::AdopterAttaches,
        ];
        given_up.chain(others).collect()
    }
}

/// Collects the sights of all threads.
#[derive(Debug, Clone, Default)]
pub(super) struct Witness(Arc<Mutex<BTreeSet<Sight>>>);

impl Witness {
    pub(super) fn saw(&self, sight: Sight) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(sight);
    }

    pub(super) fn sights(&self) -> BTreeSet<Sight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
