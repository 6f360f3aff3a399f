//! The driver of one swap: it waits for the next event, feeds the machine with it, and carries
//! the effects out. [`SharedSwap`] says which thread drives it.

mod clock;
mod hear;
mod shared;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use tracing::field::display;

use crate::control::{Greeting, LIVENESS_TIMEOUT, Link, Pulse, connect, echo_value, greet};
use crate::drainable::{DrainReport, ReadinessSnapshot, SealReport};
use crate::error::PeerMisbehaved;
use crate::log;
use crate::machine::AfterDrain;
use crate::machine::cause::{Cause, IncumbentFate, PauseStart};
use crate::machine::phase::Phase;
use crate::machine::supervisor::{Command, Effect, Event, Machine, Promotion, State};
use crate::protocol::{Capabilities, HandoffId, Message, Side};
use crate::supervisor::journal::{Entry, Journal};
use crate::supervisor::slot::Taken;
use crate::supervisor::{
    AbortHandle, CarryReport, ChildProcess, Committed, Failed, Observe, Progress, ReadyPolicy,
    Timings,
};
use crate::sys::process::Process;
use crate::sys::socket;

pub(super) use clock::Clock;
pub(super) use shared::{SharedSwap, Watch};

/// The reports of both processes; the default for each that has not arrived yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Learnt {
    pub(super) incumbent_build_id: Vec<u8>,
    pub(super) successor_build_id: Vec<u8>,
    pub(super) drain: DrainReport,
    pub(super) sealed: SealReport,
    /// Whether the policy is given `sealed`: from `SealComplete` until the incumbent may write
    /// again.
    is_sealed: bool,
    verified: Option<[u8; 32]>,
    pub(super) ready: ReadinessSnapshot,
    pub(super) carried: CarryReport,
    generation: u64,
}

/// One swap.
pub(super) struct Swap {
    machine: Machine,
    incumbent: Incumbent,
    successor: Successor,
    pub(super) learnt: Learnt,
    clock: Clock,
    terms: Arc<Terms>,
    pulse: Option<Pulse>,
    /// None once the machine was told of the abort.
    abort: Option<AbortHandle>,
    /// Whether the observer was told that the swap is given up.
    is_given_up: bool,
    /// For the observer, in order.
    untold: VecDeque<Progress>,
    /// The thread that is telling the observer.
    is_telling: Option<ThreadId>,
    /// Whether the session's thread drives it, and will tell the observer.
    is_driven: bool,
    judging: Judging,
    /// None once the swap is over.
    in_flight: Option<InFlight>,
    /// The swap is over, and the links are closed: no client waits for these lines.
    _lines: log::FlushAtEnd,
}

/// The things of the supervisor that one swap has until it is over.
pub(super) struct InFlight {
    pub(super) _slot: Taken,
    pub(super) journal: Option<Arc<Journal>>,
}

/// Whether the policy is to be asked about the successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judging {
    No,
    Due,
    /// A thread is asking.
    Runs,
}

/// The old process, as far as this supervisor can reach it.
pub(super) struct Incumbent {
    pub(super) link: Arc<Link>,
    pub(super) process: Process,
    pub(super) pid: u32,
    capabilities: Capabilities,
    /// Whether its link is over.
    is_closed: bool,
    has_ended: bool,
    /// Whether this supervisor asks it over a new connection.
    asked_anew: bool,
    ask_again: Option<Instant>,
}

/// The new process.
pub(super) struct Successor {
    pub(super) link: Arc<Link>,
    /// None once the caller has it, in [`Committed`].
    child: Option<ChildProcess>,
    pid: u32,
    /// Whether its link is over.
    is_closed: bool,
    has_ended: bool,
}

/// The supervisor's settings for every swap.
pub(super) struct Terms {
    pub(super) control_socket: PathBuf,
    pub(super) listeners: Vec<String>,
    pub(super) policy: Arc<dyn ReadyPolicy>,
    pub(super) observer: Option<Arc<dyn Observe>>,
    pub(super) one_way: bool,
}

impl Incumbent {
    pub(super) const fn new(
        link: Arc<Link>,
        process: Process,
        pid: u32,
        capabilities: Capabilities,
    ) -> Self {
        let (is_closed, has_ended, asked_anew, ask_again) = (false, false, false, None);
        Self { link, process, pid, capabilities, is_closed, has_ended, asked_anew, ask_again }
    }
}

impl Successor {
    pub(super) fn new(link: Arc<Link>, child: ChildProcess) -> Self {
        let (pid, child) = (child.pid(), Some(child));
        Self { link, child, pid, is_closed: false, has_ended: false }
    }
}

impl Learnt {
    /// The facts of both hellos. Only the successor tells later whether the carried sets arrived.
    pub(super) fn of(incumbent: Greeting, successor: Greeting) -> Self {
        let not_asked_for = incumbent.capabilities.carries();
        Self {
            incumbent_build_id: incumbent.build_id,
            successor_build_id: successor.build_id,
            carried: CarryReport { not_asked_for, ..CarryReport::default() },
            ..Self::default()
        }
    }
}

impl Swap {
    pub(super) fn new(
        machine: Machine,
        (incumbent, successor): (Incumbent, Successor),
        clock: Clock,
        terms: Terms,
        learnt: Learnt,
        (pulse, in_flight): (Pulse, InFlight),
        abort: Option<AbortHandle>,
    ) -> Self {
        let mut swap = Self {
            machine,
            incumbent,
            successor,
            learnt,
            clock,
            terms: Arc::new(terms),
            pulse: Some(pulse),
            abort,
            is_given_up: false,
            untold: VecDeque::new(),
            is_telling: None,
            is_driven: false,
            judging: Judging::No,
            in_flight: Some(in_flight),
            _lines: log::FlushAtEnd(log::SHORT),
        };
        swap.tell_phase();
        swap
    }

    pub(super) const fn learnt(&self) -> &Learnt {
        &self.learnt
    }

    pub(super) const fn timings(&self) -> Timings {
        self.clock.timings()
    }

    pub(super) const fn handoff_id(&self) -> HandoffId {
        self.machine.handoff_id
    }

    pub(super) const fn successor_pid(&self) -> u32 {
        self.successor.pid
    }

    /// [`AfterDrain::Seal`] if the incumbent can be asked for the seal along with the drain.
    pub(super) const fn after_drain(&self) -> AfterDrain {
        if self.incumbent.capabilities.seals_next() { AfterDrain::Seal } else { AfterDrain::Wait }
    }

    pub(super) fn prepare_command(&self, after_drain: AfterDrain) -> Command {
        Command::Prepare {
            successor_pid: self.successor.pid,
            deadline_ms: milliseconds(self.clock.left()),
            drain_grace_ms: milliseconds(self.clock.drain_grace),
            watches_gate: self.incumbent.capabilities.tells_of_gate(),
            after_drain,
        }
    }

    /// Handles the events since the caller's last command: no command begins a step with a dead
    /// successor, and no abort kills one that alone can serve (invariant 3).
    fn catch_up(&mut self) {
        while !self.machine.state.is_over() {
            match self.next_event(Some(Instant::now())) {
                Some(event) => self.step(event),
                None => break,
            }
        }
    }

    /// A limit passes also where the swap rests, and waits for no event.
    fn heed_limits(&mut self) {
        if let Some(limit) = self.clock.passed(&self.machine.state) {
            self.step(Event::LimitPassed(limit));
        }
    }

    /// When the watch looks at this swap, unless it is over by then.
    fn next_look(&self) -> Instant {
        self.clock.next_look(&self.machine.state)
    }

    /// The swap is over.
    fn end(&mut self) {
        if self.in_flight.is_none() {
            return;
        }
        self.note_end();
        self.pulse = None;
        if !matches!(self.machine.state, State::Committed | State::Promoted(_)) {
            self.reap();
        }
        self.in_flight = None;
    }

    /// An incumbent whose deadline has passed leaves by the record only once its supervisor has
    /// closed (invariant 3), and the session that would close may be held.
    fn hang_up(&self) {
        self.incumbent.link.close();
        self.successor.link.close();
    }

    fn step(&mut self, event: Event) {
        self.clock.limit_told |= matches!(event, Event::LimitPassed(_));
        let before = self.machine.state.phase();
        let effects = self.machine.on(event);
        let after = self.machine.state.phase();
        if before != after {
            self.doubt_loss();
            self.clock.leave(before);
            self.reach_state(before);
            if let State::Ending(cause) | State::Confirming(cause) | State::Promoting(_, cause) =
                &self.machine.state
                && !self.is_given_up
            {
                let (pid, swap) = (self.successor.pid, self.handoff_id());
                if matches!(self.machine.state, State::Promoting(..)) {
                    log::warn!(pid, %swap, %cause, "the supervisor lets this successor go on: the incumbent is lost");
                } else {
                    log::warn!(pid, %swap, %cause, "the supervisor gives the swap to this successor up, unless the incumbent dies");
                }
                let (handoff_id, cause) = (self.handoff_id(), cause.clone());
                self.is_given_up = true;
                failpoint!(SupervisorGivesUp);
                self.tell(Progress::GivenUp { handoff_id, cause });
            }
            match self.machine.state {
                State::Confirming(_) | State::Ending(_) => {
                    // An incumbent that serves again may write: its seal report counts no more.
                    (self.learnt.sealed, self.learnt.is_sealed) = (SealReport::default(), false);
                    self.beat_on();
                }
                State::Promoting(..) => self.beat_on(),
                _ => {}
            }
            let is_judged = matches!(
                self.machine.state,
                State::Opening | State::Promoting(Promotion::Opening, _)
            );
            if self.judging == Judging::Due && !is_judged {
                self.judging = Judging::No;
            }
            if !matches!(self.machine.state, State::Confirming(_) | State::Ending(_)) {
                self.incumbent.ask_again = None;
            }
        }
        for effect in effects {
            self.perform(effect);
        }
        if before != after {
            log::info!(swap = %self.handoff_id(), from = before.name(), to = after.name(), "the swap changed its phase");
            self.tell_phase();
        }
    }

    /// A dead incumbent is not lost where the swap of another supervisor has replaced it
    /// (invariant 4).
    fn doubt_loss(&mut self) {
        let State::RolledBack(fate @ IncumbentFate::Lost, _) = &mut self.machine.state else {
            return;
        };
        let own = [self.incumbent.pid, self.successor.pid];
        if let Ok((_, peer)) = connect(&self.terms.control_socket, Instant::now())
            && !own.contains(&peer.pid)
        {
            *fate = IncumbentFate::Unknown;
            log::warn!(
                pid = peer.pid, swap = %self.machine.handoff_id,
                "the incumbent has ended, and this process serves its control socket: another supervisor swapped it; stop one of the two supervisors"
            );
        }
    }

    /// Writes the end to the journal. The swap is over, so no client waits for the write.
    fn note_end(&self) {
        let journal = self.in_flight.as_ref().and_then(|in_flight| in_flight.journal.as_ref());
        let (Some(how), Some(journal)) = (self.machine.state.outcome(), journal) else {
            return;
        };
        if let Err(error) = journal.append(&Entry::Ended { handoff_id: self.handoff_id(), how }) {
            log::error!(
                swap = %self.handoff_id(), %error,
                "this supervisor cannot note in its journal that the swap is over; the next supervisor resolves the swap once more"
            );
        }
        failpoint!(SupervisorNotedEnd);
    }

    fn reach_state(&self, before: Phase) {
        match self.machine.state {
            State::Warmed => failpoint!(SupervisorWarmed),
            State::Prepared => failpoint!(SupervisorHeardDrained),
            State::Sealing if before == Phase::Draining => failpoint!(SupervisorHeardDrained),
            State::Sealed => failpoint!(SupervisorHeardSealed),
            State::Ready => failpoint!(SupervisorHeardReady),
            State::RolledBack(IncumbentFate::Serving, _) => failpoint!(SupervisorHeardEcho),
            _ => {}
        }
    }

    fn tell_incumbent(&self, messages: &[Message]) {
        if messages.iter().any(|message| matches!(message, Message::Commit { .. })) {
            failpoint!(SupervisorHeardServing);
        }
        if let Err(error) = self.incumbent.link.send_all(messages) {
            let message = messages.first().map(Message::name);
            let (pid, swap) = (self.incumbent.pid, display(self.handoff_id()));
            log::warn!(pid, swap, message_name = message, %error, "the supervisor cannot send to the incumbent");
        }
        for message in messages {
            match message {
                Message::PrepareHandoff { .. } => failpoint!(SupervisorSentPrepare),
                Message::SealRequest { .. } => failpoint!(SupervisorSentSeal),
                Message::Commit { .. } => failpoint!(SupervisorToldIncumbent),
                _ => {}
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ToIncumbent(messages) => {
                let drains = |message: &Message| matches!(message, Message::PrepareHandoff { .. });
                if messages.iter().any(drains) && !self.incumbent.capabilities.tells_of_gate() {
                    self.clock.pause(PauseStart::DrainRequested);
                }
                self.tell_incumbent(&messages);
            }
            Effect::ToSuccessor(message) => {
                if matches!(message, Message::Commit { .. }) {
                    failpoint!(SupervisorCommits);
                }
                let sent = self.successor.link.send(&message);
                // A successor whose swap is not one-way after all waits for no last word.
                if let (Err(error), false) = (sent, self.machine.state.is_over()) {
                    log::warn!(
                        pid = self.successor.pid, swap = %self.handoff_id(),
                        message_name = message.name(), %error,
                        "the supervisor cannot send to the successor"
                    );
                }
                match message {
                    Message::Begin { .. } => failpoint!(SupervisorSentBegin),
                    Message::Commit { .. } => failpoint!(SupervisorSentCommit),
                    _ => {}
                }
            }
            Effect::Judge if self.judging == Judging::No => self.judging = Judging::Due,
            Effect::Judge => {}
            Effect::KillSuccessor => {
                if let Some(Err(error)) = self.successor.child.as_mut().map(ChildProcess::kill) {
                    log::error!(
                        pid = self.successor.pid, swap = %self.handoff_id(), %error,
                        "the supervisor cannot kill the successor: end it by hand, it may have the lock"
                    );
                }
                if matches!(self.machine.state, State::Ending(_)) {
                    failpoint!(SupervisorKilledSuccessor);
                }
            }
            Effect::AskIncumbent => self.ask_incumbent(),
        }
    }

    fn ask_incumbent(&mut self) {
        self.incumbent.ask_again = None;
        let handoff_id = self.handoff_id();
        let asked = self.reconnected().and_then(|()| {
            self.incumbent.link.await_echo(echo_value(self.handoff_id()));
            self.incumbent.link.send(&Message::ResumeAfterAbort { handoff_id })?;
            self.incumbent.link.send(&Message::Heartbeat { ts_ms: echo_value(self.handoff_id()) })
        });
        if asked.is_ok() {
            failpoint!(SupervisorAskedIncumbent);
        }
        if let Err(error) = asked {
            let (pid, swap) = (self.incumbent.pid, display(handoff_id));
            log::debug!(pid, swap, %error, "the incumbent cannot be asked yet");
            self.incumbent.is_closed = true;
            self.incumbent.ask_again = Some(Instant::now() + ASK_INTERVAL);
        }
    }

    /// Makes sure of a link to the same incumbent: connects anew if the old link is over.
    fn reconnected(&mut self) -> crate::Result<()> {
        if !self.incumbent.is_closed {
            return Ok(());
        }
        self.incumbent.link.close();
        let deadline = Instant::now() + LIVENESS_TIMEOUT;
        let (mut connection, peer) = connect(&self.terms.control_socket, deadline)?;
        if peer.pid != self.incumbent.pid {
            let (said, expected) = (peer.pid, self.incumbent.pid);
            return Err(PeerMisbehaved::WrongPid { said, expected }.into());
        }
        let (pid, id) = (self.incumbent.pid, self.handoff_id());
        greet(&mut connection, Side::Incumbent, pid, id, deadline, None)?;
        self.incumbent.link = Arc::new(Link::of(connection));
        (self.incumbent.is_closed, self.incumbent.asked_anew) = (false, true);
        Ok(())
    }

    /// Starts a pulse without a deadline: a successor that is spared, or goes on alone
    /// (invariant 3), has to hear of this supervisor until the swap is over.
    fn beat_on(&mut self) {
        match Pulse::start(vec![Arc::clone(&self.successor.link)], None, |_, _| false) {
            Ok(pulse) => self.pulse = Some(pulse),
            Err(error) => {
                log::error!(
                    pid = self.successor.pid, swap = %self.handoff_id(), %error,
                    "the supervisor cannot go on with its heartbeats: the successor may take it for dead"
                );
            }
        }
    }

    /// Waits for a killed successor to end, and removes the hidden socket that it may have left. A
    /// caller whose incumbent serves does not wait for one that cannot end.
    fn reap(&mut self) {
        let serves = matches!(self.machine.state, State::RolledBack(IncumbentFate::Serving, _));
        let patience = if serves { END_PATIENCE } else { ROLLBACK_PATIENCE };
        let Some(child) = &mut self.successor.child else { return };
        match child.wait_until(Instant::now() + patience) {
            Ok(Some(_)) => socket::sweep(&self.terms.control_socket),
            Ok(None) => {
                log::error!(
                    pid = self.successor.pid, swap = %self.machine.handoff_id, ?patience,
                    "the killed successor has not ended yet: it may be frozen, traced, or wait for a disk, as /proc/PID/stack shows; if it has the lock, no process serves before it ends"
                );
                self.reap_later();
            }
            Err(error) => {
                log::error!(
                    pid = self.successor.pid, swap = %self.machine.handoff_id, %error,
                    "the supervisor cannot wait for the end of the killed successor"
                );
            }
        }
    }

    /// A thread collects the successor whenever it ends.
    fn reap_later(&mut self) {
        let Some(mut child) = self.successor.child.take() else { return };
        let control_socket = self.terms.control_socket.clone();
        let reaper = std::thread::Builder::new().name("handoff-reap".into()).spawn(move || {
            let _ = child.wait();
            socket::sweep(&control_socket);
        });
        if let Err(error) = reaper {
            let (pid, swap) = (self.successor.pid, self.handoff_id());
            log::warn!(pid, %swap, %error, "no thread can be started that collects the killed successor once it ends");
        }
    }

    /// The successor's connection, which ends once it admits, and the deadline, where the successor
    /// has committed in a swap that may be one-way.
    fn one_way(&self) -> Option<(Arc<Link>, Instant)> {
        let has_committed = matches!(self.machine.state, State::Committed);
        let is_one_way = self.terms.one_way && has_committed;
        is_one_way.then(|| (Arc::clone(&self.successor.link), self.clock.deadline()))
    }

    fn take_committed(&mut self) -> Option<Committed> {
        Some(Committed {
            handoff_id: self.handoff_id(),
            generation: self.learnt.generation,
            successor: self.successor.child.take()?,
            drain: self.learnt.drain.clone(),
            sealed: self.learnt.sealed.clone(),
            ready: self.learnt.ready.clone(),
            carried: self.learnt.carried.clone(),
            timings: self.timings(),
        })
    }

    fn failed(
        &self,
        incumbent: IncumbentFate,
        cause: Cause,
        promoted: Option<Box<Committed>>,
    ) -> Failed {
        let (handoff_id, timings) = (self.handoff_id(), Box::new(self.timings()));
        Failed { handoff_id, cause, incumbent, promoted, timings }
    }

    fn tell_phase(&mut self) {
        let (handoff_id, phase) = (self.handoff_id(), self.machine.state.phase());
        self.tell(Progress::Entered { handoff_id, phase, elapsed: self.clock.elapsed() });
    }

    /// Leaves the progress to the thread that tells the observer, which calls it between two
    /// steps.
    fn tell(&mut self, progress: Progress) {
        if self.terms.observer.is_some() {
            self.untold.push_back(progress);
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long an undo may take before the supervisor reports it as not confirmed.
const ROLLBACK_PATIENCE: Duration = Duration::from_secs(60);
/// How long a caller whose incumbent serves waits for the end of the killed successor.
const END_PATIENCE: Duration = Duration::from_secs(1);
const ASK_INTERVAL: Duration = Duration::from_millis(50);
