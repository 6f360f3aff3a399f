//! The control socket: who may connect, and how many.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::drainable::Drainable;
use crate::error::{Error, PeerMisbehaved};
use crate::incumbent::serve::{A_TURN, Server};
use crate::incumbent::session::Session;
use crate::sys::socket::{ControlSocket, Peer};

impl<D: Drainable + 'static> Server<D> {
    pub(super) fn accept(&mut self) {
        for _ in 0..A_TURN {
            let stream = match self.socket.listener().accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    // Out of descriptors, most likely: it passes, and the loop goes on.
                    tracing::error!(%error, "cannot accept a control connection");
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            };
            let peer = match Peer::of(&stream) {
                Ok(peer) if peer.is_trusted() => peer,
                Ok(peer) => {
                    self.say_refused(peer, &PeerMisbehaved::WrongUser(peer.uid).into());
                    continue;
                }
                Err(error) => {
                    if self.refusals.admits(Instant::now()) {
                        tracing::warn!(%error, "refusing a connection of nobody knows whom");
                    }
                    continue;
                }
            };
            self.make_room();
            let open = || {
                reach!(IncumbentAccepted)?;
                Session::open(stream, peer, &self.hello)
            };
            match open() {
                Ok(session) => {
                    self.opened += 1;
                    self.sessions.insert(self.opened, session);
                }
                Err(error) => tracing::debug!(%error, "a control connection ended at once"),
            }
        }
    }

    /// Drops a session of the process that has most of them, so that a process that connects
    /// without end keeps nobody else out: the oldest that has not greeted, or else the one
    /// without a swap that has been silent for longest. A supervisor that waits says twice a
    /// second that it lives.
    fn make_room(&mut self) {
        if self.sessions.len() < MOST_SESSIONS {
            return;
        }
        let mut counts = BTreeMap::<u32, usize>::new();
        for session in self.sessions.values() {
            *counts.entry(session.peer().pid).or_default() += 1;
        }
        let most = counts.values().max();
        let candidates = || {
            self.sessions.iter().filter(|(key, session)| {
                self.holder != Some(**key) && counts.get(&session.peer().pid) == most
            })
        };
        let ungreeted = candidates().find(|(_, session)| !session.is_greeted());
        let silent = || candidates().min_by_key(|(_, session)| session.heard());
        if let Some((&key, _)) = ungreeted.or_else(silent) {
            self.lose(key, &Error::TimedOut("waiting while others came"));
        }
    }

    pub(super) fn rebind(&mut self) -> std::io::Result<()> {
        self.socket = ControlSocket::bind_beside(self.socket.path())?;
        self.socket.publish()
    }

    /// Takes the path over, if that failed at the commit or after an undo.
    pub(super) fn publish(&mut self) {
        if !self.socket.is_hidden() && !self.socket.is_published() {
            self.publish_again = None;
            return self.take_path_back();
        }
        let published = match self.socket.publish() {
            // Somebody tidied the directory while it lay there unpublished.
            Err(error) if error.kind() == ErrorKind::NotFound => self.rebind(),
            published => published,
        };
        self.publish_again = published.err().map(|error| {
            tracing::error!(%error, path = %self.socket.path().display(), "nobody finds this process");
            Instant::now() + PUBLISH_INTERVAL
        });
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
const MOST_SESSIONS: usize = 256;
