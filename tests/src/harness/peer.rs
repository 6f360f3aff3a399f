//! Peers of the control socket that are no supervisor, and what the daemon thinks of them.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use handoff::Error;
use handoff::frame::{read_message, write_message};
use handoff::protocol::{HandoffId, Message, PROTO_MAX, Side};

use super::process::{eventually, executable};
use super::{Cluster, TIMEOUT};

/// A connection to the control socket, on which anything can be said.
#[derive(Debug)]
pub struct Peer {
    /// As it came.
    pub stream: UnixStream,
    /// What it calls its swap.
    pub id: HandoffId,
}

impl Peer {
    /// Connects, and reads the hello.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn connect(control: &Path) -> Self {
        let stream = UnixStream::connect(control).expect("it listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("it can be set");
        stream.set_write_timeout(Some(TIMEOUT)).expect("it can be set");
        let mut peer = Self { stream, id: HandoffId::new() };
        match peer.read() {
            Some(Message::Hello { role: Side::Incumbent, .. }) => peer,
            other => panic!("no hello of an incumbent: {other:?}"),
        }
    }

    /// Connects, and answers the hello as a supervisor does, for this swap.
    #[must_use]
    pub fn greeted(control: &Path, id: HandoffId) -> Self {
        let mut peer = Self::connect(control);
        peer.id = id;
        peer.say(&[Message::HelloAck { proto_version_chosen: PROTO_MAX, handoff_id: id }]);
        peer
    }

    /// Says these in one go; a daemon that has closed the connection does not hear them.
    pub fn say(&mut self, messages: &[Message]) {
        self.send(&frames(messages));
    }

    /// Sends bytes, as far as the daemon takes them before it closes the connection.
    ///
    /// # Panics
    ///
    /// When it neither takes them nor closes.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            assert!(is_closed(&error), "it neither reads nor closes: {error}");
        }
    }

    /// Says nothing more.
    pub fn end(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// What it says next that is no sign of life; none once it has closed the connection.
    ///
    /// # Panics
    ///
    /// When it does neither.
    pub fn read(&mut self) -> Option<Message> {
        loop {
            match read_message(&mut self.stream) {
                Ok((_, Message::Heartbeat { ts_ms: 0 })) => {}
                Ok((_, message)) => return Some(message),
                Err(Error::Io(error)) if is_closed(&error) => return None,
                Err(other) => panic!("it neither answers nor closes: {other}"),
            }
        }
    }

    /// Whether it is done with all that was said, and has not closed the connection.
    pub fn is_heard(&mut self) -> bool {
        let value = Message::Heartbeat { ts_ms: 0x5eed };
        self.say(std::slice::from_ref(&value));
        std::iter::from_fn(|| self.read()).any(|said| said == value)
    }

    /// Reads until it says that.
    ///
    /// # Panics
    ///
    /// When it closes the connection instead.
    pub fn wait_for(&mut self, message: &str) {
        while self.read().expect("it answers").name() != message {}
    }

    /// Asserts that it closes the connection.
    pub fn assert_refused(&mut self) {
        while self.read().is_some() {}
    }
}

/// Not by closing alone: a child that another thread is just starting has a copy of it.
impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn is_closed(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Messages as they are on the wire.
pub(super) fn frames(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        write_message(&mut bytes, PROTO_MAX, message).expect("it is short enough");
    }
    bytes
}

/// A process that has connections to the control socket without being a supervisor.
#[derive(Debug)]
pub struct Hostile {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Hostile {
    /// Starts it with what it is to do.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start(cluster: &Cluster, args: &[&str]) -> Self {
        Self::run(Command::new(executable("fixture-hostile")), cluster, args)
    }

    /// Starts it as another user, for whom the cluster's directory is open.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start_as(uid: u32, cluster: &Cluster, args: &[&str]) -> Self {
        let program = cluster.state().join("fixture-hostile");
        // By another process: a descriptor of ours, in a child of another thread, is a busy file.
        let copied = Command::new("cp").arg(executable("fixture-hostile")).arg(&program).status();
        assert!(copied.expect("there is a cp").success());
        let mut command = Command::new(program);
        command.uid(uid);
        Self::run(command, cluster, args)
    }

    fn run(mut command: Command, cluster: &Cluster, args: &[&str]) -> Self {
        command.arg(cluster.control()).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let says = BufReader::new(child.stdout.take().expect("it was piped"));
        Self { child, says }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it says next.
    ///
    /// # Panics
    ///
    /// When it says nothing more.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("it is text");
        assert_eq!(line.pop(), Some('\n'), "it ended");
        line
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cluster {
    /// The lines of the daemons' log in which all of these words stand.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn logged(&self, words: &[&str]) -> Vec<String> {
        let log = fs::read(self.state().join("stderr")).expect("it can be read");
        let log = String::from_utf8_lossy(&log);
        let all = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().filter(all).map(str::to_owned).collect()
    }

    /// Waits until such a line stands in the log.
    pub fn wait_logged(&self, words: &[&str]) {
        let logged = || (!self.logged(words).is_empty()).then_some(());
        eventually(&format!("{words:?} stands in the log"), TIMEOUT, logged);
    }

    /// How many refusals the log tells of, one by one or by their count.
    ///
    /// # Panics
    ///
    /// When it has another form.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        let counted = self.logged(&["logged no more of these", "refusals"]);
        let count = |line: &String| -> Option<u64> {
            line.split_once("count=")?.1.split(' ').next()?.parse().ok()
        };
        let counted: u64 = counted.iter().map(|line| count(line).expect("a count")).sum();
        counted + self.logged(&["WARN", "refusing a"]).len() as u64
    }

    /// How many descriptors the process that serves has.
    ///
    /// # Panics
    ///
    /// When it is gone.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.serving())).expect("it lives").count()
    }

    /// Waits until the process that serves has no more descriptors than that.
    pub fn wait_for_descriptors(&self, max: usize) {
        let few = || (self.descriptors() <= max).then_some(());
        eventually(&format!("it has {max} descriptors again"), TIMEOUT, few);
    }

    /// The most memory that the process that serves has had, in bytes.
    ///
    /// # Panics
    ///
    /// When the kernel does not tell.
    #[must_use]
    pub fn peak_memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.serving()));
        let status = status.expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number.and_then(|number| number.parse::<usize>().ok()).expect("the kernel tells") << 10
    }
}
