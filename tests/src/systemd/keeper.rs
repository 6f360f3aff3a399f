//! The process that keeps a machine for as long as its test runs.

use std::fs;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use super::cgroup::Cgroup;
use crate::harness::{TIMEOUT, eventually, kill};

/// Starts a machine, prints the pid of its systemd, and ends it at the end of standard input.
///
/// # Errors
///
/// When the kernel refuses a namespace, a mount or a cgroup.
pub fn keep() -> io::Result<()> {
    let cgroup = Cgroup::create()?;
    let files = tempfile::tempdir()?;
    cgroup.enter()?;
    let mut outer = Outer(in_namespaces(files.path().as_os_str()).spawn()?);
    let systemd = outer.wait_for_systemd()?;
    // Inside of the cgroup, a process of another pid namespace would read as pid 0: an error to systemd.
    cgroup.leave(outer.0.id())?;
    cgroup.leave(std::process::id())?;
    println!("{systemd}");
    io::stdin().read_to_end(&mut Vec::new())?;
    outer.power_off(systemd)
}

/// The helper, as the first process of its own namespaces. It dies with this one.
fn in_namespaces(files: &std::ffi::OsStr) -> Command {
    let helper = std::env::current_exe().unwrap_or_else(|_| "fixture-systemd".into());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--fork", "--kill-child=KILL"]);
    command.args(["--pid", "--mount", "--uts", "--ipc", "--cgroup", "--net"]);
    command.arg(helper).arg("boot").arg(files).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The process outside of the namespaces whose child is the first process in them. Ended with the value.
struct Outer(Child);

impl Outer {
    /// The pid of the child, once that has become systemd.
    fn wait_for_systemd(&mut self) -> io::Result<u32> {
        let pid = self.0.id();
        let children = format!("/proc/{pid}/task/{pid}/children");
        eventually("systemd starts", TIMEOUT, || {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Some(Err(io::Error::other(format!("it ended before systemd: {status}"))));
            }
            let child = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            (name == "systemd\n").then_some(Ok(child))
        })
    }

    fn power_off(mut self, systemd: u32) -> io::Result<()> {
        Command::new("kill").args(["-s", "RTMIN+4", &systemd.to_string()]).status()?;
        eventually("systemd ends", TIMEOUT, || self.0.try_wait().ok().flatten());
        Ok(())
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        // With the first process the kernel kills all others of its pid namespace.
        kill(self.0.id(), Signal::KILL);
        let _ = self.0.wait();
    }
}
