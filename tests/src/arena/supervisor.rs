//! The supervisor's process, from outside.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use handoff::faults::{self, Planned};

/// A supervisor that is alive, or was.
#[derive(Debug)]
pub struct LiveSupervisor {
    child: Child,
    orders: ChildStdin,
    reports: Receiver<String>,
    /// Whether it owes an answer.
    pub is_busy: bool,
    /// Whether it has nothing more to say.
    is_silent: bool,
    has_adopted: bool,
}

/// What it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// It found a daemon, and what became of the swap that was in flight.
    Adopted(u32, String),
    /// It found nothing.
    Nothing(String),
    /// A first daemon serves.
    Started(u32),
    /// A swap was committed.
    Committed(u32),
    /// A swap was not: what became of the incumbent, who was promoted, and why.
    Failed(String, Option<u32>, String),
    /// Nothing was begun.
    Error(String),
}

impl Report {
    fn of(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        Some(match word {
            "adopted" => {
                let (pid, resolved) = rest.split_once(' ')?;
                Self::Adopted(pid.parse().ok()?, resolved.to_owned())
            }
            "nothing" => Self::Nothing(rest.to_owned()),
            "started" => Self::Started(rest.parse().ok()?),
            "committed" => Self::Committed(rest.parse().ok()?),
            "failed" => {
                let mut words = rest.splitn(3, ' ');
                let (fate, promoted, why) = (words.next()?, words.next()?, words.next()?);
                Self::Failed(fate.to_owned(), promoted.parse().ok(), why.to_owned())
            }
            "error" => Self::Error(rest.to_owned()),
            _ => return None,
        })
    }
}

impl LiveSupervisor {
    /// Starts it, with faults of its own.
    pub(super) fn start(binary: &Path, state: &Path, listen: &str, faults: &[Planned]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(state.join("stderr"));
        // A limit of a file's size is to be an error, and no signal.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(binary)
            .args([state.join("control"), state.join("journal")])
            .arg(listen)
            .arg(state.join("stderr"))
            .env(faults::VARIABLE, plan(faults))
            .env(faults::MARKS, state.join("marks"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.expect("it can be created"))
            .spawn()
            .expect("it can be started");
        let orders = child.stdin.take().expect("it was piped");
        let stdout = child.stdout.take().expect("it was piped");
        let (sender, reports) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { child, orders, reports, is_busy: true, is_silent: false, has_adopted: false }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order; one that dies meanwhile does not hear it.
    pub fn order(&mut self, words: &[String]) {
        self.is_busy = true;
        let _ = writeln!(self.orders, "{}", words.join("\t"));
    }

    /// What it says next, if it does before the timeout.
    ///
    /// # Panics
    ///
    /// When it says what is no report.
    pub fn report(&mut self, timeout: Duration) -> Option<Report> {
        match self.reports.recv_timeout(timeout) {
            Ok(line) => {
                let report = Report::of(&line);
                let report = report.unwrap_or_else(|| panic!("{line:?} is no report"));
                // One that could not adopt ends.
                self.is_busy = !self.has_adopted && matches!(report, Report::Error(_));
                self.has_adopted = true;
                Some(report)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                self.is_silent = true;
                None
            }
        }
    }

    /// Whether its output has ended, and everything it said was heard.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Whether it has ended.
    ///
    /// # Panics
    ///
    /// Never: it is ours.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_some()
    }

    /// Kills it, and waits for its end.
    ///
    /// # Panics
    ///
    /// Never: it is ours.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("it is ours");
    }
}

impl Drop for LiveSupervisor {
    fn drop(&mut self) {
        self.kill();
    }
}

/// As the environment names faults.
pub(super) fn plan(faults: &[Planned]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The supervisor's binary.
pub(super) const SUPERVISOR: &str = "fixture-live-supervisor";
