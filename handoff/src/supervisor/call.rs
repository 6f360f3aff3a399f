//! A connection to the control socket over which descriptors may come.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use rustix::event::PollFlags;

use crate::error::{Error, FrameError, PeerMisbehaved, Result};
use crate::frame::{FrameReader, encode};
use crate::protocol::{MOST_LISTENERS, Message, PROTO_MAX, PROTO_MIN, ProtoVersion};
use crate::supervisor::setup::connect_stream;
use crate::sys::socket::Peer;
use crate::sys::{poll, rights};

/// Whoever waits for a message reads the socket: there is no thread behind it.
#[derive(Debug)]
pub(super) struct Call {
    stream: UnixStream,
    peer: Peer,
    reader: FrameReader,
    /// Received and not yet taken, in order.
    descriptors: Vec<OwnedFd>,
    version: Option<ProtoVersion>,
}

impl Call {
    pub(super) fn to(path: &Path, deadline: Instant) -> Result<Self> {
        let (stream, peer) = connect_stream(path, deadline)?;
        let (reader, descriptors) = (FrameReader::new(), Vec::new());
        Ok(Self { stream, peer, reader, descriptors, version: None })
    }

    /// Who is at the other end, by the kernel's word.
    pub(super) const fn peer(&self) -> Peer {
        self.peer
    }

    /// From here on a frame of another version is refused.
    pub(super) const fn agree_on(&mut self, version: ProtoVersion) {
        self.version = Some(version);
    }

    pub(super) fn send(&self, message: &Message, deadline: Instant) -> Result<()> {
        let frame = encode(self.version.unwrap_or(PROTO_MIN), message)?;
        let mut left = frame.as_slice();
        while !left.is_empty() {
            match rights::send_with(&self.stream, left, &[]) {
                Ok(sent) => left = &left[sent..],
                Err(error) if is_not_yet(&error) => {
                    if !poll::wait_for(self.stream.as_fd(), PollFlags::OUT, Some(deadline))? {
                        return Err(Error::TimedOut("sending to the daemon"));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next message, if it comes before the deadline.
    pub(super) fn next(&mut self, deadline: Instant) -> Result<Message> {
        let during = "waiting for its answer";
        loop {
            if let Some((version, message)) = self.reader.next_frame()? {
                let admitted = match self.version {
                    None => (PROTO_MIN..=PROTO_MAX).contains(&version),
                    Some(agreed) => agreed == version,
                };
                return if admitted {
                    Ok(message)
                } else {
                    Err(FrameError::Version(version).into())
                };
            }
            let mut chunk = [0; 4096];
            match rights::receive_with(&self.stream, &mut chunk, &mut self.descriptors) {
                Ok(0) => return Err(Error::PeerLost { peer: "incumbent", during }),
                Ok(length) => self.reader.push(&chunk[..length]),
                Err(error) if is_not_yet(&error) => {
                    if !poll::wait_for(self.stream.as_fd(), PollFlags::IN, Some(deadline))? {
                        return Err(Error::TimedOut("waiting for the daemon's answer"));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Err(Error::PeerLost { peer: "incumbent", during });
                }
                Err(error) => return Err(error.into()),
            }
            if self.descriptors.len() > MOST_LISTENERS {
                let count = self.descriptors.len();
                return Err(PeerMisbehaved::TooManyListeners(count).into());
            }
        }
    }

    /// The next `count` descriptors, if as many have come.
    pub(super) fn take_descriptors(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        (count <= self.descriptors.len()).then(|| self.descriptors.drain(..count).collect())
    }

    /// For polling beside other things.
    pub(super) const fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

fn is_not_yet(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}
