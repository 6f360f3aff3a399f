//! A look at the connections that a drain still waits for, while its hook runs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::drainable::Drainable;
use crate::error::Result;
use crate::fence::fenced;
use crate::protocol::MAX_NAMED_CONNECTIONS;

/// The open connections.
#[derive(Debug)]
pub(super) struct Open {
    /// By the daemon's own account.
    pub(super) open_conns: u32,
    /// Of the connections that are carried, those that are not parked; the first by name.
    pub(super) connections: Vec<String>,
    /// And how many more.
    pub(super) unnamed: u32,
}

/// Looks once, and calls `tell` with the result.
///
/// A thread for each look, and no hook waits for it: the daemon may hold its locks for as long as
/// the drain takes. A look that hangs is the last one, and ends with the process.
pub(super) fn begin<D: Drainable + 'static>(
    drainable: Arc<D>,
    tell: impl FnOnce(Result<Open>) + Send + 'static,
) -> io::Result<()> {
    let look = move || {
        let open = fenced("snapshot_state", || Ok(look(&*drainable)));
        drop(drainable);
        tell(open);
    };
    std::thread::Builder::new().name("handoff-look".into()).spawn(look).map(drop)
}

fn look(drainable: &impl Drainable) -> Open {
    let open_conns = drainable.snapshot_state().open_conns;
    let (connections, unnamed) = drainable.carriage().not_parked(MAX_NAMED_CONNECTIONS);
    let unnamed = u32::try_from(unnamed).unwrap_or(u32::MAX);
    Open { open_conns, connections, unnamed }
}

/// From the beginning of a drain to the first look, and from one that has ended to the next.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
