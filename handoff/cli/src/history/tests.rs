use std::fs;
use std::io::Write;

use super::*;
use crate::record::{Outcome, Phase, SwapEventKind, Trigger};

fn record(id: &str) -> SwapRecord {
    SwapRecord {
        id: id.to_owned(),
        begun_ms: 7,
        trigger: Trigger::Hangup,
        dry_run: false,
        one_way: false,
        from: Party::default(),
        to: Party { binary: "/opt/b".into(), blake3: "ab".into(), ..Party::default() },
        listeners: Vec::new(),
        steps: Vec::new(),
        end: None,
        probation: None,
    }
}

/// A busy machine takes a line later than a supervisor waits for it.
fn add(history: &mut History, line: Line) {
    history.add(line);
    history.flush(Duration::from_secs(60));
}

fn step(phase: Phase, at_us: u64) -> SwapEvent {
    SwapEvent { at_us, what: SwapEventKind::Entered { phase } }
}

fn end() -> End {
    End {
        outcome: Outcome::RolledBack,
        took_us: 9,
        admitted_us: None,
        cause: Some("why".into()),
        carried: Vec::new(),
    }
}

fn lines(id: &str) -> [Line; 5] {
    let to = Party { pid: Some(4), ..record(id).to };
    [
        Line::Begun(record(id)),
        Line::Known { id: id.into(), from: Party::default(), to },
        Line::Step { id: id.into(), step: step(Phase::Warming, 3) },
        Line::Ended { id: id.into(), end: end() },
        Line::Probation { id: id.into(), probation: Probation::Passed },
    ]
}

fn whole(id: &str) -> SwapRecord {
    let mut whole = record(id);
    whole.to.pid = Some(4);
    whole.steps.push(step(Phase::Warming, 3));
    whole.end = Some(end());
    whole.probation = Some(Probation::Passed);
    whole
}

/// As another version writes, or reads, them: one without the closing of a gate passes over its line.
#[test]
fn the_steps_of_a_swap_are_written_as_before_and_the_closing_of_a_gate_is_a_line_of_its_own() {
    let of = |step| serde_json::to_string(&Line::Step { id: "a".into(), step }).unwrap();
    let entered = r#"{"step":{"id":"a","step":{"at_us":3,"step":"entered","phase":"warming"}}}"#;
    let closed = r#"{"step":{"id":"a","step":{"at_us":5,"step":"gate-closed"}}}"#;
    assert_eq!(of(step(Phase::Warming, 3)), entered);
    assert_eq!(of(SwapEvent { at_us: 5, what: SwapEventKind::GateClosed }), closed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let begun = serde_json::to_string(&Line::Begun(record("a"))).unwrap();
    let tomorrow = closed.replace("gate-closed", "of-tomorrow");
    fs::write(&path, [&begun, entered, closed, &tomorrow].join("\n")).unwrap();
    let entries = read(&path).unwrap();
    let swap = find(&entries, "a").unwrap();
    assert_eq!((swap.steps.len(), swap.gate_closed()), (2, Some(5)));
}

#[test]
fn what_was_added_is_read_by_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let mut history = History::open(&path);
    for line in lines("aa").into_iter().chain(lines("ab")) {
        add(&mut history, line);
    }
    let event = DaemonEvent {
        at_ms: 5,
        kind: DaemonEventKind::Died { status: "killed by SIGKILL".into() },
        daemon: Party::default(),
        args: vec!["serve".into()],
        listeners: None,
    };
    add(&mut history, Line::Daemon(event.clone()));
    assert_eq!(history.swap("aa"), Some(&whole("aa")));
    let again = History::open(&path);
    let all = [Entry::Swap(whole("aa")), Entry::Swap(whole("ab")), Entry::Daemon(event)];
    assert_eq!(again.entries(), &all);
    assert_eq!((again.fault(), history.fault()), (None, None));
}

#[test]
fn a_swap_is_found_by_what_its_id_begins_with() {
    let entries = [Entry::Swap(record("aabb")), Entry::Swap(record("abbb"))].into();
    let found = |id: &str| find(&entries, id).map(|record| record.id.as_str());
    assert_eq!(found("aa"), Some("aabb"));
    assert_eq!(found("abbb"), Some("abbb"));
    assert_eq!(found("last"), Some("abbb"));
    assert_eq!((found("a"), found(""), found("c")), (None, None, None));
}

#[test]
fn a_line_that_is_cut_off_costs_that_line_and_not_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let mut history = History::open(&path);
    for line in lines("aa") {
        add(&mut history, line);
    }
    let written = fs::read(&path).unwrap();
    for length in 0..written.len() {
        fs::write(&path, &written[..length]).unwrap();
        let mut cut = History::open(&path);
        add(&mut cut, Line::Begun(record("bb")));
        let read = read(&path).unwrap();
        assert_eq!(read.back(), Some(&Entry::Swap(record("bb"))), "cut at {length}");
        assert!(read.len() <= 2);
    }
}

#[test]
fn a_disk_that_is_full_is_told_and_what_it_did_not_take_is_written_when_it_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let real = directory.path().join("real");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let mut history = History::open(&path);
    for line in lines("aa") {
        add(&mut history, line);
    }
    assert_eq!(history.swap("aa"), Some(&whole("aa")), "it is known all the same");
    let fault = history.fault().unwrap();
    assert!(fault.contains("lacks 5 lines: No space left on device"), "{fault}");
    fs::remove_file(&path).unwrap();
    fs::write(&real, "").unwrap();
    std::os::unix::fs::symlink(&real, &path).unwrap();
    history.write();
    assert_eq!(history.fault(), None);
    assert_eq!(read(&real).unwrap(), [Entry::Swap(whole("aa"))]);
}

#[test]
fn one_that_cannot_be_read_is_told_and_keeps_nobody_from_supervising() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(directory.path());
    assert!(history.entries().is_empty());
    let fault = history.fault().unwrap();
    assert!(fault.contains("cannot read it: Is a directory"), "{fault}");
}

#[test]
fn a_long_one_is_begun_anew_with_the_last_entries() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let mut history = History::open(&path);
    for line in lines("aa") {
        add(&mut history, line);
    }
    let mut file = open(&path).unwrap();
    let filler = format!("{}\n", " ".repeat(1 << 20));
    for _ in 0..5 {
        file.write_all(filler.as_bytes()).unwrap();
    }
    let mut shortened = History::open(&path);
    add(&mut shortened, Line::Begun(record("ab")));
    let kept = [Entry::Swap(whole("aa")), Entry::Swap(record("ab"))];
    assert_eq!(shortened.entries(), &kept);
    assert!(fs::metadata(&path).unwrap().len() < 10_000);
    assert_eq!(read(&path).unwrap(), kept);
}

#[test]
fn only_so_many_are_kept_in_memory() {
    let mut entries = VecDeque::new();
    for number in 0..2 * MAX_ENTRIES {
        fold(&mut entries, Line::Begun(record(&number.to_string())));
    }
    assert_eq!(entries.len(), MAX_ENTRIES);
    assert_eq!(entries.back(), Some(&Entry::Swap(record(&(2 * MAX_ENTRIES - 1).to_string()))));
}

#[test]
fn after_a_sync_that_failed_all_lines_are_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let mut history = History::open(&path);
    lines("aa").into_iter().for_each(|line| add(&mut history, line));
    // As after a crash of the machine: the disk has not what the kernel dropped.
    fs::write(&path, "").unwrap();
    history.disk.suspect();
    lines("ab").into_iter().take(2).for_each(|line| add(&mut history, line));
    assert_eq!(&read(&path).unwrap(), history.entries());
    assert_eq!(history.fault(), None);
    lines("ab").into_iter().skip(2).for_each(|line| add(&mut history, line));
    assert_eq!(&read(&path).unwrap(), history.entries());
}
