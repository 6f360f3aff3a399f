//! A supervisor that is a process of its own, so that it can be stopped and killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use handoff::Phase;
use rustix::process::Signal;

use super::process::{eventually, executable, kill};
use super::{Cluster, SuccessorSpec, TIMEOUT};

/// The fixture supervisor, swapping the daemon of a cluster.
#[derive(Debug)]
pub struct HelperSupervisor {
    child: Child,
    mark: PathBuf,
}

impl HelperSupervisor {
    /// Starts it. When `phase` is entered, it sends itself the signal: `stop`, `kill` or `none`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start(cluster: &Cluster, spec: &SuccessorSpec, phase: Phase, signal: &str) -> Self {
        let at = [phase.name(), signal];
        Self::swapping(cluster, spec, &executable("fixture-daemon"), 1, at)
    }

    /// Starts it, to swap to another binary, with that many listeners in high descriptors.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start_other(
        cluster: &Cluster,
        spec: &SuccessorSpec,
        binary: &Path,
        listeners: usize,
    ) -> Self {
        Self::swapping(cluster, spec, binary, listeners, ["never", "none"])
    }

    fn swapping(
        cluster: &Cluster,
        spec: &SuccessorSpec,
        binary: &Path,
        listeners: usize,
        [phase, signal]: [&str; 2],
    ) -> Self {
        let mark = cluster.state().join(format!("supervisor.{phase}.{signal}"));
        let listener = cluster.listener.try_clone().expect("a descriptor is left");
        let log = std::fs::File::create(cluster.state().join("supervisor.stderr"));
        let child = Command::new(executable("fixture-supervisor"))
            .arg(cluster.control())
            .arg(cluster.journal())
            .arg(&mark)
            .args([spec.deadline.as_millis().to_string(), listeners.to_string()])
            .args([phase, signal])
            .arg(binary)
            .args(spec.options.to_args())
            .stdin(std::os::fd::OwnedFd::from(listener))
            .stdout(Stdio::piped())
            .stderr(log.expect("it can be created"))
            .spawn()
            .expect("it can be started");
        Self { child, mark }
    }

    /// Waits until it has reached its phase, at which it signals itself.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn wait_for_its_phase(&mut self) {
        eventually("the supervisor reaches its phase", TIMEOUT, || {
            self.mark.exists().then_some(())
        });
    }

    /// Waits until it was killed by its own hand.
    ///
    /// # Panics
    ///
    /// When it was not.
    pub fn wait_until_it_died(&mut self) {
        self.wait_for_its_phase();
        let status = self.child.wait().expect("it is ours");
        assert_eq!(status.code(), None, "it was to be killed");
    }

    /// Lets it go on, if it was stopped, and returns what it reports.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn report(mut self) -> String {
        kill(self.child.id(), Signal::CONT);
        let mut report = String::new();
        // One line: the daemon that it started has the other end too, and keeps it open.
        let stdout = self.child.stdout.as_mut().expect("it was piped");
        BufReader::new(stdout).read_line(&mut report).expect("it is text");
        self.child.wait().expect("it is ours");
        report.trim_end().to_owned()
    }
}

impl Drop for HelperSupervisor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
