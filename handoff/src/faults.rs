//! Failpoints: the steps at which a process of a swap may fail, and the faults that may strike
//! there. They are compiled in only with the feature `faults`, for tests of a daemon or of this
//! crate; without it a failpoint is nothing at all.
//!
//! A process reads its planned faults from its environment: `HANDOFF_FAULTS` holds a list of
//! `POINT=FAULT`, separated by commas. Each strikes once. Before a fault strikes, the process
//! leaves the empty file `POINT=FAULT=PID` in the directory `HANDOFF_FAULT_MARKS`, so that the
//! test that planned the fault knows that it struck.
//!
//! `HANDOFF_FAULT_BOOT_ID` has a process believe that the machine runs in another boot.

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

/// Reaches a failpoint: `Result<(), std::io::Error>`.
macro_rules! try_failpoint {
    ($point:ident) => {
        $crate::faults::try_reach($crate::faults::Point::$point)
    };
}

/// Reaches a failpoint at which no error can be returned.
macro_rules! failpoint {
    ($point:ident) => {
        $crate::faults::reach($crate::faults::Point::$point)
    };
}

/// The role that takes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The supervisor that begins a swap.
    Supervisor,
    /// A supervisor that goes on where another supervisor died.
    Adopter,
    /// The old process.
    Incumbent,
    /// The new process.
    Successor,
    /// A daemon that starts where no daemon serves.
    ColdStart,
}

macro_rules! points {
    ($($(#[doc = $doc:literal])* $point:ident = $name:literal, $role:ident, $fallible:literal;)*) => {
        /// A failpoint: a step of a role.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Point {
            $($(#[doc = $doc])* $point,)*
        }

        impl Point {
            /// All points, role by role, those of a role in the order of a swap.
            pub const ALL: &[Self] = &[$(Self::$point),*];

            /// The name, as in `HANDOFF_FAULTS`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }

            /// The role that takes the step.
            #[must_use]
            pub const fn role(self) -> Role {
                match self {
                    $(Self::$point => Role::$role,)*
                }
            }

            /// Whether the step can fail, so that it can return an error there, or the machine
            /// can have run out of a resource.
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
    /// It has greeted the incumbent.
    SupervisorGreetedIncumbent = "supervisor.greeted-incumbent", Supervisor, true;
    /// It has started the successor, which is not in the journal yet.
    SupervisorLaunched = "supervisor.launched", Supervisor, true;
    /// The journal names the swap.
    SupervisorJournaled = "supervisor.journaled", Supervisor, true;
    /// Both processes have said hello.
    SupervisorPaired = "supervisor.paired", Supervisor, false;
    /// The successor is warm.
    SupervisorWarmed = "supervisor.warmed", Supervisor, false;
    /// It has sent `PrepareHandoff`.
    SupervisorSentPrepare = "supervisor.sent-prepare", Supervisor, false;
    /// It has heard `Drained`.
    SupervisorHeardDrained = "supervisor.heard-drained", Supervisor, false;
    /// It has sent `SealRequest`.
    SupervisorSentSeal = "supervisor.sent-seal", Supervisor, false;
    /// It has heard `SealComplete`.
    SupervisorHeardSealed = "supervisor.heard-sealed", Supervisor, false;
    /// It has sent `Begin`.
    SupervisorSentBegin = "supervisor.sent-begin", Supervisor, false;
    /// It has heard `Ready`, and the policy has judged it.
    SupervisorHeardReady = "supervisor.heard-ready", Supervisor, false;
    /// It is about to send `Commit` to the successor.
    SupervisorCommits = "supervisor.commits", Supervisor, false;
    /// It has sent `Commit` to the successor.
    SupervisorSentCommit = "supervisor.sent-commit", Supervisor, false;
    /// It has heard `Serving`, and has not told the incumbent yet.
    SupervisorHeardServing = "supervisor.heard-serving", Supervisor, false;
    /// It has told the incumbent, and the journal does not say so yet.
    SupervisorToldIncumbent = "supervisor.told-incumbent", Supervisor, false;
    /// The journal says that the swap is over.
    SupervisorNotedEnd = "supervisor.noted-end", Supervisor, false;
    /// It gives a swap up, and has done nothing about it yet.
    SupervisorGivesUp = "supervisor.gives-up", Supervisor, false;
    /// It has killed a successor that may hold the lock.
    SupervisorKilledSuccessor = "supervisor.killed-successor", Supervisor, false;
    /// It has asked the incumbent to resume and to confirm it.
    SupervisorAskedIncumbent = "supervisor.asked-incumbent", Supervisor, false;
    /// The incumbent has confirmed it.
    SupervisorHeardEcho = "supervisor.heard-echo", Supervisor, false;

    /// It has the journal.
    AdopterHasJournal = "adopter.has-journal", Adopter, true;
    /// It is about to resolve the swap that the journal names.
    AdopterResolves = "adopter.resolves", Adopter, false;
    /// It has asked the incumbent, which waits for its word from then on.
    AdopterAskedIncumbent = "adopter.asked-incumbent", Adopter, true;
    /// It has killed a successor that hangs.
    AdopterKilledSuccessor = "adopter.killed-successor", Adopter, false;
    /// The swap is resolved, and the journal does not say so yet.
    AdopterResolved = "adopter.resolved", Adopter, true;
    /// The journal says so.
    AdopterNotedEnd = "adopter.noted-end", Adopter, true;
    /// It is about to ask for the listeners.
    AdopterAsksForListeners = "adopter.asks-for-listeners", Adopter, true;
    /// It has the listeners, if a daemon serves.
    AdopterHasListeners = "adopter.has-listeners", Adopter, true;

    /// It has accepted a control connection.
    IncumbentAccepted = "incumbent.accepted", Incumbent, true;
    /// It has heard `PrepareHandoff`.
    IncumbentHeardPrepare = "incumbent.heard-prepare", Incumbent, false;
    /// It is about to start the thread of the hooks.
    IncumbentBegins = "incumbent.begins", Incumbent, true;
    /// The drain hook is about to run.
    IncumbentDrains = "incumbent.drains", Incumbent, true;
    /// The drain hook has run.
    IncumbentDrained = "incumbent.drained", Incumbent, true;
    /// It has sent `Drained`.
    IncumbentSaidDrained = "incumbent.said-drained", Incumbent, false;
    /// It is about to send a parcel of connections or memory.
    IncumbentCarries = "incumbent.carries", Incumbent, true;
    /// The seal hook is about to run.
    IncumbentSeals = "incumbent.seals", Incumbent, true;
    /// The seal hook has run.
    IncumbentSealed = "incumbent.sealed", Incumbent, true;
    /// It has sent everything to the successor, and has not said so yet.
    IncumbentCarried = "incumbent.carried", Incumbent, true;
    /// It is about to write the manifest.
    IncumbentWritesManifest = "incumbent.writes-manifest", Incumbent, true;
    /// It is about to write into the owner record that the directory is sealed.
    IncumbentRecordsSealed = "incumbent.records-sealed", Incumbent, true;
    /// The owner record says so, and it still holds the lock.
    IncumbentUnlocks = "incumbent.unlocks", Incumbent, true;
    /// It has released the lock, and has not sent `SealComplete` yet.
    IncumbentUnlocked = "incumbent.unlocked", Incumbent, false;
    /// It has sent `SealComplete`.
    IncumbentSaidSealed = "incumbent.said-sealed", Incumbent, false;
    /// It is about to leave: another process is the writer, or it has stopped.
    IncumbentLeaves = "incumbent.leaves", Incumbent, false;
    /// It is about to undo a swap.
    IncumbentUndoes = "incumbent.undoes", Incumbent, false;
    /// It is about to try the lock.
    IncumbentTriesLock = "incumbent.tries-lock", Incumbent, true;
    /// It has the lock, and the record does not say so yet.
    IncumbentRetook = "incumbent.retook", Incumbent, true;
    /// The record says that it has the lock again.
    IncumbentRecordedAgain = "incumbent.recorded-again", Incumbent, false;
    /// It is about to take back everything that it sent to the successor.
    IncumbentTakesBack = "incumbent.takes-back", Incumbent, true;
    /// The resume hook is about to run.
    IncumbentResumes = "incumbent.resumes", Incumbent, true;
    /// The resume hook has run, and nothing is admitted yet.
    IncumbentResumed = "incumbent.resumed", Incumbent, true;
    /// It serves again.
    IncumbentServesAgain = "incumbent.serves-again", Incumbent, false;
    /// A supervisor asks for the listeners.
    IncumbentGivesListeners = "incumbent.gives-listeners", Incumbent, false;

    /// It knows that it is a successor, and has not said hello.
    SuccessorDetected = "successor.detected", Successor, true;
    /// It has sent its hello.
    SuccessorSaidHello = "successor.said-hello", Successor, true;
    /// The supervisor has answered.
    SuccessorGreeted = "successor.greeted", Successor, true;
    /// It has asked the incumbent for the carried connections and memory.
    SuccessorFetched = "successor.fetched", Successor, true;
    /// It has bound its control socket beside the path.
    SuccessorBound = "successor.bound", Successor, true;
    /// Its slow work is done, and it has not said so yet.
    SuccessorWarm = "successor.warm", Successor, true;
    /// It has sent `Warmed`.
    SuccessorSaidWarmed = "successor.said-warmed", Successor, true;
    /// It has received a parcel of connections or memory.
    SuccessorReceived = "successor.received", Successor, true;
    /// It has heard `Begin`.
    SuccessorHeardBegin = "successor.heard-begin", Successor, true;
    /// It has the lock, and the record does not say so yet.
    SuccessorLocked = "successor.locked", Successor, true;
    /// The record says that it opens.
    SuccessorRecordedOpening = "successor.recorded-opening", Successor, true;
    /// It has opened the data, and compared it with the seal manifest.
    SuccessorOpened = "successor.opened", Successor, true;
    /// It has sent `Ready`.
    SuccessorSaidReady = "successor.said-ready", Successor, false;
    /// It has heard `Commit`.
    SuccessorHeardCommit = "successor.heard-commit", Successor, true;
    /// It has committed.
    SuccessorRecordedServing = "successor.recorded-serving", Successor, false;
    /// It has noted its format, and is about to run the daemon's own steps behind the commit point.
    SuccessorFinishes = "successor.finishes", Successor, true;
    /// It is about to admit work.
    SuccessorAdmits = "successor.admits", Successor, true;
    /// The incumbent can take nothing back any more, and no handler has read yet.
    SuccessorTakesUp = "successor.takes-up", Successor, false;
    /// It has the path of the control socket.
    SuccessorTookPath = "successor.took-path", Successor, false;
    /// It has sent `Serving`.
    SuccessorSaidServing = "successor.said-serving", Successor, false;
    /// It has said `Serving`, and is about to serve its control socket.
    SuccessorServes = "successor.serves", Successor, false;

    /// It has the lock, and the record does not say so yet.
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

/// A failure at a failpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The process kills itself, with `SIGKILL`.
    Kill,
    /// The process stops itself, with `SIGSTOP`, until another process continues or kills it.
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
    /// The process forks a child that does not exec, and outlives it.
    Fork,
    /// So, by the bare system call: no handler of a fork runs.
    Clone,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 9] = [
        Self::Kill,
        Self::Hang,
        Self::Panic,
        Self::Error,
        Self::Slow,
        Self::Disk,
        Self::Descriptors,
        Self::Fork,
        Self::Clone,
    ];

    /// The name, as in `HANDOFF_FAULTS`.
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
            Self::Fork => "fork",
            Self::Clone => "clone",
        }
    }

    /// Whether the fault makes sense at that point: a step that cannot fail can run out of nothing.
    #[must_use]
    pub const fn strikes_at(self, point: Point) -> bool {
        match self {
            Self::Kill | Self::Hang | Self::Panic | Self::Slow => true,
            // A daemon forks, for a snapshot of its memory; a supervisor starts processes alone.
            Self::Fork | Self::Clone => {
                matches!(point.role(), Role::Incumbent | Role::Successor | Role::ColdStart)
            }
            Self::Error | Self::Disk | Self::Descriptors => point.is_fallible(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A fault at a failpoint; as text, `POINT=FAULT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Planned {
    /// The failpoint.
    pub point: Point,
    /// The fault.
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

/// The faults that the environment plans for this process.
static PLAN: OnceLock<Plan> = OnceLock::new();

struct Plan {
    marks: Option<PathBuf>,
    planned: Vec<(Planned, AtomicBool)>,
}

impl Plan {
    fn of_environment() -> Self {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let planned = text.split(',').filter(|part| !part.is_empty()).map(|part| {
            // Only a test sets the variable, and a text that plans nothing is an error of the test.
            let planned = part.parse().unwrap_or_else(|error| panic!("{error}"));
            (planned, AtomicBool::new(false))
        });
        let marks = std::env::var_os(MARKS).map(PathBuf::from);
        Self { marks, planned: planned.collect() }
    }
}

/// Reaches a failpoint: each fault that is planned for it strikes, once.
pub(crate) fn try_reach(point: Point) -> io::Result<()> {
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

/// [`try_reach`], where no error can be returned.
pub(crate) fn reach(point: Point) {
    let _ = try_reach(point);
}

fn strike(planned: Planned) -> io::Result<()> {
    match planned.fault {
        Fault::Kill => {
            kill_process(getpid(), Signal::KILL)?;
            // The signal comes at once, or nearly.
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
        Fault::Fork => forks(true),
        Fault::Clone => forks(false),
        Fault::Disk => run_out(Resource::Fsize, 0),
        Fault::Descriptors => {
            // The lowest free number: the kernel refuses every number from there on.
            let lowest = File::open("/dev/null")?.as_raw_fd();
            run_out(Resource::Nofile, u64::try_from(lowest).unwrap_or(0))
        }
    }
}

/// Forks, and leaves the child's pid as the name of a file among the marks.
fn forks(is_told: bool) -> io::Result<()> {
    let child = crate::sys::fork::fork_and_linger(is_told)?;
    match std::env::var_os(MARKS) {
        Some(marks) => File::create(PathBuf::from(marks).join(format!("{CHILD}{child}"))).map(drop),
        None => Ok(()),
    }
}

/// The children that processes forked by a planned fault, by the marks in a directory.
///
/// # Errors
///
/// The directory cannot be read.
pub fn forked(marks: &std::path::Path) -> io::Result<Vec<u32>> {
    let names = fs::read_dir(marks)?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    let pids = names.iter().filter_map(|name| name.to_str()?.strip_prefix(CHILD)?.parse().ok());
    Ok(pids.collect())
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

/// The faults that left a mark in a directory, each with the pid of the process it struck.
///
/// # Errors
///
/// The directory cannot be read.
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

/// The boot of the machine that this process shall believe itself in.
pub(crate) fn planned_boot_id() -> Option<String> {
    std::env::var(BOOT_ID).ok()
}

/// The environment variable that holds a UUID for the identifier of this boot of the machine: a
/// process without it, or with another one, takes what this one leaves on disk as from before a
/// reboot.
pub const BOOT_ID: &str = "HANDOFF_FAULT_BOOT_ID";
/// The environment variable that holds the planned faults.
pub const VARIABLE: &str = "HANDOFF_FAULTS";
/// The environment variable that names the directory of the marks.
pub const MARKS: &str = "HANDOFF_FAULT_MARKS";
/// How the mark of a forked child begins; its pid follows.
const CHILD: &str = "child-";
/// How long a slow step takes.
pub const SLOWLY: Duration = Duration::from_millis(700);
/// How long a process is out of a resource.
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
            try_reach(point).expect("nothing is planned");
        }
    }
}
