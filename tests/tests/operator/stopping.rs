//! A stop, whatever is being done.

use handoff_tests::harness::{TIMEOUT, eventually, kill};
use rustix::process::Signal;

use crate::world::World;

/// A build that takes an hour to open.
const SLOW: &str = r#"
[[binaries]]
path = "slow"
args = ["serve", "--data", "data", "--control", "control.sock", "--build", "9", "--open-delay", "3600000"]
"#;

fn world() -> World {
    let world = World::new();
    std::fs::copy(world.path("v1"), world.path("slow")).expect("it can be copied");
    world.configure(SLOW);
    world
}

fn swap_until_it_opens(world: &World) {
    let slow = world.path("slow").display().to_string();
    world.said(&["swap", "--binary", &slow]);
    eventually("it opens", TIMEOUT, || {
        (world.status()["swap"]["phase"] == "opening").then_some(())
    });
}

#[test]
fn a_swap_in_flight_is_undone_first() {
    let mut world = world();
    world.supervise();
    swap_until_it_opens(&world);
    kill(world.supervisor().pid(), Signal::TERM);
    let (code, shown) = world.supervisor().finish();
    assert_eq!(code, Some(0), "{shown}");
    let record = world.record("last");
    assert_eq!(record["end"]["outcome"], "rolled-back");
    let cause = "the supervisor was asked to abort: the supervisor is stopping";
    assert_eq!(record["end"]["cause"], cause);
    assert!(world.said(&["history", "-n", "1"]).contains("stopped (exit status: 0)"));
}

#[test]
fn a_swap_is_aborted_while_the_successor_opens() {
    let mut world = world();
    world.supervise();
    swap_until_it_opens(&world);
    let (code, shown) = world.at_terminal(&["abort"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("the old process serves, and has confirmed it"), "{shown}");
    assert_eq!(world.build(), "1");
}

#[test]
fn a_start_is_given_up() {
    let mut world = world();
    let text = std::fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    let slow =
        text.replacen("\"--build\", \"1\"", "\"--build\", \"1\", \"--open-delay\", \"3600000\"", 1);
    world.write("handoff.toml", &slow);
    world.supervise_until("starting");
    world.supervisor().interrupt();
    let (code, shown) = world.supervisor().finish();
    assert_eq!(code, Some(0), "{shown}");
}

#[test]
fn an_operator_that_leaves_ends_no_swap() {
    let mut world = world();
    world.supervise();
    let v2 = world.path("v2").display().to_string();
    // At a terminal that is closed as soon as it is begun.
    let mut terminal = world.terminal(&["swap", "--binary", &v2, "--wait"]);
    terminal.wait_to_show("swap ");
    terminal.kill();
    world.wait_for_last_swap(|record| record["end"]["outcome"] == "committed");
    assert_eq!(world.build(), "2");
}
