//! The daemon: the supervisor watches it, starts it again when it dies, and signals it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::bail;
use handoff::error::{ControlSocketError, LaunchError};
use handoff::supervisor::DaemonProcess;
use nix::unistd::Pid;
use rustix::process::{Signal, pidfd_send_signal};

use super::job::{self, Job, JobEnd, Said, Started};
use super::stop::Stopping;
use super::{Event, Runner, broken, children, party_of};
use crate::binary::Binary;
use crate::history::{DaemonEvent, DaemonEventKind, Line};
use crate::metrics;
use crate::record::{Party, Probation};
use crate::units::to_ms;

/// The process that serves, or did until a moment ago.
#[derive(Debug)]
pub(super) struct Daemon {
    process: DaemonProcess,
    /// Started again if it dies.
    pub(super) binary: Arc<Binary>,
    /// What it executes, as far as it is known, where this supervisor cannot have that file.
    executes: Option<Party>,
    pub(super) said: Said,
    pub(super) since: SystemTime,
    /// When this supervisor began to watch it.
    pub(super) watched: Instant,
}

impl Daemon {
    pub(super) fn new(
        process: impl Into<DaemonProcess>,
        binary: Arc<Binary>,
        said: Said,
        since: SystemTime,
    ) -> Self {
        let process = process.into();
        Self { process, binary, executes: None, said, since, watched: Instant::now() }
    }

    pub(super) fn executing(self, executes: Option<Party>) -> Self {
        Self { executes, ..self }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn party(&self) -> Party {
        Party {
            build: self.said.build.clone(),
            pid: Some(self.pid()),
            generation: self.said.generation,
            ..self.executes.clone().unwrap_or_else(|| party_of(&self.binary))
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        children::wait_readable(self, Some(Instant::now())).unwrap_or(false)
    }

    /// How it ended, and whether cleanly: with status 0. The unknown status of a process that was
    /// no child counts as clean.
    fn status(&mut self) -> (String, bool) {
        let status = match &mut self.process {
            DaemonProcess::Child(child) => child.wait().ok(),
            DaemonProcess::Adopted(process) => {
                let pid = i32::try_from(process.pid()).unwrap_or(0);
                children::collect(Pid::from_raw(pid))
            }
        };
        let words = status.map_or_else(|| "exit status unknown".into(), children::words_of);
        (words, status.is_none_or(|status| status.success()))
    }

    /// Waits for its end on a thread of its own.
    fn watch(&self, tell: impl Fn(Event) -> bool + Send + 'static) {
        let (pid, watched) = (self.pid(), self.watched);
        let started = self.as_fd().try_clone_to_owned().and_then(|process| {
            thread::Builder::new().name("watch".into()).spawn(move || {
                if let Err(error) = children::wait_readable(&process, None) {
                    return tracing::error!(
                        pid, %error,
                        "this supervisor cannot watch the daemon, and will not see its death: run `handoff upgrade` to watch it again"
                    );
                }
                tell(Event::Ended { pid, watched });
            })
        });
        if let Err(error) = started {
            tracing::error!(
                pid, %error,
                "this supervisor cannot watch the daemon, and will not see its death: run `handoff upgrade` to watch it again"
            );
        }
    }

    /// Signals by descriptor: another process may have the pid by now.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Daemon {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Runner {
    /// This daemon serves from here on.
    pub(super) fn serve(&mut self, daemon: Daemon, kind: DaemonEventKind) {
        metrics::serves(daemon.said.generation);
        self.note_daemon(kind.clone(), daemon.party(), &daemon.binary);
        daemon.watch(self.jobs.tell());
        self.service.serve(daemon);
        self.begin_health();
        // What died in its probation has given its place to this one.
        if matches!(kind, DaemonEventKind::Started | DaemonEventKind::Adopted) {
            self.judge(None);
        }
    }

    pub(super) fn note_daemon(&mut self, kind: DaemonEventKind, daemon: Party, binary: &Binary) {
        let at_ms = to_ms(SystemTime::now());
        let (args, listeners) = (binary.args.clone(), Some(binary.listeners.clone()));
        self.swaps.history.add(Line::Daemon(DaemonEvent { at_ms, kind, daemon, args, listeners }));
    }

    pub(super) fn on_ended(
        &mut self,
        pid: u32,
        watched: Instant,
    ) -> anyhow::Result<Option<ExitCode>> {
        let is_it = |daemon: &Daemon| (daemon.pid(), daemon.watched) == (pid, watched);
        if !self.service.daemon.as_ref().is_some_and(is_it) {
            return Ok(None); // it was replaced, and left
        }
        match self.jobs.running() {
            // `on_job_done` acts on the death once the swap has ended.
            Some(Job::Swap) => Ok(None),
            _ => self.on_death(),
        }
    }

    /// The daemon has ended.
    pub(super) fn on_death(&mut self) -> anyhow::Result<Option<ExitCode>> {
        let Some(mut daemon) = self.service.daemon.take() else { return Ok(None) };
        let served = daemon.since.elapsed().unwrap_or_default();
        let (status, is_clean) = daemon.status();
        if self.stopping.as_ref().is_some_and(Stopping::ends_daemon) {
            let kind = DaemonEventKind::Stopped { status: status.clone() };
            self.note_daemon(kind, daemon.party(), &daemon.binary);
            return Ok(Some(self.stopped(&status, is_clean)));
        }
        metrics::died();
        tracing::error!(
            pid = daemon.pid(), path = %daemon.binary.path.display(), status,
            "the daemon has died"
        );
        let kind = DaemonEventKind::Died { status: status.clone() };
        self.note_daemon(kind, daemon.party(), &daemon.binary);
        let probation = Probation::Failed { why: format!("it died: {status}") };
        match self.swaps.end_probation(probation).and_then(|_| self.service.previous.clone()) {
            Some(previous) => self.service.fall_back_to(previous, daemon.binary),
            None => {
                self.judge(None);
                self.service.plan_start(daemon.binary, served);
            }
        }
        // Whoever leaves starts no other one.
        Ok(self.go_on_stopping())
    }

    pub(super) fn start_on_time(&mut self) -> anyhow::Result<()> {
        if self.jobs.running().is_some() || self.stopping.is_some() {
            return Ok(());
        }
        let Some(binary) = self.service.take_due_start() else { return Ok(()) };
        if let Err(error) = self.prepare_listeners(&binary) {
            return self.not_started(binary, error.to_string());
        }
        let spec = job::spec(&self.config, &binary);
        self.jobs.start(binary, spec)
    }

    pub(super) fn on_job_done(&mut self, done: JobEnd) -> anyhow::Result<Option<ExitCode>> {
        match done {
            JobEnd::Lost(job) => Err(broken(&format!("the thread that does {job:?} is lost"))),
            JobEnd::Adopted(supervisor, adoption) => {
                self.on_adopted(supervisor, adoption)?;
                Ok(self.go_on_stopping())
            }
            JobEnd::Started(supervisor, started, binary) => {
                self.jobs.end(supervisor);
                self.on_started(started, binary)?;
                Ok(self.go_on_stopping())
            }
            JobEnd::Swapped(supervisor, swapped) => {
                self.jobs.end(supervisor);
                self.on_swapped(swapped);
                // It may have died during the swap, when `on_ended` did not act on it.
                if self.service.daemon.as_ref().is_none_or(Daemon::has_ended)
                    && let Some(code) = self.on_death()?
                {
                    return Ok(Some(code));
                }
                Ok(self.go_on_stopping())
            }
        }
    }

    fn on_started(
        &mut self,
        started: handoff::Result<Started>,
        binary: Arc<Binary>,
    ) -> anyhow::Result<()> {
        match started {
            Ok(Started { child, said }) => {
                metrics::started();
                let daemon = Daemon::new(child, binary, said, SystemTime::now());
                tracing::info!(
                    pid = daemon.pid(), path = %daemon.binary.path.display(),
                    build = daemon.said.build, generation = daemon.said.generation,
                    "the daemon serves"
                );
                self.serve(daemon, DaemonEventKind::Started);
                Ok(())
            }
            // An operator started it by hand, or it is a daemon that was taken for dead.
            Err(handoff::Error::ControlSocket(ControlSocketError::Served { pid, .. })) => {
                tracing::warn!(
                    pid,
                    "a daemon that this supervisor did not start serves already: it adopts it"
                );
                self.jobs.adopt(self.config.limits.adopt)
            }
            Err(error) => {
                let why = self.explain_start(&error, &binary);
                self.not_started(binary, why)
            }
        }
    }

    fn not_started(&mut self, binary: Arc<Binary>, why: String) -> anyhow::Result<()> {
        if self.stopping.is_some() {
            tracing::warn!("{why}");
            return Ok(());
        }
        let kind = DaemonEventKind::NotStarted { why: why.clone() };
        self.note_daemon(kind, party_of(&binary), &binary);
        if !self.service.has_served && !self.service.has_other_than(&binary) {
            bail!(why);
        }
        tracing::error!("{why}");
        self.judge(None);
        self.service.plan_start(binary, Duration::ZERO);
        Ok(())
    }

    /// A failed start, with the operator's remedy.
    fn explain_start(&self, error: &handoff::Error, binary: &Binary) -> String {
        let (path, control) = (binary.path.display(), self.config.control.display());
        match error {
            handoff::Error::TimedOut(_) => format!(
                "{path} was started, and did not serve its control socket {control} within {}, so it was ended. Either it opens its data for longer (raise limits.start), or it serves another path (its arguments and daemon.control have to agree), or it is no daemon of this kind (it has to run handoff::daemon::Daemon)",
                humantime::format_duration(self.config.limits.start)
            ),
            handoff::Error::Launch(LaunchError::ExitedEarly { status, .. }) => format!(
                "{path} ended ({status}) before it served its control socket {control}; why, it has said itself, above this line: its arguments were {:?}",
                binary.args
            ),
            error => format!("{path} was not started: {error}"),
        }
    }
}
