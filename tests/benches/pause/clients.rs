//! Eight clients in a closed loop, and what they saw.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

use crate::TIMEOUT;
use crate::tell::now;

/// Whether a client keeps its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connect {
    Once,
    EachTime,
}

/// Clients that ask on and on.
pub(crate) struct Clients {
    threads: Vec<JoinHandle<io::Result<Seen>>>,
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    connect: Connect,
    is_over: AtomicBool,
    /// How many answers each client has had.
    answered: Vec<AtomicU64>,
}

/// What a client saw.
#[derive(Default)]
struct Seen {
    /// When each answer came. The client's n-th request was for its n-th key.
    answers: Vec<u64>,
    failed: u64,
    closed: u64,
    refused: u64,
}

/// What all clients saw.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The longest time in which no client got an answer, between two answers, whoever's, that
    /// followed each other, of those that fall together with the time in which no process served:
    /// from the last answer of the old one to the first of the new one.
    pub(crate) pause: Range<u64>,
    /// The longest such time from the beginning of the swap until it was over for all clients: it
    /// may be one in which the old process served, and had less of the processors or of the disk.
    pub(crate) stall: Range<u64>,
    pub(crate) acknowledged: u64,
    /// Requests that were not answered on the connection on which they were sent. Each is sent
    /// again until it is.
    pub(crate) failed: u64,
    /// Connections that were closed before a client had its answer.
    pub(crate) closed: u64,
    /// Attempts to connect that were refused.
    pub(crate) refused: u64,
    /// Acknowledged and not in the log.
    pub(crate) lost: u64,
}

impl Clients {
    pub(crate) fn start(address: SocketAddr, connect: Connect) -> Self {
        let answered = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { address, connect, is_over: false.into(), answered });
        let threads = (0..CLIENTS)
            .map(|number| {
                let shared = shared.clone();
                thread::spawn(move || shared.ask_on_and_on(number))
            })
            .collect();
        Self { threads, shared }
    }

    /// Waits until each of them has had so many more answers.
    pub(crate) fn wait_answers(&self, more: u64) -> io::Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        let counts = || self.shared.answered.iter().map(|count| count.load(Ordering::SeqCst));
        let wanted: Vec<u64> = counts().map(|count| count + more).collect();
        while counts().zip(&wanted).any(|(count, wanted)| count < *wanted) {
            if Instant::now() >= deadline {
                return Err(io::Error::other("clients are not answered"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Stops them; what they saw of a swap that took so long, in which nobody served for so long,
    /// and of the log.
    pub(crate) fn stop(
        mut self,
        swap: Range<u64>,
        unserved: Range<u64>,
        log: &Path,
    ) -> io::Result<Outcome> {
        self.shared.is_over.store(true, Ordering::SeqCst);
        let mut outcome = Outcome::default();
        let mut answers = Vec::new();
        let mut acknowledged = Vec::new();
        for thread in self.threads.drain(..) {
            let seen = thread.join().map_err(|_| io::Error::other("a client panicked"))??;
            outcome.failed += seen.failed;
            outcome.closed += seen.closed;
            outcome.refused += seen.refused;
            acknowledged.push(seen.answers.len());
            answers.extend(seen.answers);
        }
        answers.sort_unstable();
        outcome.acknowledged = answers.len() as u64;
        let longest_in = |time: &Range<u64>| {
            let gaps = answers.windows(2).map(|two| two[0]..two[1]);
            let around = gaps.filter(|gap| gap.end >= time.start && gap.start <= time.end);
            around.max_by_key(|gap| gap.end - gap.start).unwrap_or_default()
        };
        (outcome.pause, outcome.stall) = (longest_in(&unserved), longest_in(&swap));
        outcome.lost = lost(&acknowledged, log)?;
        Ok(outcome)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn ask_on_and_on(&self, number: usize) -> io::Result<Seen> {
        let mut seen = Seen::default();
        let mut connection: Option<TcpStream> = None;
        while !self.is_over.load(Ordering::SeqCst) {
            let mut stream = match connection.take() {
                Some(stream) => stream,
                None => match self.connect() {
                    Ok(stream) => stream,
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                        seen.refused += 1;
                        thread::sleep(Duration::from_millis(1));
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            match ask(&mut stream, &key(number, seen.answers.len())) {
                Ok(Answer::Acknowledged) => {
                    seen.answers.push(now());
                    self.answered[number].fetch_add(1, Ordering::SeqCst);
                    match self.connect {
                        Connect::Once => connection = Some(stream),
                        // Nothing is left of it that would use up the ports.
                        Connect::EachTime => set_socket_linger(&stream, Some(Duration::ZERO))?,
                    }
                }
                Ok(Answer::Other) => seen.failed += 1,
                Err(error) if is_closed(&error) => {
                    seen.closed += 1;
                    seen.failed += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(seen)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }
}

enum Answer {
    Acknowledged,
    Other,
}

fn ask(stream: &mut TcpStream, key: &str) -> io::Result<Answer> {
    stream.write_all(format!("put {key} {VALUE}\n").as_bytes())?;
    let (mut reply, mut length) = ([0; 64], 0);
    while !reply[..length].ends_with(b"\n") {
        match stream.read(&mut reply[length..])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
    }
    Ok(if reply.starts_with(b"ok ") { Answer::Acknowledged } else { Answer::Other })
}

fn is_closed(error: &io::Error) -> bool {
    let kinds = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    kinds.contains(&error.kind())
}

/// How many of each client's first keys, all of which were acknowledged, are not in the log.
fn lost(acknowledged: &[usize], log: &Path) -> io::Result<u64> {
    let log = std::fs::read_to_string(log)?;
    let kept: HashSet<&str> =
        log.lines().filter_map(|line| Some(line.split_once(' ')?.0)).collect();
    let keys = acknowledged.iter().enumerate();
    let keys = keys.flat_map(|(number, count)| (0..*count).map(move |nth| key(number, nth)));
    Ok(keys.filter(|key| !kept.contains(key.as_str())).count() as u64)
}

fn key(client: usize, nth: usize) -> String {
    format!("{client}.{nth}")
}

pub(crate) const CLIENTS: usize = 8;
const VALUE: &str = "0123456789abcdef";
