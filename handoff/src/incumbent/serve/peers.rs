//! The peers of the control socket: which may come, which one swaps, and which are refused.

use std::io::ErrorKind;
use std::time::Instant;

use tracing::field::display;

use super::Server;
use crate::carry::SendingEnd;
use crate::drainable::Drainable;
use crate::error::{Error, PeerMisbehaved};
use crate::fence::fenced;
use crate::incumbent::session::Session;
use crate::incumbent::sessions::Key;
use crate::log;
use crate::machine::incumbent::{Event, State};
use crate::protocol::{HandoffId, Message};
use crate::sys::socket::Peer;

impl<D: Drainable + 'static> Server<D> {
    pub(super) fn accept(&mut self) {
        for _ in 0..A_TURN {
            let Some(stream) = self.door.accept() else { return };
            let peer = match Peer::of(&stream) {
                Ok(peer) if peer.is_trusted() => peer,
                Ok(peer) => {
                    self.say_refused(peer, &PeerMisbehaved::WrongUser(peer.uid).into());
                    continue;
                }
                Err(error) => {
                    if self.log.refusals.admits(Instant::now()) {
                        log::warn!(
                            %error,
                            "refusing a control connection: the kernel does not say which process made it"
                        );
                    }
                    continue;
                }
            };
            if let Some(key) = self.sessions.one_too_many() {
                self.lose(key, &Error::TimedOut("silent, with too many other connections open"));
            }
            let open = || {
                try_failpoint!(IncumbentAccepted)?;
                self.sessions.open(stream, peer)
            };
            if let Err(error) = open() {
                log::debug!(pid = peer.pid, %error, "a control connection ended at once");
            }
        }
    }

    pub(super) fn hear_session(&mut self, key: Key) {
        for _ in 0..A_TURN {
            let is_read = self.reads_messages();
            let Some(session) = self.sessions.get_mut(key) else { return };
            if let Err(error) = session.flush() {
                return self.lose(key, &error);
            }
            if !session.is_greeted() {
                match session.greet() {
                    Ok(true) => {
                        self.attach(key);
                        continue;
                    }
                    Ok(false) => return,
                    Err(error) => return self.lose(key, &error),
                }
            }
            if !is_read {
                if session.is_hung_up() {
                    let peer = Error::PeerLost { peer: "supervisor", during: self.state.name() };
                    self.lose(key, &peer);
                }
                return;
            }
            match session.next() {
                Ok(Some(message)) => self.hear(key, message),
                Ok(None) => return,
                Err(error) => return self.lose(key, &error),
            }
        }
        // The rest waits for the next turn, which comes at once.
        self.stop.waker.wake();
    }

    /// A session that comes for a swap that has lost its supervisor is its supervisor from here
    /// on: this process waits for its word before it goes by the owner record (invariant 3).
    fn attach(&mut self, key: Key) {
        let came_for = self.sessions.get(key).and_then(Session::handoff_id);
        if self.sessions.holder.is_none() && self.state.is_missing(came_for) {
            if self.log.steps.admits(Instant::now()) {
                let pid = self.sessions.get(key).map(|session| session.peer().pid);
                log::info!(
                    pid,
                    swap = came_for.map(display),
                    state = self.state.name(),
                    "a supervisor came for the swap that has lost its supervisor: this incumbent waits for its word"
                );
            }
            self.sessions.holder = Some(key);
        }
    }

    /// A supervisor may have come back before this process saw that its predecessor is gone.
    fn attach_another(&mut self) {
        if let Some(key) = self.sessions.for_swap(|came_for| self.state.is_missing(came_for)) {
            self.attach(key);
        }
    }

    fn hear(&mut self, key: Key, message: Message) {
        log::trace!(message_name = message.name(), state = self.state.name(), "heard");
        match self.sessions.holder {
            Some(holder) if holder != key => {
                // The holder may be gone, and this process has not read its end yet.
                let gone = self.sessions.held().is_none_or(Session::is_hung_up);
                if gone && self.state != State::Serving {
                    self.hear_session(holder);
                    self.defer(key, message);
                } else {
                    self.refuse(key, &message);
                }
            }
            _ => self.step(Event::Message(message), Some(key)),
        }
    }

    /// Acts on the message now, or once the undo that the loss of the holder began is done.
    fn defer(&mut self, key: Key, message: Message) {
        if self.reads_messages() && self.sessions.holder.is_none() {
            self.step(Event::Message(message), Some(key));
        } else if let Some(session) = self.sessions.get_mut(key) {
            session.put_back(message);
        }
    }

    /// Tells a second supervisor which swap is in flight, and closes its session.
    fn refuse(&mut self, key: Key, message: &Message) {
        let (Some(in_flight), Some(session)) =
            (self.state.handoff_id(), self.sessions.get_mut(key))
        else {
            return;
        };
        if matches!(message, Message::Heartbeat { .. }) {
            return;
        }
        let handoff_id = message.handoff_id().unwrap_or(in_flight);
        let reason = format!("swap {in_flight} is in flight");
        let Peer { pid, uid } = session.peer();
        let _ = session.send(&Message::Abort { handoff_id, reason });
        if self.log.refusals.admits(Instant::now()) {
            let message = message.name();
            log::warn!(
                pid, uid, swap = %in_flight, asked_for = %handoff_id, message_name = message,
                "refusing a message of another supervisor: a swap is in flight"
            );
        }
        self.sessions.remove(key);
    }

    pub(super) fn lose(&mut self, key: Key, error: &Error) {
        let Some(session) = self.sessions.remove(key) else { return };
        if self.sessions.holder == Some(key) {
            let Peer { pid, uid } = session.peer();
            if self.log.steps.admits(Instant::now()) {
                let (swap, state) = (self.state.handoff_id().map(display), self.state.name());
                log::warn!(
                    pid, uid, swap, state, %error,
                    "this incumbent lost the supervisor of its swap: it serves again, unless another process serves"
                );
            }
            self.sessions.holder = None;
            self.step(Event::SessionLost, None);
            self.attach_another();
        } else if is_ordinary(error) {
            log::debug!(pid = session.peer().pid, %error, "a control connection ended");
        } else {
            self.say_refused(session.peer(), error);
        }
    }

    fn say_refused(&mut self, peer: Peer, error: &Error) {
        let Peer { pid, uid } = peer;
        if self.log.refusals.admits(Instant::now()) {
            log::warn!(pid, uid, %error, "refusing a control connection");
        }
    }

    pub(super) fn give_listeners(&mut self, from: Option<Key>, handoff_id: HandoffId) {
        failpoint!(IncumbentGivesListeners);
        let generation = self.lock.generation();
        for batch in self.listeners.batches() {
            let (listeners, left) = (batch.names(), batch.left());
            let message = Message::Adopted { handoff_id, generation, listeners, left };
            let Some(key) = from else { return };
            let Some(session) = self.sessions.get_mut(key) else { return };
            if let Err(error) = session.send_with(&message, Some(batch)) {
                return self.lose(key, &error);
            }
        }
        if self.log.steps.admits(Instant::now()) {
            let pid = from.and_then(|key| self.sessions.get(key)).map(|session| session.peer().pid);
            log::info!(
                pid,
                generation,
                "this daemon gave its listeners to the supervisor that adopts it"
            );
        }
    }

    /// The session's connection becomes a channel, on which this process alone speaks.
    pub(super) fn offer(&mut self, from: Option<Key>, handoff_id: HandoffId) {
        let Some(session) = from.and_then(|key| self.sessions.remove(key)) else { return };
        let (peer, came_for) = (session.peer(), session.handoff_id());
        if came_for != Some(handoff_id) {
            let message = "Fetch";
            let expected = came_for.unwrap_or(handoff_id);
            let fault = PeerMisbehaved::WrongHandoff { message, expected, got: handoff_id };
            return self.say_refused(peer, &fault.into());
        }
        let opened = session.into_stream().and_then(|stream| {
            fenced("carriage", || match self.drainable.carriage() {
                nothing if nothing.is_empty() => {
                    let (message, state) = ("Fetch", "carrying nothing");
                    Err(PeerMisbehaved::Unexpected { message, state }.into())
                }
                carriage => SendingEnd::open(stream, &carriage),
            })
        });
        match opened {
            Ok(channel) => self.offers.add(handoff_id, peer.pid, channel),
            Err(error) => self.say_refused(peer, &error),
        }
    }

    pub(super) fn close(&mut self, from: Option<Key>, fault: PeerMisbehaved) {
        let Some(key) = from else { return };
        let Some(session) = self.sessions.remove(key) else { return };
        self.say_refused(session.peer(), &fault.into());
        if self.sessions.holder == Some(key) {
            self.sessions.holder = None;
            self.attach_another();
        }
    }
}

/// Whether a session ended as sessions do: the peer closed it between two frames, or died.
fn is_ordinary(error: &Error) -> bool {
    match error {
        Error::PeerLost { .. } => true,
        Error::Io(error) => {
            matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
        }
        _ => false,
    }
}

/// The messages of one session, or the new connections, that one turn handles at most.
const A_TURN: usize = 64;
