//! The daemon, once for each mechanism: the same log and requests, handed over differently.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use handoff::carry::Connections;
use handoff::daemon::Daemon;
use handoff::{Error, Gate, Result, Shard};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::TIMEOUT;
use crate::log::{Contents, Log};
use crate::server::{Client, Server};
use crate::tell::Tell;

/// What a daemon is told on its command line.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) directory: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) slow: Slow,
    pub(crate) care: Care,
}

/// What a daemon does ahead, so that less is left for the pause. This library calls for it at the
/// right moment; where a mechanism has no such moment, the daemon's author found one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// Nothing: it syncs after its last acknowledgement, and opens all of the log anew.
    Plain,
    /// It syncs once before it stops admitting requests, and again after the last.
    Settles,
    /// It syncs once before, and leaves the rest of the sync to its successor, since it never
    /// promised more than that a line is written. The successor has read all of the log but its
    /// end before the old process stops.
    Ahead,
}

/// Where a successor has 200 ms to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slow {
    Never,
    /// In what needs no data: as soon as the mechanism lets it, at best while the old process
    /// serves.
    Early,
    /// In the opening of the data.
    Opening,
}

impl Settings {
    pub(crate) fn to_args(&self) -> [String; 4] {
        let slow = match self.slow {
            Slow::Never => "never",
            Slow::Early => "early",
            Slow::Opening => "opening",
        };
        let care = match self.care {
            Care::Plain => "plain",
            Care::Settles => "settles",
            Care::Ahead => "ahead",
        };
        let directory = self.directory.display().to_string();
        [directory, self.address.to_string(), slow.to_owned(), care.to_owned()]
    }

    fn parse(args: &[String]) -> Option<Self> {
        let [directory, address, slow, care] = args else { return None };
        let slow = match slow.as_str() {
            "never" => Slow::Never,
            "early" => Slow::Early,
            "opening" => Slow::Opening,
            _ => return None,
        };
        let care = match care.as_str() {
            "plain" => Care::Plain,
            "settles" => Care::Settles,
            "ahead" => Care::Ahead,
            _ => return None,
        };
        let (directory, address) = (directory.into(), address.parse().ok()?);
        Some(Self { directory, address, slow, care })
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.directory.join("control")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.data().join("log")
    }

    pub(crate) fn told(&self) -> PathBuf {
        self.directory.join("told")
    }

    fn tell(&self) -> io::Result<Arc<Tell>> {
        Tell::to(&self.told()).map(Arc::new)
    }

    /// The slow work that needs no lock, and what the log has by now.
    fn warm(&self, verifies: bool) -> io::Result<Contents> {
        if self.slow == Slow::Early {
            thread::sleep(SLOW);
        }
        let mut contents = Contents::new(verifies);
        if self.care == Care::Ahead && self.log().exists() {
            contents.read(&File::open(self.log())?)?;
        }
        Ok(contents)
    }

    fn open(&self, contents: Contents, tell: &Arc<Tell>) -> io::Result<Arc<Log>> {
        let slow = if self.slow == Slow::Opening { SLOW } else { Duration::ZERO };
        let syncs = self.care != Care::Ahead;
        Log::open(&self.log(), contents, syncs, slow, tell.clone()).map(Arc::new)
    }

    const fn settles(&self) -> bool {
        !matches!(self.care, Care::Plain)
    }

    /// What the old process left to be synced, where the mechanism does not see to it.
    fn sync_after(&self, log: &Arc<Log>) {
        if self.care == Care::Ahead {
            let log = log.clone();
            thread::spawn(move || log.sync().expect("the disk is not full"));
        }
    }
}

/// Runs one of them, as this process.
pub(crate) fn run(args: &[String]) -> Result<()> {
    // Nothing that a bench which was killed has left lives for long.
    thread::spawn(|| {
        thread::sleep(MAX_LIFETIME);
        std::process::exit(1);
    });
    let Some((mechanism, args)) = args.split_first() else { return Err(usage()) };
    let settings = Settings::parse(args).ok_or_else(usage)?;
    match mechanism.as_str() {
        "handoff" => handoff(&settings),
        "beyond" => beyond(&settings).map_err(|error| io::Error::other(error.to_string()).into()),
        "ecdysis" => Ok(ecdysis(settings)?),
        "restart" => Ok(restart(&settings)?),
        _ => Err(usage()),
    }
}

fn usage() -> Error {
    io::Error::other("--daemon MECHANISM DIRECTORY ADDRESS SLOW CARE").into()
}

#[derive(handoff::Drainable)]
struct Carrying {
    #[handoff(gate)]
    gate: Arc<Gate>,
    #[handoff(carry)]
    clients: Arc<Connections<Client>>,
    log: Data,
}

/// The log, which settles ahead of a drain if that is what is measured.
struct Data {
    log: Arc<Log>,
    settles: bool,
}

impl Shard for Data {
    fn settle(&self) -> Result<()> {
        if self.settles {
            self.log.sync()?;
        }
        Ok(())
    }

    fn seal(&self) -> Result<u64> {
        self.log.seal()
    }

    fn revision(&self) -> u64 {
        self.log.revision()
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        self.log.fingerprint()
    }

    fn resume(&self) -> Result<()> {
        self.log.resume()
    }
}

fn handoff(settings: &Settings) -> Result<()> {
    let mut runtime = None;
    let tell = settings.tell()?;
    Daemon::new(settings.control(), settings.data()).run(
        |_| {
            let runtime = runtime.insert(Runtime::new()?).handle().clone();
            Ok((runtime, settings.warm(true)?))
        },
        |(runtime, contents), opening| {
            let log = settings.open(contents, &tell)?;
            let gate = Arc::new(Gate::new());
            let clients = Arc::new(Connections::new());
            let carried = Some(clients.clone());
            let server = Server { log: log.clone(), gate: gate.clone(), carried };
            server.start(&runtime, opening.listeners().take_tcp("main")?);
            let opened = gate.clone();
            runtime.spawn(async move {
                opened.opened().await;
                tell.serving();
            });
            let log = Data { log, settles: settings.settles() };
            Ok(Carrying { gate, clients, log })
        },
    )?;
    Ok(())
}

/// A daemon that closes its connections when it is replaced.
struct Closing {
    server: Server,
    settles: bool,
}

impl beyond::Drainable for Closing {
    fn drain(&self, deadline: Instant) -> beyond::Result<beyond::DrainReport> {
        if self.settles {
            self.server.log.sync()?;
        }
        self.server.gate.close();
        let open_conns_remaining = self.server.gate.wait_empty(deadline);
        Ok(beyond::DrainReport { open_conns_remaining, accept_closed: true })
    }

    // What it recommends to sync in `drain` is synced here, and once.
    fn seal(&self) -> beyond::Result<beyond::SealReport> {
        let last_revision_per_shard = vec![self.server.log.close()?];
        Ok(beyond::SealReport { last_revision_per_shard, ..Default::default() })
    }

    fn resume_after_abort(&self) -> beyond::Result<()> {
        Err(io::Error::other("a bench aborts no swap").into())
    }

    fn snapshot_state(&self) -> beyond::StateSnapshot {
        let last_revision_per_shard = vec![self.server.log.lines()];
        beyond::StateSnapshot { shard_count: 1, open_conns: 0, last_revision_per_shard }
    }
}

fn beyond(settings: &Settings) -> beyond::Result<()> {
    let tell = settings.tell()?;
    let role = beyond::detect_role()?;
    // The only place for it before the drain; here it is part of what the hello may take.
    let contents = settings.warm(false)?;
    let runtime = Runtime::new()?;
    let (incumbent, log, listener) = match role {
        beyond::Role::ColdStart { mut inherited } => {
            let listener = inherited.take(LISTENER);
            let lock = beyond::DataDirLock::acquire_or_break_stale(&settings.data())?;
            let log = settings.open(contents, &tell)?;
            let incumbent = beyond::Incumbent::bind_cold_start(&settings.control(), lock)?;
            (incumbent, log, listener)
        }
        beyond::Role::Successor(successor) => {
            let mut successor = successor.handshake(Vec::new())?.wait_for_begin()?;
            let listener = successor.take_listener(LISTENER);
            let lock = beyond::DataDirLock::acquire(&settings.data())?;
            let log = settings.open(contents, &tell)?;
            let ready = beyond::ReadinessSnapshot {
                healthz_ok: true,
                advertised_revision_per_shard: vec![log.lines()],
                ..Default::default()
            };
            let incumbent = successor.announce_and_bind(ready, &settings.control(), lock)?;
            (incumbent, log, listener)
        }
    };
    let listener = listener.ok_or_else(|| io::Error::other("no listener was passed"))?;
    let server = serve(log, runtime.handle(), listener, &tell);
    settings.sync_after(&server.log);
    incumbent.serve(Closing { server, settles: settings.settles() })
}

/// One writer: a lock of its own says when the old process has stopped and synced. The new
/// one says that it is ready once it has nothing left to do but to take the lock and open the
/// data, so that it starts while the old one serves.
fn ecdysis(mut settings: Settings) -> io::Result<()> {
    let mut ecdysis = ecdysis::Ecdysis::new();
    if !ecdysis.is_child() {
        settings.slow = Slow::Never;
    }
    let tell = settings.tell()?;
    let contents = settings.warm(false)?;
    let runtime = Runtime::new()?;
    let listener = ecdysis.build_listen_tcp(settings.address, |_, _| standard_input())?;
    fs::create_dir_all(settings.data())?;
    let lock = File::create(settings.directory.join("lock"))?;
    let mut told = {
        let _in_runtime = runtime.enter();
        signal(SignalKind::user_defined1())?
    };
    ecdysis.ready()?;
    lock.lock()?;
    let log = settings.open(contents, &tell)?;
    let server = serve(log, runtime.handle(), listener, &tell);
    settings.sync_after(&server.log);
    runtime.block_on(told.recv());
    ecdysis.upgrade().map_err(|error| io::Error::other(error.to_string()))?;
    if settings.settles() {
        server.log.sync()?;
    }
    server.stop(Instant::now() + TIMEOUT)?;
    lock.unlock()
}

/// Ended by a signal, and started again by the bench, which holds the listener.
fn restart(settings: &Settings) -> io::Result<()> {
    let tell = settings.tell()?;
    let contents = settings.warm(false)?;
    let runtime = Runtime::new()?;
    fs::create_dir_all(settings.data())?;
    let mut told = {
        let _in_runtime = runtime.enter();
        signal(SignalKind::terminate())?
    };
    let log = settings.open(contents, &tell)?;
    let server = serve(log, runtime.handle(), standard_input()?, &tell);
    settings.sync_after(&server.log);
    runtime.block_on(told.recv());
    if settings.settles() {
        server.log.sync()?;
    }
    server.stop(Instant::now() + TIMEOUT)?;
    Ok(())
}

fn serve(log: Arc<Log>, runtime: &Handle, listener: TcpListener, tell: &Tell) -> Server {
    let gate = Arc::new(Gate::new());
    let server = Server { log, gate, carried: None };
    server.gate.open();
    server.clone().start(runtime, listener);
    tell.serving();
    server
}

/// The listener, where it is passed as standard input.
fn standard_input() -> io::Result<TcpListener> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

pub(crate) fn create(data: &Path) -> io::Result<()> {
    fs::create_dir_all(data)
}

pub(crate) const LISTENER: &str = "main";
pub(crate) const SLOW: Duration = Duration::from_millis(200);
const MAX_LIFETIME: Duration = Duration::from_secs(60);
