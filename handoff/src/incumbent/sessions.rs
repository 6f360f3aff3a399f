//! All connections to the control socket, and which of them swaps.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::error::Result;
use crate::incumbent::session::Session;
use crate::protocol::{HandoffId, Message};
use crate::sys::socket::Peer;

/// Names a session; greater for those that were opened later.
pub(super) type Key = u64;

/// The sessions that are open.
#[derive(Debug)]
pub(super) struct Sessions {
    /// The first message to each.
    hello: Message,
    open: BTreeMap<Key, Session>,
    opened: Key,
    /// The session with the swap in flight.
    pub(super) holder: Option<Key>,
    /// Messages to the holder, held back while more may come.
    gathered: Option<Vec<Message>>,
}

impl Sessions {
    pub(super) const fn new(hello: Message) -> Self {
        Self { hello, open: BTreeMap::new(), opened: 0, holder: None, gathered: None }
    }

    pub(super) fn open(&mut self, stream: UnixStream, peer: Peer) -> Result<()> {
        let session = Session::open(stream, peer, &self.hello)?;
        self.opened += 1;
        self.open.insert(self.opened, session);
        Ok(())
    }

    pub(super) fn get(&self, key: Key) -> Option<&Session> {
        self.open.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Session> {
        self.open.get_mut(&key)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Session> {
        self.open.remove(&key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Session)> {
        self.open.iter().map(|(key, session)| (*key, session))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.open.values_mut()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.open.keys().copied().collect()
    }

    /// The session of the supervisor that swaps.
    pub(super) fn held(&self) -> Option<&Session> {
        self.holder.and_then(|key| self.open.get(&key))
    }

    /// A session that came for that swap.
    pub(super) fn for_swap(&self, is_it: impl Fn(Option<HandoffId>) -> bool) -> Option<Key> {
        self.iter().find(|(_, session)| is_it(session.handoff_id())).map(|(key, _)| key)
    }

    /// The sessions that have not greeted in time.
    pub(super) fn silent(&self, now: Instant) -> Vec<Key> {
        let is_silent =
            |session: &Session| session.greeting_deadline().is_some_and(|due| due <= now);
        self.iter().filter(|(_, session)| is_silent(session)).map(|(key, _)| key).collect()
    }

    /// The session to close where there is no room for another. It belongs to the process with the
    /// most sessions, so that a process that connects without end keeps nobody else out (invariant
    /// 6). It is the oldest that has not greeted, or else the one silent for longest, and never the
    /// holder. A supervisor that waits says twice a second that it lives.
    pub(super) fn one_too_many(&self) -> Option<Key> {
        if self.open.len() < MAX_SESSIONS {
            return None;
        }
        let mut counts = BTreeMap::<u32, usize>::new();
        for session in self.open.values() {
            *counts.entry(session.peer().pid).or_default() += 1;
        }
        let max = counts.values().max();
        let candidates = || {
            self.iter().filter(|(key, session)| {
                self.holder != Some(*key) && counts.get(&session.peer().pid) == max
            })
        };
        let ungreeted = candidates().find(|(_, session)| !session.is_greeted());
        let silent = || candidates().min_by_key(|(_, session)| session.heard());
        ungreeted.or_else(silent).map(|(key, _)| key)
    }

    /// From here on, messages to the holder wait for [`take_gathered`](Self::take_gathered), so
    /// that they go out in one go.
    pub(super) fn gather(&mut self) {
        self.gathered = self.holder.map(|_| Vec::new());
    }

    /// Gathers a message to the holder, if they are gathered; gives it back where it is to be sent
    /// now.
    pub(super) fn try_gather(&mut self, key: Key, message: Message) -> Option<Message> {
        match &mut self.gathered {
            Some(gathered) if self.holder == Some(key) => {
                gathered.push(message);
                None
            }
            _ => Some(message),
        }
    }

    pub(super) fn take_gathered(&mut self) -> Vec<Message> {
        self.gathered.take().unwrap_or_default()
    }
}

const MAX_SESSIONS: usize = 256;
