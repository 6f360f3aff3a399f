//! How a swap ended.

use std::fmt;
use std::time::Duration;

use crate::drainable::{DrainReport, ReadinessSnapshot, SealReport};
use crate::machine::cause::{Cause, IncumbentFate};
use crate::machine::outcome::Outcome;
use crate::protocol::{CarriedSet, CarryFate, CarryKind, HandoffId};
use crate::supervisor::ChildProcess;

/// How long each phase took. Zero for one that was not reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Connecting, launching and both hellos.
    pub pair: Duration,
    /// Until the successor's slow start-up work was done; the incumbent served meanwhile.
    pub warm: Duration,
    /// From `PrepareHandoff` to `Drained`.
    pub drain: Duration,
    /// From `Drained`, or from `SealRequest` where that came later, to `SealComplete`. An incumbent
    /// that has sealed at once says both at once: then it is part of `drain`.
    pub seal: Duration,
    /// From `Begin` to `Ready`.
    pub open: Duration,
    /// From `Commit` to `Serving`. In a swap that [may be one-way](crate::SpawnSpec::one_way), until
    /// the successor admits requests, if that is later.
    pub commit: Duration,
}

/// The sets that a swap carried, and the connections that it could not carry.
///
/// Its `Display` is a table, a line for each set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CarryReport {
    /// Connections that did not reach a request boundary within the grace of the drain.
    pub late: LateConnections,
    /// The sets as the successor received them, in the incumbent's declared order; empty until it
    /// reports them.
    pub sets: Vec<CarriedSet>,
    /// The incumbent has sets to carry, and the successor has not said that it got any: at a
    /// commit those connections are closed, since the incumbent may lose them.
    pub not_asked_for: bool,
}

/// Connections that were not parked when the grace of a drain was over; in
/// [`Progress::Draining`](crate::supervisor::Progress::Draining), those that are not parked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LateConnections {
    /// The first few, as the daemon calls them.
    pub connections: Vec<String>,
    /// How many more there are.
    pub unnamed: u32,
}

impl LateConnections {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.connections.len() + self.unnamed as usize
    }
}

impl fmt::Display for LateConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.connections.join(", "))?;
        match self.unnamed {
            0 => Ok(()),
            unnamed => write!(f, " and {unnamed} more"),
        }
    }
}

impl fmt::Display for CarryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for CarriedSet { name, kind, count, bytes, fate } in &self.sets {
            let kind = match (kind, count) {
                (CarryKind::Connections, 1) => "connection",
                (CarryKind::Connections, _) => "connections",
                (CarryKind::Memory, 1) => "piece of memory",
                (CarryKind::Memory, _) => "pieces of memory",
            };
            write!(f, "{name}: {count} {kind}, {bytes} bytes, ")?;
            match fate {
                CarryFate::Taken => writeln!(f, "taken")?,
                CarryFate::Converted { from } => writeln!(f, "converted from {from}")?,
                CarryFate::Dropped { why } => writeln!(f, "dropped: {why}")?,
            }
        }
        if self.not_asked_for {
            writeln!(f, "nothing was carried: the successor did not ask for the sets")?;
        }
        match self.late.count() {
            0 => Ok(()),
            count => writeln!(f, "late: {count} ({})", self.late),
        }
    }
}

/// The successor serves.
#[derive(Debug)]
#[must_use = "the successor is a child of this process and has to be waited for one day"]
pub struct Committed {
    /// The swap.
    pub handoff_id: HandoffId,
    /// The generation in the owner record, as the successor says it.
    pub generation: u64,
    /// The process that serves now, a child of this one.
    pub successor: ChildProcess,
    /// The incumbent's report of its drain; the default when it died first.
    pub drain: DrainReport,
    /// The incumbent's report of its seal; the default when it died first.
    pub sealed: SealReport,
    /// The successor's report before it was told to commit.
    pub ready: ReadinessSnapshot,
    /// The sets that the successor says arrived, and the connections that were late.
    pub carried: CarryReport,
    /// How long it took.
    pub timings: Timings,
}

/// A swap that was aborted on the caller's wish, and undone.
#[derive(Debug)]
pub struct RolledBack {
    /// The swap.
    pub handoff_id: HandoffId,
    /// Whether the incumbent has said that it serves, is dead, or has not said.
    pub incumbent: IncumbentFate,
    /// The incumbent had died, so the supervisor kept the successor, which serves in its place.
    pub promoted: Option<Box<Committed>>,
}

/// A swap that failed, and that the supervisor undid before it returned this. The supervisor has
/// killed the successor, unless it was promoted; one that had not ended within a minute may still
/// hold the lock, and `incumbent` is then [`Unknown`](IncumbentFate::Unknown).
#[derive(Debug, thiserror::Error)]
#[error("swap {handoff_id} failed: {cause}; {}", self.aftermath())]
pub struct Failed {
    /// The swap.
    pub handoff_id: HandoffId,
    /// Why.
    pub cause: Cause,
    /// Whether the incumbent has said that it serves, is dead, or has not said.
    pub incumbent: IncumbentFate,
    /// The incumbent died, and the successor serves in its place.
    pub promoted: Option<Box<Committed>>,
    /// How long it took.
    pub timings: Box<Timings>,
}

impl RolledBack {
    /// The outcome of the swap.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        undone(self.incumbent, self.promoted.as_deref())
    }
}

impl Failed {
    /// The outcome of the swap.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        undone(self.incumbent, self.promoted.as_deref())
    }

    fn aftermath(&self) -> &'static str {
        match self.outcome() {
            Outcome::RolledBack => "the incumbent serves, and has confirmed it",
            Outcome::Lost => {
                "the incumbent is dead, and no process took its place: start the daemon"
            }
            Outcome::Promoted => "the incumbent died, and the successor serves in its place",
            _ => {
                "the incumbent has not confirmed that it serves: look at it before you start another"
            }
        }
    }
}

fn undone(incumbent: IncumbentFate, promoted: Option<&Committed>) -> Outcome {
    promoted.map_or(incumbent.into(), |_| Outcome::Promoted)
}

/// The result of [`Supervisor::perform_handoff`](crate::Supervisor::perform_handoff).
#[derive(Debug)]
#[must_use = "a swap may have been rolled back"]
#[expect(clippy::large_enum_variant, reason = "there is one a swap")]
pub enum HandoffOutcome {
    /// The successor serves.
    Committed(Committed),
    /// The swap failed; the successor serves only if the incumbent died: see [`Failed`].
    Failed(Failed),
}

impl HandoffOutcome {
    /// The same in one word.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Committed(_) => Outcome::Committed,
            Self::Failed(failed) => failed.outcome(),
        }
    }
}
