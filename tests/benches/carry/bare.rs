//! What carrying is compared with: the same descriptors, and nothing but descriptors.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::daemon::EXECUTABLE;

/// How long it takes from the first send until another process has them all.
pub(crate) fn send(descriptors: &[BorrowedFd<'_>]) -> io::Result<Duration> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut receiver = Command::new(EXECUTABLE)
        .args(["bare-receive", &descriptors.len().to_string()])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let measured = measure(&mut ours, descriptors);
    drop(ours);
    let status = receiver.wait()?;
    match measured {
        Ok(_) if !status.success() => Err(io::Error::other(format!("bare-receive: {status}"))),
        measured => measured,
    }
}

fn measure(receiver: &mut UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<Duration> {
    let mut byte = [0];
    receiver.read_exact(&mut byte)?;
    let start = Instant::now();
    for batch in descriptors.chunks(AT_ONCE) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(batch));
        sendmsg(&*receiver, &[IoSlice::new(&byte)], &mut ancillary, SendFlags::NOSIGNAL)?;
    }
    receiver.read_exact(&mut byte)?;
    let taken = start.elapsed();
    receiver.write_all(&byte)?;
    Ok(taken)
}

/// The maximum number of descriptors in one message.
const AT_ONCE: usize = 253;
