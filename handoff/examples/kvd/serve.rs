//! The daemon: its state, and how it is opened at a cold start and in a successor.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use handoff::daemon::{Daemon, Ended, Opening};
use handoff::error::ListenerError;
use handoff::{Gate, StopHandle};
use rustix::fs::{OFlags, fcntl_getfl};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::BoxError;
use crate::connection::{Connections, Server};
use crate::store::{RedbShard, Store};

/// `kvd serve`.
pub(crate) struct ServeOptions {
    pub(crate) data: PathBuf,
    pub(crate) control: PathBuf,
    /// Where a cold start listens that inherits no listener.
    pub(crate) listen: SocketAddr,
    pub(crate) build: u32,
    pub(crate) fail_open: bool,
    pub(crate) open_delay: Duration,
}

/// What a swap has to know of this daemon.
#[derive(handoff::Drainable)]
struct Kv {
    /// Every request passes through it; a drain closes it.
    #[handoff(gate)]
    gate: Arc<Gate>,
    /// What is sealed: `shards.0`, `shards.1`, and so on.
    #[handoff(shards)]
    shards: Vec<Arc<RedbShard>>,
}

/// Serves until this process has been replaced, or is told to end by `SIGTERM`.
pub(crate) fn serve(options: &ServeOptions) -> Result<(), BoxError> {
    let connections = Arc::new(Connections::new());
    // It outlives the state, for the last connections are closed after it.
    let mut runtime = None;
    let ended =
        Daemon::new(&options.control, &options.data).build_id(options.build.to_string()).run(
            |_warm| Ok(runtime.insert(Runtime::new()?).handle().clone()),
            |runtime, opening| open(&runtime, opening, options, &connections),
        )?;
    match ended {
        Ended::Replaced | Ended::Stopped => {}
    }
    if let Some(runtime) = runtime {
        runtime.block_on(connections.ended());
    }
    Ok(())
}

/// Opens the data. This process holds the data directory's lock, and admits nothing before
/// the library opens the gate.
fn open(
    runtime: &Handle,
    opening: &mut Opening<'_>,
    options: &ServeOptions,
    connections: &Arc<Connections>,
) -> handoff::Result<Kv> {
    if options.fail_open {
        return Err(io::Error::other("told to fail by --fail-open").into());
    }
    let store = Store::open(opening.data_dir())?;
    thread::sleep(options.open_delay);

    let listener = match opening.listeners().take_tcp(LISTENER) {
        Ok(inherited) => check_nonblocking(inherited)?,
        Err(ListenerError::Missing { .. }) if !opening.is_successor() => bind(options.listen)?,
        Err(error) => return Err(error.into()),
    };
    let gate = Arc::new(Gate::new());
    let kv = Kv { gate: Arc::clone(&gate), shards: store.shards().to_vec() };

    let _in_runtime = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = Arc::clone(connections);
    let server = Server { build: options.build, gate, store, connections };
    runtime.spawn(Arc::new(server).accept(listener));
    runtime.spawn(stop_on(signal(SignalKind::terminate())?, opening.stop_handle()));
    Ok(kv)
}

async fn stop_on(mut signal: Signal, stop: StopHandle) {
    if signal.recv().await.is_some() {
        stop.stop();
    }
}

/// An inherited listener shares its file status flags with the process that still accepts on
/// it: they are looked at here, and never changed.
fn check_nonblocking(listener: TcpListener) -> handoff::Result<TcpListener> {
    let flags = fcntl_getfl(&listener).map_err(io::Error::from)?;
    if !flags.contains(OFlags::NONBLOCK) {
        let what = "the inherited listener is blocking; the supervisor has to bind it nonblocking";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what).into());
    }
    Ok(listener)
}

fn bind(address: SocketAddr) -> handoff::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The listener's name, by which the supervisor hands it over.
pub(crate) const LISTENER: &str = "resp";
