//! The outcome of a swap.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// The outcome of a swap: one word for journals, histories, metrics and tables.
///
/// [`Display`](fmt::Display) gives the words that are shown ("rolled back"); serde
/// uses the [keyword](Self::keyword) that is written down ("rolled-back").
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
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// The successor serves.
    Committed,
    /// The incumbent serves again, and has confirmed it.
    RolledBack,
    /// The incumbent died, and the successor serves in its place.
    Promoted,
    /// The swap ended before the incumbent was told anything.
    NotBegun,
    /// The caller ended the swap after the warm-up, as it had meant to.
    DryRun,
    /// The incumbent is dead, and no process took its place.
    Lost,
    /// The incumbent has not confirmed that it serves.
    Unknown,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// One word, as it is written to a journal, to a history, and to JSON.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        self.into()
    }

    /// The words for a display.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RolledBack => "rolled back",
            Self::NotBegun => "not begun",
            Self::DryRun => "dry run",
            Self::Committed | Self::Promoted | Self::Lost | Self::Unknown => self.keyword(),
        }
    }

    /// Whether the successor is the writer.
    #[must_use]
    pub const fn successor_serves(self) -> bool {
        matches!(self, Self::Committed | Self::Promoted)
    }

    /// Reads a [keyword](Self::keyword).
    #[must_use]
    pub fn of_keyword(keyword: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|outcome| outcome.keyword() == keyword)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_read_back() {
        for outcome in Outcome::ALL.iter().copied() {
            assert_eq!(Outcome::of_keyword(outcome.keyword()), Some(outcome));
            assert_eq!(outcome.to_string().replace(' ', "-"), outcome.keyword());
        }
        assert_eq!(Outcome::of_keyword("rolled back"), None);
    }
}
