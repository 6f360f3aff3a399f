//! The next build has another struct: shards come and go, get other names and another order, forwards
//! and back. Each way is taken with the change declared and without.

use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use handoff::supervisor::{ChildProcess, Committed, Failed, HandoffOutcome, IncumbentFate};
use handoff::{SpawnSpec, Supervisor};
use rustix::process::{Pid, Signal, kill_process};

/// A daemon of some build, and its supervisor.
struct Running {
    data: Data,
    supervisor: Supervisor,
    daemon: Killed,
}

/// A daemon that ends with the test.
struct Killed(ChildProcess);

impl Killed {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.pid().cast_signed()).expect("it is a process");
        kill_process(pid, signal).expect("it is not collected yet");
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        self.0.wait_until(deadline).expect("it can be waited for").expect("it ends")
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.signal(Signal::KILL);
            self.ended();
        }
    }
}

impl Running {
    fn start(build: &str) -> Self {
        Data(tempfile::tempdir().expect("a temporary directory")).start_well(build)
    }

    fn swap(&mut self, build: &str) -> Result<(), Failed> {
        match self.supervisor.perform_handoff(self.data.spec(build)).expect("it is paired") {
            HandoffOutcome::Committed(Committed { successor, .. }) => {
                let mut old = std::mem::replace(&mut self.daemon, Killed(successor));
                assert!(old.ended().success());
                Ok(())
            }
            HandoffOutcome::Failed(failed) => Err(failed),
        }
    }

    /// A swap that is given up when the successor has opened the data.
    fn roll_back(&self, build: &str) -> Result<(), Failed> {
        let session = self.supervisor.pair(self.data.spec(build)).expect("it starts");
        let rolled_back = session.warm()?.prepare_and_seal()?.begin()?.abort("another day");
        assert_eq!(rolled_back.incumbent, IncumbentFate::Serving);
        Ok(())
    }

    fn end(mut self, signal: Signal) -> Data {
        self.daemon.signal(signal);
        self.daemon.ended();
        self.data
    }
}

/// The directory of a daemon that does not run.
struct Data(tempfile::TempDir);

impl Data {
    fn start_well(self, build: &str) -> Running {
        self.start(build).unwrap_or_else(|(_, words)| panic!("{build}: {words}"))
    }

    /// Starts a build on the data, or says why that does not serve.
    fn start(self, build: &str) -> Result<Running, (Self, String)> {
        let supervisor = Supervisor::new(&self.0.path().join(CONTROL)).expect("it binds");
        if let Ok(daemon) = supervisor.start(&self.spec(build)) {
            return Ok(Running { data: self, supervisor, daemon: Killed(daemon) });
        }
        let mut by_hand = Command::new(FIXTURE);
        let output = by_hand.args(self.arguments(build)).output().expect("it runs");
        assert!(!output.status.success());
        Err((self, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn spec(&self, build: &str) -> SpawnSpec {
        SpawnSpec { args: self.arguments(build).to_vec(), ..SpawnSpec::new(FIXTURE) }
    }

    fn arguments(&self, build: &str) -> [String; 3] {
        let path = |name: &str| self.0.path().join(name).display().to_string();
        [path(CONTROL), path("data"), build.to_owned()]
    }
}

/// The changed builds, and the words that a refusal of the undeclared one has, forwards.
const CHANGES: [(&str, Option<&str>); 5] = [
    ("added", Some("#[handoff(added)]")),
    ("removed", Some("#[handoff(retired(\"audit\"))]")),
    ("renamed", Some("#[handoff(was = \"log\")]")),
    ("reordered", None),
    ("grown", Some("#[handoff(resizable)]")),
];

#[test]
fn a_declared_change_starts_on_what_the_build_before_sealed_and_the_other_way_round() {
    for (changed, _) in CHANGES {
        for (from, to) in [("base", changed), (changed, "base")] {
            let running = Running::start(from).end(Signal::TERM).start_well(to);
            // It seals in turn, for itself.
            running.end(Signal::TERM).start_well(to).end(Signal::TERM);
        }
    }
}

#[test]
fn a_change_that_is_not_declared_does_not_start_and_says_which_attribute_to_write() {
    for (changed, words) in CHANGES {
        let Some(words) = words else { continue };
        let said = Running::start("base").end(Signal::TERM).start(&format!("{changed} only"));
        let Err((data, said)) = said else { panic!("{changed}: it is not declared") };
        assert!(said.contains(words), "{changed}: {said}");
        data.start_well("base").end(Signal::TERM);
    }
}

#[test]
fn after_a_crash_there_is_no_seal_to_differ_from() {
    for (changed, _) in CHANGES {
        for (from, to) in [("base", changed), (changed, "base")] {
            Running::start(from).end(Signal::KILL).start_well(to).end(Signal::TERM);
        }
    }
}

#[test]
fn a_declared_change_is_swapped_in_and_back_and_in_again() {
    for (changed, _) in CHANGES {
        let mut running = Running::start("base");
        for build in [changed, "base", changed, changed, "base"] {
            let swapped = running.swap(build);
            swapped.unwrap_or_else(|failed| panic!("{changed}, to {build}: {failed}"));
        }
        running.end(Signal::TERM);
    }
}

#[test]
fn a_swap_that_is_rolled_back_after_the_opening_leaves_the_build_before_serving() {
    for (changed, _) in CHANGES {
        for (from, to) in [("base", changed), (changed, "base")] {
            let mut running = Running::start(from);
            running.roll_back(to).unwrap_or_else(|failed| panic!("{from} to {to}: {failed}"));
            running.swap(from).unwrap_or_else(|failed| panic!("{from}: {failed}"));
            running.end(Signal::TERM);
        }
    }
}

#[test]
fn a_change_that_is_not_declared_is_not_swapped_in_and_the_build_before_serves() {
    for (changed, words) in CHANGES {
        let Some(words) = words else { continue };
        let mut running = Running::start("base");
        let failed = running.swap(&format!("{changed} only")).expect_err("it is not declared");
        assert!(failed.to_string().contains(words), "{changed}: {failed}");
        running.swap("base").unwrap_or_else(|failed| panic!("{changed}: {failed}"));
        running.end(Signal::TERM);
    }
}

const CONTROL: &str = "control.sock";
const FIXTURE: &str = env!("CARGO_BIN_EXE_fixture-structs");
/// For hangs.
const LONG: Duration = Duration::from_secs(60);
