//! The end: the supervisor undoes the swap in flight and tells the daemon to stop. The daemon
//! drains, seals and leaves, and then the supervisor leaves.

use std::process::ExitCode;
use std::sync::mpsc::Sender;
use std::time::Instant;

use rustix::process::Signal;

use super::Runner;
use super::job::Job;
use crate::notify::{self, News};
use crate::record::Probation;
use crate::trigger::Reply;

/// The supervisor is being stopped.
#[derive(Debug)]
pub(super) struct Stopping {
    /// When the supervisor kills the daemon.
    deadline: Instant,
    /// Whether the supervisor has told the daemon to stop.
    is_told: bool,
    /// The process that the supervisor killed. Another one may have taken its place: a swap goes on
    /// with the successor when the incumbent dies (invariant 3).
    killed: Option<u32>,
    askers: Vec<Sender<Reply>>,
}

impl Stopping {
    pub(super) fn deadline(&self) -> Instant {
        if self.killed.is_some() { Instant::now() + super::TICK } else { self.deadline }
    }
}

impl Runner {
    /// The first call stops the daemon. The next one kills it, or leaves one that is not found yet.
    pub(super) fn stop(&mut self, asker: Option<Sender<Reply>>) -> Option<ExitCode> {
        if let Some(stopping) = &mut self.stopping {
            stopping.askers.extend(asker);
            if self.jobs.running() == Some(Job::Adopt) {
                tracing::warn!(
                    "this supervisor was told to stop again before it found a daemon: it leaves alone one that serves"
                );
                return Some(self.stopped("not found yet", false));
            }
            tracing::warn!("this supervisor was told to stop again: it kills the daemon");
            stopping.deadline = Instant::now();
            self.stop_on_time();
            return None;
        }
        tracing::info!("this supervisor was told to stop");
        notify::tell(News::Stopping);
        self.stopping = Some(Stopping {
            deadline: Instant::now() + self.config.limits.stop,
            is_told: false,
            killed: None,
            askers: asker.into_iter().collect(),
        });
        self.swaps.end_probation(Probation::Ended { why: "the supervisor was stopped".into() });
        self.judge(None);
        self.service.next_start = None;
        // A daemon that an adoption finds is told to stop then.
        if self.jobs.running() != Some(Job::Adopt) {
            self.jobs.abort("the supervisor is stopping");
        }
        self.go_on_stopping()
    }

    /// Tells the daemon to stop, once no job runs.
    pub(super) fn go_on_stopping(&mut self) -> Option<ExitCode> {
        let is_idle = self.jobs.running().is_none();
        let stopping = self.stopping.as_mut().filter(|stopping| is_idle && !stopping.is_told)?;
        stopping.is_told = true;
        let Some(daemon) = &self.service.daemon else {
            return Some(self.stopped("none served", true));
        };
        tracing::info!(
            pid = daemon.pid(),
            "this supervisor tells the daemon to stop, with SIGTERM"
        );
        if let Err(error) = daemon.signal(Signal::TERM) {
            tracing::error!(
                pid = daemon.pid(), %error,
                "this supervisor cannot send SIGTERM to the daemon, and will kill it"
            );
        }
        None
    }

    pub(super) fn stop_on_time(&mut self) {
        // A job that starts a daemon ends that daemon itself.
        let (Some(stopping), Some(daemon)) = (&mut self.stopping, &self.service.daemon) else {
            return;
        };
        if stopping.killed == Some(daemon.pid()) || stopping.deadline > Instant::now() {
            return;
        }
        stopping.killed = Some(daemon.pid());
        tracing::error!(
            pid = daemon.pid(),
            "this supervisor kills the daemon, which has not stopped: limits.stop has passed, or the supervisor was told to stop again"
        );
        if let Err(error) = daemon.signal(Signal::KILL) {
            tracing::error!(pid = daemon.pid(), %error, "this supervisor cannot kill the daemon: end it by hand");
        }
    }

    /// The daemon is gone.
    pub(super) fn stopped(&mut self, status: &str, is_clean: bool) -> ExitCode {
        // First: whoever is told goes by the files from here on.
        self.trigger.remove();
        self.holding.forget_names();
        let askers = self.stopping.take().map(|stopping| stopping.askers).unwrap_or_default();
        for asker in askers {
            let _ = asker.send(Reply::Stopped { status: status.to_owned(), clean: is_clean });
        }
        tracing::info!(status, "this supervisor stops");
        if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
