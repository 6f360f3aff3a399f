//! Runs the examples: their daemons under their supervisors, swapped while clients write.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, kill_process_group, pidfd_open,
    pidfd_send_signal, set_child_subreaper, waitpid,
};

#[test]
fn notes_loses_no_line_that_it_has_numbered() {
    let mut supervisor = Supervisor::start("supervise", "notes");
    let (address, first) = (supervisor.address(), supervisor.hear_pid("serves"));
    let mut idle = Client::connect(address);
    idle.note("idle").expect("the daemon serves");

    let (writers, written, stop) = (2, AtomicUsize::new(0), AtomicBool::new(false));
    let (numbered, second, third) = thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        let writer = |name| {
            let (written, stop) = (&written, &stop);
            move || write_until(stop, address, name, written)
        };
        let writers: Vec<_> = (0..writers).map(|name| scope.spawn(writer(name))).collect();
        let wait_for_more = || {
            let enough = written.load(SeqCst) + 20;
            eventually("the writers go on", || written.load(SeqCst) >= enough);
        };
        wait_for_more();
        let notes = binary("notes");
        let second = supervisor.swap(&notes);
        wait_for_more();
        supervisor.order(Path::new("/no/such/binary"));
        supervisor.hear("the swap did not begin: ");
        let third = supervisor.swap(&notes);
        wait_for_more();
        drop(stopping);
        let numbered = writers.into_iter().flat_map(|writer| writer.join().expect("it writes"));
        (numbered.collect::<Vec<_>>(), second, third)
    });
    assert!(second.generation < third.generation, "{second:?}, then {third:?}");
    assert!(first != second.pid && second.pid != third.pid);
    assert_eq!(idle.read_line().expect("it is closed, and not reset"), "");

    let log = fs::read(supervisor.path("data/notes.log")).expect("there is a log");
    for (line, end) in &numbered {
        assert!(log[..*end].ends_with(line.as_bytes()), "{line:?} is not before {end}");
    }
    supervisor.leave();
    Client::connect(address).note("last").expect("the daemon outlives its supervisor");
    stop_cleanly(third.pid);
}

#[test]
fn echo_keeps_its_connections_open() {
    let mut supervisor = Supervisor::start("supervise", "echo");
    let (address, first) = (supervisor.address(), supervisor.hear_pid("serves"));
    let mut unfinished = Client::connect(address);
    assert_eq!(unfinished.ask("whole\n").expect("it is echoed"), "whole\n");
    unfinished.0.get_mut().write_all(b"un").expect("it is open");

    let (echoed, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let second = thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        scope.spawn(|| {
            let mut busy = Client::connect(address);
            while !stop.load(SeqCst) {
                let line = format!("{}\n", echoed.fetch_add(1, SeqCst));
                assert_eq!(busy.ask(&line).expect("one connection lasts"), line);
            }
        });
        let wait_for_more = || {
            let enough = echoed.load(SeqCst) + 20;
            eventually("the client goes on", || echoed.load(SeqCst) >= enough);
        };
        wait_for_more();
        // Connections come back from a swap that is undone: `notes` finds no listener of its name.
        supervisor.order(&binary("notes"));
        supervisor.hear("the incumbent serves, and has confirmed it");
        wait_for_more();
        let second = supervisor.swap(&binary("echo"));
        wait_for_more();
        drop(stopping);
        second
    });
    assert_ne!(first, second.pid);
    assert_eq!(unfinished.ask("finished\n").expect("it is open"), "unfinished\n");
    assert_eq!(Client::connect(address).ask("new\n").expect("it is accepted"), "new\n");
    supervisor.leave();
    stop_cleanly(second.pid);
}

#[test]
fn adopt_finds_the_daemon_of_a_supervisor_that_was_killed() {
    let mut supervisor = Supervisor::start("adopt", "notes");
    let (address, first) = (supervisor.address(), supervisor.hear_pid("serves"));
    let mut client = Client::connect(address);
    client.note("before").expect("the daemon serves");
    supervisor.kill();
    client.note("between").expect("the daemon serves on");
    supervisor.start_again();
    assert_eq!(supervisor.hear("adopted: "), "adopted: generation 1, listeners [\"notes\"]");
    assert_eq!(supervisor.hear_pid("serves"), first);
    client.note("after").expect("the client has noticed nothing");

    signal(supervisor.child.id(), Signal::HUP);
    let second = supervisor.hear_pid("serves");
    assert_ne!(second, first);
    assert_eq!(client.read_line().expect("it is closed, and not reset"), "");
    Client::connect(address).note("swapped").expect("the new process serves");

    signal(second, Signal::KILL);
    assert_eq!(supervisor.hear_pid("has ended"), second);
    let third = supervisor.hear_pid("serves");
    Client::connect(address).note("restarted").expect("another process serves");
    let log = fs::read_to_string(supervisor.path("data/notes.log")).expect("there is a log");
    assert_eq!(log, "before\nbetween\nafter\nswapped\nrestarted\n");
    supervisor.kill();
    stop_cleanly(third);
    collect(first);
}

#[test]
fn a_daemon_that_cannot_be_started_again_is_tried_until_it_can() {
    for name in ["supervise", "adopt"] {
        let mut supervisor = Supervisor::start(name, "notes");
        let address = supervisor.address();
        let first = supervisor.hear_pid("serves");
        let (data, away) = (supervisor.path("data"), supervisor.path("away"));
        fs::rename(&data, &away).expect("it is there");
        fs::write(&data, "no directory").expect("it is written");
        signal(first, Signal::KILL);
        if name == "supervise" {
            eventually("the daemon ends", || {
                let stat = fs::read_to_string(format!("/proc/{first}/stat")).unwrap_or_default();
                stat.is_empty() || stat.contains(") Z ")
            });
            supervisor.order(Path::new("/nowhere/notes"));
        }
        supervisor.hear("no daemon serves: ");
        fs::remove_file(&data).expect("it is there");
        fs::rename(&away, &data).expect("it is there");
        let second = supervisor.hear_pid("serves");
        Client::connect(address).note("restarted").expect("another process serves");
        supervisor.kill();
        stop_cleanly(second);
    }
}

/// Stops the clients also where the test fails: the scope waits for them.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Sends lines until it is told to stop, and again each line that the daemon has not numbered.
/// Returns each line with its number.
fn write_until(
    stop: &AtomicBool,
    address: SocketAddr,
    name: usize,
    written: &AtomicUsize,
) -> Vec<(String, usize)> {
    let mut client = Client::connect(address);
    let mut numbered = Vec::new();
    while !stop.load(SeqCst) {
        let line = format!("writer {name}, line {}", numbered.len());
        match client.note(&line) {
            Ok(end) => {
                numbered.push((line + "\n", end));
                written.fetch_add(1, SeqCst);
            }
            Err(_) => client = Client::connect(address),
        }
    }
    numbered
}

struct Client(BufReader<TcpStream>);

impl Client {
    /// No connection is refused, so one attempt is enough.
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the listener stays");
        stream.set_read_timeout(Some(LIMIT)).expect("it can be set");
        stream.set_nodelay(true).expect("it can be set");
        Self(BufReader::new(stream))
    }

    fn ask(&mut self, words: &str) -> io::Result<String> {
        self.0.get_mut().write_all(words.as_bytes())?;
        self.read_line()
    }

    /// Empty at the end of the stream.
    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line)
    }

    /// The number of the line: the length of the log.
    fn note(&mut self, line: &str) -> io::Result<usize> {
        self.ask(&format!("{line}\n"))?.trim_end().parse().map_err(io::Error::other)
    }
}

#[derive(Debug)]
struct Serving {
    pid: u32,
    generation: u64,
}

impl Serving {
    fn of(line: &str) -> Option<Self> {
        let (pid, generation) =
            line.strip_prefix("process ")?.split_once(" serves, generation ")?;
        Some(Self { pid: pid.parse().ok()?, generation: generation.parse().ok()? })
    }
}

/// An example that supervises another one, in a directory of its own. Dropping it ends both.
struct Supervisor {
    directory: tempfile::TempDir,
    arguments: [&'static str; 2],
    child: Child,
    lines: mpsc::Receiver<String>,
    daemons: Vec<(Pid, OwnedFd)>,
}

impl Supervisor {
    fn start(supervisor: &'static str, daemon: &'static str) -> Self {
        // A daemon that has outlived its supervisor becomes a child of this process.
        set_child_subreaper(Some(getpid())).expect("the kernel allows it");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let arguments = [supervisor, daemon];
        let (child, lines) = spawn(directory.path(), arguments);
        Self { directory, arguments, child, lines, daemons: Vec::new() }
    }

    fn start_again(&mut self) {
        (self.child, self.lines) = spawn(self.directory.path(), self.arguments);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The next line that contains the words.
    fn hear(&mut self, words: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(LIMIT);
            let line = line.unwrap_or_else(|error| panic!("no line with {words:?}: {error}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    fn address(&mut self) -> SocketAddr {
        let line = self.hear("the daemon's address is ");
        line.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("an address")
    }

    /// The process of the next line of the form "process PID WORDS...".
    fn hear_pid(&mut self, words: &str) -> u32 {
        let line = self.hear(words);
        let pid = line.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a pid");
        self.watch(pid);
        pid
    }

    fn watch(&mut self, pid: u32) {
        if let Ok(process) = pidfd_open(pid_of(pid), PidfdFlags::empty()) {
            self.daemons.push((pid_of(pid), process));
        }
    }

    /// Has `supervise` swap the daemon to the binary.
    fn order(&mut self, binary: &Path) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        writeln!(input, "{}", binary.display()).expect("the supervisor reads");
    }

    fn swap(&mut self, binary: &Path) -> Serving {
        self.order(binary);
        self.hear("  committed");
        let line = self.hear(", generation ");
        let serving = Serving::of(&line).expect("process PID serves, generation NUMBER");
        self.watch(serving.pid);
        serving
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    /// Ends the input of `supervise`, and so the supervisor.
    fn leave(&mut self) {
        drop(self.child.stdin.take());
        let mut status = None;
        eventually("the supervisor ends", || {
            status = self.child.try_wait().expect("it is ours");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()));
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The successor of a swap in flight is in the group, too. The number of a supervisor that
        // was collected may be another group's by now.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(pid_of(self.child.id()), Signal::KILL);
        }
        let _ = self.child.wait();
        for (pid, process) in &self.daemons {
            // A process that was collected gets no signal, and neither does another of its pid.
            if pidfd_send_signal(process, Signal::KILL).is_ok() {
                let _ = waitpid(Some(*pid), WaitOptions::empty());
            }
        }
    }
}

fn spawn(directory: &Path, [supervisor, daemon]: [&str; 2]) -> (Child, mpsc::Receiver<String>) {
    let mut child = Command::new(binary(supervisor))
        .args([daemon, "127.0.0.1:0", "control"])
        .arg(binary(daemon))
        .args(["control", "data"])
        .current_dir(directory)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it was built");
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    // It ends with the last process that has the pipe.
    thread::spawn(move || {
        stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    (child, lines)
}

/// Sends `SIGTERM`, and collects the daemon.
fn stop_cleanly(pid: u32) {
    signal(pid, Signal::TERM);
    collect(pid);
}

/// Collects a daemon that its supervisor has left to this process.
fn collect(pid: u32) {
    let mut ended = None;
    eventually("the daemon ends", || {
        ended = waitpid(Some(pid_of(pid)), WaitOptions::NOHANG).expect("it is a child by now");
        ended.is_some()
    });
    assert_eq!(ended.and_then(|(_, status)| status.exit_status()), Some(0));
}

fn signal(pid: u32, signal: Signal) {
    kill_process(pid_of(pid), signal).expect("it runs");
}

fn pid_of(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid")
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// An example, built beside this test with the same profile.
fn binary(name: &str) -> PathBuf {
    BINARIES.join(name)
}

static BINARIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let own = std::env::current_exe().expect("a test has a path");
    let profile = own.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "handoff", "--examples", "--target-dir"]);
    build.arg(profile.parent().expect("target/PROFILE"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success());
    profile.join("examples")
});

const LIMIT: Duration = Duration::from_secs(60);
