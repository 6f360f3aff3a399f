//! A machine on which the program `handoff` supervises the daemon, with its state on the disk.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use handoff_tests::harness::{TIMEOUT, eventually, executable, kill, processes_in, program};
use rustix::process::Signal;

use super::disk::{Event, Seen};
use super::fuse::Mounted;

/// The configuration, and all that the program writes, lie on the disk; the data lies beside it.
pub(crate) struct Site {
    pub(crate) disk: Mounted,
    supervisor: Option<Child>,
}

impl Site {
    /// With more in the configuration.
    pub(crate) fn new(more: &str) -> Self {
        let disk = Mounted::new();
        fs::write(disk.path().join("handoff.toml"), configuration() + more).expect("it is new");
        File::open(disk.path().join("handoff.toml"))
            .and_then(|file| file.sync_all())
            .expect("it can");
        File::open(disk.path()).and_then(|directory| directory.sync_all()).expect("it can");
        fs::write(disk.beside("boot"), BOOT).expect("it is new");
        disk.power_on();
        Self { disk, supervisor: None }
    }

    /// `handoff run`, in another boot than this test: the kernel names another one to it.
    pub(crate) fn run(&mut self) {
        let mount = r#"mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", mount, "sh"]);
        command.arg(self.disk.beside("boot")).arg(program("handoff")).arg("run");
        self.supervisor = Some(start(&mut command, self.disk.path()));
    }

    pub(crate) fn wait_until_served(&self) {
        eventually("the daemon serves", TIMEOUT, || {
            (status(self.disk.path())?["daemon"]["state"] == "serving").then_some(())
        });
    }

    /// `handoff run`, once the daemon serves and the history says so.
    pub(crate) fn serve(&mut self) {
        self.run();
        self.wait_until_served();
        self.told();
    }

    pub(crate) fn handoff(&self, arguments: &[&str]) -> (Option<i32>, String) {
        handoff(self.disk.path(), arguments)
    }

    /// `handoff swap --wait` to that build, up to the commit, which ends with that exit code.
    pub(crate) fn swap(&self, name: &str, code: i32) {
        self.swap_only(name, code);
        self.told();
    }

    /// The same, whatever the disk has taken by then.
    pub(crate) fn swap_only(&self, name: &str, code: i32) {
        let (ended, words) =
            self.handoff(&["swap", "--binary", &build(name), "--wait", "--no-probation-wait"]);
        assert_eq!(ended, Some(code), "{words}");
    }

    /// Begins a swap to a successor that opens for long.
    pub(crate) fn swap_until_opening(&self) {
        let (code, words) = self.handoff(&["swap", "--binary", &build("hanging")]);
        assert_eq!(code, Some(0), "{words}");
        eventually("the successor opens", TIMEOUT, || {
            (status(self.disk.path())?["swap"]["phase"] == "opening").then_some(())
        });
    }

    /// All that the history tells by now survives a power cut, once no line waits for the disk.
    pub(crate) fn told(&self) {
        let line = "handoff_unwritten_lines{file=\"history\"} 0\n";
        let entries = eventually("the history is written", TIMEOUT, || {
            let entries = history(self.disk.path());
            self.handoff(&["metrics"]).1.contains(line).then_some(entries)
        });
        entries.into_iter().for_each(|entry| self.disk.saw(Seen::Told(entry)));
    }

    pub(crate) fn stop(&mut self) {
        let (code, words) = self.handoff(&["stop"]);
        assert_eq!(code, Some(0), "{words}");
        let status = self.supervisor.take().expect("it runs").wait().expect("it is ours");
        assert!(status.success(), "{status}");
        history(self.disk.path()).into_iter().for_each(|entry| self.disk.saw(Seen::Told(entry)));
    }

    pub(crate) fn daemon(&self) -> Option<u32> {
        let pid = status(self.disk.path())?["daemon"]["party"]["pid"].as_u64()?;
        u32::try_from(pid).ok()
    }

    /// `SIGKILL` to the daemon, until another one serves.
    pub(crate) fn kill_daemon(&self) {
        let dead = self.daemon().expect("one serves");
        kill(dead, Signal::KILL);
        eventually("another daemon serves", TIMEOUT, || {
            let status = status(self.disk.path())?;
            let serves = status["daemon"]["state"] == "serving";
            (serves && status["daemon"]["party"]["pid"] != dead).then_some(())
        });
    }

    /// `SIGKILL` to the supervisor; the daemon serves on.
    pub(crate) fn kill_supervisor(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            supervisor.kill().expect("it is ours");
            supervisor.wait().expect("it is ours");
        }
    }

    /// The record of everything until now. The processes that are left run on.
    pub(crate) fn cut(&mut self) -> Vec<Event> {
        self.kill_supervisor();
        self.disk.events()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the processes said\n{}---", said(self.disk.path()));
        }
        self.disk.let_go();
        self.kill_supervisor();
        end_all_in(self.disk.path());
    }
}

/// Ends the processes that were started in that directory.
pub(crate) fn end_all_in(directory: &Path) {
    eventually("they end", TIMEOUT, || {
        let left = processes_in(directory);
        left.iter().for_each(|pid| kill(*pid, Signal::KILL));
        left.is_empty().then_some(())
    });
}

/// Starts the supervisor whose configuration lies in that directory.
pub(crate) fn start(command: &mut Command, directory: &Path) -> Child {
    let log = directory.with_added_extension("log");
    let log = File::options().create(true).append(true).open(log).expect("it can be written");
    command.env("HANDOFF_CONFIG", directory.join("handoff.toml")).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(log).spawn().expect("it can be started")
}

/// What the supervisors and daemons of that directory said.
pub(crate) fn said(directory: &Path) -> String {
    fs::read_to_string(directory.with_added_extension("log")).unwrap_or_default()
}

/// A command of an operator's, which is ended when it hangs: its exit code, and what it said.
pub(crate) fn handoff(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.arg(TIMEOUT.as_secs().to_string()).arg(program("handoff"));
    command.env("HANDOFF_CONFIG", directory.join("handoff.toml")).stdin(Stdio::null());
    let output = command.args(arguments).output().expect("it can be run");
    let words = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&words).into_owned())
}

/// None where no supervisor answers.
pub(crate) fn status(directory: &Path) -> Option<serde_json::Value> {
    let (code, words) = handoff(directory, &["status", "--json"]);
    // Also of a daemon that does not serve.
    matches!(code, Some(0 | 3 | 4)).then(|| serde_json::from_str(&words).ok())?
}

/// What has happened by `handoff history`, in words: an event of a daemon, or a swap that ended.
pub(crate) fn history(directory: &Path) -> Vec<String> {
    let (code, words) = handoff(directory, &["history", "--json", "-n", "10000"]);
    assert_eq!(code, Some(0), "{words}");
    // Warnings of damaged lines lie between.
    let lines = words.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter_map(|entry: serde_json::Value| {
            let (swap, daemon) = (&entry["swap"], &entry["daemon"]);
            match swap["end"]["outcome"].as_str() {
                Some(outcome) => Some(format!("swap {} {outcome}", swap["id"])),
                None if daemon.is_object() => Some(format!(
                    "{} {} {}",
                    daemon["at_ms"], daemon["kind"], daemon["daemon"]["pid"]
                )),
                None => None,
            }
        })
        .collect()
}

/// The path of a build.
pub(crate) fn build(name: &str) -> String {
    BUILDS.path().join(name).display().to_string()
}

fn configuration() -> String {
    let listed = |name| format!("[[binaries]]\npath = {:?}\n", build(name));
    let binaries: String = ["v2", "broken", "hanging"].map(listed).concat();
    format!(
        r#"state_dir = "state"
daemon = {{ binary = {:?}, control = "state/daemon.sock" }}
{binaries}"#,
        build("v1")
    )
}

/// Scripts that run the daemon; its data lies beside the directory of the configuration.
static BUILDS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let books = executable("fixture-books");
    for (name, more) in
        [("v1", ""), ("v2", ""), ("broken", "/dev/null open"), ("hanging", "/dev/null hang")]
    {
        let path: PathBuf = directory.path().join(name);
        let serve = format!("exec {:?} serve state/daemon.sock \"$(pwd).data\" {more}", books);
        fs::write(&path, format!("#!/bin/sh\n# {name}\n{serve}\n")).expect("it can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    directory
});

const BOOT: &str = "b0070000-0000-4000-8000-000000000001\n";
