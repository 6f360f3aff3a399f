//! A daemon, its supervisor, and clients.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::str::FromStr;
use std::thread::JoinHandle;
use std::time::Duration;

use handoff::Supervisor;
use handoff::supervisor::{
    AbortHandle, AdoptedDaemon, CarryReport, ChildProcess, Committed, Failed, HandoffOutcome,
};
use rustix::process::Signal;

use super::process::{eventually, executable, is_alive, kill, kill_and_wait};
use super::spec::Logged;
use super::{Client, Clients, SuccessorSpec, TIMEOUT, Tally};
use crate::fixture::{MARKS, Options, struck};

/// A daemon that serves, in directories of its own.
#[derive(Debug)]
pub struct Cluster {
    /// The one that starts and swaps the daemon.
    pub supervisor: Supervisor,
    /// This process's own copy of the daemon's listener.
    pub listener: TcpListener,
    /// By the reports, who serves; none where the scenario lost sight of it.
    pub reported: Option<u32>,
    /// Whether the scenario kills processes that serve, and so resets connections.
    pub resets_expected: bool,
    /// What the last swap that was committed carried, by its report.
    pub carried: CarryReport,
    carries: bool,
    pub(super) clients: Option<Clients>,
    pub(super) tally: Tally,
    builds: u32,
    children: Vec<ChildProcess>,
    directory: tempfile::TempDir,
}

impl Cluster {
    /// A daemon without faults.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A first daemon with these faults, and two clients.
    #[must_use]
    pub fn start_with(faults: &[&str]) -> Self {
        Self::start_passing(faults, Vec::new())
    }

    /// A first daemon that carries its connections, as the ones that follow do.
    #[must_use]
    pub fn start_carrying(faults: &[&str]) -> Self {
        Self::start_carrying_passed(faults, Vec::new())
    }

    /// So, and it is passed these sockets besides its own.
    #[must_use]
    pub fn start_carrying_passed(faults: &[&str], others: Vec<(&str, OwnedFd)>) -> Self {
        Self::start_as(faults, others, true)
    }

    /// A first daemon that is passed these sockets besides its own.
    #[must_use]
    pub fn start_passing(faults: &[&str], others: Vec<(&str, OwnedFd)>) -> Self {
        Self::start_as(faults, others, false)
    }

    fn start_as(faults: &[&str], others: Vec<(&str, OwnedFd)>, carries: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["pids", "run", MARKS] {
            fs::create_dir(directory.path().join(name)).expect("it can be created");
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        listener.set_nonblocking(true).expect("it can be set");
        let log = directory.path().join("stderr");
        let copy = listener.try_clone().expect("a descriptor is left");
        let mut supervisor = Supervisor::new(&directory.path().join("run/control"))
            .expect("the path is short")
            .with_launch(Logged(log))
            .with_listener("main", copy);
        for (name, socket) in others {
            supervisor = supervisor.with_listener(name, socket);
        }
        let mut cluster = Self {
            supervisor,
            listener,
            reported: None,
            resets_expected: false,
            carried: CarryReport::default(),
            carries,
            clients: None,
            tally: Tally::default(),
            builds: 0,
            children: Vec::new(),
            directory,
        };
        let first = cluster.successor(faults).spec();
        let child = cluster.supervisor.start(&first).expect("the first daemon starts");
        cluster.track(child);
        cluster.clients = Some(Clients::start(cluster.address(), 2, "clients"));
        cluster.wait_for_progress();
        cluster
    }

    /// Changes the supervisor of the swaps to come.
    ///
    /// # Panics
    ///
    /// Never: the path was short enough before.
    pub fn supervise(&mut self, change: impl FnOnce(Supervisor) -> Supervisor) {
        let another = Supervisor::new(&self.control()).expect("the path is short");
        self.supervisor = change(std::mem::replace(&mut self.supervisor, another));
    }

    /// Where the daemon serves its clients.
    ///
    /// # Panics
    ///
    /// Never: it is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    /// The control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.state().join("run/control")
    }

    /// The journal of supervisors that keep one.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.state().join("journal")
    }

    /// A supervisor with that journal and without a listener, as one that is started anew.
    ///
    /// # Panics
    ///
    /// When another one has the journal.
    #[must_use]
    pub fn another_supervisor(&self) -> Supervisor {
        let supervisor = Supervisor::new(&self.control()).expect("the path is short");
        let log = self.state().join("stderr");
        supervisor.with_launch(Logged(log)).with_journal(self.journal()).expect("nobody has it")
    }

    /// Goes on with a supervisor that has adopted the daemon.
    pub fn go_on_with(&mut self, supervisor: Supervisor, daemon: &AdoptedDaemon) {
        self.supervisor = supervisor;
        self.reported = Some(daemon.process.pid());
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.state().join("data")
    }

    /// Where marks and other traces are left.
    #[must_use]
    pub fn state(&self) -> &Path {
        self.directory.path()
    }

    /// Options for a daemon of the next build, with these faults: the fixture's own, and those
    /// of [`handoff::faults`].
    pub fn successor(&mut self, faults: &[&str]) -> SuccessorSpec {
        self.builds += 1;
        let is_of_the_library = |fault: &&&str| handoff::faults::Planned::from_str(fault).is_ok();
        let (planned, faults): (Vec<&str>, Vec<&str>) = faults.iter().partition(is_of_the_library);
        let options = Options {
            control: self.control(),
            data: self.data(),
            state: self.state().to_owned(),
            build: format!("build-{}", self.builds),
            shards: 3,
            listener: "main".to_owned(),
            format: 0,
            carry: self.carries,
            faults: owned(faults),
        };
        SuccessorSpec {
            options,
            deadline: TIMEOUT,
            hello_timeout: Duration::from_secs(10),
            drain_grace: TIMEOUT,
            planned: owned(planned),
            prelude: None,
            abort: None,
        }
    }

    /// Swaps to a successor with these faults.
    ///
    /// # Errors
    ///
    /// The swap failed.
    ///
    /// # Panics
    ///
    /// When it could not be begun.
    pub fn swap(&mut self, faults: &[&str]) -> Result<(), Failed> {
        let spec = self.successor(faults);
        self.swap_to(&spec)
    }

    /// [`swap`](Self::swap), to a successor in particular.
    ///
    /// # Errors
    ///
    /// So.
    ///
    /// # Panics
    ///
    /// So.
    pub fn swap_to(&mut self, spec: &SuccessorSpec) -> Result<(), Failed> {
        match self.supervisor.perform_handoff(spec.spec()).expect("it can be begun") {
            HandoffOutcome::Committed(committed) => {
                self.commit(committed);
                Ok(())
            }
            HandoffOutcome::Failed(failed) => Err(self.note(failed)),
        }
    }

    /// Swaps, and expects it to fail.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn swap_fails(&mut self, faults: &[&str]) -> Failed {
        self.swap(faults).expect_err("with these faults a swap fails")
    }

    /// Remembers that a successor serves, as reported.
    pub fn commit(&mut self, committed: Committed) {
        self.carried = committed.carried;
        self.track(committed.successor);
    }

    /// Remembers a successor that was promoted, as reported.
    pub fn note(&mut self, mut failed: Failed) -> Failed {
        if let Some(committed) = failed.promoted.take() {
            self.commit(*committed);
        }
        failed
    }

    /// The pid of the process that serves, by the reports.
    ///
    /// # Panics
    ///
    /// When no report says.
    #[must_use]
    pub fn serving(&self) -> u32 {
        self.reported.expect("a report said who serves")
    }

    /// Kills a process, and waits until it is dead.
    pub fn kill(&mut self, pid: u32) {
        self.resets_expected = true;
        kill_and_wait(pid);
    }

    /// Waits until clients that were waiting get replies again.
    ///
    /// # Panics
    ///
    /// When they do not.
    pub fn wait_for_progress(&self) {
        let clients = self.clients.as_ref().expect("they run until the check");
        let before = clients.acknowledged();
        // Each of the two may have had one request on its way.
        let served = || (clients.acknowledged() > before + 2).then_some(());
        eventually("clients are served", TIMEOUT, served);
    }

    /// What a daemon answers to a new client.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    pub fn ask(&self, request: &str) -> String {
        eventually("the daemon answers", TIMEOUT, || {
            Client::connect(self.address()).ok()?.ask(request).ok()
        })
    }

    /// How often a fault struck, in one process or in all.
    #[must_use]
    pub fn struck(&self, at: &str, pid: Option<u32>) -> usize {
        struck(self.state(), at, pid)
    }

    /// Asserts that a fault struck that often.
    ///
    /// # Panics
    ///
    /// When it did not.
    pub fn assert_struck(&self, at: &str, times: usize) {
        assert_eq!(self.struck(at, None), times, "a fault at {at} was to strike");
    }

    /// Waits until a fault has struck.
    pub fn wait_struck(&self, at: &str) {
        wait_struck(self.state(), at);
    }

    /// Sends a signal to a process as soon as a fault has struck.
    pub fn signal_when(&self, at: &str, pid: u32, signal: Signal) -> JoinHandle<()> {
        let (state, at) = (self.state().to_owned(), at.to_owned());
        std::thread::spawn(move || {
            wait_struck(&state, &at);
            kill(pid, signal);
        })
    }

    /// Gives a swap up as soon as a fault has struck.
    pub fn abort_when(&self, at: &str, abort: &AbortHandle) -> JoinHandle<()> {
        let (state, at, abort) = (self.state().to_owned(), at.to_owned(), abort.clone());
        std::thread::spawn(move || {
            wait_struck(&state, &at);
            abort.abort(ON_A_WHIM);
        })
    }

    /// Waits until only the process that was reported to serve lives.
    pub fn wait_until_alone(&self) {
        let alone = || (self.alive() == [self.serving()]).then_some(());
        eventually("the others end", TIMEOUT, alone);
    }

    /// Goes on with a daemon that was started where none was left.
    pub fn begin_anew(&mut self, first: ChildProcess) {
        self.track(first);
    }

    /// Starts a daemon as a person would, with nothing passed, and waits for its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn run_by_hand(
        &mut self,
        change: impl FnOnce(&Self, &mut Options, &mut Command),
    ) -> Output {
        let mut options = self.successor(&[]).options;
        options.control = self.state().join("another");
        let mut command = Command::new(executable("fixture-daemon"));
        change(self, &mut options, &mut command);
        command.args(options.to_args()).output().expect("it can be started")
    }

    /// The pids of all daemons of this cluster that live.
    ///
    /// # Panics
    ///
    /// When their traces cannot be read.
    #[must_use]
    pub fn alive(&self) -> Vec<u32> {
        let word = self.state().display().to_string();
        let pids = fs::read_dir(self.state().join("pids")).expect("it is there");
        pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| is_alive(*pid, &word))
            .collect()
    }

    /// The children that daemons of this cluster forked by a planned fault.
    ///
    /// # Panics
    ///
    /// When their marks cannot be read.
    #[must_use]
    pub fn forked(&self) -> Vec<u32> {
        handoff::faults::forked(&self.state().join(MARKS)).expect("it is there")
    }

    /// Loses sight of who serves: whoever owns the control socket when asked is taken for it.
    pub fn lose_sight(&mut self) {
        self.reported = None;
        self.resets_expected = true;
    }

    fn track(&mut self, child: ChildProcess) {
        self.reported = Some(child.pid());
        self.children.push(child);
    }
}

/// Why swaps are given up.
pub const ON_A_WHIM: &str = "on a whim";

fn owned(texts: Vec<&str>) -> Vec<String> {
    texts.into_iter().map(str::to_owned).collect()
}

/// Waits until a fault has struck.
pub(super) fn wait_struck(state: &Path, at: &str) {
    eventually(&format!("a fault strikes at {at}"), TIMEOUT, || {
        (struck(state, at, None) > 0).then_some(())
    });
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.clients.take());
        for pid in self.alive().into_iter().chain(self.forked()) {
            kill(pid, Signal::CONT);
            kill(pid, Signal::KILL);
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.state().join("stderr")).unwrap_or_default();
            eprintln!("--- what the daemons said\n{log}---");
        }
    }
}
