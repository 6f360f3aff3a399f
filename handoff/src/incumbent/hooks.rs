//! A daemon's hooks: on a thread of their own, and behind the fence.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::carry::{Carrier, Claim};
use crate::datadir::{Place, SealManifest};
use crate::drainable::{
    DrainReport, Drainable, Schema, SealProgress, SealReport, SealedShard, SealedState,
};
use crate::error::Result;
use crate::fence::fenced;
use crate::incumbent::admit::Settlings;
use crate::incumbent::look::{self, Open};
use crate::incumbent::stop::Stop;
use crate::sys::pool;

/// A task for the thread of the hooks.
#[derive(Debug)]
pub(super) enum Task {
    Drain(Instant),
    /// The drain before the process ends: it carries nothing.
    LastDrain(Instant),
    Seal,
    /// With the seal to compare with, where no process has served since; and whether a successor
    /// had opened the data.
    Resume(Option<(Arc<SealManifest>, bool)>),
}

/// News from the hooks.
#[derive(Debug)]
pub(super) enum HookNews {
    /// The gate closes: not the end of a task.
    GateCloses,
    /// Connections that are neither parked nor over, before `Drained`.
    Late(Vec<String>),
    /// A look at a drain that runs, from another thread: not the end of a task.
    Open(Result<Open>),
    Drained(Result<DrainReport>, Next),
    Progress(SealProgress),
    Sealed(Result<Sealed>),
    Resumed(Result<()>),
}

/// The result of a seal.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) report: SealReport,
    pub(super) shards: Vec<SealedShard>,
    pub(super) schema: Schema,
    /// Whether a last seal found that nothing was written after the settling before it, and no
    /// settling of this process has failed.
    pub(super) is_durable: bool,
}

/// The thread's step after a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It waits for its next task.
    Waits,
    /// It seals, as the supervisor asked ahead: [`HookNews::Sealed`] comes without a task.
    Seals,
}

/// The hooks of one swap. Their thread ends with it.
#[derive(Debug)]
pub(super) struct Hooks {
    tasks: Sender<Task>,
    outcomes: Receiver<HookNews>,
    results: Sender<HookNews>,
    wake: Arc<Stop>,
    seals_next: Arc<AtomicBool>,
}

impl Hooks {
    /// Starts the thread. It wakes `wake` after each outcome.
    pub(super) fn start<D: Drainable + 'static>(
        drainable: Arc<D>,
        carrying: Carrying,
        settlings: Arc<Settlings>,
        place: Arc<Place>,
        wake: Arc<Stop>,
    ) -> std::io::Result<Self> {
        try_failpoint!(IncumbentBegins)?;
        let (tasks, queue) = mpsc::channel();
        let (results, outcomes) = mpsc::channel();
        let seals_next = Arc::new(AtomicBool::new(false));
        let hooks = Self {
            tasks,
            outcomes,
            results: results.clone(),
            wake: Arc::clone(&wake),
            seals_next: Arc::clone(&seals_next),
        };
        let begin = move || {
            let tell = |outcome| {
                let is_heard = results.send(outcome).is_ok();
                wake.waker.wake();
                is_heard
            };
            let mut work = Work {
                drainable: &*drainable,
                carrying,
                settlings: &settlings,
                place,
                _threads: pool::hold(),
                resumed: false,
                is_last: false,
                tell: &tell,
            };
            for task in queue {
                let mut outcome = work.perform(task);
                let seals = match &mut outcome {
                    HookNews::Drained(Ok(_), next) if seals_next.load(Ordering::Acquire) => {
                        *next = Next::Seals;
                        true
                    }
                    _ => false,
                };
                if !tell(outcome) || seals && !tell(work.perform(Task::Seal)) {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("handoff-hooks".into()).spawn(begin).map(|_| hooks)
    }

    pub(super) fn run(&self, task: Task) {
        // The thread ends only after this sender is gone.
        let _ = self.tasks.send(task);
    }

    /// Sets whether the seal follows a drain that has not ended yet, without a task.
    pub(super) fn seal_next(&self, seals: bool) {
        self.seals_next.store(seals, Ordering::Release);
    }

    /// Begins a look at the connections that a drain waits for; its result is an outcome too.
    pub(super) fn look<D: Drainable + 'static>(&self, drainable: Arc<D>) -> std::io::Result<()> {
        let (results, wake) = (self.results.clone(), Arc::clone(&self.wake));
        look::begin(drainable, move |open| {
            let _ = results.send(HookNews::Open(open));
            wake.waker.wake();
        })
    }

    pub(super) fn next(&self) -> Option<HookNews> {
        self.outcomes.try_recv().ok()
    }
}

/// The carrier to the successor, and the claim to the connections that it sends. Where no successor
/// asked there is neither.
#[derive(Debug, Default)]
pub(super) struct Carrying {
    pub(super) carrier: Option<Carrier>,
    pub(super) claim: Option<Arc<Claim>>,
    is_taken_back: bool,
}

impl Carrying {
    pub(super) fn new(carrier: Carrier, claim: Arc<Claim>) -> Self {
        Self { carrier: Some(carrier), claim: Some(claim), is_taken_back: false }
    }
}

/// The state of the thread.
struct Work<'a, D> {
    drainable: &'a D,
    carrying: Carrying,
    settlings: &'a Settlings,
    place: Arc<Place>,
    /// Keeps the pool's threads, so that none has to be started while clients wait.
    _threads: pool::Hold,
    /// Whether the resume hook has succeeded.
    resumed: bool,
    /// Whether this process ends, and no successor takes its place.
    is_last: bool,
    tell: &'a (dyn Fn(HookNews) -> bool + Sync),
}

impl<D: Drainable> Work<'_, D> {
    fn perform(&mut self, task: Task) -> HookNews {
        match task {
            Task::Drain(deadline) => {
                let drained = fenced("drain", || self.drain(deadline));
                HookNews::Drained(drained, Next::Waits)
            }
            Task::LastDrain(deadline) => HookNews::Drained(
                fenced("drain", || {
                    self.is_last = true;
                    let carriage = self.drainable.carriage();
                    carriage.leave(deadline);
                    carriage.stop();
                    let report = fenced("drain", || self.drainable.drain(deadline));
                    carriage.wait_parked(deadline);
                    carriage.part();
                    report
                }),
                Next::Waits,
            ),
            Task::Seal => HookNews::Sealed(fenced("seal", || self.seal())),
            Task::Resume(sealed) => HookNews::Resumed(self.resume(sealed)),
        }
    }

    fn drain(&mut self, deadline: Instant) -> Result<DrainReport> {
        try_failpoint!(IncumbentDrains)?;
        let carriage = self.drainable.carriage();
        // Whatever else is refused, its error is not forgotten.
        self.settlings.end_first()?;
        self.check_asked_for()?;
        // The daemon still serves all. The writes until the gates close are for the seal.
        let settled = Instant::now();
        self.settlings.settle(self.drainable)?;
        carriage.leave(deadline);
        if let Some(carrier) = &self.carrying.carrier {
            carriage.send_idle(carrier.thread(), deadline);
        }
        if settled.elapsed() >= SETTLED_FOR_LONG {
            self.settlings.settle(self.drainable)?;
        }
        // A carrier that was stopped with the swap ends the drain too: no gate has closed yet.
        self.check_carrier()?;
        let carrier = self.carrying.carrier.as_ref().map(Carrier::thread);
        // From here on clients wait: for a handler that parks, or at a gate.
        (self.tell)(HookNews::GateCloses);
        // Before any gate closes: a connection that parks has to find its set collecting.
        carriage.collect(carrier);
        let mut report = self.drainable.drain(deadline)?;
        let late = carriage.wait_parked(deadline);
        if !late.is_empty() {
            let count = u32::try_from(late.len()).unwrap_or(u32::MAX);
            report.open_conns_remaining = report.open_conns_remaining.max(count);
            (self.tell)(HookNews::Late(late));
        }
        self.check_carrier()?;
        self.check_asked_for()?;
        try_failpoint!(IncumbentDrained)?;
        Ok(report)
    }

    fn seal(&mut self) -> Result<Sealed> {
        let last = Mutex::new(None::<Instant>);
        let progress = |progress: SealProgress| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL) {
                *last = Some(Instant::now());
                (self.tell)(HookNews::Progress(progress));
            }
        };
        try_failpoint!(IncumbentSeals)?;
        if !self.is_last {
            // The successor opens the path.
            self.place.check()?;
        }
        let mut settled = None;
        if self.is_last {
            // No successor will sync the writes that the seal leaves to a settling.
            self.settlings.end_first()?;
            settled = Some(self.drainable.snapshot_state().last_revision_per_shard);
            self.settlings.settle(self.drainable)?;
        }
        let SealedState { report, shards } = self.drainable.seal_shards(&progress)?;
        // Revisions, where the daemon tells them, show a request that outlived the drain and wrote.
        let was_late = settled.is_some_and(|settled| {
            let sealed = &report.last_revision_per_shard;
            settled.len() == sealed.len() && settled != *sealed
        });
        let is_durable = !was_late && self.settlings.are_whole();
        try_failpoint!(IncumbentSealed)?;
        // A hook may have added something to carry.
        self.check_asked_for()?;
        if let Some(carrier) = self.carrying.carrier.take() {
            carrier.finish(&self.drainable.carriage())?;
        }
        Ok(Sealed { report, shards, schema: D::schema(), is_durable })
    }

    /// The cause of the carrier's end, if it has ended: it goes on until every shard is sealed.
    fn check_carrier(&mut self) -> Result<()> {
        Carrier::failure(&mut self.carrying.carrier)
    }

    fn check_asked_for(&self) -> Result<()> {
        if self.carrying.carrier.is_none() && !self.is_last {
            self.drainable.carriage().check_asked_for()?;
        }
        Ok(())
    }

    /// Repeats no step that has succeeded: where `admit` failed, requests may be inside already.
    fn resume(&mut self, sealed: Option<(Arc<SealManifest>, bool)>) -> Result<()> {
        if !self.resumed {
            // The hook opens the path.
            self.place.check()?;
        }
        if !self.carrying.is_taken_back {
            fenced("take back", || self.take_back())?;
            self.carrying.is_taken_back = true;
        }
        if !self.resumed {
            fenced("resume_after_abort", || {
                try_failpoint!(IncumbentResumes)?;
                self.drainable.resume_after_abort()
            })?;
            if let Some((sealed, had_opened)) = sealed {
                let verify = || {
                    self.place.check()?;
                    sealed.verify_resumed(self.drainable.opened_shards()?, had_opened)
                };
                if let Err(error) = fenced("opened_shards", verify) {
                    // At once: the next try opens the data that was put back meanwhile.
                    let _ = fenced("seal", || self.drainable.seal_shards(&|_| {}));
                    return Err(error);
                }
            }
            self.resumed = true;
        }
        fenced("admit", || {
            try_failpoint!(IncumbentResumed)?;
            self.drainable.admit()
        })?;
        fenced("release", || {
            self.drainable.carriage().release();
            Ok(())
        })
    }

    /// Takes the claim back before this process reads or writes again: from here on the successor's
    /// copies are out of date, and the claim tells the successor so (invariant 13).
    fn take_back(&mut self) -> Result<()> {
        try_failpoint!(IncumbentTakesBack)?;
        if let Some(carrier) = self.carrying.carrier.take() {
            carrier.give_up();
        }
        let kept_off = self.carrying.claim.as_ref().is_none_or(|claim| claim.take_back());
        self.drainable.carriage().take_back(kept_off);
        Ok(())
    }
}

/// After so long a settling and sending of idle connections, the thread settles once more: many
/// writes may have come meanwhile.
const SETTLED_FOR_LONG: Duration = Duration::from_millis(5);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);
