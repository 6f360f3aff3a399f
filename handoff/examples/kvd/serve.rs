//! The daemon: its state, and how a cold start and a successor open it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use handoff::Gate;
use handoff::carry::{Connections, Memory, Reads};
use handoff::daemon::{Daemon, Ended, Opening};
use handoff::error::ListenerError;
use rustix::fs::{OFlags, fcntl_getfl};
use tokio::runtime::{Handle, Runtime};

use crate::BoxError;
use crate::cli::ServeOptions;
use crate::connection::{Client, LINGER, Server};
use crate::store::{RedbShard, Store};

/// The state of this daemon for a swap.
#[derive(handoff::Drainable)]
#[handoff(after_seal = "pack_cache", after_resume = "unpack_cache")]
struct Kv {
    /// Every request passes through it. A drain closes it.
    #[handoff(gate)]
    gate: Arc<Gate>,
    /// The shards to be sealed: `shards.0`, `shards.1`, and so on.
    #[handoff(shards)]
    shards: Vec<Arc<RedbShard>>,
    /// Every connection goes to the process that serves next.
    #[handoff(carry)]
    clients: Arc<Connections<Client>>,
    /// So do the cached values: `pack_cache` puts them in after the seal, when none can change.
    #[handoff(carry)]
    cache: Memory,
    #[handoff(skip)]
    store: Store,
}

impl Kv {
    /// A failure is only logged: the next process can serve without the values.
    fn pack_cache(&self) {
        if let Err(error) = self.cache.put_value(HOT_VALUES, &self.store.hot_values()) {
            eprintln!("kvd: the cache is not carried: {error}");
        }
    }

    fn unpack_cache(&self) {
        self.cache.remove(HOT_VALUES);
    }
}

/// Serves until another process replaces this one, or `SIGTERM` ends it.
pub(crate) fn serve(options: &ServeOptions) -> Result<(), BoxError> {
    let clients = Arc::new(Connections::new());
    // It outlives the state, for the last connections are closed after it.
    let mut runtime = None;
    let ended =
        Daemon::new(&options.control, &options.data).build_id(options.build.to_string()).run(
            |_warm| Ok(runtime.insert(Runtime::new()?).handle().clone()),
            |runtime, opening| open(&runtime, opening, options, &clients),
        )?;
    match ended {
        Ended::Replaced | Ended::Stopped => {}
    }
    // Connections that were not carried get this long to close.
    clients.wait_ended(Instant::now() + LINGER);
    Ok(())
}

/// Opens the data. This process holds the data directory's lock, and admits nothing before
/// the library opens the gate.
fn open(
    runtime: &Handle,
    opening: &mut Opening<'_>,
    options: &ServeOptions,
    clients: &Arc<Connections<Client>>,
) -> handoff::Result<Kv> {
    if options.fail_open {
        return Err(io::Error::other("told to fail by --fail-open").into());
    }
    let store = Store::open(opening.data_dir())?;
    let cache = opening.memory("cache")?.may_be_lost();
    if let Some(hot_values) = cache.value(HOT_VALUES, &Reads::new())? {
        store.warm(hot_values);
        cache.remove(HOT_VALUES);
    }
    thread::sleep(options.open_delay);

    let listener = match opening.listeners().take_tcp(LISTENER) {
        Ok(inherited) => check_nonblocking(inherited)?,
        Err(ListenerError::Missing { .. }) if !opening.is_successor() => {
            let bound = bind(options.listen)?;
            // A supervisor that starts later gets the listener, as if it had bound it itself.
            opening.listeners().keep(LISTENER, &bound)?;
            bound
        }
        Err(error) => return Err(error.into()),
    };
    let gate = Arc::new(Gate::new());
    let kv = Kv {
        gate: Arc::clone(&gate),
        shards: store.shards().to_vec(),
        clients: Arc::clone(clients),
        cache,
        store: store.clone(),
    };

    let _in_runtime = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let clients = Arc::clone(clients);
    let server = Arc::new(Server { build: options.build, gate, store, clients });
    runtime.spawn(Arc::clone(&server).accept(listener));
    runtime.spawn(server.serve_arrivals());
    Ok(kv)
}

/// An inherited listener shares its file status flags with the process that still accepts on
/// it: this function reads them, and never changes them.
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

/// The name under which the supervisor hands the listener over.
pub(crate) const LISTENER: &str = "resp";
/// The key of the cache's values in the carried memory.
const HOT_VALUES: &str = "hot-values";

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::path::Path;
    use std::time::Duration;

    use handoff::Supervisor;
    use handoff::supervisor::Adoption;
    use handoff::testing::{Part, Rehearsal};
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    fn options(dir: &Path) -> ServeOptions {
        ServeOptions {
            data: dir.join("data"),
            control: dir.join("control"),
            listen: ([127, 0, 0, 1], 0).into(),
            build: 3,
            fail_open: false,
            open_delay: Duration::ZERO,
        }
    }

    #[test]
    fn a_build_takes_over_from_one_like_it_and_gives_back() {
        let (runtime, options) = (Runtime::new().unwrap(), options(Path::new("")));
        let open = |opening: &mut Opening<'_>| {
            super::open(runtime.handle(), opening, &options, &Arc::default())
        };
        let fill = |kv: &Kv| {
            let answer = kv.store.set("key".into(), "value".into()).blocking_recv().unwrap();
            assert!(answer.is_ok());
            Ok(())
        };
        let report = Rehearsal::on_state_of(open, fill)
            .with_listener(LISTENER, bind(options.listen).unwrap())
            .run(open)
            .unwrap();
        assert_eq!(report.shown.last(), Some(&Part::SwapBack));
    }

    /// The server is in this process, and so is the supervisor that adopts it.
    #[test]
    fn a_supervisor_that_is_started_later_gets_the_listener_that_was_bound_here() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        let options = options(dir.path());
        let server = thread::spawn(move || serve(&options));

        let mut supervisor = Supervisor::new(&control).unwrap();
        let deadline = Instant::now() + TIMEOUT;
        let daemon = loop {
            match supervisor.adopt(TIMEOUT).unwrap() {
                Adoption::Daemon(daemon) => break daemon,
                other => assert!(Instant::now() < deadline, "{other:?}"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!((&*daemon.build_id, daemon.process.pid()), (&b"3"[..], std::process::id()));
        assert_eq!(daemon.listeners, [LISTENER]);
        let (_, listener) = supervisor.listeners().next().unwrap();
        let listener = TcpListener::from(listener.try_clone_to_owned().unwrap());
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"PING\r\n").unwrap();
        let mut reply = [0; 7];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+PONG\r\n");

        kill_process(getpid(), Signal::TERM).unwrap();
        // It is closed in an orderly way: nobody serves it any more.
        assert_eq!(client.read(&mut reply).unwrap(), 0);
        drop(client);
        server.join().unwrap().unwrap();
    }

    const TIMEOUT: Duration = Duration::from_secs(20);
}
