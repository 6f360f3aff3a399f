//! Clients that write and read without pause, and remember the answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes_mut;

use crate::BoxError;
use crate::resp::{Reply, put_reply};

/// A few clients, each a thread with a connection and keys of its own.
pub(crate) struct Clients {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    logs: Vec<Arc<Mutex<Log>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// The results of the requests of one client, or of all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Requests answered as they should be.
    pub(crate) served: u64,
    /// Requests answered with an error or a wrong value, or not answered.
    pub(crate) failed: u64,
    /// Connections refused by the kernel.
    pub(crate) refused: u64,
    /// Connections that ended. If no byte of a reply had come, the client sent the request again,
    /// once, over a new connection, and counts only the result there.
    pub(crate) closed: u64,
    /// How the first failed request failed.
    pub(crate) first_failure: Option<String>,
}

/// The acknowledged writes, and how many of them were there in the end.
pub(crate) struct ReadBack {
    pub(crate) acknowledged: u64,
    pub(crate) found: u64,
}

/// One client's account of itself.
#[derive(Default)]
struct Log {
    tally: Tally,
    /// When each served request was first sent and when it was answered.
    requests: Vec<(Instant, Instant)>,
    /// The numbers of the acknowledged writes.
    acknowledged: Vec<u64>,
}

impl Clients {
    pub(crate) fn start(address: SocketAddr, count: usize) -> io::Result<Self> {
        let mut clients =
            Self { address, stop: Arc::default(), logs: Vec::new(), threads: Vec::new() };
        for number in 0..count {
            let log = Arc::<Mutex<Log>>::default();
            let stop = Arc::clone(&clients.stop);
            let mut client = Client { number, address, connection: None, log: Arc::clone(&log) };
            clients.logs.push(log);
            clients.threads.push(thread::Builder::new().spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    client.write_and_read(n);
                }
            })?);
        }
        Ok(clients)
    }

    /// The least number of requests of any client that were served or failed.
    pub(crate) fn least_done(&self) -> u64 {
        let done = |log: &Arc<Mutex<Log>>| {
            let log = lock(log);
            log.tally.served + log.tally.failed
        };
        self.logs.iter().map(done).min().unwrap_or(0)
    }

    /// The longest that any client waited for a reply between `start` and `end`: from the
    /// first sending of a request to its reply, a new connection and the second sending
    /// included. It is known once every client has been answered after `end`.
    pub(crate) fn longest_wait(&self, start: Instant, end: Instant) -> Duration {
        let longest = |log: &Arc<Mutex<Log>>| {
            let log = lock(log);
            let first = log.requests.partition_point(|(_, answered)| *answered < start);
            let during = log.requests[first..].iter().take_while(|(sent, _)| *sent <= end);
            during.map(|(sent, answered)| *answered - *sent).max()
        };
        self.logs.iter().filter_map(longest).max().unwrap_or_default()
    }

    /// How many connections have ended so far, other than by their client.
    pub(crate) fn closed(&self) -> u64 {
        self.logs.iter().map(|log| lock(log).tally.closed).sum()
    }

    /// Ends the clients, and reads every acknowledged write back.
    pub(crate) fn finish(mut self) -> Result<(Tally, ReadBack), BoxError> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| "a client panicked")?;
        }
        let mut tally = Tally::default();
        let mut read_back = ReadBack { acknowledged: 0, found: 0 };
        for (number, log) in self.logs.iter().enumerate() {
            let log = lock(log);
            tally.add(&log.tally);
            read_back.acknowledged += log.acknowledged.len() as u64;
            read_back.found += found(self.address, number, &log.acknowledged)?;
        }
        Ok((tally, read_back))
    }
}

/// Stops the threads; each ends after its request.
impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.served += other.served;
        self.failed += other.failed;
        self.refused += other.refused;
        self.closed += other.closed;
        self.first_failure = self.first_failure.take().or_else(|| other.first_failure.clone());
    }
}

/// Asks the server for its build and its pid, as any client can.
pub(crate) fn who_serves(address: SocketAddr) -> Result<(u32, u32), BoxError> {
    let reply = Connection::open(address)?.request(&[b"INFO"])?;
    let Reply::BulkString(info) = &reply else { return Err(format!("{reply:?}").into()) };
    let info = std::str::from_utf8(info)?;
    let value = |key| info.lines().find_map(|line| line.strip_prefix(key));
    let number = |key| value(key).ok_or_else(|| format!("no {key} in {info:?}"));
    Ok((number("kvd_build:")?.parse()?, number("process_id:")?.parse()?))
}

struct Client {
    number: usize,
    address: SocketAddr,
    connection: Option<Connection>,
    log: Arc<Mutex<Log>>,
}

impl Client {
    /// Writes a key that was never written before, so that every acknowledged write can be
    /// read back in the end; and reads it.
    fn write_and_read(&mut self, n: u64) {
        let (key, value) = (key(self.number, n), value(self.number, n));
        let is_ok = |reply: &Reply| matches!(reply, Reply::SimpleString(text) if text == "OK");
        if self.request(&[b"SET", key.as_bytes(), value.as_bytes()], is_ok) {
            lock(&self.log).acknowledged.push(n);
            let is_value = |reply: &Reply| matches!(reply, Reply::BulkString(got) if *got == value);
            self.request(&[b"GET", key.as_bytes()], is_value);
        }
    }

    /// Makes a request, at most twice, and logs its result.
    fn request(&mut self, words: &[&[u8]], is_expected: impl Fn(&Reply) -> bool) -> bool {
        let sent = Instant::now();
        let outcome = self.attempt(words).or_else(|lost| match lost {
            Lost::Closed => self.attempt(words),
            Lost::Failed(why) => Err(Lost::Failed(why)),
        });
        let answered = Instant::now();

        let mut log = lock(&self.log);
        let failure = match outcome {
            Ok(reply) if is_expected(&reply) => {
                log.tally.served += 1;
                log.requests.push((sent, answered));
                return true;
            }
            Ok(reply) => format!("answered with {reply:?}"),
            Err(Lost::Closed) => "the connection was closed twice".to_owned(),
            Err(Lost::Failed(why)) => why,
        };
        log.tally.failed += 1;
        log.tally.first_failure.get_or_insert_with(|| {
            format!("client {}, {}: {failure}", self.number, words.join(&b' ').escape_ascii())
        });
        drop(log);
        self.connection = None;
        false
    }

    fn attempt(&mut self, words: &[&[u8]]) -> Result<Reply, Lost> {
        if self.connection.is_none() {
            let connected = Connection::open(self.address);
            self.connection = Some(connected.map_err(|error| {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    lock(&self.log).tally.refused += 1;
                }
                Lost::Failed(format!("cannot connect: {error}"))
            })?);
        }
        let Some(connection) = &mut self.connection else { unreachable!("connected above") };
        let error = match connection.request(words) {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        let is_closed = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
        );
        if !is_closed {
            return Err(Lost::Failed(error.to_string()));
        }
        let is_inside_reply = !connection.input.is_empty();
        self.connection = None;
        lock(&self.log).tally.closed += 1;
        if is_inside_reply {
            return Err(Lost::Failed("the connection ended inside a reply".to_owned()));
        }
        Err(Lost::Closed)
    }
}

/// Why there is no reply.
enum Lost {
    /// The connection ended before it began; the request may be sent again.
    Closed,
    Failed(String),
}

struct Connection {
    stream: TcpStream,
    input: BytesMut,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, REPLY_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self { stream, input: BytesMut::new() })
    }

    fn request(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        let mut output = BytesMut::new();
        put_request(&mut output, words)?;
        self.stream.write_all(&output)?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some((reply, ..)) =
                decode_bytes_mut(&mut self.input).map_err(io::Error::other)?
            {
                return Ok(reply);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => self.input.extend_from_slice(&chunk[..len]),
            }
        }
    }
}

fn put_request(output: &mut BytesMut, words: &[&[u8]]) -> io::Result<()> {
    let words = words.iter().map(|word| Reply::BulkString(Bytes::copy_from_slice(word)));
    put_reply(output, &Reply::Array(words.collect()))
}

/// How many of a client's acknowledged writes the server still has, read in pipelines.
fn found(address: SocketAddr, client: usize, acknowledged: &[u64]) -> io::Result<u64> {
    let mut connection = Connection::open(address)?;
    let mut found = 0;
    for chunk in acknowledged.chunks(PIPELINE) {
        let mut output = BytesMut::new();
        for n in chunk {
            put_request(&mut output, &[b"GET", key(client, *n).as_bytes()])?;
        }
        connection.stream.write_all(&output)?;
        for n in chunk {
            let reply = connection.reply()?;
            found += u64::from(reply == Reply::BulkString(value(client, *n).into()));
        }
    }
    Ok(found)
}

fn key(client: usize, n: u64) -> String {
    format!("c{client}:{n}")
}

fn value(client: usize, n: u64) -> String {
    format!("{n} by client {client}")
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
const PIPELINE: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_is_that_of_the_requests_that_touch_the_window() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let log = |requests: &[(u64, u64)]| {
            let requests = requests.iter().map(|(sent, answered)| (at(*sent), at(*answered)));
            Arc::new(Mutex::new(Log { requests: requests.collect(), ..Log::default() }))
        };
        let clients = Clients {
            address: ([127, 0, 0, 1], 1).into(),
            stop: Arc::default(),
            logs: vec![
                log(&[(0, 90), (95, 115), (120, 121), (201, 900)]),
                log(&[(0, 1), (150, 180), (181, 182)]),
            ],
            threads: Vec::new(),
        };
        assert_eq!(clients.longest_wait(at(100), at(200)), Duration::from_millis(30));
        assert_eq!(clients.longest_wait(at(100), at(140)), Duration::from_millis(20));
    }
}
