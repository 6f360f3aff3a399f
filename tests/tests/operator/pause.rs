//! `limits.pause`: clients wait no longer, and the operator sees when they began to.

use handoff_tests::harness::{TIMEOUT, eventually};

use crate::clients::Clients;
use crate::world::{World, hold};

/// A build that takes an hour to open.
const SLOW: &str = r#"
[[binaries]]
path = "slow"
args = ["serve", "--data", "data", "--control", "control.sock", "--build", "9", "--open-delay", "3600000"]

[limits]
pause = "5s"
"#;

/// When the step was made, in microseconds since the swap began.
fn at(record: &serde_json::Value, step: &str, phase: Option<&str>) -> u64 {
    let steps = record["steps"].as_array().expect("it has steps");
    let is_it = |made: &&serde_json::Value| {
        made["step"] == step && phase.is_none_or(|phase| made["phase"] == phase)
    };
    let found = steps.iter().find(is_it).and_then(|made| made["at_us"].as_u64());
    found.unwrap_or_else(|| panic!("{step} {phase:?} is not in {record}"))
}

/// The limit ended the pause of the last swap in that phase.
fn assert_undone_by_the_limit(world: &World, limit_s: u64, phase: &str) {
    let record = world.record("last");
    assert_eq!(record["end"]["outcome"], "rolled-back", "{record}");
    let told =
        format!("clients waited for {limit_s}s, the limit of the pause, and the swap was {phase}");
    let cause = record["end"]["cause"].as_str().expect("it failed");
    assert!(cause.starts_with(&told) && cause.contains("`pause` under [limits]"), "{cause}");
    let (closed, undone) =
        (at(&record, "gate-closed", None), at(&record, "entered", Some("rolled back")));
    let paused = (undone - closed) / 1_000_000;
    // The observer's thread tells the time of the first, and may be late.
    assert!(limit_s <= paused + 1 && paused < limit_s + TIMEOUT.as_secs(), "{record}");
}

#[test]
fn an_opening_that_takes_longer_than_the_limit_is_undone_and_the_next_swap_commits() {
    let mut world = World::new();
    std::fs::copy(world.path("v1"), world.path("slow")).expect("it can be copied");
    world.configure(SLOW);
    world.supervise();
    let (clients, pid) = (Clients::start(world.port, 4), world.daemon_pid());
    clients.wait_for_progress();
    let slow = world.path("slow").display().to_string();
    let (code, shown) = world.at_terminal(&["swap", "--binary", &slow, "--wait"]);
    assert_eq!(code, Some(3), "{shown}");
    for told in [
        "the gate is closed: clients wait",
        "rolled back: the old process serves, and has confirmed it",
        "cause: clients waited for 5s, the limit of the pause, and the swap was opening",
        "make the opening of the new build faster",
    ] {
        assert!(shown.contains(told), "{told} is not in {shown}");
    }
    assert_undone_by_the_limit(&world, 5, "opening");
    let explained = world.said(&["help", "errors"]);
    let explained = explained.split_whitespace().collect::<Vec<_>>().join(" ");
    let cause = world.record("last")["end"]["cause"].as_str().expect("it failed").to_owned();
    assert!(explained.contains(&cause), "{cause} is not explained");
    assert_eq!(world.daemon_pid(), pid);
    clients.wait_for_progress();
    let picture = world.path("swap.svg").display().to_string();
    world.said(&["timeline", "last", "-o", &picture]);
    let picture = std::fs::read_to_string(picture).expect("it is drawn");
    assert!(picture.contains("Gate: closed at +"), "{picture}");

    let v2 = world.path("v2").display().to_string();
    world.said(&["swap", "--binary", &v2, "--wait"]);
    assert_eq!(world.build(), "2");
    let record = world.record("last");
    let closed = at(&record, "gate-closed", None);
    assert!(at(&record, "entered", Some("draining")) <= closed, "{record}");
    assert!(closed <= at(&record, "entered", Some("committed")), "{record}");
    clients.stop().assert_failed_only_within(&[]);
}

#[test]
fn a_request_that_does_not_end_is_seen_to_hold_the_clients_up_and_does_so_for_no_longer() {
    let mut world = World::with_fixture();
    world.supervise();
    let pid = world.daemon_pid();
    let _held = hold(&world);
    world.said(&["swap"]);
    let status = eventually("the gate closes", TIMEOUT, || {
        let status = world.status();
        status["swap"]["gate_closed_us"].is_u64().then_some(status)
    });
    assert_eq!(status["swap"]["phase"], "draining");
    let shown = world.said(&["status"]);
    assert!(shown.contains("the gate closed at +"), "{shown}");
    world.said(&["abort"]);

    // The configuration is read again at each swap.
    world.configure("[limits]\npause = \"2s\"\n");
    let (code, shown) = world.at_terminal(&["swap", "--wait"]);
    assert_eq!(code, Some(3), "{shown}");
    assert_undone_by_the_limit(&world, 2, "draining");
    assert_eq!(world.daemon_pid(), pid);

    world.configure("[limits]\npause = \"6m\"\n");
    let (_, words) = world.refused(&["swap"]);
    assert!(words.contains("`pause` (6m) is longer than `deadline` (5m)"), "{words}");
}
