//! Accepting connections on tokio, inside the gate.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;

use super::{Arrival, Connections};
use crate::carry::format::Carried;
use crate::drainable::Gate;
use crate::log;

/// A listener of tokio: a `TcpListener` or a `UnixListener`.
pub trait Listens: sealed::Listens {}

impl Listens for TcpListener {}
impl Listens for UnixListener {}

mod sealed {
    use super::{Context, OwnedFd, Poll, io};

    pub trait Listens: Sync {
        /// A connection, and its name.
        fn poll_connection(&self, context: &mut Context<'_>)
        -> Poll<io::Result<(OwnedFd, String)>>;
    }
}

impl sealed::Listens for TcpListener {
    fn poll_connection(&self, context: &mut Context<'_>) -> Poll<io::Result<(OwnedFd, String)>> {
        let (tcp, address) = ready!(self.poll_accept(context))?;
        Poll::Ready(Ok((tcp.into_std()?.into(), address.to_string())))
    }
}

impl sealed::Listens for UnixListener {
    fn poll_connection(&self, context: &mut Context<'_>) -> Poll<io::Result<(OwnedFd, String)>> {
        let (unix, _unnamed) = ready!(self.poll_accept(context))?;
        let peer = unix.peer_cred().ok().and_then(|peer| peer.pid());
        let name = peer.map_or_else(|| "unix".to_owned(), |pid| format!("unix, pid {pid}"));
        Poll::Ready(Ok((unix.into_std()?.into(), name)))
    }
}

impl<S: Carried + Default> Connections<S> {
    /// Waits for a new connection, while the gate is open. It is counted inside the gate, so that no drain
    /// overlooks it, and has no state yet: serve it like one of [`arrival`](Self::arrival).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use handoff::Gate;
    /// # use handoff::carry::{Arrival, Connections};
    /// # use tokio::net::TcpListener;
    /// # async fn serve(_: Arrival<u64>) {}
    /// # async fn both(gate: Arc<Gate>, clients: Arc<Connections<u64>>, listener: TcpListener) {
    /// loop {
    ///     // One task for each of the two, or as here:
    ///     let arrival = tokio::select! {
    ///         accepted = clients.accept(&gate, &listener) => accepted,
    ///         arrived = clients.arrival() => arrived,
    ///     };
    ///     tokio::spawn(serve(arrival));
    /// }
    /// # }
    /// ```
    ///
    /// An error of the system is logged, and it tries again: most likely no descriptor was left. It may be
    /// dropped at any time.
    pub async fn accept(self: &Arc<Self>, gate: &Gate, listener: &impl Listens) -> Arrival<S> {
        loop {
            gate.opened().await;
            let accepted = poll_fn(|context| {
                let Ok(_pass) = gate.enter() else { return Poll::Ready(Ok(None)) };
                let (descriptor, name) = ready!(listener.poll_connection(context))?;
                let ticket = self.enter(name);
                Poll::Ready(io::Result::Ok(Some(Arrival {
                    descriptor,
                    state: S::default(),
                    ticket,
                })))
            });
            match accepted.await {
                Ok(Some(arrival)) => return arrival,
                Ok(None) => {}
                Err(error) => {
                    log::warn!(%error, "this daemon cannot accept a connection, and tries again");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
