//! A daemon's hooks: on a thread of their own, and behind the fence.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::drainable::fence::fenced;
use crate::drainable::{DrainReport, Drainable, SealProgress, SealReport, SealedShard};
use crate::error::Result;
use crate::incumbent::bind::Stop;

/// What the thread is to run.
#[derive(Debug)]
pub(super) enum Job {
    Drain(Instant),
    Seal,
    Resume,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    Drained(Result<DrainReport>),
    Progress(SealProgress),
    Sealed(Result<(SealReport, Vec<SealedShard>)>),
    Resumed(Result<()>),
}

/// The hooks of one swap. Their thread ends with it.
#[derive(Debug)]
pub(super) struct Hooks {
    jobs: Sender<Job>,
    outcomes: Receiver<Outcome>,
}

impl Hooks {
    /// Starts the thread. `wake` is woken after each outcome.
    pub(super) fn start<D: Drainable + 'static>(
        drainable: Arc<D>,
        wake: Arc<Stop>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (results, outcomes) = mpsc::channel();
        std::thread::Builder::new().name("handoff-hooks".into()).spawn(move || {
            let mut resumed = false;
            for job in queue {
                let outcome = perform(&*drainable, job, &mut resumed, &results, &wake);
                if results.send(outcome).is_err() {
                    return;
                }
                wake.waker.wake();
            }
        })?;
        Ok(Self { jobs, outcomes })
    }

    pub(super) fn run(&self, job: Job) {
        // The thread ends only after this sender is gone.
        let _ = self.jobs.send(job);
    }

    pub(super) fn next(&self) -> Option<Outcome> {
        self.outcomes.try_recv().ok()
    }
}

fn perform<D: Drainable>(
    drainable: &D,
    job: Job,
    resumed: &mut bool,
    results: &Sender<Outcome>,
    wake: &Stop,
) -> Outcome {
    match job {
        Job::Drain(deadline) => Outcome::Drained(fenced("drain", || {
            reach!(IncumbentDrains)?;
            let report = drainable.drain(deadline)?;
            reach!(IncumbentDrained)?;
            Ok(report)
        })),
        Job::Seal => {
            let last = Mutex::new(None::<Instant>);
            let progress = |progress: SealProgress| {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL) {
                    *last = Some(Instant::now());
                    let _ = results.send(Outcome::Progress(progress));
                    wake.waker.wake();
                }
            };
            Outcome::Sealed(fenced("seal", || {
                reach!(IncumbentSeals)?;
                let report = drainable.seal_with_progress(&progress)?;
                let shards = drainable.sealed_shards();
                reach!(IncumbentSealed)?;
                Ok((report, shards))
            }))
        }
        Job::Resume => Outcome::Resumed(resume(drainable, resumed)),
    }
}

/// What was resumed is not resumed again because admitting failed: requests may be inside.
fn resume<D: Drainable>(drainable: &D, resumed: &mut bool) -> Result<()> {
    if !*resumed {
        fenced("resume_after_abort", || {
            reach!(IncumbentResumes)?;
            drainable.resume_after_abort()
        })?;
        *resumed = true;
    }
    fenced("admit", || {
        reach!(IncumbentResumed)?;
        drainable.admit()
    })
}

const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);
