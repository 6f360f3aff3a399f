//! What is started, and how.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use handoff::supervisor::{AbortHandle, Launch, LaunchRequest};
use handoff::{SpawnSpec, faults};

use super::process::executable;
use crate::fixture::{MARKS, Options};

/// A successor to be started.
#[derive(Debug, Clone)]
pub struct SuccessorSpec {
    /// How the daemon is told.
    pub options: Options,
    /// The swap's.
    pub deadline: Duration,
    /// From its start to its hello.
    pub hello_timeout: Duration,
    /// Of its incumbent.
    pub drain_grace: Duration,
    /// What is to go wrong in the library.
    pub(super) planned: Vec<String>,
    /// What a shell does before it becomes the daemon.
    pub prelude: Option<String>,
    /// Gives the swap up.
    pub abort: Option<AbortHandle>,
}

impl SuccessorSpec {
    /// As the library wants it.
    #[must_use]
    pub fn spec(&self) -> SpawnSpec {
        let marks = self.options.state.join(MARKS);
        let spec = SpawnSpec {
            args: self.options.to_args(),
            env: vec![
                (faults::VARIABLE.to_owned(), self.planned.join(",")),
                (faults::MARKS.to_owned(), marks.display().to_string()),
            ],
            deadline: self.deadline,
            hello_timeout: self.hello_timeout,
            drain_grace: self.drain_grace,
            abort: self.abort.clone(),
            ..SpawnSpec::new(executable("fixture-daemon"))
        };
        match &self.prelude {
            Some(prelude) => behind(prelude, spec),
            None => spec,
        }
    }

    /// The same, started so that a file that may not grow is an error and no signal.
    #[must_use]
    pub fn spec_ignoring_xfsz(&self) -> SpawnSpec {
        behind("trap '' XFSZ", self.spec())
    }
}

/// The same, in a shell that does something before.
fn behind(prelude: &str, mut spec: SpawnSpec) -> SpawnSpec {
    let script = format!("{prelude}; exec \"$0\" \"$@\"");
    let binary = spec.binary.display().to_string();
    spec.args.splice(0..0, ["-c".to_owned(), script, binary]);
    SpawnSpec { binary: "sh".into(), ..spec }
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
