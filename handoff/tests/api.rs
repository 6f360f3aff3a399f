//! The names that other code is written against: it compiles only while they stay as they are.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use handoff::frame::{read_message, write_message};
use handoff::protocol::{
    Capabilities, Message, PROTO_MAX, PROTO_MIN, ProtoVersion, Side, negotiate_version,
};
use handoff::supervisor::{Committed, Failed, Paired, Prepared, Ready, RolledBack, Sealed, Warmed};
use handoff::{
    DataDirLock, DrainReport, Drainable, Error, HandoffId, Incumbent, ReadinessSnapshot, Result,
    SealReport, Session, SpawnSpec, StateSnapshot, Supervisor,
};

/// The four hooks that have to be written, and no other.
struct Still;

impl Drainable for Still {
    fn drain(&self, _deadline: Instant) -> Result<DrainReport> {
        Ok(DrainReport { open_conns_remaining: 0, accept_closed: true })
    }

    fn seal(&self) -> Result<SealReport> {
        Ok(SealReport { last_revision_per_shard: vec![1], data_dir_fingerprint: [0; 32] })
    }

    fn resume_after_abort(&self) -> Result<()> {
        // What a system call says goes into the library's error by `?`.
        Err(io::Error::other("nothing is sealed"))?
    }

    fn snapshot_state(&self) -> StateSnapshot {
        StateSnapshot { shard_count: 1, open_conns: 0, last_revision_per_shard: vec![1] }
    }
}

#[test]
fn a_daemon_is_bound_under_the_lock_and_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let lock = DataDirLock::acquire(&data).expect("it is created and free");
    match DataDirLock::acquire(&data) {
        Err(Error::LockHeld { holder_pid, .. }) => assert_eq!(holder_pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    drop(lock);
    let lock = DataDirLock::acquire_or_break_stale(&data).expect("dropping it released it");
    let incumbent = Incumbent::bind_cold_start(&directory.path().join("control"), lock)
        .expect("the path is free")
        .with_build_id(b"build".to_vec());
    let _serve: fn(Incumbent, Still) -> Result<()> = Incumbent::serve;
    drop(incumbent);
    assert_eq!(Still.seal().expect("it is nothing").last_revision_per_shard, [1]);
    assert!(matches!(Still.resume_after_abort(), Err(Error::Io(_))));
}

#[test]
fn a_message_is_written_and_read_on_any_blocking_stream() {
    fn round(
        stream: &mut (impl Read + Write),
        message: &Message,
    ) -> Result<(ProtoVersion, Message)> {
        write_message(stream, PROTO_MAX, message)?;
        read_message(stream)
    }
    struct Loop(std::collections::VecDeque<u8>);
    impl Read for Loop {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for Loop {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let handoff_id = HandoffId::new();
    assert!(!handoff_id.to_string().is_empty());
    let hello = Message::Hello {
        role: Side::Incumbent,
        pid: 1,
        build_id: Vec::new(),
        proto_min: PROTO_MIN,
        proto_max: PROTO_MAX,
        capabilities: Capabilities::default(),
    };
    let mut stream = Loop(std::collections::VecDeque::new());
    for message in [hello, Message::Commit { handoff_id }] {
        let (version, read) = round(&mut stream, &message).expect("it is a frame");
        assert_eq!((version, read), (PROTO_MAX, message.clone()));
    }
    assert_eq!(negotiate_version(1, 2, 2, 3).expect("they have one in common"), 2);
}

/// A swap in its one order, as types; it is never run.
#[test]
fn a_session_goes_from_phase_to_phase() {
    fn _swap(supervisor: &Supervisor, spec: SpawnSpec) -> Result<Result<Committed, Failed>> {
        let paired: Session<Paired> = supervisor.pair(spec)?;
        Ok((|| {
            let warmed: Session<Warmed> = paired.warm()?;
            let prepared: Session<Prepared> = warmed.prepare()?;
            let sealed: Session<Sealed> = prepared.seal()?;
            let ready: Session<Ready> = sealed.begin()?;
            ready.commit()
        })())
    }
    fn _abort(session: Session<Prepared>) -> RolledBack {
        session.abort("why")
    }
    let supervisor = Supervisor::new(Path::new("/run/demo/control")).expect("it is short");
    let spec = SpawnSpec::new("/opt/demo").arg("--port");
    assert!(supervisor.pair(spec).is_err_and(|error| matches!(error, Error::Path { .. })));
    let ready = ReadinessSnapshot {
        listening_on: Vec::new(),
        healthz_ok: true,
        advertised_revision_per_shard: Vec::new(),
    };
    assert_ne!(ready, ReadinessSnapshot::default());
    let shared: Arc<dyn Drainable> = Arc::new(Still);
    assert_eq!(shared.snapshot_state().shard_count, 1);
}
