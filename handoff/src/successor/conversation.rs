//! The talk with the supervisor.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use tracing::field::display;

use crate::control::{LIVENESS_TIMEOUT, Link, Lost, Pulse, Received, hello, judge_hello_ack};
use crate::datadir::DataDirLock;
use crate::error::{Error, Result};
use crate::log;
use crate::machine::successor::{Effect, Event, GaveUp, State};
use crate::protocol::{Capabilities, HandoffId, Message, Side, in_words};
use crate::successor::commit;
use crate::sys::poll;
use crate::sys::process::ProcessId;

/// The talk with the supervisor: the machine, and the objects that its effects work on.
pub(super) struct Conversation {
    pub(super) link: Arc<Link>,
    state: State,
    pub(super) handoff_id: Option<HandoffId>,
    pub(super) build_id: Vec<u8>,
    /// Here from the time at which this process could serve until it has committed.
    lock: Option<Box<DataDirLock>>,
    /// Whether the pulse may act on the loss of the supervisor: while the daemon's own code runs. A
    /// pulse that ends this process has it locked until then, so that no commit goes on meanwhile.
    watched: Arc<Mutex<bool>>,
    /// The process that this one is to replace, once that is known.
    pub(super) incumbent: Arc<OnceLock<ProcessId>>,
    /// Whether this process would serve if it were alone.
    pub(super) is_fit: bool,
    pulse: Option<Pulse>,
    pub(super) on_loss: OnLoss,
}

impl Conversation {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            link: Arc::new(Link::new(stream)),
            state: State::Greeting,
            handoff_id: None,
            build_id: Vec::new(),
            lock: None,
            watched: Arc::default(),
            incumbent: Arc::default(),
            is_fit: true,
            pulse: None,
            on_loss: OnLoss::default(),
        }
    }

    pub(super) fn greet(&mut self, build_id: &[u8]) -> Result<()> {
        self.build_id = build_id.to_vec();
        self.link.send(&hello(Side::Successor, build_id, Capabilities::default()))?;
        try_failpoint!(SuccessorSaidHello)?;
        let received = self.link.attend().wait(Instant::now() + LIVENESS_TIMEOUT)?;
        let message = match received {
            Received::Message(message) => message,
            Received::Nothing => {
                return Err(Error::TimedOut("waiting for the supervisor's answer"));
            }
            Received::Closed => return Err(self.lost()),
            Received::Broken(error) => return Err(error.into()),
        };
        let (version, handoff_id) = judge_hello_ack(&message)?;
        self.handoff_id = Some(handoff_id);
        self.link.agree_on(version);
        self.step(Event::Message(message))
    }

    pub(super) fn start_pulse(&mut self, on_loss: OnLoss) -> Result<()> {
        self.on_loss = on_loss;
        self.watch();
        let watched = Arc::clone(&self.watched);
        let incumbent = Arc::clone(&self.incumbent);
        let handoff_id = self.handoff_id;
        let pulse = Pulse::start(vec![Arc::clone(&self.link)], None, move |_, lost| {
            let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            if on_loss == OnLoss::Exit && *watched {
                if lost == Lost::Closed && is_dead(&incumbent) {
                    let pid = incumbent.get().map(|incumbent| incumbent.pid);
                    log::warn!(
                        pid,
                        swap = handoff_id.map(display),
                        "the supervisor and the incumbent are dead: this successor goes on alone"
                    );
                    return true;
                }
                log::error!(
                    swap = handoff_id.map(display),
                    ?lost,
                    "this successor lost its supervisor before the commit, and exits with status 75"
                );
                // Not for long: the incumbent may wait for the lock of this process.
                log::flush(log::SHORT);
                std::process::exit(EXIT_TEMPFAIL);
            }
            false
        })?;
        self.pulse = Some(pulse);
        Ok(())
    }

    pub(super) fn know_incumbent(&self, data_dir: &Path) {
        if let Some(incumbent) = DataDirLock::incumbent_of(data_dir) {
            let _ = self.incumbent.set(incumbent);
        }
    }

    /// A process that died and one that closed a connection look alike for a moment.
    pub(super) fn incumbent_is_dead(&self) -> bool {
        let deadline = Instant::now() + EXIT_PATIENCE;
        loop {
            if is_dead(&self.incumbent) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(EXIT_INTERVAL);
        }
    }

    pub(super) fn watch(&self) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    pub(super) fn unwatch(&self) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Feeds the supervisor's messages to the machine, until `arrived` accepts its state.
    pub(super) fn wait_until<T>(&mut self, arrived: impl Fn(&State) -> Option<T>) -> Result<T> {
        self.unwatch();
        loop {
            if let Some(found) = arrived(&self.state) {
                return Ok(found);
            }
            let (received, heard) = {
                let link = Arc::clone(&self.link);
                let mut attending = link.attend();
                let silent = attending.heard() + LIVENESS_TIMEOUT;
                (attending.wait(silent)?, attending.heard())
            };
            let event = match received {
                Received::Message(message) => Event::Message(message),
                Received::Nothing if heard.elapsed() < LIVENESS_TIMEOUT => continue,
                Received::Closed => Event::of_closed(self.is_fit, is_dead(&self.incumbent)),
                Received::Nothing => Event::SupervisorLost,
                Received::Broken(error) => {
                    log::error!(
                        swap = self.handoff_id.map(display), %error,
                        "the supervisor sent bytes that are no message: this successor takes it for lost"
                    );
                    Event::SupervisorLost
                }
            };
            self.step(event)?;
        }
    }

    /// In a one-way swap: says `Serving`, and waits until nobody ends this process in favour of the
    /// incumbent any more. A supervisor that hangs may yet do that, until the incumbent has left.
    pub(super) fn announce(&mut self) -> Result<()> {
        self.step(Event::Announced)?;
        while matches!(self.state, State::Announced(_)) {
            let (link, soon) = (Arc::clone(&self.link), Instant::now() + INCUMBENT_INTERVAL);
            let received = link.attend().wait(soon)?;
            let event = match received {
                Received::Message(message) => Event::Message(message),
                // This process may have shut its own side.
                _ if poll::is_ready(link.as_fd(), PollFlags::empty())? => Event::SupervisorLost,
                _ if is_dead(&self.incumbent) => Event::Alone,
                Received::Nothing => continue,
                Received::Closed | Received::Broken(_) => {
                    poll::wait_for(link.as_fd(), PollFlags::empty(), Some(soon))?;
                    continue;
                }
            };
            self.step(event)?;
        }
        Ok(())
    }

    /// Feeds the machine and carries its effects out. Returns an error if the machine gave up.
    pub(super) fn step(&mut self, event: Event) -> Result<()> {
        let before = self.state.name();
        let effects = self.state.on(event);
        if before != self.state.name() {
            let swap = self.handoff_id.map(display);
            log::info!(
                swap,
                from = before,
                to = self.state.name(),
                "the successor changed its state"
            );
        }
        for effect in effects {
            match effect {
                Effect::Send(messages) => self.say(&messages),
                Effect::WriteRecord => self.write_record()?,
                Effect::ShutAndLook => self.take_a_last_look()?,
                Effect::GiveUp => self.link.close(),
            }
        }
        match &self.state {
            State::Gone(why) => Err(self.gave_up(why, before)),
            _ => Ok(()),
        }
    }

    /// In one go, so that the supervisor is woken once.
    fn say(&self, messages: &[Message]) {
        if let Err(error) = self.link.send_all(messages) {
            let message = messages.first().map(Message::name);
            let swap = self.handoff_id.map(display);
            log::warn!(swap, message_name = message, %error, "this successor cannot send to its supervisor");
        }
    }

    fn write_record(&mut self) -> Result<()> {
        let written = match &mut self.lock {
            Some(lock) => commit::write_record(lock, &self.build_id),
            None => Err(self.lost()),
        };
        match written {
            Ok(generation) => self.step(Event::RecordWritten { generation }),
            Err(error) => {
                // This error tells more than the one that the machine gives up with.
                let _ = self.step(Event::Failed(in_words(&error)));
                Err(error)
            }
        }
    }

    /// The lock, for the machine's effects to work on.
    pub(super) fn holds(&mut self, lock: DataDirLock) {
        self.lock = Some(Box::new(lock));
    }

    pub(super) fn gives_lock(&mut self) -> Result<DataDirLock> {
        self.lock.take().map(|lock| *lock).ok_or_else(|| self.lost())
    }

    /// Receives nothing more once the side is shut; a `Commit` that was queued before counts
    /// (invariant 7).
    fn take_a_last_look(&mut self) -> Result<()> {
        let link = Arc::clone(&self.link);
        let mut attending = link.attend();
        attending.shut_receiving();
        while let Received::Message(message) = attending.next() {
            self.step(Event::Message(message))?;
        }
        self.step(Event::NothingQueued)
    }

    fn gave_up(&self, why: &GaveUp, during: &'static str) -> Error {
        match why {
            GaveUp::Aborted(reason) => match self.handoff_id {
                Some(handoff_id) => Error::Aborted { handoff_id, reason: reason.clone() },
                None => Error::PeerLost { peer: "supervisor", during },
            },
            GaveUp::SupervisorLost => Error::PeerLost { peer: "supervisor", during },
            GaveUp::Misbehaved(fault) => fault.clone().into(),
            GaveUp::Failed(words) => std::io::Error::other(words.clone()).into(),
        }
    }

    fn lost(&self) -> Error {
        Error::PeerLost { peer: "supervisor", during: self.state.name() }
    }
}

/// The reaction of a successor that loses its supervisor while the daemon's own code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLoss {
    /// The process exits at once, with status 75, so that the old process need not wait for
    /// an opening that leads nowhere. For the data this is a crash while opening. If the old
    /// process is dead too, the successor goes on alone.
    ///
    /// A successor that gives up for another reason keeps the lock until the process ends
    /// (invariant 1): its opened state may still write. So `main` returns soon after such an error.
    #[default]
    Exit,
    /// The next step returns [`Error::PeerLost`], and the successor's drop releases the lock.
    /// For a process that has other things to do besides the successor, and that drops the
    /// opened state before the successor.
    Return,
}

/// Whether the process that this one is to replace is known, and dead or ending.
pub(super) fn is_dead(incumbent: &OnceLock<ProcessId>) -> bool {
    incumbent.get().is_some_and(|incumbent| incumbent.is_ending())
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.unwatch();
        let words = "the successor dropped the swap".to_owned();
        let _ = self.step(Event::Failed(words));
    }
}

/// Between two looks whether the incumbent lives.
const INCUMBENT_INTERVAL: Duration = Duration::from_millis(50);
const EXIT_PATIENCE: Duration = Duration::from_millis(250);
const EXIT_INTERVAL: Duration = Duration::from_millis(1);
/// `EX_TEMPFAIL`: it would work another time.
const EXIT_TEMPFAIL: i32 = 75;
