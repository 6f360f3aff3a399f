//! The control socket's path: a daemon binds it, and every other process connects to it.

use std::path::Path;
use std::time::Instant;

use crate::control::connection::Connection;
use crate::error::{ControlSocketError, Error, PeerMisbehaved, Result};
use crate::sys::socket::{self, ControlSocket, Peer};

/// Whether a control socket can lie at that path.
pub(crate) fn check_path(path: &Path) -> Result<()> {
    let len = socket::path_length(path);
    if len > socket::MAX_PATH {
        let max = socket::MAX_PATH;
        return Err(ControlSocketError::TooLong { path: path.to_owned(), len, max }.into());
    }
    Ok(())
}

/// A control socket that listens under a name of its own beside `path`.
pub(crate) fn bind_hidden(path: &Path) -> Result<ControlSocket> {
    check_path(path)?;
    ControlSocket::bind_beside(path).map_err(|source| Error::Path {
        action: "bind the control socket at",
        path: path.to_owned(),
        source,
    })
}

/// Connects to a control socket, and asks the kernel which process serves it.
pub(crate) fn connect(path: &Path, deadline: Instant) -> Result<(Connection, Peer)> {
    let stream = socket::connect(path, deadline).map_err(|source| Error::Path {
        action: "connect to the control socket",
        path: path.to_owned(),
        source,
    })?;
    let peer = Peer::of(&stream)?;
    if !peer.is_trusted_at(path) {
        return Err(PeerMisbehaved::WrongUser(peer.uid).into());
    }
    Ok((Connection::new(stream), peer))
}
