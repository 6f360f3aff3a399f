//! Connections that are open before a swap and should be open after it, each with requests that
//! nothing else asks: a reply that is lost, doubled or another connection's is told apart.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use handoff::faults::forked;

use super::Arena;
use crate::harness::kill_and_wait;

/// What became of the connections in one swap.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// Those that were open before it.
    pub all: usize,
    /// Those of them that were open after it, and were answered.
    pub open: usize,
}

impl Probed {
    /// Those that were closed.
    #[must_use]
    pub const fn closed(self) -> usize {
        self.all - self.open
    }

    /// Counts another swap in.
    pub const fn add(&mut self, other: Self) {
        self.all += other.all;
        self.open += other.open;
    }
}

/// The connections of an arena.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Vec<Connection>,
    opened: usize,
    /// It asks while the swap is under way.
    asking: Option<JoinHandle<()>>,
}

/// What a connection does while the swap is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Nothing.
    Idle,
    /// Half a request was sent before.
    Half,
    /// A request is sent meanwhile, whose reply may come from either process.
    Asks,
}

#[derive(Debug)]
struct Connection {
    stream: BufReader<TcpStream>,
    manner: Manner,
    number: usize,
    asked: usize,
}

impl Arena {
    /// Opens connections until there are so many: most of them idle. The daemon has answered
    /// each once, so it is one that it has.
    ///
    /// # Panics
    ///
    /// When one is not answered.
    pub fn open_connections(&mut self, count: usize) {
        while self.connections.open.len() < count {
            let number = self.connections.opened;
            let opened = Connection::open(self.address, number);
            let opened =
                opened.unwrap_or_else(|error| panic!("stuck: {error}; {:?}", self.reports));
            self.connections.open.push(opened);
            self.connections.opened += 1;
        }
    }

    /// Some connections ask, one after the other, while the swap that was ordered goes on.
    pub(super) fn ask_meanwhile(&mut self) {
        let asks = |connection: &&mut Connection| connection.manner == Manner::Asks;
        let streams = self.connections.open.iter_mut().filter(asks).map(|connection| {
            let stream = connection.stream.get_ref().try_clone().expect("there are descriptors");
            (stream, connection.next_request())
        });
        let streams: Vec<_> = streams.collect();
        let asking = thread::spawn(move || {
            for (mut stream, request) in streams {
                // One that has been closed is found to be by the probe.
                let _ = stream.write_all(request.as_bytes());
                thread::sleep(BETWEEN_ASKS);
            }
        });
        self.connections.asking = Some(asking);
    }

    /// Asks every connection after a swap. What is closed is left out from here on.
    ///
    /// # Panics
    ///
    /// When a connection that is open is not answered, or not with the one reply that is its own.
    pub fn probe_connections(&mut self) -> Probed {
        let asking = self.connections.asking.take();
        let have_asked = asking.is_some();
        if let Some(asking) = asking {
            asking.join().expect("it does not panic");
        }
        let connections = std::mem::take(&mut self.connections.open);
        let all = connections.len();
        for mut connection in connections {
            match connection.probe(have_asked) {
                Ok(()) => self.connections.open.push(connection),
                Err(Fault::Closed) => {}
                Err(fault) => panic!("{fault:?}: {connection:?}; {:?}", self.reports),
            }
        }
        Probed { all, open: self.connections.open.len() }
    }

    /// Closes as many connections from the client's side, the newest, and waits until the daemon has closed
    /// them too: a copy that anybody kept keeps them open.
    ///
    /// # Panics
    ///
    /// When one stays open, or something more comes from it.
    pub fn end_connections(&mut self, count: usize) {
        // A child that a daemon forked has copies of its connections, as of all of its descriptors.
        for pid in forked(&self.state().join("marks")).expect("the marks can be read") {
            kill_and_wait(pid);
        }
        let first = self.connections.open.len() - count;
        for connection in self.connections.open.drain(first..) {
            let number = connection.number;
            let mut stream = connection.stream;
            let ended = stream.get_ref().shutdown(Shutdown::Write);
            let mut rest = Vec::new();
            let ended = ended.and_then(|()| stream.read_until(b'\n', &mut rest));
            assert!(
                matches!(ended, Ok(0)),
                "read twice or kept by somebody: {number}: {ended:?} {rest:?}; {:?}",
                self.reports
            );
        }
    }

    /// No connection whose client has gone is still open: nobody has one that nobody serves.
    ///
    /// # Panics
    ///
    /// When one is.
    pub fn assert_none_is_left_open(&mut self) {
        self.end_connections(self.connections.open.len());
        let deadline = Instant::now() + PATIENCE;
        while !half_closed(self.address).is_empty() {
            let left = half_closed(self.address);
            assert!(
                Instant::now() < deadline,
                "stuck: nobody sees that these were closed: {left:?}; {:?}",
                self.reports
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Why a connection is not as it was.
#[derive(Debug)]
enum Fault {
    Closed,
    /// Open, and unanswered.
    #[expect(dead_code, reason = "for whoever reads it")]
    Stuck(io::ErrorKind),
    /// Read twice, or by two: expected, and read.
    #[expect(dead_code, reason = "for whoever reads it")]
    ReadTwice(String, String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
                Self::Closed
            }
            kind => Self::Stuck(kind),
        }
    }
}

impl Connection {
    fn open(address: SocketAddr, number: usize) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let manner = match number % 7 {
            2 => Manner::Half,
            5 => Manner::Asks,
            _ => Manner::Idle,
        };
        let mut opened = Self { stream: BufReader::new(stream), manner, number, asked: 0 };
        let request = opened.next_request();
        opened.stream.get_mut().write_all(request.as_bytes())?;
        opened.hear().map_err(|fault| io::Error::other(format!("{fault:?}: {opened:?}")))?;
        opened.begin_next()?;
        Ok(opened)
    }

    /// The reply of what is under way, and that of one more request: a doubled reply would be
    /// taken for it.
    fn probe(&mut self, has_asked: bool) -> Result<(), Fault> {
        let request = match self.manner {
            Manner::Half => self.request()[HALF..].to_owned(),
            Manner::Asks if has_asked => String::new(),
            Manner::Idle | Manner::Asks => self.next_request(),
        };
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.hear()?;
        let request = self.next_request();
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.hear()?;
        Ok(self.begin_next()?)
    }

    fn begin_next(&mut self) -> io::Result<()> {
        if self.manner != Manner::Half {
            return Ok(());
        }
        let request = self.next_request();
        self.stream.get_mut().write_all(&request.as_bytes()[..HALF])
    }

    /// Reads the reply of the last request.
    fn hear(&mut self) -> Result<(), Fault> {
        let mut reply = String::new();
        let length = self.stream.read_line(&mut reply)?;
        let expected = format!("error what is {:?}?\n", self.request().trim_end());
        match reply {
            reply if reply == expected => Ok(()),
            _ if length == 0 => Err(Fault::Closed),
            reply if expected.starts_with(&reply) => Err(Fault::Closed),
            reply => Err(Fault::ReadTwice(expected, reply)),
        }
    }

    fn next_request(&mut self) -> String {
        self.asked += 1;
        self.request()
    }

    /// The daemon does not know it, and so says it in its reply.
    fn request(&self) -> String {
        format!("request-{}-of-{}\n", self.asked, self.number)
    }
}

/// The clients of connections to this address that were closed by them alone.
fn half_closed(address: SocketAddr) -> Vec<String> {
    let SocketAddr::V4(address) = address else { return Vec::new() };
    let local = |ip: &Ipv4Addr| format!("{:08X}:{:04X}", ip.to_bits().swap_bytes(), address.port());
    let local = local(address.ip());
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel tells");
    let half_closed = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let is_local = words.next()? == local;
        let client = words.next()?;
        (is_local && words.next()? == CLOSE_WAIT).then(|| client.to_owned())
    };
    table.lines().filter_map(half_closed).collect()
}

/// As `/proc/net/tcp` says it.
const CLOSE_WAIT: &str = "08";
/// So much of a request is sent before a swap.
const HALF: usize = 5;
/// A connection to a process that serves is answered sooner.
const PATIENCE: Duration = Duration::from_secs(20);
/// A swap takes several times as long.
const BETWEEN_ASKS: Duration = Duration::from_millis(3);
