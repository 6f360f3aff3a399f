//! The next build has another struct: shards come and go, get other names and another order, and
//! formats grow, forwards and back. Each way is taken with the change declared and without.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use handoff::supervisor::{
    ChildProcess, Committed, Failed, IncumbentFate, Session, Timings, Warmed,
};
use handoff::{SpawnSpec, Supervisor};
use rustix::process::{Pid, Signal, kill_process};

/// A daemon of some build, and its supervisor.
struct Running {
    data: Data,
    supervisor: Supervisor,
    daemon: Killed,
}

/// A daemon that ends with the test.
struct Killed(ChildProcess);

impl Killed {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.pid().cast_signed()).expect("it is a process");
        kill_process(pid, signal).expect("it is not collected yet");
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        self.0.wait_until(deadline).expect("it can be waited for").expect("it ends")
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.signal(Signal::KILL);
            self.ended();
        }
    }
}

impl Running {
    fn start(build: &str) -> Self {
        Data(tempfile::tempdir().expect("a temporary directory")).start_well(build)
    }

    /// Pairs with a build that may write a format which the present one does not read.
    fn warm(&self, build: &str, one_way: bool) -> Result<Session<Warmed>, Failed> {
        let spec = SpawnSpec { one_way, ..self.data.spec(build) };
        self.supervisor.pair(spec).expect("it starts").warm()
    }

    fn swap(&mut self, build: &str, one_way: bool) -> Result<Timings, Failed> {
        let session = self.warm(build, one_way)?;
        let committed = session.prepare_and_seal()?.begin()?.commit()?;
        let Committed { successor, timings, .. } = committed;
        let mut old = std::mem::replace(&mut self.daemon, Killed(successor));
        assert!(old.ended().success());
        Ok(timings)
    }

    /// A swap that is given up when the successor has opened the data.
    fn roll_back(&self, build: &str, one_way: bool) -> Result<(), Failed> {
        let session = self.warm(build, one_way)?;
        let rolled_back = session.prepare_and_seal()?.begin()?.abort("another day");
        assert_eq!(rolled_back.incumbent, IncumbentFate::Serving);
        Ok(())
    }

    fn end(mut self, signal: Signal) -> Data {
        self.daemon.signal(signal);
        self.daemon.ended();
        self.data
    }
}

/// The directory of a daemon that does not run.
struct Data(tempfile::TempDir);

impl Data {
    fn start_well(self, build: &str) -> Running {
        self.start(build).unwrap_or_else(|(_, words)| panic!("{build}: {words}"))
    }

    /// Starts a build on the data, or says why that does not serve.
    fn start(self, build: &str) -> Result<Running, (Self, String)> {
        let supervisor = Supervisor::new(&self.0.path().join(CONTROL)).expect("it binds");
        if let Ok(daemon) = supervisor.start(&self.spec(build)) {
            return Ok(Running { data: self, supervisor, daemon: Killed(daemon) });
        }
        let mut by_hand = Command::new(FIXTURE);
        let output = by_hand.args(self.arguments(build)).output().expect("it runs");
        assert!(!output.status.success());
        Err((self, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn spec(&self, build: &str) -> SpawnSpec {
        SpawnSpec { args: self.arguments(build).to_vec(), ..SpawnSpec::new(FIXTURE) }
    }

    fn arguments(&self, build: &str) -> [String; 3] {
        let path = |name: &str| self.0.path().join(name).display().to_string();
        [path(CONTROL), path("data"), build.to_owned()]
    }

    /// The writes to the log, by the byte that each has left.
    fn log(&self) -> String {
        let log = |name: &str| fs::read_to_string(self.0.path().join("data").join(name));
        log("log.of-format-2").or_else(|_| log("log")).unwrap_or_default()
    }
}

/// A way from one build to another, or the words of its refusal.
#[derive(Debug, Clone, Copy)]
enum Way {
    StartAfterStop,
    StartAfterCrash,
    Swap,
    RollBack,
}

impl Way {
    const ALL: [Self; 4] =
        [Self::StartAfterStop, Self::StartAfterCrash, Self::Swap, Self::RollBack];

    /// Takes it. After a refusal the build before serves, or starts, with all that it had.
    fn take(self, from: &str, to: &str, one_way: bool) -> String {
        let mut running = Running::start(from);
        let refused = match self {
            Self::StartAfterStop => return start(running.end(Signal::TERM), from, to),
            Self::StartAfterCrash => return start(running.end(Signal::KILL), from, to),
            Self::Swap => running.swap(to, one_way).map(drop),
            Self::RollBack => running.roll_back(to, one_way),
        };
        let Err(failed) = refused else {
            let serves = if matches!(self, Self::Swap) { to } else { from };
            running.end(Signal::TERM).start_well(serves).end(Signal::TERM);
            return "works".to_owned();
        };
        assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
        let when = if failed.timings.drain.is_zero() { "before the drain" } else { "in the pause" };
        let said = remedy(&failed.to_string());
        running.swap(from, false).unwrap_or_else(|failed| panic!("{from}: {failed}"));
        running.end(Signal::TERM);
        format!("{said}, {when}")
    }
}

fn start(data: Data, from: &str, to: &str) -> String {
    let before = data.log();
    match data.start(to) {
        Ok(running) => {
            let writes = running.end(Signal::TERM).log().len();
            assert_eq!(writes, before.len() + 1, "{from} to {to}");
            "works".to_owned()
        }
        Err((data, words)) => {
            assert_eq!(data.log(), before, "a refusal changes nothing");
            data.start_well(from).end(Signal::TERM);
            remedy(&words)
        }
    }
}

/// The part of a refusal that says what to do: the attributes, or the formats.
fn remedy(words: &str) -> String {
    let attributes: Vec<_> = words.match_indices("#[").collect();
    let attributes =
        attributes.into_iter().filter_map(|(at, _)| words[at..].split_inclusive(']').next());
    let attributes = attributes.collect::<Vec<_>>().join(" or ");
    let formats = words.find("of format").and_then(|at| words[at..].split(':').next());
    if attributes.is_empty() { formats.unwrap_or(words).to_owned() } else { attributes }
}

/// The builds before and after a change, and the one after it that does not declare it.
const CHANGES: [(&str, &str, Option<&str>); 9] = [
    ("base", "added", Some("added only")),
    ("base", "removed", Some("removed only")),
    ("base", "renamed", Some("renamed only")),
    ("base", "reordered", None),
    ("base", "grown", Some("grown only")),
    ("base", "formatted", Some("formatted only")),
    ("ready", "formatted", None),
    ("base", "log formatted", Some("log formatted only")),
    ("log ready", "log formatted", None),
];

#[test]
fn each_change_of_a_struct_is_taken_each_way_as_the_table_says() {
    let mut table = String::new();
    for (before, after, undeclared) in CHANGES {
        let one_way = before == "base" && after.ends_with("formatted");
        let mut ways = vec![(before, after, one_way), (after, before, false)];
        if let Some(undeclared) = undeclared {
            ways.push((before, undeclared, one_way));
        }
        for (from, to, one_way) in ways {
            let outcomes = Way::ALL.map(|way| (way, way.take(from, to, one_way)));
            let _ = writeln!(table, "{from} to {to}");
            for (way, outcome) in outcomes {
                let _ = writeln!(table, "    {:<18}{outcome}", format!("{way:?}"));
            }
        }
    }
    println!("{table}");
    assert_eq!(table, include_str!("structs.txt"));
}

#[test]
fn what_cannot_be_undone_is_done_behind_the_commit_and_again_until_it_works() {
    let mut running = Running::start("base");
    fs::write(running.data.0.path().join("data/broken"), "").expect("it is written");
    running.swap("formatted", true).unwrap_or_else(|failed| panic!("{failed}"));
    let migrated = running.data.0.path().join("data/log.of-format-2");
    // The end comes only after the first admission.
    let data = running.end(Signal::TERM);
    assert_eq!(fs::read_to_string(&migrated).expect("it is migrated"), "*+");
    let data = data.start_well("formatted").end(Signal::TERM);
    assert_eq!(data.log(), "*++");
}

#[test]
fn a_one_way_swap_that_nobody_allowed_is_refused_before_the_drain() {
    let mut running = Running::start("base");
    let refused = running.warm("formatted", false).expect_err("nobody allowed it").to_string();
    for words in
        ["one-way", "writes format 2", "reads format 1 alone", "--one-way", "SpawnSpec::one_way"]
    {
        assert!(refused.contains(words), "{refused}");
    }
    running.swap("base", false).unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn the_pause_of_a_swap_includes_its_steps_behind_the_commit() {
    for (from, one_way) in [("base", true), ("ready", false)] {
        let mut running = Running::start(from);
        fs::write(running.data.0.path().join("data/slow"), "").expect("it is written");
        let timings =
            running.swap("formatted", one_way).unwrap_or_else(|failed| panic!("{failed}"));
        assert!(timings.commit >= Duration::from_millis(300), "{from}: {timings:?}");
    }
}

#[test]
fn until_the_commit_the_build_before_reads_its_data() {
    let running = Running::start("base");
    running.roll_back("formatted", true).unwrap_or_else(|failed| panic!("{failed}"));
    let data = running.end(Signal::KILL);
    // It has admitted twice.
    assert_eq!(data.log(), "++");
    assert_eq!(data.start_well("base").end(Signal::TERM).log(), "+++");
}

#[test]
fn a_newer_build_declares_its_own_losses() {
    let mut running = Running::start("newer has");
    let failed = running.swap("newer loses", true).expect_err("index is lost");
    assert!(failed.to_string().contains("#[handoff(retired(\"index\"))]"), "{failed}");
    assert!(failed.timings.drain.is_zero(), "{failed}");
    let Err((_, words)) = running.end(Signal::KILL).start("newer loses") else {
        panic!("index is lost")
    };
    assert!(words.contains("#[handoff(retired(\"index\"))]"), "{words}");
}

/// How many elements a vector has only its value tells, and that is there once it is opened.
#[test]
fn a_vector_of_another_length_is_found_after_the_opening_and_undone() {
    let mut running = Running::start("base");
    let failed = running.swap("vector", false).expect_err("it is not declared");
    assert!(failed.to_string().contains("#[handoff(resizable)]"), "{failed}");
    assert_eq!(failed.incumbent, IncumbentFate::Serving);
    running.swap("base", false).unwrap_or_else(|failed| panic!("{failed}"));
}

/// The hint of the build before is gone, as if an older build of the library had written the data.
#[test]
fn without_the_schema_of_the_build_before_the_format_in_the_record_decides() {
    let data = Running::start("formatted").end(Signal::KILL);
    fs::remove_file(data.0.path().join("data/.handoff.schema")).expect("it is there");
    let Err((data, words)) = data.start("base") else { panic!("it reads format 1 alone") };
    assert!(words.contains("of format 2, and this build reads format 1 alone"), "{words}");
    let running = data.start_well("formatted");
    fs::remove_file(running.data.0.path().join("data/.handoff.schema")).expect("it is there");
    let failed = running.warm("base", true).expect_err("it reads format 1 alone");
    assert!(
        failed.to_string().contains("of format 2, and this build reads format 1 alone"),
        "{failed}"
    );
}

#[test]
fn a_schema_that_is_damaged_or_in_the_way_keeps_nobody_from_serving() {
    let mut running = Running::start("base");
    let schema = running.data.0.path().join("data/.handoff.schema");
    fs::write(&schema, "handoff-schema 1\nnonsense").expect("it is written");
    running.swap("added", false).unwrap_or_else(|failed| panic!("{failed}"));
    let data = running.end(Signal::TERM);
    fs::remove_file(&schema).expect("it is there");
    fs::create_dir(&schema).expect("it is made");
    let data = data.start_well("added").end(Signal::TERM).start_well("base").end(Signal::TERM);
    assert!(schema.is_dir(), "it is not ours");
    assert!(!data.0.path().join("data/.handoff.schema.new").exists());
}

const CONTROL: &str = "control.sock";
const FIXTURE: &str = env!("CARGO_BIN_EXE_fixture-structs");
/// For hangs.
const LONG: Duration = Duration::from_secs(60);
