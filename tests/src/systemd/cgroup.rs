//! The cgroup that a machine has for its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::harness::{TIMEOUT, eventually};

/// Removed with the value, once the processes in it have ended.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    /// The cgroup that this process came from.
    origin: PathBuf,
}

impl Cgroup {
    pub(super) fn create() -> io::Result<Self> {
        let mount = mounted().ok_or_else(|| io::Error::other("no cgroup2 is mounted"))?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let origin = mount.join(own);
        let path = mount.join(format!("handoff-tests-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self { path, origin })
    }

    /// Moves this process in; those that it starts are there too.
    pub(super) fn enter(&self) -> io::Result<()> {
        enter(&self.path, std::process::id())
    }

    /// Moves a process back to where this one came from.
    pub(super) fn leave(&self, pid: u32) -> io::Result<()> {
        enter(&self.origin, pid)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was killed is in its cgroup until the kernel is done with it.
        eventually("the cgroups are empty", TIMEOUT, || remove(&self.path).ok());
    }
}

/// Where cgroup2 is mounted.
pub(super) fn mounted() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| path.into())
    })
}

fn enter(cgroup: &Path, pid: u32) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), pid.to_string())
}

/// From the bottom up.
fn remove(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
