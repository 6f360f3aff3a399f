//! The cases: each fault, in a swap of each combination of builds.

use std::fmt;

use handoff_tests::arena::{Build, Cast, Report};

/// One swap, of processes of these builds.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) cast: Cast,
    /// Of the library or of the fixture; empty for none.
    pub(crate) fault: &'static str,
    pub(crate) end: End,
}

/// How a swap ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Committed,
    RolledBack,
    /// The incumbent has died, and the successor serves.
    Promoted,
    /// The supervisor has died, and its adopter finds that the swap was committed.
    AdoptedCommitted,
    /// So, and it finds that the swap was rolled back.
    AdoptedRolledBack,
}

impl End {
    /// By the reports that follow the order of the swap.
    pub(crate) fn of(reports: &[Report]) -> Option<Self> {
        match reports {
            [Report::Committed(_)] => Some(Self::Committed),
            [Report::Failed(fate, None, _)] if fate == "Serving" => Some(Self::RolledBack),
            [Report::Failed(_, Some(_), _)] => Some(Self::Promoted),
            [Report::Adopted(_, resolved)] if resolved == "Committed" => {
                Some(Self::AdoptedCommitted)
            }
            [Report::Adopted(_, resolved)] if resolved == "RolledBack" => {
                Some(Self::AdoptedRolledBack)
            }
            _ => None,
        }
    }

    /// Whether the successor serves.
    pub(crate) const fn is_swapped(self) -> bool {
        matches!(self, Self::Committed | Self::Promoted | Self::AdoptedCommitted)
    }

    /// Whether it has all that the incumbent carried.
    pub(crate) const fn is_committed(self) -> bool {
        matches!(self, Self::Committed | Self::AdoptedCommitted)
    }

    /// Whether another supervisor is there at the end.
    pub(crate) const fn is_adopted(self) -> bool {
        matches!(self, Self::AdoptedCommitted | Self::AdoptedRolledBack)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cast { supervisor, adopter, incumbent, successor } = &self.cast;
        write!(f, "{} {} {}", supervisor.name, incumbent.name, successor.name)?;
        if self.end.is_adopted() {
            write!(f, ", adopted by {}", adopter.name)?;
        }
        write!(f, ": {}", if self.fault.is_empty() { "no fault" } else { self.fault })
    }
}

impl Case {
    /// The fault, where it is one of the fixture.
    pub(crate) fn fault_of_fixture(&self) -> &[&'static str] {
        if self.fault.is_empty() { &[] } else { std::slice::from_ref(&self.fault) }
    }
}

/// Every fault, in every combination; where the supervisor dies, with an adopter of each build.
pub(crate) fn all(builds: &[Build; 2]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (fault, end) in FAULTS {
        for cast in casts(builds) {
            // Where no supervisor dies there is no adopter to choose.
            if end.is_adopted() || cast.adopter == cast.supervisor {
                cases.push(Case { cast, fault, end });
            }
        }
    }
    cases
}

fn casts(builds: &[Build; 2]) -> impl Iterator<Item = Cast> {
    (0..16).map(|number| {
        let build = |role: usize| builds[number >> role & 1].clone();
        Cast { supervisor: build(3), incumbent: build(2), successor: build(1), adopter: build(0) }
    })
}

const FAULTS: [(&str, End); 11] = [
    ("", End::Committed),
    ("successor.warm=error", End::RolledBack),
    ("successor.opened=kill", End::RolledBack),
    ("ready=wrong-fingerprint", End::RolledBack),
    ("health=bad", End::RolledBack),
    ("incumbent.unlocked=kill", End::Promoted),
    ("supervisor.warmed=kill", End::AdoptedRolledBack),
    ("supervisor.sent-prepare=kill", End::AdoptedRolledBack),
    ("supervisor.sent-begin=kill", End::AdoptedRolledBack),
    ("supervisor.heard-ready=kill", End::AdoptedRolledBack),
    ("supervisor.sent-commit=kill", End::AdoptedCommitted),
];
