//! What may take long, on a thread of its own: adopting, starting, swapping.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use handoff::supervisor::{Adoption, ChildProcess, Committed, Failed, RolledBack};
use handoff::{Outcome, SpawnSpec, Supervisor};

use super::{Event, Job, RunError, Runner};
use crate::binary::Binary;

/// A job that has ended, and the supervisor back.
pub(super) enum Done {
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

/// What a daemon says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) build: Option<String>,
    pub(super) generation: Option<u64>,
}

/// What a swap came to.
pub(super) enum Swapped {
    NotBegun(handoff::Error),
    DryRun(RolledBack),
    Committed(Box<Committed>),
    /// And what the incumbent says of itself now, if it serves.
    Failed(Box<Failed>, Said),
}

impl Runner {
    /// Looks for what the supervisor before this one left.
    pub(super) fn adopt(&mut self) -> Result<(), RunError> {
        let limit = self.config.limits.adopt;
        self.begin_job(Job::Adopt, move |mut supervisor, _| {
            let adopted = supervisor.adopt(limit);
            Done::Adopted(supervisor, adopted)
        })
    }

    pub(super) fn start(&mut self, binary: Arc<Binary>) -> Result<(), RunError> {
        self.launcher.load(Arc::clone(&binary));
        let spec = self.spec(&binary);
        self.begin_job(Job::Start, move |mut supervisor, abort| {
            let spec = SpawnSpec { abort: Some(abort), ..spec };
            let started = supervisor.start(&spec).map(|child| {
                let said = ask(&mut supervisor);
                Started { child, said }
            });
            Done::Started(supervisor, started, binary)
        })
    }

    /// As [`Supervisor::perform_handoff`], with what is learnt on the way.
    pub(super) fn begin_swap(&mut self, spec: SpawnSpec, dry_run: bool) -> Result<(), RunError> {
        let tell = self.tell();
        self.begin_job(Job::Swap, move |mut supervisor: Box<Supervisor>, abort| {
            let spec = SpawnSpec { abort: Some(abort), ..spec };
            let swapped = swap(&mut supervisor, spec, dry_run, &tell);
            Done::Swapped(supervisor, swapped)
        })
    }

    fn begin_job(
        &mut self,
        job: Job,
        run: impl FnOnce(Box<Supervisor>, handoff::supervisor::AbortHandle) -> Done + Send + 'static,
    ) -> Result<(), RunError> {
        let Some((supervisor, abort)) = self.take_supervisor(job) else {
            return Err(RunError::Broken("two jobs at a time".into()));
        };
        let tell = self.tell();
        let work = move || {
            let done = catch_unwind(AssertUnwindSafe(|| run(supervisor, abort)));
            tell(Event::JobDone(done.unwrap_or(Done::Lost(job))));
        };
        // What cannot be started has taken the supervisor along.
        thread::Builder::new().name("job".into()).spawn(work).map_err(|error| {
            let _ = self.sender.send(Event::JobDone(Done::Lost(job)));
            RunError::Thread(error)
        })?;
        Ok(())
    }

    pub(super) fn spec(&self, binary: &Binary) -> SpawnSpec {
        let limits = &self.config.limits;
        SpawnSpec {
            args: binary.args.clone(),
            env: self.config.env.clone().into_iter().collect(),
            deadline: limits.deadline,
            drain_grace: limits.drain_grace,
            hello_limit: limits.hello,
            start_limit: limits.start,
            ..SpawnSpec::new(&binary.path)
        }
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
    let swapped = (|| {
        let warmed = session.warm()?;
        if dry_run {
            return Ok(Err(warmed.abort("a dry run ends here")));
        }
        Ok(Ok(warmed.prepare_and_seal()?.begin()?.commit()?))
    })();
    match swapped {
        Ok(Ok(committed)) => Swapped::Committed(Box::new(committed)),
        Ok(Err(rolled_back)) => Swapped::DryRun(rolled_back),
        Err(failed) => {
            let failed: Failed = failed;
            let serves = failed.outcome() == Outcome::RolledBack;
            let said = if serves { ask(supervisor) } else { Said::default() };
            Swapped::Failed(Box::new(failed), said)
        }
    }
}

/// Asks the daemon what it calls its build and which generation it is.
fn ask(supervisor: &mut Supervisor) -> Said {
    match supervisor.adopt(ANSWER_LIMIT) {
        Ok(Adoption::Daemon(daemon)) => said_of(&daemon.build_id, daemon.generation),
        Ok(Adoption::Nothing { .. }) => Said::default(),
        Err(error) => {
            tracing::warn!(%error, "the daemon does not say which generation it is");
            Said::default()
        }
    }
}

pub(super) fn said_of(build_id: &[u8], generation: u64) -> Said {
    let build = String::from_utf8_lossy(build_id).into_owned();
    Said { build: Some(build).filter(|build| !build.is_empty()), generation: Some(generation) }
}

const ANSWER_LIMIT: Duration = Duration::from_secs(5);
