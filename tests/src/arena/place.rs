//! Where it happens, and the loop that does what an operator's program would: start the
//! supervisor again when it has died, and a daemon where none is left.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use handoff::faults::{Fault, Planned, Role, struck};
use rustix::process::Signal;

use super::connections::Connections;
use super::supervisor::{SUPERVISOR, plan};
use super::{Build, Cast, DEADLINE, LiveSupervisor, Report, cast};
use crate::fixture::{MARKS, Options};
use crate::harness::{Clients, LIVENESS, Tally, executable, is_alive, kill};

/// A place of its own: directories, an address, a supervisor, a daemon, and clients.
#[derive(Debug)]
pub struct Arena {
    pub(super) directory: tempfile::TempDir,
    pub(super) address: SocketAddr,
    /// The one that is there now.
    pub supervisor: LiveSupervisor,
    /// The one that serves, by the reports; none where none is left, or nobody knows.
    pub daemon: Option<Daemon>,
    /// What the swap under way leads to.
    pub(super) successor: Option<String>,
    pub(super) incumbent: Option<Daemon>,
    /// What the last swap was to lead to.
    swapped_to: Option<String>,
    /// For the processes that are started next.
    faults: Vec<Planned>,
    /// The builds that play the roles; this one plays all of them where there is none.
    pub cast: Option<Cast>,
    /// How many supervisors were started.
    supervisors: u32,
    /// [`Options::faults`] of the daemons that are started next.
    pub of_fixture: Vec<&'static str>,
    pub(super) clients: Option<Clients>,
    /// Those that should outlive each swap.
    pub(super) connections: Connections,
    pub(super) tally: Tally,
    builds: u32,
    /// Whether each build migrates to a format that no build before it reads.
    migrates: bool,
    /// Whether at some time nobody was left who had the listening socket.
    pub has_died_out: bool,
    /// What the supervisors said, in order.
    pub reports: Vec<Report>,
    ordered: Option<Instant>,
    /// How long the first word about the last swap took.
    pub answered_in: Option<Duration>,
    /// The processes that were killed from outside.
    pub(super) struck_down: Vec<u32>,
}

/// A process to be struck from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The one that drives the swap.
    Supervisor,
    /// The one that served when it was ordered.
    Incumbent,
    /// The one that is to serve.
    Successor,
}

/// A daemon, as it was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Its pid.
    pub pid: u32,
    /// What it calls its build.
    pub build: String,
}

impl Arena {
    /// A supervisor that has found nothing. Each fault is given to the process whose step it
    /// strikes at: the first supervisor, the second, the first daemon, or the first successor.
    ///
    /// # Panics
    ///
    /// When nothing can be started.
    #[must_use]
    pub fn new(faults: &[Planned]) -> Self {
        Self::with_cast(faults, None)
    }

    /// The same, where these builds play the roles.
    ///
    /// # Panics
    ///
    /// So.
    #[must_use]
    pub fn with_cast(faults: &[Planned], cast: Option<Cast>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["pids", "marks", MARKS] {
            fs::create_dir(directory.path().join(name)).expect("it can be created");
        }
        // An address that no other arena has, and no connection's own end.
        let count = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let process = std::process::id().to_be_bytes();
        let host = Ipv4Addr::new(127, process[3] | 1, count[2], count[3]);
        let address = SocketAddr::from((host, 7000 + u16::from(process[2])));
        let (first, others): (Vec<Planned>, _) =
            faults.iter().partition(|planned| planned.point.role() == Role::Supervisor);
        let binary = binary_of(directory.path(), 1, cast.as_ref().map(|cast| &cast.supervisor));
        let listen = address.to_string();
        Self {
            supervisor: LiveSupervisor::start(&binary, directory.path(), &listen, &first),
            directory,
            address,
            daemon: None,
            successor: None,
            incumbent: None,
            swapped_to: None,
            faults: others,
            cast,
            supervisors: 1,
            of_fixture: Vec::new(),
            clients: None,
            connections: Connections::default(),
            tally: Tally::default(),
            builds: 0,
            migrates: false,
            has_died_out: false,
            reports: Vec::new(),
            ordered: None,
            answered_in: None,
            struck_down: Vec::new(),
        }
    }

    /// Each build migrates to a format of its own, which no build before it reads.
    #[must_use]
    pub const fn migrating(mut self, migrates: bool) -> Self {
        self.migrates = migrates;
        self
    }

    /// The directory of all that the processes leave.
    #[must_use]
    pub fn state(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn control(&self) -> PathBuf {
        self.state().join("control")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.state().join("data")
    }

    /// Starts clients that write until the end.
    pub fn start_clients(&mut self, count: usize) {
        let prefix = format!("c{}", self.builds);
        self.clients = Some(Clients::start(self.address, count, &prefix));
    }

    /// Orders a swap. It goes on by itself until [`until_sound`](Self::until_sound); some of the
    /// connections that are open ask meanwhile.
    pub fn order_swap(&mut self) {
        let faults = self.take_faults(&[Role::Successor]);
        let build = self.next_build();
        let mut words = vec!["swap".to_owned(), DEADLINE.as_millis().to_string(), plan(&faults)];
        words.extend(self.options(&build).to_args());
        self.start_next(|cast| &cast.successor);
        self.swapped_to = Some(build.clone());
        (self.ordered, self.answered_in) = (Some(Instant::now()), None);
        (self.incumbent, self.successor) = (self.daemon.clone(), Some(build));
        self.supervisor.order(&words);
        self.ask_meanwhile();
    }

    /// Does what has to be done until the supervisor has nothing to do, and one process serves
    /// and is the writer: the one that was reported. The others have ended.
    ///
    /// # Panics
    ///
    /// When that takes longer than it may, or a report is not true.
    pub fn until_sound(&mut self) {
        let deadline = Instant::now() + SOUND_TIMEOUT;
        loop {
            self.until_served(deadline);
            match self.one_serves() {
                Ok(()) => return,
                Err(why) => {
                    assert!(Instant::now() < deadline, "{why}; {:?}", self.reports);
                    // One that has left hangs.
                    self.go_on_with_hung();
                }
            }
        }
    }

    fn until_served(&mut self, deadline: Instant) {
        loop {
            assert!(Instant::now() < deadline, "nobody serves; {:?}", self.reports);
            if let Some(report) = self.supervisor.report(TURN) {
                let took = self.ordered.take().map(|ordered| ordered.elapsed());
                self.answered_in = took.or(self.answered_in);
                self.heed(report);
            } else if self.supervisor.has_ended() {
                // What it said last may still be on its way.
                if self.supervisor.is_silent() {
                    self.start_supervisor();
                }
            } else if self.supervisor.is_busy {
                self.go_on_with_hung();
            } else {
                match &self.daemon {
                    Some(daemon) if !self.lives(daemon.pid) => self.daemon = None,
                    Some(_) if self.is_served(Duration::from_millis(250)) => return,
                    Some(_) => self.go_on_with_hung(),
                    None if self.alive().is_empty() => self.order_start(),
                    None => {
                        self.go_on_with_hung();
                        self.daemon = self.find_out();
                    }
                }
            }
        }
    }

    /// Whether the one that serves is what the last swap was to lead to.
    #[must_use]
    pub fn was_swapped(&self) -> bool {
        self.daemon.as_ref().map(|daemon| &daemon.build) == self.swapped_to.as_ref()
    }

    /// Kills the supervisor; [`until_sound`](Self::until_sound) starts another one.
    pub fn kill_supervisor(&mut self) {
        self.supervisor.kill();
    }

    /// The process that has this role in the swap under way, if there is one now.
    #[must_use]
    pub fn victim(&self, victim: Victim) -> Option<u32> {
        let incumbent = self.incumbent.as_ref().map(|daemon| daemon.pid);
        match victim {
            Victim::Supervisor => Some(self.supervisor.pid()),
            Victim::Incumbent => incumbent.filter(|pid| self.lives(*pid)),
            Victim::Successor => self.alive().into_iter().find(|pid| Some(*pid) != incumbent),
        }
    }

    /// Sends a signal to a process.
    pub fn signal(&self, pid: u32, signal: Signal) {
        kill(pid, signal);
    }

    /// Kills a process.
    pub fn strike_down(&mut self, pid: u32) {
        self.struck_down.push(pid);
        kill(pid, Signal::KILL);
        if pid == self.supervisor.pid() {
            self.supervisor.kill();
        }
    }

    /// The faults that have struck, and in which process.
    ///
    /// # Panics
    ///
    /// When the marks cannot be read.
    #[must_use]
    pub fn struck(&self) -> Vec<(Planned, u32)> {
        struck(&self.state().join("marks")).expect("the marks can be read")
    }

    /// How long ago the first of them struck.
    #[must_use]
    pub fn since_first_strike(&self) -> Option<Duration> {
        let marks = fs::read_dir(self.state().join("marks")).ok()?;
        let times = marks.filter_map(|mark| mark.ok()?.metadata().ok()?.modified().ok());
        times.filter_map(|time| SystemTime::now().duration_since(time).ok()).max()
    }

    /// The pids of all daemons of this place that live.
    ///
    /// # Panics
    ///
    /// When their traces cannot be read.
    #[must_use]
    pub fn alive(&self) -> Vec<u32> {
        let pids = fs::read_dir(self.state().join("pids")).expect("it is there");
        let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.lives(*pid)).collect()
    }

    fn lives(&self, pid: u32) -> bool {
        is_alive(pid, &self.state().display().to_string())
    }

    fn start_supervisor(&mut self) {
        let faults = self.take_faults(&[Role::Adopter]);
        let listen = self.address.to_string();
        self.supervisors += 1;
        let adopter = self.cast.as_ref().map(|cast| &cast.adopter);
        let binary = binary_of(self.state(), self.supervisors, adopter);
        self.supervisor = LiveSupervisor::start(&binary, self.state(), &listen, &faults);
    }

    /// The supervisor that is there starts a daemon of this build next.
    fn start_next(&self, build: impl FnOnce(&Cast) -> &Build) {
        if let Some(cast) = &self.cast {
            cast::link_daemon(self.state(), self.supervisors, build(cast));
        }
    }

    fn order_start(&mut self) {
        let faults = self.take_faults(&[Role::ColdStart, Role::Incumbent]);
        let build = self.next_build();
        let mut words = vec!["start".to_owned(), plan(&faults)];
        words.extend(self.options(&build).to_args());
        self.start_next(|cast| &cast.incumbent);
        (self.incumbent, self.successor) = (None, Some(build));
        self.supervisor.order(&words);
    }

    fn take_faults(&mut self, roles: &[Role]) -> Vec<Planned> {
        let is_theirs = |planned: &Planned| roles.contains(&planned.point.role());
        let (theirs, others) = self.faults.iter().partition(|planned| is_theirs(planned));
        self.faults = others;
        theirs
    }

    fn next_build(&mut self) -> String {
        self.builds += 1;
        format!("build-{}", self.builds)
    }

    fn options(&self, build: &str) -> Options {
        Options {
            control: self.control(),
            data: self.data(),
            state: self.state().to_owned(),
            build: build.to_owned(),
            shards: 3,
            listener: "main".to_owned(),
            format: if self.migrates { self.builds } else { 0 },
            carry: true,
            faults: self.of_fixture.iter().map(|fault| (*fault).to_owned()).collect(),
        }
    }

    /// A process that hangs goes on once the others have done what they could without it.
    fn go_on_with_hung(&self) {
        let hung: Vec<u32> = self
            .struck()
            .into_iter()
            .filter(|(planned, pid)| planned.fault == Fault::Hang && is_stopped(*pid))
            .map(|(_, pid)| pid)
            .collect();
        let Some(since) = self.since_first_strike().filter(|_| !hung.is_empty()) else { return };
        if since < DEADLINE + LIVENESS {
            return;
        }
        let is_served = self.is_served(Duration::from_millis(250));
        if !is_served && since < HUNG_TIMEOUT {
            return;
        }
        if !is_served {
            let writers = self.lock_holders();
            let others = self.alive().into_iter().any(|pid| !hung.contains(&pid));
            let is_hung = writers.iter().any(|pid| hung.contains(pid));
            assert!(is_hung || !others, "{hung:?} hang, and others could serve without them");
        }
        for pid in hung {
            kill(pid, Signal::CONT);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        drop(self.clients.take());
        self.supervisor.kill();
        // One that it had just started may not have left its trace yet, but has its command line.
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for pid in pids.filter(|pid| self.lives(*pid)) {
            kill(pid, Signal::KILL);
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.state().join("stderr")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(60).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            eprintln!("--- reports: {:?}\n--- log:\n{}\n---", self.reports, last.join("\n"));
        }
    }
}

/// The binary of the next supervisor.
fn binary_of(state: &Path, number: u32, build: Option<&Build>) -> PathBuf {
    build
        .map_or_else(|| executable(SUPERVISOR), |build| cast::link_supervisor(state, number, build))
}

/// Whether a process was stopped by a signal.
#[must_use]
pub(super) fn is_stopped(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}

/// How often it is looked what is to be done.
const TURN: Duration = Duration::from_millis(5);
/// Nothing takes longer than a process that hangs, twice.
const SOUND_TIMEOUT: Duration = Duration::from_secs(60);
/// By then whoever can serve without those that hang does.
const HUNG_TIMEOUT: Duration = Duration::from_secs(3 + 5 + 5);
