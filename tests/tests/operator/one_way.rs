//! Swaps to a build that writes a format which the build before it does not read.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use handoff_tests::harness::{TIMEOUT, eventually, kill};
use rustix::process::Signal;

use crate::world::World;

/// `handoff swap --wait` to a build: exit code and output.
fn swap(world: &World, build: &str, more: &[&str]) -> (Option<i32>, String) {
    let path = world.path(build).display().to_string();
    let words = ["swap", "--wait", "--no-probation-wait", "--binary", &path];
    world.at_terminal(&[&words[..], more].concat())
}

fn assert_words(shown: &str, words: &[&str]) {
    for words in words {
        assert!(shown.contains(words), "{words}\nis not in\n{shown}");
    }
}

/// How many starts of a daemon have failed.
fn failed_starts(world: &World) -> usize {
    world.said(&["history", "-n", "1000"]).matches("NOT STARTED").count()
}

#[test]
fn a_one_way_swap_is_refused_with_its_remedy_and_made_once_an_operator_allows_it() {
    let mut world = World::with_formats();
    world.supervise();
    let first = world.daemon_pid();
    let (code, shown) = swap(&world, "v2", &[]);
    assert_eq!(code, Some(3), "{shown}");
    assert_words(
        &shown,
        &[
            "rolled back: the old process serves, and has confirmed it",
            "this swap is one-way: the new build writes format 2",
            "the build that serves goes on",
            "Back the data up first",
            "`handoff swap --one-way` (and the same --binary, if one was named)",
        ],
    );
    assert!(!shown.contains("draining"), "{shown}");
    assert_eq!((world.daemon_pid(), world.build()), (first, "base".to_owned()));
    assert!(world.record("last")["one_way"].is_null());

    // The first try of the migration behind the commit fails.
    world.write("data/broken", "");
    let (code, shown) = swap(&world, "v2", &["--one-way"]);
    assert_eq!(code, Some(0), "{shown}");
    let before = shown.find("it may be one-way: once it has committed, no way back is promised");
    assert!(before.is_some_and(|at| at < shown.find("draining").expect("it drains")), "{shown}");
    assert_words(&shown, &["committed: the new process serves", "way back: none is promised"]);
    assert_eq!(world.build(), "formatted");
    let record = world.record("last");
    assert_eq!(record["one_way"], true);
    // Its clients waited for the second try as well.
    let mut steps = record["steps"].as_array().expect("they are kept").iter();
    let committed = steps.find(|step| step["phase"] == "committed").expect("it has");
    let committed = committed["at_us"].as_u64().expect("a time");
    let admitted = record["end"]["admitted_us"].as_u64().expect("it has");
    assert!(admitted > committed + 20_000, "{record}");
    assert_words(&world.said(&["show", "last"]), &["one-way     allowed"]);
    assert_words(
        &world.said(&["history"]),
        &["build base -> build formatted, allowed to be one-way"],
    );
    let words = ["committed, allowed to be one-way", "no way back to it is promised"];
    assert_words(&world.said(&["status"]), &words);
    assert_words(&world.refused(&["abort"]).1, &["may not read the data any more"]);

    let second = world.daemon_pid();
    for more in [&[][..], &["--one-way"]] {
        let (code, shown) = swap(&world, "v1", more);
        assert_eq!(code, Some(3), "{shown}");
        assert_words(&shown, &["the data is of format 2, and this build reads format 1 alone"]);
    }
    assert_eq!((world.daemon_pid(), world.build()), (second, "formatted".to_owned()));
}

#[test]
fn the_configuration_allows_every_one_way_swap_and_that_of_a_hangup() {
    let mut world = World::with_formats();
    world.supervise();
    let hang_up = |world: &mut World, word: &str, outcome: &str| {
        world.configure(word);
        let text = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
        world.write("handoff.toml", &text.replace("\"base\"", "\"formatted\""));
        kill(world.supervisor().pid(), Signal::HUP);
        world.wait_for_last_swap(|record| {
            record["trigger"] == "hangup" && record["end"]["outcome"] == outcome
        });
    };
    hang_up(&mut world, "", "rolled-back");
    assert_eq!(world.build(), "base");
    hang_up(&mut world, "[swap]\none_way = true\n", "committed");
    assert_eq!(world.build(), "formatted");
    world.supervisor().wait_to_show("from its commit on no way back is promised");
}

#[test]
fn a_successor_of_a_one_way_swap_that_dies_in_its_probation_gets_its_place_again() {
    let mut world = World::with_formats();
    world.configure(
        "[restart]\nattempts = 2\nstable = \"1h\"\n[probation]\nfor = \"1h\"\ncommand = [\"true\"]\n",
    );
    world.supervise();
    assert_eq!(swap(&world, "v2", &["--one-way"]).0, Some(0));
    // The next supervisor knows it by the history.
    world.kill_supervisor();
    world.supervise();
    world.kill_daemon();
    assert_eq!((world.build(), failed_starts(&world)), ("formatted".to_owned(), 1));
    let failed = &world.record("last")["probation"]["failed"]["why"];
    assert_eq!(failed, "it died: exit status unknown", "it is no child of this supervisor");
    let warnings = world.status()["warnings"].to_string();
    let words =
        ["does not come to serve", "handoff swap --binary PATH", "restore the data", "/v1 (blake3"];
    assert_words(&warnings, &words);
    // However often it dies from here on, the two do not take turns.
    for _ in 0..5 {
        world.kill_daemon();
        assert_eq!((world.build(), failed_starts(&world)), ("formatted".to_owned(), 1));
    }
    // A corrected build.
    let (code, shown) = swap(&world, "broken", &[]);
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(world.build(), "ready");
    assert_eq!(world.status()["warnings"], serde_json::json!([]));
}

#[test]
fn a_successor_of_a_one_way_swap_that_is_unwell_serves_on_where_nothing_else_can() {
    let mut world = World::with_formats();
    world.configure(
        "[probation]\nfor = \"1h\"\nevery = \"10ms\"\nfailures = 2\ncommand = [\"test\", \"!\", \"-e\", \"unwell\"]\n",
    );
    world.supervise();
    world.write("unwell", "");
    assert_eq!(swap(&world, "v2", &["--one-way"]).0, Some(0));
    let pid = world.daemon_pid();
    world.wait_for_last_swap(|record| {
        record["trigger"]["probation"]["of"].is_string()
            && record["end"]["outcome"] == "rolled-back"
    });
    assert_eq!((world.daemon_pid(), world.build()), (pid, "formatted".to_owned()));
    let warnings = world.status()["warnings"].to_string();
    assert_words(
        &warnings,
        &["no way back was promised", "serves on as it is", "restore the data"],
    );
    // One swap back was tried, and no other one is.
    let swaps = world.said(&["metrics"]);
    assert_words(&swaps, &["handoff_swaps_total{outcome=\"rolled_back\"} 1"]);
    assert_eq!(failed_starts(&world), 0);

    // Both die: the configured binary is the one that does not read the data.
    world.kill_supervisor();
    kill(pid, Signal::KILL);
    world.supervise();
    assert_eq!(world.build(), "formatted");
    assert_ne!(failed_starts(&world), 0);
}

/// No daemon runs, and the first start of the new build fails, as does that of the one before.
#[test]
fn after_a_one_way_swap_a_start_of_the_new_build_that_fails_is_tried_again() {
    let mut world = World::with_formats();
    let configure = |world: &World, build: &str| {
        world.configure("[restart]\nattempts = 1\n");
        let text = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
        world.write("handoff.toml", &text.replace("\"base\"", build));
    };
    configure(&world, "\"base\"");
    world.supervise();
    assert_eq!(swap(&world, "v2", &["--one-way"]).0, Some(0));
    let pid = world.daemon_pid();
    world.kill_supervisor();
    kill(pid, Signal::KILL);
    configure(&world, "\"formatted\"");
    world.write("data/broken", "");
    world.supervise();
    assert_eq!((world.build(), failed_starts(&world)), ("formatted".to_owned(), 2));
}

/// All have died since, and the configured binary is the one that does not read the data.
#[test]
fn a_one_way_swap_that_a_supervisor_did_not_note_to_its_end_leaves_a_daemon_that_starts() {
    let mut world = World::with_formats();
    world.configure("[restart]\nattempts = 2\n");
    world.supervise();
    assert_eq!(swap(&world, "v2", &["--one-way"]).0, Some(0));
    let pid = world.daemon_pid();
    world.kill_supervisor();
    kill(pid, Signal::KILL);
    let noted = fs::read_to_string(world.path("state/history.jsonl")).expect("it is there");
    let is_of_the_end = |line: &&str| line.contains("\"ended\"") || line.contains("\"succeeded\"");
    assert_eq!(noted.lines().filter(is_of_the_end).count(), 2, "{noted}");
    let kept = noted.lines().filter(|line| !is_of_the_end(line)).map(|line| format!("{line}\n"));
    world.write("state/history.jsonl", &kept.collect::<String>());
    world.supervise();
    assert_eq!((world.build(), failed_starts(&world)), ("formatted".to_owned(), 2));
}

/// Without a one-way swap as well: the binary that served before is not tried for ever.
#[test]
fn a_binary_that_does_not_start_any_more_gives_its_place_back() {
    let mut world = World::new();
    world.configure("[restart]\npause = \"1ms\"\nattempts = 2\nstable = \"1h\"\n");
    fs::rename(world.path("v1"), world.path("kvd")).expect("it is there");
    world.write("v1", "#!/bin/sh\ntest -e gone && exit 1\nexec ./kvd \"$@\"\n");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(world.path("v1"), mode).expect("it is ours");
    world.supervise();
    assert_eq!(swap(&world, "v2", &[]).0, Some(0));
    world.write("gone", "");
    for _ in 0..5 {
        world.kill_daemon();
        assert_eq!(world.build(), "2");
    }
    assert_eq!(failed_starts(&world), 2);
    let warned = || {
        let warnings = world.status()["warnings"].to_string();
        warnings.contains("this supervisor does not fall back any more").then_some(())
    };
    eventually("it is told", TIMEOUT, warned);
}
