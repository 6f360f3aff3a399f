//! Rehearsals of a swap, as a daemon's author writes them: some that succeed, and for each part one
//! that fails there.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use handoff::daemon::{Daemon, Opening};
use handoff::drainable::digest_file;
use handoff::error::Mismatch;
use handoff::testing::{Part, Rehearsal, RehearsalError, Report};
use handoff::{Drainable, Error, Gate, Result, Shard};

/// A file whose revision is its length. A log may have one of two names: builds of format 2 move it to
/// the second one.
struct File {
    one: PathBuf,
    two: PathBuf,
}

impl File {
    fn open(opening: &Opening<'_>, name: &str) -> Result<Self> {
        let one = opening.data_dir().join(name);
        let file = Self { two: one.with_extension("2"), one };
        OpenOptions::new().create(true).append(true).open(file.path())?;
        Ok(file)
    }

    /// As a build of format 1 does, which knows no other name.
    fn open_old(opening: &Opening<'_>, name: &str) -> Result<Self> {
        let one = opening.data_dir().join(name);
        OpenOptions::new().create(true).append(true).open(&one)?;
        Ok(Self { two: one.clone(), one })
    }

    fn path(&self) -> &Path {
        if self.two.exists() { &self.two } else { &self.one }
    }

    fn append(&self, words: &str) -> Result<()> {
        Ok(OpenOptions::new().append(true).open(self.path())?.write_all(words.as_bytes())?)
    }
}

impl Shard for File {
    fn seal(&self) -> Result<u64> {
        Ok(self.revision())
    }

    fn revision(&self) -> u64 {
        fs::metadata(self.path()).map_or(0, |metadata| metadata.len())
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        digest_file(self.path())
    }

    fn resume(&self) -> Result<()> {
        Ok(())
    }
}

/// The previous build.
#[derive(Drainable)]
struct Old {
    #[handoff(gate)]
    gate: Gate,
    log: File,
    audit: File,
}

fn old(opening: &mut Opening<'_>) -> Result<Old> {
    let open = |name| File::open_old(opening, name);
    Ok(Old { gate: Gate::new(), log: open("log")?, audit: open("audit")? })
}

fn fill(old: &Old) -> Result<()> {
    let _pass = old.gate.enter().expect("it admits");
    old.log.append("one, two, three")?;
    old.audit.append("four")
}

/// The same, once it reads what the next one writes.
#[derive(Drainable)]
#[handoff(format = 1, reads = 1..=2)]
struct OldReady {
    #[handoff(gate)]
    gate: Gate,
    log: File,
    audit: File,
}

impl OldReady {
    fn new(log: File, audit: File) -> Self {
        Self { gate: Gate::new(), log, audit }
    }
}

fn old_ready(opening: &mut Opening<'_>) -> Result<OldReady> {
    Ok(OldReady::new(File::open(opening, "log")?, File::open(opening, "audit")?))
}

fn fill_ready(old: &OldReady) -> Result<()> {
    let _pass = old.gate.enter().expect("it admits");
    old.log.append("one, two, three")?;
    old.audit.append("four")
}

/// The next build: with a shard more, another name, and another format.
#[derive(Drainable)]
#[handoff(format = 2, reads = 1..=2)]
struct New {
    #[handoff(gate)]
    gate: Gate,
    #[handoff(added)]
    index: File,
    log: File,
    #[handoff(was = "audit")]
    trail: File,
}

fn new(opening: &Opening<'_>) -> Result<New> {
    let open = |name| File::open(opening, name);
    Ok(New { gate: Gate::new(), index: open("index")?, log: open("log")?, trail: open("audit")? })
}

/// The step that takes the log to format 2, and may run again.
fn migrate(data: &Path) -> Result<()> {
    let [one, two] = ["log", "log.2"].map(|name| data.join(name));
    if !one.exists() {
        return Ok(());
    }
    fs::write(data.join("log.new"), fs::read_to_string(&one)?.to_uppercase())?;
    fs::rename(data.join("log.new"), two)?;
    Ok(fs::remove_file(one)?)
}

fn new_that_migrates(opening: &mut Opening<'_>) -> Result<New> {
    let data = opening.data_dir().to_owned();
    opening.on_commit(move || migrate(&data));
    new(opening)
}

/// The next build with the steps that a test names, each of which gets the data directory.
fn new_with<const N: usize>(
    steps: [fn(&Path) -> io::Result<()>; N],
) -> impl Fn(&mut Opening<'_>) -> Result<New> {
    move |opening| {
        for step in steps {
            let data = opening.data_dir().to_owned();
            opening.on_commit(move || Ok(step(&data)?));
        }
        new(opening)
    }
}

/// The part that failed, and its error.
#[track_caller]
fn failed(outcome: Result<Report, RehearsalError>) -> (Part, Error) {
    let error = outcome.expect_err("a part fails");
    let words = error.to_string();
    let RehearsalError::Failed { part, source } = error else { panic!("{words}") };
    assert!(words.contains(&format!("({part:?})")), "{words}");
    (part, source)
}

/// A directory that a daemon of the previous build has left by a clean stop.
fn left_by_the_old_build() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    fs::create_dir(&data).expect("it is new");
    fs::write(data.join("log"), "one, two, three").expect("it is written");
    fs::write(data.join("audit"), "four").expect("it is written");
    let open = |(), opening: &mut Opening<'_>| {
        opening.stop_handle().stop();
        old(opening)
    };
    let control = directory.path().join("control.sock");
    Daemon::new(control, &data).run(|_| Ok(()), open).expect("it stops");
    (directory, data)
}

fn contents(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(data).expect("it is there");
    let paths = entries.map(|entry| entry.expect("it is read").path());
    paths.map(|path| (path.clone(), fs::read(path).expect("it is a file"))).collect()
}

const TO_THE_COMMIT: [Part; 4] = [Part::Previous, Part::Schema, Part::Open, Part::Rollback];

#[test]
fn a_swap_with_a_way_back_shows_every_part() {
    let report = Rehearsal::on_state_of(old_ready, fill_ready).run(new_that_migrates);
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    let after = [Part::OnCommit, Part::Restart, Part::SwapBack];
    assert_eq!(report.shown, [&TO_THE_COMMIT[..], &after].concat());
    assert_eq!((report.is_one_way, report.steps), (false, 1));
}

#[test]
fn a_one_way_swap_from_a_directory_says_what_it_does_not_show_and_changes_nothing() {
    let (_directory, data) = left_by_the_old_build();
    let before = contents(&data);
    let rehearsal = || Rehearsal::on(&data);
    let report = rehearsal().read_back_by(old).run(new_that_migrates);
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    let after = [Part::OnCommit, Part::Restart];
    assert_eq!(report.shown, [&TO_THE_COMMIT[..], &after].concat());
    assert_eq!((report.is_one_way, report.steps), (true, 1));
    let report = rehearsal().run(new_that_migrates).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.shown, [&TO_THE_COMMIT[..3], &after].concat());
    assert!(report.is_one_way);
    assert_eq!(contents(&data), before);
}

#[test]
fn every_start_gets_the_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = listener.local_addr().expect("it is bound");
    let take = |opening: &mut Opening<'_>| {
        let taken = opening.listeners().take_tcp("notes")?;
        assert_eq!(taken.local_addr()?, address);
        Ok::<_, Error>(())
    };
    let report = Rehearsal::on_state_of(
        |opening| take(opening).and_then(|()| old_ready(opening)),
        fill_ready,
    )
    .with_listener("notes", listener)
    .run(|opening| take(opening).and_then(|()| new_that_migrates(opening)));
    report.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_directory_that_the_previous_build_did_not_leave_by_a_clean_stop_is_told() {
    let (_directory, data) = left_by_the_old_build();
    let run = || Rehearsal::on(&data).read_back_by(old).run(new_that_migrates);
    fs::write(data.join("log"), "one").expect("it is written");
    assert!(matches!(
        failed(run()),
        (Part::Previous, Error::Mismatch(Mismatch::Revision { name, sealed: 15, opened: 3 }))
            if name == "log"
    ));
    let manifest = data.join(".handoff.manifest");
    fs::write(&manifest, "nonsense").expect("it is written");
    let (part, error) = failed(run());
    assert!(matches!(error, Error::Damaged { path, .. } if path == manifest));
    assert_eq!(part, Part::Previous);
    fs::remove_file(&manifest).expect("it is there");
    let error = run().expect_err("it has no seal");
    assert!(matches!(&error, RehearsalError::NotSealed(path) if *path == data), "{error:?}");
    assert!(error.to_string().contains("stop it by its StopHandle"), "{error}");
    fs::remove_dir_all(&data).expect("it is there");
    let error = run().expect_err("it is not there");
    assert!(matches!(&error, RehearsalError::NoDirectory(path) if *path == data), "{error:?}");
    assert!(!data.exists());
}

#[derive(Drainable)]
struct Undeclared {
    #[handoff(gate)]
    gate: Gate,
    index: File,
    log: File,
    audit: File,
}

#[test]
fn a_shard_that_no_build_declares_fails_the_schema() {
    let outcome = Rehearsal::on_state_of(old, fill).run(|opening| {
        let open = |name| File::open_old(opening, name);
        let (index, log, audit) = (open("index")?, open("log")?, open("audit")?);
        Ok(Undeclared { gate: Gate::new(), index, log, audit })
    });
    assert!(matches!(
        failed(outcome),
        (Part::Schema, Error::Schema(Mismatch::NotSealed { name })) if name == "index"
    ));
}

#[test]
fn other_contents_fail_the_opening() {
    let outcome = Rehearsal::on_state_of(old, fill).run(|opening| {
        fs::write(opening.data_dir().join("audit"), "five")?;
        old(opening)
    });
    assert!(matches!(
        failed(outcome),
        (Part::Open, Error::Mismatch(Mismatch::Contents { name, revision: 4 })) if name == "audit"
    ));
}

#[test]
fn a_build_that_says_that_it_is_unhealthy_fails_the_opening() {
    let outcome = Rehearsal::on_state_of(old, fill).run(|opening| {
        opening.unhealthy();
        old(opening)
    });
    assert_eq!(failed(outcome).0, Part::Open);
}

#[test]
fn an_opener_that_panics_fails_the_opening() {
    let outcome = Rehearsal::on_state_of(old, fill).run(|opening| -> Result<Old> {
        panic!("{} is not for this build", opening.data_dir().display())
    });
    assert!(matches!(failed(outcome), (Part::Open, Error::HookPanicked { hook: "open", .. })));
}

#[test]
fn an_opener_that_migrates_before_the_commit_fails_the_rollback() {
    let outcome = Rehearsal::on_state_of(old, fill).run(|opening| {
        migrate(opening.data_dir())?;
        new(opening)
    });
    assert!(matches!(
        failed(outcome),
        (Part::Rollback, Error::Mismatch(Mismatch::Revision { name, sealed: 15, opened: 0 }))
            if name == "log"
    ));
}

#[test]
fn a_step_that_cannot_run_twice_fails_the_commit() {
    let step = |data: &Path| fs::rename(data.join("log"), data.join("log.2"));
    let outcome = Rehearsal::on_state_of(old, fill).run(new_with([step]));
    let (part, error) = failed(outcome);
    assert!(
        matches!(&error, Error::Io(error) if error.kind() == io::ErrorKind::NotFound),
        "{error:?}"
    );
    assert_eq!(part, Part::OnCommit);
}

#[test]
fn a_step_that_leaves_more_when_it_runs_again_fails_the_commit() {
    let step =
        |data: &Path| OpenOptions::new().append(true).open(data.join("audit"))?.write_all(b"!");
    let outcome = Rehearsal::on_state_of(old, fill).run(new_with([step]));
    assert!(matches!(
        failed(outcome),
        (Part::OnCommit, Error::Mismatch(Mismatch::Revision { name, sealed: 5, opened: 6 }))
            if name == "trail"
    ));
}

/// The opener makes an empty log where it finds none, and the first step then takes that for the data.
#[test]
fn steps_that_lose_data_by_an_end_between_them_fail_the_commit() {
    let away = |data: &Path| match data.join("log") {
        log if log.exists() => fs::rename(log, data.join("log.new")),
        _ => Ok(()),
    };
    let back = |data: &Path| match data.join("log.new") {
        new if new.exists() => fs::rename(new, data.join("log.2")),
        _ => Ok(()),
    };
    let outcome = Rehearsal::on_state_of(old, fill).run(new_with([away, back]));
    assert!(matches!(
        failed(outcome),
        (Part::OnCommit, Error::Mismatch(Mismatch::Revision { name, sealed: 15, opened: 0 }))
            if name == "log"
    ));
}

/// A log whose last write stays in memory.
struct Forgetful(File, std::sync::Mutex<u64>);

impl Shard for Forgetful {
    fn seal(&self) -> Result<u64> {
        Ok(self.revision())
    }

    fn revision(&self) -> u64 {
        self.0.revision() + *self.1.lock().expect("no writer panics")
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        self.0.fingerprint()
    }

    fn resume(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Drainable)]
#[handoff(after_admit = "write")]
struct Writing {
    #[handoff(gate)]
    gate: Gate,
    log: Forgetful,
    audit: File,
}

impl Writing {
    fn write(&self) {
        *self.log.1.lock().expect("no writer panics") += 1;
    }
}

#[test]
fn a_build_that_does_not_find_all_that_it_sealed_fails_the_restart() {
    let outcome = Rehearsal::on_state_of(old, fill).run(|opening| {
        let log = Forgetful(File::open_old(opening, "log")?, std::sync::Mutex::default());
        Ok(Writing { gate: Gate::new(), log, audit: File::open_old(opening, "audit")? })
    });
    assert!(matches!(
        failed(outcome),
        (Part::Restart, Error::Mismatch(Mismatch::Revision { name, sealed: 16, opened: 15 }))
            if name == "log"
    ));
}

#[test]
fn a_build_that_does_not_read_the_format_that_it_says_fails_the_swap_back() {
    let claims = |opening: &mut Opening<'_>| {
        let [log, audit] = ["log", "audit"].map(|name| File::open_old(opening, name));
        Ok(OldReady::new(log?, audit?))
    };
    let outcome = Rehearsal::on_state_of(claims, fill_ready).run(new_that_migrates);
    assert!(matches!(
        failed(outcome),
        (Part::SwapBack, Error::Mismatch(Mismatch::Revision { name, sealed: 15, opened: 0 }))
            if name == "log"
    ));
}

#[test]
fn a_build_that_reads_no_half_done_steps_fails_the_swap_back() {
    let copy = |data: &Path| match data.join("log") {
        log if log.exists() => fs::copy(log, data.join("log.2")).map(drop),
        _ => Ok(()),
    };
    let remove = |data: &Path| match data.join("log") {
        log if log.exists() => fs::remove_file(log),
        _ => Ok(()),
    };
    let reader = |opening: &mut Opening<'_>| {
        let log = File::open(opening, "log")?;
        if log.one.exists() && log.two.exists() {
            return Err(io::Error::other("there are two logs").into());
        }
        Ok(OldReady::new(log, File::open(opening, "audit")?))
    };
    let outcome = Rehearsal::on_state_of(reader, fill_ready).run(new_with([copy, remove]));
    let (part, error) = failed(outcome);
    assert!(error.to_string().contains("there are two logs"), "{error}");
    assert_eq!(part, Part::SwapBack);
}
