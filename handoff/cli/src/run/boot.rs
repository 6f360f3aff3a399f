//! The start of the supervisor: it inherits or binds sockets, and adopts or starts a daemon.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Instant, SystemTime};

use anyhow::{anyhow, bail, ensure};
use handoff::Supervisor;
use handoff::error::ListenerError;
use handoff::successor::{Role, detect};
use handoff::supervisor::{Adoption, Resolved};
use rustix::fs::{FlockOperation, flock};

use super::daemon::Daemon;
use super::health::Health;
use super::job::{Jobs, said_of};
use super::listeners::Holding;
use super::manager::Manager;
use super::restarts::Restarts;
use super::service::{Previous, Service};
use super::swap::Swaps;
use super::{Event, Runner, inherited, party_of, signals, upgrade};
use crate::binary::{Binary, ByDescriptor};
use crate::config::{Config, ListenerConfig, Program};
use crate::history::{DaemonEvent, DaemonEventKind, History, Line};
use crate::record::{End, Outcome, Party, Probation, SwapRecord};
use crate::trigger::Trigger;
use crate::units::{from_ms, to_ms};
use crate::{files, listen, metrics, names};

/// Gets everything ready and begins to look for a daemon. No other thread runs yet.
pub(super) fn boot(config: Config) -> anyhow::Result<Runner> {
    let Inherited { own, listeners } = inherit(&config)?;
    // Before anything else is opened, so that the first numbers are still free.
    let places = upgrade::occupy(config.listeners.len() + SPARE_PLACES)
        .map_err(cannot("open", "/dev/null"))?;
    metrics::install().map_err(|error| anyhow!("cannot set up the metrics: {error}"))?;
    create_state_dir(&config.state_dir)?;
    check_owner(&config.state_dir)?;
    if let Some(parent) = config.control.parent() {
        fs::create_dir_all(parent).map_err(cannot("create the directory", parent))?;
    }
    let launcher = ByDescriptor::new(&config);
    let (sender, events) = mpsc::channel();
    let heard = sender.clone();
    // The supervisor that has the journal is the only one of the daemon with that control socket.
    let mut supervisor = Supervisor::new(&config.control)?
        .with_journal(config.control.with_added_extension("journal"))?
        .with_launch(launcher.clone())
        .with_observer(move |progress: &handoff::supervisor::Progress| {
            let _ = heard.send(Event::Progress(Instant::now(), progress.clone()));
        });
    let journal = supervisor.journal();
    let inherited: Vec<_> = listeners.iter().map(|(listener, _)| listener.clone()).collect();
    let holding = Holding::new(inherited.clone(), own.is_none());
    for (listener, socket) in listeners {
        supervisor.add_listener(listener.name, socket);
    }
    let lock = lock(&config.state_dir)?;
    if let Err(error) = launcher.clear() {
        tracing::warn!(
            path = %config.state_dir.display(), %error,
            "this supervisor cannot remove the links that the supervisor before it left"
        );
    }
    let told = sender.clone();
    signals::listen(move |signal| told.send(Event::Signal(signal)).is_ok())
        .map_err(|error| anyhow!("cannot listen for signals: {error}"))?;
    let asked = sender.clone();
    let trigger =
        Trigger::open(&config.socket, own, move |what| asked.send(Event::Asked(what)).is_ok())
            .map_err(cannot("serve the supervisor's socket", &config.socket))?;
    let asked = sender.clone();
    let own = trigger.name(move |what| asked.send(Event::Asked(what)).is_ok());
    names::keep(own);
    let history = History::open(&config.state_dir.join("history.jsonl"));
    let mut runner = Runner {
        since: SystemTime::now(),
        events,
        jobs: Jobs::new(supervisor, launcher, sender),
        trigger,
        service: Service { restarts: Restarts::new(config.restart), ..Service::default() },
        swaps: Swaps { history, in_flight: None, watch: None, judging: None },
        journal,
        stopping: None,
        holding,
        health: Health::default(),
        manager: Manager::new(),
        untaken: Vec::new(),
        places,
        _lock: lock,
        config,
    };
    tracing::info!(
        version = crate::VERSION, config = %runner.config.file.display(),
        socket = %runner.config.socket.display(), path = %runner.config.control.display(), inherited = inherited.len(),
        "this supervisor looks for a daemon at its control socket"
    );
    runner.jobs.adopt(runner.config.limits.adopt)?;
    Ok(runner)
}

/// The sockets that came with this process.
struct Inherited {
    /// The supervisor's own socket, from before its upgrade.
    own: Option<UnixListener>,
    listeners: Vec<(ListenerConfig, OwnedFd)>,
}

/// Takes the sockets of a service manager, or of this supervisor before its upgrade. It reads the
/// environment, so it comes first of all.
fn inherit(config: &Config) -> anyhow::Result<Inherited> {
    let Role::ColdStart(start) = detect()? else {
        bail!(
            "another supervisor started this as a successor; handoff run is a supervisor and no daemon"
        );
    };
    let mut inherited = start.into_listeners();
    let own = match inherited.take_unix(listen::OWN) {
        Ok(socket) => Some(out_of_the_way(socket.into(), config)?.into()),
        Err(ListenerError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mut listeners = Vec::new();
    for (listener, socket) in inherited::take(&mut inherited, &config.listeners)? {
        // At once: a service manager passes blocking sockets, also of a daemon that serves.
        listen::set_up(&listener, &socket)
            .map_err(cannot("set up the listener", &listener.name))?;
        listeners.push((listener, out_of_the_way(socket, config)?));
    }
    for name in inherited.names() {
        inherited::close(&name);
    }
    Ok(Inherited { own, listeners })
}

/// Moves a socket to a higher number: an upgrade needs the first ones.
fn out_of_the_way(socket: OwnedFd, config: &Config) -> anyhow::Result<OwnedFd> {
    let kept = upgrade::FIRST + i32::try_from(config.listeners.len() + SPARE_PLACES).unwrap_or(0);
    Ok(rustix::io::fcntl_dupfd_cloexec(&socket, kept).map_err(io::Error::from)?)
}

fn create_state_dir(state_dir: &Path) -> anyhow::Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
    created.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow!(
            "{} is no directory; move it away, or choose another state_dir",
            state_dir.display()
        ),
        _ => cannot("create the directory", state_dir)(error),
    })
}

/// The supervisor executes binaries by links in this directory, so no other user may write it.
fn check_owner(state_dir: &Path) -> anyhow::Result<()> {
    let metadata = fs::metadata(state_dir).map_err(cannot("look at", state_dir))?;
    let (mode, uid) = (metadata.mode() & 0o7777, metadata.uid());
    let is_own = mode & 0o022 == 0 && uid == rustix::process::geteuid().as_raw();
    let path = state_dir.display();
    ensure!(
        is_own,
        "{path} may be written by others (mode {mode:04o}, user {uid}), who could have something else executed; it has to be this user's alone: chmod go-w {path}"
    );
    Ok(())
}

/// Two supervisors of two daemons may not have one directory: each would answer for the other.
fn lock(state_dir: &Path) -> anyhow::Result<File> {
    let path = state_dir.join("lock");
    let mut options = OpenOptions::new();
    let opened =
        files::open_itself(&path, options.create(true).truncate(false).write(true).mode(0o600))
            .map_err(cannot("open", &path))?;
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(opened),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "another supervisor keeps its state in {}; give each one a state_dir of its own, or stop the other one first: handoff stop",
            state_dir.display()
        ),
        Err(errno) => Err(cannot("lock", &path)(errno.into())),
    }
}

/// The error of an action on a file.
fn cannot(action: &str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> anyhow::Error {
    move |error| anyhow!("cannot {action} {}: {error}", path.as_ref().display())
}

impl Runner {
    pub(super) fn on_adopted(
        &mut self,
        supervisor: Box<Supervisor>,
        adoption: handoff::Result<Adoption>,
    ) -> anyhow::Result<()> {
        let adoption = adoption?;
        let (resolved, serves) = match &adoption {
            Adoption::Daemon(daemon) => (&daemon.resolved, Some(daemon.process.pid())),
            Adoption::Nothing { resolved } => (resolved, None),
        };
        end_open_swaps(&mut self.swaps.history, resolved.as_ref(), serves);
        if serves.is_none() && self.stopping.is_some() {
            self.jobs.end(supervisor);
            return Ok(()); // there is nobody to stop
        }
        match adoption {
            Adoption::Daemon(adopted) => {
                let pid = adopted.process.pid();
                let (binary, executes) = self.binary_of(pid, &adopted.listeners)?;
                self.holding.adopt(&supervisor, &binary.listeners);
                self.jobs.end(supervisor);
                let said = said_of(&adopted.build_id, adopted.generation);
                self.service.previous = self.previous_in_history(&binary, Some(pid));
                let started = self.swaps.history.start_of(pid);
                let since = started.map_or_else(SystemTime::now, |event| from_ms(event.at_ms));
                let daemon = Daemon::new(adopted.process, binary, said, since).executing(executes);
                tracing::info!(
                    pid, build = daemon.said.build, generation = daemon.said.generation,
                    resolved = ?adopted.resolved.map(|resolved| resolved.outcome),
                    "this supervisor adopted the daemon that serves"
                );
                self.serve(daemon, DaemonEventKind::Adopted);
                self.resume_probation();
            }
            Adoption::Nothing { .. } => {
                self.jobs.end(supervisor);
                let binary = Arc::new(Binary::open(&self.config.programs[0])?);
                self.service.previous = self.previous_in_history(&binary, None);
                let successor = self.successor_in_history();
                self.service.alternative =
                    successor.filter(|successor| !successor.is(&binary)).map(Arc::new);
                self.service.next_start = Some((Instant::now(), binary));
            }
        }
        Ok(())
    }

    /// The binary that an adopted daemon executes: as the history notes it, if the file is still
    /// the same, and else as the kernel names it. Only the note names a script, since the kernel
    /// names its interpreter. Where `/proc` hides the process, it is the configured binary; the party
    /// says then what the daemon executes, as far as it was noted.
    fn binary_of(
        &self,
        pid: u32,
        listeners: &[String],
    ) -> anyhow::Result<(Arc<Binary>, Option<Party>)> {
        let noted = self.swaps.history.start_of(pid);
        if let Some(binary) = noted.and_then(|event| self.reopen(event).ok()) {
            return Ok((Arc::new(binary), None));
        }
        let has = |listener: &&ListenerConfig| listeners.contains(&listener.name);
        let has: Vec<_> = self.config.listeners.iter().filter(has).cloned().collect();
        let error = match Binary::of_process(pid, has.clone()) {
            Ok(binary) => {
                let listed = self.config.program(&binary.path).map(|program| program.path.clone());
                let binary = match listed {
                    Some(path) => binary.listed_as(&path),
                    None => binary,
                };
                return Ok((Arc::new(binary), None));
            }
            Err(error) => error,
        };
        let program = Program { listeners: has, ..self.config.programs[0].clone() };
        let binary = Binary::open(&program)?;
        tracing::warn!(
            pid, path = %binary.path.display(), %error,
            "this supervisor cannot look at what the daemon executes: if the daemon dies, it starts the configured binary"
        );
        let unknown = Party { blake3: String::new(), ..party_of(&binary) };
        let noted =
            noted.map(|event| Party { build: None, generation: None, ..event.daemon.clone() });
        Ok((Arc::new(binary), Some(noted.unwrap_or(unknown))))
    }

    /// The file that a daemon executed, if it is listed and has not changed.
    fn reopen(&self, event: &DaemonEvent) -> anyhow::Result<Binary> {
        self.reopen_as(&event.daemon, Some(&event.args), event.listeners.as_ref())
    }

    /// The same with these arguments and listeners, or else the configured ones.
    fn reopen_as(
        &self,
        party: &Party,
        args: Option<&Vec<String>>,
        listeners: Option<&Vec<ListenerConfig>>,
    ) -> anyhow::Result<Binary> {
        let listed = self.config.program(party.binary.as_ref());
        let listed =
            listed.ok_or_else(|| anyhow!("{} is not listed in the configuration", party.binary))?;
        let program = Program {
            path: listed.path.clone(),
            args: args.unwrap_or(&listed.args).clone(),
            blake3: Some(party.blake3.clone()),
            listeners: listeners.unwrap_or(&listed.listeners).clone(),
        };
        Binary::open(&program)
    }

    /// The successor of the last swap, if that may have been one-way and was not undone: the data may
    /// be for that binary alone. The supervisor that made the swap may have died before it noted more.
    fn successor_in_history(&self) -> Option<Binary> {
        let record = self.swaps.history.swaps().next_back().filter(|record| record.one_way)?;
        match record.outcome() {
            Some(Outcome::RolledBack | Outcome::NotBegun | Outcome::DryRun) => None,
            _ => self.reopen_as(&record.to, None, None).ok(),
        }
    }

    /// The binary that served before this one, by the history, if it is still there and listed. A
    /// binary that failed its probation is passed over, unless no other one has served since.
    fn previous_in_history(&self, current: &Binary, pid: Option<u32>) -> Option<Previous> {
        let history = &self.swaps.history;
        let has_failed = |pid| {
            let mut its = history.swaps().filter(|record| record.to.pid == pid);
            its.any(|record| matches!(record.probation, Some(Probation::Failed { .. })))
        };
        let last = history.starts().next().and_then(|event| event.daemon.pid);
        let event = history.starts().find(|DaemonEvent { daemon, args, listeners, .. }| {
            let is_current = daemon.blake3 == current.blake3
                && *args == current.args
                && listeners.as_ref().is_none_or(|listeners| *listeners == current.listeners);
            !is_current && daemon.pid != pid && (daemon.pid == last || !has_failed(daemon.pid))
        })?;
        let one_way = history.swaps().any(|record| {
            let has_committed =
                matches!(record.outcome(), Some(Outcome::Committed | Outcome::Promoted));
            record.one_way && has_committed && record.from.pid == event.daemon.pid
        });
        match self.reopen(event) {
            Ok(binary) => Some(Previous { binary: Arc::new(binary), one_way }),
            Err(error) => {
                tracing::info!(
                    path = event.daemon.binary, %error,
                    "this supervisor cannot fall back to the binary that served before"
                );
                None
            }
        }
    }
}

/// Ends, in the history, the swaps that the supervisor before this one left open.
fn end_open_swaps(history: &mut History, resolved: Option<&Resolved>, serves: Option<u32>) {
    let now_ms = to_ms(SystemTime::now());
    let open: Vec<_> = history.swaps().filter(|record| record.end.is_none()).cloned().collect();
    for SwapRecord { id, begun_ms, from, to, .. } in open {
        let resolved = resolved.filter(|resolved| resolved.handoff_id.to_string() == id);
        let outcome = match resolved.map(|resolved| resolved.outcome) {
            Some(outcome) => outcome,
            // The supervisor died before its journal had the swap, or after the swap was over.
            None if serves.is_some() && serves == to.pid => Outcome::Committed,
            None if serves.is_some() && serves == from.pid => Outcome::RolledBack,
            None => Outcome::Unknown,
        };
        let cause = match (resolved, outcome) {
            (Some(_), _) => "its supervisor died; the next one resolved it",
            (None, Outcome::Unknown) => "its supervisor died, and left no word of it",
            (None, _) => "its supervisor died; the next one found this process serving",
        };
        let took_us = now_ms.saturating_sub(begun_ms).saturating_mul(1000);
        let (cause, carried) = (Some(cause.into()), Vec::new());
        let end = End { outcome, took_us, admitted_us: None, cause, carried };
        tracing::info!(
            swap = id,
            outcome = outcome.name(),
            "the swap that the supervisor before this one had begun is over"
        );
        history.add(Line::Ended { id, end });
    }
}

/// For the supervisor's own socket, and for unlisted listeners that a daemon gives back.
const SPARE_PLACES: usize = 8;
