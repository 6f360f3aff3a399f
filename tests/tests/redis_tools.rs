//! Redis's own tools, unmodified, against the example daemon: `redis-cli` and
//! `redis-benchmark` have to be installed (Debian: `redis-tools`).

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use handoff::supervisor::{ChildProcess, HandoffOutcome};
use handoff::{SpawnSpec, Supervisor};

/// A `kvd` behind a listener of the test's, ended with the value.
struct Kvd {
    directory: tempfile::TempDir,
    binary: PathBuf,
    port: u16,
    supervisor: Supervisor,
    serving: Option<ChildProcess>,
}

impl Kvd {
    fn start() -> Self {
        let binary = build_kvd();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        listener.set_nonblocking(true).expect("it can be set");
        let port = listener.local_addr().expect("it is bound").port();
        let supervisor = Supervisor::new(&directory.path().join("control.sock"))
            .expect("the path is short")
            .with_listener("resp", listener);
        let mut kvd = Self { directory, binary, port, supervisor, serving: None };
        kvd.serving = Some(kvd.supervisor.start(&kvd.spec(1)).expect("it serves"));
        kvd
    }

    fn spec(&self, build: u32) -> SpawnSpec {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        SpawnSpec::new(&self.binary)
            .arg("serve")
            .arg("--data")
            .arg(path("data"))
            .arg("--control")
            .arg(path("control.sock"))
            .arg("--build")
            .arg(build.to_string())
    }

    fn swap(&mut self, build: u32) {
        match self.supervisor.perform_handoff(self.spec(build)).expect("it begins") {
            HandoffOutcome::Committed(committed) => {
                let replaced = self.serving.replace(committed.successor);
                let mut replaced = replaced.expect("one served");
                assert!(replaced.wait().expect("it is ours").success());
            }
            HandoffOutcome::Failed(failed) => panic!("{failed}"),
        }
    }

    fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("redis-cli is installed");
        words_of(&output)
    }

    /// A session in which the commands are written as a person would.
    fn session(&self, commands: &str) -> String {
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

    fn benchmark(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-benchmark")
            .args(["-p", &self.port.to_string(), "-q", "-e"])
            .args(arguments)
            .output()
            .expect("redis-benchmark is installed");
        words_of(&output)
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

fn words_of(output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {words}{complaints}", output.status);
    words.trim_end().to_owned()
}

/// Builds the example beside this test, with the same profile.
fn build_kvd() -> PathBuf {
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
}

#[test]
fn redis_cli_is_answered() {
    let mut kvd = Kvd::start();
    for (command, answer) in [
        (&["ping"][..], "PONG"),
        (&["ping", "hello"], "hello"),
        (&["echo", "a b"], "a b"),
        (&["set", "key", "value"], "OK"),
        (&["get", "key"], "value"),
        (&["get", "none"], ""),
        (&["incr", "n"], "1"),
        (&["incr", "n"], "2"),
        (&["dbsize"], "2"),
        (&["set", "text", "abc"], "OK"),
        (&["del", "text", "none"], "1"),
        (&["get", "text"], ""),
        (&["quit"], "OK"),
    ] {
        assert_eq!(kvd.cli(command), answer, "{command:?}");
    }
    assert!(kvd.cli(&["info"]).contains("kvd_build:1"), "{}", kvd.cli(&["info"]));
    assert!(kvd.cli(&["config", "get", "save"]).starts_with("save"));
    assert_eq!(kvd.cli(&["command"]), "");
    for (command, complaint) in [
        (&["incr", "key"][..], "ERR value is not an integer or out of range"),
        (&["nonsense"], "ERR unknown command"),
        (&["get"], "ERR wrong number of arguments"),
    ] {
        let answer = kvd.cli(command);
        assert!(answer.contains(complaint), "{command:?}: {answer}");
    }
    assert_eq!(kvd.session("set a 1\nincr a\nget a\n"), "OK\n2\n2");
    kvd.swap(2);
    assert!(kvd.cli(&["info"]).contains("kvd_build:2"), "{}", kvd.cli(&["info"]));
    assert_eq!(kvd.session("get a\nincr a\ndbsize\n"), "2\n3\n3");
}

#[test]
fn redis_benchmark_runs_to_its_end() {
    let mut kvd = Kvd::start();
    for arguments in [
        &["-c", "50", "-n", "20000", "-t", "ping,get"][..],
        &["-c", "50", "-n", "5000", "-t", "set,incr"],
        &["-c", "50", "-n", "20000", "-P", "16", "-t", "set,get", "-r", "1000"],
    ] {
        let words = kvd.benchmark(arguments);
        let rates = words.matches("requests per second").count();
        assert!(rates >= 2, "{arguments:?}: {words}");
        println!("{}", words.replace('\r', "\n"));
    }
    let keys: u32 = kvd.cli(&["dbsize"]).parse().expect("a number");
    assert!(keys > 900, "{keys} of 1000 random keys were set");
    kvd.swap(2);
    assert_eq!(kvd.cli(&["dbsize"]), keys.to_string());
}
