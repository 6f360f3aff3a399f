//! Connections and memory that outlive the process that has them.

mod faults;
mod kinds;
mod late;
mod leaks;
mod lost;
mod memory;
mod versions;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;

use handoff::supervisor::{Failed, IncumbentFate};
use handoff_tests::harness::{Cluster, SuccessorSpec, TIMEOUT, eventually};

/// What one connection was answered, however many processes answered it.
struct Line {
    stream: BufReader<TcpStream>,
}

impl Line {
    fn open(cluster: &Cluster) -> Self {
        let stream = TcpStream::connect(cluster.address()).expect("it listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("it can be set");
        Self { stream: BufReader::new(stream) }
    }

    fn name(&self) -> String {
        self.stream.get_ref().local_addr().expect("it is bound").to_string()
    }

    fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).expect("the connection is open");
    }

    fn reply(&mut self) -> String {
        let mut reply = String::new();
        self.stream.read_line(&mut reply).expect("it answers");
        assert!(reply.ends_with('\n'), "the connection was closed after {reply:?}");
        reply.trim_end().to_owned()
    }

    fn ask(&mut self, request: &str) -> String {
        self.send(&format!("{request}\n"));
        self.reply()
    }

    /// The answer; none where the connection was closed.
    fn try_ask(&mut self, request: &str) -> Option<String> {
        let mut reply = String::new();
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).ok()?;
        self.stream.read_line(&mut reply).ok()?;
        reply.strip_suffix('\n').map(str::to_owned)
    }

    /// Whether it was closed in order, with nothing more said; a reset is none.
    fn assert_closed(&mut self) {
        let mut rest = String::new();
        let read = self.stream.read_line(&mut rest);
        assert_eq!(read.map_err(|error| error.kind()), Ok::<_, ErrorKind>(0), "{rest:?}");
    }
}

/// Connections of which none may end: idle ones, and some with half a command sent.
struct OpenLines {
    idle: Vec<Line>,
    halves: Vec<Half>,
}

struct Half {
    line: Line,
    key: String,
    value: String,
}

impl OpenLines {
    /// Fifty idle ones, one with half a command.
    fn open(cluster: &Cluster) -> Self {
        Self::of(cluster, 50, &[4])
    }

    /// So many, one at least, and those whose commands are half sent with that many bytes of a value.
    fn of(cluster: &Cluster, idle: usize, halves: &[usize]) -> Self {
        let mut open_lines =
            Self { idle: (0..idle).map(|_| Line::open(cluster)).collect(), halves: vec![] };
        for line in &mut open_lines.idle {
            assert_eq!(line.ask("pid"), cluster.serving().to_string());
        }
        for (index, length) in halves.iter().enumerate() {
            let (key, value) = (format!("half.{index}"), "x".repeat(*length));
            let mut half = Half { line: Line::open(cluster), key, value };
            half.send_half();
            open_lines.halves.push(half);
        }
        open_lines.wait_until_read();
        open_lines
    }

    /// Waits until what is half sent is in the daemon's state. It asks over an idle one: another
    /// connection would be carried too while the daemon has not seen its end.
    fn wait_until_read(&mut self) {
        let length = |half: &Half| format!("put {} {}", half.key, half.value).len();
        let sent: usize = self.halves.iter().map(length).sum();
        let asking = &mut self.idle[0];
        eventually("the daemon reads what was half sent", TIMEOUT, || {
            (asking.ask("unparsed").parse::<usize>().ok()? >= sent).then_some(())
        });
    }

    /// How many connections there are, with the two that write.
    fn count(&self) -> usize {
        self.idle.len() + self.halves.len() + 2
    }

    /// Every one of them is open and answered by the process that was reported to serve, and
    /// what was half sent was put together.
    fn assert_served(&mut self, cluster: &Cluster) {
        let serving = cluster.serving().to_string();
        for line in &mut self.idle {
            assert_eq!(line.ask("pid"), serving);
        }
        for half in &mut self.halves {
            half.line.send("\n");
            let reply = half.line.reply();
            assert!(reply.starts_with("ok "), "{reply}");
            let value = half.line.ask(&format!("get {}", half.key));
            assert!(value == format!("value {}", half.value), "its request was put together");
            assert_eq!(half.line.ask("pid"), serving);
            half.send_half();
        }
        self.wait_until_read();
    }

    /// A swap fails, and nobody notices: the incumbent serves, with every connection.
    fn assert_swap_fails(&mut self, cluster: &mut Cluster, spec: &SuccessorSpec) -> Failed {
        let serving = cluster.serving();
        let failed = cluster.swap_to(spec).expect_err("it cannot be committed");
        assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
        assert_eq!(cluster.serving(), serving);
        self.assert_served(cluster);
        failed
    }

    /// Every connection goes on to one more process, and none was ever closed.
    fn assert_sound(mut self, mut cluster: Cluster, words: &[&str]) {
        cluster.swap(words).expect("it commits");
        self.assert_served(&cluster);
        cluster.wait_for_progress();
        cluster.stop_clients();
        assert_none_moved(&cluster);
        cluster.assert_sound_at_rest();
    }
}

impl Half {
    fn send_half(&mut self) {
        self.line.send(&format!("put {} {}", self.key, self.value));
    }
}

/// The connections of the clients that write were never closed.
fn assert_none_moved(cluster: &Cluster) {
    assert_eq!((cluster.tally().moved, cluster.tally().reset), (0, 0), "connections were closed");
    assert!(cluster.tally().written.len() > 5);
}

#[test]
fn connections_stay_open_through_commits_and_rollbacks() {
    let mut cluster = Cluster::start_carrying(&[]);
    let mut idle = Line::open(&cluster);
    assert!(idle.ask("put idle 1").starts_with("ok "));
    for faults in [&[][..], &["open=error"], &[], &["health=bad"], &[]] {
        let half = &mut Line::open(&cluster);
        half.send("put ha");
        assert_eq!(cluster.swap(faults).is_ok(), faults.is_empty());
        half.send("lf 2\n");
        assert!(half.reply().starts_with("ok "), "its request was put together");
        assert_eq!(idle.ask("pid"), cluster.serving().to_string());
    }
    cluster.stop_clients();
    assert_none_moved(&cluster);
    cluster.assert_sound_at_rest();
}

/// What is longer than a frame takes goes apart, in memory of its own.
#[test]
fn a_long_line_that_is_half_sent_goes_on_in_the_next_process() {
    let mut cluster = Cluster::start_carrying(&[]);
    let mut open_lines = OpenLines::of(&cluster, 3, &[4, 1 << 20, 20_000]);
    for faults in [&[][..], &["open=error"], &[]] {
        assert_eq!(cluster.swap(faults).is_ok(), faults.is_empty());
        open_lines.assert_served(&cluster);
        if faults.is_empty() {
            let clients = &cluster.carried.sets[0];
            assert!(clients.bytes > (1 << 20) + 20_000, "it was not in the state: {clients:?}");
        }
    }
    open_lines.assert_sound(cluster, &[]);
}
