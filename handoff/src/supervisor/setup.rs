//! The supervisor itself: the listeners that it passes on, and the beginning of a swap.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::{self, Connection, Greeting, LIVENESS_TIMEOUT, Link, Pulse};
use crate::error::{ControlSocketError, Error, LaunchError, Result};
use crate::log;
use crate::machine::outcome::Outcome;
use crate::machine::supervisor::Machine;
use crate::protocol::{HandoffId, Side};
use crate::supervisor::drive::{
    Clock, InFlight, Incumbent, Learnt, SharedSwap, Successor, Swap, Terms, Watch,
};
use crate::supervisor::journal::{Entry, Journal, JournalState, OpenSwap, Replay};
use crate::supervisor::slot::Slot;
use crate::supervisor::{
    AbortHandle, AsSealed, ChildProcess, Exec, Failed, HandoffOutcome, Launch, LaunchRequest,
    Observe, Paired, Progress, ReadyPolicy, Resolved, Session, SpawnSpec, observe,
};
use crate::sys::process::{Process, ProcessId};

/// The long-lived process that holds the listening sockets and swaps the daemon that uses them.
///
/// ```no_run
/// use std::net::TcpListener;
/// use std::path::Path;
/// use handoff::{SpawnSpec, Supervisor};
/// use handoff::supervisor::HandoffOutcome;
///
/// let listener = TcpListener::bind("127.0.0.1:6380")?;
/// listener.set_nonblocking(true)?; // before the first daemon inherits it, and never again
/// let supervisor = Supervisor::new(Path::new("/run/demo/control.sock"))?
///     .with_listener("resp", listener);
/// let first = supervisor.start(&SpawnSpec::new("/opt/demo/v1"))?;
/// match supervisor.perform_handoff(SpawnSpec::new("/opt/demo/v2"))? {
///     HandoffOutcome::Committed(committed) => println!("generation {}", committed.generation),
///     HandoffOutcome::Failed(failed) => println!("{failed}"),
/// }
/// # drop(first);
/// # Ok::<(), handoff::Error>(())
/// ```
pub struct Supervisor {
    control_socket: PathBuf,
    listeners: Vec<(String, OwnedFd)>,
    launch: Box<dyn Launch>,
    policy: Arc<dyn ReadyPolicy>,
    observer: Option<Arc<dyn Observe>>,
    journal: Option<Arc<Journal>>,
    pub(super) slot: Slot,
    /// The daemon and the swap that the journal named when it was opened, until
    /// [`adopt`](Self::adopt) has resolved them.
    pub(super) replayed: Replay,
    /// The end of that swap, until [`adopt`](Self::adopt) has returned it.
    pub(super) resolved: Option<Resolved>,
    /// Its process may be about to end.
    _lines: log::FlushAtEnd,
}

impl Supervisor {
    /// A supervisor of the daemon that serves, or will serve, the control socket at that path.
    ///
    /// # Errors
    ///
    /// [`ControlSocketError::TooLong`].
    pub fn new(control_socket: &Path) -> Result<Self> {
        control::check_path(control_socket)?;
        Ok(Self {
            control_socket: control_socket.to_owned(),
            listeners: Vec::new(),
            launch: Box::new(Exec),
            policy: Arc::new(AsSealed),
            observer: None,
            journal: None,
            slot: Slot::default(),
            replayed: Replay::default(),
            resolved: None,
            _lines: log::FlushAtEnd(log::LAST_LINES),
        })
    }

    /// Keeps a journal of each daemon and each swap that this supervisor begins. A supervisor that
    /// is started after its death can finish or undo a swap in flight: see [`adopt`](Self::adopt).
    /// One supervisor has a journal at a time.
    ///
    /// The file has to outlive this process and not the machine: beside the control socket,
    /// in `/run`, is a good place. The supervisor creates it with mode 0600, never syncs it, and
    /// writes nothing to it between a drain and its commit. A thread writes the lines; a disk that
    /// takes none is no error here: see [`JournalState`].
    ///
    /// # Errors
    ///
    /// [`Error::Supervised`] when another supervisor has it; [`Error::NotAJournal`];
    /// [`Error::Path`] when it cannot be opened, or is a symbolic link.
    pub fn with_journal(mut self, path: impl AsRef<Path>) -> Result<Self> {
        let (journal, replayed) = Journal::open(path.as_ref())?;
        (self.journal, self.replayed) = (Some(Arc::new(journal)), replayed);
        Ok(self)
    }

    /// Passes a socket to every process that this supervisor starts. A name may be used again: the
    /// daemon takes its sockets in this order. Names may not contain `:`.
    ///
    /// The supervisor passes the socket as it is. Set it non-blocking now if the daemon wants that:
    /// all processes that have the socket share the flag.
    #[must_use]
    pub fn with_listener(mut self, name: impl Into<String>, listener: impl Into<OwnedFd>) -> Self {
        self.add_listener(name, listener);
        self
    }

    /// [`with_listener`](Self::with_listener), once [`adopt`](Self::adopt) has said that no daemon
    /// gives one back.
    pub fn add_listener(&mut self, name: impl Into<String>, listener: impl Into<OwnedFd>) {
        self.listeners.push((name.into(), listener.into()));
    }

    /// Replaces the sockets that this supervisor passes on from now on, and returns those of before.
    ///
    /// A swap takes listeners over that were added, and gives those up that were removed: replace them
    /// before [`pair`](Self::pair), and put the former ones back if the swap does not commit. A socket
    /// that both sets have can be duplicated. The old process closes a removed one when it ends.
    pub fn replace_listeners(
        &mut self,
        listeners: impl IntoIterator<Item = (String, OwnedFd)>,
    ) -> Vec<(String, OwnedFd)> {
        std::mem::replace(&mut self.listeners, listeners.into_iter().collect())
    }

    /// The sockets that this supervisor passes on, with their names, in order.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.listeners.iter().map(|(name, listener)| (name.as_str(), listener.as_fd()))
    }

    pub(super) fn control_socket(&self) -> &Path {
        &self.control_socket
    }

    pub(super) fn take_back(&mut self, listeners: Vec<(String, OwnedFd)>) {
        let own: Vec<String> = self.listeners.iter().map(|(name, _)| name.clone()).collect();
        self.listeners.extend(listeners.into_iter().filter(|(name, _)| !own.contains(name)));
    }

    /// Writes to the journal, if there is one.
    pub(super) fn note(&self, entry: &Entry) -> Result<()> {
        self.journal.as_ref().map_or(Ok(()), |journal| journal.append(entry))
    }

    /// The journal's state, which can be asked for while another thread has this supervisor.
    #[must_use]
    pub fn journal(&self) -> Option<JournalState> {
        self.journal.as_ref().map(JournalState::of)
    }

    /// Replaces the check before a commit, [`AsSealed`].
    #[must_use]
    pub fn with_ready_policy(mut self, policy: impl ReadyPolicy + 'static) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Replaces the way to start a process, [`Exec`].
    #[must_use]
    pub fn with_launch(mut self, launch: impl Launch + 'static) -> Self {
        self.launch = Box::new(launch);
        self
    }

    /// Tells `observer` of every step.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Observe + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Starts the first daemon, and returns once it serves its control socket.
    ///
    /// A journal that cannot be written does not keep the daemon from being started: see
    /// [`JournalState`].
    ///
    /// # Errors
    ///
    /// After any error a process that this call started is dead, and the lock that it may have had
    /// is free. A process that served, or held the lock, before this call was left alone.
    ///
    /// Before a process is started:
    /// - [`ControlSocketError::Served`] when a daemon serves already: [`adopt`](Self::adopt) it
    /// - [`Error::SwapInFlight`] when a session of this supervisor is not over
    /// - [`Error::Launch`], or another error of [`Launch::launch`]
    ///
    /// Then:
    /// - [`LaunchError::ExitedEarly`] when the daemon ends before it serves, as one does that finds
    ///   the lock held
    /// - [`Error::TimedOut`] when it does not serve within [`SpawnSpec::start_timeout`]
    /// - [`Error::PeerMisbehaved`] for a hello that the kernel contradicts;
    ///   [`Error::VersionMismatch`]
    /// - [`Error::Io`] when the process cannot be watched: this one has no descriptors left, say
    ///
    /// At any time: [`Error::Requested`] when [`SpawnSpec::abort`] was used.
    pub fn start(&self, spec: &SpawnSpec) -> Result<ChildProcess> {
        let deadline = deadline_of(spec.start_timeout);
        AbortHandle::check(spec.abort.as_ref())?;
        self.slot.check()?;
        if let Ok((_, peer)) = control::connect(&self.control_socket, Instant::now()) {
            let (pid, path) = (peer.pid, self.control_socket.clone());
            return Err(ControlSocketError::Served { pid, path }.into());
        }
        if let Some(journal) = &self.journal {
            journal.shorten(&[]);
        }
        let child = self.launch.launch(LaunchRequest::new(spec, &self.listeners, None))?;
        let mut child = ChildProcess::new(child)?;
        let id = ProcessId::of(child.pid()).unwrap_or_default();
        // A journal that cannot be written keeps no daemon from being started: the lock alone
        // keeps a second writer out.
        if let Err(error) = self.note(&Entry::Started(id)) {
            log::error!(
                pid = id.pid, %error,
                "this supervisor cannot note in its journal that it started the daemon, and starts it all the same: free the disk; a supervisor that took this one's place now would find the daemon once it serves"
            );
        }
        match self.wait_until_it_serves(&mut child, spec, deadline) {
            Ok(()) => {
                if let Err(error) = self.note(&Entry::Serves(id)) {
                    log::error!(
                        pid = id.pid, %error,
                        "this supervisor cannot note in its journal that the daemon serves; mend the file before the next swap, which has to be noted"
                    );
                }
                Ok(child)
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn wait_until_it_serves(
        &self,
        child: &mut ChildProcess,
        spec: &SpawnSpec,
        deadline: Instant,
    ) -> Result<()> {
        loop {
            if let Some(status) = child.try_wait()? {
                let (path, status) = (spec.binary.clone(), status.to_string());
                return Err(LaunchError::ExitedEarly { path, status }.into());
            }
            if let Ok((mut daemon, peer)) = control::connect(&self.control_socket, deadline)
                && peer.pid == child.pid()
            {
                let (abort, id) = (spec.abort.as_ref(), HandoffId::new());
                match greet(&mut daemon, Side::Incumbent, child.pid(), id, deadline, abort) {
                    Ok(_) => return Ok(()),
                    Err(error) if is_final(&error) => return Err(error),
                    Err(error) => {
                        log::debug!(pid = peer.pid, %error, "the daemon does not serve yet");
                    }
                }
            }
            AbortHandle::check(spec.abort.as_ref())?;
            if Instant::now() >= deadline {
                return Err(Error::TimedOut("waiting for the daemon to serve its control socket"));
            }
            child.process().wait_for_end(Instant::now() + CONNECT_INTERVAL)?;
        }
    }

    /// Connects to the daemon, starts a successor, and exchanges hellos with both.
    ///
    /// A supervisor drives one swap at a time. A session has the supervisor until it is committed,
    /// aborted or dropped, or a transition of it has failed; one that is held or was forgotten
    /// has it until its deadline.
    ///
    /// # Errors
    ///
    /// Nothing was begun: the daemon serves as before, and the successor, if it was started,
    /// is dead. [`Error::SwapInFlight`] when another session of this supervisor is not over;
    /// [`Error::Path`] when no daemon serves the control socket, or the journal cannot
    /// be written; [`Error::Launch`]; [`Error::PeerMisbehaved`] for a hello that the kernel
    /// contradicts; [`Error::VersionMismatch`]; [`Error::TimedOut`] for a daemon that is silent,
    /// and [`Error::NoHello`] for a successor; [`Error::Requested`] when [`SpawnSpec::abort`] was
    /// used.
    pub fn pair(&self, spec: SpawnSpec) -> Result<Session<Paired>> {
        let begun = Instant::now();
        let deadline = deadline_of(spec.deadline);
        let handoff_id = spec.handoff_id.unwrap_or_else(HandoffId::new);
        if self.replayed != Replay::default() {
            log::warn!(
                swap = %handoff_id,
                "the journal names a daemon or a swap that another supervisor left: call Supervisor::adopt before a swap"
            );
        }
        let taken = self.slot.take(handoff_id)?;
        let hello_deadline = (begun + LIVENESS_TIMEOUT).min(deadline);
        try_failpoint!(SupervisorPairs)?;
        let (mut incumbent, peer) = control::connect(&self.control_socket, hello_deadline)?;
        let incumbent_process = Process::open(peer.pid)?;
        let abort = spec.abort.as_ref();
        let incumbent_hello =
            greet(&mut incumbent, Side::Incumbent, peer.pid, handoff_id, hello_deadline, abort)?;
        try_failpoint!(SupervisorGreetedIncumbent)?;

        if let Some(journal) = &self.journal {
            let serves = ProcessId::of(peer.pid).unwrap_or_default();
            journal.shorten(&[Entry::Serves(serves)]);
        }
        let (ours, theirs) = UnixStream::pair()?;
        let request = LaunchRequest::new(&spec, &self.listeners, Some(theirs.into()));
        let mut child = ChildProcess::new(self.launch.launch(request)?)?;
        let mut successor = Connection::new(ours);
        let hello_deadline = deadline_of(spec.hello_timeout).min(deadline);
        let mut greet_successor = || {
            try_failpoint!(SupervisorLaunched)?;
            let entry = Entry::Swap(OpenSwap {
                handoff_id,
                incumbent: ProcessId::of(peer.pid).unwrap_or_default(),
                successor: ProcessId::of(child.pid()).unwrap_or_default(),
                one_way: spec.one_way,
            });
            if let Some(journal) = &self.journal {
                journal.append_within(&entry, LIVENESS_TIMEOUT)?;
                if spec.one_way {
                    let one_way = Entry::OneWay { handoff_id };
                    journal.append_within(&one_way, LIVENESS_TIMEOUT)?;
                }
            }
            try_failpoint!(SupervisorJournaled)?;
            let (successor_pid, elapsed) = (child.pid(), begun.elapsed());
            let launched = Progress::Launched { handoff_id, successor_pid, elapsed };
            observe::tell(self.observer.as_ref(), &launched);
            let deadline = hello_deadline;
            greet(&mut successor, Side::Successor, child.pid(), handoff_id, deadline, abort)
        };
        let successor_hello = match greet_successor() {
            Ok(greeting) => greeting,
            Err(error) => {
                let error = explain(error, &mut child, &spec);
                return Err(self.not_begun(handoff_id, error));
            }
        };
        let (incumbent, successor) = (Arc::new(Link::of(incumbent)), Arc::new(Link::of(successor)));
        let links = vec![Arc::clone(&incumbent), Arc::clone(&successor)];
        // The pulse ends at the deadline: no process has to wait for this one any longer.
        let pulse = Pulse::start(links, Some(deadline), |_, _| false);
        let (pulse, watch) = match pulse.and_then(|pulse| Ok((pulse, Watch::start(deadline)?))) {
            Ok(started) => started,
            Err(error) => {
                let error = explain(error, &mut child, &spec);
                return Err(self.not_begun(handoff_id, error));
            }
        };
        let capabilities = incumbent_hello.capabilities;
        let swap = Swap::new(
            Machine::new(handoff_id, spec.one_way),
            (
                Incumbent::new(incumbent, incumbent_process, peer.pid, capabilities),
                Successor::new(successor, child),
            ),
            Clock::new(begun, deadline, spec.drain_grace, spec.pause_limit),
            self.terms(spec.one_way),
            Learnt::of(incumbent_hello, successor_hello),
            (pulse, InFlight { _slot: taken, journal: self.journal.clone() }),
            spec.abort,
        );
        let session = Session::paired(SharedSwap::new(swap, &watch));
        failpoint!(SupervisorPaired);
        Ok(session)
    }

    fn terms(&self, one_way: bool) -> Terms {
        Terms {
            control_socket: self.control_socket.clone(),
            listeners: self.listeners.iter().map(|(name, _)| name.clone()).collect(),
            policy: Arc::clone(&self.policy),
            observer: self.observer.clone(),
            one_way,
        }
    }

    /// Notes the end of a swap that was not begun: the successor is dead, and this supervisor told
    /// the incumbent nothing.
    fn not_begun(&self, handoff_id: HandoffId, error: Error) -> Error {
        let how = Outcome::RolledBack;
        if let Err(error) = self.note(&Entry::Ended { handoff_id, how }) {
            log::error!(
                swap = %handoff_id, %error,
                "this supervisor cannot note in its journal that the swap is over; the next supervisor resolves the swap once more"
            );
        }
        error
    }

    /// A whole swap in one call: pair, warm, prepare and seal, begin, commit.
    ///
    /// # Errors
    ///
    /// As [`pair`](Self::pair): nothing was begun. A swap that was begun ends in a
    /// [`HandoffOutcome`].
    pub fn perform_handoff(&self, spec: SpawnSpec) -> Result<HandoffOutcome> {
        let session = self.pair(spec)?;
        let swap =
            || -> Result<_, Failed> { session.warm()?.prepare_and_seal()?.begin()?.commit() };
        Ok(match swap() {
            Ok(committed) => HandoffOutcome::Committed(committed),
            Err(failed) => HandoffOutcome::Failed(failed),
        })
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.listeners.iter().map(|(name, _)| name).collect();
        f.debug_struct("Supervisor")
            .field("control_socket", &self.control_socket)
            .field("listeners", &names)
            .finish_non_exhaustive()
    }
}

/// Reads and checks a hello, and answers it. Stops waiting for it once `abort` was used.
pub(super) fn greet(
    connection: &mut Connection,
    role: Side,
    pid: u32,
    handoff_id: HandoffId,
    deadline: Instant,
    abort: Option<&AbortHandle>,
) -> Result<Greeting> {
    AbortHandle::check(abort)?;
    let waker = abort.map(AbortHandle::waker);
    let greeting = control::greet(connection, role, pid, handoff_id, deadline, waker);
    if greeting.is_err() {
        AbortHandle::check(abort)?;
    }
    greeting
}

/// Ends a process that could not be paired with. If it had ended by itself, and so closed its
/// connection, the error tells its exit status.
fn explain(error: Error, child: &mut ChildProcess, spec: &SpawnSpec) -> Error {
    let had_ended = child.wait_until(Instant::now() + EXIT_PATIENCE);
    let lost = matches!(error, Error::PeerLost { .. });
    let error = match had_ended {
        Ok(Some(status)) if lost => {
            let (path, status) = (spec.binary.clone(), status.to_string());
            LaunchError::ExitedEarly { path, status }.into()
        }
        _ => error,
    };
    let _ = child.kill();
    let _ = child.wait();
    error
}

/// Whether another attempt would fail the same way.
const fn is_final(error: &Error) -> bool {
    matches!(error, Error::VersionMismatch { .. } | Error::PeerMisbehaved(_) | Error::Requested(_))
}

pub(super) fn deadline_of(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 24 * 3600))
}

const CONNECT_INTERVAL: Duration = Duration::from_millis(5);
/// A process that closed its connection is about to end; its status says more.
const EXIT_PATIENCE: Duration = Duration::from_millis(200);
