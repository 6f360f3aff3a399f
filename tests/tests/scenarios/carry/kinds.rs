//! Whatever has a descriptor: sockets, a pipe, a terminal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use handoff::Session;
use handoff::supervisor::IncumbentFate;
use handoff_tests::fixture::bring;
use handoff_tests::harness::{Cluster, TIMEOUT, eventually};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::assert_none_moved;

/// The client's end of a connection of some kind.
struct End {
    kind: &'static str,
    file: File,
    /// None comes through a pipe.
    answers: bool,
    received: String,
    /// How many values were sent.
    sent: usize,
}

impl End {
    fn new(kind: &'static str, end: impl Into<OwnedFd>, answers: bool) -> Self {
        let file = File::from(end.into());
        Self { kind, file, answers, received: String::new(), sent: 0 }
    }

    /// One datagram, where it matters.
    fn send(&mut self, text: &str) {
        self.file.write_all(text.as_bytes()).expect("it is open");
    }

    /// One request that is whole, one whose end was sent before, and half of a third.
    fn send_values(&mut self) {
        let (kind, first) = (self.kind, self.sent);
        self.send(&format!(" {first}\nput {kind} {}\nput", first + 1));
        self.send(&format!(" {kind}"));
        self.sent += 2;
    }

    /// All that was sent by now was answered, in order and once.
    fn assert_answered(&mut self) {
        while self.answers && self.received.matches('\n').count() < self.sent {
            let timeout = Timespec::try_from(TIMEOUT).expect("it is short");
            let ready = poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&timeout));
            assert_eq!(ready, Ok(1), "{}: nothing comes after {:?}", self.kind, self.received);
            let mut bytes = [0; 4096];
            let length = self.file.read(&mut bytes).expect("it is open");
            assert_ne!(length, 0, "{}: it was closed after {:?}", self.kind, self.received);
            self.received.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
        assert!(self.received.lines().all(|line| line.starts_with("ok ")), "{:?}", self.received);
    }

    /// By the logs.
    fn assert_read_once_and_in_order(&self, data: &Path) {
        let prefix = format!("{} ", self.kind);
        let mut values = Vec::new();
        for entry in fs::read_dir(data).expect("it is there").flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let log = fs::read_to_string(entry.path()).expect("it can be read");
                let lines = log.lines().filter_map(|line| line.strip_prefix(&prefix));
                values.extend(lines.map(|value| value.parse::<usize>().expect("a number")));
            }
        }
        assert_eq!(values, (0..self.sent).collect::<Vec<_>>(), "of {}", self.kind);
    }
}

/// What was sent into each is read by the processes that follow, and only once.
#[test]
fn descriptors_of_every_kind_go_on_with_what_lies_unread_in_them() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("local");
    let listener = UnixListener::bind(&path).expect("the path is free");
    listener.set_nonblocking(true).expect("it can be set");
    let mut cluster = Cluster::start_carrying_passed(&[], vec![("local", listener.into())]);
    let mut ends = bring_ends(&path);
    let tcp = TcpStream::connect(cluster.address()).expect("it listens");
    ends.push(End::new("tcp", tcp, true));
    ends.iter_mut().for_each(|end| end.send(&format!("put {}", end.kind)));
    for faults in [&[][..], &["open=error"], &["health=bad"], &[]] {
        // Read by the process that serves.
        ends.iter_mut().for_each(End::send_values);
        ends.iter_mut().for_each(End::assert_answered);
        let prepared = cluster.prepared(faults);
        // Read by nobody.
        ends.iter_mut().for_each(End::send_values);
        let sealed = prepared.seal().expect("it is sealed");
        ends.iter_mut().for_each(End::send_values);
        match sealed.begin().and_then(Session::commit) {
            Ok(committed) => {
                cluster.commit(committed);
                let count = cluster.carried.sets[0].count;
                assert_eq!(count, ends.len() as u64 + 2, "with the two that write");
            }
            Err(failed) => assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}"),
        }
        ends.iter_mut().for_each(End::assert_answered);
    }
    let pipe = ends.iter().find(|end| !end.answers).expect("there is one");
    // What came through it was not answered.
    let last = format!("value {}", pipe.sent - 1);
    eventually("the pipe is read to its end", TIMEOUT, || {
        (cluster.ask(&format!("get {}", pipe.kind)) == last).then_some(())
    });
    ends.iter().for_each(|end| end.assert_read_once_and_in_order(&cluster.data()));
    cluster.stop_clients();
    assert_none_moved(&cluster);
    cluster.assert_sound_at_rest();
}

/// A connection to the Unix socket, and what is brought over it.
fn bring_ends(local: &Path) -> Vec<End> {
    let unix = UnixStream::connect(local).expect("it listens");
    let (udp, served_udp) = connected_udp().expect("loopback can be bound");
    let (served_pipe, pipe) = io::pipe().expect("a pipe");
    let (terminal, served_terminal) = terminal().expect("a terminal");
    let served = [served_udp.as_fd(), served_pipe.as_fd(), served_terminal.as_fd()];
    bring(&unix, &served).expect("it is sent");
    vec![
        End::new("unix", unix, true),
        End::new("udp", udp, true),
        End::new("pipe", pipe, false),
        End::new("terminal", terminal, true),
    ]
}

fn connected_udp() -> io::Result<(UdpSocket, UdpSocket)> {
    let (one, other) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    one.connect(other.local_addr()?)?;
    other.connect(one.local_addr()?)?;
    Ok((one, other))
}

/// What a program is run in, which passes everything on as it is; and the end of whoever shows
/// it, as a multiplexer of terminals does.
fn terminal() -> io::Result<(File, OwnedFd)> {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&controller)?;
    unlockpt(&controller)?;
    let name = ptsname(&controller, Vec::new())?;
    let name = name.to_str().map_err(io::Error::other)?.to_owned();
    let terminal = OpenOptions::new().read(true).write(true).open(name)?;
    let mut raw = tcgetattr(&terminal)?;
    raw.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &raw)?;
    Ok((terminal, controller))
}
