//! Connections that outlive the process that serves them.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use handoff_tests::harness::{Cluster, LIMIT};

/// What one connection was answered, however many processes answered it.
struct Line {
    stream: BufReader<TcpStream>,
}

impl Line {
    fn open(cluster: &Cluster) -> Self {
        let stream = TcpStream::connect(cluster.address()).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("it can be set");
        Self { stream: BufReader::new(stream) }
    }

    fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).expect("the connection is open");
    }

    fn reply(&mut self) -> String {
        let mut reply = String::new();
        self.stream.read_line(&mut reply).expect("it answers");
        assert!(reply.ends_with('\n'), "the connection was closed behind {reply:?}");
        reply.trim_end().to_owned()
    }

    fn ask(&mut self, request: &str) -> String {
        self.send(&format!("{request}\n"));
        self.reply()
    }
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
    assert_eq!((cluster.tally().moved, cluster.tally().reset), (0, 0), "connections were closed");
    assert!(cluster.tally().written.len() > 5);
    cluster.assert_sound_at_rest();
}
