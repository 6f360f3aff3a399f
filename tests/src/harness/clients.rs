//! Clients that write without pause, and remember what was acknowledged.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::TIMEOUT;

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::connect`].
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_within(address, TIMEOUT)
    }

    /// Connects, and waits no longer than that for a reply.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::connect`].
    pub fn connect_within(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request and reads its reply. `UnexpectedEof` says that the connection ended
    /// at a request boundary: the request was not begun.
    ///
    /// # Errors
    ///
    /// What the stream says.
    pub fn ask(&mut self, request: &str) -> io::Result<String> {
        self.send(request)?;
        self.reply()
    }

    fn send(&mut self, request: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())
    }

    fn reply(&mut self) -> io::Result<String> {
        let mut reply = String::new();
        self.stream.read_line(&mut reply)?;
        match reply.pop() {
            Some('\n') => Ok(reply),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Which of these are not what a `get` finds.
    ///
    /// # Errors
    ///
    /// What the stream says.
    pub fn missing(&mut self, written: &[(String, String)]) -> io::Result<Vec<String>> {
        let mut missing = Vec::new();
        for some in written.chunks(100) {
            for (key, _) in some {
                self.send(&format!("get {key}"))?;
            }
            for (key, value) in some {
                let found = self.reply()?;
                if found != format!("value {value}") {
                    missing.push(format!("{key}: {found}, not {value}"));
                }
            }
        }
        Ok(missing)
    }
}

/// What became of the requests of some clients.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Writes that were acknowledged.
    pub written: Vec<(String, String)>,
    /// Connections that were refused.
    pub refused: usize,
    /// Connections that were reset, or ended inside a reply.
    pub reset: usize,
    /// Requests that got no reply for as long as nothing may take.
    pub unanswered: usize,
    /// Replies that were errors.
    pub failed: Vec<String>,
    /// Connections that ended at a request boundary, so that the request was sent again.
    pub moved: usize,
}

impl Tally {
    /// Counts another one in.
    pub fn add(&mut self, other: Self) {
        self.written.extend(other.written);
        self.failed.extend(other.failed);
        self.refused += other.refused;
        self.reset += other.reset;
        self.unanswered += other.unanswered;
        self.moved += other.moved;
    }
}

/// Clients on threads of their own.
#[derive(Debug)]
pub struct Clients {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Clients {
    /// Starts that many; `prefix` makes their keys their own.
    #[must_use]
    pub fn start(address: SocketAddr, count: usize, prefix: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let threads = (0..count)
            .map(|index| {
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                let prefix = format!("{prefix}.{index}");
                thread::spawn(move || write_on(address, &prefix, &stop, &acknowledged))
            })
            .collect();
        Self { stop, acknowledged, threads }
    }

    /// How many writes were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Ends them after the request that each is at.
    ///
    /// # Panics
    ///
    /// When a client did.
    #[must_use]
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut sum = Tally::default();
        for thread in self.threads.drain(..) {
            sum.add(thread.join().expect("a client does not panic"));
        }
        sum
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn write_on(
    address: SocketAddr,
    prefix: &str,
    stop: &AtomicBool,
    acknowledged: &AtomicUsize,
) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let connected = connection.take().map_or_else(|| Client::connect(address), Ok);
        let Ok(mut client) = connected else {
            tally.refused += 1;
            thread::sleep(PAUSE);
            continue;
        };
        let (key, value) = (format!("{prefix}.{number}"), format!("v{number}"));
        match client.ask(&format!("put {key} {value}")) {
            Ok(reply) if reply.starts_with("ok ") => {
                tally.written.push((key, value));
                acknowledged.fetch_add(1, Ordering::SeqCst);
                number += 1;
                connection = Some(client);
                thread::sleep(PAUSE);
            }
            Ok(reply) => tally.failed.push(reply),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => tally.moved += 1,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                tally.unanswered += 1;
            }
            Err(_) => tally.reset += 1,
        }
    }
    tally
}

/// Between two requests of one client, so that many scenarios share a disk.
const PAUSE: Duration = Duration::from_millis(1);
