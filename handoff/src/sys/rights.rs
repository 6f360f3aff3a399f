//! Descriptors that go from one process to another over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The maximum number of descriptors that the kernel takes with one message.
pub(crate) const MAX_DESCRIPTORS: usize = 253;

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Sends as many of `bytes` as it can without waiting, and returns how many. The descriptors, at
/// most [`MAX_DESCRIPTORS`], go with the first.
pub(crate) fn send_with(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if descriptors.is_empty() {
        return Ok(rustix::net::send(socket, bytes, flags)?);
    }
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
}

/// Receives the bytes that are there without waiting, and the descriptors that came with them,
/// close-on-exec. Returns how many bytes, 0 at the end of the stream. `EMFILE` where the kernel
/// dropped descriptors because this process may have no more: the next ones belong to other
/// bytes, so the stream is of no use any more.
pub(crate) fn receive_with(
    socket: impl AsFd,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut bytes = [IoSliceMut::new(bytes)];
    let received = rustix::net::recvmsg(socket, &mut bytes, &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(rustix::io::Errno::MFILE.into());
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use rustix::fs::fstat;
    use rustix::io::{FdFlags, fcntl_getfd};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    #[test]
    fn descriptors_arrive_with_the_first_byte_and_are_close_on_exec() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let file = File::open("/dev/null").expect("it is there");
        let many = vec![file.as_fd(); MAX_DESCRIPTORS];
        assert_eq!(send_with(&ours, b"first", &many).expect("it is sent"), 5);
        assert_eq!(send_with(&ours, b"second", &[]).expect("it is sent"), 6);
        let (mut bytes, mut received) = ([0; 64], Vec::new());
        let length = receive_with(&theirs, &mut bytes, &mut received).expect("it arrives");
        assert_eq!((&bytes[..1], received.len()), (&b"f"[..], MAX_DESCRIPTORS));
        assert!(length >= 5);
        for descriptor in &received {
            let flags = fcntl_getfd(descriptor).expect("it is open");
            assert!(flags.contains(FdFlags::CLOEXEC));
            let inode = |fd: BorrowedFd<'_>| fstat(fd).expect("it is open").st_ino;
            assert_eq!(inode(descriptor.as_fd()), inode(file.as_fd()));
        }
    }

    /// In a process of its own, since the limit is the process's.
    #[test]
    fn descriptors_for_which_there_is_no_room_are_an_error() {
        const INSIDE: &str = "HANDOFF_TEST_INSIDE";
        const NAME: &str =
            "sys::rights::tests::descriptors_for_which_there_is_no_room_are_an_error";
        if std::env::var_os(INSIDE).is_none() {
            let status = Command::new(std::env::current_exe().expect("it has an executable"))
                .args(["--exact", NAME])
                .env(INSIDE, "1")
                .stdout(Stdio::null())
                .status()
                .expect("it runs");
            assert_eq!(status.code(), Some(0));
            return;
        }
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let file = File::open("/dev/null").expect("it is there");
        send_with(&ours, b"all", &[file.as_fd(); 8]).expect("they are sent");
        let next = file.try_clone().expect("a descriptor is left").as_raw_fd();
        let current = Some(u64::try_from(next).expect("it is a number") + 3);
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("it can be lowered");
        let mut received = Vec::new();
        let error = receive_with(&theirs, &mut [0; 8], &mut received).expect_err("not all arrive");
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        drop(received);
        assert_eq!(file.try_clone().expect("none is left behind").as_raw_fd(), next);
    }

    #[test]
    fn more_than_the_kernel_takes_are_refused() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let file = File::open("/dev/null").expect("it is there");
        let refused = send_with(&ours, b"x", &vec![file.as_fd(); MAX_DESCRIPTORS + 1]);
        assert_eq!(refused.expect_err("too many").kind(), io::ErrorKind::InvalidInput);
    }
}
