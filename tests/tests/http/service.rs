//! The service, its supervisor, and a client by hand.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use handoff::supervisor::{
    CarryReport, ChildProcess, Committed, Failed, HandoffOutcome, IncumbentFate, Timings,
};
use handoff::{SpawnSpec, Supervisor};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) type Certificate = rcgen::CertifiedKey<rcgen::KeyPair>;

/// A service that runs, in a directory of its own.
pub(crate) struct Service {
    supervisor: Supervisor,
    pub(crate) address: SocketAddr,
    serving: Option<ChildProcess>,
    replaced: Vec<ChildProcess>,
    binary: PathBuf,
    /// Of each process.
    words: Vec<String>,
    directory: tempfile::TempDir,
}

impl Service {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(words: &[&str]) -> Self {
        Self::start_binary(env!("CARGO_BIN_EXE_fixture-http").as_ref(), words)
    }

    pub(crate) fn start_binary(binary: &Path, words: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut service = Self::new(binary, directory, &[]);
        service.begin(words);
        service
    }

    /// One that speaks TLS, with that certificate.
    pub(crate) fn start_tls(certificate: &Certificate) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut service =
            Self::new(env!("CARGO_BIN_EXE_fixture-http").as_ref(), directory, &["tls"]);
        service.place(certificate);
        service.begin(&[]);
        service
    }

    /// One of which each process gets these words.
    pub(crate) fn start_always(words: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut service = Self::new(env!("CARGO_BIN_EXE_fixture-http").as_ref(), directory, words);
        service.begin(&[]);
        service
    }

    /// Puts a certificate in its place.
    pub(crate) fn place(&self, certificate: &Certificate) {
        std::fs::write(self.path("control.cert"), certificate.cert.der()).expect("it is written");
        let key = certificate.signing_key.serialize_der();
        std::fs::write(self.path("control.key"), key).expect("it is written");
    }

    fn new(binary: &Path, directory: tempfile::TempDir, words: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("it binds");
        listener.set_nonblocking(true).expect("it is a socket");
        let address = listener.local_addr().expect("it is bound");
        let supervisor = Supervisor::new(&directory.path().join("control")).expect("it binds");
        let supervisor = supervisor.with_listener("http", listener);
        let (serving, replaced) = (None, Vec::new());
        let binary = binary.to_owned();
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { supervisor, address, serving, replaced, binary, words, directory }
    }

    fn begin(&mut self, words: &[&str]) {
        let spec = self.spec(words);
        self.serving = Some(self.supervisor.start(&spec).expect("it starts"));
    }

    fn spec(&self, words: &[&str]) -> SpawnSpec {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let mut args = vec![path("control"), path("data")];
        args.extend(self.words.iter().cloned());
        args.extend(words.iter().map(|word| (*word).to_owned()));
        SpawnSpec { args, ..SpawnSpec::new(&self.binary) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.serving.as_ref().expect("one serves").pid()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Swaps the service; the new process serves.
    pub(crate) fn swap(&mut self) -> (CarryReport, Timings) {
        self.swap_to(&[])
    }

    /// The same, to a process that gets these words as well.
    pub(crate) fn swap_to(&mut self, words: &[&str]) -> (CarryReport, Timings) {
        match self.supervisor.perform_handoff(self.spec(words)).expect("it begins") {
            HandoffOutcome::Committed(Committed { successor, carried, timings, .. }) => {
                self.replaced.extend(self.serving.replace(successor));
                (carried, timings)
            }
            HandoffOutcome::Failed(failed) => panic!("{failed}"),
        }
    }

    /// A swap that is rolled back once the new process has opened the data.
    pub(crate) fn roll_back(&mut self) -> Failed {
        match self.supervisor.perform_handoff(self.spec(&["unhealthy"])).expect("it begins") {
            HandoffOutcome::Failed(failed) => {
                assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
                failed
            }
            HandoffOutcome::Committed(_) => panic!("it is unhealthy"),
        }
    }

    /// A swap that the supervisor undoes once the new process has opened the data.
    pub(crate) fn undo(&mut self) {
        let session = self.supervisor.pair(self.spec(&[])).expect("it begins");
        let ready = || session.warm()?.prepare_and_seal()?.begin();
        let ready = ready().expect("it opens the data");
        assert_eq!(ready.abort("a test").incumbent, IncumbentFate::Serving);
    }

    /// Twenty swaps of which two are rolled back and none leaves a connection behind; so many more replies
    /// have come before each.
    pub(crate) fn twenty_swaps(
        &mut self,
        replies: &AtomicU64,
        more: u64,
        mut look: impl FnMut(&CarryReport),
    ) {
        for swap in 1..=20 {
            let before = replies.load(Ordering::SeqCst);
            let are_more = || replies.load(Ordering::SeqCst) > before + more;
            eventually("the clients are answered", are_more);
            if swap % 10 == 7 {
                self.roll_back();
            } else {
                let (carried, _) = self.swap();
                assert_eq!(carried.late.connections, [""; 0]);
                look(&carried);
            }
        }
    }

    /// A swap that leaves no connection behind.
    pub(crate) fn swap_all(&mut self) {
        let (carried, _) = self.swap();
        assert_eq!(carried.late.connections, [""; 0]);
    }

    pub(crate) fn roll_back_all(&mut self) {
        drop(self.roll_back());
    }

    /// Waits until the process that serves has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let serving = self.serving.as_mut().expect("one serves");
        let ended = serving.wait_until(Instant::now() + TIMEOUT).expect("it is a child");
        ended.expect("it ends")
    }

    /// Waits until the processes that were replaced have ended.
    pub(crate) fn wait_replaced(&mut self) {
        for mut process in self.replaced.drain(..) {
            let ended = process.wait_until(Instant::now() + TIMEOUT).expect("it is a child");
            assert!(ended.is_some_and(|status| status.success()), "it ends well");
        }
    }

    /// The connections that all processes of the service have accepted, and the requests that they have
    /// begun; but for those of a call of this.
    pub(crate) fn counts(&mut self) -> [u64; 2] {
        self.wait_replaced();
        let now = self.connect().ask("GET /counts HTTP/1.1\r\nHost: a\r\n\r\n");
        let (now, before) = (counts_of(&now.body), self.written_counts());
        [now[0] - 1 + before[0], now[1] + before[1]]
    }

    /// The same, of a service that is stopped for it.
    pub(crate) fn counts_at_the_end(&mut self) -> [u64; 2] {
        self.wait_replaced();
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("it is a process");
        kill_process(pid, Signal::TERM).expect("it is there");
        assert!(self.ended().success());
        self.written_counts()
    }

    /// Of the processes that have ended.
    fn written_counts(&self) -> [u64; 2] {
        let entries = std::fs::read_dir(self.directory.path()).expect("it is there");
        let before = entries.filter_map(|entry| {
            let path = entry.expect("it is read").path();
            let is_count = path.to_string_lossy().contains(".counts.");
            is_count.then(|| counts_of(&std::fs::read_to_string(path).expect("it is there")))
        });
        before.fold([0, 0], |sum, count| [sum[0] + count[0], sum[1] + count[1]])
    }

    /// The connections that the service has now.
    #[cfg(feature = "http-tools")]
    pub(crate) fn connections(&self) -> u64 {
        let ask = "GET /connections HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        self.connect().ask(ask).body.parse::<u64>().expect("it is a count") - 1
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for mut process in self.serving.take().into_iter().chain(self.replaced.drain(..)) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A connection of HTTP/1.1 whose bytes the test writes.
pub(crate) struct Client<T = TcpStream>(BufReader<T>);

/// A reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) closes: bool,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).expect("a listener is there");
        tcp.set_read_timeout(Some(TIMEOUT)).expect("it is a socket");
        tcp.set_nodelay(true).expect("it is a socket");
        Self(BufReader::new(tcp))
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        self.0.get_ref()
    }
}

impl<T: Read + Write> Client<T> {
    pub(crate) fn over(transport: T) -> Self {
        Self(BufReader::new(transport))
    }

    pub(crate) fn transport_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }

    pub(crate) fn transport(&self) -> &T {
        self.0.get_ref()
    }

    pub(crate) fn reader(&mut self) -> impl Read {
        &mut self.0
    }

    pub(crate) fn send(&mut self, bytes: &str) {
        self.send_bytes(bytes.as_bytes());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the connection is open");
    }

    pub(crate) fn ask(&mut self, request: &str) -> Reply {
        self.send(request);
        self.reply().expect("it is answered")
    }

    /// The process that answers.
    pub(crate) fn pid(&mut self) -> u32 {
        let Reply { status, body, closes } = self.ask(PID);
        assert!(status == 200 && !closes);
        body.parse().expect("it is a pid")
    }

    /// Reads a whole reply, without those of status 100.
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.ok_or_else(|| broken(&line))?;
        let (mut length, mut is_chunked, mut closes) = (0, false, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => {
                    length = value.parse().map_err(|_| broken(value))?;
                }
                Some(("transfer-encoding", "chunked")) => is_chunked = true,
                Some(("connection", "close")) => closes = true,
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        if status == 100 {
            return self.reply();
        }
        let mut body = String::new();
        if is_chunked {
            while let Some(chunk) = self.chunk()? {
                let _ = write!(body, "{chunk}");
            }
        } else {
            body = self.bytes(length)?;
        }
        Ok(Reply { status, body, closes })
    }

    /// The next line, without its end.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// The next chunk of a reply; none at its end.
    pub(crate) fn chunk(&mut self) -> io::Result<Option<String>> {
        let size = usize::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
        let chunk = self.bytes(size)?;
        self.line()?;
        Ok((size > 0).then_some(chunk))
    }

    fn bytes(&mut self, length: usize) -> io::Result<String> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }

    /// The service closes the connection, and has sent nothing more.
    pub(crate) fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest).map_err(|error| error.kind());
        assert!(matches!(read, Ok(0) | Err(io::ErrorKind::ConnectionReset)), "{rest:?}");
    }
}

fn counts_of(text: &str) -> [u64; 2] {
    let counts = text.split(' ').map(|count| count.parse().expect("it is a count"));
    counts.collect::<Vec<_>>().try_into().expect("there are two")
}

/// Waits until it is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The first bytes of HTTP/2.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const PID: &str = "GET /pid HTTP/1.1\r\nHost: a\r\n\r\n";
/// What nothing takes longer than.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
