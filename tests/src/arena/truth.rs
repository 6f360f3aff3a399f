//! What must hold: each report is true when it is made, and at the end one process serves, with
//! every write that was acknowledged.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use super::place::is_stopped;
use super::{Arena, Daemon, Report};
use crate::fixture::{DRAIN_BEGUN, DRAIN_UNDONE, struck as struck_in};
use crate::harness::{Client, TIMEOUT, control_owner, eventually, lock_holders};

impl Arena {
    /// Takes a report for true once it was seen to be.
    pub(super) fn heed(&mut self, report: Report) {
        self.reports.push(report.clone());
        let successor = self.successor.clone();
        match report {
            Report::Started(pid) | Report::Committed(pid) | Report::Failed(_, Some(pid), _) => {
                let build = successor.expect("it was ordered");
                self.now_serves(Daemon { pid, build });
            }
            Report::Adopted(pid, resolved) => {
                self.assert_undone(pid);
                let build = match (resolved.as_str(), successor, &self.incumbent) {
                    // Of a swap, or of a first start that its supervisor did not live to see.
                    ("Committed", Some(build), _) | ("none", Some(build), None) => build,
                    ("RolledBack", _, Some(incumbent)) => incumbent.build.clone(),
                    // The swap was over, or not begun.
                    ("none", successor, Some(incumbent)) => {
                        let known = incumbent.pid == pid;
                        if known { incumbent.build.clone() } else { successor.expect("a swap") }
                    }
                    other => panic!("adopted {pid}: {other:?}; {:?}", self.reports),
                };
                self.now_serves(Daemon { pid, build });
            }
            Report::Nothing(_) => {
                let alive = self.alive();
                assert_eq!(alive, [], "some live, and nothing was found; {:?}", self.reports);
                // The first supervisor of all finds nothing either.
                self.has_died_out |= self.reports.len() > 1;
                self.daemon = None;
            }
            Report::Failed(fate, None, _) => match fate.as_str() {
                "Serving" => {
                    let incumbent = self.incumbent.clone().expect("it was swapped");
                    self.assert_undone(incumbent.pid);
                    self.now_serves(incumbent);
                }
                "Lost" => {
                    assert_eq!(self.alive(), [], "nobody is left; {:?}", self.reports);
                    self.daemon = None;
                }
                _ => self.daemon = self.find_out(),
            },
            // A first start that failed, or a swap that was not begun.
            Report::Error(_) => self.daemon = self.incumbent.clone(),
        }
    }

    /// It was said that this daemon serves: so it has undone every drain that it began.
    fn assert_undone(&self, pid: u32) {
        let count = |what| struck_in(self.state(), what, Some(pid));
        // In this order: it may be drained anew, and not the other way round.
        let (begun, undone) = (count(DRAIN_BEGUN), count(DRAIN_UNDONE));
        let begun_before = begun <= undone || self.is_down(pid);
        assert!(
            begun_before,
            "untrue: {pid} was said to serve, and is drained; {:?}",
            self.reports
        );
    }

    /// Whether it was struck down, so that what it was said to do it does no more.
    fn is_down(&self, pid: u32) -> bool {
        let is_struck = self.struck_down.contains(&pid)
            || self.struck().iter().any(|(_, struck)| *struck == pid);
        is_struck && (is_stopped(pid) || !self.alive().contains(&pid))
    }

    /// It was said that this daemon serves: it does, or was struck down.
    fn now_serves(&mut self, daemon: Daemon) {
        let is_down = || self.is_down(daemon.pid);
        // It is the writer when it is said to be, and not some time later; but the kernel's list
        // may leave it out once or twice.
        let is_writer = || self.lock_holders() == BTreeSet::from([daemon.pid]);
        let is_true = (0..10).any(|_| {
            let is_true = is_writer() || is_down();
            if !is_true {
                thread::sleep(Duration::from_millis(5));
            }
            is_true
        });
        assert!(is_true, "untrue: {daemon:?} is not the writer yet; {:?}", self.reports);
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if is_down() {
                break;
            }
            let answers = self.ask("build", Duration::from_millis(500));
            if answers.as_ref() == Some(&daemon.build) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "untrue: {daemon:?} was said to serve, and {answers:?} does; {:?}",
                self.reports
            );
        }
        self.incumbent = Some(daemon.clone());
        self.daemon = Some(daemon);
    }

    /// Where the report does not know: whoever owns the control socket, once it answers.
    pub(super) fn find_out(&self) -> Option<Daemon> {
        let pid = control_owner(&self.control(), Duration::from_millis(250))?;
        let build = self.ask("build", Duration::from_secs(1))?;
        Some(Daemon { pid, build })
    }

    /// What a daemon answers to a new client in time.
    #[must_use]
    pub fn ask(&self, request: &str, timeout: Duration) -> Option<String> {
        Client::connect_within(self.address, timeout).ok()?.ask(request).ok()
    }

    /// Whether a new client can write.
    pub(super) fn is_served(&self, timeout: Duration) -> bool {
        let reply = self.ask("put probe probed", timeout);
        reply.is_some_and(|reply| reply.starts_with("ok "))
    }

    /// Who has the lock, by the kernel's word.
    #[must_use]
    pub fn lock_holders(&self) -> BTreeSet<u32> {
        let lock = self.data().join(".handoff.lock");
        fs::metadata(lock).map(|file| lock_holders(file.ino())).unwrap_or_default()
    }

    /// Whether one process serves and is the writer, the one that was reported, and the others
    /// have ended; what is not so, else.
    pub(super) fn one_serves(&self) -> Result<(), String> {
        let Some(daemon) = &self.daemon else { return Err("none was reported".to_owned()) };
        let alive = self.alive();
        if alive != [daemon.pid] {
            return Err(format!("{alive:?} live, and {daemon:?} serves"));
        }
        let holders = self.lock_holders();
        if holders != BTreeSet::from([daemon.pid]) {
            return Err(format!("{holders:?} have the lock, and {daemon:?} serves"));
        }
        let owner = control_owner(&self.control(), SOON);
        if owner != Some(daemon.pid) {
            return Err(format!("{owner:?} has the control socket, and {daemon:?} serves"));
        }
        let pid = self.ask("pid", SOON);
        if pid != Some(daemon.pid.to_string()) {
            return Err(format!("{pid:?} answers clients, and {daemon:?} was reported"));
        }
        Ok(())
    }

    /// Every write that was acknowledged to the clients that were stopped is there; how many
    /// they were.
    ///
    /// # Panics
    ///
    /// When one is not.
    pub fn assert_nothing_lost(&self) -> usize {
        let mut client = Client::connect(self.address).expect("it listens");
        let missing = client.missing(&self.tally.written).expect("it answers");
        assert!(missing.is_empty(), "acknowledged and lost: {missing:?}; {:?}", self.reports);
        self.tally.written.len()
    }

    /// Ends the clients, whose tally is then complete.
    pub fn stop_clients(&mut self) {
        if let Some(clients) = self.clients.take() {
            self.tally.add(clients.stop());
        }
    }

    /// What became of the requests of the clients that were stopped.
    #[must_use]
    pub const fn tally(&self) -> &crate::harness::Tally {
        &self.tally
    }

    /// Waits until clients that wait have been served again.
    ///
    /// # Panics
    ///
    /// When they are not.
    pub fn wait_for_progress(&self) {
        let clients = self.clients.as_ref().expect("they run");
        let before = clients.acknowledged();
        let served = || (clients.acknowledged() > before + 2).then_some(());
        eventually(&format!("clients are served; {:?}", self.reports), TIMEOUT, served);
    }
}

/// A process that serves answers sooner.
const SOON: Duration = Duration::from_secs(2);
