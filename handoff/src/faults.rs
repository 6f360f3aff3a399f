//! Fault points: every step at which one of the processes of a swap may fail, and what may
//! happen to it there. Compiled in only with the feature `faults`, for tests of a daemon or of
//! this crate; without it a step is nothing at all.
//!
//! A process is told by its environment what is to go wrong in it: `HANDOFF_FAULTS` holds
//! `POINT=FAULT`, separated by commas, each of which strikes once. Before it strikes, the empty
//! file `POINT=FAULT=PID` is left in the directory `HANDOFF_FAULT_MARKS`, so that whoever
//! planned it knows that it did.

mod steps;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use steps::{STEPS_VARIABLE, Step, steps};

use rustix::process::{Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};

/// Reaches a point: `Result<(), std::io::Error>`.
macro_rules! reach {
    ($point:ident) => {
        $crate::faults::reach($crate::faults::Point::$point)
    };
}

/// Reaches a point at which nothing can be returned.
macro_rules! pass {
    ($point:ident) => {
        $crate::faults::pass($crate::faults::Point::$point)
    };
}

/// Whose step it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Of a swap.
    Supervisor,
    /// A supervisor that goes on where another one died.
    Adopter,
    /// The old process.
    Incumbent,
    /// The new process.
    Successor,
    /// A daemon that starts where none serves.
    ColdStart,
}

macro_rules! points {
    ($($(#[doc = $doc:literal])* $point:ident = $name:literal, $role:ident, $fallible:literal;)*) => {
        /// A step of a role.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Point {
            $($(#[doc = $doc])* $point,)*
        }

        impl Point {
            /// All there are, role by role, each role's in the order of a swap.
            pub const ALL: &[Self] = &[$(Self::$point),*];

            /// As in `HANDOFF_FAULTS`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }

            /// Whose step it is.
            #[must_use]
            pub const fn role(self) -> Role {
                match self {
                    $(Self::$point => Role::$role,)*
                }
            }

            /// Whether the step can fail, so that an error can be returned there, or the
            /// machine can have run out of something.
            #[must_use]
            pub const fn is_fallible(self) -> bool {
                match self {
                    $(Self::$point => $fallible,)*
                }
            }
        }
    };
}

points! {
    /// It is about to connect to the incumbent.
    SupervisorPairs = "supervisor.pairs", Supervisor, true;
    /// The incumbent has been greeted.
    SupervisorGreetedIncumbent = "supervisor.greeted-incumbent", Supervisor, true;
    /// The successor was started, and is not in the journal yet.
    SupervisorLaunched = "supervisor.launched", Supervisor, true;
    /// The journal names the swap.
    SupervisorJournaled = "supervisor.journaled", Supervisor, true;
    /// Both have said hello.
    SupervisorPaired = "supervisor.paired", Supervisor, false;
    /// The successor is warm.
    SupervisorWarmed = "supervisor.warmed", Supervisor, false;
    /// `PrepareHandoff` is out.
    SupervisorSentPrepare = "supervisor.sent-prepare", Supervisor, false;
    /// `Drained` was heard.
    SupervisorHeardDrained = "supervisor.heard-drained", Supervisor, false;
    /// `SealRequest` is out.
    SupervisorSentSeal = "supervisor.sent-seal", Supervisor, false;
    /// `SealComplete` was heard.
    SupervisorHeardSealed = "supervisor.heard-sealed", Supervisor, false;
    /// `Begin` is out.
    SupervisorSentBegin = "supervisor.sent-begin", Supervisor, false;
    /// `Ready` was heard and judged.
    SupervisorHeardReady = "supervisor.heard-ready", Supervisor, false;
    /// `Commit` is about to be sent to the successor.
    SupervisorCommits = "supervisor.commits", Supervisor, false;
    /// It is out.
    SupervisorSentCommit = "supervisor.sent-commit", Supervisor, false;
    /// `Serving` was heard, and the incumbent does not know.
    SupervisorHeardServing = "supervisor.heard-serving", Supervisor, false;
    /// The incumbent was told, and the journal does not know.
    SupervisorToldIncumbent = "supervisor.told-incumbent", Supervisor, false;
    /// The journal says that the swap is over.
    SupervisorNotedEnd = "supervisor.noted-end", Supervisor, false;
    /// A swap is given up, and nothing was done about it yet.
    SupervisorGivesUp = "supervisor.gives-up", Supervisor, false;
    /// A successor that may hold the lock was killed.
    SupervisorKilledSuccessor = "supervisor.killed-successor", Supervisor, false;
    /// The incumbent was asked to resume and to say so.
    SupervisorAskedIncumbent = "supervisor.asked-incumbent", Supervisor, false;
    /// It has said so.
    SupervisorHeardEcho = "supervisor.heard-echo", Supervisor, false;

    /// It has the journal.
    AdopterHasJournal = "adopter.has-journal", Adopter, true;
    /// It is about to settle the swap that the journal names.
    AdopterSettles = "adopter.settles", Adopter, false;
    /// The incumbent was asked, and waits for this supervisor's word.
    AdopterAskedIncumbent = "adopter.asked-incumbent", Adopter, true;
    /// A successor that hangs was killed.
    AdopterKilledSuccessor = "adopter.killed-successor", Adopter, false;
    /// The swap is settled, and the journal does not know.
    AdopterSettled = "adopter.settled", Adopter, true;
    /// The journal knows.
    AdopterNotedEnd = "adopter.noted-end", Adopter, true;
    /// The listeners are asked for.
    AdopterAsksForListeners = "adopter.asks-for-listeners", Adopter, true;
    /// They are here.
    AdopterHasListeners = "adopter.has-listeners", Adopter, true;

    /// A control connection was accepted.
    IncumbentAccepted = "incumbent.accepted", Incumbent, true;
    /// `PrepareHandoff` was heard.
    IncumbentHeardPrepare = "incumbent.heard-prepare", Incumbent, false;
    /// The drain hook is about to run.
    IncumbentDrains = "incumbent.drains", Incumbent, true;
    /// It has run.
    IncumbentDrained = "incumbent.drained", Incumbent, true;
    /// `Drained` is out.
    IncumbentSaidDrained = "incumbent.said-drained", Incumbent, false;
    /// A parcel of connections or memory is about to be sent.
    IncumbentCarries = "incumbent.carries", Incumbent, true;
    /// The seal hook is about to run.
    IncumbentSeals = "incumbent.seals", Incumbent, true;
    /// It has run.
    IncumbentSealed = "incumbent.sealed", Incumbent, true;
    /// Everything is sent to the successor, and it was not told so.
    IncumbentCarried = "incumbent.carried", Incumbent, true;
    /// The manifest is about to be written.
    IncumbentWritesManifest = "incumbent.writes-manifest", Incumbent, true;
    /// The owner record is about to say that the directory is sealed.
    IncumbentRecordsSealed = "incumbent.records-sealed", Incumbent, true;
    /// It says so, and the lock is held.
    IncumbentUnlocks = "incumbent.unlocks", Incumbent, true;
    /// The lock is free, and `SealComplete` is not out.
    IncumbentUnlocked = "incumbent.unlocked", Incumbent, false;
    /// `SealComplete` is out.
    IncumbentSaidSealed = "incumbent.said-sealed", Incumbent, false;
    /// Another process is the writer, and this one knows.
    IncumbentLeaves = "incumbent.leaves", Incumbent, false;
    /// A swap is to be undone.
    IncumbentUndoes = "incumbent.undoes", Incumbent, false;
    /// It is about to try the lock.
    IncumbentTriesLock = "incumbent.tries-lock", Incumbent, true;
    /// It has the lock, and the record does not say so.
    IncumbentRetook = "incumbent.retook", Incumbent, true;
    /// The record says so.
    IncumbentRecordedAgain = "incumbent.recorded-again", Incumbent, false;
    /// What the successor was sent is about to be taken back.
    IncumbentTakesBack = "incumbent.takes-back", Incumbent, true;
    /// The resume hook is about to run.
    IncumbentResumes = "incumbent.resumes", Incumbent, true;
    /// It has run, and nothing is admitted yet.
    IncumbentResumed = "incumbent.resumed", Incumbent, true;
    /// It serves again.
    IncumbentServesAgain = "incumbent.serves-again", Incumbent, false;
    /// A supervisor asks for the listeners.
    IncumbentGivesListeners = "incumbent.gives-listeners", Incumbent, false;

    /// It knows what it was started for.
    SuccessorDetected = "successor.detected", Successor, true;
    /// Its hello is out.
    SuccessorSaidHello = "successor.said-hello", Successor, true;
    /// The supervisor has answered.
    SuccessorGreeted = "successor.greeted", Successor, true;
    /// The incumbent was asked for what it carries.
    SuccessorFetched = "successor.fetched", Successor, true;
    /// Its control socket is bound beside the path.
    SuccessorBound = "successor.bound", Successor, true;
    /// Its slow work is done, and it did not say so.
    SuccessorWarm = "successor.warm", Successor, true;
    /// `Warmed` is out.
    SuccessorSaidWarmed = "successor.said-warmed", Successor, true;
    /// A parcel of connections or memory has arrived.
    SuccessorReceived = "successor.received", Successor, true;
    /// `Begin` was heard.
    SuccessorHeardBegin = "successor.heard-begin", Successor, true;
    /// It has the lock, and the record does not say so.
    SuccessorLocked = "successor.locked", Successor, true;
    /// The record says that it opens.
    SuccessorRecordedOpening = "successor.recorded-opening", Successor, true;
    /// The data is open, and compared with what was sealed.
    SuccessorOpened = "successor.opened", Successor, true;
    /// `Ready` is out.
    SuccessorSaidReady = "successor.said-ready", Successor, false;
    /// `Commit` was heard.
    SuccessorHeardCommit = "successor.heard-commit", Successor, true;
    /// The successor has committed.
    SuccessorRecordedServing = "successor.recorded-serving", Successor, false;
    /// It is about to admit work.
    SuccessorAdmits = "successor.admits", Successor, true;
    /// The incumbent can take nothing back any more, and nothing was read yet.
    SuccessorTakesUp = "successor.takes-up", Successor, false;
    /// It has the path of the control socket.
    SuccessorTookPath = "successor.took-path", Successor, false;
    /// `Serving` is out.
    SuccessorSaidServing = "successor.said-serving", Successor, false;
    /// It serves its control socket.
    SuccessorServes = "successor.serves", Successor, false;

    /// It has the lock, and the record does not say so.
    ColdStartLocked = "cold-start.locked", ColdStart, true;
    /// Its control socket is at its path.
    ColdStartBound = "cold-start.bound", ColdStart, true;
    /// The data is open.
    ColdStartOpened = "cold-start.opened", ColdStart, true;
    /// The record says that it serves.
    ColdStartRecorded = "cold-start.recorded", ColdStart, true;
    /// It admits work.
    ColdStartServes = "cold-start.serves", ColdStart, false;
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The process kills itself, with `SIGKILL`.
    Kill,
    /// It stops itself, with `SIGSTOP`: until somebody continues or kills it.
    Hang,
    /// The thread panics.
    Panic,
    /// The step fails.
    Error,
    /// The step takes [`SLOWLY`] longer.
    Slow,
    /// For [`WHILE_OUT`] no file of the process can grow. `SIGXFSZ` has to be ignored, as it is
    /// below a shell's `trap '' XFSZ`.
    Disk,
    /// For [`WHILE_OUT`] the process gets no further descriptor.
    Descriptors,
}

impl Fault {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Kill,
        Self::Hang,
        Self::Panic,
        Self::Error,
        Self::Slow,
        Self::Disk,
        Self::Descriptors,
    ];

    /// As in `HANDOFF_FAULTS`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Hang => "hang",
            Self::Panic => "panic",
            Self::Error => "error",
            Self::Slow => "slow",
            Self::Disk => "disk",
            Self::Descriptors => "descriptors",
        }
    }

    /// Whether it makes sense at that point: where nothing can fail, nothing can run out.
    #[must_use]
    pub const fn strikes_at(self, point: Point) -> bool {
        match self {
            Self::Kill | Self::Hang | Self::Panic | Self::Slow => true,
            Self::Error | Self::Disk | Self::Descriptors => point.is_fallible(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A fault at a point; as text, `POINT=FAULT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Planned {
    /// Where.
    pub point: Point,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.point, self.fault)
    }
}

impl FromStr for Planned {
    type Err = NoFault;

    fn from_str(text: &str) -> Result<Self, NoFault> {
        let no_fault = || NoFault(text.to_owned());
        let (point, fault) = text.split_once('=').ok_or_else(no_fault)?;
        let point = Point::ALL.iter().find(|known| known.name() == point);
        let fault = Fault::ALL.into_iter().find(|known| known.name() == fault);
        match (point, fault) {
            (Some(&point), Some(fault)) => Ok(Self { point, fault }),
            _ => Err(no_fault()),
        }
    }
}

/// A text that plans nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no POINT=FAULT of {VARIABLE}")]
pub struct NoFault(String);

/// What is planned in this process, by its environment.
static PLAN: OnceLock<Plan> = OnceLock::new();

struct Plan {
    marks: Option<PathBuf>,
    planned: Vec<(Planned, AtomicBool)>,
}

impl Plan {
    fn of_environment() -> Self {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let planned = text.split(',').filter(|part| !part.is_empty()).map(|part| {
            // Whoever planned it wants to know, and nobody else sets the variable.
            let planned = part.parse().unwrap_or_else(|error| panic!("{error}"));
            (planned, AtomicBool::new(false))
        });
        let marks = std::env::var_os(MARKS).map(PathBuf::from);
        Self { marks, planned: planned.collect() }
    }
}

/// Reaches a point, at which what was planned strikes.
pub(crate) fn reach(point: Point) -> io::Result<()> {
    steps::note(point);
    let plan = PLAN.get_or_init(Plan::of_environment);
    for (planned, struck) in plan.planned.iter().filter(|(planned, _)| planned.point == point) {
        if !struck.swap(true, Ordering::SeqCst) {
            if let Some(marks) = &plan.marks {
                let mark = marks.join(format!("{planned}={}", std::process::id()));
                File::create(mark)?;
            }
            strike(*planned)?;
        }
    }
    Ok(())
}

/// [`reach`], where no error can be returned.
pub(crate) fn pass(point: Point) {
    let _ = reach(point);
}

fn strike(planned: Planned) -> io::Result<()> {
    match planned.fault {
        Fault::Kill => {
            kill_process(getpid(), Signal::KILL)?;
            // It comes at once, or nearly.
            loop {
                std::thread::park();
            }
        }
        Fault::Hang => Ok(kill_process(getpid(), Signal::STOP)?),
        Fault::Panic => panic!("planned: {planned}"),
        Fault::Error => Err(io::Error::other(format!("planned: {planned}"))),
        Fault::Slow => {
            std::thread::sleep(SLOWLY);
            Ok(())
        }
        Fault::Disk => run_out(Resource::Fsize, 0),
        Fault::Descriptors => {
            // The lowest number that is free: every one from there on is refused.
            let lowest = File::open("/dev/null")?.as_raw_fd();
            run_out(Resource::Nofile, u64::try_from(lowest).unwrap_or(0))
        }
    }
}

/// Lowers a limit, for a while.
fn run_out(resource: Resource, limit: u64) -> io::Result<()> {
    let usual = getrlimit(resource);
    std::thread::Builder::new().name("handoff-fault".into()).spawn(move || {
        std::thread::sleep(WHILE_OUT);
        let restored = setrlimit(resource, usual);
        assert_eq!(restored, Ok(()), "a soft limit can be raised to what it was");
    })?;
    let maximum = usual.maximum;
    Ok(setrlimit(resource, Rlimit { current: Some(limit), maximum })?)
}

/// The faults whose marks lie in a directory, with the process that each struck in.
///
/// # Errors
///
/// It cannot be read.
pub fn struck(marks: &std::path::Path) -> io::Result<Vec<(Planned, u32)>> {
    let mut struck = Vec::new();
    for entry in fs::read_dir(marks)? {
        let name = entry?.file_name();
        let mark = name.to_str().and_then(|name| name.rsplit_once('='));
        struck.extend(mark.and_then(|(planned, pid)| {
            Some((planned.parse::<Planned>().ok()?, pid.parse::<u32>().ok()?))
        }));
    }
    Ok(struck)
}

/// Names what is planned.
pub const VARIABLE: &str = "HANDOFF_FAULTS";
/// Names the directory of the marks.
pub const MARKS: &str = "HANDOFF_FAULT_MARKS";
/// How long a slow step takes.
pub const SLOWLY: Duration = Duration::from_millis(700);
/// How long a process is out of something.
pub const WHILE_OUT: Duration = Duration::from_millis(700);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own_and_is_read_by_it() {
        let names: BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        for &point in Point::ALL {
            for fault in Fault::ALL {
                let planned = Planned { point, fault };
                assert_eq!(planned.to_string().parse(), Ok(planned));
            }
        }
        for text in ["", "x", "incumbent.drains", "incumbent.drains=nothing", "x=kill"] {
            assert_eq!(text.parse::<Planned>(), Err(NoFault(text.to_owned())));
        }
    }

    #[test]
    fn where_nothing_is_planned_nothing_happens() {
        for &point in Point::ALL {
            reach(point).expect("nothing is planned");
        }
    }
}
