//! What became of a swap.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What became of a swap: one word for journals, histories, metrics and tables.
///
/// [`Display`](fmt::Display) gives the words that are shown ("rolled back"); serde and
/// [`FromStr`] use the [keyword](Self::keyword) that is written down ("rolled-back").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Committed,
        Self::RolledBack,
        Self::Promoted,
        Self::NotBegun,
        Self::DryRun,
        Self::Lost,
        Self::Unknown,
    ];

    /// One word, as it is written to a journal, to a history, and to JSON.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled-back",
            Self::Promoted => "promoted",
            Self::NotBegun => "not-begun",
            Self::DryRun => "dry-run",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }

    /// The words that are shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
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
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Reads a [keyword](Outcome::keyword).
impl FromStr for Outcome {
    type Err = NotAnOutcome;

    fn from_str(keyword: &str) -> Result<Self, NotAnOutcome> {
        Self::ALL.into_iter().find(|outcome| outcome.keyword() == keyword).ok_or(NotAnOutcome)
    }
}

/// The text is no [keyword](Outcome::keyword) of an [`Outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the outcome of a swap: it is a word such as committed or rolled-back")]
pub struct NotAnOutcome;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_read_back() {
        for outcome in Outcome::ALL {
            assert_eq!(outcome.keyword().parse(), Ok(outcome));
            assert_eq!(outcome.to_string().replace(' ', "-"), outcome.keyword());
        }
        assert_eq!("rolled back".parse::<Outcome>(), Err(NotAnOutcome));
    }
}
