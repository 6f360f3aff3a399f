//! The events of a swap: messages, ends of processes and of connections, and passed timeouts.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::{ROLLBACK_PATIENCE, Swap};
use crate::control::{LIVENESS_TIMEOUT, Link, Received};
use crate::drainable::{DrainReport, ReadinessSnapshot, SealProgress, SealReport};
use crate::log;
use crate::machine::cause::PauseStart;
use crate::machine::supervisor::{Command, Event, State};
use crate::protocol::Message;
use crate::supervisor::{LateConnections, Progress};
use crate::sys::poll;
use crate::sys::process::Process;

impl Swap {
    /// The next event, or a deadline or timeout that has passed. With `until`, none if no event
    /// came by then.
    pub(super) fn next_event(&mut self, until: Option<Instant>) -> Option<Event> {
        loop {
            // The incumbent's end comes before an abort or a deadline: only the successor may be
            // left.
            let event = self.heard_event().or_else(|| self.abort_event());
            if let Some(event) = event.or_else(|| self.overdue_event()) {
                return Some(event);
            }
            let now = Instant::now();
            if self.incumbent.ask_again.is_some_and(|due| due <= now) {
                self.ask_incumbent();
                continue;
            }
            if until.is_some_and(|until| until <= now) {
                return None;
            }
            self.poll();
        }
    }

    /// The abort by another thread. Returned once.
    fn abort_event(&mut self) -> Option<Event> {
        let abort = self.abort.take_if(|abort| abort.reason().is_some())?;
        let reason = abort.reason()?.to_owned();
        Some(Event::Command(Command::Abort(reason)))
    }

    /// The next message, or the end of a link or a process. The messages that this process has
    /// received by now come before the end of their sender.
    fn heard_event(&mut self) -> Option<Event> {
        if !self.successor.is_closed {
            match self.successor.link.clone().attend().next() {
                Received::Message(message) => {
                    self.learn_from_successor(&message);
                    return Some(Event::Successor(message));
                }
                Received::Nothing => {}
                Received::Closed => {
                    self.successor.is_closed = true;
                    return Some(Event::SuccessorLost);
                }
                Received::Broken(error) => {
                    log::error!(
                        pid = self.successor.pid, swap = %self.handoff_id(), %error,
                        "the successor sent bytes that are no message: the supervisor takes it for lost"
                    );
                    self.successor.is_closed = true;
                    return Some(Event::SuccessorLost);
                }
            }
        }
        if !self.incumbent.is_closed {
            match self.incumbent.link.clone().attend().next() {
                Received::Message(Message::Heartbeat { .. }) => return Some(Event::Echoed),
                Received::Message(Message::Abort { reason, .. }) if self.incumbent.asked_anew => {
                    log::warn!(
                        pid = self.incumbent.pid, swap = %self.handoff_id(), reason,
                        "the incumbent does not confirm that it serves: another swap is in flight, or it is being stopped"
                    );
                    return Some(Event::Refused);
                }
                Received::Message(message) => {
                    self.learn_from_incumbent(&message);
                    return Some(Event::Incumbent(message));
                }
                Received::Nothing => {}
                Received::Closed => return Some(self.on_incumbent_closed()),
                Received::Broken(error) => {
                    log::error!(
                        pid = self.incumbent.pid, swap = %self.handoff_id(), %error,
                        "the incumbent sent bytes that are no message: the supervisor takes its connection for closed"
                    );
                    return Some(self.on_incumbent_closed());
                }
            }
        }
        let ended =
            |process: &Process| poll::is_ready(process.as_fd(), PollFlags::IN).unwrap_or(false);
        if !self.successor.has_ended
            && self.successor.child.as_ref().is_some_and(|child| ended(child.process()))
        {
            self.successor.has_ended = true;
            return Some(Event::SuccessorEnded);
        }
        if !self.incumbent.has_ended && ended(&self.incumbent.process) {
            self.incumbent.has_ended = true;
            return Some(Event::IncumbentDied);
        }
        None
    }

    /// An incumbent that died and one that closed its connection look alike for a moment.
    fn on_incumbent_closed(&mut self) -> Event {
        self.incumbent.is_closed = true;
        let deadline = Instant::now() + EXIT_PATIENCE;
        if !self.incumbent.has_ended
            && self.incumbent.process.wait_for_end(deadline).unwrap_or(false)
        {
            self.incumbent.has_ended = true;
            return Event::IncumbentDied;
        }
        Event::IncumbentDisconnected
    }

    fn overdue_event(&self) -> Option<Event> {
        let now = Instant::now();
        let silent = |link: &Link| {
            now.saturating_duration_since(link.attend().heard().max(self.clock.entered))
                > LIVENESS_TIMEOUT
        };
        match &self.machine.state {
            State::Confirming(_) | State::Ending(_) => {
                let too_long = now >= self.clock.entered + ROLLBACK_PATIENCE;
                let hung = matches!(self.machine.state, State::Confirming(_))
                    && (self.incumbent.is_closed || silent(&self.incumbent.link))
                    && now > self.clock.entered + LIVENESS_TIMEOUT;
                (too_long || hung).then_some(Event::PatienceEnded)
            }
            state if state.is_at_rest() => None,
            state => match self.clock.passed(state) {
                Some(limit) => Some(Event::LimitPassed(limit)),
                None if silent(&self.successor.link) => Some(Event::SuccessorSilent),
                None if matches!(state, State::Draining(_) | State::Sealing)
                    && silent(&self.incumbent.link) =>
                {
                    Some(Event::IncumbentSilent)
                }
                None => None,
            },
        }
    }

    /// Waits for the next event, at most until a deadline or timeout may have passed.
    fn poll(&self) {
        let now = Instant::now();
        let soon = now + SILENCE_CHECK;
        let deadline = match &self.machine.state {
            State::Confirming(_) | State::Ending(_) => self.clock.entered + ROLLBACK_PATIENCE,
            _ if self.clock.limit_told => soon,
            state => self.clock.next_limit(state).0,
        };
        let due = self.incumbent.ask_again.unwrap_or(soon).min(deadline).min(soon);
        let mut fds = Vec::with_capacity(5);
        fds.extend(self.abort.iter().map(|abort| PollFd::new(abort.waker(), PollFlags::IN)));
        if !self.incumbent.is_closed {
            fds.push(PollFd::from_borrowed_fd(self.incumbent.link.as_fd(), PollFlags::IN));
        }
        if !self.successor.is_closed {
            fds.push(PollFd::from_borrowed_fd(self.successor.link.as_fd(), PollFlags::IN));
        }
        if !self.incumbent.has_ended {
            fds.push(PollFd::new(&self.incumbent.process, PollFlags::IN));
        }
        if let Some(child) = self.successor.child.as_ref().filter(|_| !self.successor.has_ended) {
            fds.push(PollFd::new(child.process(), PollFlags::IN));
        }
        // The pulse does not read a link that this thread attends to. Polling does not show the
        // messages that the pulse read before.
        let (incumbent, successor) = (self.incumbent.link.attend(), self.successor.link.attend());
        if !self.incumbent.is_closed && incumbent.is_pending()
            || !self.successor.is_closed && successor.is_pending()
        {
            return;
        }
        if let Err(error) = poll::poll(&mut fds, Some(due)) {
            log::error!(swap = %self.handoff_id(), %error, "the supervisor cannot poll its connections");
        }
    }

    fn learn_from_incumbent(&mut self, message: &Message) {
        match message {
            &Message::GateClosed { handoff_id }
                if handoff_id == self.handoff_id()
                    && matches!(self.machine.state, State::Draining(_)) =>
            {
                if let Some(elapsed) = self.clock.pause(PauseStart::GateClosed) {
                    self.tell(Progress::GateClosed { handoff_id, elapsed });
                }
            }
            &Message::Drained { open_conns_remaining, accept_closed } => {
                // At the latest: an incumbent might not have said it.
                self.clock.pause(PauseStart::GateClosed);
                self.learnt.drain = DrainReport { open_conns_remaining, accept_closed };
            }
            Message::Late { connections, unnamed, .. } => {
                let late = LateConnections { connections: connections.clone(), unnamed: *unnamed };
                let handoff_id = self.handoff_id();
                log::warn!(
                    pid = self.incumbent.pid, swap = %handoff_id, %late,
                    "connections did not reach a request boundary within the drain grace: the swap does not carry them"
                );
                self.tell(Progress::Late { handoff_id, late: late.clone() });
                self.learnt.carried.late = late;
            }
            &Message::Draining { handoff_id, open_conns, ref connections, unnamed }
                if handoff_id == self.handoff_id()
                    && matches!(self.machine.state, State::Draining(_)) =>
            {
                let waiting = LateConnections { connections: connections.clone(), unnamed };
                self.tell(Progress::Draining { handoff_id, open_conns, waiting });
            }
            Message::SealComplete { last_revision_per_shard, data_dir_fingerprint, .. } => {
                self.learnt.is_sealed = true;
                self.learnt.sealed = SealReport {
                    last_revision_per_shard: last_revision_per_shard.clone(),
                    data_dir_fingerprint: *data_dir_fingerprint,
                };
            }
            &Message::SealProgress { shards_sealed, shards_total, last_revision } => {
                let progress = SealProgress { shards_sealed, shards_total, last_revision };
                let handoff_id = self.handoff_id();
                self.tell(Progress::Sealing { handoff_id, progress });
            }
            _ => {}
        }
    }

    fn learn_from_successor(&mut self, message: &Message) {
        match message {
            Message::Verified { data_dir_fingerprint, .. } => {
                self.learnt.verified = Some(*data_dir_fingerprint);
            }
            Message::Ready { listening_on, healthz_ok, advertised_revision_per_shard, .. } => {
                self.learnt.ready = ReadinessSnapshot {
                    listening_on: listening_on.clone(),
                    healthz_ok: *healthz_ok,
                    advertised_revision_per_shard: advertised_revision_per_shard.clone(),
                };
            }
            Message::Carried { sets, .. } => {
                self.learnt.carried.sets.clone_from(sets);
                self.learnt.carried.not_asked_for = false;
            }
            Message::Serving { generation, .. } => self.learnt.generation = *generation,
            _ => {}
        }
    }
}

/// How often this thread looks for a silent process.
pub(super) const SILENCE_CHECK: Duration = Duration::from_millis(250);
/// From the end of a connection to the end of its process.
const EXIT_PATIENCE: Duration = Duration::from_millis(250);
