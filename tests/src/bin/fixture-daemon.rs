//! A daemon for scenarios: a key-value store in append-only logs, served over TCP, that fails
//! as its command line says.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use handoff::carry::Late;
use handoff::daemon::Daemon as EasyRoad;
use handoff::frame::write_message;
use handoff::protocol::{Capabilities, HandoffId, Message, PROTO_MAX, PROTO_MIN, Side};
use handoff::successor::{Listeners, OnLoss, Role, detect};
use handoff::{Drainable, Gate, ReadinessSnapshot, Result};
use handoff_tests::fixture::{
    Cache, Client, ClientReady, ClientV1, ClientV2, Connections, Daemon, FORMAT, Faults, LogShard,
    Options, Server, Stranger, give_up_root, take_no_more,
};
use tracing_subscriber::util::SubscriberInitExt;

#[path = "../sink.rs"]
mod sink;

use sink::{SINK, Sink};

fn main() -> ExitCode {
    let sink = std::env::var(SINK).map_or(Ok(Sink::Stderr), |word| word.parse());
    sink.expect("the test knows the words").subscriber().init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fixture-daemon: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    File::create(options.state.join("pids").join(std::process::id().to_string()))?;
    // Nothing that a test forgot lives for long.
    thread::spawn(|| {
        thread::sleep(MAX_LIFETIME);
        std::process::exit(1);
    });
    FORMAT.store(options.format, Ordering::Relaxed);
    let faults = Arc::new(Faults::parse(&options.faults, &options.state)?);
    if faults.planned("hello").is_some() {
        return say_a_wrong_hello(&faults);
    }
    // What a build carries is among the faults too: `carry=WORD`.
    if faults.plans("carry", "v2") {
        serve::<ClientV2>(&options, &faults)
    } else if faults.plans("carry", "ready") {
        serve::<ClientReady>(&options, &faults)
    } else if faults.plans("carry", "stranger") {
        serve::<Stranger>(&options, &faults)
    } else {
        serve::<ClientV1>(&options, &faults)
    }
}

fn serve<C: Client>(options: &Options, faults: &Arc<Faults>) -> Result<()> {
    let mut server = None;
    let ended = if faults.planned("ready").is_some() {
        take_steps::<C>(options, faults, &mut server)
    } else {
        EasyRoad::new(&options.control, &options.data)
            .build_id(options.build.as_bytes())
            .run(
                |_| {
                    if faults.strike("warm")? == Some("gives-up-root") {
                        give_up_root(NOBODY)?;
                    }
                    Ok(())
                },
                |(), opening| {
                    let healthy = faults.planned("health").is_none();
                    let data = opening.data_dir().to_owned();
                    let cache = Cache::new(faults, || opening.memory(MEMORY))?;
                    let (daemon, opened) =
                        open::<C>(&data, opening.listeners(), cache, options, faults)?;
                    if options.format > 0 {
                        let (logs, format) = (opened.logs.clone(), options.format);
                        opening.on_commit(move || {
                            let mut logs = logs.iter().enumerate();
                            logs.try_for_each(|(index, log)| {
                                Ok(log.migrate(&log_path(&data, index), format)?)
                            })
                        });
                    }
                    opened.stop.get_or_init(|| opening.stop_handle());
                    server = Some(opened);
                    if !healthy {
                        faults.due("health");
                        opening.unhealthy();
                    }
                    Ok(daemon)
                },
            )
            .map(drop)
    };
    if let Some(server) = &server {
        // Where they are told to close, none is waited for but to see the client close.
        server.connections.wait_ended();
        if let Some(clients) = &server.clients {
            clients.wait_ended(Instant::now() + FINISH_TIMEOUT);
        }
    }
    ended
}

/// Opens the logs and begins to accept, as far as the gate lets it.
fn open<C: Client>(
    data: &Path,
    listeners: &mut Listeners,
    cache: Option<Arc<Cache>>,
    options: &Options,
    faults: &Arc<Faults>,
) -> Result<(Daemon<C>, Arc<Server<C>>)> {
    let struck = faults.strike("open")?;
    let logs = (0..options.shards)
        .map(|index| Ok(Arc::new(LogShard::open_of(&log_path(data, index), options.format)?)))
        .collect::<io::Result<Vec<_>>>()?;
    let main = listeners.take_tcp(&options.listener)?;
    let local = take_local(listeners)?;
    let listeners = take_all(listeners)?;
    let gate = Arc::new(Gate::new());
    let clients = options.carry.then(|| {
        let mut clients = C::connections();
        if faults.plans("carry", "may-be-lost") {
            clients = clients.may_be_lost();
        }
        if faults.plans("carry", "finish") {
            clients = clients.late(Late::Finish);
        }
        Arc::new(clients)
    });
    let compared = cache.as_ref().map(|cache| cache.compared(&logs)).transpose()?;
    let server = Arc::new(Server {
        gate: Arc::clone(&gate),
        logs: logs.clone(),
        faults: Arc::clone(faults),
        build: options.build.clone(),
        listeners,
        cache: compared.unwrap_or_default(),
        unparsed: AtomicUsize::new(0),
        connections: Connections::default(),
        clients: clients.clone(),
        stop: OnceLock::new(),
    });
    Arc::clone(&server).start(main, local)?;
    if struck == Some("full") {
        take_no_more(true);
    }
    Ok((Daemon::new(gate, logs, clients, cache, Arc::clone(faults)), server))
}

fn log_path(data: &Path, index: usize) -> PathBuf {
    data.join(format!("{index}.log"))
}

/// The listener for connections of other kinds.
fn take_local(listeners: &mut Listeners) -> Result<Option<UnixListener>> {
    if listeners.names().iter().any(|name| name == LOCAL) {
        return Ok(Some(listeners.take_unix(LOCAL)?));
    }
    Ok(None)
}

/// Takes the other listeners as they come, keeps them open, and says what they are.
fn take_all(listeners: &mut Listeners) -> Result<Vec<String>> {
    let mut taken = Vec::new();
    while let Some(name) = listeners.names().into_iter().next() {
        let (kind, address) = if let Ok(tcp) = listeners.take_tcp(&name) {
            ("tcp", leak(tcp, |tcp: &TcpListener| Ok(tcp.local_addr()?.port().to_string()))?)
        } else if let Ok(udp) = listeners.take_udp(&name) {
            ("udp", leak(udp, |udp| Ok(udp.local_addr()?.port().to_string()))?)
        } else if let Ok(unix) = listeners.take_unix(&name) {
            ("unix", leak(unix, |unix| file_name(&unix.local_addr()?))?)
        } else {
            let datagram = listeners.take_unix_datagram(&name)?;
            ("datagram", leak(datagram, |datagram| file_name(&datagram.local_addr()?))?)
        };
        taken.push(format!("{name} {kind} {address}"));
    }
    Ok(taken)
}

fn leak<T: Send + 'static>(
    socket: T,
    address: impl FnOnce(&T) -> io::Result<String>,
) -> io::Result<String> {
    let address = address(&socket);
    std::mem::forget(socket);
    address
}

fn file_name(address: &std::os::unix::net::SocketAddr) -> io::Result<String> {
    let name = address.as_pathname().and_then(Path::file_name);
    let name = name.ok_or_else(|| io::Error::other("a Unix socket without a name"))?;
    Ok(name.to_string_lossy().into_owned())
}

/// The way of a successor step by step, with a false word at `Ready`.
fn take_steps<C: Client>(
    options: &Options,
    faults: &Arc<Faults>,
    server: &mut Option<Arc<Server<C>>>,
) -> Result<()> {
    let Role::Successor(successor) = detect()? else {
        return Err(io::Error::other("a fault at ready is for a successor").into());
    };
    let mut successor = successor.greet(options.build.as_bytes(), OnLoss::Exit)?;
    if !faults.plans("ready", "no-fetch") {
        successor.fetch(&options.control)?;
    }
    let mut successor = successor.warmed()?.wait_for_begin(&options.control, &options.data)?;
    let cache = Cache::new(faults, || successor.memory(MEMORY))?;
    let (daemon, opened) = open::<C>(&options.data, successor.listeners(), cache, options, faults)?;
    *server = Some(opened);
    let fault = faults.due("ready");
    successor.hand_on(&daemon)?;
    match fault {
        Some("no-fingerprint") => {}
        Some("wrong-fingerprint") => successor.verified([0xff; 32]),
        _ => successor.verify(&daemon)?,
    }
    let mut revisions = daemon.snapshot_state().last_revision_per_shard;
    match fault {
        Some("behind") => revisions[0] = revisions[0].saturating_sub(1),
        Some("wrong-shards") => revisions.push(0),
        _ => {}
    }
    let incumbent = successor.ready(ReadinessSnapshot {
        listening_on: vec![options.listener.clone()],
        healthz_ok: fault != Some("unhealthy"),
        advertised_revision_per_shard: revisions,
    })?;
    if fault == Some("late") {
        thread::sleep(Duration::from_millis(400));
    }
    incumbent.serve(daemon)
}

/// Talks to the supervisor by itself, and wrongly; or not at all.
fn say_a_wrong_hello(faults: &Faults) -> Result<()> {
    if std::env::var_os(RAW).is_none() {
        match faults.planned("hello") {
            Some("exit") => {
                faults.due("hello");
                std::process::exit(3);
            }
            Some("never") => {
                faults.due("hello");
                thread::sleep(MAX_LIFETIME);
            }
            _ => return Err(with_the_supervisor_on_standard_input().into()),
        }
    }
    let mut supervisor = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let what = faults.due("hello");
    if what == Some("grandchild") && std::env::var_os(GRANDCHILD).is_none() {
        let mut again = Command::new(std::env::current_exe()?);
        again.args(std::env::args().skip(1)).env(GRANDCHILD, "1").spawn()?.wait()?;
        return Ok(());
    }
    let own = std::process::id();
    let hello = Message::Hello {
        role: if what == Some("wrong-role") { Side::Incumbent } else { Side::Successor },
        pid: if what == Some("wrong-pid") { own + 1 } else { own },
        build_id: Vec::new(),
        proto_min: if what == Some("wrong-version") { PROTO_MAX + 1 } else { PROTO_MIN },
        proto_max: if what == Some("wrong-version") { PROTO_MAX + 2 } else { PROTO_MAX },
        capabilities: Capabilities::default(),
    };
    match what {
        Some("garbage") => supervisor.write_all(&[0xff; 64])?,
        Some("other") => {
            let handoff_id = HandoffId::new();
            write_message(&mut supervisor, PROTO_MAX, &Message::Warmed { handoff_id })?;
        }
        _ => write_message(&mut supervisor, PROTO_MAX, &hello)?,
    }
    // Mute from here on, until the supervisor closes.
    let _ = supervisor.read_to_end(&mut Vec::new());
    Ok(())
}

/// A number from the environment cannot be made a descriptor without `unsafe`; a shell can
/// redirect it, and has our pid.
fn with_the_supervisor_on_standard_input() -> io::Error {
    let control = std::env::var("HANDOFF_CONTROL").unwrap_or_default();
    let Some((number, _)) = control.split_once(':') else {
        return io::Error::other("a fault at hello is for a successor");
    };
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(error) => return error,
    };
    Command::new("sh")
        .args(["-c", &format!("exec \"$0\" \"$@\" <&{number} {number}<&-")])
        .arg(exe)
        .args(std::env::args().skip(1))
        .env(RAW, "1")
        .exec()
}

const GRANDCHILD: &str = "FIXTURE_GRANDCHILD";
const RAW: &str = "FIXTURE_SUPERVISOR_ON_STDIN";
/// The listener over which any descriptor may be brought.
const LOCAL: &str = "local";
/// The field of the daemon.
const MEMORY: &str = "memory";
/// The user that a daemon becomes that gives up root.
const NOBODY: u32 = 65_534;
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_LIFETIME: Duration = Duration::from_secs(180);
