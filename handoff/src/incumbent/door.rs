//! The control socket: the connections to it, and whether its path leads here.

use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::log;
use crate::sys::socket::ControlSocket;

/// The control socket of a process that serves.
#[derive(Debug)]
pub(super) struct Door {
    socket: ControlSocket,
    accept_again: Option<Instant>,
    publish_again: Option<Instant>,
}

impl Door {
    pub(super) fn new(socket: ControlSocket) -> Self {
        Self { socket, accept_again: None, publish_again: Some(Instant::now()) }
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
        let publish = self.publish_again.filter(|_| serves);
        self.accept_again.into_iter().chain(publish).min()
    }

    pub(super) fn on_time(&mut self, now: Instant, serves: bool) {
        self.accept_again = self.accept_again.filter(|due| *due > now);
        if serves && self.publish_again.is_some_and(|due| due <= now) {
            self.publish();
        }
    }

    /// Takes the path over, if that failed at the commit or after an undo.
    fn publish(&mut self) {
        if !self.socket.is_hidden() && !self.socket.is_published() {
            self.publish_again = None;
            return self.take_path_back();
        }
        let published = match self.socket.publish() {
            // Somebody tidied the directory while the socket lay there unpublished.
            Err(error) if error.kind() == ErrorKind::NotFound => self.rebind(),
            published => published,
        };
        self.publish_again = published.err().map(|error| {
            log::error!(
                path = %self.socket.path().display(), %error,
                "this daemon cannot publish its control socket; supervisors cannot reach it until that succeeds, and it tries again every second"
            );
            Instant::now() + PUBLISH_INTERVAL
        });
    }

    /// Takes the path back from a successor that took it over after its commit and was ended.
    pub(super) fn take_path_back(&mut self) {
        if self.socket.is_published() {
            return;
        }
        self.publish_again = self.rebind().err().map(|error| {
            log::error!(
                path = %self.socket.path().display(), %error,
                "this daemon cannot take back the path of its control socket; supervisors cannot reach it until that succeeds, and it tries again every second"
            );
            Instant::now() + PUBLISH_INTERVAL
        });
    }

    fn rebind(&mut self) -> io::Result<()> {
        self.socket = ControlSocket::bind_beside(self.socket.path())?;
        self.socket.publish()
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
