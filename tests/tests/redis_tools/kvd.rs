//! The example daemon under the test's supervision.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use handoff::supervisor::{
    CarryReport, ChildProcess, HandoffOutcome, IncumbentFate, LateConnections,
};
use handoff::{SpawnSpec, Supervisor};
use handoff_tests::harness::TIMEOUT;

/// A `kvd` behind a listener of the test's, ended with the value.
pub(crate) struct Kvd {
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    supervisor: Supervisor,
    serving: Option<ChildProcess>,
    build: u32,
}

impl Kvd {
    pub(crate) fn start() -> Self {
        Self::start_in(&std::env::temp_dir())
    }

    pub(crate) fn start_in(parent: &Path) -> Self {
        let directory = tempfile::tempdir_in(parent).expect("a temporary directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        listener.set_nonblocking(true).expect("it can be set");
        let port = listener.local_addr().expect("it is bound").port();
        let supervisor = Supervisor::new(&directory.path().join("control.sock"))
            .expect("the path is short")
            .with_listener("resp", listener);
        let mut kvd = Self { directory, port, supervisor, serving: None, build: 1 };
        kvd.serving = Some(kvd.supervisor.start(&kvd.spec(1)).expect("it serves"));
        kvd
    }

    fn spec(&self, build: u32) -> SpawnSpec {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        SpawnSpec::new(&*BINARY)
            .arg("serve")
            .arg("--data")
            .arg(path("data"))
            .arg("--control")
            .arg(path("control.sock"))
            .arg("--build")
            .arg(build.to_string())
    }

    /// The process that serves.
    pub(crate) fn pid(&self) -> u32 {
        self.serving.as_ref().expect("one serves").pid()
    }

    pub(crate) const fn build(&self) -> u32 {
        self.build
    }

    /// Swaps to the next build, and waits until the one before it has ended.
    pub(crate) fn swap(&mut self) -> CarryReport {
        self.build += 1;
        match self.supervisor.perform_handoff(self.spec(self.build)).expect("it begins") {
            HandoffOutcome::Committed(committed) => {
                let replaced = self.serving.replace(committed.successor);
                let mut replaced = replaced.expect("one served");
                assert!(replaced.wait().expect("it is ours").success());
                assert_eq!(committed.carried.late, LateConnections::default());
                committed.carried
            }
            HandoffOutcome::Failed(failed) => panic!("{failed}"),
        }
    }

    /// A swap to a build that fails once the one that serves has been sealed.
    pub(crate) fn fail_to_swap(&mut self) {
        let spec = self.spec(self.build + 1).arg("--fail-open");
        match self.supervisor.perform_handoff(spec).expect("it begins") {
            HandoffOutcome::Committed(_) => panic!("it was told to fail"),
            HandoffOutcome::Failed(failed) => {
                assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
                assert!(failed.to_string().contains("told to fail by --fail-open"), "{failed}");
            }
        }
    }

    /// A swap that is given up when the build that serves is drained.
    pub(crate) fn give_up_drained(&mut self) {
        let session = self.supervisor.pair(self.spec(self.build + 1)).expect("both say hello");
        let warmed = session.warm().expect("it warms up");
        let rolled_back = warmed.prepare().expect("it drains").abort("the test gives up");
        assert_eq!(rolled_back.incumbent, IncumbentFate::Serving);
        assert!(rolled_back.promoted.is_none());
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("somebody listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("it can be set");
        stream
    }

    /// What it says of itself, on a connection of its own.
    pub(crate) fn info(&self) -> String {
        let mut stream = self.connect();
        stream.write_all(b"INFO\r\nQUIT\r\n").expect("it is read");
        let mut info = String::new();
        stream.read_to_string(&mut info).expect("it ends after QUIT");
        info
    }

    /// What the kernel knows of the connections that the process has which serves: the
    /// clients' ports, and how many bytes it has not read.
    pub(crate) fn connections(&self) -> Vec<(u16, u64)> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs");
        let open: HashSet<String> = open
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .map(|target| target.display().to_string())
            .collect();
        let table = fs::read_to_string("/proc/net/tcp").expect("there is a kernel");
        let ours = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let port = |word: &str| u16::from_str_radix(word.rsplit(':').next()?, 16).ok();
            let is_ours = port(words.get(1)?)? == self.port
                && *words.get(3)? == ESTABLISHED
                && open.contains(&format!("socket:[{}]", words.get(9)?));
            let unread = u64::from_str_radix(words.get(4)?.split(':').nth(1)?, 16).ok()?;
            is_ours.then_some((port(words.get(2)?)?, unread))
        };
        table.lines().filter_map(ours).collect()
    }

    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("redis-cli is installed");
        words_of(&output)
    }

    /// A session in which the commands are written as a person would.
    pub(crate) fn session(&self, commands: &str) -> String {
        let mut cli = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("redis-cli is installed");
        let mut input = cli.stdin.take().expect("it is piped");
        input.write_all(commands.as_bytes()).expect("it reads");
        drop(input);
        words_of(&cli.wait_with_output().expect("it ends"))
    }

    pub(crate) fn benchmark(&self, arguments: &[&str]) -> Command {
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args(["-p", &self.port.to_string(), "-q", "-e"]).args(arguments);
        benchmark
    }
}

impl Drop for Kvd {
    fn drop(&mut self) {
        if let Some(mut serving) = self.serving.take() {
            let _ = serving.kill();
            let _ = serving.wait();
        }
    }
}

/// A number of `INFO`.
pub(crate) fn number(info: &str, key: &str) -> u64 {
    let found = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    found.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {key} in {info}"))
}

/// What a tool said that ended well.
pub(crate) fn words_of(output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {words}{complaints}", output.status);
    // A newer redis-benchmark shows errors without being asked to.
    let complaints = complaints.lines().filter(|line| !line.contains("-e option has no effect"));
    assert_eq!(complaints.collect::<Vec<_>>(), [""; 0], "{words}");
    words.trim_end().to_owned()
}

/// The example, built beside this test with the same profile.
static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let own = std::env::current_exe().expect("a test has a path");
    let profile = own.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "handoff", "--example", "kvd", "--target-dir"]);
    build.arg(profile.parent().expect("target/PROFILE"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success());
    profile.join("examples/kvd")
});

/// As `/proc/net/tcp` says it.
const ESTABLISHED: &str = "01";
