//! A directory with a configuration, builds of the example daemon, and a supervisor at a terminal.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use handoff_tests::fixture::{NAP, struck};
use handoff_tests::harness::{
    TIMEOUT, Terminal, eventually, executable, kill, processes_in, program,
};
use rustix::process::Signal;

/// All of it is ended and removed with the value.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) port: u16,
    /// Of each build, as in the configuration.
    args: [String; 3],
    /// Who gives the commands, if it is another user.
    pub(crate) operator: Option<u32>,
    supervisor: Option<Terminal>,
}

/// A port that nobody has, and that the kernel gives to nobody who asks for any: a client that
/// connects, say, before the daemon binds.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() % 200 * 100;
    (0..20_000)
        .map(|_| {
            let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            u16::try_from(10_000 + (first + next) % 20_000).expect("it is below 30,000")
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("some port is free")
}

impl World {
    /// Three builds of the example daemon, of which `broken` cannot open its data, and no
    /// supervisor yet.
    pub(crate) fn new() -> Self {
        let args = |build: u32, more: &str| {
            format!(
                r#"["serve", "--data", "data", "--control", "control.sock", "--build", "{build}"{more}]"#
            )
        };
        Self::of(program("kvd"), [args(1, ""), args(2, ""), args(3, r#", "--fail-open""#)])
    }

    /// The same of the fixture daemon, which has requests that take as long as one likes.
    pub(crate) fn with_fixture() -> Self {
        let args = |build: u32, more: &str| {
            format!(
                r#"["--data", "data", "--control", "control.sock", "--state", "marks", "--shards", "2", "--listener", "resp", "--carry", "true", "--build", "{build}"{more}]"#
            )
        };
        let broken = args(3, r#", "--fault", "open=error""#);
        let world = Self::of(&executable("fixture-daemon"), [args(1, ""), args(2, ""), broken]);
        for marks in ["marks/struck", "marks/pids"] {
            fs::create_dir_all(world.path(marks)).expect("it can be made");
        }
        world
    }

    /// A daemon of format 1, the next build, which writes format 2, and one that writes 1 and reads
    /// both.
    pub(crate) fn with_formats() -> Self {
        let args = |build: &str| format!(r#"["control.sock", "data", "{build}"]"#);
        Self::of(&executable("fixture-structs"), ["base", "formatted", "ready"].map(args))
    }

    fn of(daemon: &Path, args: [String; 3]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let world = Self { directory, port, args, operator: None, supervisor: None };
        for build in ["v1", "v2", "broken"] {
            fs::copy(daemon, world.path(build)).expect("it can be written");
        }
        world.configure("");
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration, with more after it.
    pub(crate) fn configure(&self, more: &str) {
        let [first, second, broken] = &self.args;
        let text = format!(
            r#"state_dir = "state"

[daemon]
binary = "v1"
control = "control.sock"
args = {first}

[[binaries]]
path = "v2"
args = {second}

[[binaries]]
path = "broken"
args = {broken}

[[listeners]]
name = "resp"
address = "127.0.0.1:{}"

{more}
"#,
            self.port,
        );
        self.write("handoff.toml", &text);
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("it can be written");
    }

    /// Has the first build wait, before it executes the daemon, for a file of that name.
    pub(crate) fn wait_before_start(&self, name: &str) {
        fs::rename(self.path("v1"), self.path("kvd")).expect("it is there");
        let script =
            format!("#!/bin/sh\nuntil test -e {name}; do sleep 0.05; done\nexec ./kvd \"$@\"\n");
        self.write("v1", &script);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.path("v1"), mode).expect("it is ours");
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("handoff"));
        command.arg("--config").arg(self.path("handoff.toml")).args(arguments);
        command.env_remove("HANDOFF_CONFIG").stdin(Stdio::null());
        if let Some(user) = self.operator {
            command.uid(user).gid(user);
        }
        command
    }

    /// A command at a terminal: its exit code and what it showed.
    pub(crate) fn at_terminal(&self, arguments: &[&str]) -> (Option<i32>, String) {
        self.terminal(arguments).finish()
    }

    /// A command at a terminal, while it runs.
    pub(crate) fn terminal(&self, arguments: &[&str]) -> Terminal {
        Terminal::start(self.command(arguments))
    }

    /// A command in a script.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it can be run")
    }

    /// A command by another configuration.
    pub(crate) fn run_with(&self, config: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("handoff"));
        command.args(["--config", config]).args(arguments).stdin(Stdio::null());
        command.output().expect("it can be run")
    }

    /// Standard output of a command that ends well.
    pub(crate) fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}\n{words}{errors}", output.status);
        words
    }

    /// Exit code and standard error of a command that does not.
    pub(crate) fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code().expect("it exits");
        assert_ne!(code, 0, "{arguments:?}\n{words}{errors}");
        (code, errors)
    }

    /// `handoff run` at a terminal of its own, once its daemon serves.
    pub(crate) fn supervise(&mut self) {
        self.supervise_by(&self.command(&["run"]));
    }

    /// The same, by a command of the caller's.
    pub(crate) fn supervise_by(&mut self, command: &Command) {
        self.begin_to_supervise_by(command);
        self.wait_for_daemon("serving");
    }

    /// The same, without waiting for the daemon.
    pub(crate) fn begin_to_supervise_by(&mut self, command: &Command) {
        self.supervisor = Some(Terminal::start_controlling(command));
    }

    /// `handoff run` at a terminal of its own, once its daemon is so far.
    pub(crate) fn supervise_until(&mut self, state: &str) {
        self.supervisor = Some(Terminal::start_controlling(&self.command(&["run"])));
        self.wait_for_daemon(state);
    }

    pub(crate) fn supervisor(&mut self) -> &mut Terminal {
        self.supervisor.as_mut().expect("it was started")
    }

    /// `SIGKILL`, and its end.
    pub(crate) fn kill_supervisor(&mut self) {
        self.supervisor.take().expect("it was started").kill();
    }

    /// `handoff status --json`.
    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.said(&["status", "--json"])).expect("it is JSON")
    }

    /// Waits until the daemon is in that state.
    pub(crate) fn wait_for_daemon(&self, state: &str) -> serde_json::Value {
        let what = format!("the daemon is {state}");
        eventually(&what, TIMEOUT, || {
            let output = self.run(&["status", "--json"]);
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            (status["daemon"]["state"] == state).then_some(status)
        })
    }

    /// `SIGKILL`, and until another one serves.
    pub(crate) fn kill_daemon(&self) {
        let dead = self.daemon_pid();
        kill(dead, Signal::KILL);
        eventually("another one serves", TIMEOUT, || {
            let status = self.wait_for_daemon("serving");
            (status["daemon"]["party"]["pid"] != dead).then_some(())
        });
    }

    pub(crate) fn daemon_pid(&self) -> u32 {
        let status = self.status();
        let pid = status["daemon"]["party"]["pid"].as_u64();
        u32::try_from(pid.expect("a daemon serves")).expect("a pid")
    }

    /// What the daemon calls its build, by the supervisor's word.
    pub(crate) fn build(&self) -> String {
        let status = self.status();
        status["daemon"]["party"]["build"].as_str().expect("a daemon serves").to_owned()
    }

    /// `handoff show ID --json`.
    pub(crate) fn record(&self, id: &str) -> serde_json::Value {
        serde_json::from_str(&self.said(&["show", id, "--json"])).expect("it is JSON")
    }

    /// Waits until the last swap is over.
    pub(crate) fn wait_for_last_swap(&self, is_it: impl Fn(&serde_json::Value) -> bool) {
        eventually("the swap that is waited for", TIMEOUT, || {
            // There may be none yet.
            let shown = self.run(&["show", "last", "--json"]).stdout;
            is_it(&serde_json::from_slice(&shown).ok()?).then_some(())
        });
    }
}

/// A request to the fixture daemon that takes ten minutes, from its beginning on.
pub(crate) fn hold(world: &World) -> TcpStream {
    let marks = world.path("marks");
    let before = struck(&marks, NAP, None);
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).expect("somebody listens");
    stream.write_all(b"nap 600000\n").expect("it is read");
    eventually("the request is begun", TIMEOUT, || {
        (struck(&marks, NAP, None) > before).then_some(())
    });
    stream
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.supervisor.take());
        // What the supervisor left: processes that were started in this directory.
        eventually("they end", TIMEOUT, || {
            let left = processes_in(self.directory.path());
            left.iter().for_each(|pid| kill(*pid, Signal::KILL));
            left.is_empty().then_some(())
        });
    }
}

/// Children of a process that have ended and were not collected.
pub(crate) fn zombies_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("there is a kernel");
    processes
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
            let (state, of) = (fields.next()?, fields.next()?);
            (state == "Z" && of == parent.to_string()).then_some(pid)
        })
        .collect()
}
