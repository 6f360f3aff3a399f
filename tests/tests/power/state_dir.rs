//! The power is cut while the program `handoff` writes its history, its journal and the rest of its
//! state, and it is started on each state that the disk may then have.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fuser::Errno;
use handoff::Supervisor;
use handoff::supervisor::Adoption;
use handoff_tests::harness::{TIMEOUT, eventually, processes_in, program};

use super::check::{self, Case};
use super::fuse::{Fault, On, With};
use super::site::{self, Site};
use super::{is_skipped, line};

type Scenario = (&'static str, &'static str, fn(&mut Site));

const ALL: &[Scenario] = &[
    ("a first start, and a stop", "", |site| {
        site.serve();
        site.stop();
    }),
    ("a swap that commits", "", |site| {
        site.serve();
        site.swap("v2", 0);
    }),
    ("a swap that is rolled back", "", |site| {
        site.serve();
        site.swap("broken", 3);
    }),
    ("a swap back in a probation", PROBATION, |site| {
        site.serve();
        site.swap("v2", 0);
        eventually("it is swapped back", TIMEOUT, || {
            let swaps = site::history(site.disk.path());
            (swaps.iter().filter(|entry| entry.contains("committed")).count() == 2).then_some(())
        });
        site.told();
    }),
    ("a daemon that dies", "", |site| {
        site.serve();
        site.kill_daemon();
        site.told();
    }),
    ("an upgrade of the program", "", |site| {
        site.serve();
        let (code, words) = site.handoff(&["upgrade"]);
        assert_eq!(code, Some(0), "{words}");
        site.swap("v2", 0);
    }),
    ("a supervisor that dies, and one that adopts", "", |site| {
        site.serve();
        site.kill_supervisor();
        site.serve();
        site.stop();
        site.serve();
    }),
    ("a swap that is in flight", "", |site| {
        site.serve();
        site.swap_until_opening();
    }),
    ("a sync of the history that fails", "", |site| {
        site.serve();
        let with = With::Errno(Errno::EIO);
        let fault = Fault { on: On::Sync, name: "history.jsonl", with, after: 0, times: 1 };
        site.disk.plan(fault);
        site.swap("v2", 0);
        assert_eq!(site.disk.struck(), 1);
    }),
];

#[test]
fn after_a_power_cut_the_program_starts_and_its_history_has_all_that_was_told() {
    if is_skipped("after_a_power_cut_the_program_starts_and_its_history_has_all_that_was_told") {
        return;
    }
    let wanted = std::env::var("HANDOFF_POWER").map_or(WANTED, |_| super::wanted());
    let records = super::side_by_side(ALL.len(), |index| {
        let (name, more, run) = ALL[index];
        let mut site = Site::new(more);
        run(&mut site);
        let left = site.daemon();
        let events = site.cut();
        (name, events, (left, site))
    });
    let limit = (wanted / 100).max(FEW);
    let of_all: Vec<_> = records.iter().map(|(_, events, _)| check::cases(events, limit)).collect();
    let count: usize = of_all.iter().map(|(_, cases)| cases.len()).sum();
    let heading = ["points", "states", "wrong"];
    let mut table = line("until the power is cut", heading);
    let (mut points, mut states, mut wrong) = (0, 0, Vec::new());
    for ((name, ..), (of_points, cases)) in records.iter().zip(of_all) {
        let step = count.div_ceil(wanted);
        let cases: Vec<Case> = cases.into_iter().step_by(step).collect();
        let found = check::check_all(&cases, |case, directory| {
            reads(case, directory)?;
            if case.point % STARTED == 0 { starts(case, directory) } else { Ok(()) }
        });
        table += &line(name, [of_points, cases.len(), found.len()]);
        points += of_points;
        states += cases.len();
        wrong.extend(found.into_iter().take(3).map(|(case, words)| {
            let case = &cases[case];
            format!("{name}, at {}: {words}\non {:#?}", case.point, case.tree)
        }));
    }
    println!("{table}{}", line("all", [points, states, wrong.len()]));
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(points >= 300, "{points} points");
    // The daemons of the boot before run still: nobody took them for those of this one.
    let left = records.iter().filter_map(|(.., (left, site))| Some(((*left)?, site)));
    let left: Vec<_> =
        left.map(|(pid, site)| processes_in(site.disk.path()).contains(&pid)).collect();
    assert_eq!(left, vec![true; ALL.len() - 1]);
}

/// The history has each entry that was told, once; and no process of the journal's counts.
fn reads(case: &Case, directory: &Path) -> Result<(), String> {
    has_all(case, directory)?;
    if !directory.join("state").is_dir() {
        return Ok(());
    }
    let control = directory.join("state/daemon.sock");
    for _ in 0..2 {
        let opened = Supervisor::new(&control)
            .and_then(|supervisor| supervisor.with_journal(control.with_added_extension("journal")))
            .and_then(|mut supervisor| supervisor.adopt(Duration::ZERO));
        match opened {
            Ok(Adoption::Nothing { resolved: None }) => {}
            other => return Err(format!("the journal: {other:?}")),
        }
    }
    Ok(())
}

fn has_all(case: &Case, directory: &Path) -> Result<(), String> {
    let entries = site::history(directory);
    let distinct: BTreeSet<&String> = entries.iter().collect();
    if distinct.len() != entries.len() {
        return Err(format!("an entry is there twice: {entries:?}"));
    }
    let missing: Vec<_> = case.promised.told.iter().filter(|it| !distinct.contains(it)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} is missing of {entries:?}")) }
}

/// `handoff run` starts a daemon, and stops it; nothing else of the directory is touched.
fn starts(case: &Case, directory: &Path) -> Result<(), String> {
    let (state, foreign) = (directory.join("state"), directory.join("state/notes"));
    fs::create_dir_all(&state).expect("it can be made");
    fs::write(&foreign, "another's").expect("it can be written");
    let mut run = Command::new(program("handoff"));
    let mut supervisor = site::start(run.arg("run"), directory);
    let served = eventually("the daemon serves, or the program ends", TIMEOUT, || {
        if let Some(status) = supervisor.try_wait().expect("it is ours") {
            return Some(Err(format!("it ended: {status}")));
        }
        let status = site::status(directory)?;
        (status["daemon"]["state"] == "serving").then_some(Ok(status))
    });
    let ended = served.and_then(|status| {
        let pid = &status["daemon"]["party"]["pid"];
        let entries = site::history(directory);
        let (code, words) = site::handoff(directory, &["stop"]);
        let ended = supervisor.wait().expect("it is ours");
        let last = entries.last().cloned().unwrap_or_default();
        if !last.ends_with(&format!("\"started\" {pid}")) {
            return Err(format!("the daemon was not started: {entries:?}"));
        }
        if code != Some(0) || !ended.success() {
            return Err(format!("it does not stop: {words}{ended}"));
        }
        has_all(case, directory)
    });
    let ended = ended.and_then(|()| match fs::read_to_string(&foreign) {
        Ok(text) if text == "another's" => Ok(()),
        other => Err(format!("another's file is {other:?}")),
    });
    let _ = supervisor.kill();
    let _ = supervisor.wait();
    site::end_all_in(directory);
    ended.map_err(|words| format!("{words}\n{}", site::said(directory)))
}

const PROBATION: &str =
    "[probation]\nfor = \"60s\"\nevery = \"20ms\"\nfailures = 1\ncommand = [\"false\"]\n";
/// So many states of one point are looked at in an ordinary run.
const FEW: usize = 8;
/// So many states are checked in an ordinary run, at most.
const WANTED: usize = 400;
/// At one point of so many the program is started; elsewhere its files are read.
const STARTED: usize = 5;
