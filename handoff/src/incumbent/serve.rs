//! The loop that serves the control socket: one thread that polls, and never waits for a
//! peer or a hook.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use crate::carry::Channel;
use crate::control::{Passed, hello};
use crate::datadir::DataDirLock;
use crate::drainable::Drainable;
use crate::drainable::fence::fenced;
use crate::error::{Error, PeerMisbehaved, Result};
use crate::incumbent::admit::{Settling, at_a_cold_start};
use crate::incumbent::bind::Stop;
use crate::incumbent::hooks::Job;
use crate::incumbent::quota::Quota;
use crate::incumbent::session::Session;
use crate::incumbent::swap::{Swap, after};
use crate::incumbent::{Ended, Incumbent};
use crate::machine::incumbent::{Effect, Event, State};
use crate::protocol::{Capabilities, HandoffId, Message, Side};
use crate::sys::poll;
use crate::sys::socket::{ControlSocket, Peer};

pub(super) fn run<D: Drainable + 'static>(
    incumbent: Incumbent,
    drainable: Arc<D>,
) -> Result<Ended> {
    let Incumbent { mut socket, mut lock, build_id, stop, listeners, commit } = incumbent;
    let capabilities = capabilities_of(&*drainable, commit.is_some())?;
    lock.keep();
    let settling = match commit {
        Some(commit) => {
            let drainable: Arc<dyn Drainable> = Arc::<D>::clone(&drainable);
            commit.admit(&mut socket, &drainable)
        }
        None => {
            lock.record_serving(&build_id)?;
            reach!(ColdStartRecorded)?;
            at_a_cold_start(&*drainable)?;
            None
        }
    };
    let mut server = Server {
        socket,
        lock,
        hello: hello(Side::Incumbent, &build_id, capabilities),
        stop,
        drainable,
        listeners: Passed::new(listeners),
        state: State::Serving,
        swap: None,
        sessions: BTreeMap::new(),
        opened: 0,
        holder: None,
        asked: Vec::new(),
        gathered: None,
        settling,
        accept_again: None,
        publish_again: Some(Instant::now()),
        refusals: Quota::new(MOST_REFUSALS, Instant::now()),
        steps: Quota::new(MOST_STEPS, Instant::now()),
        hook_error: None,
        ended: None,
    };
    loop {
        if let Some(result) = server.ended.take() {
            return result;
        }
        server.turn()?;
    }
}

/// What a supervisor and a successor are told of this process. Sets that cannot be carried are
/// found here, and not in a swap.
fn capabilities_of(drainable: &impl Drainable, is_committed: bool) -> Result<Capabilities> {
    let capabilities = fenced("carriage", || {
        let carriage = drainable.carriage();
        carriage.check()?;
        let carries = !carriage.is_empty();
        Ok(if carries { Capabilities::CARRIES } else { Capabilities::default() })
    });
    let capabilities = match capabilities {
        Err(error) if is_committed => {
            tracing::error!(%error, "nothing will be carried from here");
            Capabilities::default()
        }
        capabilities => capabilities?,
    };
    Ok(capabilities.and(Capabilities::SEALS_NEXT))
}

/// A successor that waits for what is carried.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) handoff_id: HandoffId,
    pub(super) pid: u32,
    pub(super) channel: Channel,
}

pub(super) type Key = u64;

/// The loop's state: the machine, and what its effects work on.
pub(super) struct Server<D> {
    pub(super) socket: ControlSocket,
    pub(super) lock: DataDirLock,
    pub(super) hello: Message,
    pub(super) stop: Arc<Stop>,
    pub(super) drainable: Arc<D>,
    pub(super) listeners: Passed,
    pub(super) state: State,
    pub(super) swap: Option<Swap>,
    /// In the order in which they were opened.
    pub(super) sessions: BTreeMap<Key, Session>,
    pub(super) opened: Key,
    /// The session whose swap is in flight.
    pub(super) holder: Option<Key>,
    /// Successors that have asked for what is carried, until a swap begins.
    pub(super) asked: Vec<Asked>,
    /// What the holder is to be told, while more of it may come.
    pub(super) gathered: Option<Vec<Message>>,
    pub(super) settling: Option<Settling>,
    pub(super) accept_again: Option<Instant>,
    pub(super) publish_again: Option<Instant>,
    /// Of peers, in the log.
    pub(super) refusals: Quota,
    /// Of swaps, in the log.
    pub(super) steps: Quota,
    /// The last error of a hook, whole; the machine knows its words.
    pub(super) hook_error: Option<Error>,
    pub(super) ended: Option<Result<Ended>>,
}

impl<D: Drainable + 'static> Server<D> {
    /// Waits until something is due, and does it.
    fn turn(&mut self) -> Result<()> {
        self.wait()?;
        self.stop.waker.reset();
        self.hear_hooks();
        let is_gone =
            |asked: &Asked| poll::is_ready(asked.channel.as_fd(), PollFlags::RDHUP).unwrap_or(true);
        self.asked.retain(|asked| !is_gone(asked));
        if self.accept_again.is_none_or(|due| due <= Instant::now()) {
            self.accept();
        }
        for key in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.hear_session(key);
        }
        self.on_time();
        let wants_to_stop = self.stop.requested.load(Ordering::Acquire);
        if wants_to_stop && self.state == State::Serving && self.ended.is_none() {
            self.step(Event::StopRequested, None);
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        let is_read = self.reads_messages();
        let mut fds = vec![PollFd::new(&self.stop.waker, PollFlags::IN)];
        if self.accept_again.is_none() {
            fds.push(PollFd::new(self.socket.listener(), PollFlags::IN));
        }
        let asked = self.asked.iter().map(|asked| PollFd::new(&asked.channel, PollFlags::RDHUP));
        fds.extend(asked);
        fds.extend(
            self.sessions.values().map(|session| {
                PollFd::from_borrowed_fd(session.as_fd(), session.interest(is_read))
            }),
        );
        poll::poll(&mut fds, self.next_due())?;
        Ok(())
    }

    fn next_due(&self) -> Option<Instant> {
        let swap = self.swap.as_ref().map_or([None; 5], |swap| self.due_of(swap));
        let sessions = self.sessions.values().filter_map(Session::greeting_deadline);
        let publish = self.publish_again.filter(|_| self.state == State::Serving);
        let own = [self.accept_again, publish, self.refusals.due(), self.steps.due()];
        sessions.chain(own.into_iter().flatten()).chain(swap.into_iter().flatten()).min()
    }

    /// Whether messages may be acted upon now. During an undo they wait for its end; those of
    /// another session than the one that swaps are refused while a swap is in flight.
    fn reads_messages(&self) -> bool {
        match self.holder {
            Some(_) => self.state.admits_messages(),
            None => self.state == State::Serving,
        }
    }

    fn hear_session(&mut self, key: Key) {
        for _ in 0..A_TURN {
            let is_read = self.reads_messages();
            let Some(session) = self.sessions.get_mut(&key) else { return };
            if let Err(error) = session.flush() {
                return self.lose(key, &error);
            }
            if !session.is_greeted() {
                match session.greet() {
                    Ok(true) => {
                        self.attach(key);
                        continue;
                    }
                    Ok(false) => return,
                    Err(error) => return self.lose(key, &error),
                }
            }
            if !is_read {
                if session.is_hung_up() {
                    let peer = Error::PeerLost { peer: "supervisor", during: self.state.name() };
                    self.lose(key, &peer);
                }
                return;
            }
            match session.next() {
                Ok(Some(message)) => self.hear(key, message),
                Ok(None) => return,
                Err(error) => return self.lose(key, &error),
            }
        }
        // The rest waits for the next turn, which comes at once.
        self.stop.waker.wake();
    }

    /// A session that comes for a swap which has lost its supervisor is its supervisor from
    /// here on: what the owner record says waits for its word.
    fn attach(&mut self, key: Key) {
        let came_for = self.sessions.get(&key).and_then(Session::handoff_id);
        if self.holder.is_none() && self.state.is_missing(came_for) {
            if self.steps.admits(Instant::now()) {
                tracing::info!(state = self.state.name(), "a supervisor came back");
            }
            self.holder = Some(key);
        }
    }

    /// One may have come back before it was seen that its predecessor is gone.
    fn attach_another(&mut self) {
        let came_for_it = |session: &&Session| self.state.is_missing(session.handoff_id());
        let key = self.sessions.iter().find(|(_, session)| came_for_it(session));
        if let Some(key) = key.map(|(key, _)| *key) {
            self.attach(key);
        }
    }

    fn hear(&mut self, key: Key, message: Message) {
        tracing::trace!(message = message.name(), state = self.state.name(), "heard");
        match self.holder {
            Some(holder) if holder != key => {
                // The holder may be gone without having been heard yet.
                let gone = self.sessions.get(&holder).is_none_or(Session::is_hung_up);
                if gone && self.state != State::Serving {
                    self.hear_session(holder);
                    self.defer(key, message);
                } else {
                    self.refuse(key, &message);
                }
            }
            _ => self.step(Event::Message(message), Some(key)),
        }
    }

    /// Acts on a message once the undo that its arrival made known is done.
    fn defer(&mut self, key: Key, message: Message) {
        if self.reads_messages() && self.holder.is_none() {
            self.step(Event::Message(message), Some(key));
        } else if let Some(session) = self.sessions.get_mut(&key) {
            session.put_back(message);
        }
    }

    /// Tells a second supervisor whose swap is in flight.
    fn refuse(&mut self, key: Key, message: &Message) {
        let (Some(in_flight), Some(session)) =
            (self.state.handoff_id(), self.sessions.get_mut(&key))
        else {
            return;
        };
        if matches!(message, Message::Heartbeat { .. }) {
            return;
        }
        let handoff_id = message.handoff_id().unwrap_or(in_flight);
        let reason = format!("handoff {in_flight} is in flight");
        let peer = session.peer();
        let _ = session.send(&Message::Abort { handoff_id, reason });
        if self.refusals.admits(Instant::now()) {
            let Peer { pid, uid } = peer;
            let message = message.name();
            tracing::warn!(pid, uid, %handoff_id, %in_flight, message, "refusing a second handoff");
        }
        self.sessions.remove(&key);
    }

    pub(super) fn lose(&mut self, key: Key, error: &Error) {
        let Some(session) = self.sessions.remove(&key) else { return };
        if self.holder == Some(key) {
            let Peer { pid, uid } = session.peer();
            if self.steps.admits(Instant::now()) {
                let state = self.state.name();
                tracing::warn!(pid, uid, %error, state, "lost the supervisor");
            }
            self.holder = None;
            self.step(Event::SessionLost, None);
            self.attach_another();
        } else if is_ordinary(error) {
            tracing::debug!(%error, "a control connection ended");
        } else {
            self.say_refused(session.peer(), error);
        }
    }

    pub(super) fn say_refused(&mut self, peer: Peer, error: &Error) {
        let Peer { pid, uid } = peer;
        if self.refusals.admits(Instant::now()) {
            tracing::warn!(pid, uid, %error, "refusing a control connection");
        }
    }

    pub(super) fn step(&mut self, event: Event, from: Option<Key>) {
        let before = self.state.name();
        let (state, effects) = self.state.clone().on(event);
        self.state = state;
        if before != self.state.name() {
            if self.steps.admits(Instant::now()) {
                tracing::info!(from = before, to = self.state.name(), "incumbent");
            }
            self.reach_state();
        }
        for effect in effects {
            self.perform(effect, from);
        }
        if self.state == State::Serving {
            self.swap = None;
            self.holder = None;
        }
    }

    fn reach_state(&self) {
        match self.state {
            State::Interrupted(_) | State::Waiting(_) | State::Resuming(_) => {
                self.stop_carrier();
                pass!(IncumbentUndoes);
            }
            State::Serving => pass!(IncumbentServesAgain),
            _ => {}
        }
    }

    fn perform(&mut self, effect: Effect, from: Option<Key>) {
        match effect {
            Effect::Send(message) => {
                if let Some(key) = from.or(self.holder) {
                    self.say(key, message);
                }
            }
            Effect::Close(fault) => self.close(from, fault),
            Effect::GiveListeners { handoff_id } => self.give_listeners(from, handoff_id),
            Effect::Offer { handoff_id } => self.offer(from, handoff_id),
            Effect::RunDrain { successor_pid, deadline_ms, drain_grace_ms, .. } => {
                pass!(IncumbentHeardPrepare);
                self.holder = from;
                let lease = after(deadline_ms);
                let grace = after(drain_grace_ms).min(lease);
                self.begin_swap(successor_pid, lease, Job::Drain(grace));
            }
            Effect::RunLastDrain => self.begin_last_drain(),
            Effect::InterruptDrain => {
                self.do_not_seal_next();
                let interrupted = fenced("interrupt", || {
                    self.drainable.carriage().interrupt();
                    self.drainable.interrupt();
                    Ok(())
                });
                if let Err(error) = interrupted {
                    tracing::error!(%error, "the drain runs to its end");
                }
            }
            Effect::SealNext => self.seal_next(),
            Effect::RunSeal => self.run_seal(),
            Effect::RunResume => self.run(Job::Resume),
            Effect::ReleaseLock(report) => self.release_lock(report),
            Effect::ReleaseForGood(report) => self.release_for_good(&report),
            Effect::AwaitLock => self.try_lock(),
            Effect::RetryLater => self.resume_later(),
            Effect::Leave(Ok(())) => {
                pass!(IncumbentLeaves);
                let ended =
                    if self.state == State::Replaced { Ended::Replaced } else { Ended::Stopped };
                if self.state == State::Replaced {
                    self.part();
                }
                if !matches!(self.ended, Some(Err(_))) {
                    self.lock.let_go();
                    self.ended = Some(Ok(ended));
                }
            }
            Effect::Leave(Err(words)) => {
                let error = self.hook_error.take();
                let error = error.unwrap_or_else(|| std::io::Error::other(words).into());
                self.ended.get_or_insert(Err(error));
            }
        }
    }

    /// Sends it, or has it sent along with what else is to be said.
    pub(super) fn say(&mut self, key: Key, message: Message) {
        match &mut self.gathered {
            Some(gathered) if self.holder == Some(key) => gathered.push(message),
            _ => self.say_all(key, &[message]),
        }
    }

    pub(super) fn say_all(&mut self, key: Key, messages: &[Message]) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if let Err(error) = session.send_all(messages) {
            self.lose(key, &error);
        }
        for message in messages {
            match message {
                Message::Drained { .. } => pass!(IncumbentSaidDrained),
                Message::SealComplete { .. } => pass!(IncumbentSaidSealed),
                _ => {}
            }
        }
    }

    fn give_listeners(&mut self, from: Option<Key>, handoff_id: HandoffId) {
        pass!(IncumbentGivesListeners);
        let generation = self.lock.generation();
        for batch in self.listeners.batches() {
            let (listeners, left) = (batch.names(), batch.left());
            let message = Message::Adopted { handoff_id, generation, listeners, left };
            let Some(key) = from else { return };
            let Some(session) = self.sessions.get_mut(&key) else { return };
            if let Err(error) = session.send_with(&message, Some(batch)) {
                return self.lose(key, &error);
            }
        }
        if self.steps.admits(Instant::now()) {
            tracing::info!("a supervisor got the listeners back");
        }
    }

    /// The session's connection becomes a channel, on which this process alone speaks.
    fn offer(&mut self, from: Option<Key>, handoff_id: HandoffId) {
        let Some(session) = from.and_then(|key| self.sessions.remove(&key)) else { return };
        let (peer, came_for) = (session.peer(), session.handoff_id());
        if came_for != Some(handoff_id) {
            let message = "Fetch";
            let expected = came_for.unwrap_or(handoff_id);
            let fault = PeerMisbehaved::WrongHandoff { message, expected, got: handoff_id };
            return self.say_refused(peer, &fault.into());
        }
        let opened = session.into_stream().and_then(|stream| {
            fenced("carriage", || match self.drainable.carriage() {
                nothing if nothing.is_empty() => {
                    let (message, state) = ("Fetch", "carrying nothing");
                    Err(PeerMisbehaved::Unexpected { message, state }.into())
                }
                carriage => Channel::open(stream, &carriage),
            })
        });
        match opened {
            Ok(channel) => {
                self.asked.retain(|asked| asked.pid != peer.pid);
                if self.asked.len() >= MOST_ASKED {
                    self.asked.remove(0);
                }
                self.asked.push(Asked { handoff_id, pid: peer.pid, channel });
            }
            Err(error) => self.say_refused(peer, &error),
        }
    }

    /// The successor has what was carried: the copies here are closed.
    fn part(&mut self) {
        let parted = fenced("part", || {
            self.drainable.carriage().part();
            Ok(())
        });
        if let Err(error) = parted {
            tracing::error!(%error, "copies of connections are closed when the process ends");
        }
    }

    fn close(&mut self, from: Option<Key>, fault: PeerMisbehaved) {
        let Some(key) = from else { return };
        let Some(session) = self.sessions.remove(&key) else { return };
        self.say_refused(session.peer(), &fault.into());
        if self.holder == Some(key) {
            self.holder = None;
            self.attach_another();
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        let silent: Vec<Key> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.greeting_deadline().is_some_and(|due| due <= now))
            .map(|(key, _)| *key)
            .collect();
        for key in silent {
            self.lose(key, &Error::TimedOut("waiting for a greeting"));
        }
        for (quota, of) in [(&mut self.refusals, "refusals"), (&mut self.steps, "steps")] {
            if let Some(count) = quota.take_unsaid(now) {
                tracing::warn!(count, of, "there were more than are told one by one");
            }
        }
        self.accept_again = self.accept_again.filter(|due| *due > now);
        // During a swap the path may be the successor's.
        let publishes = self.state == State::Serving;
        if publishes && self.publish_again.is_some_and(|due| due <= now) {
            self.publish();
        }
        self.on_time_of_swap(now);
    }
}

/// Whether a session ended as sessions do: the peer closed it between two frames, or died.
fn is_ordinary(error: &Error) -> bool {
    match error {
        Error::PeerLost { .. } => true,
        Error::Io(error) => {
            matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
        }
        _ => false,
    }
}

/// Lines of the log a second.
const MOST_REFUSALS: u32 = 16;
const MOST_STEPS: u32 = 64;
/// Successors of swaps that have not begun: there is one, unless a supervisor is replaced.
const MOST_ASKED: usize = 8;
/// Messages of one session, or connections, that are acted upon before others have their turn.
pub(super) const A_TURN: usize = 64;
