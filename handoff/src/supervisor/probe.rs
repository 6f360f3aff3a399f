//! Whether a daemon answers.

use std::path::Path;
use std::time::Duration;

use crate::control::{connect, hear_hello};
use crate::error::Result;
use crate::protocol::Side;
use crate::supervisor::setup::deadline_of;

/// Connects to the control socket of a daemon, waits for its hello, and leaves: whether the thread of
/// the daemon runs that a swap needs. Returns the pid of the process.
///
/// A daemon answers while it serves, drains and seals, and while another supervisor has it. That it
/// answers does not say that it serves its clients.
///
/// # Errors
///
/// [`Error::Path`](crate::Error::Path) when no process serves the socket;
/// [`Error::TimedOut`](crate::Error::TimedOut) when one does and says nothing within `timeout`; an error of
/// the connection, or of a hello that the kernel contradicts.
pub fn probe(control_socket: &Path, timeout: Duration) -> Result<u32> {
    let deadline = deadline_of(timeout);
    let (mut daemon, peer) = connect(control_socket, deadline)?;
    hear_hello(&mut daemon, Side::Incumbent, peer.pid, deadline, None)?;
    Ok(peer.pid)
}
