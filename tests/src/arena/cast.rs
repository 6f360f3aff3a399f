//! The builds of this library that play the roles in an arena.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::supervisor::SUPERVISOR;
use super::{Arena, Daemon};
use crate::harness::executable;

/// The fixture daemon and the fixture supervisor of one build of this library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// As the table calls it.
    pub name: &'static str,
    daemon: PathBuf,
    supervisor: PathBuf,
}

impl Build {
    /// The one that this test was built with.
    ///
    /// # Panics
    ///
    /// As [`Build::of_directory`].
    #[must_use]
    pub fn this(copies: &Path) -> Self {
        let daemon = executable(DAEMON);
        Self::of_directory("this", daemon.parent().expect("a file is in a directory"), copies)
    }

    /// The one with its binaries in that directory. An arena links to the supervisor's binary, so
    /// this copies it to `copies`, in the file system of the arenas.
    ///
    /// # Panics
    ///
    /// When a binary is missing, or cannot be copied.
    #[must_use]
    pub fn of_directory(name: &'static str, directory: &Path, copies: &Path) -> Self {
        let binary = |of: &str| {
            let path = directory.join(of);
            path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let supervisor = copies.join(format!("{SUPERVISOR}.{name}"));
        fs::copy(binary(SUPERVISOR), &supervisor).expect("it can be copied");
        Self { name, daemon: binary(DAEMON), supervisor }
    }
}

/// The build that plays each role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cast {
    /// Of the first supervisor.
    pub supervisor: Build,
    /// Of each supervisor that takes the place of one that died.
    pub adopter: Build,
    /// Of each daemon that starts where none serves.
    pub incumbent: Build,
    /// Of the next swap.
    pub successor: Build,
}

/// A supervisor starts the daemon that it finds beside its own binary. So each has a directory of its
/// own, with a link to its binary, and one to that of the next daemon.
pub(super) fn link_supervisor(state: &Path, number: u32, build: &Build) -> PathBuf {
    let directory = binaries_of(state, number);
    fs::create_dir_all(&directory).expect("it can be created");
    let supervisor = directory.join(SUPERVISOR);
    fs::hard_link(&build.supervisor, &supervisor).expect("it can be linked to");
    supervisor
}

/// The supervisor of this number starts that daemon next.
pub(super) fn link_daemon(state: &Path, number: u32, build: &Build) {
    let link = binaries_of(state, number).join(DAEMON);
    let _ = fs::remove_file(&link);
    symlink(&build.daemon, link).expect("it can be linked to");
}

fn binaries_of(state: &Path, number: u32) -> PathBuf {
    state.join("binaries").join(number.to_string())
}

impl Arena {
    /// The supervisor that is there now, and the daemon that serves, run the binaries of these builds.
    ///
    /// # Panics
    ///
    /// When they run others.
    pub fn assert_run(&self, supervisor: &Build, daemon: &Build) {
        let Daemon { pid, build } = self.daemon.as_ref().expect("one serves");
        for (pid, binary) in
            [(self.supervisor.pid(), &supervisor.supervisor), (*pid, &daemon.daemon)]
        {
            let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
            let runs = file(Path::new(&format!("/proc/{pid}/exe"))).expect("it lives");
            assert_eq!(
                runs,
                file(binary).expect("it is there"),
                "{pid} runs {binary:?}; {build} serves"
            );
        }
    }
}

const DAEMON: &str = "fixture-daemon";
