//! A daemon that is stopped and started again without a swap: what it finds is what it sealed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use handoff::daemon::{Daemon, Ended};
use handoff::drainable::digest_file;
use handoff::error::Mismatch;
use handoff::{DataDirLock, Drainable, Error, Gate, Result, Shard, StopHandle};

/// A file whose revision is its length, and how often it was read.
struct File(PathBuf, Arc<AtomicUsize>);

impl Shard for File {
    fn seal(&self) -> Result<u64> {
        Ok(self.revision())
    }

    fn revision(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |metadata| metadata.len())
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        self.1.fetch_add(1, SeqCst);
        digest_file(&self.0)
    }

    fn resume(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Drainable)]
struct Files {
    #[handoff(gate)]
    gate: Gate,
    files: Vec<File>,
}

struct Daemons {
    directory: tempfile::TempDir,
    reads: Arc<AtomicUsize>,
}

impl Daemons {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("data")).expect("it is empty");
        for name in ["a", "b"] {
            fs::write(directory.path().join("data").join(name), name).expect("it is written");
        }
        Self { directory, reads: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a daemon on a thread, until it is told to stop.
    fn run(&self, during: impl FnOnce()) -> Result<Ended> {
        let (control, data) = (self.path("control.sock"), self.path("data"));
        let (started, starting) = mpsc::channel::<StopHandle>();
        let reads = Arc::clone(&self.reads);
        let daemon = std::thread::spawn(move || {
            Daemon::new(control, data).build_id("1").run(
                |warm| {
                    assert!(!warm.is_successor());
                    Ok(())
                },
                |(), opening| {
                    let file = |name: &str| File(opening.data_dir().join(name), Arc::clone(&reads));
                    let state = Files { gate: Gate::new(), files: vec![file("a"), file("b")] };
                    started.send(opening.stop_handle()).expect("the test waits for it");
                    Ok(state)
                },
            )
        });
        let stop = starting.recv_timeout(Duration::from_secs(30)).expect("it opens");
        during();
        stop.stop();
        daemon.join().expect("it does not panic")
    }

    fn append(&self, name: &str, words: &str) {
        let path: &Path = &self.path("data").join(name);
        let mut file = OpenOptions::new().append(true).open(path).expect("it is there");
        file.write_all(words.as_bytes()).expect("it is written");
    }
}

#[test]
fn a_clean_stop_is_verified_by_the_next_start() {
    let daemons = Daemons::new();
    let appended = || daemons.append("b", "while it serves");
    assert_eq!(daemons.run(appended).expect("it stops"), Ended::Stopped);
    drop(DataDirLock::acquire_or_break_stale(&daemons.path("data")).expect("it let the lock go"));
}

/// By the seal, and by the start that compares them: a shard may take long to read.
#[test]
fn each_shard_is_read_once_by_a_stop_and_once_by_the_start_after_it() {
    let daemons = Daemons::new();
    for expected in [2, 6] {
        assert_eq!(daemons.run(|| ()).expect("it stops"), Ended::Stopped);
        assert_eq!(daemons.reads.load(SeqCst), expected);
    }
}

#[test]
fn what_was_changed_after_a_clean_stop_is_told_by_the_shard_s_name() {
    let daemons = Daemons::new();
    assert_eq!(daemons.run(|| ()).expect("it stops"), Ended::Stopped);
    daemons.append("b", "!");
    for _ in 0..3 {
        match daemons.run(|| ()) {
            Err(Error::Mismatch(Mismatch::Revision { name, sealed, opened })) => {
                assert_eq!((name.as_str(), sealed, opened), ("files.1", 1, 2));
            }
            other => panic!("{other:?}"),
        }
    }
    // Whoever accepts the data as it is says so.
    fs::remove_file(daemons.path("data").join(".handoff.manifest")).expect("it is there");
    assert_eq!(daemons.run(|| ()).expect("it stops"), Ended::Stopped);
    fs::write(daemons.path("data").join("a"), "x").expect("it is written");
    match daemons.run(|| ()) {
        Err(Error::Mismatch(Mismatch::Contents { name, revision })) => {
            assert_eq!((name.as_str(), revision), ("files.0", 1));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_damaged_manifest_is_told_by_its_path_until_it_is_repaired() {
    let daemons = Daemons::new();
    assert_eq!(daemons.run(|| ()).expect("it stops"), Ended::Stopped);
    let manifest = daemons.path("data").join(".handoff.manifest");
    fs::write(&manifest, "nonsense").expect("it is written");
    let lock = DataDirLock::acquire_or_break_stale(&daemons.path("data")).expect("it is free");
    match lock.manifest() {
        Err(Error::Damaged { path, .. }) => assert_eq!(path, manifest),
        other => panic!("{other:?}"),
    }
    drop(lock);
    DataDirLock::repair(&daemons.path("data")).expect("nobody serves it");
    assert_eq!(daemons.run(|| ()).expect("it stops"), Ended::Stopped);
}

/// A shard that leaves the sync to `settle`, and says what it was asked, in order.
#[derive(Drainable)]
struct Lazy {
    #[handoff(gate)]
    gate: Gate,
    log: Unsynced,
}

struct Unsynced {
    asked: mpsc::Sender<&'static str>,
    settles: bool,
}

impl Shard for Unsynced {
    fn settle(&self) -> Result<()> {
        self.asked.send("settle").expect("the test hears it");
        if self.settles { Ok(()) } else { Err(std::io::Error::other("no space left").into()) }
    }

    fn seal(&self) -> Result<u64> {
        self.asked.send("seal").expect("the test hears it");
        Ok(1)
    }

    fn revision(&self) -> u64 {
        1
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        Ok([1; 32])
    }

    fn resume(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_seal_leaves_to_be_synced_is_synced_before_the_last_one() {
    for settles in [true, false] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (control, data) =
            (directory.path().join("control.sock"), directory.path().join("data"));
        let (asked, asking) = mpsc::channel();
        let ended = Daemon::new(control, data.clone()).run(
            |_| Ok(()),
            |(), opening| {
                opening.stop_handle().stop();
                Ok(Lazy { gate: Gate::new(), log: Unsynced { asked, settles } })
            },
        );
        let asked: Vec<_> = asking.iter().collect();
        if settles {
            assert_eq!((ended.expect("it stops"), asked), (Ended::Stopped, vec!["settle", "seal"]));
        } else {
            let error = ended.expect_err("it is not durable");
            assert!(error.to_string().contains("no space left"), "{error}");
            assert_eq!(asked, ["settle"]);
            let held = DataDirLock::acquire(&data).expect_err("it may not be opened elsewhere");
            assert!(matches!(held, Error::LockHeld { .. }), "{held}");
        }
    }
}
