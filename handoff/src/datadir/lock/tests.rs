use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::*;
use crate::drainable::{Extent, Schema};
use crate::error::Mismatch;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn a_second_writer_is_told_who_the_first_is() {
    let directory = directory();
    let first = DataDirLock::acquire(directory.path()).expect("it is free");
    for second in [
        DataDirLock::acquire(directory.path()),
        DataDirLock::acquire_or_break_stale(directory.path()),
    ] {
        match second {
            Err(Error::LockHeld { holder_pid, .. }) => {
                assert_eq!(holder_pid, std::process::id());
            }
            other => panic!("{other:?}"),
        }
    }
    drop(first);
    DataDirLock::acquire(directory.path()).expect("it is free again");
}

/// The incumbent dies, a stray start gets the lock and fails in good order: that is no clean
/// stop, so the successor takes over all the same.
#[test]
fn a_start_that_fails_does_not_stand_in_a_successor_s_way() {
    let directory = directory();
    let mut child = std::process::Command::new("true").spawn().expect("it runs");
    let dead = ProcessId { pid: child.id(), start_time: 1 };
    child.wait().expect("it is ours");
    let mut lock = DataDirLock::acquire(directory.path()).expect("it is free");
    lock.record_serving(b"v1").expect("it can be written");
    lock.record.writer = dead;
    lock.write_record().expect("it can be written");
    drop(lock);
    let stray = DataDirLock::acquire_or_break_stale(directory.path()).expect("nobody lives");
    assert_eq!(stray.generation(), 2);
    drop(stray);
    let id = HandoffId::new();
    let successor = succeed(directory.path(), id);
    assert_eq!(successor.expect("the last that served is dead").generation(), 3);
    // After a clean stop a start that fails leaves it one.
    let mut lock = DataDirLock::acquire(directory.path()).expect("it was dropped");
    lock.record.writer = dead;
    lock.release_sealed(true).expect("it can be written");
    drop(DataDirLock::acquire_or_break_stale(directory.path()).expect("it is free"));
    assert!(matches!(succeed(directory.path(), id), Err(Error::Stopped(_))));
}

#[test]
fn every_writer_has_a_larger_generation() {
    let directory = directory();
    for generation in 1..5 {
        let lock = DataDirLock::acquire(directory.path()).expect("it is free");
        assert_eq!(lock.generation(), generation);
        assert_eq!(lock.fencing_token().expect("it can be synced"), generation);
    }
}

#[test]
fn a_reserved_directory_is_refused_while_the_successor_lives() {
    let directory = directory();
    let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("it runs");
    let mut lock = DataDirLock::acquire(directory.path()).expect("it is free");
    let waiting = ProcessId::of(child.id()).expect("it runs");
    lock.release_for(HandoffId::new(), waiting).expect("it is released");
    match DataDirLock::acquire_or_break_stale(directory.path()) {
        Err(Error::Reserved { successor_pid, .. }) => assert_eq!(successor_pid, child.id()),
        other => panic!("{other:?}"),
    }
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    DataDirLock::acquire_or_break_stale(directory.path()).expect("nobody waits for it");
}

#[test]
fn the_successor_of_another_handoff_is_refused() {
    let directory = directory();
    let id = HandoffId::new();
    let mut lock = DataDirLock::acquire(directory.path()).expect("it is free");
    lock.release_for(id, ProcessId::own()).expect("it is released");
    assert!(matches!(succeed(directory.path(), HandoffId::new()), Err(Error::NotReserved { .. })));
    let successor = succeed(directory.path(), id).expect("it is reserved for this one");
    assert_eq!(successor.generation(), 2);
}

#[test]
fn the_lock_is_retaken_when_free_and_the_record_decides_when_not() {
    let directory = directory();
    let id = HandoffId::new();
    let mut incumbent = DataDirLock::acquire(directory.path()).expect("it is free");
    incumbent.release_for(id, ProcessId::own()).expect("it is released");
    let mut successor = succeed(directory.path(), id).expect("free");
    let undecided = Decision::Undecided { holder: ProcessId::own() };
    assert_eq!(incumbent.retake().expect("it can be read"), undecided);
    successor.record_serving(b"2").expect("it is written");
    assert_eq!(
        incumbent.retake().expect("it can be read"),
        Decision::Replaced { generation: 2, holder: ProcessId::own() }
    );
    drop(successor);
    assert_eq!(incumbent.retake().expect("it can be read"), Decision::Retaken);
    assert_eq!(incumbent.generation(), 3);
}

#[test]
fn damage_is_an_error_that_names_the_file_and_can_be_repaired() {
    let directory = directory();
    let path = directory.path().join(LOCK_FILE);
    fs::write(&path, "nonsense").expect("it is written");
    for result in [
        DataDirLock::acquire(directory.path()),
        DataDirLock::acquire_or_break_stale(directory.path()),
    ] {
        match result {
            Err(Error::Damaged { path: named, .. }) => assert_eq!(named, path),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fs::read(&path).expect("it is there"), b"nonsense");
    DataDirLock::repair(directory.path()).expect("it is repaired");
    let lock = DataDirLock::acquire(directory.path()).expect("it is repaired");
    assert!(lock.generation() > 1_700_000_000_000_000);
    assert!(matches!(DataDirLock::repair(directory.path()), Err(Error::LockHeld { .. })));
}

/// The records that a crash of the machine can leave beside a manifest whose rename was written
/// out, and its contents were not.
#[test]
fn a_manifest_that_was_not_synced_is_not_looked_at_in_another_boot() {
    let unsynced = |phase| OwnerRecord {
        phase,
        generation: 6,
        sealed_generation: 5,
        is_seal_unsynced: true,
        boot_id: [0xb0; 16],
        ..OwnerRecord::default()
    };
    let synced = |phase| OwnerRecord { is_seal_unsynced: false, ..unsynced(phase) };
    let this_boot = |record: OwnerRecord| OwnerRecord { boot_id: boot_id(), ..record };
    for (found, is_read) in [
        (unsynced(RecordPhase::Opening), false),
        (unsynced(RecordPhase::Held), false),
        (unsynced(RecordPhase::Released), false),
        (unsynced(RecordPhase::Sealed), false),
        // As a build without the flag writes it.
        (synced(RecordPhase::Sealed), false),
        (synced(RecordPhase::Released), true),
        (synced(RecordPhase::Held), true),
        (this_boot(unsynced(RecordPhase::Opening)), true),
    ] {
        let directory = directory();
        fs::write(directory.path().join(".handoff.manifest"), "").expect("it is written");
        let lock = DataDirLock::open(directory.path()).expect("it can be created");
        found.write(&lock.file().file, lock.data_dir()).expect("it can be written");
        drop(lock);
        // A start that fails changes nothing about it.
        for _ in 0..2 {
            let start = DataDirLock::acquire_or_break_stale(directory.path()).expect("it is free");
            match start.manifest() {
                Ok(None) => assert!(!is_read, "{found:?}"),
                Err(Error::Damaged { .. }) => assert!(is_read, "{found:?}"),
                other => panic!("{other:?} from {found:?}"),
            }
        }
    }
}

#[test]
fn a_seal_that_was_not_synced_stays_so_through_an_opening_that_fails_and_a_repair() {
    let directory = directory();
    let mut lock = DataDirLock::acquire(directory.path()).expect("it is free");
    lock.release_for(HandoffId::new(), ProcessId::default()).expect("it is released");
    let start = DataDirLock::acquire_or_break_stale(directory.path()).expect("it is free");
    let of = |lock: &DataDirLock| {
        let record = lock.read_record().expect("it is whole");
        (record.phase, record.sealed_generation, record.is_seal_unsynced)
    };
    assert_eq!(of(&start), (RecordPhase::Held, 1, true));
    drop(start);
    assert_eq!(of(&lock), (RecordPhase::Sealed, 1, true));
    let as_before_the_flag =
        OwnerRecord { is_seal_unsynced: false, ..lock.read_record().expect("it is whole") };
    as_before_the_flag.write(&lock.file().file, lock.data_dir()).expect("it can be written");
    DataDirLock::repair(directory.path()).expect("nobody serves it");
    assert_eq!(of(&lock), (RecordPhase::Released, 1, true));
    let mut start = DataDirLock::acquire_or_break_stale(directory.path()).expect("it is free");
    start.record_serving(b"2").expect("it can be written");
    assert_eq!(of(&start), (RecordPhase::Serving, 0, false));
    start.release_sealed(true).expect("it can be written");
    assert_eq!(of(&start), (RecordPhase::Released, 3, false));
}

#[test]
fn a_directory_that_cannot_be_is_an_error_that_names_it() {
    let directory = directory();
    let file = directory.path().join("file");
    fs::write(&file, "").expect("it is written");
    for path in [file.clone(), file.join("below"), PathBuf::from("/proc/handoff")] {
        match DataDirLock::acquire(&path) {
            Err(Error::Path { path: named, .. }) => assert!(named.starts_with(&path)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_lock_file_that_was_replaced_is_opened_again() {
    let directory = directory();
    let mut stale = DataDirLock::open(directory.path()).expect("it opens");
    fs::remove_file(directory.path().join(LOCK_FILE)).expect("it is there");
    let _other = DataDirLock::acquire(directory.path()).expect("it is free");
    assert!(!stale.try_flock().expect("it can be asked"));
}

/// A stray that came while the name was gone made a lock file, and found the directory locked.
#[test]
fn an_empty_lock_file_does_not_take_the_place_of_the_record() {
    let directory = directory();
    let id = HandoffId::new();
    let mut incumbent = DataDirLock::acquire(directory.path()).expect("it is free");
    let ahead = DataDirLock::ahead(directory.path(), Some(id)).expect("it opens");
    incumbent.release_for(id, ProcessId::own()).expect("it is released");
    fs::write(directory.path().join("empty"), "").expect("it is written");
    fs::rename(directory.path().join("empty"), directory.path().join(LOCK_FILE))
        .expect("it takes the name");
    let mut successor =
        ahead.acquire_as_successor(id, || Duration::ZERO).expect("it knows the record");
    assert_eq!(successor.generation(), 2);
    // The incumbent looks at the file that has the name.
    successor.record_serving(b"2").expect("it is written");
    let replaced = Decision::Replaced { generation: 2, holder: ProcessId::own() };
    assert_eq!(incumbent.retake().expect("it can be read"), replaced);
}

/// A lock whose build writes that format, after the commit of another whose build reads it or not.
fn retaken(own: &Schema, committed: &Schema) -> (tempfile::TempDir, Result<DataDirLock>) {
    let directory = directory();
    let id = HandoffId::new();
    let mut incumbent = DataDirLock::acquire(directory.path()).expect("it is free");
    incumbent.record_schema(own).expect("it is noted");
    let ahead = DataDirLock::ahead(directory.path(), Some(id)).expect("it opens");
    incumbent.release_for(id, ProcessId::own()).expect("it is released");
    let mut successor = ahead.acquire_as_successor(id, || Duration::ZERO).expect("it is free");
    successor.record_serving(b"2").expect("it is written");
    successor.record_schema(committed).expect("it is noted");
    drop(successor);
    let decision = incumbent.retake();
    (directory, decision.map(|_| incumbent))
}

#[test]
fn an_incumbent_goes_on_with_no_directory_that_is_not_the_current_one() {
    let directory = directory();
    let id = HandoffId::new();
    let mut incumbent = DataDirLock::acquire(directory.path()).expect("it is free");
    let current = directory.path().join("current");
    symlink("format-1.a", &current).expect("it is free");
    incumbent.place().note_opened("format-1.a");
    incumbent.release_for(id, ProcessId::own()).expect("it is released");
    assert_eq!(incumbent.retake().expect("nothing has changed"), Decision::Retaken);

    incumbent.release_for(id, ProcessId::own()).expect("it is released");
    fs::remove_file(&current).expect("it is there");
    symlink("format-2.b", &current).expect("it is free");
    match incumbent.retake() {
        Err(Error::Converted { link, opened, to }) => {
            assert_eq!((link, &*opened, &*to), (current, "format-1.a", "format-2.b"));
        }
        other => panic!("{other:?}"),
    }
    // It has freed the lock.
    let reserved = DataDirLock::acquire_or_break_stale(directory.path());
    assert!(matches!(reserved, Err(Error::Reserved { .. })), "{reserved:?}");
}

#[test]
fn an_incumbent_takes_back_no_data_of_a_format_that_it_does_not_read() {
    let (one, two) = (Schema::new(), Schema::new().format(2, 1..=2));
    let (directory, refused) = retaken(&one, &two);
    let Err(Error::Schema(Mismatch::Format { found: 2, reads, .. })) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(reads, 1..=1);
    let lock = DataDirLock::acquire(directory.path()).expect("it was left free");
    assert!(lock.check_schema(&two).is_ok());
    assert!(lock.check_schema(&one).is_err());

    let ready = Schema::new().format(1, 1..=2);
    let (_directory, lock) = retaken(&ready, &two);
    // Some of the data may still be of the higher format.
    assert_eq!(lock.expect("it reads both").record.format, 2);

    // One field of a format of its own, which only the schema beside the record tells.
    let field = |reads| Schema::new().field_of("log", Extent::One).field_format("log", 1, reads);
    let newer = Schema::new().field_of("log", Extent::One).field_format("log", 2, 1..=2);
    assert!(retaken(&field(1..=1), &newer).1.is_err());
    assert!(retaken(&field(1..=2), &newer).1.is_ok());
}

/// Starts a build, or only asks whether it could be started.
fn starts(directory: &Path, schema: &Schema) -> Result<DataDirLock> {
    let mut lock = DataDirLock::acquire_or_break_stale(directory)?;
    lock.check_schema(schema)?;
    lock.record_schema(schema)?.write();
    lock.record_serving(b"2")?;
    Ok(lock)
}

fn refused(directory: &Path, schema: &Schema) -> Mismatch {
    match starts(directory, schema) {
        Err(Error::Schema(mismatch)) => mismatch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_directory_has_no_format() {
    let directory = directory();
    starts(directory.path(), &Schema::new().format(2, 2..=2)).expect("nothing is there");
    let mismatch = Mismatch::Format { field: None, found: 2, reads: 1..=1 };
    assert_eq!(refused(directory.path(), &Schema::new()), mismatch);
    // The lock file is lost: the schema and the manifest still tell the format.
    fs::remove_file(directory.path().join(LOCK_FILE)).expect("it is there");
    assert_eq!(refused(directory.path(), &Schema::new()), mismatch);
}

#[test]
fn a_start_that_fails_leaves_a_new_directory_new() {
    let directory = directory();
    let two = Schema::new().format(2, 2..=2);
    for _ in 0..2 {
        let lock = DataDirLock::acquire_or_break_stale(directory.path()).expect("it is free");
        lock.check_schema(&two).expect("nobody has served");
    }
    drop(DataDirLock::acquire(directory.path()).expect("it is free"));
    starts(directory.path(), &two).expect("nobody has served");
    refused(directory.path(), &Schema::new());
}

#[test]
fn where_no_schema_is_known_a_field_has_the_format_of_the_whole() {
    let field = |name: &str| Schema::new().field_of(name, Extent::One);
    let two = field("log").field_format("log", 2, 2..=2);
    let directory = directory();
    starts(directory.path(), &field("log")).expect("it is new");
    drop(DataDirLock::acquire(directory.path()).expect("it is free"));
    let mismatch = Mismatch::Format { field: Some("log".into()), found: 1, reads: 2..=2 };
    assert_eq!(refused(directory.path(), &two), mismatch);
    // A known one, by its present and by its earlier name; the same build is no one-way swap.
    let both = field("log").field_format("log", 2, 1..=2).renamed("journal", "log");
    starts(directory.path(), &both).expect("it reads both");
    drop(DataDirLock::acquire(directory.path()).expect("it is free"));
    assert_eq!(Fit::ahead(directory.path(), &both).expect("it is the same").one_way, None);
    let mismatch = Mismatch::Format { field: None, found: 2, reads: 1..=1 };
    assert_eq!(refused(directory.path(), &field("journal")), mismatch);
}

#[test]
fn a_staged_schema_that_cannot_be_put_in_place_is_written_anew() {
    let directory = directory();
    let schema = Schema::new().field_of("log", Extent::One).field_format("log", 2, 1..=2);
    let mut lock = DataDirLock::acquire_or_break_stale(directory.path()).expect("it is free");
    lock.prepare_schema(&schema).expect("it is staged");
    fs::remove_file(directory.path().join(".handoff.schema.new")).expect("it is there");
    lock.record_schema(&schema).expect_err("it is gone");
    lock.record_schema(&schema).expect("it is written again");
    drop(lock);
    refused(directory.path(), &Schema::new());
}

#[test]
fn a_field_s_format_is_known_whoever_had_the_directory_since() {
    let fields = |names: &[&str]| {
        names.iter().fold(Schema::new(), |schema, name| schema.field_of(*name, Extent::One))
    };
    let base = fields(&["log"]);
    let newer = fields(&["log"]).field_format("log", 2, 1..=2);
    let mismatch = |found| Mismatch::Format { field: None, found, reads: 1..=1 };
    type Since<'a> = (&'a str, &'a dyn Fn(&Path));
    let since: [Since<'_>; 6] = [
        ("nobody", &|_| {}),
        ("a start that fails", &|path| {
            DataDirLock::acquire_or_break_stale(path).expect("it is free");
        }),
        ("a tool", &|path| drop(DataDirLock::acquire(path).expect("it is free"))),
        ("a build that writes the lower one again", &|path| {
            starts(path, &fields(&["log"]).field_format("log", 1, 1..=2)).expect("it reads both");
        }),
        ("a build without the field", &|path| {
            starts(
                path,
                &Schema::new().field_of("other", Extent::One).retired("log").added("other"),
            )
            .expect("it declares that");
        }),
        ("a repair", &|path| {
            fs::write(path.join(LOCK_FILE), [7; 256]).expect("it is written");
            DataDirLock::repair(path).expect("it is repaired");
        }),
    ];
    for (who, since) in since {
        let directory = directory();
        starts(directory.path(), &newer).expect("it is new");
        since(directory.path());
        assert_eq!(refused(directory.path(), &base), mismatch(2), "{who}");
    }
    // A build that does not tell its fields.
    let directory = directory();
    starts(directory.path(), &newer).expect("it is new");
    assert_eq!(refused(directory.path(), &Schema::new()), mismatch(2));
}

#[test]
fn the_format_of_the_last_writer_counts_besides_the_highest() {
    let directory = directory();
    let two = Schema::new().format(2, 2..=2);
    starts(directory.path(), &two).expect("it is new");
    starts(directory.path(), &Schema::new().format(1, 1..=2)).expect("it reads both");
    let mismatch = Mismatch::Format { field: None, found: 1, reads: 2..=2 };
    assert_eq!(refused(directory.path(), &two), mismatch);
}

#[test]
fn a_schema_that_cannot_be_written_stops_only_a_field_of_a_higher_format_and_before_the_commit() {
    let directory = directory();
    fs::create_dir(directory.path().join(".handoff.schema")).expect("it is made");
    starts(directory.path(), &Schema::new().format(2, 1..=2)).expect("the record is enough");
    let field = Schema::new().format(2, 1..=2).field_of("log", Extent::One);
    let field = field.field_format("log", 3, 1..=3);
    let mut lock = DataDirLock::acquire_or_break_stale(directory.path()).expect("it is free");
    let error = lock.prepare_schema(&field).expect_err("nothing else has that format");
    assert!(error.to_string().contains(".handoff.schema"), "{error}");
}

#[test]
fn whoever_says_nothing_may_read_no_higher_format() {
    let directory = directory();
    let mut lock = DataDirLock::acquire_or_break_stale(directory.path()).expect("it is free");
    lock.record_serving(b"1").expect("it is written");
    drop(lock);
    let one_way = |schema: &Schema| {
        let fit = Fit::ahead(directory.path(), schema).expect("it fits");
        fit.one_way.map(|unread| (unread.written, unread.reads))
    };
    let field = Schema::new().field_of("log", Extent::One).field_format("log", 2, 1..=2);
    assert_eq!(one_way(&Schema::new().format(2, 1..=2)), Some((2, 1..=1)));
    assert_eq!(one_way(&field), Some((2, 1..=1)));
    assert_eq!(one_way(&Schema::new()), None);
}

#[test]
fn a_format_is_kept_by_whoever_writes_a_lower_one_and_by_whoever_starts_in_vain() {
    let directory = directory();
    let start = |schema: Option<&Schema>| {
        let mut lock = DataDirLock::acquire_or_break_stale(directory.path()).expect("it is free");
        if let Some(schema) = schema {
            lock.check_schema(schema).expect("it reads it");
            lock.record_schema(schema).expect("it is noted").write();
            lock.record_serving(b"2").expect("it is written");
        }
        lock.read_record().expect("it is whole").format
    };
    let schema = |written, reads| Schema::new().format(written, reads);
    assert_eq!(start(Some(&schema(3, 1..=3))), 3);
    assert_eq!(start(None), 3);
    assert_eq!(start(Some(&schema(2, 1..=3))), 3);
    assert_eq!(start(Some(&schema(4, 1..=4))), 4);
    // The record is lost: the schema and the manifest still tell the format.
    fs::write(directory.path().join(LOCK_FILE), [7; 256]).expect("it is written");
    DataDirLock::repair(directory.path()).expect("it is repaired");
    assert_eq!(start(None), 4);
    fs::remove_file(directory.path().join(LOCK_FILE)).expect("it is there");
    assert_eq!(start(None), 4);
}

#[test]
fn without_its_lock_file_a_directory_goes_on_from_the_generation_of_its_seal() {
    let directory = directory();
    let lock = DataDirLock::acquire(directory.path()).expect("it is free");
    SealManifest::of_seal(41, &crate::SealReport::default(), Vec::new(), Schema::new(), true)
        .write(lock.place())
        .expect("it is written");
    drop(lock);
    fs::remove_file(directory.path().join(LOCK_FILE)).expect("it is there");
    let lock = DataDirLock::acquire(directory.path()).expect("it is free");
    assert_eq!(lock.generation(), 42);
}

#[test]
fn a_child_that_was_forked_does_not_have_the_lock_and_does_not_release_it() {
    let directory = directory();
    let lock = DataDirLock::acquire(directory.path()).expect("it is free");
    let pid = std::process::id();
    // As a child has it: a copy of everything, in another process.
    let child = DataDirLock {
        shared: Arc::clone(&lock.shared),
        record: lock.record.clone(),
        found: lock.found.clone(),
        is_held: true,
        pid: pid + 1,
        found_phase: None,
        own: None,
        note: None,
        is_start: false,
        outlives_drop: false,
    };
    assert!(matches!(child.check_own(), Err(Error::Forked { pid: named, .. }) if named == pid + 1));
    drop(child);
    assert!(matches!(DataDirLock::acquire(directory.path()), Err(Error::LockHeld { .. })));
}

fn succeed(data_dir: &Path, handoff_id: HandoffId) -> Result<DataDirLock> {
    DataDirLock::ahead(data_dir, Some(handoff_id))?
        .acquire_as_successor(handoff_id, || Duration::ZERO)
}
