//! Jobs: to adopt, to start and to swap may take long, so each runs on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use handoff::supervisor::{AbortHandle, Adoption, ChildProcess, Committed, Failed, RolledBack};
use handoff::{Outcome, SpawnSpec, Supervisor};

use super::{Event, broken};
use crate::binary::{Binary, ByDescriptor};
use crate::config::Config;

/// The kind of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    Adopt,
    Start,
    Swap,
}

/// A job that has ended, and the supervisor back.
pub(super) enum JobEnd {
    Adopted(Box<Supervisor>, handoff::Result<Adoption>),
    Started(Box<Supervisor>, handoff::Result<Started>, Arc<Binary>),
    Swapped(Box<Supervisor>, Swapped),
    /// The library's supervisor is lost with its thread.
    Lost(Job),
}

/// A daemon that serves.
pub(super) struct Started {
    pub(super) child: ChildProcess,
    pub(super) said: Said,
}

/// The build and the generation that a daemon reports.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) build: Option<String>,
    pub(super) generation: Option<u64>,
}

/// The result of a swap.
pub(super) enum Swapped {
    NotBegun(handoff::Error),
    DryRun(RolledBack),
    Committed(Box<Committed>),
    /// With the incumbent's own report, if it has confirmed that it serves (invariant 4).
    Failed(Box<Failed>, Said),
}

/// The library's supervisor, and the job that has it: one at a time.
pub(super) struct Jobs {
    work: Work,
    launcher: ByDescriptor,
    sender: Sender<Event>,
}

/// Where the library's supervisor is.
enum Work {
    Idle(Box<Supervisor>),
    /// At a job, which can be given up, since then.
    Busy(Job, AbortHandle, Instant),
}

impl Jobs {
    pub(super) fn new(
        supervisor: Supervisor,
        launcher: ByDescriptor,
        sender: Sender<Event>,
    ) -> Self {
        Self { work: Work::Idle(Box::new(supervisor)), launcher, sender }
    }

    /// A function by which a thread sends an event; false once no receiver is left.
    pub(super) fn tell(&self) -> impl Fn(Event) -> bool + Send + Clone + 'static {
        let sender = self.sender.clone();
        move |event| sender.send(event).is_ok()
    }

    pub(super) fn running(&self) -> Option<Job> {
        self.running_since().map(|(job, _)| job)
    }

    /// The job that runs, and since when.
    pub(super) const fn running_since(&self) -> Option<(Job, Instant)> {
        match self.work {
            Work::Idle(_) => None,
            Work::Busy(job, _, since) => Some((job, since)),
        }
    }

    /// The library's supervisor; none while a job has it.
    pub(super) fn supervisor(&self) -> Option<&Supervisor> {
        match &self.work {
            Work::Idle(supervisor) => Some(supervisor),
            Work::Busy(..) => None,
        }
    }

    /// The same, to change it.
    pub(super) fn supervisor_mut(&mut self) -> Option<&mut Supervisor> {
        match &mut self.work {
            Work::Idle(supervisor) => Some(supervisor),
            Work::Busy(..) => None,
        }
    }

    /// Whether no thread waits for the disk to take a link.
    pub(super) fn links_answer(&self) -> bool {
        self.launcher.answers()
    }

    /// Asks the running job to give up.
    pub(super) fn abort(&self, reason: impl Into<String>) {
        if let Work::Busy(_, abort, _) = &self.work {
            abort.abort(reason);
        }
    }

    /// A job has given the supervisor back.
    pub(super) fn end(&mut self, supervisor: Box<Supervisor>) {
        self.work = Work::Idle(supervisor);
    }

    /// Adopts the daemon, and resolves the swap, that the supervisor before this one left.
    pub(super) fn adopt(&mut self, timeout: Duration) -> anyhow::Result<()> {
        self.begin(Job::Adopt, move |mut supervisor, _| {
            let adopted = supervisor.adopt(timeout);
            JobEnd::Adopted(supervisor, adopted)
        })
    }

    pub(super) fn start(&mut self, binary: Arc<Binary>, spec: SpawnSpec) -> anyhow::Result<()> {
        self.launcher.load(Arc::clone(&binary));
        self.begin(Job::Start, move |mut supervisor, abort| {
            let spec = SpawnSpec { abort: Some(abort), ..spec };
            let started = supervisor.start(&spec).map(|child| {
                let said = ask(&mut supervisor);
                Started { child, said }
            });
            JobEnd::Started(supervisor, started, binary)
        })
    }

    /// As [`Supervisor::perform_handoff`], and sends [`Event::Paired`] on the way.
    pub(super) fn swap(
        &mut self,
        binary: Arc<Binary>,
        spec: SpawnSpec,
        dry_run: bool,
    ) -> anyhow::Result<()> {
        self.launcher.load(binary);
        let tell = self.tell();
        self.begin(Job::Swap, move |mut supervisor, abort| {
            let spec = SpawnSpec { abort: Some(abort), ..spec };
            let swapped = swap(&mut supervisor, spec, dry_run, &tell);
            JobEnd::Swapped(supervisor, swapped)
        })
    }

    fn begin(
        &mut self,
        job: Job,
        run: impl FnOnce(Box<Supervisor>, AbortHandle) -> JobEnd + Send + 'static,
    ) -> anyhow::Result<()> {
        let abort = AbortHandle::new().map_err(|error| {
            anyhow!("cannot begin the job {job:?}: {error}; if the supervisor has as many open files as it may, raise its limit (ulimit -n)")
        })?;
        let Some(supervisor) = self.take_supervisor(job, &abort) else {
            return Err(broken("two jobs at a time"));
        };
        let tell = self.tell();
        let work = move || {
            let done = catch_unwind(AssertUnwindSafe(|| run(supervisor, abort)));
            tell(Event::JobDone(done.unwrap_or(JobEnd::Lost(job))));
        };
        // A thread that does not start drops its closure, and the supervisor in it.
        thread::Builder::new().name("job".into()).spawn(work).map_err(|error| {
            let _ = self.sender.send(Event::JobDone(JobEnd::Lost(job)));
            anyhow!("cannot start the thread of the job {job:?}: {error}")
        })?;
        Ok(())
    }

    fn take_supervisor(&mut self, job: Job, abort: &AbortHandle) -> Option<Box<Supervisor>> {
        match std::mem::replace(&mut self.work, Work::Busy(job, abort.clone(), Instant::now())) {
            Work::Idle(supervisor) => Some(supervisor),
            busy @ Work::Busy(..) => {
                self.work = busy;
                None
            }
        }
    }
}

/// How the configuration wants that binary started.
pub(super) fn spec(config: &Config, binary: &Binary) -> SpawnSpec {
    let limits = &config.limits;
    SpawnSpec {
        args: binary.args.clone(),
        env: config.env.clone().into_iter().collect(),
        deadline: limits.deadline,
        pause_limit: limits.pause.map(|pause| pause.duration),
        drain_grace: limits.drain_grace,
        hello_timeout: limits.hello,
        start_timeout: limits.start,
        ..SpawnSpec::new(&binary.path)
    }
}

fn swap(
    supervisor: &mut Supervisor,
    spec: SpawnSpec,
    dry_run: bool,
    tell: &impl Fn(Event) -> bool,
) -> Swapped {
    let session = match supervisor.pair(spec) {
        Ok(session) => session,
        Err(error) => return Swapped::NotBegun(error),
    };
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    tell(Event::Paired {
        incumbent: words(session.incumbent_build_id()),
        successor: words(session.successor_build_id()),
    });
    let swapped = || -> Result<_, Failed> {
        let warmed = session.warm()?;
        if dry_run {
            return Ok(Swapped::DryRun(warmed.abort("a dry run ends here")));
        }
        let committed = warmed.prepare_and_seal()?.begin()?.commit()?;
        Ok(Swapped::Committed(Box::new(committed)))
    };
    swapped().unwrap_or_else(|failed| {
        let serves = failed.outcome() == Outcome::RolledBack;
        let said = if serves { ask(supervisor) } else { Said::default() };
        Swapped::Failed(Box::new(failed), said)
    })
}

/// Asks the daemon for the name of its build and for its generation.
fn ask(supervisor: &mut Supervisor) -> Said {
    match supervisor.adopt(ANSWER_TIMEOUT) {
        Ok(Adoption::Daemon(daemon)) => said_of(&daemon.build_id, daemon.generation),
        Ok(Adoption::Nothing { .. }) => Said::default(),
        Err(error) => {
            tracing::warn!(%error, "this supervisor cannot ask the daemon for its build and generation");
            Said::default()
        }
    }
}

pub(super) fn said_of(build_id: &[u8], generation: u64) -> Said {
    let build = String::from_utf8_lossy(build_id).into_owned();
    Said { build: Some(build).filter(|build| !build.is_empty()), generation: Some(generation) }
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
