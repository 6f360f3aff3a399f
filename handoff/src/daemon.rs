//! A daemon in one builder and two closures.
//!
//! ```no_run
//! use handoff::daemon::{Daemon, Ended};
//! use handoff::{Gate, Shard};
//!
//! #[derive(handoff::Drainable)]
//! struct Notes {
//!     #[handoff(gate)]
//!     gate: Gate,
//!     log: Log,
//! }
//! # struct Log;
//! # impl Log { fn open(_: &std::path::Path) -> handoff::Result<Log> { Ok(Log) } }
//! # impl Shard for Log {
//! #     fn seal(&self) -> handoff::Result<u64> { Ok(0) }
//! #     fn revision(&self) -> u64 { 0 }
//! #     fn fingerprint(&self) -> handoff::Result<[u8; 32]> { Ok([0; 32]) }
//! #     fn resume(&self) -> handoff::Result<()> { Ok(()) }
//! # }
//!
//! fn main() -> handoff::Result<()> {
//!     let ended = Daemon::new("/run/notes/control.sock", "/var/lib/notes")
//!         .build_id(env!("CARGO_PKG_VERSION"))
//!         .run(
//!             |_warm| Ok(()), // slow work that needs no data; the old process still serves
//!             |(), opening| {
//!                 let log = Log::open(opening.data_dir())?; // this process is the only writer
//!                 Ok(Notes { gate: Gate::new(), log })
//!             },
//!         )?;
//!     match ended {
//!         Ended::Replaced | Ended::Stopped => Ok(()),
//!     }
//! }
//! ```

#[cfg(feature = "tokio")]
mod asynchronous;

use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "tokio")]
use std::time::Duration;

use crate::carry::{Arrivals, Memory};
use crate::control::Listeners;
use crate::datadir::DataDirLock;
use crate::drainable::{Drainable, ReadinessSnapshot};
use crate::error::Result;
pub use crate::incumbent::Ended;
use crate::incumbent::{Incumbent, OnCommit, StopHandle};
use crate::log;
use crate::migration;
use crate::successor::{Arrived, ColdStart, OnLoss, Role, Successor, detect, memory_of};
use crate::sys::signals;

/// A daemon that is about to start: as the successor of another process, or where none serves.
#[derive(Debug, Clone)]
#[must_use = "a daemon does nothing until it runs"]
pub struct Daemon {
    control_socket: PathBuf,
    data_dir: PathBuf,
    build_id: Vec<u8>,
    handles_signals: bool,
    #[cfg(feature = "tokio")]
    late_grace: Duration,
}

/// The role, the sockets' names and the data directory, for the slow start-up work.
#[derive(Debug)]
pub struct Warm<'a> {
    listener_names: Vec<String>,
    is_successor: bool,
    data_dir: &'a Path,
}

impl Warm<'_> {
    /// Whether this process is a successor: its incumbent serves meanwhile.
    #[must_use]
    pub const fn is_successor(&self) -> bool {
        self.is_successor
    }

    /// The names of the sockets that this process inherited.
    #[must_use]
    pub fn listener_names(&self) -> &[String] {
        &self.listener_names
    }

    /// The data directory, which another process may be writing: read nothing from it that
    /// may still change, or be taken back.
    #[must_use]
    pub const fn data_dir(&self) -> &Path {
        self.data_dir
    }
}

/// The lock, the sockets and the carried memory, for the opening of the data. This process holds
/// the lock.
#[derive(Debug)]
pub struct Opening<'a> {
    lock: &'a DataDirLock,
    listeners: &'a mut Listeners,
    is_successor: bool,
    arrivals: Option<&'a mut Arrivals>,
    stop: &'a StopHandle,
    healthy: bool,
    on_commit: OnCommit,
}

impl<'a> Opening<'a> {
    pub(crate) fn new(
        lock: &'a DataDirLock,
        listeners: &'a mut Listeners,
        is_successor: bool,
        arrivals: Option<&'a mut Arrivals>,
        stop: &'a StopHandle,
    ) -> Self {
        let (healthy, on_commit) = (true, OnCommit::default());
        Self { lock, listeners, is_successor, arrivals, stop, healthy, on_commit }
    }

    /// Whether the daemon is healthy by its own account, and its steps behind the commit point.
    pub(crate) fn finish(self) -> (bool, OnCommit) {
        (self.healthy, self.on_commit)
    }
}

impl Opening<'_> {
    /// The data directory. This process is the only one that may write it.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.lock.data_dir()
    }

    /// The lock: its generation, and a fencing token.
    #[must_use]
    pub const fn lock(&self) -> &DataDirLock {
        self.lock
    }

    /// The sockets that this process inherited. The daemon may accept nothing before the library
    /// calls [`Drainable::admit`]; a gate sees to that.
    pub const fn listeners(&mut self) -> &mut Listeners {
        self.listeners
    }

    /// Whether this process takes over from an incumbent. If it fails, the incumbent serves again.
    #[must_use]
    pub const fn is_successor(&self) -> bool {
        self.is_successor
    }

    /// The memory that the incumbent carried under `name`, for the field of that name. It is
    /// empty at a cold start, where the incumbent carried none, and where the incumbent died
    /// before it had sealed and sent it.
    ///
    /// # Errors
    ///
    /// [`CarryError::WrongKind`](crate::error::CarryError) for a set of connections.
    pub fn memory(&mut self, name: &str) -> Result<Memory> {
        memory_of(self.arrivals.as_deref_mut(), name)
    }

    /// A handle that ends the daemon cleanly, later: for a signal handler, say.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Runs `step` once this process is the writer, and before it admits any work: the place for
    /// a switch to data of a new format. Until then the data has to stay readable for the build
    /// before, at a cold start as well: a swap that is rolled back, and a start that fails before
    /// its first step, leave it with that build.
    ///
    /// All clients wait for the steps, which run in the order of the calls, and the pause counts
    /// them: keep them short. The library keeps no record of them. `open` adds each step at every
    /// start, and the step looks whether its work is done already. After a commit the library
    /// repeats a step that fails until it succeeds, and logs each failure; at a cold start the
    /// error ends the start.
    ///
    /// Where the build before reads the format of this one, the supervisor may give the data back
    /// to it until this process has said that it serves: that build then finds a step done, or half
    /// done. Where it does not ([`SpawnSpec::one_way`](crate::SpawnSpec)), this process says so
    /// before the first step runs, and no deadline ends it in the midst of one.
    pub fn on_commit(&mut self, step: impl FnMut() -> Result<()> + Send + 'static) {
        self.on_commit.push(step);
    }

    /// Says that the daemon's own check of its health failed: the supervisor rolls the swap back.
    pub const fn unhealthy(&mut self) {
        self.healthy = false;
    }
}

impl Daemon {
    /// A daemon with its control socket and its data directory.
    pub fn new(control_socket: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            control_socket: control_socket.into(),
            data_dir: data_dir.into(),
            build_id: Vec::new(),
            handles_signals: true,
            #[cfg(feature = "tokio")]
            late_grace: LATE_GRACE,
        }
    }

    /// The name of this build in reports and in the owner record.
    pub fn build_id(mut self, build_id: impl Into<Vec<u8>>) -> Self {
        self.build_id = build_id.into();
        self
    }

    /// Leaves SIGTERM and SIGINT alone. Without this each of the two drains, seals and ends the daemon,
    /// as a [`StopHandle`] does, unless the process handles or ignores it when it calls
    /// [`run`](Self::run).
    pub const fn without_signals(mut self) -> Self {
        self.handles_signals = false;
        self
    }

    /// The maximum wait for connections that were not carried, once another process serves or this one
    /// has stopped: 10 seconds by default. `run_tokio` waits for them; after [`run`](Self::run) the
    /// caller does.
    #[cfg(feature = "tokio")]
    pub const fn late_grace(mut self, grace: Duration) -> Self {
        self.late_grace = grace;
        self
    }

    /// Runs the daemon until a successor replaces it or a [`StopHandle`] stops it. Call it from
    /// `main`, before other threads run: it reads the environment.
    ///
    /// `warm` does the slow work that needs no data, while an incumbent may still serve; `open`
    /// opens the data, under the lock. SIGTERM and SIGINT drain, seal and end the daemon
    /// ([`without_signals`](Self::without_signals)). Around the two, the library detects the role, adopts
    /// the inherited sockets, takes the lock, verifies the opened shards against the sealed ones
    /// (invariant 11), says that the process is ready, and serves the control socket.
    ///
    /// Connections that were not carried may still have handlers when it returns
    /// [`Ended::Replaced`]. They end with the process: give them the time with
    /// [`Connections::wait_ended`](crate::carry::Connections::wait_ended).
    ///
    /// # Errors
    ///
    /// The error of any step before this process became the writer: the incumbent, if there is
    /// one, serves on. After that, as [`Incumbent::serve`].
    pub fn run<W, D: Drainable + 'static>(
        self,
        warm: impl FnOnce(&Warm<'_>) -> Result<W>,
        open: impl FnOnce(W, &mut Opening<'_>) -> Result<D>,
    ) -> Result<Ended> {
        let ended = self.run_until(warm, open).map(|(ended, _state)| ended);
        // Another process serves, or this one was to stop: no client waits for this one.
        log::flush(if ended.is_ok() { log::LAST_LINES } else { log::SHORT });
        ended
    }

    fn run_until<W, D: Drainable + 'static>(
        self,
        warm: impl FnOnce(&Warm<'_>) -> Result<W>,
        open: impl FnOnce(W, &mut Opening<'_>) -> Result<D>,
    ) -> Result<(Ended, Arc<D>)> {
        let stop = StopHandle::new()?;
        if self.handles_signals {
            let stop = stop.clone();
            signals::on_termination(Box::new(move || stop.stop()))?;
        }
        let ended = self.run_until_stopped(&stop, warm, open);
        signals::restore();
        ended
    }

    fn run_until_stopped<W, D: Drainable + 'static>(
        &self,
        stop: &StopHandle,
        warm: impl FnOnce(&Warm<'_>) -> Result<W>,
        open: impl FnOnce(W, &mut Opening<'_>) -> Result<D>,
    ) -> Result<(Ended, Arc<D>)> {
        let (incumbent, drainable) = match detect()? {
            Role::ColdStart(start) => self.start_cold(start, stop, warm, open)?,
            Role::Successor(successor) => self.succeed(successor, stop, warm, open)?,
        };
        let state = Arc::new(drainable);
        let ended = incumbent.with_stop_handle(stop.clone()).serve_shared(Arc::clone(&state))?;
        Ok((ended, state))
    }

    fn start_cold<W, D: Drainable>(
        &self,
        start: ColdStart,
        stop: &StopHandle,
        warm: impl FnOnce(&Warm<'_>) -> Result<W>,
        open: impl FnOnce(W, &mut Opening<'_>) -> Result<D>,
    ) -> Result<(Incumbent, D)> {
        let mut listeners = start.into_listeners();
        let lock = DataDirLock::acquire_or_break_stale(&self.data_dir)?;
        lock.check_schema(&D::schema())?;
        let warmed = warm(&self.warm(listeners.names(), false))?;
        let manifest = lock.manifest()?;
        let incumbent = Incumbent::bind_cold_start(&self.control_socket, lock)?
            .with_build_id(self.build_id.clone());
        let mut opening = Opening::new(incumbent.lock(), &mut listeners, false, None, stop);
        let drainable = open(warmed, &mut opening)?;
        let (_, on_commit) = opening.finish();
        tell_untaken(&listeners.names());
        migration::check_format(incumbent.lock(), &D::schema())?;
        try_failpoint!(ColdStartOpened)?;
        if let Some(manifest) = manifest {
            manifest.verify(&drainable.opened_shards()?, &D::schema())?;
        }
        Ok((incumbent.with_listeners(&mut listeners).with_on_commit(on_commit), drainable))
    }

    fn succeed<W, D: Drainable>(
        &self,
        successor: Successor<Arrived>,
        stop: &StopHandle,
        warm: impl FnOnce(&Warm<'_>) -> Result<W>,
        open: impl FnOnce(W, &mut Opening<'_>) -> Result<D>,
    ) -> Result<(Incumbent, D)> {
        let mut successor = successor.greet(&self.build_id, OnLoss::Exit)?;
        let fits = successor.check_schema::<D>(&self.data_dir);
        let warmed = fits.and_then(|()| warm(&self.warm(successor.inherited_names(), true)));
        let prepared = warmed.and_then(|warmed| {
            successor.fetch(&self.control_socket)?;
            successor.bind(&self.control_socket, &self.data_dir)?;
            Ok(warmed)
        });
        let warmed = match prepared {
            Ok(warmed) => warmed,
            Err(error) => return Err(successor.fail(error)),
        };
        let mut successor =
            successor.warmed()?.wait_for_begin(&self.control_socket, &self.data_dir)?;
        let passed = successor.inherited_names();
        let (lock, listeners, arrivals) = successor.at_hand();
        let mut opening = Opening::new(lock, listeners, true, arrivals, stop);
        let opened = open(warmed, &mut opening);
        let (healthy, on_commit) = opening.finish();
        tell_untaken(&successor.inherited_names());
        let verified = opened.and_then(|drainable| {
            migration::check_format(successor.at_hand().0, &D::schema())?;
            successor.verify(&drainable)?;
            successor.hand_on(&drainable)?;
            try_failpoint!(SuccessorOpened)?;
            Ok(drainable)
        });
        let drainable = match verified {
            Ok(drainable) => drainable,
            Err(error) => return Err(successor.fail(error)),
        };
        let ready = ReadinessSnapshot {
            listening_on: taken(passed, &successor.inherited_names()),
            healthz_ok: healthy,
            advertised_revision_per_shard: drainable.snapshot_state().last_revision_per_shard,
        };
        Ok((successor.ready(ready)?.with_on_commit(on_commit), drainable))
    }

    fn warm(&self, listener_names: Vec<String>, is_successor: bool) -> Warm<'_> {
        Warm { listener_names, is_successor, data_dir: &self.data_dir }
    }
}

#[cfg(feature = "tokio")]
const LATE_GRACE: Duration = Duration::from_secs(10);

/// Warns of the sockets that the daemon has left: the kernel accepts connections on them all the same.
fn tell_untaken(names: &[String]) {
    for name in names {
        log::warn!(
            listener = name,
            "this daemon was passed a listener, and does not take it: who connects to it waits for ever; take it, or remove it from where it is configured"
        );
    }
}

/// The names in `passed` that are not in `left`, each as often as it was taken.
fn taken(mut passed: Vec<String>, left: &[String]) -> Vec<String> {
    for name in left {
        if let Some(index) = passed.iter().position(|passed| passed == name) {
            passed.remove(index);
        }
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_as_often_as_it_is_not_left() {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(taken(names("a b a c"), &names("a c")), names("b a"));
    }
}
