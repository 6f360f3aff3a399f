use std::os::unix::fs::{MetadataExt, symlink};
use std::time::SystemTime;

use super::*;
use crate::control::Listeners;
use crate::datadir::DataDirLock;
use crate::incumbent::{OnCommit, StopHandle};

/// A data directory, and the starts of processes in it.
struct Data(tempfile::TempDir);

/// A process that has opened the data, and not yet committed.
struct Opened {
    directory: PathBuf,
    steps: OnCommit,
    _lock: DataDirLock,
}

impl Data {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, contents: &str) {
        fs::write(self.path(name), contents).expect("it is written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("it is there")
    }

    /// Begins a migration that copies the file `log`.
    fn ahead(&self, format: u32) -> Result<Migration> {
        Migration::ahead(self.0.path(), format, |round| copy(round, format))
    }

    fn open(&self, migration: Migration, format: u32) -> Result<Opened> {
        let lock = DataDirLock::acquire(self.0.path())?;
        let (mut listeners, stop) = (Listeners::default(), StopHandle::new()?);
        let mut opening = Opening::new(&lock, &mut listeners, true, None, &stop);
        let directory = migration.finish(&mut opening, |round| copy(round, format))?;
        let (_, steps) = opening.finish();
        Ok(Opened { directory, steps, _lock: lock })
    }

    fn start(&self, format: u32) -> Opened {
        let migration = self.ahead(format).expect("it converts");
        self.open(migration, format).expect("it opens")
    }

    /// Starts a process that commits, appends to the log, and ends.
    fn serve(&self, format: u32, appended: &str) -> PathBuf {
        let mut opened = self.start(format);
        opened.commit();
        opened.append(appended);
        opened.directory
    }

    fn directories(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).expect("it is there");
        let names = names.map(|entry| entry.expect("it is read").file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with("format-"));
        names.sort();
        names
    }
}

impl Opened {
    fn commit(&mut self) {
        self.steps.run_first(self.steps.len()).expect("the steps work");
    }

    fn append(&self, words: &str) {
        let path = self.directory.join("log");
        let log = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, log + words).expect("it is written");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).expect("it is there")
    }
}

fn copy(round: &Round<'_>, format: u32) -> Result<()> {
    assert_ne!(round.from_format(), Some(format));
    if round.from().join("log").exists() {
        round.clone_file("log")?;
    }
    Ok(())
}

#[test]
fn data_goes_from_the_data_directory_to_one_of_its_own_and_on_from_there() {
    let data = Data::new();
    data.write("log", "one,");
    let first = data.serve(2, "two,");
    assert_eq!(data.read("log"), "one,");
    assert_eq!(data.read("current/log"), "one,two,");
    let again = data.serve(2, "three,");
    assert_eq!(first, again, "it has the format already");
    let second = data.serve(3, "four,");
    assert_eq!(data.read("current/log"), "one,two,three,four,");
    assert_eq!(fs::read_to_string(first.join("log")).expect("it stays"), "one,two,three,");
    let back = data.serve(2, "five,");
    assert_eq!(data.read("current/log"), "one,two,three,four,five,");
    assert!(first.exists(), "the start after this one removes it");
    drop(data.start(2));
    assert_eq!(data.directories().len(), 2);
    assert!(second.exists() && back.exists() && !first.exists());
}

#[test]
fn a_new_daemon_has_a_directory_with_nothing_in_it() {
    let data = Data::new();
    data.serve(1, "one,");
    assert_eq!(data.read("current/log"), "one,");
    assert_eq!(data.directories().len(), 1);
}

#[test]
fn until_the_commit_the_old_process_has_its_data_and_what_failed_is_removed() {
    let data = Data::new();
    data.serve(1, "one,");
    let rolled_back = data.start(2);
    rolled_back.append("lost,");
    assert_eq!(data.read("current/log"), "one,");
    drop(rolled_back);
    let warm = data.ahead(2).expect("it converts");
    assert_eq!(data.directories().len(), 2, "the failed one is gone, this one is new");
    // A process that only is warm does not lose its directory to another one.
    data.serve(1, "two,");
    let other = data.ahead(2).expect("it converts");
    assert_eq!(data.directories().len(), 3);
    drop(warm);
    let mut opened = data.open(other, 2).expect("it opens");
    assert_eq!(opened.log(), "one,two,", "what was written meanwhile is there");
    opened.commit();
    drop(opened);
    drop(data.start(2));
    assert_eq!(data.directories().len(), 2);
}

#[test]
fn a_step_that_runs_again_after_a_crash_finds_its_work_done() {
    let data = Data::new();
    data.serve(1, "one,");
    let mut crashed = data.start(2);
    crashed.commit();
    drop(crashed);
    let again = data.start(2);
    assert_eq!(again.log(), "one,");
    drop(again);
    // It died after it was the writer, and before `current` was moved.
    drop(data.start(3));
    assert_eq!(data.serve(3, "two,"), fs::canonicalize(data.path("current")).expect("it is there"));
    assert_eq!(data.read("current/log"), "one,two,");
}

#[test]
fn a_swap_fails_whose_directory_or_link_another_process_has_changed() {
    let data = Data::new();
    data.serve(1, "one,");
    let warm = data.ahead(3).expect("it converts");
    data.serve(2, "two,");
    let moved = data.open(warm, 3).err().expect("it is refused").to_string();
    assert!(moved.contains("when the conversion began") && moved.contains("try again"), "{moved}");

    let warm = data.ahead(3).expect("it converts");
    let attempt = data.directories().into_iter().find(|name| name.starts_with("format-3"));
    let attempt = data.path(&attempt.expect("it is there"));
    fs::rename(&attempt, data.path("away")).expect("it is there");
    fs::create_dir(&attempt).expect("it is free");
    let removed = data.open(warm, 3).err().expect("it is refused").to_string();
    assert!(removed.contains("another directory has taken its place"), "{removed}");
    assert_eq!(data.read("current/log"), "one,two,");
}

#[test]
fn a_link_that_is_none_of_ours_is_told_and_left_as_it_is() {
    let data = Data::new();
    data.write("log", "one,");
    for target in ["log", "format-1", "format-x.1", "format-1.gone", "../format-1.1", "format-1./"]
    {
        symlink(target, data.path("current")).expect("it is free");
        let told = data.ahead(2).expect_err("it is not ours").to_string();
        assert!(told.contains(&format!("`{target}`")) && told.contains("lead to"), "{told}");
        discard_previous(data.0.path()).expect_err("it is not ours");
        go_back(data.0.path(), 1).expect_err("it is not ours");
        fs::remove_file(data.path("current")).expect("it is there");
    }
    data.write("current", "a file");
    let told = data.ahead(2).expect_err("it is not ours").to_string();
    assert!(told.contains("move it away"), "{told}");
    assert_eq!((data.read("current"), data.read("log")), ("a file".into(), "one,".into()));
}

#[test]
fn without_the_link_no_data_that_was_in_use_is_removed_or_overlooked() {
    let data = Data::new();
    data.write("log", "flat,");
    let first = data.serve(1, "one,");
    drop(data.start(2)); // one that did not commit
    let attempt = data.directories().into_iter().find(|name| name.starts_with("format-2"));
    fs::remove_file(data.path("current")).expect("it is there");
    for format in [1, 2] {
        let told = data.ahead(format).expect_err("it is gone").to_string();
        let name = first.file_name().expect("it has one").to_string_lossy();
        assert!(told.contains(&*name) && told.contains("ln -sfn"), "{told}");
    }
    discard_previous(data.0.path()).expect_err("it is gone");
    assert!(first.exists() && data.path(&attempt.expect("it is there")).exists());
    symlink(first.file_name().expect("it has one"), data.path("current")).expect("it is free");
    data.serve(1, "two,");
    assert_eq!(data.read("current/log"), "flat,one,two,");
}

#[test]
fn an_operator_goes_back_to_the_data_of_the_format_before() {
    let data = Data::new();
    data.write("log", "flat,");
    let refused = go_back(data.0.path(), 1).expect_err("nothing was migrated").to_string();
    assert!(refused.contains("no migration"), "{refused}");
    data.serve(2, "two,");
    data.serve(3, "three,");
    let lock = DataDirLock::acquire(data.0.path()).expect("it is free");
    let held = go_back(data.0.path(), 2).expect_err("a process serves");
    assert!(matches!(held, Error::LockHeld { .. }), "{held}");
    drop(lock);
    let other = go_back(data.0.path(), 1).expect_err("it is of another format").to_string();
    assert!(other.contains("of another one"), "{other}");
    assert_eq!(data.read("current/log"), "flat,two,three,");

    go_back(data.0.path(), 2).expect("it is there");
    assert_eq!(data.read("current/log"), "flat,two,");
    let lock = DataDirLock::acquire(data.0.path()).expect("it is free");
    lock.check_schema(&Schema::new().format(2, 1..=2)).expect("it is of format 2 again");
    drop(lock);
    data.serve(2, "again,");
    go_back(data.0.path(), 1).expect("it is the data directory itself");
    assert!(!data.path("current").is_symlink());
    assert_eq!(data.read("log"), "flat,");
    data.serve(2, "anew,");
    assert_eq!(data.read("current/log"), "flat,anew,");
    let given_up = fs::read_dir(data.0.path()).expect("it is there").filter(|entry| {
        let name = entry.as_ref().expect("it is read").file_name();
        name.to_string_lossy().starts_with("given-up.format-")
    });
    assert_eq!(given_up.count(), 2, "newer data stays until somebody removes it");
    discard_previous(data.0.path()).expect("there is none");
    let gone = go_back(data.0.path(), 1).expect_err("it was discarded").to_string();
    assert!(gone.contains("was removed"), "{gone}");
}

#[test]
fn what_a_commit_needs_is_there_before_it() {
    let data = Data::new();
    data.serve(1, "one,");
    let migration = data.ahead(2).expect("it converts");
    let attempt = data.directories().into_iter().find(|name| name.starts_with("format-2"));
    let attempt = data.path(&attempt.expect("it is there"));
    fs::create_dir(attempt.join(".handoff.current")).expect("it is free");
    data.open(migration, 2).err().expect("something is in the way");
    assert_eq!(data.read("current/log"), "one,");
    Migration::ahead(data.0.path(), 0, |_| Ok(())).expect_err("there is no format 0");
}

#[test]
fn only_files_that_have_changed_are_synced_again() {
    let data = Data::new();
    for name in ["old", "new"] {
        data.write(name, "a");
    }
    let state = |name: &str| {
        let metadata = fs::metadata(data.path(name)).expect("it is there");
        (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    let mut synced = Synced::new();
    directories::sync_tree(data.0.path(), &mut synced).expect("it is synced");
    // They were written just now: a change within the same tick would not show.
    assert!(synced.is_empty());
    synced.insert(data.path("old"), state("old"));
    data.write("new", "b");
    directories::sync_tree(data.0.path(), &mut synced).expect("it is synced");
    assert_eq!(synced.get(&data.path("old")), Some(&state("old")));
}

#[test]
fn a_round_that_fails_ends_the_migration_and_names_its_error() {
    let data = Data::new();
    data.serve(1, "one,");
    let refused = Migration::ahead(data.0.path(), 2, |_| Err(io::Error::other("no room").into()));
    assert!(refused.expect_err("it fails").to_string().contains("no room"));
    let warm = data.ahead(2).expect("it converts");
    let lock = DataDirLock::acquire(data.0.path()).expect("it is free");
    let (mut listeners, stop) = (Listeners::default(), StopHandle::new().expect("it is made"));
    let mut opening = Opening::new(&lock, &mut listeners, true, None, &stop);
    let refused = warm.finish(&mut opening, |_| Err(io::Error::other("no room").into()));
    assert!(refused.expect_err("it fails").to_string().contains("no room"));
    assert_eq!(opening.finish().1.len(), 0, "nothing is left to be done");
}

#[test]
fn rounds_end_when_they_are_short_or_no_longer_get_shorter() {
    /// How many rounds there are that take so long.
    fn rounds(takes: impl Fn(u32) -> Duration) -> u32 {
        let (mut before, mut rounds) = (Duration::MAX, 0);
        while rounds < MAX_ROUNDS {
            let took = takes(rounds);
            rounds += 1;
            if !is_worth_another(before, took) {
                break;
            }
            before = took;
        }
        rounds
    }
    assert_eq!(rounds(|_| Duration::ZERO), 1);
    assert_eq!(rounds(|_| SHORT * 2), 2, "the second is no shorter");
    let slowly = |round| (SHORT * 16).mul_f64(0.7_f64.powi(i32::try_from(round).unwrap_or(0)));
    assert_eq!(rounds(slowly), 9, "each is shorter than the one before");
    assert_eq!(rounds(|round| if round == 0 { SHORT * 40 } else { Duration::ZERO }), 2);
    assert_eq!(rounds(|round| SHORT * 1000 / 2_u32.pow(round.min(9))), 11, "as short as it gets");
    assert_eq!(rounds(|round| Duration::from_secs(1 << (20 - round))), MAX_ROUNDS);
}

#[test]
fn the_format_before_stays_until_its_time_is_over_or_it_is_discarded() {
    let data = Data::new();
    let first = data.serve(1, "one,");
    let migration = data.ahead(2).expect("it converts").keep_previous(LONG);
    data.open(migration, 2).expect("it opens").commit();
    discard_previous(data.0.path()).expect("it is removed");
    assert!(!first.exists());
    let second = data.serve(2, "two,");
    data.serve(3, "three,");
    let kept = data.path("current/.handoff.previous");
    assert_eq!(fs::canonicalize(&kept).expect("it leads there"), second);
    // The time counts from the commit, whatever process counts.
    let migration = data.ahead(3).expect("there is nothing to do").keep_previous(Duration::ZERO);
    data.open(migration, 3).expect("it opens").commit();
    let deadline = Instant::now() + LONG;
    while kept.is_symlink() {
        assert!(Instant::now() < deadline, "{:?}", data.directories());
        thread::yield_now();
    }
    assert_eq!(data.directories().len(), 1);
    assert_eq!(data.read("current/log"), "one,two,three,");
}

#[test]
fn a_linked_file_is_the_same_and_a_cloned_one_is_another() {
    let data = Data::new();
    fs::create_dir(data.path("segments")).expect("it is free");
    data.write("segments/1", "closed");
    data.write("log", "open");
    let mut cloned = None;
    let migration = Migration::ahead(data.0.path(), 2, |round| {
        for _ in 0..2 {
            round.link("segments/1")?;
            cloned = Some(round.clone_file("log")?);
        }
        assert_eq!(round.from(), data.0.path());
        let refused = round.link("nothing").expect_err("it is not there").to_string();
        assert!(refused.contains("link"), "{refused}");
        round.clone_file("nothing").expect_err("it is not there");
        let inode = |path: PathBuf| fs::metadata(path).expect("it is there").ino();
        assert_eq!(inode(round.to().join("segments/1")), inode(round.from().join("segments/1")));
        assert_ne!(inode(round.to().join("log")), inode(round.from().join("log")));
        Ok(())
    });
    drop(migration.expect("it works"));
    println!("a clone is a reflink here: {cloned:?}");
}

#[test]
fn names_of_directories_have_a_format_and_an_id() {
    for (name, format) in [
        ("format-1.a", Some(1)),
        ("format-4294967295.a", Some(u32::MAX)),
        ("format-4294967296.a", None),
        ("format-0.a", None),
        ("format-+1.a", None),
        ("format-01.a", Some(1)),
        ("format-1.", None),
        ("format-1", None),
        ("format-1.a/b", None),
        ("format-.a", None),
        ("", None),
    ] {
        assert_eq!(directories::format_of(name), format, "{name:?}");
    }
}

#[test]
fn a_time_before_now_is_not_waited_for_again() {
    let data = Data::new();
    data.serve(1, "one,");
    data.serve(2, "two,");
    let directories = Directories::in_(data.0.path()).expect("it is there");
    let current = directories.current().expect("it is read").expect("there is one");
    let link = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: link, last_modification: link };
    let previous = data.path("current/.handoff.previous");
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, &previous, &times, flags).expect("it is ours");
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().expect("it is later");
    assert!(directories.age(&current) + LONG > since_1970);
}

const LONG: Duration = Duration::from_secs(60);
