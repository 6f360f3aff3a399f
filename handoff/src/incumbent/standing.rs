//! When a sealed incumbent may go by the owner record, and when it may end its successor.

use std::time::Duration;

use crate::control::LIVENESS_LIMIT;
use crate::guard::{Guard, stands};

/// How an incumbent that waits for the lock stands to its supervisor and its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// A supervisor is there that came for this swap.
    pub(crate) is_connected: bool,
    /// For how long the deadline has passed; none before it.
    pub(crate) overdue: Option<Duration>,
}

impl Standing {
    /// Whether what the record says decides. A supervisor that is there says what became of
    /// the swap: it may be ending the very successor that the record names. One that died may
    /// have killed it just before: then the lock is free soon.
    pub(crate) fn goes_by_the_record(self, writer_is_ending: bool) -> bool {
        let has_the_word =
            self.is_supervised(ROLLBACK_PATIENCE) && stands(Guard::SupervisorHasTheWord);
        let is_ending = writer_is_ending && stands(Guard::KilledIsNotServing);
        !has_the_word && !is_ending
    }

    /// Whether a successor that is undecided is hung, with no supervisor to end it.
    pub(crate) fn ends_the_successor(self) -> bool {
        let is_overdue = self.overdue.is_some_and(|overdue| !overdue.is_zero());
        is_overdue && !self.is_supervised(LIVENESS_LIMIT) && stands(Guard::HungIsEnded)
    }

    /// Whether a supervisor may still end this swap by its word: it is connected, and the
    /// deadline has not passed for so long that it must be hung.
    fn is_supervised(self, patience: Duration) -> bool {
        self.is_connected && self.overdue.is_none_or(|overdue| overdue < patience)
    }
}

/// As long as a supervisor takes at most to end a successor: one with very much memory frees
/// its lock late.
pub(crate) const ROLLBACK_PATIENCE: Duration = Duration::from_secs(60);
