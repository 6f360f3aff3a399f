//! The state from a drain until the daemon serves again, or is gone: the hooks, their results, and
//! the timers. The server asks it for news, and tells the machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::field::display;

use crate::carry::{Carrier, StopCarrier};
use crate::control::HEARTBEAT_INTERVAL;
use crate::datadir::{DataDirLock, Decision, Draft, RecordPhase, SealManifest};
use crate::drainable::{Drainable, Schema, SealProgress, SealReport, SealedShard};
use crate::error::{CarryError, Error, Result};
use crate::incumbent::admit::Settlings;
use crate::incumbent::hooks::{Carrying, HookNews, Hooks, Next, Sealed, Task};
use crate::incumbent::look::{LOOK_INTERVAL, Open};
use crate::incumbent::standing::Standing;
use crate::incumbent::stop::Stop;
use crate::log;
use crate::machine::incumbent::{Event, State};
use crate::protocol::{HandoffId, in_words};
use crate::sys::process::ProcessId;

/// One swap, or the last drain of a clean stop.
pub(super) struct Handover {
    /// None for a last drain.
    handoff_id: Option<HandoffId>,
    hooks: Hooks,
    hook_runs: bool,
    next: Next,
    /// Stops the carrier; none where the successor did not ask for one.
    carrier: Option<StopCarrier>,
    successor: Successor,
    timers: Timers,
    results: HookResults,
}

/// The process for which the incumbent releases the lock.
struct Successor {
    /// 0 for a last drain.
    pid: u32,
    /// No process where the successor is gone already.
    id: ProcessId,
}

/// When something is due.
struct Timers {
    lease: Instant,
    lease_ended: bool,
    beat: Instant,
    /// None while a look runs, once a look failed or came too late, and for a last drain.
    look: Option<Instant>,
    try_lock: Option<Instant>,
    retry: Option<Instant>,
    retry_pause: Duration,
}

/// The results of the hooks.
struct HookResults {
    /// The seal manifest, begun ahead. None for a last drain, where no client waits for it, and
    /// where it could not be begun.
    draft: Option<Draft>,
    /// With the schema of this build.
    shards: (Vec<SealedShard>, Schema),
    /// The seal that the disk holds, once this process has the lock again and no other wrote.
    sealed: Option<Arc<SealManifest>>,
    /// Whether a successor had opened the data since.
    had_opened: bool,
    /// Whether all sealed writes are durable, at the end of a last seal.
    is_durable: bool,
    /// The last error of a hook, whole; the machine knows its words.
    error: Option<Error>,
}

/// News for the server.
pub(super) enum News {
    Event(Event),
    Progress(SealProgress),
    GateCloses,
    /// Connections that are neither parked nor over.
    Late(Vec<String>),
    /// The connections that a drain waits for.
    Open(Result<Open>),
}

/// The timers that are due now.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) lease: bool,
    pub(super) beat: bool,
    pub(super) look: bool,
    pub(super) try_lock: bool,
    pub(super) retry: bool,
}

impl Handover {
    /// Starts the thread of the hooks, with its first task.
    pub(super) fn begin<D: Drainable + 'static>(
        drainable: &Arc<D>,
        first: Task,
        (handoff_id, successor_pid, lease): (Option<HandoffId>, u32, Instant),
        carrying: Carrying,
        settlings: &Arc<Settlings>,
        lock: &DataDirLock,
        stop: &Arc<Stop>,
    ) -> std::io::Result<Self> {
        let carrier = carrying.carrier.as_ref().map(Carrier::stopper);
        let place = Arc::clone(lock.place());
        let (drainable, stop) = (Arc::clone(drainable), Arc::clone(stop));
        let hooks = Hooks::start(drainable, carrying, Arc::clone(settlings), place, stop)?;
        // Both are done while the daemon still serves all.
        let id = ProcessId::of(successor_pid).unwrap_or_default();
        let is_swap = matches!(first, Task::Drain(_));
        let draft = is_swap.then(|| Draft::begin(lock.place()));
        let now = Instant::now();
        let mut handover = Self {
            handoff_id,
            hooks,
            hook_runs: false,
            next: Next::Waits,
            carrier,
            successor: Successor { pid: successor_pid, id },
            timers: Timers {
                lease,
                lease_ended: false,
                beat: now + HEARTBEAT_INTERVAL,
                look: is_swap.then(|| now + LOOK_INTERVAL),
                try_lock: None,
                retry: None,
                retry_pause: RETRY_PAUSE,
            },
            results: HookResults {
                draft: draft.and_then(Result::ok),
                shards: Default::default(),
                sealed: None,
                had_opened: false,
                is_durable: true,
                error: None,
            },
        };
        handover.run(first);
        Ok(handover)
    }

    pub(super) fn run(&mut self, task: Task) {
        self.timers.retry = None;
        self.hook_runs = true;
        self.hooks.run(task);
    }

    /// Runs the resume hook.
    pub(super) fn resume(&mut self) {
        let sealed = self.results.sealed.clone();
        self.run(Task::Resume(sealed.map(|sealed| (sealed, self.results.had_opened))));
    }

    /// Sets whether the seal follows the drain without a task: the supervisor asked for it ahead.
    pub(super) fn seal_next(&self, seals: bool) {
        self.hooks.seal_next(seals);
    }

    pub(super) fn run_seal(&mut self) {
        match self.next {
            Next::Seals => self.hook_runs = true,
            Next::Waits => self.run(Task::Seal),
        }
    }

    /// Stops the carrier: this process undoes the swap, and sends nothing any more.
    pub(super) fn stop_carrier(&self) {
        if let Some(carrier) = &self.carrier {
            carrier.stop();
        }
    }

    /// The next news, the oldest first.
    pub(super) fn next_news(&mut self, state: &State) -> Option<News> {
        loop {
            let event = match self.hooks.next()? {
                HookNews::GateCloses => return Some(News::GateCloses),
                HookNews::Progress(progress) => return Some(News::Progress(progress)),
                HookNews::Late(names) => return Some(News::Late(names)),
                HookNews::Open(open) => return Some(News::Open(open)),
                HookNews::Drained(result, next) => {
                    self.next = next;
                    Event::DrainEnded(self.in_words("drain", result))
                }
                // The seal was under way when the swap was given up: the undo covers it.
                HookNews::Sealed(_) if matches!(state, State::Resuming(_)) => continue,
                HookNews::Sealed(result) => {
                    let result = self.in_words("seal", result);
                    Event::SealEnded(result.map(|Sealed { report, shards, schema, is_durable }| {
                        self.results.shards = (shards, schema);
                        self.results.is_durable = is_durable;
                        report
                    }))
                }
                HookNews::Resumed(result) => {
                    Event::ResumeEnded(self.in_words("resume_after_abort", result))
                }
            };
            self.hook_runs = false;
            return Some(News::Event(event));
        }
    }

    fn in_words<T>(&mut self, hook: &'static str, result: Result<T>) -> Result<T, String> {
        result.map_err(|error| {
            let swap = self.handoff_id.map(display);
            if matches!(error, Error::Carry(CarryError::GivenUp)) {
                log::debug!(swap, hook, "the carrier stopped with the swap");
            } else {
                log::error!(
                    swap, hook, %error,
                    "a hook of this daemon, or the release of its lock, failed: a swap is undone, a resume is repeated, a clean stop goes on after a drain and fails after a seal"
                );
            }
            let words = in_words(&error);
            self.results.error = Some(error);
            words
        })
    }

    /// The last error of a hook.
    pub(super) fn take_error(&mut self) -> Option<Error> {
        self.results.error.take()
    }

    /// Looks at the connections that the drain waits for.
    pub(super) fn look<D: Drainable + 'static>(&mut self, drainable: &Arc<D>) {
        self.timers.look = None;
        if let Err(error) = self.hooks.look(Arc::clone(drainable)) {
            log::warn!(
                swap = self.handoff_id.map(display), %error,
                "this incumbent cannot tell its supervisor which connections the drain waits for"
            );
        }
    }

    pub(super) fn look_again(&mut self) {
        self.timers.look = Some(Instant::now() + LOOK_INTERVAL);
    }

    /// Publishes the seal manifest, and releases the lock for the successor (invariant 9).
    pub(super) fn release_lock(
        &mut self,
        lock: &mut DataDirLock,
        handoff_id: HandoffId,
        report: SealReport,
    ) -> Event {
        let manifest = self.manifest(lock.generation(), &report, false);
        let mut release = || {
            try_failpoint!(IncumbentWritesManifest)?;
            // Where no draft could be begun ahead, this finds the cause.
            let draft = self.results.draft.take();
            draft.map_or_else(|| Draft::begin(lock.place()), Ok)?.publish(&manifest)?;
            lock.release_for(handoff_id, self.successor.id)
        };
        let released = release();
        self.results.sealed = Some(Arc::new(manifest));
        match self.in_words("seal", released) {
            Ok(()) => {
                failpoint!(IncumbentUnlocked);
                Event::LockReleased(report)
            }
            Err(words) => Event::LockKept(words),
        }
    }

    /// Writes the seal manifest, synced where all is durable, and releases the lock for the next
    /// start (invariant 11).
    pub(super) fn release_for_good(
        &mut self,
        lock: &mut DataDirLock,
        report: &SealReport,
    ) -> Result<()> {
        let is_durable = self.results.is_durable;
        if !is_durable {
            log::warn!(
                path = %lock.data_dir().display(),
                "a request outlived the last drain, or a sync of the data has failed before: if the machine crashes now, the next start cannot verify the data"
            );
        }
        self.manifest(lock.generation(), report, is_durable).write(lock.place())?;
        lock.release_sealed(is_durable)
    }

    fn manifest(&mut self, generation: u64, report: &SealReport, durable: bool) -> SealManifest {
        let (shards, schema) = std::mem::take(&mut self.results.shards);
        SealManifest::of_seal(generation, report, shards, schema, durable)
    }

    /// Takes the lock, or learns that a newer process serves (invariant 3); none where it tries
    /// again a little later.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`] and [`Error::Converted`]: a process that has died since left data that this
    /// process cannot go on with.
    pub(super) fn try_lock(
        &mut self,
        lock: &mut DataDirLock,
        is_connected: bool,
    ) -> Result<Option<Event>> {
        let event = match lock.retake() {
            Ok(Decision::Retaken) => {
                match lock.found_phase() {
                    Some(RecordPhase::Sealed) => {}
                    Some(RecordPhase::Opening) => self.results.had_opened = true,
                    _ => self.results.sealed = None,
                }
                failpoint!(IncumbentRecordedAgain);
                Some(Event::LockRetaken)
            }
            Ok(Decision::Replaced { generation, holder }) => {
                let standing = self.standing(is_connected);
                standing.goes_by_the_record(holder.is_ending()).then(|| {
                    log::info!(
                        pid = holder.pid,
                        swap = self.handoff_id.map(display),
                        generation,
                        "a process of a newer generation serves: this incumbent leaves"
                    );
                    Event::Superseded
                })
            }
            Ok(Decision::Undecided { holder }) => {
                self.end_hung_successor(lock, holder, is_connected);
                None
            }
            Err(error @ (Error::Schema(_) | Error::Converted { .. })) => {
                log::error!(
                    swap = self.handoff_id.map(display), path = %lock.data_dir().display(), %error,
                    "the successor has committed to data that this incumbent cannot go on with, and is dead: this incumbent leaves, and nobody serves until a build that reads that data is started"
                );
                return Err(error);
            }
            Err(error) => {
                log::error!(
                    swap = self.handoff_id.map(display), path = %lock.data_dir().display(), %error,
                    "this incumbent cannot take the lock of its data directory again, and does not serve; it tries again every second"
                );
                self.timers.try_lock = Some(Instant::now() + LOCK_ERROR_PAUSE);
                return Ok(None);
            }
        };
        self.timers.try_lock = event.is_none().then(|| Instant::now() + LOCK_INTERVAL);
        Ok(event)
    }

    fn standing(&self, is_connected: bool) -> Standing {
        let overdue = Instant::now().checked_duration_since(self.timers.lease);
        Standing { is_connected, overdue }
    }

    /// A successor that is undecided past the deadline, with no supervisor to end it, is hung.
    /// Killing it loses nothing, even where it has committed: the incumbent takes the lock after
    /// its death, and opens from disk (invariant 8).
    fn end_hung_successor(&self, lock: &DataDirLock, holder: ProcessId, is_connected: bool) {
        // A holder that has not written its pid is the process that the lock was reserved for.
        let holder = if holder.pid == 0 { lock.reserved() } else { holder };
        let is_the_successor = holder.pid == self.successor.pid && holder.pid != std::process::id();
        if is_the_successor
            && self.standing(is_connected).ends_the_successor()
            && let Ok(Some(process)) = holder.open()
        {
            log::error!(
                pid = holder.pid,
                swap = self.handoff_id.map(display),
                "this incumbent kills its successor, which has the lock and is undecided past the deadline of the swap"
            );
            let _ = process.kill();
        }
    }

    /// The resume failed: the incumbent tries again after a pause that grows (invariant 5).
    pub(super) fn resume_later(&mut self) {
        let timers = &mut self.timers;
        timers.retry = Some(Instant::now() + timers.retry_pause);
        timers.retry_pause = (timers.retry_pause * 2).min(MAX_RETRY_PAUSE);
    }

    /// When a timer is due next. `looks`: a supervisor hears which connections the drain waits for;
    /// `beats`: a supervisor waits while something takes long.
    pub(super) fn next_due(&self, looks: bool, beats: bool) -> Option<Instant> {
        let Timers { lease, lease_ended, beat, look, try_lock, retry, .. } = self.timers;
        let lease = (!lease_ended).then_some(lease);
        let beat = beats.then_some(beat);
        [lease, beat, look.filter(|_| looks), try_lock, retry].into_iter().flatten().min()
    }

    /// The timers that are due now; the deadline is due once.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let timers = &mut self.timers;
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let due = Due {
            lease: !timers.lease_ended && timers.lease <= now,
            beat: timers.beat <= now,
            look: is_due(timers.look),
            try_lock: is_due(timers.try_lock),
            retry: is_due(timers.retry),
        };
        timers.lease_ended |= due.lease;
        if due.beat {
            timers.beat = now + HEARTBEAT_INTERVAL;
        }
        due
    }

    /// Whether something takes long, so that this process tells the supervisor that it lives.
    pub(super) fn takes_long(&self, state: &State) -> bool {
        self.hook_runs || self.timers.retry.is_some() || matches!(state, State::Waiting(_))
    }
}

/// That many milliseconds from now; a far future where the clock does not reach.
pub(super) fn after(milliseconds: u64) -> Instant {
    let now = Instant::now();
    let far = now.checked_add(FOREVER).unwrap_or(now);
    now.checked_add(Duration::from_millis(milliseconds)).map_or(far, |due| due.min(far))
}

const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const LOCK_INTERVAL: Duration = Duration::from_millis(2);
const LOCK_ERROR_PAUSE: Duration = Duration::from_secs(1);
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(50);
pub(crate) const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);
