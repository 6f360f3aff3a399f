//! The loop that serves the control socket: one thread that polls, and never waits for a
//! peer or a hook (invariant 6).

mod peers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use tracing::field::display;

use crate::control::{Passed, hello};
use crate::datadir::DataDirLock;
use crate::drainable::{Drainable, Gating, SealProgress, check};
use crate::error::{Error, Result};
use crate::fence::fenced;
use crate::incumbent::admit::{Settlings, at_a_cold_start};
use crate::incumbent::bind::Incumbent;
use crate::incumbent::door::Door;
use crate::incumbent::handover::{Handover, News, after};
use crate::incumbent::hooks::Task;
use crate::incumbent::look::Open;
use crate::incumbent::offers::Offers;
use crate::incumbent::quota::Quotas;
use crate::incumbent::room;
use crate::incumbent::sessions::{Key, Sessions};
use crate::incumbent::stop::{Ended, Stop};
use crate::log;
use crate::machine::incumbent::{Effect, Event, State};
use crate::protocol::{Capabilities, MAX_NAMED_CONNECTIONS, Message, Side, in_words};
use crate::sys::poll;

impl Incumbent {
    /// Serves the control socket until a successor replaces this process, or its
    /// [`StopHandle`](crate::StopHandle) stops it. Blocks; the hooks of `drainable` run on another
    /// thread.
    ///
    /// Calls [`Drainable::admit`] first.
    ///
    /// # Errors
    ///
    /// The error of the owner record, of the first `admit` of a cold start, or of a clean stop.
    /// This process keeps the lock until it ends, so that no other process writes beside it
    /// (invariant 1). Only a state that no swap could seal or carry, at a cold start, frees the
    /// lock. After a commit this process repeats an `admit` that fails until it works.
    pub fn serve(self, drainable: impl Drainable + 'static) -> Result<()> {
        let ended = self.serve_until(drainable);
        log::flush(log::LAST_LINES);
        ended.map(|_| ())
    }

    fn serve_until(self, drainable: impl Drainable + 'static) -> Result<Ended> {
        self.serve_shared(Arc::new(drainable))
    }

    pub(crate) fn serve_shared<D: Drainable + 'static>(self, drainable: Arc<D>) -> Result<Ended> {
        let mut server = Server::admitting(self, drainable)?;
        loop {
            if let Some(result) = server.ended.take() {
                return result;
            }
            server.turn()?;
        }
    }
}

/// The capabilities that this process tells its supervisor and its successor. It finds sets that
/// cannot be carried here, and not in a swap.
fn capabilities_of(drainable: &impl Drainable, is_committed: bool) -> Result<Capabilities> {
    let capabilities = fenced("carriage", || {
        let carriage = drainable.carriage();
        carriage.check()?;
        let carries = !carriage.is_empty();
        Ok(if carries { Capabilities::CARRIES } else { Capabilities::default() })
    });
    let capabilities = match capabilities {
        Err(error) if is_committed => {
            log::error!(
                %error,
                "this daemon declares sets that cannot be carried, so that its next swaps carry none: correct the sets in the next build"
            );
            Capabilities::default()
        }
        capabilities => capabilities?,
    };
    Ok(capabilities.and(Capabilities::SEALS_NEXT).and(Capabilities::TELLS_OF_GATE))
}

/// Tells an operator of the faults of the state that this process serves all the same.
fn tell_of_the_state(drainable: &impl Drainable, is_committed: bool) {
    if is_committed && let Err(error) = fenced("check", || check(drainable)) {
        log::error!(
            %error,
            "no swap can seal the state of this daemon, and its next swaps fail: stop it and start a build that is corrected"
        );
    }
    let gating = fenced("gating", || Ok(drainable.gating()));
    if matches!(gating, Ok(Gating::None)) {
        log::warn!(
            "the state of this daemon has no gate: requests that arrive during a swap are not held back, find its shards sealed and fail; give the struct a field `#[handoff(gate)] gate: Gate` that each request passes, or say `#[handoff(no_gate)]` where it serves no requests"
        );
    }
}

/// The loop's state: the machine, and the things that its effects work on.
struct Server<D> {
    drainable: Arc<D>,
    lock: DataDirLock,
    listeners: Passed,
    stop: Arc<Stop>,
    state: State,
    handover: Option<Handover>,
    settlings: Arc<Settlings>,
    door: Door,
    sessions: Sessions,
    offers: Offers,
    log: Quotas,
    ended: Option<Result<Ended>>,
    /// When it looks at its directory again, and whether it has told of a fault there.
    look: (Instant, bool),
}

impl<D: Drainable + 'static> Server<D> {
    /// Admits work, and serves from here on.
    fn admitting(incumbent: Incumbent, drainable: Arc<D>) -> Result<Self> {
        let Incumbent { mut socket, mut lock, build_id, stop, listeners, commit, mut on_commit } =
            incumbent;
        lock.check_own()?;
        let is_committed = commit.is_some();
        if !is_committed {
            fenced("check", || check(&*drainable))?;
        }
        let capabilities = capabilities_of(&*drainable, is_committed)?;
        if !is_committed {
            lock.fit(&D::schema())?;
        }
        lock.hold_past_drop();
        let settling = match commit {
            Some(commit) => {
                let drainable: Arc<dyn Drainable> = Arc::<D>::clone(&drainable);
                let mut finish = || {
                    let leaves = lock.record_schema(&D::schema())?;
                    try_failpoint!(SuccessorFinishes)?;
                    on_commit.run()?;
                    Ok(leaves)
                };
                commit.admit(&mut socket, &drainable, &mut finish)
            }
            None => {
                let leaves = lock.record_schema(&D::schema())?;
                lock.record_serving(&build_id)?;
                try_failpoint!(ColdStartRecorded)?;
                leaves.write();
                fenced("on_commit", || on_commit.run())?;
                at_a_cold_start(&*drainable)?;
                None
            }
        };
        tell_of_the_state(&*drainable, is_committed);
        Ok(Self {
            drainable,
            lock,
            listeners: Passed::new(listeners),
            stop,
            state: State::Serving,
            handover: None,
            settlings: Settlings::after(settling),
            door: Door::new(socket),
            sessions: Sessions::new(hello(Side::Incumbent, &build_id, capabilities)),
            offers: Offers::default(),
            log: Quotas::new(Instant::now()),
            ended: None,
            look: (Instant::now() + DIRECTORY_INTERVAL, false),
        })
    }

    /// Waits until something is due, and does it.
    fn turn(&mut self) -> Result<()> {
        self.wait()?;
        self.stop.waker.reset();
        self.hear_hooks();
        self.offers.tidy();
        if self.door.is_open(Instant::now()) {
            self.accept();
        }
        for key in self.sessions.keys() {
            self.hear_session(key);
        }
        self.on_time();
        if self.stop.is_requested() && self.state == State::Serving && self.ended.is_none() {
            self.step(Event::StopRequested, None);
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        let is_read = self.reads_messages();
        let mut fds = vec![PollFd::new(&self.stop.waker, PollFlags::IN)];
        fds.extend(self.door.listener().map(|listener| PollFd::new(listener, PollFlags::IN)));
        fds.extend(self.offers.channels().map(|channel| PollFd::new(channel, PollFlags::RDHUP)));
        let sessions = self.sessions.iter();
        fds.extend(sessions.map(|(_, session)| PollFd::new(session, session.interest(is_read))));
        poll::poll(&mut fds, self.next_due())?;
        Ok(())
    }

    fn next_due(&self) -> Option<Instant> {
        let sessions = self.sessions.iter();
        let sessions = sessions.filter_map(|(_, session)| session.greeting_deadline());
        let handover = self.handover.as_ref();
        let handover =
            handover.and_then(|handover| handover.next_due(self.looks(), self.beats(handover)));
        let door = self.door.due(self.state == State::Serving);
        let look = (self.state == State::Serving).then_some(self.look.0);
        let door = door.into_iter().chain(look);
        sessions.chain(handover).chain(door).chain(self.log.due()).min()
    }

    /// Whether this process may act upon messages now. During an undo they wait for its end
    /// (invariant 4). While a swap is in flight it refuses the messages of all other sessions.
    fn reads_messages(&self) -> bool {
        match self.sessions.holder {
            Some(_) => self.state.admits_messages(),
            None => self.state == State::Serving,
        }
    }

    fn step(&mut self, event: Event, from: Option<Key>) {
        let (before, swap) = (self.state.name(), self.state.handoff_id());
        let effects = self.state.on(event);
        if before != self.state.name() {
            if self.log.steps.admits(Instant::now()) {
                let swap = self.state.handoff_id().or(swap).map(display);
                log::info!(
                    swap,
                    from = before,
                    to = self.state.name(),
                    "the incumbent changed its state"
                );
            }
            self.reach_state();
        }
        for effect in effects {
            self.perform(effect, from);
        }
        if self.state == State::Serving {
            (self.handover, self.sessions.holder) = (None, None);
        }
    }

    fn reach_state(&self) {
        match self.state {
            State::Interrupted(_) | State::Waiting(_) | State::Resuming(_) => {
                if let Some(handover) = &self.handover {
                    handover.stop_carrier();
                }
                failpoint!(IncumbentUndoes);
            }
            State::Serving => failpoint!(IncumbentServesAgain),
            _ => {}
        }
    }

    fn perform(&mut self, effect: Effect, from: Option<Key>) {
        match effect {
            Effect::Send(message) => {
                if let Some(key) = from.or(self.sessions.holder) {
                    self.say(key, message);
                }
            }
            Effect::Close(fault) => self.close(from, fault),
            Effect::GiveListeners { handoff_id } => self.give_listeners(from, handoff_id),
            Effect::Offer { handoff_id } => self.offer(from, handoff_id),
            Effect::WatchGate => {
                if let Some(session) = from.and_then(|key| self.sessions.get_mut(key)) {
                    session.watches_gate = true;
                }
            }
            Effect::RunDrain { successor_pid, deadline_ms, drain_grace_ms, .. } => {
                failpoint!(IncumbentHeardPrepare);
                self.sessions.holder = from;
                let fits = || match self.offers.are_for(successor_pid) {
                    true => room::check(&*self.drainable, successor_pid),
                    false => Ok(()),
                };
                if let Err(error) = self.lock.mend().and_then(|_| fits()) {
                    return self.refuse_swap(&error);
                }
                let lease = after(deadline_ms);
                let grace = after(drain_grace_ms).min(lease);
                self.begin_handover(successor_pid, lease, Task::Drain(grace));
            }
            // A clean stop: no supervisor, no lease.
            Effect::RunLastDrain => {
                self.tell_of_stop();
                self.begin_handover(0, after(u64::MAX), Task::LastDrain(after(STOP_GRACE_MS)));
            }
            Effect::InterruptDrain => self.interrupt_drain(),
            Effect::SealNext => self.with_handover(|handover| handover.seal_next(true)),
            Effect::RunSeal => self.with_handover(Handover::run_seal),
            Effect::RunResume => self.with_handover(Handover::resume),
            Effect::ReleaseLock(report) => {
                if let (Some(handover), Some(handoff_id)) =
                    (&mut self.handover, self.state.handoff_id())
                {
                    let event = handover.release_lock(&mut self.lock, handoff_id, report);
                    self.step(event, None);
                }
            }
            Effect::ReleaseForGood(report) => {
                if let Some(handover) = &mut self.handover
                    && let Err(error) = handover.release_for_good(&mut self.lock, &report)
                {
                    self.ended = Some(Err(error));
                }
            }
            Effect::AwaitLock => self.try_lock(),
            Effect::RetryLater => self.with_handover(Handover::resume_later),
            Effect::Leave(Ok(())) => self.leave(),
            Effect::Leave(Err(words)) => {
                let error = self.handover.as_mut().and_then(Handover::take_error);
                let error = error.unwrap_or_else(|| std::io::Error::other(words).into());
                self.ended.get_or_insert(Err(error));
            }
        }
    }

    fn with_handover(&mut self, act: impl FnOnce(&mut Handover)) {
        if let Some(handover) = &mut self.handover {
            act(handover);
        }
    }

    fn begin_handover(&mut self, successor_pid: u32, lease: Instant, first: Task) {
        let handoff_id = self.state.handoff_id();
        let carrying = self.offers.carrying_for(handoff_id, successor_pid, &self.drainable);
        let (settlings, terms) = (&self.settlings, (handoff_id, successor_pid, lease));
        let (drainable, lock, stop) = (&self.drainable, &self.lock, &self.stop);
        match Handover::begin(drainable, first, terms, carrying, settlings, lock, stop) {
            Ok(handover) => self.handover = Some(handover),
            Err(error) if self.state == State::Stopping => self.ended = Some(Err(error.into())),
            Err(error) => {
                let words = format!("cannot start the thread of the hooks: {error}");
                self.refuse_swap(&std::io::Error::other(words).into());
            }
        }
    }

    /// Nothing was begun, so there is nothing to undo but the state: this daemon serves on.
    fn refuse_swap(&mut self, error: &Error) {
        let Some(handoff_id) = self.state.handoff_id() else { return };
        log::error!(swap = %handoff_id, %error, "this daemon refuses a swap, and serves on");
        let partial_state = "nothing was begun, and the incumbent serves".to_owned();
        self.tell(Message::SealFailed { handoff_id, error: in_words(error), partial_state });
        self.state = State::Serving;
    }

    /// A supervisor that is about to swap must not take the end of this process for a crash.
    fn tell_of_stop(&mut self) {
        for session in self.sessions.iter_mut() {
            if let Some(handoff_id) = session.handoff_id() {
                let reason = "the daemon was told to stop".to_owned();
                let _ = session.send(&Message::Abort { handoff_id, reason });
            }
        }
    }

    fn interrupt_drain(&mut self) {
        self.with_handover(|handover| handover.seal_next(false));
        let interrupted = fenced("interrupt", || {
            self.drainable.carriage().interrupt();
            self.drainable.interrupt();
            Ok(())
        });
        if let Err(error) = interrupted {
            let swap = self.state.handoff_id().map(display);
            log::error!(
                swap, %error,
                "this incumbent cannot cut its drain short, and serves again only once the drain has ended"
            );
        }
    }

    fn try_lock(&mut self) {
        let is_connected = self.sessions.holder.is_some();
        let Some(handover) = &mut self.handover else { return };
        match handover.try_lock(&mut self.lock, is_connected) {
            Ok(Some(event)) => {
                if event == Event::LockRetaken {
                    self.door.take_path_back();
                }
                self.step(event, None);
            }
            Ok(None) => {}
            Err(error) => self.ended = Some(Err(error)),
        }
    }

    /// The loop ends.
    fn leave(&mut self) {
        failpoint!(IncumbentLeaves);
        let is_replaced = self.state == State::Replaced;
        if is_replaced {
            self.part();
        }
        if !matches!(self.ended, Some(Err(_))) {
            self.lock.release_on_drop();
            let ended = if is_replaced { Ended::Replaced } else { Ended::Stopped };
            self.ended = Some(Ok(ended));
        }
    }

    fn hear_hooks(&mut self) {
        let holder = self.sessions.holder;
        self.sessions.gather();
        while let Some(news) =
            self.handover.as_mut().and_then(|handover| handover.next_news(&self.state))
        {
            match news {
                News::Event(event) => self.step(event, None),
                News::Progress(SealProgress { shards_sealed, shards_total, last_revision }) => {
                    self.tell(Message::SealProgress { shards_sealed, shards_total, last_revision });
                }
                News::GateCloses => self.tell_of_gate(),
                News::Late(names) => self.tell_of_late(names),
                News::Open(open) => self.tell_of_open(open),
            }
        }
        let gathered = self.sessions.take_gathered();
        if let Some(key) = holder.filter(|_| !gathered.is_empty()) {
            self.say_all(key, &gathered);
        }
    }

    /// Tells the supervisor, if it asked, that clients wait from here on.
    fn tell_of_gate(&mut self) {
        let is_watched = self.sessions.held().is_some_and(|session| session.watches_gate);
        if let (true, true, Some(handoff_id)) = (is_watched, self.looks(), self.state.handoff_id())
        {
            self.tell(Message::GateClosed { handoff_id });
        }
    }

    fn tell_of_late(&mut self, mut names: Vec<String>) {
        let Some(handoff_id) = self.state.handoff_id() else { return };
        let unnamed =
            u32::try_from(names.len().saturating_sub(MAX_NAMED_CONNECTIONS)).unwrap_or(u32::MAX);
        names.truncate(MAX_NAMED_CONNECTIONS);
        self.tell(Message::Late { handoff_id, connections: names, unnamed });
    }

    /// Tells the supervisor the result of a look, unless the drain or the supervisor is gone.
    fn tell_of_open(&mut self, open: Result<Open>) {
        let (true, Some(handoff_id)) = (self.looks(), self.state.handoff_id()) else { return };
        let Open { open_conns, connections, unnamed } = match open {
            Ok(open) => open,
            Err(error) => {
                log::warn!(
                    swap = %handoff_id, %error,
                    "this incumbent cannot tell its supervisor which connections the drain waits for"
                );
                return;
            }
        };
        self.with_handover(Handover::look_again);
        // A supervisor that reads late gets fewer of these, and keeps its session.
        if self.sessions.held().is_some_and(|session| !session.has_unsent()) {
            self.tell(Message::Draining { handoff_id, open_conns, connections, unnamed });
        }
    }

    /// Whether a drain runs, and its supervisor is connected.
    fn looks(&self) -> bool {
        matches!(self.state, State::Draining(..)) && self.sessions.holder.is_some()
    }

    /// Whether this process tells the supervisor that it lives, since something takes long.
    fn beats(&self, handover: &Handover) -> bool {
        self.sessions.holder.is_some() && handover.takes_long(&self.state)
    }

    fn tell(&mut self, message: Message) {
        if let Some(key) = self.sessions.holder {
            self.say(key, message);
        }
    }

    /// Sends the message, or gathers it to go out with the others that are gathered.
    fn say(&mut self, key: Key, message: Message) {
        if let Some(message) = self.sessions.try_gather(key, message) {
            self.say_all(key, &[message]);
        }
    }

    fn say_all(&mut self, key: Key, messages: &[Message]) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Err(error) = session.send_all(messages) {
            self.lose(key, &error);
        }
        for message in messages {
            match message {
                Message::Drained { .. } => failpoint!(IncumbentSaidDrained),
                Message::SealComplete { .. } => failpoint!(IncumbentSaidSealed),
                _ => {}
            }
        }
    }

    /// Closes this process's copies of the carried connections: the successor has them.
    fn part(&mut self) {
        let parted = fenced("part", || {
            self.drainable.carriage().part();
            Ok(())
        });
        if let Err(error) = parted {
            log::error!(
                %error,
                "this replaced daemon cannot close its copies of the carried connections, and keeps them until it ends"
            );
        }
    }

    /// Whether this is still the directory that the path leads to, and its lock file the one there.
    fn look_at_directory(&mut self) {
        let (looked, path) = (self.lock.mend(), self.lock.data_dir().display());
        match &looked {
            Ok(false) => {}
            Ok(true) => log::warn!(
                %path,
                "the lock file of this daemon was removed or replaced: it made the file again"
            ),
            Err(_) if self.look.1 => {}
            Err(error) => log::error!(
                %path, %error,
                "this daemon serves on with the files that it has open, and refuses every swap until that is mended"
            ),
        }
        if self.look.1 && looked.is_ok() {
            log::info!(%path, "the data directory of this daemon is in its place again");
        }
        self.look = (Instant::now() + DIRECTORY_INTERVAL, looked.is_err());
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        for key in self.sessions.silent(now) {
            self.lose(key, &Error::TimedOut("waiting for a greeting"));
        }
        self.log.tell_unsaid(now);
        self.door.on_time(now, self.state == State::Serving);
        if self.state == State::Serving && self.look.0 <= now {
            self.look_at_directory();
        }
        let Some(handover) = &mut self.handover else { return };
        let due = handover.due(now);
        if due.beat && self.handover.as_ref().is_some_and(|handover| self.beats(handover)) {
            self.tell(Message::Heartbeat { ts_ms: 0 });
        }
        if due.look
            && self.looks()
            && let Some(handover) = &mut self.handover
        {
            handover.look(&self.drainable);
        }
        if due.lease {
            if self.log.steps.admits(now) {
                log::warn!(
                    swap = self.state.handoff_id().map(display),
                    state = self.state.name(),
                    "the deadline of the swap passed: this incumbent serves again, unless another process serves"
                );
            }
            self.step(Event::DeadlinePassed, None);
        }
        if due.try_lock {
            self.try_lock();
        }
        if due.retry {
            self.step(Event::RetryDue, None);
        }
    }
}

const STOP_GRACE_MS: u64 = 30_000;
/// Between two looks at the directory.
const DIRECTORY_INTERVAL: Duration = Duration::from_secs(1);
