//! The end: the supervisor undoes the swap in flight and tells the daemon to stop. The daemon
//! drains, seals and leaves, and then the supervisor leaves. Or the supervisor leaves alone.

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
    pub(super) since: Instant,
    /// When the supervisor kills the daemon.
    deadline: Instant,
    /// Whether the supervisor has told the daemon to stop.
    is_told: bool,
    /// The process that the supervisor killed. Another one may have taken its place: a swap goes on
    /// with the successor when the incumbent dies (invariant 3).
    killed: Option<u32>,
    /// Whether the supervisor leaves the daemon serving.
    keeps_daemon: bool,
    askers: Vec<Sender<Reply>>,
}

impl Stopping {
    /// Whether the end of the daemon is the end of the supervisor.
    pub(super) const fn ends_daemon(&self) -> bool {
        !self.keeps_daemon
    }

    pub(super) fn deadline(&self) -> Instant {
        let is_over = self.killed.is_some() || self.keeps_daemon;
        if is_over { Instant::now() + super::TICK } else { self.deadline }
    }
}

impl Runner {
    /// The first call stops the daemon, also one that was to be left serving. The next one kills it,
    /// or leaves one that is not found yet.
    pub(super) fn stop(&mut self, asker: Option<Sender<Reply>>) -> Option<ExitCode> {
        let leaving = self.stopping.take_if(|stopping| stopping.keeps_daemon);
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
        let leavers = leaving.into_iter().flat_map(|leaving| leaving.askers);
        self.begin_stopping(false, leavers.chain(asker).collect());
        self.swaps.end_probation(Probation::Ended { why: "the supervisor was stopped".into() });
        self.judge(None);
        // A daemon that an adoption finds is told to stop then.
        if self.jobs.running() != Some(Job::Adopt) {
            self.jobs.abort("the supervisor is stopping");
        }
        self.go_on_stopping()
    }

    /// Leaves the daemon serving. The supervisor undoes a swap in flight first, and waits for the end
    /// of a start or an adoption; another call ends it before an adoption does. A probation stays
    /// open: the next supervisor goes on with it.
    pub(super) fn leave(&mut self, asker: Option<Sender<Reply>>) -> Option<ExitCode> {
        let is_adopting = self.jobs.running() == Some(Job::Adopt);
        match &mut self.stopping {
            Some(stopping) if stopping.keeps_daemon => {
                stopping.askers.extend(asker);
                return if is_adopting { Some(self.left()) } else { None };
            }
            Some(_) => {
                let why = "the supervisor stops the daemon already";
                tracing::warn!(error = why, "this supervisor cannot leave the daemon serving");
                let _ = asker.map(|asker| asker.send(Reply::refused(why)));
                return None;
            }
            None => {}
        }
        tracing::info!("this supervisor was told to leave the daemon serving");
        self.begin_stopping(true, asker.into_iter().collect());
        if self.jobs.running() == Some(Job::Swap) {
            self.jobs.abort("the supervisor leaves");
        }
        self.go_on_stopping()
    }

    fn begin_stopping(&mut self, keeps_daemon: bool, askers: Vec<Sender<Reply>>) {
        self.service.next_start = None;
        self.stopping = Some(Stopping {
            since: Instant::now(),
            deadline: Instant::now() + self.config.limits.stop,
            is_told: false,
            killed: None,
            keeps_daemon,
            askers,
        });
        notify::tell(News::Stopping(self.in_words()));
    }

    /// Tells the daemon to stop, or leaves it, once no job runs.
    pub(super) fn go_on_stopping(&mut self) -> Option<ExitCode> {
        let is_idle = self.jobs.running().is_none();
        let stopping = self.stopping.as_mut().filter(|stopping| is_idle && !stopping.is_told)?;
        if stopping.keeps_daemon {
            return Some(self.left());
        }
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
        if stopping.keeps_daemon
            || stopping.killed == Some(daemon.pid())
            || stopping.deadline > Instant::now()
        {
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
        self.holding.forget_names();
        self.answer_last(&Reply::Stopped { status: status.to_owned(), clean: is_clean });
        tracing::info!(status, "this supervisor stops");
        if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// The supervisor leaves. The hidden names of the listeners stay for the next one.
    fn left(&mut self) -> ExitCode {
        // The clients that wait for the end of the probation see that nobody tells them.
        self.swaps.judging = None;
        let serves = self.service.party();
        let (pid, path) = (self.service.pid(), serves.as_ref().map(|party| party.binary.clone()));
        self.answer_last(&Reply::Left { serves });
        match pid {
            Some(pid) => {
                notify::tell(News::Status(format!("left the daemon serving as process {pid}")));
                tracing::info!(
                    pid,
                    path,
                    "this supervisor leaves the daemon serving: the next `handoff run` adopts it"
                );
            }
            None => tracing::warn!(
                "this supervisor leaves; no daemon serves: the next `handoff run` starts one"
            ),
        }
        ExitCode::SUCCESS
    }

    /// Answers those who asked for the end.
    fn answer_last(&mut self, reply: &Reply) {
        // First: whoever is told goes by the files from here on.
        self.trigger.remove();
        let askers = self.stopping.take().map(|stopping| stopping.askers).unwrap_or_default();
        for asker in askers {
            let _ = asker.send(reply.clone());
        }
    }
}
