//! The end of a swap after its supervisor died. The incumbent and the successor decide it without
//! a supervisor; this one watches, and ends a successor that does not decide.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::control::{Connection, Heard, LIVENESS_TIMEOUT, connect, echo_value, greet};
use crate::error::{Error, Result};
use crate::log;
use crate::machine::adopter::{Effect, Event, Machine, State};
use crate::machine::outcome::Outcome;
use crate::protocol::{HandoffId, Message, Side};
use crate::supervisor::journal::OpenSwap;
use crate::sys::poll;
use crate::sys::process::{Process, ProcessId};

/// A swap that another supervisor had begun.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// The swap.
    pub handoff_id: HandoffId,
    /// Committed, rolled back or lost; unknown where the incumbent is busy with another swap, or
    /// is being stopped.
    pub outcome: Outcome,
    /// The pid of the process that was to be replaced.
    pub incumbent_pid: u32,
    /// The pid of the process that was to replace it.
    pub successor_pid: u32,
}

/// Waits for the end of a swap, and ends a successor that hangs.
pub(super) fn resolve(control: &Path, swap: &OpenSwap, deadline: Instant) -> Result<Resolved> {
    let handoff_id = swap.handoff_id;
    let mut resolving = Resolving {
        control,
        swap,
        machine: Machine::new(),
        incumbent: swap.incumbent.open()?,
        successor: swap.successor.open()?,
        call: None,
        entered: Instant::now(),
        stopped_since: None,
        next_look: Instant::now(),
    };
    log::info!(
        swap = %handoff_id, incumbent = swap.incumbent.pid, successor = swap.successor.pid,
        "this supervisor resolves the swap of a supervisor that died"
    );
    failpoint!(AdopterResolves);
    let absent = [
        resolving.successor.is_none().then_some(Event::SuccessorEnded),
        resolving.incumbent.is_none().then_some(Event::IncumbentDied),
    ];
    for event in absent.into_iter().flatten() {
        resolving.step(event);
    }
    loop {
        if let State::Resolved(outcome) = resolving.machine.state {
            log::info!(
                swap = %handoff_id, %outcome,
                "the swap of the supervisor that died is resolved"
            );
            let (incumbent_pid, successor_pid) = (swap.incumbent.pid, swap.successor.pid);
            return Ok(Resolved { handoff_id, outcome, incumbent_pid, successor_pid });
        }
        if Instant::now() >= deadline {
            return Err(resolving.unanswered());
        }
        if let Some(event) = resolving.next_event(deadline)? {
            resolving.step(event);
        }
    }
}

struct Resolving<'a> {
    control: &'a Path,
    swap: &'a OpenSwap,
    machine: Machine,
    /// None once the process is known to be dead; so for the successor.
    incumbent: Option<Process>,
    successor: Option<Process>,
    /// The connection to the incumbent, which waits for this supervisor's word while it is open.
    call: Option<Connection>,
    entered: Instant,
    /// Since when the successor was seen to be stopped, without a break.
    stopped_since: Option<Instant>,
    /// When to look again which process has the control socket.
    next_look: Instant,
}

impl Resolving<'_> {
    fn step(&mut self, event: Event) {
        let before = self.machine.state;
        for effect in self.machine.on(event) {
            match effect {
                Effect::KillSuccessor => {
                    let killed = self.successor.as_ref().map(Process::kill);
                    if let Some(Err(error)) = killed {
                        log::error!(
                            pid = self.swap.successor.pid, swap = %self.swap.handoff_id, %error,
                            "the supervisor cannot kill the successor: end it by hand, it may have the lock"
                        );
                    }
                    if self.machine.state == State::Ending {
                        failpoint!(AdopterKilledSuccessor);
                    }
                }
                // The next look asks the incumbent, if it can be reached.
                Effect::AskIncumbent => self.next_look = Instant::now(),
            }
        }
        if before != self.machine.state {
            self.entered = Instant::now();
        }
    }

    /// The next event. Waits for one until the next look or the deadline, and may return none.
    fn next_event(&mut self, deadline: Instant) -> Result<Option<Event>> {
        let ended = |process: &Option<Process>| match process {
            Some(process) => process.wait_for_end(Instant::now()),
            None => Ok(false),
        };
        if ended(&self.successor)? {
            self.successor = None;
            return Ok(Some(Event::SuccessorEnded));
        }
        if ended(&self.incumbent)? {
            (self.incumbent, self.call) = (None, None);
            return Ok(Some(Event::IncumbentDied));
        }
        if let Some(event) = self.heard() {
            return Ok(Some(event));
        }
        if Instant::now() >= self.next_look {
            self.next_look = Instant::now() + LOOK_INTERVAL;
            if let Some(event) = self.look(deadline) {
                return Ok(Some(event));
            }
        }
        if self.machine.state == State::Adopting && self.is_out_of_patience() {
            // A successor of a one-way swap may just have announced itself.
            let announced = self.swap.one_way.then(|| self.look(deadline)).flatten();
            return Ok(Some(announced.unwrap_or(Event::SuccessorSilent)));
        }
        let mut fds = Vec::with_capacity(3);
        fds.extend(self.successor.iter().map(|process| PollFd::new(process, PollFlags::IN)));
        fds.extend(self.incumbent.iter().map(|process| PollFd::new(process, PollFlags::IN)));
        fds.extend(self.call.iter().map(|call| PollFd::new(call, PollFlags::IN)));
        poll::poll(&mut fds, Some(self.next_look.min(deadline)))?;
        Ok(None)
    }

    /// Whether to end the successor. A successor decides at once when its supervisor dies, and
    /// ending it is harmless while an incumbent waits for this supervisor's word (invariant 3). A
    /// successor that is alone may take as long as it likes to open, unless it stays stopped.
    fn is_out_of_patience(&mut self) -> bool {
        let now = Instant::now();
        let is_long_ago = |since: Instant| now >= since + LIVENESS_TIMEOUT;
        let is_alone = self.machine.incumbent_is_dead;
        if !(is_alone && self.swap.successor.is_stopped()) {
            self.stopped_since = None;
            return self.call.is_some() && is_long_ago(self.entered);
        }
        is_long_ago(*self.stopped_since.get_or_insert(now))
    }

    fn heard(&mut self) -> Option<Event> {
        let call = self.call.as_mut()?;
        let pid = self.swap.incumbent.pid;
        match call.next() {
            Ok(Heard::Frame(Message::Heartbeat { ts_ms }))
                if ts_ms == echo_value(self.swap.handoff_id) =>
            {
                return Some(Event::Echoed);
            }
            Ok(Heard::Frame(Message::Abort { .. })) => return Some(Event::Refused),
            Ok(Heard::Frame(_) | Heard::Nothing) => return None,
            Ok(Heard::End) => log::debug!(pid, "the incumbent has closed its connection"),
            Err(error) => log::debug!(pid, %error, "the incumbent cannot be asked"),
        }
        self.call = None;
        Some(Event::IncumbentDisconnected)
    }

    /// Connects to the process that has the control socket. An incumbent is asked to serve, and
    /// waits for this supervisor from then on. A successor has the socket only after its commit.
    fn look(&mut self, deadline: Instant) -> Option<Event> {
        let deadline = deadline.min(Instant::now() + ANSWER_TIMEOUT);
        let (mut call, peer) = connect(self.control, deadline).ok()?;
        let is_it =
            |id: ProcessId, process: &Option<Process>| process.is_some() && id.pid == peer.pid;
        if is_it(self.swap.successor, &self.successor) {
            // A successor that was killed and not collected may have it too. This supervisor lets
            // an incumbent that waits go only for a successor that answers. In a one-way swap the
            // successor has the socket before it does what the incumbent could not undo, and answers
            // after that: the incumbent is not to serve any more.
            let answers =
                self.call.is_none() || self.swap.one_way || call.answer_before(deadline).is_ok();
            let serves = answers && !self.swap.successor.is_ending();
            return serves.then_some(Event::SuccessorServes);
        }
        if is_it(self.swap.incumbent, &self.incumbent) && self.call.is_none() {
            match self.ask(&mut call, deadline) {
                Ok(()) => self.call = Some(call),
                Err(error) => {
                    let pid = self.swap.incumbent.pid;
                    log::debug!(pid, %error, "the incumbent cannot be asked yet");
                }
            }
        }
        None
    }

    fn ask(&self, call: &mut Connection, deadline: Instant) -> Result<()> {
        let handoff_id = self.swap.handoff_id;
        greet(call, Side::Incumbent, self.swap.incumbent.pid, handoff_id, deadline, None)?;
        let resume = Message::ResumeAfterAbort { handoff_id };
        let ask = Message::Heartbeat { ts_ms: echo_value(handoff_id) };
        call.send_before(&[resume, ask], deadline)?;
        Ok(try_failpoint!(AdopterAskedIncumbent)?)
    }

    fn unanswered(&self) -> Error {
        let dead = self.incumbent.is_none();
        let id = if dead { self.swap.successor } else { self.swap.incumbent };
        Error::Unanswered { pid: id.pid, path: self.control.to_owned() }
    }
}

const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
