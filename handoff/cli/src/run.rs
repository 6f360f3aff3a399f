//! `handoff run`: one thread has all the state and hears of everything as events. Work that may
//! take long (a swap, a start, an adoption, a health check, an operator's connection) is on a
//! thread of its own, which sends an event.
//!
//! The library's `Supervisor` goes to the thread that needs it and comes back with the event: one
//! of those jobs runs at a time.

mod boot;
mod check;
mod children;
mod daemon;
mod health;
mod inherited;
mod job;
mod listeners;
mod manager;
mod probation;
mod restarts;
mod service;
mod signals;
mod status;
mod stop;
mod swap;
mod upgrade;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use handoff::supervisor::{JournalState, Progress};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::binary::Binary;
use crate::config::Config;
use crate::metrics;
use crate::notify::{self, News};
use crate::record::Party;
use crate::trigger::{Asked, Reply, Request, Trigger};
use health::Health;
use job::Jobs;
use listeners::Holding;
use manager::Manager;
use service::Service;
use stop::Stopping;
use swap::Swaps;

/// Supervises until it is told to stop.
pub(crate) fn run(config: Config) -> anyhow::Result<ExitCode> {
    let mut runner = boot::boot(config)?;
    let result = loop {
        if let Some(result) = runner.turn().transpose() {
            break result;
        }
    };
    if let Err(error) = &result {
        notify::tell(News::Status(error.to_string()));
    }
    runner.trigger.drain(LAST_WORDS);
    runner.swaps.history.flush(LAST_WORDS);
    notify::flush(LAST_WORDS);
    result
}

/// An event that the supervisor acts on.
enum Event {
    Signal(i32),
    Asked(Asked),
    /// A step of the swap in flight.
    Progress(Instant, Progress),
    /// Both processes of the swap in flight have named their builds.
    Paired {
        incumbent: String,
        successor: String,
    },
    /// The process with that pid, watched since then, has ended.
    Ended {
        pid: u32,
        watched: Instant,
    },
    JobDone(job::JobEnd),
    /// A health check in the probation of that swap.
    Checked {
        swap: String,
        result: Result<(), String>,
    },
    /// A health check of the daemon that has been watched since then.
    HealthChecked {
        watched: Instant,
        result: Result<(), String>,
    },
    /// The new program of the supervisor was tried.
    UpgradeTried {
        result: anyhow::Result<PathBuf>,
        replies: Sender<Reply>,
    },
}

/// The whole state of the supervisor. A method that needs one part only belongs to that part.
struct Runner {
    config: Config,
    since: SystemTime,
    events: Receiver<Event>,
    jobs: Jobs,
    trigger: Trigger,
    service: Service,
    swaps: Swaps,
    journal: Option<JournalState>,
    stopping: Option<Stopping>,
    holding: Holding,
    health: Health,
    manager: Manager,
    /// A warning for each listener that the daemon has not taken in the swap by which it came.
    untaken: Vec<String>,
    /// Occupied descriptors, at the numbers where an upgraded supervisor inherits its sockets.
    places: Vec<OwnedFd>,
    /// The lock of the state directory.
    _lock: File,
}

impl Runner {
    /// Waits for the next event and acts on it; an exit code ends the supervisor.
    fn turn(&mut self) -> anyhow::Result<Option<ExitCode>> {
        let wait = self.next_due().saturating_duration_since(Instant::now());
        match self.events.recv_timeout(wait) {
            Ok(event) => {
                if let Some(code) = self.on(event)? {
                    return Ok(Some(code));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(broken("nothing can be heard any more"));
            }
        }
        self.on_time()?;
        self.tell_manager();
        Ok(None)
    }

    fn on(&mut self, event: Event) -> anyhow::Result<Option<ExitCode>> {
        match event {
            Event::Signal(SIGHUP) => self.swap_on_hangup(),
            Event::Signal(SIGTERM | SIGINT) => return Ok(self.stop(None)),
            Event::Signal(SIGQUIT) => return Ok(self.leave(None)),
            Event::Signal(SIGCHLD) => {} // collected in `on_time`
            Event::Signal(other) => self.service.forward(other),
            Event::Asked(asked) => return Ok(self.on_asked(asked)),
            Event::Progress(at, progress) => self.swaps.on_progress(at, progress),
            Event::Paired { incumbent, successor } => self.swaps.on_paired(incumbent, successor),
            Event::Ended { pid, watched } => return self.on_ended(pid, watched),
            Event::JobDone(done) => return self.on_job_done(done),
            Event::Checked { swap, result } => self.on_checked(&swap, result),
            Event::HealthChecked { watched, result } => self.on_health(watched, result),
            Event::UpgradeTried { result, replies } => self.upgrade(result, &replies),
        }
        Ok(None)
    }

    fn on_asked(&mut self, Asked { request, asker, replies }: Asked) -> Option<ExitCode> {
        // The client may be gone by now.
        let answer = |reply| drop(replies.send(reply));
        match request {
            Request::Status => answer(Reply::Status(Box::new(self.status()))),
            Request::History => answer(Reply::History(self.swaps.history.entries().clone())),
            Request::Metrics => answer(Reply::Text(self.metrics())),
            Request::Swap(request) => self.swap_on_request(&request, asker, replies),
            Request::Abort { reason } => self.abort(reason, replies),
            Request::Upgrade => self.try_upgrade(replies),
            Request::Stop => return self.stop(Some(replies)),
            Request::Leave => return self.leave(Some(replies)),
        }
        None
    }

    fn metrics(&mut self) -> String {
        self.swaps.history.write();
        metrics::unwritten("history", self.swaps.history.unwritten());
        let lacking = self.journal.as_ref().and_then(JournalState::lacking);
        metrics::unwritten("journal", lacking.map_or(0, |(lines, _)| lines));
        metrics::render()
    }

    /// When the supervisor acts next, even if no event comes.
    fn next_due(&self) -> Instant {
        let dues = [
            self.service.next_start.as_ref().map(|(at, _)| *at),
            self.swaps.watch.as_ref().map(|watch| watch.until),
            self.stopping.as_ref().map(Stopping::deadline),
            self.next_check(),
            self.manager.due(),
        ];
        dues.into_iter().flatten().fold(Instant::now() + TICK, Instant::min)
    }

    fn on_time(&mut self) -> anyhow::Result<()> {
        self.swaps.history.write();
        // Has the lines of the journal tried again that the disk did not take.
        let _ = self.journal.as_ref().and_then(JournalState::lacking);
        if self.jobs.running().is_none() {
            children::reap(self.service.pid());
        }
        self.holding.forget_closed();
        self.end_probation_on_time();
        self.start_on_time()?;
        self.check_health_on_time();
        self.stop_on_time();
        Ok(())
    }
}

/// The party of a binary before any process runs it.
fn party_of(binary: &Binary) -> Party {
    Party {
        binary: binary.path.display().to_string(),
        blake3: binary.blake3.clone(),
        ..Party::default()
    }
}

/// The error of a supervisor that finds itself in an impossible state.
fn broken(what: &str) -> anyhow::Error {
    anyhow!(
        "a bug in handoff: {what}; the daemon is left alone, and the next `handoff run` adopts it"
    )
}

/// How often the supervisor looks for changes that make no event.
const TICK: Duration = Duration::from_secs(1);
/// The timeout for answers to go out when the supervisor ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
