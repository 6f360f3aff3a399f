//! A machine, as a test has it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{SYSTEMD, cgroup};
use crate::harness::{TIMEOUT, eventually, executable};

/// Why no machine can be started here, if that is so.
#[must_use]
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".into());
    }
    if !Path::new(SYSTEMD).exists() {
        return Some(format!("there is no {SYSTEMD}"));
    }
    for program in ["unshare", "nsenter", "setpriv"] {
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
            return Some(format!("there is no {program}"));
        }
    }
    let Some(cgroups) = cgroup::mounted() else { return Some("no cgroup2 is mounted".into()) };
    let access = rustix::fs::access(&cgroups, rustix::fs::Access::WRITE_OK);
    access.err().map(|error| format!("{}: {error}", cgroups.display()))
}

/// A machine that runs. With the value, or with this process, it ends and leaves nothing behind.
#[derive(Debug)]
pub struct Machine {
    keeper: Child,
    systemd: u32,
}

impl Machine {
    /// Boots it.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    #[must_use]
    pub fn boot() -> Self {
        let mut command = Command::new(executable("fixture-systemd"));
        command.arg("keep").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().expect("the helper is built");
        let mut line = String::new();
        let said = keeper.stdout.take().expect("it is a pipe");
        BufReader::new(said).read_line(&mut line).expect("it can be read");
        let systemd = line.trim().parse().expect("the keeper says why, above");
        let machine = Self { keeper, systemd };
        eventually("systemd has booted", TIMEOUT, || {
            let state = machine.output(&["systemctl", "is-system-running"]).stdout;
            ["running\n", "degraded\n"].contains(&&*String::from_utf8_lossy(&state)).then_some(())
        });
        machine
    }

    /// The pid of its keeper, outside.
    #[must_use]
    pub fn keeper(&self) -> u32 {
        self.keeper.id()
    }

    /// The pid of its systemd, outside.
    #[must_use]
    pub fn systemd(&self) -> u32 {
        self.systemd
    }

    /// A command in the machine.
    #[must_use]
    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.systemd.to_string()]).args(["-m", "-u", "-i", "-n", "-p", "-C"]);
        command.args(["-r", "-w", "env", "-i", "PATH=/usr/bin:/usr/sbin:/bin:/sbin"]).args(line);
        command.stdin(Stdio::null());
        command
    }

    /// What a command in the machine says, and how it ends.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    #[must_use]
    pub fn output(&self, line: &[&str]) -> Output {
        self.command(line).output().expect("nsenter is there")
    }

    /// Standard output of a command that ends well.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn said(&self, line: &[&str]) -> String {
        let output = self.output(line);
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line:?}: {}\n{words}{errors}", output.status);
        words
    }

    /// A file of the machine, as a process outside finds it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.systemd)).join(path.trim_start_matches('/'))
    }

    /// Writes a file of the machine.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it has a name")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }

    /// Copies a file into the machine, in the place of another one: that may be executed.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn install(&self, from: &Path, to: &str) {
        let (to, new) = (self.path(to), self.path(&format!("{to}.new")));
        fs::create_dir_all(to.parent().expect("it has a name")).expect("it can be made");
        fs::copy(from, &new).expect("it can be copied");
        fs::rename(new, to).expect("it can be renamed");
    }

    /// Moves the calling thread into the machine's network, for good.
    ///
    /// # Panics
    ///
    /// When it cannot be moved.
    pub fn join_network(&self) {
        let network = File::open(format!("/proc/{}/ns/net", self.systemd)).expect("it runs");
        let moved = move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network));
        moved.expect("this is root");
    }

    /// The pid, outside, of a process of the machine; none if it has ended.
    #[must_use]
    pub fn pid_outside(&self, pid: u32) -> Option<u32> {
        let inside = format!("\t{pid}");
        let own = fs::read_link(format!("/proc/{}/ns/pid", self.systemd)).ok()?;
        let processes = fs::read_dir("/proc").ok()?;
        processes.flatten().find_map(|entry| {
            let outside = entry.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            let is_it = numbers.ends_with(&inside)
                && fs::read_link(entry.path().join("ns/pid")).is_ok_and(|of| of == own);
            is_it.then_some(outside)
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
