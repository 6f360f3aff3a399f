//! The control socket: the connections to it, and whether its path leads here.

use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::log;
use crate::sys::socket::{ControlSocket, Found, look_at};

/// The control socket of a process that serves.
#[derive(Debug)]
pub(super) struct Door {
    socket: ControlSocket,
    accept_again: Option<Instant>,
    look_again: Instant,
    /// Whether it has told that the path does not lead here.
    is_missing: bool,
}

impl Door {
    pub(super) fn new(socket: ControlSocket) -> Self {
        Self { socket, accept_again: None, look_again: Instant::now(), is_missing: false }
    }

    /// The listener, for polling; none while it is of no use to accept.
    pub(super) fn listener(&self) -> Option<&UnixListener> {
        self.accept_again.is_none().then(|| self.socket.listener())
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.accept_again.is_none_or(|due| due <= now)
    }

    /// The next connection; none if none has come.
    pub(super) fn accept(&mut self) -> Option<UnixStream> {
        loop {
            match self.socket.listener().accept() {
                Ok((stream, _)) => return Some(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // Out of descriptors, most likely: it passes, and the loop goes on.
                    log::error!(
                        path = %self.socket.path().display(), %error,
                        "this daemon cannot accept a connection at its control socket, and tries again; if it has as many open files as it may, raise its limit (ulimit -n)"
                    );
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return None;
                }
            }
        }
    }

    /// When something is to be done. During a swap the path may be the successor's, so only a
    /// process that serves takes it over.
    pub(super) fn due(&self, serves: bool) -> Option<Instant> {
        self.accept_again.into_iter().chain(serves.then_some(self.look_again)).min()
    }

    pub(super) fn on_time(&mut self, now: Instant, serves: bool) {
        self.accept_again = self.accept_again.filter(|due| *due > now);
        if serves && self.look_again <= now {
            self.look();
        }
    }

    /// Publishes the socket, if that failed at the commit or after an undo; binds it anew where its
    /// name was removed. Another process that answers at the path keeps it.
    fn look(&mut self) {
        self.look_again = Instant::now() + LOOK_INTERVAL;
        if self.socket.is_published() {
            self.is_missing = false;
        } else if self.socket.is_hidden() {
            match self.socket.publish() {
                // Somebody tidied the directory while the socket lay there unpublished.
                Err(error) if error.kind() == ErrorKind::NotFound => self.take_path_back(),
                published => self.told(published),
            }
        } else {
            match look_at(self.socket.path()) {
                Ok(Found::Alive) => self.told(Err(ErrorKind::AddrInUse.into())),
                Ok(Found::Other) => self.told(Err(ErrorKind::AlreadyExists.into())),
                Ok(Found::Nothing | Found::Stale) | Err(_) => {
                    log::warn!(
                        path = %self.socket.path().display(),
                        "the name of this daemon's control socket was removed: it binds the socket anew"
                    );
                    self.take_path_back();
                }
            }
        }
    }

    /// Takes the path: from a successor that took it over after its commit and was ended, too.
    pub(super) fn take_path_back(&mut self) {
        if !self.socket.is_published() {
            let taken = self.socket.bind_again().map(|socket| self.socket = socket);
            self.told(taken);
        }
    }

    /// Logs an error, unless it is the same fault as a moment ago.
    fn told(&mut self, published: io::Result<()>) {
        if let (Err(error), false) = (&published, self.is_missing) {
            log::error!(
                path = %self.socket.path().display(), %error,
                "this daemon cannot have the path of its control socket; supervisors cannot reach it until that succeeds, and it tries again every second"
            );
        }
        self.is_missing = published.is_err();
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
