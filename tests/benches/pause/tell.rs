//! What a daemon tells the bench, as datagrams: that it serves, and when it did its own work.

use std::io;
use std::ops::Range;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The daemon's end.
pub(crate) struct Tell(UnixDatagram);

impl Tell {
    pub(crate) fn to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self(socket))
    }

    pub(crate) fn serving(&self) {
        self.say(&format!("serving {} {}", std::process::id(), now()));
    }

    /// Requests are no longer admitted.
    pub(crate) fn drained(&self) {
        self.say(&format!("drained {}", now()));
    }

    /// The data was opened, since then.
    pub(crate) fn opened(&self, start: u64) {
        self.say(&format!("opened {start} {}", now()));
    }

    /// The data was synced and closed, since then.
    pub(crate) fn sealed(&self, start: u64) {
        self.say(&format!("sealed {start} {}", now()));
    }

    fn say(&self, word: &str) {
        // The bench may have given up on this process.
        let _ = self.0.send(word.as_bytes());
    }
}

/// The bench's end.
pub(crate) struct Told(UnixDatagram);

/// Until a process serves: what it did, and what the one before it did. Times are those of
/// [`now`].
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) pid: u32,
    pub(crate) drained: u64,
    pub(crate) sealed: Range<u64>,
    pub(crate) opened: Range<u64>,
    pub(crate) serving: u64,
}

/// In nanoseconds, by the clock that all processes have in common.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + nanoseconds
}

impl Told {
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self(UnixDatagram::bind(path)?))
    }

    /// Waits until a process says that it serves.
    pub(crate) fn wait_serving(&self, timeout: Duration) -> io::Result<Said> {
        let deadline = Instant::now() + timeout;
        let mut said = Said::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.0.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut datagram = [0; 64];
            let length = self.0.recv(&mut datagram)?;
            let word = String::from_utf8_lossy(&datagram[..length]);
            let words: Vec<&str> = word.split(' ').collect();
            let number = |place: usize| words.get(place).and_then(|word| word.parse::<u64>().ok());
            match (words[0], number(1), number(2)) {
                ("drained", Some(at), None) => said.drained = at,
                ("opened", Some(start), Some(end)) => said.opened = start..end,
                ("sealed", Some(start), Some(end)) => said.sealed = start..end,
                ("serving", Some(pid), Some(at)) => {
                    said.pid = u32::try_from(pid).map_err(io::Error::other)?;
                    said.serving = at;
                    return Ok(said);
                }
                _ => return Err(io::Error::other(format!("a daemon said {word:?}"))),
            }
        }
    }
}
