//! The first admission of a process, by the way it came to serve.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::drainable::Drainable;
use crate::error::Result;
use crate::fence::fenced;
use crate::sys::socket::ControlSocket;

/// The thread that settles after a commit, until the next drain or a last seal waits for it.
pub(crate) type Settling = JoinHandle<Result<()>>;

/// A commit before its first admission: the successor is the writer already (invariant 7), so
/// nothing may fail any more.
pub(crate) trait Commit: fmt::Debug + Send + Sync {
    /// Admits work, takes the control socket's path over, and tells the supervisor.
    fn admit(
        self: Box<Self>,
        socket: &mut ControlSocket,
        drainable: &Arc<dyn Drainable>,
    ) -> Option<Settling>;
}

/// Admits at a cold start, where this process replaces no other. An error ends the start.
pub(super) fn at_a_cold_start(drainable: &dyn Drainable) -> Result<()> {
    fenced("admit", || drainable.admit())?;
    fenced("release", || {
        drainable.carriage().release();
        Ok(())
    })?;
    failpoint!(ColdStartServes);
    Ok(())
}
