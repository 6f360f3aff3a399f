//! A machine with a daemon on a disk that a test can cut the power of, and break.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

use handoff::supervisor::{
    ChildProcess, Committed, Failed, Launch, LaunchRequest, Paired, Prepared, Sealed,
};
use handoff::{Session, SpawnSpec, Supervisor, faults};
use handoff_tests::books::Books;
use handoff_tests::harness::{TIMEOUT, eventually, executable, kill};
use rustix::process::Signal;

use super::check::Case;
use super::disk::{Event, Seen};
use super::fuse::Mounted;
use super::states::lay_out;

/// The disk, and the processes of the daemon.
pub(crate) struct Machine {
    pub(crate) disk: Mounted,
    supervisor: Supervisor,
    processes: Vec<ChildProcess>,
    /// Writes that were acknowledged before they were durable.
    noted: Vec<String>,
    /// Of the processes. The test's own process is in another one.
    boot_id: &'static str,
    builds: usize,
    keys: usize,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let disk = Mounted::new();
        let log = disk.beside("stderr");
        let supervisor = Supervisor::new(&disk.beside("control")).expect("the path is short");
        let supervisor = supervisor.with_launch(Logged(log));
        Self {
            disk,
            supervisor,
            processes: Vec::new(),
            noted: Vec::new(),
            boot_id: FIRST_BOOT,
            builds: 0,
            keys: 0,
        }
    }

    /// The machine runs again, with what a power cut left.
    pub(crate) fn after(case: &Case) -> Self {
        let mut machine = Self::new();
        lay_out(&case.tree, machine.disk.path());
        let files = case.tree.keys().map(|path| machine.disk.path().join(path));
        for path in files.chain([machine.disk.path().to_owned()]) {
            File::open(path).and_then(|file| file.sync_all()).expect("it can be synced");
        }
        case.promised.kept.iter().for_each(|key| machine.disk.saw(Seen::Kept(key.clone())));
        if case.promised.token != 0 {
            machine.disk.saw(Seen::Token(case.promised.token));
        }
        machine.disk.power_on();
        (machine.boot_id, machine.keys) = (SECOND_BOOT, 100);
        machine
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.disk.path().join("data")
    }

    fn requests(&self, build: usize) -> PathBuf {
        self.disk.beside(&format!("requests-{build}"))
    }

    fn spec(&mut self, fault: &str) -> SpawnSpec {
        self.builds += 1;
        let path = |path: PathBuf| path.display().to_string();
        let control = path(self.disk.beside("control"));
        let (data, requests) = (path(self.data()), path(self.requests(self.builds)));
        SpawnSpec {
            args: vec!["serve".to_owned(), control, data, requests, fault.to_owned()],
            env: vec![(faults::BOOT_ID.to_owned(), self.boot_id.to_owned())],
            deadline: TIMEOUT,
            drain_grace: Duration::from_secs(10),
            ..SpawnSpec::new(executable("fixture-books"))
        }
    }

    /// Puts durable data there that no daemon has opened.
    pub(crate) fn bring_data(&self) {
        fs::create_dir(self.data()).expect("it is new");
        Books::open(&self.data()).expect("it is empty");
        for directory in [self.data(), self.disk.path().to_owned()] {
            File::open(directory).and_then(|directory| directory.sync_all()).expect("it can");
        }
    }

    /// Starts the daemon where none runs.
    pub(crate) fn start(&mut self) {
        let spec = self.spec("");
        let child = self.supervisor.start(&spec).expect("the daemon starts");
        self.processes.push(child);
    }

    /// Starts a daemon that cannot open its data.
    pub(crate) fn start_in_vain(&mut self) {
        let spec = self.spec("open");
        self.supervisor.start(&spec).expect_err("its opening fails");
    }

    /// Starts a daemon that does not come to serve.
    pub(crate) fn start_with_a_broken_disk(&mut self) {
        let spec = self.spec("");
        self.supervisor.start(&spec).expect_err("the disk is broken");
        self.forget_successor();
    }

    /// Starts a daemon whose books do not know that a sync of theirs has failed.
    pub(crate) fn start_forgetful(&mut self) {
        let spec = self.spec("forget");
        let child = self.supervisor.start(&spec).expect("the daemon starts");
        self.processes.push(child);
    }

    /// Begins a swap to a successor with that fault.
    pub(crate) fn pair(&mut self, fault: &str) -> Session<Paired> {
        let spec = self.spec(fault);
        self.supervisor.pair(spec).expect("both say hello")
    }

    /// A swap to a successor with that fault, once the incumbent has drained.
    pub(crate) fn prepared(&mut self, fault: &str) -> Session<Prepared> {
        let warm = self.pair(fault).warm().expect("it warms up");
        warm.prepare().expect("it drains")
    }

    /// The same, once the incumbent is sealed.
    pub(crate) fn sealed(&mut self, fault: &str) -> Session<Sealed> {
        self.prepared(fault).seal().expect("it seals")
    }

    /// A swap.
    pub(crate) fn swap(&mut self) -> Result<(), Failed> {
        let session = self.pair("").warm()?.prepare()?.seal()?.begin()?;
        self.commit(session.commit()?);
        Ok(())
    }

    /// A swap to a build whose format this one does not read.
    pub(crate) fn swap_one_way(&mut self) {
        let spec = SpawnSpec { one_way: true, ..self.spec("migrates") };
        let session = self.supervisor.pair(spec).expect("both say hello");
        let sealed = session.warm().and_then(|warm| warm.prepare()?.seal());
        let committed = sealed.and_then(|sealed| sealed.begin()?.commit());
        self.commit(committed.expect("it commits"));
    }

    /// The successor of a swap serves.
    pub(crate) fn commit(&mut self, committed: Committed) {
        self.processes.push(committed.successor);
    }

    /// A swap that fails.
    pub(crate) fn swap_in_vain(&mut self) -> Failed {
        let failed = self.swap().expect_err("it fails");
        self.forget_successor();
        failed
    }

    /// The successor of a swap that failed has the last number.
    pub(crate) fn forget_successor(&mut self) {
        self.builds -= 1;
        let _ = fs::remove_file(self.requests(self.builds + 1));
    }

    pub(crate) fn ask(&self, request: &str) -> String {
        self.ask_build(self.builds, request)
    }

    /// Asks the incumbent, while a successor is about.
    pub(crate) fn ask_before(&self, request: &str) -> String {
        self.ask_build(self.builds - 1, request)
    }

    fn ask_build(&self, build: usize, request: &str) -> String {
        let path = self.requests(build);
        let stream = eventually("the daemon listens", TIMEOUT, || UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(TIMEOUT)).expect("it can be set");
        (&stream).write_all(format!("{request}\n").as_bytes()).expect("it reads");
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).expect("it answers");
        reply.trim_end().to_owned()
    }

    /// A write that is durable with its acknowledgement.
    pub(crate) fn put(&mut self) {
        let key = self.key("put");
        assert_eq!(self.ask(&format!("put {key}")), "ok");
        self.disk.saw(Seen::Kept(key));
    }

    /// A write that is acknowledged before it is durable.
    pub(crate) fn note(&mut self) {
        let key = self.key("note");
        assert_eq!(self.ask(&format!("note {key}")), "ok");
        self.noted.push(key);
    }

    pub(crate) fn key(&mut self, kind: &str) -> String {
        self.keys += 1;
        format!("{kind}-{}-{}", self.keys, "x".repeat([0, 9, 600][self.keys % 3]))
    }

    /// A fencing token.
    pub(crate) fn token(&self) {
        let token = self.ask("token").parse().expect("it is a number");
        self.disk.saw(Seen::Token(token));
    }

    /// A clean stop: whatever was acknowledged is durable then.
    pub(crate) fn stop(&mut self) {
        assert_eq!(self.ask("stop"), "ok");
        let mut process = self.processes.pop().expect("a daemon runs");
        assert!(process.wait().expect("it is ours").success(), "it stops well");
        for key in self.noted.drain(..) {
            self.disk.saw(Seen::Kept(key));
        }
    }

    /// A stop that fails: the words of the daemon.
    pub(crate) fn stop_in_vain(&mut self) -> String {
        assert_eq!(self.ask("stop"), "ok");
        let mut process = self.processes.pop().expect("a daemon runs");
        assert!(!process.wait().expect("it is ours").success(), "it fails");
        self.noted.clear();
        fs::read_to_string(self.disk.beside("stderr")).expect("it said something")
    }

    /// Ends the daemon by `SIGKILL`.
    pub(crate) fn kill(&mut self) {
        for mut process in self.processes.drain(..) {
            kill(process.pid(), Signal::KILL);
            process.wait().expect("it is ours");
        }
    }

    /// Runs the fixture for work offline.
    pub(crate) fn offline(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(executable("fixture-books"));
        let command = command.env(faults::BOOT_ID, self.boot_id).args(arguments);
        command.output().expect("it can be run")
    }

    /// Changes the data offline, durably.
    pub(crate) fn edit(&mut self) {
        let key = self.key("edit");
        let output = self.offline(&["edit", &self.data().display().to_string(), &key]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.disk.saw(Seen::Kept(key));
    }

    pub(crate) fn repair(&self) {
        let output = self.offline(&["repair", &self.data().display().to_string()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.disk.saw(Seen::Repaired);
    }

    /// Cuts the power: the record of everything until then.
    pub(crate) fn cut(mut self) -> Vec<Event> {
        self.kill();
        self.disk.events()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
        }
        self.disk.let_go();
        for process in &mut self.processes {
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.disk.beside("stderr")).unwrap_or_default();
            eprintln!("--- what the daemons said\n{log}---");
        }
    }
}

/// Starts processes with their standard error in a file.
#[derive(Debug)]
struct Logged(PathBuf);

impl Launch for Logged {
    fn launch(&self, request: LaunchRequest<'_>) -> handoff::Result<Child> {
        let log = append(&self.0)?;
        request.spawn(|command| {
            command.stderr(log);
        })
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

const FIRST_BOOT: &str = "b0070000-0000-4000-8000-000000000001";
const SECOND_BOOT: &str = "b0070000-0000-4000-8000-000000000002";
