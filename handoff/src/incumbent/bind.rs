//! How a process becomes the incumbent.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::control::{Listeners, check_path};
use crate::datadir::{DataDirLock, Fencing};
use crate::error::{ControlSocketError, Error, Result};
use crate::incumbent::admit::{Commit, OnCommit};
use crate::incumbent::stop::{Stop, StopHandle};
use crate::sys::socket::{self, ControlSocket, Found};

/// The process that writes the data directory, with the control socket through which a
/// supervisor replaces it.
///
/// ```no_run
/// use std::path::Path;
/// use handoff::{DataDirLock, Incumbent};
/// # fn open() -> impl handoff::Drainable + 'static {
/// #     struct Nothing;
/// #     impl handoff::Drainable for Nothing {
/// #         fn drain(&self, _: std::time::Instant) -> handoff::Result<handoff::DrainReport> { Ok(Default::default()) }
/// #         fn seal(&self) -> handoff::Result<handoff::SealReport> { Ok(Default::default()) }
/// #         fn resume_after_abort(&self) -> handoff::Result<()> { Ok(()) }
/// #         fn snapshot_state(&self) -> handoff::StateSnapshot { Default::default() }
/// #     }
/// #     Nothing
/// # }
///
/// let lock = DataDirLock::acquire_or_break_stale(Path::new("/var/lib/demo"))?;
/// let incumbent = Incumbent::bind_cold_start(Path::new("/run/demo/control.sock"), lock)?;
/// let state = open(); // only now: the lock is held
/// incumbent.serve(state)?; // returns once another process serves
/// # Ok::<(), handoff::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a process that holds the lock has to serve"]
pub struct Incumbent {
    pub(super) socket: ControlSocket,
    pub(super) lock: DataDirLock,
    pub(super) build_id: Vec<u8>,
    pub(super) stop: Arc<Stop>,
    pub(super) listeners: Vec<(String, OwnedFd)>,
    /// The commit of a process that replaced another; none at a cold start.
    pub(super) commit: Option<Box<dyn Commit>>,
    pub(super) on_commit: OnCommit,
}

impl Incumbent {
    /// Binds the control socket of a process that starts where none serves: at once, mode
    /// 0600, over a stale socket if one lies there.
    ///
    /// # Errors
    ///
    /// [`Error::ControlSocket`] when the path is too long, answers, or is no socket;
    /// [`Error::Path`] when its directory is missing or cannot be written. Any of them releases
    /// the lock, and leaves the path as it was.
    pub fn bind_cold_start(control_socket: &Path, lock: DataDirLock) -> Result<Self> {
        check_path(control_socket)?;
        let at = |source| Error::Path {
            action: "bind the control socket at",
            path: control_socket.to_owned(),
            source,
        };
        match socket::look_at(control_socket).map_err(at)? {
            Found::Nothing | Found::Stale => {}
            Found::Alive => {
                return Err(ControlSocketError::InUse(control_socket.to_owned()).into());
            }
            Found::Other => {
                return Err(ControlSocketError::NotASocket(control_socket.to_owned()).into());
            }
        }
        let socket = ControlSocket::bind_at(control_socket).map_err(at)?;
        try_failpoint!(ColdStartBound)?;
        Ok(Self::new(socket, lock, StopHandle::new()?))
    }

    pub(crate) fn new(socket: ControlSocket, lock: DataDirLock, stop: StopHandle) -> Self {
        let build_id = lock.build_id().to_vec();
        let (stop, listeners, commit) = (stop.0, Vec::new(), None);
        let on_commit = OnCommit::default();
        Self { socket, lock, build_id, stop, listeners, commit, on_commit }
    }

    /// Says which build this is, in the hello and the owner record; the record keeps at most 118
    /// bytes of it.
    pub fn with_build_id(mut self, build_id: Vec<u8>) -> Self {
        self.build_id = build_id;
        self
    }

    /// Keeps the listeners that this process inherited, so that a supervisor that is started again
    /// after its death gets them back. For a cold start step by step, which else has none to give
    /// back; a successor and a [`Daemon`](crate::daemon::Daemon) do it by themselves.
    pub fn with_listeners(mut self, listeners: &mut Listeners) -> Self {
        self.listeners.extend(listeners.take_kept());
        self
    }

    /// Runs `step` once this process is the writer, and before it admits any work. See
    /// [`Opening::on_commit`](crate::daemon::Opening::on_commit).
    pub fn on_commit(mut self, step: impl FnMut() -> Result<()> + Send + 'static) -> Self {
        self.on_commit.push(step);
        self
    }

    pub(crate) fn with_on_commit(mut self, steps: OnCommit) -> Self {
        self.on_commit = steps;
        self
    }

    pub(crate) fn with_commit(mut self, commit: impl Commit + 'static) -> Self {
        self.commit = Some(Box::new(commit));
        self
    }

    pub(crate) const fn lock(&self) -> &DataDirLock {
        &self.lock
    }

    /// How often the data directory has changed its writer; see [`DataDirLock::generation`].
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.lock.generation()
    }

    /// Gives fencing tokens, also while this serves; see [`DataDirLock::fencing_token`].
    #[must_use]
    pub fn fencing(&self) -> Fencing {
        self.lock.fencing()
    }

    /// A handle that ends [`serve`](Self::serve) cleanly, from any thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.stop))
    }
    pub(crate) fn with_stop_handle(mut self, handle: StopHandle) -> Self {
        self.stop = handle.0;
        self
    }
}
