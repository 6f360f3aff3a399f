//! Adoption: a supervisor that is started after another one died takes over its daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::control::{Connection, connect, greet};
use crate::error::{Error, PeerMisbehaved, Result};
use crate::log;
use crate::machine::outcome::Outcome;
use crate::protocol::{HandoffId, MAX_LISTENERS, Message, Side};
use crate::supervisor::journal::{Entry, Replay};
use crate::supervisor::resolve::{Resolved, resolve};
use crate::supervisor::setup::deadline_of;
use crate::supervisor::{AdoptedProcess, Supervisor};
use crate::sys::process::{Process, ProcessId};
use crate::sys::socket;

/// The result of [`Supervisor::adopt`].
#[derive(Debug)]
#[must_use = "a daemon that serves must not be started a second time"]
pub enum Adoption {
    /// A daemon serves, and this supervisor has its listeners.
    Daemon(AdoptedDaemon),
    /// No daemon serves, and none is left: [`Supervisor::start`] one.
    Nothing {
        /// The end of the swap that was in flight, if one was.
        resolved: Option<Resolved>,
    },
}

/// A daemon that another supervisor started.
#[derive(Debug)]
#[non_exhaustive]
pub struct AdoptedDaemon {
    /// The process, which is no child of this one.
    pub process: AdoptedProcess,
    /// The build id that its hello says.
    pub build_id: Vec<u8>,
    /// The generation in the owner record, as the daemon says it.
    pub generation: u64,
    /// The names of the listeners that the daemon gave back, in the order in which it got them.
    /// Compare them with those that the daemon needs: its successors get no others.
    pub listeners: Vec<String>,
    /// The end of the swap that was in flight, if one was.
    pub resolved: Option<Resolved>,
}

impl Supervisor {
    /// Takes over from the last supervisor: resolves the swap that its
    /// [journal](Self::with_journal) names, finds the daemon that serves, and gets the
    /// listening sockets back from it. From then on this supervisor passes them on, after its
    /// own sockets. Under a name that it has already, it keeps its own.
    ///
    /// Call it before anything else, and bind and [`start`](Self::start) only when it says
    /// [`Adoption::Nothing`]. This call binds nothing and starts nothing; clients notice nothing.
    ///
    /// The daemon gives back every socket that it was passed, and each socket of its own that it
    /// has [kept](crate::successor::Listeners::keep).
    ///
    /// The incumbent and the successor of a swap in flight decide it without a supervisor, as
    /// they do whenever theirs dies (invariant 3). This supervisor ends a successor that hangs,
    /// and the incumbent serves again. It leaves a successor that has committed alone.
    ///
    /// Without a journal this supervisor still finds the daemon and gets its listeners back. It
    /// leaves a swap in flight to the two processes, and does not end one that hangs.
    ///
    /// `timeout` is for the whole call, which waits for a daemon that is still opening its data.
    ///
    /// # Errors
    ///
    /// After any error the caller may call this again: it goes on where this call stopped. This
    /// call takes no lock of the data directory and ends no process that serves. So the process
    /// that holds the lock keeps it; where the swap is not resolved yet, incumbent and successor go
    /// on deciding it, and the incumbent serves if this call has ended a successor that hung.
    ///
    /// At once:
    /// - [`Error::SwapInFlight`] when a session of this supervisor is not over
    /// - [`Error::PeerMisbehaved`] when the process at the control socket runs as a user that this
    ///   one does not trust, or breaks the protocol; [`Error::VersionMismatch`]
    /// - [`Error::Io`] when a process cannot be watched: this one has no descriptors left, say
    ///
    /// Once the timeout has passed:
    /// - [`Error::Unanswered`] when a process that is there does not answer, or the swap is not
    ///   resolved
    /// - [`Error::Aborted`] when the daemon refuses, since another supervisor's swap is in flight
    /// - the error of the last attempt: [`Error::Path`] when the control socket cannot be connected
    ///   to, [`Error::PeerLost`], [`Error::Frame`] or [`Error::Io`]
    pub fn adopt(&mut self, timeout: Duration) -> Result<Adoption> {
        let deadline = deadline_of(timeout);
        self.slot.check()?;
        try_failpoint!(AdopterHasJournal)?;
        let replayed = self.replayed.clone();
        let resolved = match replayed.swap {
            Some(swap) => Some(resolve(self.control_socket(), &swap, deadline)?),
            None => None,
        };
        if let Some(resolved) = &resolved {
            try_failpoint!(AdopterResolved)?;
            let (handoff_id, how) = (resolved.handoff_id, resolved.outcome);
            if let Err(error) = self.note(&Entry::Ended { handoff_id, how }) {
                log::error!(
                    swap = %handoff_id, %error,
                    "this supervisor cannot note in its journal that the swap is over; the next supervisor resolves the swap once more"
                );
            }
        }
        let daemon = match (&resolved, replayed.swap) {
            (Some(Resolved { outcome: Outcome::Committed, .. }), Some(swap)) => {
                Some(swap.successor)
            }
            _ => replayed.daemon,
        };
        // For the next call, if the daemon does not answer in this one.
        self.replayed = Replay { daemon, swap: None };
        if resolved.is_some() {
            self.resolved.clone_from(&resolved);
            socket::sweep(self.control_socket());
            try_failpoint!(AdopterNotedEnd)?;
        }
        let mut resolved = self.resolved.clone();
        let answered = self.find_daemon(daemon, deadline)?;
        if let (Some(resolved), Some(_)) = (&mut resolved, &answered)
            && resolved.outcome == Outcome::Lost
        {
            // Both processes of that swap are dead, and one serves that the journal does not know:
            // its last lines were not written.
            resolved.outcome = Outcome::Unknown;
        }
        try_failpoint!(AdopterHasListeners)?;
        (self.replayed, self.resolved) = (Replay::default(), None);
        let Some(Answer { id, process, build_id, generation, listeners }) = answered else {
            return Ok(Adoption::Nothing { resolved });
        };
        if let Err(error) = self.note(&Entry::Serves(id)) {
            log::error!(
                pid = id.pid, %error,
                "this supervisor cannot note in its journal that the daemon serves; mend the file before the next swap, which has to be noted"
            );
        }
        let names: Vec<String> = listeners.iter().map(|(name, _)| name.clone()).collect();
        self.take_back(listeners);
        log::debug!(pid = id.pid, generation, ?resolved, "this supervisor adopted the daemon");
        if names.is_empty() {
            log::warn!(
                pid = id.pid,
                "the daemon gave no listener back; its successors inherit the sockets that it binds only if it keeps them (Listeners::keep)"
            );
        }
        Ok(Adoption::Daemon(AdoptedDaemon {
            process: AdoptedProcess::new(id.pid, process),
            build_id,
            generation,
            listeners: names,
            resolved,
        }))
    }

    /// Asks the process that has the control socket, again and again while one may answer.
    fn find_daemon(&self, known: Option<ProcessId>, deadline: Instant) -> Result<Option<Answer>> {
        let known = match known {
            Some(id) => id.open()?.map(|process| (id.pid, process)),
            None => None,
        };
        let mut refused = None;
        loop {
            let slice = deadline.min(Instant::now() + SLICE);
            let error = match connect(self.control_socket(), slice) {
                Ok((daemon, peer)) => {
                    let pid = peer.pid;
                    match ask(daemon, pid, slice.max(Instant::now())) {
                        Ok(answer) => return Ok(Some(answer)),
                        Err(Error::TimedOut(_)) => self.unanswered(pid),
                        Err(error) => error,
                    }
                }
                Err(Error::Path { source, .. }) if is_nobody(&source) => match &known {
                    Some((pid, process)) if !process.wait_for_end(Instant::now())? => {
                        self.unanswered(*pid)
                    }
                    _ => return Ok(None),
                },
                Err(error) => error,
            };
            if is_final(&error) {
                return Err(error);
            }
            if Instant::now() >= deadline {
                return Err(refused.unwrap_or(error));
            }
            log::debug!(
                path = %self.control_socket().display(), %error,
                "the daemon does not answer yet"
            );
            // The refusal of a daemon tells more than its later silence.
            if matches!(error, Error::Aborted { .. }) {
                refused = Some(error);
            }
            let pause = deadline.min(Instant::now() + PAUSE);
            let has_ended = match &known {
                Some((_, process)) => process.wait_for_end(pause)?,
                None => true,
            };
            if has_ended {
                std::thread::sleep(pause.saturating_duration_since(Instant::now()));
            }
        }
    }

    fn unanswered(&self, pid: u32) -> Error {
        Error::Unanswered { pid, path: self.control_socket().to_owned() }
    }
}

/// The answer of a daemon that serves.
struct Answer {
    id: ProcessId,
    process: Process,
    build_id: Vec<u8>,
    generation: u64,
    listeners: Vec<(String, OwnedFd)>,
}

/// Gets the listeners back.
fn ask(daemon: Connection, pid: u32, deadline: Instant) -> Result<Answer> {
    let mut daemon = daemon.with_descriptors(MAX_LISTENERS);
    let during = "asking for its listeners";
    let lost = || Error::PeerLost { peer: "incumbent", during };
    // The descriptor first, so that the identity that is read next is of the same process.
    let process = Process::open(pid)?;
    let id = ProcessId::of(pid).ok_or_else(lost)?;
    let handoff_id = HandoffId::new();
    let greeting = greet(&mut daemon, Side::Incumbent, pid, handoff_id, deadline, None)?;
    try_failpoint!(AdopterAsksForListeners)?;
    daemon.send_before(&[Message::Adopt { handoff_id }], deadline)?;
    let mut listeners = Vec::new();
    loop {
        match daemon.answer_before(deadline)? {
            Message::Adopted { handoff_id: id_said, generation, listeners: names, left }
                if id_said == handoff_id =>
            {
                let sockets = daemon.take_descriptors(names.len());
                let sockets = sockets.ok_or(PeerMisbehaved::DescriptorsMissing)?;
                listeners.extend(names.into_iter().zip(sockets));
                if listeners.len() > MAX_LISTENERS {
                    return Err(PeerMisbehaved::TooManyListeners(listeners.len()).into());
                }
                if left == 0 {
                    let build_id = greeting.build_id;
                    return Ok(Answer { id, process, build_id, generation, listeners });
                }
            }
            Message::Abort { handoff_id, reason } => {
                return Err(Error::Aborted { handoff_id, reason });
            }
            Message::Heartbeat { .. } => {}
            other => {
                let (message, state) = (other.name(), "giving its listeners back");
                return Err(PeerMisbehaved::Unexpected { message, state }.into());
            }
        }
    }
}

/// Whether no process listens at the path.
pub(super) fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Whether another attempt would fail the same way.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::VersionMismatch { .. } | Error::PeerMisbehaved(_) | Error::ControlSocket(_)
    )
}

/// How long to wait for one answer. Then another process may have the path: connect anew.
const SLICE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);
