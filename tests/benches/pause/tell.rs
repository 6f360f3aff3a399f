//! What a daemon tells the bench, as datagrams: that it serves, and how long its own work took.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

/// The daemon's end.
pub(crate) struct Tell(UnixDatagram);

impl Tell {
    pub(crate) fn to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self(socket))
    }

    pub(crate) fn serving(&self) {
        self.say(&format!("serving {}", std::process::id()));
    }

    /// The data was opened.
    pub(crate) fn opened(&self, took: Duration) {
        self.say(&format!("opened {}", took.as_nanos()));
    }

    /// The data was synced and closed.
    pub(crate) fn sealed(&self, took: Duration) {
        self.say(&format!("sealed {}", took.as_nanos()));
    }

    fn say(&self, word: &str) {
        // The bench may have given up on this process.
        let _ = self.0.send(word.as_bytes());
    }
}

/// The bench's end.
pub(crate) struct Told(UnixDatagram);

/// Until a process serves.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) pid: u32,
    pub(crate) sealed: Duration,
    pub(crate) opened: Duration,
}

impl Told {
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self(UnixDatagram::bind(path)?))
    }

    /// Waits until a process says that it serves.
    pub(crate) fn wait_serving(&self, limit: Duration) -> io::Result<Said> {
        let deadline = Instant::now() + limit;
        let mut said = Said::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.0.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut datagram = [0; 64];
            let length = self.0.recv(&mut datagram)?;
            let word = String::from_utf8_lossy(&datagram[..length]);
            match word.split_once(' ').and_then(|(what, value)| Some((what, value.parse().ok()?))) {
                Some(("opened", ns)) => said.opened = Duration::from_nanos(ns),
                Some(("sealed", ns)) => said.sealed = Duration::from_nanos(ns),
                Some(("serving", pid)) => {
                    said.pid = u32::try_from(pid).map_err(io::Error::other)?;
                    return Ok(said);
                }
                _ => return Err(io::Error::other(format!("a daemon said {word:?}"))),
            }
        }
    }
}
