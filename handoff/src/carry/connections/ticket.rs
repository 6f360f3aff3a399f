//! What the handler of a connection holds.

use std::fmt;
use std::future::pending;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::told::Served;
use super::{Connections, Late};
use crate::carry::format::Carried;

/// A connection to be taken up: it was parked by another process, or by this one for a swap
/// that was given up.
#[derive(Debug)]
pub struct Arrival<S> {
    /// The connection, as it was parked. Its file status flags (`O_NONBLOCK`) are as they were:
    /// do not change them while other processes may have it.
    pub descriptor: OwnedFd,
    /// What was parked with it.
    pub state: S,
    /// For its handler.
    pub ticket: Ticket<S>,
}

/// A connection that has a handler. Dropping it says that the connection is over.
#[must_use = "a ticket that is dropped at once says that the connection is over"]
pub struct Ticket<S> {
    pub(super) set: Arc<Connections<S>>,
    pub(super) key: u64,
    pub(super) served: Arc<Served>,
}

impl<S: Carried> Ticket<S> {
    /// Gives the connection up at a request boundary, with what the next handler has to know.
    ///
    /// Nothing may be read from it or written to it any more, by whoever else may have a part of
    /// it. An asynchronous runtime has to have let go of it: `into_std` of tokio's streams does.
    pub fn park(self, descriptor: impl Into<OwnedFd>, state: S) {
        self.set.leave(self.key, Some((descriptor.into(), state)));
    }

    /// Says that a request was served.
    ///
    /// A connection on which none was for a tenth of a second is idle, and parked before the
    /// others: while these are still served, so that a thousand idle connections do not make the
    /// busy ones wait.
    pub fn served(&self) {
        self.set.told.note(&self.served);
    }

    /// Waits until the connection is to be parked: a drain has begun. [`Gate::closed`] says so
    /// too, and later: it does not tell who is idle from who is busy. Runs on any executor.
    ///
    /// Keep one future a connection rather than one a request: to poll it costs a lock that nobody
    /// else has, a new one an allocation besides.
    ///
    /// [`Gate::closed`]: crate::Gate::closed
    pub fn told_to_park(&self) -> impl Future<Output = ()> + Send + use<S> {
        self.set.told.is_listened_to();
        let (set, served) = (Arc::clone(&self.set), Arc::clone(&self.served));
        async move { served.wait(|| set.told.to_park(&served)).await }
    }

    /// Whether the connection is to be parked at its next request boundary.
    #[must_use]
    pub fn is_told_to_park(&self) -> bool {
        self.set.told.is_listened_to();
        self.set.told.to_park(&self.served)
    }

    /// Waits until another process serves and this connection was not carried: its handler
    /// closes it. Never with [`Late::Finish`]. Runs on any executor.
    pub fn told_to_close(&self) -> impl Future<Output = ()> + Send + use<S> {
        let (set, served) = (Arc::clone(&self.set), Arc::clone(&self.served));
        async move {
            match set.late {
                Late::Close => served.wait(|| set.told.to_close()).await,
                Late::Finish => pending().await,
            }
        }
    }

    /// Whether its handler is to close it now.
    #[must_use]
    pub fn is_told_to_close(&self) -> bool {
        self.set.late == Late::Close && self.set.told.to_close()
    }

    /// What the report of a drain calls it.
    #[must_use]
    pub fn name(&self) -> String {
        self.set.state().live.get(&self.key).map(|live| live.name.clone()).unwrap_or_default()
    }
}

impl<S> Drop for Ticket<S> {
    fn drop(&mut self) {
        self.set.leave(self.key, None);
    }
}

impl<S> fmt::Debug for Ticket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("key", &self.key).finish_non_exhaustive()
    }
}
