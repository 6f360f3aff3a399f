//! The incumbent as a supervisor sees it: frames on its control socket, hooks behind it.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use handoff::frame::{read_message, write_message};
use handoff::protocol::{HandoffId, Message, PROTO_MAX, Side};
use handoff::{
    DataDirLock, DrainReport, Drainable, Error, Incumbent, Result, SealReport, StateSnapshot,
    StopHandle,
};

/// What a hook does when it is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Does {
    #[default]
    Works,
    Fails,
    Panics,
    /// Waits until it is interrupted, or released by the test.
    Blocks,
}

#[derive(Debug, Default)]
struct Script {
    calls: Vec<&'static str>,
    drain: Does,
    seal: Does,
    /// How often the resume fails before it works.
    resume_failures: u32,
    /// How often admitting fails before it works.
    admit_failures: u32,
    released: bool,
    snapshot: Does,
    open_conns: u32,
}

/// A daemon without data that does as it is told and remembers what it was asked.
#[derive(Debug, Clone, Default)]
struct Scripted(Arc<(Mutex<Script>, Condvar)>);

impl Scripted {
    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.0.0.lock().expect("not poisoned"));
        self.0.1.notify_all();
    }

    fn calls(&self) -> Vec<&'static str> {
        self.0.0.lock().expect("not poisoned").calls.clone()
    }

    fn wait_for(&self, call: &'static str, times: usize) {
        let done = |script: &mut Script| {
            script.calls.iter().filter(|other| **other == call).count() < times
        };
        let script = self.0.0.lock().expect("not poisoned");
        let (script, timeout) =
            self.0.1.wait_timeout_while(script, TIMEOUT, done).expect("not poisoned");
        assert!(!timeout.timed_out(), "{call} was not called {times} times: {:?}", script.calls);
    }

    fn call(&self, name: &'static str, does: Does) -> Result<()> {
        self.set(|script| script.calls.push(name));
        match does {
            Does::Works => Ok(()),
            Does::Fails => Err(std::io::Error::other(format!("{name} fails as scripted")).into()),
            Does::Panics => panic!("{name} panics as scripted"),
            Does::Blocks => {
                let script = self.0.0.lock().expect("not poisoned");
                let blocked = |script: &mut Script| !script.released;
                let (_script, timeout) =
                    self.0.1.wait_timeout_while(script, TIMEOUT, blocked).expect("not poisoned");
                assert!(!timeout.timed_out(), "{name} was never released");
                Ok(())
            }
        }
    }
}

impl Drainable for Scripted {
    fn drain(&self, _deadline: Instant) -> Result<DrainReport> {
        let does = self.0.0.lock().expect("not poisoned").drain;
        self.call("drain", does)?;
        Ok(DrainReport { open_conns_remaining: 2, accept_closed: true })
    }

    fn seal(&self) -> Result<SealReport> {
        let does = self.0.0.lock().expect("not poisoned").seal;
        self.call("seal", does)?;
        Ok(SealReport { last_revision_per_shard: vec![42], data_dir_fingerprint: [0xab; 32] })
    }

    fn resume_after_abort(&self) -> Result<()> {
        let mut failing = false;
        self.set(|script| {
            failing = script.resume_failures > 0;
            script.resume_failures = script.resume_failures.saturating_sub(1);
        });
        self.call("resume", if failing { Does::Fails } else { Does::Works })
    }

    fn snapshot_state(&self) -> StateSnapshot {
        let script = self.0.0.lock().expect("not poisoned");
        let (does, open_conns) = (script.snapshot, script.open_conns);
        drop(script);
        let _ = self.call("snapshot", does);
        StateSnapshot { open_conns, ..StateSnapshot::default() }
    }

    fn admit(&self) -> Result<()> {
        let mut failing = false;
        self.set(|script| {
            failing = script.admit_failures > 0;
            script.admit_failures = script.admit_failures.saturating_sub(1);
        });
        if failing { self.call("admit", Does::Fails) } else { Ok(()) }
    }

    fn interrupt(&self) {
        self.set(|script| script.released = true);
    }
}

/// A serving incumbent in a directory of its own.
struct Cluster {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    data_dir: PathBuf,
    daemon: Scripted,
    stop: StopHandle,
    serving: JoinHandle<Result<()>>,
}

impl Cluster {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("control.sock");
        let data_dir = directory.path().join("data");
        let lock = DataDirLock::acquire(&data_dir).expect("the lock is free");
        let incumbent = Incumbent::bind_cold_start(&socket, lock)
            .expect("the path is free")
            .with_build_id(b"build 1".to_vec());
        let daemon = Scripted::default();
        let (state, stop) = (daemon.clone(), incumbent.stop_handle());
        let serving = std::thread::spawn(move || incumbent.serve(state));
        Self { _directory: directory, socket, data_dir, daemon, stop, serving }
    }

    fn connect(&self) -> Supervisor {
        Supervisor::connect(&self.socket)
    }

    /// A session in which the drain is done.
    fn drained(&self, deadline_ms: u64) -> Supervisor {
        let mut supervisor = self.connect();
        supervisor.prepare(deadline_ms);
        let drained = Message::Drained { open_conns_remaining: 2, accept_closed: true };
        assert_eq!(supervisor.read(), drained);
        supervisor
    }

    fn sealed(&self, deadline_ms: u64) -> Supervisor {
        let mut supervisor = self.drained(deadline_ms);
        let handoff_id = supervisor.id;
        supervisor.say(&Message::SealRequest { handoff_id });
        assert!(matches!(supervisor.read(), Message::SealComplete { .. }));
        supervisor
    }

    fn assert_lock_is_held(&self) {
        match DataDirLock::acquire(&self.data_dir) {
            Err(Error::LockHeld { holder_pid, .. }) => assert_eq!(holder_pid, std::process::id()),
            other => panic!("{other:?}"),
        }
    }

    /// What has to hold after every undo: it serves, it is the writer, it can be swapped.
    fn assert_serves_and_can_be_swapped(self) {
        let supervisor = self.connect();
        supervisor.assert_answers();
        self.assert_lock_is_held();
        let mut supervisor = self.sealed(60_000);
        let handoff_id = supervisor.id;
        supervisor.say(&Message::Commit { handoff_id });
        self.serving.join().expect("it does not panic").expect("it was replaced");
        DataDirLock::acquire(&self.data_dir).expect("it let the lock go");
    }
}

/// The supervisor's end of a control connection.
struct Supervisor {
    stream: UnixStream,
    id: HandoffId,
}

impl Supervisor {
    fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).expect("it listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("it can be set");
        match read_message(&mut stream).expect("it says hello") {
            (_, Message::Hello { role, pid, build_id, .. }) => {
                assert_eq!((role, pid), (Side::Incumbent, std::process::id()));
                assert_eq!(build_id, b"build 1");
            }
            (_, other) => panic!("{other:?}"),
        }
        let id = HandoffId::new();
        let ack = Message::HelloAck { proto_version_chosen: PROTO_MAX, handoff_id: id };
        write_message(&mut stream, PROTO_MAX, &ack).expect("it reads");
        Self { stream, id }
    }

    fn say(&mut self, message: &Message) {
        write_message(&mut self.stream, PROTO_MAX, message).expect("it reads");
    }

    fn prepare(&mut self, deadline_ms: u64) {
        self.say(&Message::PrepareHandoff {
            handoff_id: self.id,
            successor_pid: 0,
            deadline_ms,
            drain_grace_ms: 10_000,
        });
    }

    /// The next message that is no sign of life.
    fn read(&mut self) -> Message {
        loop {
            match read_message(&mut self.stream).expect("it goes on").1 {
                Message::Heartbeat { ts_ms: 0 } => {}
                message => return message,
            }
        }
    }

    /// The next that is not about a drain that runs, however many of those there are.
    fn read_after_looks(&mut self) -> Message {
        let is_a_look = |message: &Message| matches!(message, Message::Draining { .. });
        std::iter::repeat_with(|| self.read()).find(|message| !is_a_look(message)).expect("endless")
    }

    fn assert_closed(&mut self) {
        loop {
            match read_message(&mut self.stream) {
                Ok((_, Message::Heartbeat { .. })) => {}
                Ok(message) => panic!("not closed: {message:?}"),
                Err(Error::Io(error)) => {
                    use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
                    assert!(matches!(error.kind(), ConnectionReset | UnexpectedEof), "{error}");
                    return;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// It echoes a heartbeat, in order: so it is done with all that was said before.
    fn assert_answers(mut self) -> Self {
        let value = Message::Heartbeat { ts_ms: 0x5eed };
        self.say(&value);
        assert_eq!(self.read(), value);
        self
    }

    fn assert_resumes(mut self) -> Self {
        let handoff_id = self.id;
        self.say(&Message::ResumeAfterAbort { handoff_id });
        self.assert_answers()
    }
}

#[test]
fn a_swap_runs_to_its_end_and_resumes_nothing() {
    let cluster = Cluster::start();
    let mut supervisor = cluster.drained(60_000);
    assert_eq!(cluster.daemon.calls(), ["drain"]);
    cluster.assert_lock_is_held();
    let handoff_id = supervisor.id;
    supervisor.say(&Message::SealRequest { handoff_id });
    assert_eq!(
        supervisor.read(),
        Message::SealComplete {
            handoff_id,
            last_revision_per_shard: vec![42],
            data_dir_fingerprint: [0xab; 32]
        }
    );
    drop(DataDirLock::acquire(&cluster.data_dir).expect("the lock is free once it is sealed"));
    supervisor.say(&Message::Commit { handoff_id });
    cluster.serving.join().expect("it does not panic").expect("it was replaced");
    assert_eq!(cluster.daemon.calls(), ["drain", "seal"]);
}

#[test]
fn while_a_drain_takes_long_it_is_told_what_is_open() {
    let cluster = Cluster::start();
    cluster.daemon.set(|script| (script.drain, script.open_conns) = (Does::Blocks, 3));
    let mut supervisor = cluster.connect();
    let begun = Instant::now();
    supervisor.prepare(60_000);
    for open_conns in [3, 2] {
        let (handoff_id, connections) = (supervisor.id, Vec::new());
        let draining = Message::Draining { handoff_id, open_conns, connections, unnamed: 0 };
        assert_eq!(supervisor.read(), draining);
        cluster.daemon.set(|script| script.open_conns -= 1);
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    cluster.daemon.set(|script| script.released = true);
    let drained = Message::Drained { open_conns_remaining: 2, accept_closed: true };
    assert_eq!(supervisor.read(), drained);
    let supervisor = supervisor.assert_resumes();
    assert_eq!(cluster.daemon.calls(), ["drain", "snapshot", "snapshot", "resume"]);
    drop(supervisor);
    cluster.daemon.set(|script| script.drain = Does::Works);
    cluster.assert_serves_and_can_be_swapped();
}

#[test]
fn nobody_waits_for_a_look_that_blocks_or_panics_and_there_is_no_other() {
    for does in [Does::Blocks, Does::Panics] {
        let cluster = Cluster::start();
        cluster.daemon.set(|script| (script.drain, script.snapshot) = (Does::Blocks, does));
        let mut supervisor = cluster.connect();
        supervisor.prepare(60_000);
        cluster.daemon.wait_for("snapshot", 1);
        let looked = Instant::now();
        while looked.elapsed() < Duration::from_millis(1500) {
            supervisor = supervisor.assert_answers();
        }
        cluster.daemon.set(|script| script.released = true);
        let drained = Message::Drained { open_conns_remaining: 2, accept_closed: true };
        // A look that had blocked may end before the drain.
        assert_eq!(supervisor.read_after_looks(), drained);
        assert_eq!(cluster.daemon.calls(), ["drain", "snapshot"]);
        drop(supervisor.assert_resumes());
        cluster.daemon.set(|script| script.drain = Does::Works);
        cluster.assert_serves_and_can_be_swapped();
    }
}

#[test]
fn a_failed_drain_is_undone_before_it_is_told() {
    for does in [Does::Fails, Does::Panics] {
        let cluster = Cluster::start();
        cluster.daemon.set(|script| script.drain = does);
        let mut supervisor = cluster.connect();
        supervisor.prepare(60_000);
        match supervisor.read() {
            Message::SealFailed { handoff_id, error, .. } => {
                assert_eq!(handoff_id, supervisor.id);
                assert!(error.contains("as scripted"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(cluster.daemon.calls(), ["drain", "resume"]);
        cluster.daemon.set(|script| script.drain = Does::Works);
        cluster.assert_serves_and_can_be_swapped();
    }
}

#[test]
fn a_failed_seal_is_undone_before_it_is_told_and_the_session_goes_on() {
    for does in [Does::Fails, Does::Panics] {
        let cluster = Cluster::start();
        cluster.daemon.set(|script| script.seal = does);
        let mut supervisor = cluster.drained(60_000);
        let handoff_id = supervisor.id;
        supervisor.say(&Message::SealRequest { handoff_id });
        assert!(matches!(supervisor.read(), Message::SealFailed { .. }));
        assert_eq!(cluster.daemon.calls(), ["drain", "seal", "resume"]);
        cluster.assert_lock_is_held();
        cluster.daemon.set(|script| script.seal = Does::Works);
        supervisor.id = HandoffId::new();
        supervisor.prepare(60_000);
        assert!(matches!(supervisor.read(), Message::Drained { .. }));
        drop(supervisor);
        cluster.assert_serves_and_can_be_swapped();
    }
}

#[test]
fn a_lost_supervisor_is_undone_in_every_phase() {
    let cluster = Cluster::start();
    drop(cluster.drained(60_000));
    cluster.daemon.wait_for("resume", 1);
    drop(cluster.sealed(60_000));
    cluster.daemon.wait_for("resume", 2);
    cluster.daemon.set(|script| script.drain = Does::Blocks);
    let mut supervisor = cluster.connect();
    supervisor.prepare(60_000);
    cluster.daemon.wait_for("drain", 3);
    drop(supervisor); // the drain is interrupted, or it would outlast the test's timeout
    cluster.daemon.wait_for("resume", 3);
    cluster.daemon.set(|script| script.drain = Does::Works);
    cluster.assert_serves_and_can_be_swapped();
}

#[test]
fn an_abort_is_confirmed_in_every_phase() {
    let cluster = Cluster::start();
    cluster.drained(60_000).assert_resumes();
    assert_eq!(cluster.daemon.calls(), ["drain", "resume"]);
    cluster.sealed(60_000).assert_resumes();
    assert_eq!(cluster.daemon.calls(), ["drain", "resume", "drain", "seal", "resume"]);
    cluster.connect().assert_resumes();
    assert_eq!(cluster.daemon.calls().len(), 5, "nothing was to be undone");
    cluster.assert_serves_and_can_be_swapped();
}

#[test]
fn a_resume_is_tried_until_it_works_and_only_then_confirmed() {
    let cluster = Cluster::start();
    cluster.daemon.set(|script| script.resume_failures = 3);
    cluster.sealed(60_000).assert_resumes();
    assert_eq!(cluster.daemon.calls(), ["drain", "seal", "resume", "resume", "resume", "resume"]);
    cluster.assert_serves_and_can_be_swapped();
}

#[test]
fn what_was_resumed_is_not_resumed_again_because_admitting_fails() {
    let cluster = Cluster::start();
    cluster.connect().assert_answers(); // its first admission is over
    cluster.daemon.set(|script| script.admit_failures = 2);
    cluster.sealed(60_000).assert_resumes();
    assert_eq!(cluster.daemon.calls(), ["drain", "seal", "resume", "admit", "admit"]);
    cluster.assert_serves_and_can_be_swapped();
}

#[test]
fn the_control_socket_s_path_is_taken_back_from_a_dead_successor() {
    let cluster = Cluster::start();
    let supervisor = cluster.sealed(60_000);
    let beside = cluster.data_dir.join("successor.sock");
    drop(UnixListener::bind(&beside).expect("it is free"));
    std::fs::rename(&beside, &cluster.socket).expect("it can be renamed over");
    assert!(UnixStream::connect(&cluster.socket).is_err(), "nobody listens there");
    supervisor.assert_resumes();
    cluster.assert_serves_and_can_be_swapped();
}

#[test]
fn a_supervisor_that_is_there_has_the_word_although_a_newer_generation_serves() {
    let cluster = Cluster::start();
    let mut supervisor = cluster.sealed(200);
    let lock = DataDirLock::acquire(&cluster.data_dir).expect("it was released");
    let newer = Incumbent::bind_cold_start(&cluster.data_dir.join("newer.sock"), lock)
        .expect("the path is free");
    let stop = newer.stop_handle();
    let newer = std::thread::spawn(move || newer.serve(Scripted::default()));
    // It beats while it waits for the lock: the deadline has passed, and it has not left.
    let beat = read_message(&mut supervisor.stream).expect("it goes on").1;
    assert_eq!(beat, Message::Heartbeat { ts_ms: 0 });
    assert!(!cluster.serving.is_finished());
    drop(supervisor);
    cluster.serving.join().expect("it does not panic").expect("it was replaced");
    assert_eq!(cluster.daemon.calls(), ["drain", "seal"]);
    stop.stop();
    newer.join().expect("it does not panic").expect("it stops");
}

#[test]
fn a_stop_is_told_to_whoever_is_about_to_swap() {
    let cluster = Cluster::start();
    let mut supervisor = cluster.connect().assert_answers();
    cluster.stop.stop();
    match supervisor.read() {
        Message::Abort { handoff_id, reason } => {
            assert_eq!(handoff_id, supervisor.id);
            assert!(reason.contains("stop"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    cluster.serving.join().expect("it does not panic").expect("it stops");
    assert_eq!(cluster.daemon.calls(), ["drain", "snapshot", "seal"]);
    DataDirLock::acquire_or_break_stale(&cluster.data_dir).expect("it let the lock go");
}

#[test]
fn the_lease_undoes_at_the_deadline_although_the_supervisor_is_connected() {
    let cluster = Cluster::start();
    let mut supervisor = cluster.sealed(200);
    cluster.daemon.wait_for("resume", 1);
    match supervisor.read() {
        Message::Abort { handoff_id, .. } => assert_eq!(handoff_id, supervisor.id),
        other => panic!("{other:?}"),
    }
    let mut supervisor = cluster.drained(200);
    assert!(matches!(supervisor.read(), Message::Abort { .. }));
    cluster.daemon.set(|script| script.drain = Does::Blocks);
    let mut supervisor = cluster.connect();
    supervisor.prepare(200);
    assert!(matches!(supervisor.read(), Message::Abort { .. }));
    cluster.daemon.set(|script| script.drain = Does::Works);
    cluster.assert_serves_and_can_be_swapped();
}

#[test]
fn a_hook_that_takes_long_is_accompanied_by_signs_of_life() {
    let cluster = Cluster::start();
    cluster.daemon.set(|script| script.drain = Does::Blocks);
    let mut supervisor = cluster.connect();
    supervisor.prepare(60_000);
    let first = read_message(&mut supervisor.stream).expect("it goes on").1;
    assert_eq!(first, Message::Heartbeat { ts_ms: 0 });
    cluster.daemon.set(|script| script.released = true);
    assert!(matches!(supervisor.read_after_looks(), Message::Drained { .. }));
    drop(supervisor);
    cluster.daemon.wait_for("resume", 1);
}

#[test]
fn a_message_out_of_order_closes_the_session_after_undoing() {
    let id = HandoffId::new();
    let wrong: [fn(HandoffId) -> Message; 4] = [
        |_| Message::SealRequest { handoff_id: HandoffId::new() },
        |handoff_id| Message::Commit { handoff_id },
        |handoff_id| Message::Begin { handoff_id },
        |_| Message::Abort { handoff_id: HandoffId::new(), reason: "of another".into() },
    ];
    let cluster = Cluster::start();
    for (index, wrong) in wrong.into_iter().enumerate() {
        let mut supervisor = cluster.drained(60_000);
        let message = wrong(supervisor.id);
        supervisor.say(&message);
        supervisor.assert_closed();
        cluster.daemon.wait_for("resume", index + 1);
    }
    for message in [
        Message::SealRequest { handoff_id: id },
        Message::Commit { handoff_id: id },
        Message::Serving { handoff_id: id, generation: 1 },
        Message::HelloAck { proto_version_chosen: 1, handoff_id: id },
    ] {
        let mut supervisor = cluster.connect();
        supervisor.say(&message);
        supervisor.assert_closed();
    }
    cluster.assert_serves_and_can_be_swapped();
}

#[test]
fn silent_peers_keep_nobody_out() {
    let cluster = Cluster::start();
    let silent: Vec<_> =
        (0..300).map(|_| UnixStream::connect(&cluster.socket).expect("it listens")).collect();
    let begun = Instant::now();
    drop(cluster.drained(60_000));
    cluster.daemon.wait_for("resume", 1);
    assert!(begun.elapsed() < handoff_liveness(), "the silent ones were waited for");
    drop(silent);
    cluster.assert_serves_and_can_be_swapped();
}

#[test]
fn a_second_supervisor_is_told_whose_swap_is_in_flight() {
    let cluster = Cluster::start();
    let first = cluster.drained(60_000);
    let mut second = cluster.connect();
    second.prepare(60_000);
    match second.read() {
        Message::Abort { handoff_id, reason } => {
            assert_eq!(handoff_id, second.id);
            assert!(reason.contains(&first.id.to_string()), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    second.assert_closed();
    first.assert_resumes();
    assert_eq!(cluster.daemon.calls(), ["drain", "resume"]);
    cluster.assert_serves_and_can_be_swapped();
}

#[test]
fn bytes_that_are_no_frame_end_the_session_alone() {
    use std::io::Write;
    let cluster = Cluster::start();
    for bytes in
        [&[0xff; 64][..], &[1, 0, 0, 0, 9], &[0, 0, 16, 0, 1, 0], b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut supervisor = cluster.connect();
        supervisor.stream.write_all(bytes).expect("it reads");
        supervisor.stream.shutdown(std::net::Shutdown::Write).expect("it is open");
        supervisor.assert_closed();
    }
    let mut supervisor = cluster.connect();
    write_message(&mut supervisor.stream, 7, &Message::Heartbeat { ts_ms: 1 }).expect("it reads");
    supervisor.assert_closed();
    cluster.assert_serves_and_can_be_swapped();
}

const TIMEOUT: Duration = Duration::from_secs(30);

/// The timeout after which a silent peer is dropped; what is done sooner did not wait for one.
fn handoff_liveness() -> Duration {
    Duration::from_secs(5)
}
