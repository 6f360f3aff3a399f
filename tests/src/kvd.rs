//! Clients of the example daemon `kvd` that write, one request at a time, and know what was acknowledged.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::harness::{TIMEOUT, eventually};

/// Some clients, each on a connection of its own until it breaks.
#[derive(Debug)]
pub struct Clients {
    port: u16,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Tally>>,
}

/// What one or all of them saw.
#[derive(Debug, Default)]
pub struct Tally {
    /// Keys, each written once, with itself as its value.
    pub acknowledged: Vec<String>,
    /// Requests that were not answered, and connections that could not be made: when, and why.
    pub failures: Vec<(Instant, String)>,
}

impl Clients {
    /// Starts that many, in the network of the calling thread.
    #[must_use]
    pub fn start(port: u16, count: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let acknowledged = Arc::<AtomicUsize>::default();
        let threads = (0..count)
            .map(|client| {
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                thread::spawn(move || write(port, client, &stop, &acknowledged))
            })
            .collect();
        Self { port, stop, acknowledged, threads }
    }

    /// Waits until each has had its turn again, more or less.
    pub fn wait_for_progress(&self) {
        let before = self.acknowledged.load(Ordering::SeqCst);
        let more = before + 4 * self.threads.len();
        eventually("the clients go on", TIMEOUT, || {
            (self.acknowledged.load(Ordering::SeqCst) >= more).then_some(())
        });
    }

    /// Ends them, and reads every acknowledged write back.
    ///
    /// # Panics
    ///
    /// When one is lost.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Tally::default();
        for thread in self.threads {
            let tally = thread.join().expect("a client does not panic");
            all.acknowledged.extend(tally.acknowledged);
            all.failures.extend(tally.failures);
        }
        all.assert_nothing_lost(self.port);
        all
    }
}

impl Tally {
    /// Reads every acknowledged write back.
    ///
    /// # Panics
    ///
    /// When one is lost.
    pub fn assert_nothing_lost(&self, port: u16) {
        let mut connection = Connection::to(port).expect("somebody listens");
        let read = |key: &String| connection.ask(&format!("GET {key}")).expect("it answers");
        let lost: Vec<&String> = {
            let mut read = read;
            self.acknowledged.iter().filter(|key| read(key) != **key).collect()
        };
        assert!(lost.is_empty(), "{} of {} are lost", lost.len(), self.acknowledged.len());
        assert!(!self.acknowledged.is_empty());
    }

    /// Only between the death of a daemon and the answers of the next one may a request fail.
    ///
    /// # Panics
    ///
    /// When one failed at another time.
    pub fn assert_failed_only_within(&self, windows: &[(Instant, Instant)]) {
        let is_excused = |at: &Instant| windows.iter().any(|(from, to)| from <= at && at <= to);
        let failed: Vec<&String> =
            self.failures.iter().filter(|(at, _)| !is_excused(at)).map(|(_, why)| why).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
}

fn write(port: u16, client: usize, stop: &AtomicBool, count: &AtomicUsize) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let key = format!("c{client}n{number}");
        let asked = match &mut connection {
            Some(connection) => Connection::ask(connection, &format!("SET {key} {key}")),
            none => Connection::to(port)
                .and_then(|new| none.insert(new).ask(&format!("SET {key} {key}"))),
        };
        match asked {
            Ok(reply) if reply == "OK" => {
                tally.acknowledged.push(key);
                count.fetch_add(1, Ordering::SeqCst);
            }
            Ok(reply) => tally.failures.push((Instant::now(), reply)),
            Err(error) => {
                tally.failures.push((Instant::now(), error.to_string()));
                connection = None;
            }
        }
    }
    tally
}

/// A connection to the daemon, on which one request is made at a time.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::connect`].
    pub fn to(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The first line of a simple reply, or the value of a string.
    ///
    /// # Errors
    ///
    /// What the stream says.
    pub fn ask(&mut self, command: &str) -> io::Result<String> {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        let first = self.line()?;
        if first.starts_with('$') && first != "$-1" { self.line() } else { Ok(first[1..].into()) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
