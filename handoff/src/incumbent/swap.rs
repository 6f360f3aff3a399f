//! What lasts from a drain until the daemon serves again, or is gone: the hooks, the lock, and
//! the time limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::carry::{Carrier, StopCarrier};
use crate::control::HEARTBEAT_INTERVAL;
use crate::datadir::{Decision, Draft, SealManifest};
use crate::drainable::{Drainable, SealProgress, SealReport, SealedShard};
use crate::error::{CarryError, Error, Result};
use crate::incumbent::hooks::{Carrying, Hooks, Job, Next, Outcome, Sealed};
use crate::incumbent::look::{LOOK_INTERVAL, Open};
use crate::incumbent::serve::{Asked, Server};
use crate::incumbent::standing::Standing;
use crate::machine::incumbent::{Event, State};
use crate::protocol::{MOST_NAMED, Message, in_words};
use crate::sys::process::ProcessId;

/// One swap, or the last drain of a clean stop.
pub(super) struct Swap {
    hooks: Hooks,
    hook_runs: bool,
    next: Next,
    /// Of what is carried; none where the successor did not ask for it.
    carrier: Option<StopCarrier>,
    successor_pid: u32,
    /// For whom the lock is released; nobody where it is gone already.
    reserved: ProcessId,
    /// None for a last drain, where nobody waits for it, and where it could not be begun.
    draft: Option<Draft>,
    lease: Instant,
    lease_ended: bool,
    next_beat: Instant,
    /// None while somebody looks, and once no drain is waited for.
    next_look: Option<Instant>,
    next_try: Option<Instant>,
    retry: Option<Instant>,
    retry_pause: Duration,
    shards: Vec<SealedShard>,
    /// Whether all that was sealed is durable, at the end of a last seal.
    is_durable: bool,
}

impl<D: Drainable + 'static> Server<D> {
    pub(super) fn begin_swap(&mut self, successor_pid: u32, lease: Instant, first: Job) {
        let carrying = self.carrying_for(successor_pid);
        let carrier = carrying.carrier.as_ref().map(Carrier::stopper);
        let (drainable, stop) = (Arc::clone(&self.drainable), Arc::clone(&self.stop));
        let settling = self.settling.take();
        let hooks = match Hooks::start(drainable, carrying, settling, stop) {
            Ok(hooks) => hooks,
            Err(error) => {
                // Nothing was begun, so there is nothing to undo but the state.
                tracing::error!(%error, "cannot start the thread of the hooks");
                if self.state == State::Stopping {
                    self.ended = Some(Err(error.into()));
                    return;
                }
                self.state = State::Serving;
                if let Some(key) = self.holder.take() {
                    self.sessions.remove(&key);
                }
                return;
            }
        };
        // Asked for while everybody is served still.
        let reserved = ProcessId::of(successor_pid).unwrap_or_default();
        let is_swap = matches!(first, Job::Drain(_));
        let draft = is_swap.then(|| Draft::begin(self.lock.data_dir()));
        let now = Instant::now();
        self.swap = Some(Swap {
            hooks,
            hook_runs: false,
            next: Next::Waits,
            carrier,
            successor_pid,
            reserved,
            draft: draft.and_then(Result::ok),
            lease,
            lease_ended: false,
            next_beat: now + HEARTBEAT_INTERVAL,
            next_look: is_swap.then(|| now + LOOK_INTERVAL),
            next_try: None,
            retry: None,
            retry_pause: RETRY_PAUSE,
            shards: Vec::new(),
            is_durable: true,
        });
        self.run(first);
    }

    /// The channel of the successor of this swap, if it has asked for what is carried.
    fn carrying_for(&mut self, successor_pid: u32) -> Carrying {
        let handoff_id = self.state.handoff_id();
        let is_of_this_swap =
            |asked: &Asked| asked.pid == successor_pid && Some(asked.handoff_id) == handoff_id;
        let Some(place) = self.asked.iter().position(is_of_this_swap) else {
            return Carrying::default();
        };
        let Asked { channel, .. } = self.asked.remove(place);
        let claim = channel.claim();
        match Carrier::start(Arc::clone(&self.drainable), channel) {
            Ok(carrier) => Carrying::new(carrier, claim),
            Err(error) => {
                tracing::error!(%error, "cannot start the thread that sends what is carried");
                Carrying::default()
            }
        }
    }

    /// The swap is being undone: nothing is sent any more.
    pub(super) fn stop_carrier(&self) {
        if let Some(carrier) = self.swap.as_ref().and_then(|swap| swap.carrier.as_ref()) {
            carrier.stop();
        }
    }

    pub(super) fn run(&mut self, job: Job) {
        if let Some(swap) = &mut self.swap {
            swap.retry = None;
            swap.hook_runs = true;
            swap.hooks.run(job);
        }
    }

    /// The seal was asked for ahead.
    pub(super) fn seal_next(&self) {
        if let Some(swap) = &self.swap {
            swap.hooks.seal_next(true);
        }
    }

    pub(super) fn do_not_seal_next(&self) {
        if let Some(swap) = &self.swap {
            swap.hooks.seal_next(false);
        }
    }

    pub(super) fn run_seal(&mut self) {
        match &mut self.swap {
            Some(swap) if swap.next == Next::Seals => swap.hook_runs = true,
            _ => self.run(Job::Seal),
        }
    }

    pub(super) fn hear_hooks(&mut self) {
        let holder = self.holder;
        self.gathered = holder.map(|_| Vec::new());
        self.hear_outcomes();
        if let (Some(key), Some(gathered)) = (holder, self.gathered.take())
            && !gathered.is_empty()
        {
            self.say_all(key, &gathered);
        }
    }

    fn hear_outcomes(&mut self) {
        while let Some(outcome) = self.swap.as_ref().and_then(|swap| swap.hooks.next()) {
            let event = match outcome {
                Outcome::Progress(SealProgress { shards_sealed, shards_total, last_revision }) => {
                    self.tell(Message::SealProgress { shards_sealed, shards_total, last_revision });
                    continue;
                }
                Outcome::Late(names) => {
                    self.tell_of_late(names);
                    continue;
                }
                Outcome::Open(open) => {
                    self.tell_of_open(open);
                    continue;
                }
                Outcome::Drained(result, next) => {
                    if let Some(swap) = &mut self.swap {
                        swap.next = next;
                    }
                    Event::DrainEnded(self.in_words("drain", result))
                }
                // It was under way already when the swap was given up: to be undone, no more.
                Outcome::Sealed(_) if matches!(self.state, State::Resuming(_)) => continue,
                Outcome::Sealed(result) => {
                    let result = self.in_words("seal", result);
                    Event::SealEnded(result.map(|Sealed { report, shards, is_durable }| {
                        if let Some(swap) = &mut self.swap {
                            (swap.shards, swap.is_durable) = (shards, is_durable);
                        }
                        report
                    }))
                }
                Outcome::Resumed(result) => {
                    Event::ResumeEnded(self.in_words("resume_after_abort", result))
                }
            };
            if let Some(swap) = &mut self.swap {
                swap.hook_runs = false;
            }
            self.step(event, None);
        }
    }

    fn in_words<T>(&mut self, hook: &'static str, result: Result<T>) -> Result<T, String> {
        result.map_err(|error| {
            if matches!(error, Error::Carry(CarryError::GivenUp)) {
                tracing::debug!(hook, "what is carried was given up with the swap");
            } else {
                tracing::error!(hook, %error, "a hook failed");
            }
            let words = in_words(&error);
            self.hook_error = Some(error);
            words
        })
    }

    fn tell_of_late(&mut self, mut names: Vec<String>) {
        let Some(handoff_id) = self.state.handoff_id() else { return };
        let unnamed = u32::try_from(names.len().saturating_sub(MOST_NAMED)).unwrap_or(u32::MAX);
        names.truncate(MOST_NAMED);
        self.tell(Message::Late { handoff_id, connections: names, unnamed });
    }

    /// While a drain is waited for, and its supervisor listens.
    fn looks(&self) -> bool {
        matches!(self.state, State::Draining(..)) && self.holder.is_some()
    }

    fn look(&mut self) {
        let Some(swap) = &mut self.swap else { return };
        swap.next_look = None;
        if let Err(error) = swap.hooks.look(Arc::clone(&self.drainable)) {
            tracing::warn!(%error, "nobody is told what the drain waits for");
        }
    }

    /// What was seen too late is nobody's concern any more.
    fn tell_of_open(&mut self, open: Result<Open>) {
        let (true, Some(handoff_id)) = (self.looks(), self.state.handoff_id()) else { return };
        let Open { open_conns, connections, unnamed } = match open {
            Ok(open) => open,
            Err(error) => {
                tracing::warn!(%error, "nobody is told what the drain waits for");
                return;
            }
        };
        if let Some(swap) = &mut self.swap {
            swap.next_look = Some(Instant::now() + LOOK_INTERVAL);
        }
        // One that reads late is told less, and is not lost for it.
        let session = self.holder.and_then(|key| self.sessions.get(&key));
        if session.is_some_and(|session| !session.has_unsent()) {
            self.tell(Message::Draining { handoff_id, open_conns, connections, unnamed });
        }
    }

    fn tell(&mut self, message: Message) {
        if let Some(key) = self.holder {
            self.say(key, message);
        }
    }

    pub(super) fn release_lock(&mut self, report: SealReport) {
        let (Some(swap), Some(handoff_id)) = (&mut self.swap, self.state.handoff_id()) else {
            return;
        };
        let (shards, reserved) = (std::mem::take(&mut swap.shards), swap.reserved);
        let draft = swap.draft.take();
        let lock = &mut self.lock;
        let manifest = SealManifest::of_seal(lock.generation(), &report, shards, false);
        let release = || {
            reach!(IncumbentWritesManifest)?;
            // What kept it from being begun is found here.
            draft.map_or_else(|| Draft::begin(lock.data_dir()), Ok)?.publish(&manifest)?;
            lock.release_for(handoff_id, reserved)
        };
        let released = release();
        let event = match self.in_words("seal", released) {
            Ok(()) => {
                pass!(IncumbentUnlocked);
                Event::LockReleased(report)
            }
            Err(words) => Event::LockKept(words),
        };
        self.step(event, None);
    }

    pub(super) fn release_for_good(&mut self, report: &SealReport) {
        let sealed =
            self.swap.as_mut().map(|swap| (std::mem::take(&mut swap.shards), swap.is_durable));
        let (lock, (shards, is_durable)) = (&mut self.lock, sealed.unwrap_or_default());
        if !is_durable {
            tracing::warn!(
                "a request outlived the last drain: after a crash of the machine the next start has nothing to verify against"
            );
        }
        let manifest = SealManifest::of_seal(lock.generation(), report, shards, is_durable);
        let released = manifest.write(lock.data_dir()).and_then(|()| lock.release_sealed());
        if let Err(error) = released {
            self.ended = Some(Err(error));
        }
    }

    /// Takes the lock, or learns that it is lost for good, or tries again a little later.
    pub(super) fn try_lock(&mut self) {
        let event = match self.lock.retake() {
            Ok(Decision::Retaken) => {
                pass!(IncumbentRecordedAgain);
                self.take_path_back();
                Event::LockRetaken
            }
            Ok(Decision::Replaced { holder, .. })
                if !self.standing().goes_by_the_record(holder.is_ending()) =>
            {
                return self.try_lock_later(LOCK_INTERVAL);
            }
            Ok(Decision::Replaced { generation, .. }) => {
                tracing::info!(generation, "a newer generation serves");
                Event::Superseded
            }
            Ok(Decision::Undecided { holder }) => {
                self.end_hung_successor(holder);
                return self.try_lock_later(LOCK_INTERVAL);
            }
            Err(error) => {
                tracing::error!(%error, "cannot take the lock again");
                return self.try_lock_later(LOCK_ERROR_PAUSE);
            }
        };
        if let Some(swap) = &mut self.swap {
            swap.next_try = None;
        }
        self.step(event, None);
    }

    fn try_lock_later(&mut self, pause: Duration) {
        if let Some(swap) = &mut self.swap {
            swap.next_try = Some(Instant::now() + pause);
        }
    }

    fn standing(&self) -> Standing {
        let overdue = |swap: &Swap| Instant::now().checked_duration_since(swap.lease);
        Standing {
            is_connected: self.holder.is_some(),
            overdue: self.swap.as_ref().and_then(overdue),
        }
    }

    /// A successor that was ended after its commit has taken the path over.
    pub(super) fn take_path_back(&mut self) {
        if self.socket.is_published() {
            return;
        }
        self.publish_again = self.rebind().err().map(|error| {
            tracing::error!(%error, "the control socket's path could not be taken back yet");
            Instant::now() + LOCK_ERROR_PAUSE
        });
    }

    /// A successor that is undecided past the deadline, with no supervisor to end it, is
    /// hung. Killing it loses nothing, even where it has committed: the lock is taken after.
    fn end_hung_successor(&self, holder: ProcessId) {
        let Some(swap) = &self.swap else { return };
        // A process that has the lock and did not get to say so is the one it was kept for.
        let holder = if holder.pid == 0 { self.lock.reserved() } else { holder };
        let is_the_successor = holder.pid == swap.successor_pid && holder.pid != std::process::id();
        if is_the_successor
            && self.standing().ends_the_successor()
            && let Ok(Some(process)) = holder.open()
        {
            tracing::error!(pid = holder.pid, "ending a hung successor");
            let _ = process.kill();
        }
    }

    /// A clean stop: no supervisor, no lease.
    pub(super) fn begin_last_drain(&mut self) {
        self.tell_of_stop();
        self.begin_swap(0, after(u64::MAX), Job::LastDrain(after(STOP_GRACE_MS)));
    }

    /// A supervisor that is about to swap must not take the end for a crash.
    fn tell_of_stop(&mut self) {
        for session in self.sessions.values_mut() {
            if let Some(handoff_id) = session.handoff_id() {
                let reason = "the daemon was told to stop".to_owned();
                let _ = session.send(&Message::Abort { handoff_id, reason });
            }
        }
    }

    /// The resume failed: it is tried again after a pause that grows.
    pub(super) fn resume_later(&mut self) {
        if let Some(swap) = &mut self.swap {
            swap.retry = Some(Instant::now() + swap.retry_pause);
            swap.retry_pause = (swap.retry_pause * 2).min(MAX_RETRY_PAUSE);
        }
    }

    pub(super) fn due_of(&self, swap: &Swap) -> [Option<Instant>; 5] {
        let lease = (!swap.lease_ended).then_some(swap.lease);
        let beat = self.beats(swap).then_some(swap.next_beat);
        let look = swap.next_look.filter(|_| self.looks());
        [lease, beat, look, swap.next_try, swap.retry]
    }

    pub(super) fn on_time_of_swap(&mut self, now: Instant) {
        let Some(swap) = &mut self.swap else { return };
        let (lease, try_lock, retry) = (
            !swap.lease_ended && swap.lease <= now,
            swap.next_try.is_some_and(|due| due <= now),
            swap.retry.is_some_and(|due| due <= now),
        );
        swap.lease_ended |= lease;
        if swap.next_beat <= now {
            swap.next_beat = now + HEARTBEAT_INTERVAL;
            if self.swap.as_ref().is_some_and(|swap| self.beats(swap)) {
                self.tell(Message::Heartbeat { ts_ms: 0 });
            }
        }
        let look = self.swap.as_ref().and_then(|swap| swap.next_look);
        if self.looks() && look.is_some_and(|due| due <= now) {
            self.look();
        }
        if lease {
            if self.steps.admits(now) {
                tracing::warn!(state = self.state.name(), "the deadline passed");
            }
            self.step(Event::DeadlinePassed, None);
        }
        if try_lock {
            self.try_lock();
        }
        if retry {
            self.step(Event::RetryDue, None);
        }
    }

    /// The supervisor is told that this process lives, while something takes long.
    fn beats(&self, swap: &Swap) -> bool {
        self.holder.is_some()
            && (swap.hook_runs || swap.retry.is_some() || matches!(self.state, State::Waiting(_)))
    }
}

/// That many milliseconds from now; a far future where the clock does not reach.
pub(super) fn after(milliseconds: u64) -> Instant {
    let now = Instant::now();
    let far = now.checked_add(FOREVER).unwrap_or(now);
    now.checked_add(Duration::from_millis(milliseconds)).map_or(far, |due| due.min(far))
}

const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const STOP_GRACE_MS: u64 = 30_000;
const LOCK_INTERVAL: Duration = Duration::from_millis(2);
const LOCK_ERROR_PAUSE: Duration = Duration::from_secs(1);
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(50);
pub(crate) const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);
