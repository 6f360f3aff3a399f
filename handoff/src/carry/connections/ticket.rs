//! The ticket of a connection, which its handler holds.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

#[cfg(feature = "ws")]
use super::Mode;
use super::told::Served;
use super::{Connections, Late};
use crate::carry::format::Carried;

/// A connection for a handler: another process parked it, or this one did for a swap that was
/// given up.
#[derive(Debug)]
pub struct Arrival<S> {
    /// The connection, as it was parked. Its file status flags (`O_NONBLOCK`) are as they were:
    /// do not change them while other processes may have it.
    pub descriptor: OwnedFd,
    /// The state that was parked with it.
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
    /// Gives the connection up at a request boundary, with the state that the next handler needs.
    ///
    /// No task that has a part of it may read from it or write to it any more. An asynchronous
    /// runtime has to have let go of it: `into_std` of tokio's streams does.
    pub fn park(self, descriptor: impl Into<OwnedFd>, state: S) {
        self.set.leave(self.key, Some((descriptor.into(), state)));
    }

    /// Says that a request was served.
    ///
    /// A connection on which no request was served for a tenth of a second is idle. A drain parks
    /// the idle ones first, while the others are still served, so that a thousand idle connections
    /// do not make the busy ones wait.
    pub fn served(&self) {
        self.set.told.note(&self.served);
    }

    /// Waits until the connection is to be parked: a drain has begun. [`Gate::closed`] says so
    /// too, but later: it does not tell idle connections from busy ones. Runs on any executor.
    ///
    /// Keep one future for a connection rather than one for each request: to poll it takes an
    /// uncontended lock, and a new one costs an allocation besides. It may be polled again after it
    /// was ready, and is ready then while the connection is to be parked.
    ///
    /// [`Gate::closed`]: crate::Gate::closed
    pub fn told_to_park(&self) -> impl Future<Output = ()> + Send + Unpin + use<S> {
        self.set.told.is_listened_to();
        let set = Arc::clone(&self.set);
        Arc::clone(&self.served).wait(move |served| set.told.to_park(served))
    }

    /// Whether the connection is to be parked at its next request boundary.
    #[must_use]
    pub fn is_told_to_park(&self) -> bool {
        self.set.told.is_listened_to();
        self.set.told.to_park(&self.served)
    }

    /// Waits until the connection is to leave: it has to end by itself, before the gate closes, since
    /// it cannot be parked. A handler that calls this says so; the drain waits for its end, up to
    /// [`leave_grace`](Connections::leave_grace). Requests are still admitted meanwhile: the handler
    /// tells its client (`Connection: close`, GOAWAY), serves what comes before the client has gone,
    /// and drops the ticket. What has not left by then stays behind; it may still
    /// [`park`](Self::park). Runs on any executor; as for [`told_to_park`](Self::told_to_park), keep
    /// one future for a connection.
    pub fn told_to_leave(&self) -> impl Future<Output = ()> + Send + Unpin + use<S> {
        self.set.leaves(self.key);
        let set = Arc::clone(&self.set);
        Arc::clone(&self.served).wait(move |_| set.told.to_leave())
    }

    /// Waits for the word of [`told_to_leave`](Self::told_to_leave), and does not say that the connection
    /// cannot be parked.
    #[cfg(feature = "http")]
    pub(crate) fn hears_of_leaving(&self) -> impl Future<Output = ()> + Send + Unpin + use<S> {
        let set = Arc::clone(&self.set);
        Arc::clone(&self.served).wait(move |_| set.told.to_leave())
    }

    /// Whether the connection has to end by itself from here on.
    #[cfg(feature = "http")]
    pub(crate) fn set_leaves(&self, leaves: bool) {
        if leaves {
            self.set.leaves(self.key);
        } else {
            self.set.stays(self.key);
        }
    }

    /// Whether a connection that cannot be parked is to leave now. One that has not begun to speak
    /// may be parked instead, for the next process.
    #[must_use]
    pub fn is_told_to_leave(&self) -> bool {
        self.set.told.to_leave()
    }

    /// Waits until another process serves, or this one stops, and this connection was not carried:
    /// its handler closes it. Never ends with [`Late::Finish`]. Runs on any executor.
    pub fn told_to_close(&self) -> impl Future<Output = ()> + Send + Unpin + use<S> {
        let set = Arc::clone(&self.set);
        let may_finish = set.late == Late::Finish;
        Arc::clone(&self.served).wait(move |_| !may_finish && set.told.to_close())
    }

    /// Whether its handler is to close it now.
    #[must_use]
    pub fn is_told_to_close(&self) -> bool {
        self.set.late == Late::Close && self.set.told.to_close()
    }

    /// Whether it is to be parked since the daemon is being stopped: it is closed then.
    #[cfg(feature = "ws")]
    pub(crate) fn is_stopping(&self) -> bool {
        self.set.state().mode == Mode::Stopping
    }

    /// Its name in the report of a drain.
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
