//! What is started, and how.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use handoff::SpawnSpec;
use handoff::supervisor::{Launch, LaunchRequest};

use super::process::executable;
use crate::fixture::Options;

/// A successor to be started.
#[derive(Debug, Clone)]
pub struct SuccessorSpec {
    /// How the daemon is told.
    pub options: Options,
    /// The swap's.
    pub deadline: Duration,
    /// From its start to its hello.
    pub hello_limit: Duration,
}

impl SuccessorSpec {
    /// As the library wants it.
    #[must_use]
    pub fn spec(&self) -> SpawnSpec {
        SpawnSpec {
            args: self.options.to_args(),
            deadline: self.deadline,
            hello_limit: self.hello_limit,
            ..SpawnSpec::new(executable("fixture-daemon"))
        }
    }

    /// The same, started so that a file that may not grow is an error and no signal.
    #[must_use]
    pub fn spec_ignoring_xfsz(&self) -> SpawnSpec {
        let mut spec = self.spec();
        let script = "trap '' XFSZ; exec \"$0\" \"$@\"".to_owned();
        let binary = spec.binary.display().to_string();
        spec.args.splice(0..0, ["-c".to_owned(), script, binary]);
        SpawnSpec { binary: "sh".into(), ..spec }
    }
}

/// Starts processes with their standard error in a file.
#[derive(Debug)]
pub(super) struct Logged(pub(super) PathBuf);

impl Launch for Logged {
    fn launch(&self, request: LaunchRequest<'_>) -> handoff::Result<Child> {
        let log = append(&self.0)?;
        request.spawn(|command| {
            command.stderr(log);
        })
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
