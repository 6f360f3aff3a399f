//! The cases: each event, in a swap of each combination of builds.

use std::fmt;

use handoff::faults::Planned;
use handoff_tests::arena::{Build, Cast, Report};

/// One swap, of processes of these builds.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) cast: Cast,
    pub(crate) event: Event,
    pub(crate) end: End,
}

/// What happens, besides the order of the swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Nothing,
    /// A fault of the library, in the process whose step it strikes at.
    At(&'static str),
    /// A fault of the fixture in the incumbent.
    InIncumbent(&'static str),
    /// So, in the successor.
    InSuccessor(&'static str),
    /// There is no swap: the first daemon stops, and the other build starts.
    Stop,
    /// So, and the first daemon is killed.
    Kill,
}

impl Event {
    /// The planned fault of the library.
    pub(crate) fn planned(self) -> Option<Planned> {
        match self {
            Self::At(fault) => Some(fault.parse().expect("the library has it")),
            _ => None,
        }
    }

    /// The point of a fault of the fixture.
    pub(crate) fn point_of_fixture(self) -> Option<&'static str> {
        match self {
            Self::InIncumbent(fault) | Self::InSuccessor(fault) => Some(fault.split_once('=')?.0),
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::At(fault) => fault,
            Self::InIncumbent(fault) | Self::InSuccessor(fault) => fault,
            Self::Stop => "a stop and a start",
            Self::Kill => "a kill and a start",
        })
    }
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
    /// A daemon was started where none served.
    Restarted,
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
            [Report::Started(_)] => Some(Self::Restarted),
            _ => None,
        }
    }

    /// Whether the first daemon serves.
    pub(crate) const fn is_undone(self) -> bool {
        matches!(self, Self::RolledBack | Self::AdoptedRolledBack)
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
        write!(f, ": {}", self.event)
    }
}

/// Every event, in every combination; where the supervisor dies, with an adopter of each build.
pub(crate) fn all(builds: &[Build; 2]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (event, end) in EVENTS {
        for cast in casts(builds) {
            // Where no supervisor dies there is no adopter to choose.
            if end.is_adopted() || cast.adopter == cast.supervisor {
                cases.push(Case { cast, event, end });
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

const EVENTS: [(Event, End); 30] = [
    (Event::Nothing, End::Committed),
    // It tells its supervisor of the drain meanwhile.
    (Event::InIncumbent("drain=linger:1200"), End::Committed),
    (Event::At("successor.warm=error"), End::RolledBack),
    (Event::At("successor.received=kill"), End::RolledBack),
    (Event::At("successor.locked=kill"), End::RolledBack),
    (Event::At("successor.opened=kill"), End::RolledBack),
    (Event::InSuccessor("ready=wrong-fingerprint"), End::RolledBack),
    (Event::InSuccessor("health=bad"), End::RolledBack),
    (Event::At("successor.said-ready=kill"), End::RolledBack),
    (Event::At("successor.recorded-serving=kill"), End::RolledBack),
    (Event::At("incumbent.drains=error"), End::RolledBack),
    (Event::At("incumbent.carries=error"), End::RolledBack),
    (Event::At("incumbent.seals=error"), End::RolledBack),
    (Event::At("incumbent.carried=kill"), End::Promoted),
    (Event::At("incumbent.unlocked=kill"), End::Promoted),
    (Event::At("supervisor.journaled=kill"), End::AdoptedRolledBack),
    (Event::At("supervisor.paired=kill"), End::AdoptedRolledBack),
    (Event::At("supervisor.warmed=kill"), End::AdoptedRolledBack),
    (Event::At("supervisor.sent-prepare=kill"), End::AdoptedRolledBack),
    (Event::At("supervisor.heard-drained=kill"), End::AdoptedRolledBack),
    (Event::At("supervisor.sent-seal=kill"), End::AdoptedRolledBack),
    (Event::At("supervisor.heard-sealed=kill"), End::AdoptedRolledBack),
    (Event::At("supervisor.sent-begin=kill"), End::AdoptedRolledBack),
    (Event::At("supervisor.heard-ready=kill"), End::AdoptedRolledBack),
    (Event::At("supervisor.commits=kill"), End::AdoptedRolledBack),
    (Event::At("supervisor.sent-commit=kill"), End::AdoptedCommitted),
    (Event::At("supervisor.heard-serving=kill"), End::AdoptedCommitted),
    (Event::At("supervisor.told-incumbent=kill"), End::AdoptedCommitted),
    (Event::Stop, End::Restarted),
    (Event::Kill, End::Restarted),
];
