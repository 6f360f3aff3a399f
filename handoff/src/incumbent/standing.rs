//! When a sealed incumbent may go by the owner record, and when it may end its successor.

use std::time::Duration;

use crate::control::LIVENESS_TIMEOUT;
use crate::guard::{Guard, stands};

/// How an incumbent that waits for the lock stands to its supervisor and its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// A supervisor that came for this swap is connected.
    pub(crate) is_connected: bool,
    /// For how long the deadline has passed; none before it.
    pub(crate) overdue: Option<Duration>,
}

impl Standing {
    /// Whether the incumbent goes by the owner record (invariant 3). A connected supervisor says
    /// how the swap ended: it may be ending the very successor that the record names. A supervisor
    /// that died may have killed that successor just before: then the lock is free soon.
    pub(crate) fn goes_by_the_record(self, writer_is_ending: bool) -> bool {
        let has_the_word = self.is_supervised() && stands(Guard::SupervisorHasTheWord);
        let is_ending = writer_is_ending && stands(Guard::KilledIsNotServing);
        !has_the_word && !is_ending
    }

    /// Whether the incumbent ends an undecided successor: it is hung, with no supervisor to end it.
    pub(crate) fn ends_the_successor(self) -> bool {
        let is_overdue = self.overdue.is_some_and(|overdue| !overdue.is_zero());
        is_overdue && !self.is_supervised() && stands(Guard::HungIsEnded)
    }

    /// Whether a supervisor may still end this swap by its word: it is connected, and the
    /// deadline, at which it kills a successor, has not passed for so long that it must be hung.
    fn is_supervised(self) -> bool {
        self.is_connected && self.overdue.is_none_or(|overdue| overdue < LIVENESS_TIMEOUT)
    }
}
