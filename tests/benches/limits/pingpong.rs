//! The least that a swap could cost: as many messages between as many processes, and nothing
//! else. The process of the bench is the one in the middle.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::tell::now;

/// What is said in a pause: `Drained` and `SealComplete` by the incumbent, and then, between the
/// supervisor and the successor, `Begin`, `Ready`, `Commit` and `Serving`. What the supervisor asks
/// of the incumbent it has said before.
const INCUMBENT_SAYS: usize = 2;
const SUCCESSOR_SAYS: usize = 2;
pub(crate) const MESSAGES: usize = INCUMBENT_SAYS + 2 * SUCCESSOR_SAYS;
/// About what a frame takes.
const LENGTH: usize = 32;

/// The peers, each at the other end of a socket.
pub(crate) struct PingPong {
    incumbent: Peer,
    successor: Peer,
}

struct Peer {
    stream: UnixStream,
    process: Child,
}

impl Peer {
    fn start(says: usize) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        let process = Command::new(std::env::current_exe()?)
            .args(["--peer", &says.to_string()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        Ok(Self { stream, process })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl PingPong {
    pub(crate) fn start() -> io::Result<Self> {
        let mut started =
            Self { incumbent: Peer::start(INCUMBENT_SAYS)?, successor: Peer::start(1)? };
        started.round()?;
        Ok(started)
    }

    /// One pause's messages; how long they took. The incumbent says when it began.
    pub(crate) fn round(&mut self) -> io::Result<Duration> {
        let mut frame = [0; LENGTH];
        // Asks for it, as `PrepareHandoff` and `SealRequest` do.
        self.incumbent.stream.write_all(&frame)?;
        self.incumbent.stream.read_exact(&mut frame)?;
        let began = u64::from_le_bytes(*frame.first_chunk().expect("it is longer"));
        self.incumbent.stream.read_exact(&mut frame)?;
        for _ in 0..SUCCESSOR_SAYS {
            self.successor.stream.write_all(&frame)?;
            self.successor.stream.read_exact(&mut frame)?;
        }
        Ok(Duration::from_nanos(now() - began))
    }
}

/// Answers every message so often, with the time before the answer.
pub(crate) fn peer(args: &[String]) -> io::Result<()> {
    let says = args.first().and_then(|says| says.parse().ok());
    let says: usize = says.ok_or_else(|| io::Error::other("--peer SAYS"))?;
    let mut stream = UnixStream::from(std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?);
    let mut frame = [0; LENGTH];
    while stream.read_exact(&mut frame).is_ok() {
        frame[..8].copy_from_slice(&now().to_le_bytes());
        for _ in 0..says {
            stream.write_all(&frame)?;
        }
    }
    Ok(())
}
