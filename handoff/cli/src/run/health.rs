//! The health of the daemon while it serves: whether it answers over its control socket, and passes the
//! configured check. A daemon that does not is told of; it is killed only where the configuration says so.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use handoff::supervisor::probe;
use rustix::process::Signal;

use super::{Event, Runner, check};
use crate::config::HealthConfig;
use crate::metrics;

/// The checks of the daemon that serves.
#[derive(Debug)]
pub(super) struct Health {
    /// When the next check is due.
    next: Instant,
    /// A check has not come to an end yet.
    is_asking: bool,
    /// Failed checks in a row, and why the last one failed.
    pub(super) failures: u32,
    pub(super) last_failure: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self { next: Instant::now(), is_asking: false, failures: 0, last_failure: None }
    }
}

impl Runner {
    /// Whether the daemon has failed too many checks in a row.
    pub(super) fn is_unwell(&self) -> bool {
        self.health.failures >= self.config.health.failures
    }

    /// When the next check is due, if one is to be made.
    pub(super) fn next_check(&self) -> Option<Instant> {
        let is_free = self.jobs.running().is_none() && self.stopping.is_none();
        let asks = is_free && self.service.daemon.is_some() && !self.health.is_asking;
        asks.then_some(self.health.next)
    }

    /// Another daemon serves, or the same one after a swap.
    pub(super) fn begin_health(&mut self) {
        metrics::well(true);
        (self.health.failures, self.health.last_failure) = (0, None);
        self.health.next = Instant::now() + self.config.health.every;
    }

    pub(super) fn check_health_on_time(&mut self) {
        if self.next_check().is_none_or(|due| due > Instant::now()) {
            return;
        }
        let Some(daemon) = &self.service.daemon else { return };
        let (watched, tell) = (daemon.watched, self.jobs.tell());
        let (config, control) = (self.config.health.clone(), self.config.control.clone());
        let directory = self.config.directory.clone();
        self.health.next = Instant::now() + config.every;
        let started = thread::Builder::new().name("health".into()).spawn(move || {
            let result = ask(&config, &control, &directory);
            tell(Event::HealthChecked { watched, result });
        });
        match started {
            Ok(_) => self.health.is_asking = true,
            Err(error) => tracing::warn!(
                %error,
                "this supervisor cannot start the thread of a health check, and tries again later"
            ),
        }
    }

    pub(super) fn on_health(&mut self, watched: Instant, result: Result<(), String>) {
        self.health.is_asking = false;
        let is_its = self.service.daemon.as_ref().is_some_and(|daemon| daemon.watched == watched);
        // In a swap a daemon is busy with other things: its supervisor watches it there.
        if !is_its || self.jobs.running().is_some() || self.stopping.is_some() {
            return;
        }
        let was_unwell = self.is_unwell();
        match result {
            Ok(()) => {
                if was_unwell {
                    tracing::info!("the daemon is well again: it passes its health checks");
                }
                (self.health.failures, self.health.last_failure) = (0, None);
            }
            Err(why) => {
                self.health.failures = self.health.failures.saturating_add(1);
                self.health.last_failure = Some(why);
            }
        }
        metrics::well(!self.is_unwell());
        if self.is_unwell() && !was_unwell {
            self.on_unwell();
        }
    }

    fn on_unwell(&mut self) {
        let Some(daemon) = &self.service.daemon else { return };
        let why = self.health.last_failure.as_deref().unwrap_or_default();
        let (pid, failures) = (daemon.pid(), self.health.failures);
        if !self.config.health.restart {
            return tracing::error!(
                pid,
                failures,
                error = why,
                "the daemon is not well: it has failed its health checks. This supervisor leaves it alone; [health] restart = true would have it killed and started anew"
            );
        }
        tracing::error!(
            pid,
            failures,
            error = why,
            "the daemon is not well: it has failed its health checks. This supervisor kills it, and starts it anew: a write that it acknowledged before it had it on disk is lost"
        );
        if let Err(error) = daemon.signal(Signal::KILL) {
            tracing::error!(pid, %error, "this supervisor cannot kill the daemon: end it by hand");
        }
    }
}

fn ask(config: &HealthConfig, control: &Path, directory: &Path) -> Result<(), String> {
    let HealthConfig { timeout, check, .. } = config;
    probe(control, *timeout).map_err(|error| no_answer(&error, *timeout))?;
    check.as_ref().map_or(Ok(()), |check| check::ask(check, directory, *timeout))
}

fn no_answer(error: &handoff::Error, timeout: Duration) -> String {
    match error {
        handoff::Error::TimedOut(_) => format!(
            "it does not answer over its control socket within {}",
            humantime::format_duration(timeout)
        ),
        error => format!("it does not answer over its control socket: {error}"),
    }
}
