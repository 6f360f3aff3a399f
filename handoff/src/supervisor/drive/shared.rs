//! A swap that its session and a watch drive by turns: one mutex decides which of them is next.
//!
//! The session's thread drives the swap while it carries a command out. The watch drives it once
//! a limit of its time has passed, so that a session that no thread drives, or a callback that does
//! not return, holds no client longer.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::{Judging, Learnt, Swap, Terms};
use crate::error::Result;
use crate::fence::fenced;
use crate::log;
use crate::machine::cause::{Cause, IncumbentFate, Unfit};
use crate::machine::supervisor::{Command, Event, Promotion, State};
use crate::supervisor::{Candidate, ChildProcess, Committed, Failed, RolledBack, Timings, observe};

/// The session's hold on its swap. Dropped before the end of the swap, it rolls the swap back.
pub(in crate::supervisor) struct SharedSwap(Arc<Shared>);

struct Shared {
    swap: Mutex<Swap>,
    terms: Arc<Terms>,
    wait: Arc<Wait>,
    /// Notified when a thread has told the observer something, or has asked the policy.
    told: Condvar,
}

/// The wait of the watch: it keeps no swap alive meanwhile.
struct Wait {
    /// When it looks at the swap; none once the swap is over.
    until: Mutex<Option<Instant>>,
    changed: Condvar,
}

type Turn<'a> = MutexGuard<'a, Swap>;

/// The thread that drives a swap past a limit of its time. Started ahead: it may fail to start.
pub(in crate::supervisor) struct Watch(Sender<Weak<Shared>>, Arc<Wait>);

impl Watch {
    pub(in crate::supervisor) fn start(deadline: Instant) -> Result<Self> {
        let (watch, swap) = mpsc::channel::<Weak<Shared>>();
        let wait = Arc::new(Wait { until: Mutex::new(Some(deadline)), changed: Condvar::new() });
        let waits = Arc::clone(&wait);
        thread::Builder::new().name("handoff-deadline".into()).spawn(move || {
            // Without a swap there is nothing to watch: the sender is gone.
            let Ok(shared) = swap.recv() else { return };
            while waits.is_due() {
                let Some(shared) = shared.upgrade() else { return };
                shared.watch();
            }
        })?;
        Ok(Self(watch, wait))
    }
}

impl Wait {
    /// Sets when the watch looks at the swap; with none it does not.
    fn set(&self, until: Option<Instant>) {
        let mut waits = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        // A swap that is over stays over.
        if waits.is_some() && *waits != until {
            *waits = until;
            self.changed.notify_all();
        }
    }

    /// Waits until it is time to look at the swap; `false` once the swap is over.
    fn is_due(&self) -> bool {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(left) = until.map(|due| due.saturating_duration_since(Instant::now())) else {
                return false;
            };
            if left.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(until, left);
            until = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl SharedSwap {
    pub(in crate::supervisor) fn new(swap: Swap, watch: &Watch) -> Self {
        let (terms, wait) = (Arc::clone(&swap.terms), Arc::clone(&watch.1));
        let shared = Arc::new(Shared { swap: Mutex::new(swap), terms, wait, told: Condvar::new() });
        // The thread waits for this.
        let _ = watch.0.send(Arc::downgrade(&shared));
        drop(shared.tell(shared.turn()));
        Self(shared)
    }

    /// Calls `look` with the swap, between two turns.
    pub(in crate::supervisor) fn look<T>(&self, look: impl FnOnce(&Swap) -> T) -> T {
        look(&self.0.turn())
    }

    /// Carries the command out that `command` makes, and returns once it is done or undone.
    pub(in crate::supervisor) fn command(
        &self,
        command: impl FnOnce(&Swap) -> Command,
    ) -> Result<(Learnt, Timings), Failed> {
        let mut swap = self.0.turn();
        swap.catch_up();
        if !swap.machine.state.is_over() {
            swap.heed_limits();
            let command = command(&swap);
            swap.step(Event::Command(command));
        }
        swap = self.0.run(swap);
        match swap.machine.state.clone() {
            State::RolledBack(incumbent, cause) => Err(swap.failed(incumbent, cause, None)),
            State::Promoted(cause) => {
                let committed = swap.take_committed();
                Err(swap.failed(IncumbentFate::Lost, cause, committed.map(Box::new)))
            }
            _ => Ok((swap.learnt.clone(), swap.timings())),
        }
    }

    pub(in crate::supervisor) fn committed(&self) -> Result<Committed, Failed> {
        let one_way = self.look(Swap::one_way);
        if let Some((link, deadline)) = one_way {
            let admits = link.attend().wait_closed(deadline);
            let mut swap = self.0.turn();
            swap.clock.count_admission();
            let end = swap.successor.child.as_mut().map(ChildProcess::try_wait);
            if let Some(Ok(Some(status))) = end {
                log::error!(
                    swap = %swap.handoff_id(), %status,
                    "the successor has committed, and has ended before it admitted a request: start its build again"
                );
            } else if !admits {
                log::warn!(
                    swap = %swap.handoff_id(),
                    "the successor has committed, and admits no request yet: its own steps behind the commit still run, or fail and are repeated, and its log says which"
                );
            }
        }
        let mut swap = self.0.turn();
        swap.take_committed().ok_or_else(|| {
            let cause = Cause::SuccessorLost(swap.machine.state.phase());
            swap.failed(IncumbentFate::Unknown, cause, None)
        })
    }

    pub(in crate::supervisor) fn abort(&self, reason: String) -> RolledBack {
        let mut swap = self.0.turn();
        swap.catch_up();
        swap.step(Event::Command(Command::Abort(reason)));
        swap = self.0.run(swap);
        let (incumbent, promoted) = match swap.machine.state {
            State::RolledBack(incumbent, _) => (incumbent, None),
            State::Promoted(_) => (IncumbentFate::Lost, swap.take_committed().map(Box::new)),
            _ => (IncumbentFate::Unknown, None),
        };
        RolledBack { handoff_id: swap.handoff_id(), incumbent, promoted }
    }
}

impl Drop for SharedSwap {
    fn drop(&mut self) {
        if self.look(|swap| swap.machine.state.is_over()) {
            return;
        }
        let give_up = || drop(self.abort("the session was dropped".into()));
        let Err(panic) = catch_unwind(AssertUnwindSafe(give_up)) else { return };
        // The policy panicked, which was asked about a successor in the place of a dead incumbent:
        // that gave the swap up, and somebody has to see to its end.
        let _ = catch_unwind(AssertUnwindSafe(give_up));
        // A panic that leaves a drop while another one unwinds would end the process.
        if !std::thread::panicking() {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn turn(&self) -> Turn<'_> {
        self.swap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Feeds events until the machine waits for none. The caller's code runs between two turns:
    /// the watch can drive the swap meanwhile.
    fn run<'a>(&'a self, mut swap: Turn<'a>) -> Turn<'a> {
        swap.is_driven = true;
        loop {
            swap = self.tell(self.judge(swap));
            if swap.judging == Judging::Due {
                continue;
            }
            // The watch is asking the policy, and needs a turn for the verdict.
            if swap.judging == Judging::Runs && !swap.machine.state.is_over() {
                swap = self.wait_for_verdict(swap);
                continue;
            }
            if swap.machine.state.is_at_rest() {
                break;
            }
            if let Some(event) = swap.next_event(None) {
                swap.step(event);
            }
        }
        self.end(&mut swap);
        swap.is_driven = false;
        swap
    }

    /// Tells the observer everything, in order, once another thread has told it what it tells.
    fn tell<'a>(&'a self, mut swap: Turn<'a>) -> Turn<'a> {
        // The observer, or the owner of the session, may take long.
        self.wait.set(Some(swap.next_look()));
        loop {
            while let Some(telling) = swap.is_telling {
                // An observer that uses the session hears the rest once it has returned.
                if telling == thread::current().id() {
                    return swap;
                }
                swap = self.told.wait(swap).unwrap_or_else(PoisonError::into_inner);
            }
            let Some(progress) = swap.untold.pop_front() else { return swap };
            swap.is_telling = Some(thread::current().id());
            drop(swap);
            observe::tell(self.terms.observer.as_ref(), &progress);
            swap = self.turn();
            swap.is_telling = None;
            self.told.notify_all();
        }
    }

    /// Another thread asks the policy, and needs a turn for the verdict; the processes may die
    /// meanwhile.
    fn wait_for_verdict<'a>(&'a self, swap: Turn<'a>) -> Turn<'a> {
        let waited = self.told.wait_timeout(swap, VERDICT_INTERVAL);
        let mut swap = waited.unwrap_or_else(PoisonError::into_inner).0;
        swap.catch_up();
        swap
    }

    /// Asks the policy, where a successor has said `Ready`.
    fn judge<'a>(&'a self, mut swap: Turn<'a>) -> Turn<'a> {
        if swap.judging != Judging::Due {
            return swap;
        }
        swap.judging = Judging::Runs;
        let learnt = swap.learnt.clone();
        drop(swap);
        let candidate = Candidate {
            sealed: learnt.is_sealed.then_some(&learnt.sealed),
            ready: &learnt.ready,
            verified: learnt.verified,
            listeners: self.terms.listeners.iter().map(String::as_str).collect(),
            carried: &learnt.carried,
        };
        let judged = catch_unwind(AssertUnwindSafe(|| self.terms.policy.judge(&candidate)));
        let mut swap = self.turn();
        swap.judging = Judging::No;
        self.told.notify_all();
        let refused = || Unfit::Refused("the policy panicked".into());
        swap.step(Event::Judged(judged.as_ref().map_or_else(|_| Err(refused()), Clone::clone)));
        match judged {
            Ok(_) => swap,
            Err(panic) => {
                drop(swap);
                resume_unwind(panic)
            }
        }
    }

    /// Ends the heartbeats and the watch, and collects a successor that was killed.
    fn end(&self, swap: &mut Swap) {
        if swap.machine.state.is_over() {
            swap.end();
            self.wait.set(None);
        }
    }

    /// Looks whether a limit has passed, and then drives the swap to its end.
    fn watch(&self) {
        let kept = fenced("deadline", || {
            self.keep_limits();
            Ok(())
        });
        if let Err(error) = kept {
            log::error!(%error, "the thread that keeps the deadline of a swap panicked; it tries once more");
            self.keep_limits();
            self.wait.set(None);
        }
    }

    fn keep_limits(&self) {
        let mut swap = self.turn();
        swap.catch_up();
        swap.heed_limits();
        if !swap.clock.limit_told && swap.is_driven {
            return self.wait.set(Some(swap.next_look()));
        }
        while !swap.machine.state.is_at_rest() {
            swap = match (&swap.machine.state, swap.judging) {
                (State::Promoting(Promotion::Opening, _), Judging::Runs) => {
                    self.wait_for_verdict(swap)
                }
                (_, Judging::Due) => self.judge(swap),
                _ => {
                    if let Some(event) = swap.next_event(None) {
                        swap.step(event);
                    }
                    swap
                }
            };
        }
        // An observer that does not return keeps no client waiting. Where the session's thread is in
        // the caller's code, it tells the rest.
        self.end(&mut swap);
        if swap.machine.state.is_over() {
            swap.hang_up();
        }
        if !swap.is_driven {
            drop(self.tell(swap));
        }
    }
}

/// How often a thread looks at the processes while another one asks the policy.
const VERDICT_INTERVAL: Duration = Duration::from_millis(20);
