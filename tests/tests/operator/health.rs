//! A daemon that hangs while it serves, or is not well by its own check, is noticed.

use handoff_tests::harness::{TIMEOUT, eventually, kill};
use rustix::process::Signal;

use crate::clients::Connection;
use crate::world::World;

const QUICK: &str = "[health]\nevery = \"20ms\"\ntimeout = \"1s\"\nfailures = 2\n";

fn metric(world: &World) -> String {
    let metrics = world.said(&["metrics"]);
    let line = metrics.lines().find_map(|line| line.strip_prefix("handoff_daemon_well "));
    line.expect("it is there").to_owned()
}

#[test]
fn a_daemon_that_does_not_answer_is_told_of_until_it_answers() {
    let mut world = World::new();
    world.configure(QUICK);
    world.supervise();
    let pid = world.daemon_pid();
    assert_eq!(metric(&world), "1");
    kill(pid, Signal::STOP);
    let status = world.wait_for_daemon("unwell");
    let told = status["daemon"]["last_failure"].to_string();
    assert!(told.contains("it does not answer over its control socket within 1s"), "{told}");
    assert!(status["warnings"].to_string().contains("its clients may wait"), "{status}");
    assert_eq!(metric(&world), "0");
    assert_eq!(world.run(&["status"]).status.code(), Some(4));
    assert_eq!(world.run(&["is-active"]).status.code(), Some(4));
    world.supervisor().wait_to_show("This supervisor leaves it alone");
    kill(pid, Signal::CONT);
    world.wait_for_daemon("serving");
    world.supervisor().wait_to_show("the daemon is well again");
    assert_eq!(world.run(&["is-active"]).status.code(), Some(0));
    assert_eq!((world.daemon_pid(), metric(&world)), (pid, "1".to_owned()));
    // It is asked in vain while a swap is made, and that is nobody's fault.
    world.said(&["swap", "--wait"]);
    assert_eq!(world.status()["daemon"]["state"], "serving");
}

#[test]
fn a_daemon_that_fails_its_own_check_is_told_of() {
    let mut world = World::new();
    world.configure(&format!("{QUICK}command = [\"test\", \"-e\", \"well\"]\n"));
    world.write("well", "");
    world.supervise();
    let pid = world.daemon_pid();
    std::fs::remove_file(world.path("well")).expect("it is there");
    let status = world.wait_for_daemon("unwell");
    let told = status["daemon"]["last_failure"].to_string();
    assert!(told.contains("the command \\\"test\\\": exit status: 1"), "{told}");
    let (_, shown) = world.at_terminal(&["status"]);
    assert!(shown.contains("not well since"), "{shown}");
    world.write("well", "");
    world.wait_for_daemon("serving");
    assert_eq!(world.daemon_pid(), pid);
}

#[test]
fn a_daemon_that_hangs_is_started_anew_where_the_configuration_says_so() {
    let mut world = World::new();
    world.configure(&format!("{QUICK}restart = true\n"));
    world.supervise();
    let pid = world.daemon_pid();
    let mut connection = Connection::to(world.port).expect("it serves");
    assert_eq!(connection.ask("SET key value").expect("it answers"), "OK");
    kill(pid, Signal::STOP);
    eventually("another one serves", TIMEOUT, || {
        let status = world.wait_for_daemon("serving");
        (status["daemon"]["party"]["pid"] != pid).then_some(())
    });
    world
        .supervisor()
        .wait_to_show("a write that it acknowledged before it had it on disk is lost");
    let mut connection = Connection::to(world.port).expect("it serves");
    assert_eq!(connection.ask("GET key").expect("it answers"), "value");
    let history = world.said(&["history"]);
    assert!(history.contains("DIED (killed by SIGKILL"), "{history}");
}
