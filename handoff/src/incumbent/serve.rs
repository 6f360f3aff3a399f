//! The loop that serves the control socket: one thread that polls, and never waits for a
//! peer or a hook.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::datadir::{Decision, SealManifest};
use crate::drainable::fence::fenced;
use crate::drainable::{Drainable, SealReport, SealedShard};
use crate::error::{Error, PeerMisbehaved, Result};
use crate::frame::{HEARTBEAT_INTERVAL, LIVENESS_LIMIT};
use crate::incumbent::bind::{KeptLock, Stop};
use crate::incumbent::hooks::{Hooks, Job, Outcome};
use crate::incumbent::session::Session;
use crate::incumbent::{Ended, Incumbent};
use crate::machine::hello;
use crate::machine::incumbent::{Effect, Event, State};
use crate::protocol::{Message, Side, in_words};
use crate::sys::poll;
use crate::sys::process::ProcessId;
use crate::sys::socket::{ControlSocket, Peer};

pub(super) fn run<D: Drainable + 'static>(
    incumbent: Incumbent,
    drainable: Arc<D>,
) -> Result<Ended> {
    let Incumbent { socket, lock, build_id, stop } = incumbent;
    let mut lock = KeptLock::new(lock);
    lock.with(|lock| lock.record_serving(&build_id))?;
    fenced("admit", || drainable.admit())?;
    let mut server = Server {
        socket,
        lock,
        hello: hello(Side::Incumbent, &build_id),
        stop,
        drainable,
        state: State::Serving,
        swap: None,
        sessions: BTreeMap::new(),
        opened: 0,
        holder: None,
        accept_again: None,
        publish_again: Some(Instant::now()),
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

type Key = u64;

/// The loop's state: the machine, and what its effects work on.
struct Server<D> {
    socket: ControlSocket,
    lock: KeptLock,
    hello: Message,
    stop: Arc<Stop>,
    drainable: Arc<D>,
    state: State,
    swap: Option<Swap>,
    /// In the order in which they were opened.
    sessions: BTreeMap<Key, Session>,
    opened: Key,
    /// The session whose swap is in flight.
    holder: Option<Key>,
    accept_again: Option<Instant>,
    publish_again: Option<Instant>,
    /// The last error of a hook, whole; the machine knows its words.
    hook_error: Option<Error>,
    ended: Option<Result<Ended>>,
}

/// What lasts from a drain until the daemon serves again, or is gone.
struct Swap {
    hooks: Hooks,
    hook_runs: bool,
    successor_pid: u32,
    lease: Instant,
    lease_ended: bool,
    next_beat: Instant,
    next_try: Option<Instant>,
    retry: Option<Instant>,
    retry_pause: Duration,
    shards: Vec<SealedShard>,
}

impl<D: Drainable + 'static> Server<D> {
    /// Waits until something is due, and does it.
    fn turn(&mut self) -> Result<()> {
        self.wait()?;
        self.stop.waker.reset();
        self.hear_hooks();
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
        fds.extend(
            self.sessions.values().map(|session| {
                PollFd::from_borrowed_fd(session.as_fd(), session.interest(is_read))
            }),
        );
        poll::poll(&mut fds, self.next_due())?;
        Ok(())
    }

    fn next_due(&self) -> Option<Instant> {
        let swap = self.swap.as_ref().map_or([None; 4], |swap| {
            let lease = (!swap.lease_ended).then_some(swap.lease);
            let beat = self.beats(swap).then_some(swap.next_beat);
            [lease, beat, swap.next_try, swap.retry]
        });
        let sessions = self.sessions.values().filter_map(Session::greeting_deadline);
        let own = [self.accept_again, self.publish_again];
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
        for _ in 0..MESSAGES_A_TURN {
            let is_read = self.reads_messages();
            let Some(session) = self.sessions.get_mut(&key) else { return };
            if let Err(error) = session.flush() {
                return self.lose(key, &error);
            }
            if !session.is_greeted() {
                match session.greet() {
                    Ok(true) => continue,
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
        tracing::warn!(%handoff_id, %in_flight, "refusing a second handoff");
        let _ = session.send(&Message::Abort { handoff_id, reason });
        self.sessions.remove(&key);
    }

    fn lose(&mut self, key: Key, error: &Error) {
        self.sessions.remove(&key);
        if self.holder == Some(key) {
            tracing::warn!(%error, state = self.state.name(), "lost the supervisor");
            self.holder = None;
            self.step(Event::SessionLost, None);
        } else {
            tracing::debug!(%error, "a control connection ended");
        }
    }

    fn step(&mut self, event: Event, from: Option<Key>) {
        let before = self.state.name();
        let state = std::mem::replace(&mut self.state, State::Serving);
        let (state, effects) = state.on(event);
        self.state = state;
        if before != self.state.name() {
            tracing::info!(from = before, to = self.state.name(), "incumbent");
        }
        for effect in effects {
            self.perform(effect, from);
        }
        if self.state == State::Serving {
            self.swap = None;
            self.holder = None;
        }
    }

    fn perform(&mut self, effect: Effect, from: Option<Key>) {
        match effect {
            Effect::Send(message) => {
                let Some(key) = from.or(self.holder) else { return };
                let Some(session) = self.sessions.get_mut(&key) else { return };
                if let Err(error) = session.send(&message) {
                    self.lose(key, &error);
                }
            }
            Effect::Close(fault) => self.close(from, fault),
            Effect::RunDrain { successor_pid, deadline_ms, drain_grace_ms, .. } => {
                self.holder = from;
                let lease = after(Duration::from_millis(deadline_ms));
                let grace = after(Duration::from_millis(drain_grace_ms)).min(lease);
                self.begin_swap(successor_pid, lease, grace);
            }
            Effect::RunLastDrain => {
                let grace = after(STOP_GRACE);
                self.begin_swap(0, after(FOREVER), grace);
            }
            Effect::InterruptDrain => {
                let interrupted = fenced("interrupt", || {
                    self.drainable.interrupt();
                    Ok(())
                });
                if let Err(error) = interrupted {
                    tracing::error!(%error, "the drain runs to its end");
                }
            }
            Effect::RunSeal => self.run(Job::Seal),
            Effect::RunResume => self.run(Job::Resume),
            Effect::ReleaseLock(report) => self.release_lock(report),
            Effect::ReleaseForGood(report) => self.release_for_good(&report),
            Effect::AwaitLock => {
                if let Some(swap) = &mut self.swap {
                    swap.next_try = Some(Instant::now());
                }
                self.try_lock();
            }
            Effect::RetryLater => {
                if let Some(swap) = &mut self.swap {
                    swap.retry = Some(Instant::now() + swap.retry_pause);
                    swap.retry_pause = (swap.retry_pause * 2).min(LONGEST_RETRY_PAUSE);
                }
            }
            Effect::Leave(Ok(())) => {
                let ended =
                    if self.state == State::Replaced { Ended::Replaced } else { Ended::Stopped };
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

    fn close(&mut self, from: Option<Key>, fault: PeerMisbehaved) {
        let Some(key) = from else { return };
        tracing::warn!(error = %fault, "closing a control connection");
        self.sessions.remove(&key);
        if self.holder == Some(key) {
            self.holder = None;
        }
    }

    fn begin_swap(&mut self, successor_pid: u32, lease: Instant, grace: Instant) {
        let hooks = match Hooks::start(Arc::clone(&self.drainable), Arc::clone(&self.stop)) {
            Ok(hooks) => hooks,
            Err(error) => {
                // Nothing was begun, so there is nothing to undo but the state.
                tracing::error!(%error, "cannot start the thread of the hooks");
                self.state = State::Serving;
                if let Some(key) = self.holder.take() {
                    self.sessions.remove(&key);
                }
                return;
            }
        };
        let now = Instant::now();
        self.swap = Some(Swap {
            hooks,
            hook_runs: false,
            successor_pid,
            lease,
            lease_ended: false,
            next_beat: now + HEARTBEAT_INTERVAL,
            next_try: None,
            retry: None,
            retry_pause: RETRY_PAUSE,
            shards: Vec::new(),
        });
        self.run(Job::Drain(grace));
    }

    fn run(&mut self, job: Job) {
        if let Some(swap) = &mut self.swap {
            swap.retry = None;
            swap.hook_runs = true;
            swap.hooks.run(job);
        }
    }

    fn hear_hooks(&mut self) {
        while let Some(outcome) = self.swap.as_ref().and_then(|swap| swap.hooks.next()) {
            if let Outcome::Progress(progress) = outcome {
                self.tell(&Message::SealProgress {
                    shards_sealed: progress.shards_sealed,
                    shards_total: progress.shards_total,
                    last_revision: progress.last_revision,
                });
                continue;
            }
            if let Some(swap) = &mut self.swap {
                swap.hook_runs = false;
            }
            let event = match outcome {
                Outcome::Progress(_) => continue,
                Outcome::Drained(result) => Event::DrainEnded(self.in_words("drain", result)),
                Outcome::Sealed(result) => {
                    let result = self.in_words("seal", result);
                    Event::SealEnded(result.map(|(report, shards)| {
                        if let Some(swap) = &mut self.swap {
                            swap.shards = shards;
                        }
                        report
                    }))
                }
                Outcome::Resumed(result) => {
                    Event::ResumeEnded(self.in_words("resume_after_abort", result))
                }
            };
            self.step(event, None);
        }
    }

    fn in_words<T>(&mut self, hook: &'static str, result: Result<T>) -> Result<T, String> {
        result.map_err(|error| {
            tracing::error!(hook, %error, "a hook failed");
            let words = in_words(&error);
            self.hook_error = Some(error);
            words
        })
    }

    fn tell(&mut self, message: &Message) {
        let Some(key) = self.holder else { return };
        let sent = self.sessions.get_mut(&key).map(|session| session.send(message));
        if let Some(Err(error)) = sent {
            self.lose(key, &error);
        }
    }

    fn release_lock(&mut self, report: SealReport) {
        let (Some(swap), Some(handoff_id)) = (&mut self.swap, self.state.handoff_id()) else {
            return;
        };
        let (shards, successor) = (std::mem::take(&mut swap.shards), swap.successor_pid);
        let released = self.lock.with(|lock| {
            SealManifest::of_seal(lock.generation(), &report, shards, false)
                .write(lock.data_dir())?;
            lock.release_for(handoff_id, successor)
        });
        let event = match self.in_words("seal", released) {
            Ok(()) => Event::LockReleased(report),
            Err(words) => Event::LockKept(words),
        };
        self.step(event, None);
    }

    fn release_for_good(&mut self, report: &SealReport) {
        let shards = self.swap.as_mut().map(|swap| std::mem::take(&mut swap.shards));
        let released = self.lock.with(|lock| {
            let shards = shards.unwrap_or_default();
            SealManifest::of_seal(lock.generation(), report, shards, true)
                .write(lock.data_dir())?;
            lock.release_sealed()
        });
        if let Err(error) = released {
            self.ended = Some(Err(error));
        }
    }

    /// Takes the lock, or learns that it is lost for good, or tries again a little later.
    fn try_lock(&mut self) {
        let event = match self.lock.with(crate::DataDirLock::retake) {
            Ok(Decision::Retaken) => Event::LockRetaken,
            Ok(Decision::Replaced { generation }) => {
                tracing::info!(generation, "a newer generation serves");
                Event::Superseded
            }
            Ok(Decision::Undecided { holder }) => {
                self.end_hung_successor(holder);
                return self.try_lock_later();
            }
            Err(error) => {
                tracing::error!(%error, "cannot take the lock again");
                return self.try_lock_later();
            }
        };
        if let Some(swap) = &mut self.swap {
            swap.next_try = None;
        }
        self.step(event, None);
    }

    fn try_lock_later(&mut self) {
        if let Some(swap) = &mut self.swap {
            swap.next_try = Some(Instant::now() + LOCK_INTERVAL);
        }
    }

    /// A successor that is undecided past the deadline, with no supervisor to end it, is
    /// hung. Killing it loses nothing, even past its commit point: the lock is taken after.
    fn end_hung_successor(&self, holder: ProcessId) {
        let Some(swap) = &self.swap else { return };
        let now = Instant::now();
        let alone = self.holder.is_none() || now > swap.lease + LIVENESS_LIMIT;
        let is_the_successor = holder.pid == swap.successor_pid && holder.pid != std::process::id();
        if now > swap.lease
            && alone
            && is_the_successor
            && let Some(process) = holder.open()
        {
            tracing::error!(pid = holder.pid, "ending a hung successor");
            let _ = process.kill();
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
        self.accept_again = self.accept_again.filter(|due| *due > now);
        if self.publish_again.is_some_and(|due| due <= now) {
            self.publish();
        }
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
                self.tell(&Message::Heartbeat { ts_ms: 0 });
            }
        }
        if lease {
            tracing::warn!(state = self.state.name(), "the deadline passed");
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

    /// Takes the path over, if that failed at the commit.
    fn publish(&mut self) {
        self.publish_again = self.socket.publish().err().map(|error| {
            tracing::error!(%error, path = %self.socket.path().display(), "nobody finds this process");
            Instant::now() + PUBLISH_INTERVAL
        });
    }

    fn accept(&mut self) {
        for _ in 0..MESSAGES_A_TURN {
            let stream = match self.socket.listener().accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    // Out of descriptors, most likely: it passes, and the loop goes on.
                    tracing::error!(%error, "cannot accept a control connection");
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            };
            let peer = Peer::of(&stream);
            match peer {
                Ok(peer) if peer.is_trusted() => {}
                Ok(peer) => {
                    let error = PeerMisbehaved::WrongUser(peer.uid);
                    tracing::warn!(pid = peer.pid, %error, "refusing a control connection");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "refusing a control connection of nobody knows whom");
                    continue;
                }
            }
            self.make_room();
            match Session::open(stream, &self.hello) {
                Ok(session) => {
                    self.opened += 1;
                    self.sessions.insert(self.opened, session);
                }
                Err(error) => tracing::debug!(%error, "a control connection ended at once"),
            }
        }
    }

    /// Drops the oldest session that has not said anything, or else the oldest without a swap.
    fn make_room(&mut self) {
        if self.sessions.len() < MOST_SESSIONS {
            return;
        }
        let silent = self.sessions.iter().find(|(_, session)| !session.is_greeted());
        let idle = self.sessions.keys().find(|key| self.holder != Some(**key));
        if let Some(key) = silent.map(|(key, _)| *key).or(idle.copied()) {
            self.lose(key, &Error::TimedOut("waiting while others came"));
        }
    }
}

/// That long from now; a far future where the clock does not reach.
fn after(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration).or_else(|| now.checked_add(FOREVER)).unwrap_or(now)
}

const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const STOP_GRACE: Duration = Duration::from_secs(30);
const LOCK_INTERVAL: Duration = Duration::from_millis(2);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
const MESSAGES_A_TURN: usize = 64;
const MOST_SESSIONS: usize = 256;
