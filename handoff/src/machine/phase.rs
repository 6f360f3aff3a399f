//! The phases of a swap.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// Where a swap stands, as its supervisor sees it.
///
/// [`Display`](fmt::Display) and serde give its [name](Self::name).
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
#[non_exhaustive]
pub enum Phase {
    /// Both processes have said hello.
    Paired,
    /// The supervisor waits for the successor's slow start-up work. Skipped if that is done already.
    Warming,
    /// The successor has done that work; the incumbent serves.
    Warmed,
    /// The incumbent drains. It serves until it closes its gate, and says so:
    /// [`Progress::GateClosed`](crate::supervisor::Progress::GateClosed).
    Draining,
    /// The incumbent is drained. Skipped if the supervisor asked for the seal ahead.
    Prepared,
    /// The incumbent seals.
    Sealing,
    /// The incumbent is sealed, and the lock is free.
    Sealed,
    /// The successor takes the lock, opens, and verifies.
    Opening,
    /// The successor could serve.
    Ready,
    /// The supervisor has told the successor to commit.
    Committing,
    /// The successor serves.
    Committed,
    /// The supervisor has killed the successor, which may still hold the lock.
    #[serde(rename = "ending the successor")]
    #[strum(serialize = "ending the successor")]
    EndingSuccessor,
    /// The supervisor has asked the incumbent to serve again and to confirm it.
    #[serde(rename = "rolling back")]
    #[strum(serialize = "rolling back")]
    RollingBack,
    /// The swap is given up: the incumbent serves again, is dead, or did not confirm.
    #[serde(rename = "rolled back")]
    #[strum(serialize = "rolled back")]
    RolledBack,
    /// The incumbent is dead; the successor goes on alone.
    #[serde(rename = "promoting the successor")]
    #[strum(serialize = "promoting the successor")]
    Promoting,
    /// The incumbent is dead; the successor serves in its place.
    Promoted,
}

impl Phase {
    /// All phases: first those on the way forward, in their order.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The name that is shown, logged, and written down.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether no phase follows.
    #[must_use]
    pub const fn is_last(self) -> bool {
        matches!(self, Self::Committed | Self::RolledBack | Self::Promoted)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};

    use super::*;

    #[test]
    fn a_phase_is_read_back_by_its_name() {
        for phase in Phase::ALL.iter().copied() {
            let name: StrDeserializer<'_, Error> = phase.name().into_deserializer();
            assert_eq!(Phase::deserialize(name), Ok(phase));
        }
    }
}
