//! A stop, whatever is being done.

use std::io::Write;
use std::net::TcpStream;

use handoff_tests::fixture::{NAP, struck};
use handoff_tests::harness::{TIMEOUT, eventually, kill};
use rustix::process::Signal;

use crate::clients::Clients;
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

/// Has the first build take an hour to open as well.
fn slow_to_start(world: &World) {
    let text = std::fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    let slow = "\"--build\", \"1\", \"--open-delay\", \"3600000\"";
    world.write("handoff.toml", &text.replacen("\"--build\", \"1\"", slow, 1));
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
    slow_to_start(&world);
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

/// The daemon is left alone: it serves its clients, and the next supervisor adopts it.
#[test]
fn a_supervisor_that_leaves_ends_nothing_and_the_next_one_goes_on() {
    let mut world = World::new();
    world.configure("[probation]\nfor = \"1h\"\nevery = \"20ms\"\ncommand = [\"true\"]\n");
    world.supervise();
    let clients = Clients::start(world.port, 4);
    clients.wait_for_progress();
    let v2 = world.path("v2").display().to_string();
    let mut swap = world.terminal(&["swap", "--binary", &v2, "--wait"]);
    swap.wait_to_show("on probation for 1h");
    let daemon = world.daemon_pid();

    kill(world.supervisor().pid(), Signal::QUIT);
    assert_eq!(world.supervisor().exit_code(), Some(0));
    world.supervisor().wait_to_show("this supervisor leaves the daemon serving");
    clients.wait_for_progress();
    assert!(!world.path("state/supervisor.sock").exists(), "nobody answers there");
    let (code, shown) = swap.finish();
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("a daemon that serves goes on without it"), "{shown}");

    world.supervise();
    assert_eq!(world.daemon_pid(), daemon);
    let probation = &world.status()["probation"];
    assert_eq!(probation["swap"], world.record("last")["id"], "{probation}");
    clients.wait_for_progress();

    let said = world.said(&["stop", "--keep-daemon"]);
    let serves = "the supervisor stopped, and the daemon serves on: ";
    assert!(said.starts_with(serves) && said.contains(&format!("process {daemon}")), "{said}");
    assert_eq!(world.supervisor().exit_code(), Some(0));
    clients.wait_for_progress();
    assert!(world.refused(&["status"]).1.contains("start one: handoff run"));
    world.supervise();
    assert_eq!(world.daemon_pid(), daemon);
    let tally = clients.stop();
    tally.assert_failed_only_within(&[]);
    world.said(&["stop"]);
}

#[test]
fn a_supervisor_that_leaves_undoes_the_swap_in_flight_first() {
    let mut world = world();
    world.supervise();
    let daemon = world.daemon_pid();
    let clients = Clients::start(world.port, 2);
    swap_until_it_opens(&world);
    let said = world.said(&["stop", "--keep-daemon"]);
    assert!(said.contains(&format!("process {daemon}")), "{said}");
    let record = world.record("last");
    assert_eq!(record["end"]["outcome"], "rolled-back");
    assert_eq!(record["end"]["cause"], "the supervisor was asked to abort: the supervisor leaves");
    assert_eq!(world.supervisor().exit_code(), Some(0));
    world.supervise();
    assert_eq!((world.daemon_pid(), world.build()), (daemon, "1".to_owned()));
    clients.stop().assert_failed_only_within(&[]);
}

/// Whoever wants the daemon to end is not kept from it by one who does not.
#[test]
fn a_supervisor_that_waits_to_leave_can_be_told_to_stop() {
    let mut world = world();
    slow_to_start(&world);
    world.supervise_until("starting");
    let supervisor = world.supervisor().pid();
    kill(supervisor, Signal::QUIT);
    world.wait_for_daemon("stopping");
    kill(supervisor, Signal::TERM);
    let (code, shown) = world.supervisor().finish();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("this supervisor was told to leave the daemon serving"), "{shown}");
    assert!(shown.contains("the supervisor is stopping"), "{shown}");
}

#[test]
fn a_daemon_that_starts_is_waited_for_and_left() {
    let mut world = World::new();
    world.wait_before_start("go");
    world.supervise_until("starting");
    kill(world.supervisor().pid(), Signal::QUIT);
    world.wait_for_daemon("stopping");
    world.write("go", "");
    assert_eq!(world.supervisor().exit_code(), Some(0));
    world.supervisor().wait_to_show("this supervisor leaves the daemon serving");
    let clients = Clients::start(world.port, 1);
    clients.wait_for_progress();
    world.supervise();
    world.supervisor().wait_to_show("adopted the daemon that serves");
    clients.stop().assert_failed_only_within(&[]);
}

/// The stop comes too late to undo it, and is for the daemon that serves then.
#[test]
fn a_swap_that_commits_nevertheless_ends_with_the_stop_of_the_new_process() {
    let mut world = World::with_fixture();
    let text = std::fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    let slow = r#""--build", "2", "--fault", "admit=slow:3000""#;
    world.write("handoff.toml", &text.replacen(r#""--build", "2""#, slow, 1));
    world.supervise();
    let v2 = world.path("v2").display().to_string();
    world.said(&["swap", "--binary", &v2]);
    eventually("it commits", TIMEOUT, || {
        (world.status()["swap"]["phase"] == "committing").then_some(())
    });
    // It hears that the new process serves, and that it is to stop, at once.
    let supervisor = world.supervisor().pid();
    let new = world.status()["swap"]["to"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    kill(supervisor, Signal::STOP);
    let mut client = TcpStream::connect(("127.0.0.1", world.port)).expect("somebody listens");
    client.write_all(b"nap 1\n").expect("it is read");
    let marks = world.path("marks");
    eventually("the new process answers", TIMEOUT, || (struck(&marks, NAP, new) > 0).then_some(()));
    kill(supervisor, Signal::TERM);
    kill(supervisor, Signal::CONT);
    let (code, shown) = world.supervisor().finish();
    assert_eq!(code, Some(0), "{shown}");
    let record = world.record("last");
    assert_eq!(record["end"]["outcome"], "committed", "{record}");
    let stopped = world.said(&["history", "-n", "1"]);
    let pid = &record["to"]["pid"];
    assert!(stopped.contains("stopped (exit status: 0)"), "{stopped}");
    assert!(stopped.contains(&format!("process {pid},")), "{stopped}");
}
