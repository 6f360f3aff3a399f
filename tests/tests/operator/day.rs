//! A day of an operator.

use std::time::Instant;

use handoff_tests::harness::{TIMEOUT, eventually, kill};
use rustix::process::Signal;

use crate::clients::Clients;
use crate::world::{World, hold, zombies_of};

/// From the first start to the last stop, with clients that write throughout.
#[test]
fn a_daemon_is_run_swapped_undone_killed_adopted_upgraded_and_stopped() {
    let mut world = World::new();
    let check = "[probation]\nfor = \"1h\"\nevery = \"20ms\"\nfailures = 2\ncommand = [\"test\", \"!\", \"-e\", \"unwell\"]\n";
    world.supervise();
    world.supervisor().wait_to_show("the daemon serves");
    let clients = Clients::start(world.port, 4);
    clients.wait_for_progress();

    // Status.
    let (code, shown) = world.at_terminal(&["status"]);
    assert_eq!(code, Some(0));
    assert!(shown.starts_with("daemon      serving since "), "{shown}");
    assert!(shown.contains("v1, build 1, process "), "{shown}");
    let first = world.daemon_pid();

    // Swap.
    let v2 = world.path("v2").display().to_string();
    let (code, shown) = world.at_terminal(&["swap", "--binary", &v2, "--wait"]);
    assert_eq!(code, Some(0), "{shown}");
    for phase in ["is started", "warming", "draining", "sealing", "opening", "committing"] {
        assert!(shown.contains(phase), "{phase} is not in {shown}");
    }
    assert!(shown.contains("committed: the new process serves"), "{shown}");
    assert_eq!(world.build(), "2");
    assert_ne!(world.daemon_pid(), first);
    clients.wait_for_progress();

    // A swap that fails.
    let broken = world.path("broken").display().to_string();
    let (code, shown) = world.at_terminal(&["swap", "--binary", &broken, "--wait"]);
    assert_eq!(code, Some(3), "{shown}");
    assert!(shown.contains("rolled back: the old process serves, and has confirmed it"), "{shown}");
    assert!(shown.contains("told to fail by --fail-open"), "{shown}");
    assert_eq!(world.build(), "2");
    clients.wait_for_progress();

    // A swap for the sake of trying, and then one back.
    let (code, shown) = world.at_terminal(&["swap", "--dry-run", "--wait"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("dry run: the new process warmed up"), "{shown}");
    assert!(!shown.contains("draining"), "{shown}");
    let (code, shown) = world.at_terminal(&["swap", "--wait"]);
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(world.build(), "1");
    clients.wait_for_progress();

    // The daemon dies.
    let mut windows = Vec::new();
    let killed = Instant::now();
    world.kill_daemon();
    clients.wait_for_progress();
    windows.push((killed, Instant::now()));
    world.supervisor().wait_to_show("the daemon has died");

    // The supervisor dies, and another one is started.
    let served = world.daemon_pid();
    world.kill_supervisor();
    clients.wait_for_progress();
    let (code, words) = world.refused(&["status"]);
    assert_eq!(code, 4);
    assert!(words.contains("start one: handoff run"), "{words}");
    assert!(world.said(&["history"]).contains("DIED (killed by SIGKILL)"));
    world.configure(check);
    world.supervise();
    world.supervisor().wait_to_show("adopted the daemon that serves");
    assert_eq!(world.daemon_pid(), served);
    clients.wait_for_progress();

    // A successor that is not well after its commit.
    world.write("unwell", "");
    let told = world.run(&["swap", "--binary", &v2, "--wait", "--json"]);
    assert_eq!(told.status.code(), Some(6), "{told:?}");
    let said = String::from_utf8(told.stdout).expect("it is text");
    let told = |line: Option<&str>| -> serde_json::Value {
        serde_json::from_str(line.expect("it says something")).expect("it is JSON")
    };
    let (begun, judged) = (told(said.lines().next()), told(said.lines().last()));
    let unproven = begun["begun"]["id"].clone();
    assert_eq!(judged["judged"]["swap"]["id"], unproven);
    assert_eq!(judged["judged"]["back"]["end"]["outcome"], "committed");
    assert_eq!(judged["judged"]["serves"]["build"], "1");
    assert_eq!(world.build(), "1");
    let failed = &world.record(unproven.as_str().expect("an id"))["probation"]["failed"]["why"];
    assert!(failed.as_str().is_some_and(|why| why.contains("exit status: 1")), "{failed}");
    clients.wait_for_progress();

    // The supervisor is upgraded.
    let (before, daemon) = (world.supervisor().pid(), world.daemon_pid());
    let since = world.status()["supervisor"]["since_ms"].clone();
    let (code, shown) = world.at_terminal(&["upgrade"]);
    assert_eq!(code, Some(0), "{shown}");
    let after = world.wait_for_daemon("serving");
    assert_eq!(after["supervisor"]["pid"], before);
    assert_ne!(after["supervisor"]["since_ms"], since);
    assert_eq!(after["daemon"]["party"]["pid"], daemon);
    clients.wait_for_progress();
    let (code, shown) = world.at_terminal(&["swap", "--wait", "--no-probation-wait"]);
    assert_eq!(code, Some(0), "{shown}");
    clients.wait_for_progress();

    // What was replaced or died has been collected.
    let supervisor = world.supervisor().pid();
    eventually("no child is a zombie", TIMEOUT, || zombies_of(supervisor).is_empty().then_some(()));

    // Stop.
    let tally = clients.stop();
    tally.assert_failed_only_within(&windows);
    world.supervisor().interrupt();
    let (code, shown) = world.supervisor().finish();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("this supervisor tells the daemon to stop"), "{shown}");
    assert!(world.said(&["history", "-n", "1"]).contains("stopped (exit status: 0)"));

    // And everything is there at the next start.
    world.supervise();
    tally.assert_nothing_lost(world.port);
    assert_eq!(world.said(&["stop"]), "stopped; the daemon: exit status: 0\n");
}

/// One that waits for a drain, and one that comes second.
#[test]
fn a_swap_in_flight_is_shown_names_who_holds_it_up_keeps_others_out_and_is_aborted() {
    let mut world = World::with_fixture();
    world.configure("[limits]\ndrain_grace = \"1h\"\ndeadline = \"2h\"\n");
    world.supervise();
    let held = hold(&world);
    let name = held.local_addr().expect("it is connected").to_string();
    let v2 = world.path("v2").display().to_string();
    world.said(&["swap", "--binary", &v2]);
    let who = eventually("the drain says for whom it waits", TIMEOUT, || {
        world.status()["swap"]["waits_for"].as_str().map(str::to_owned)
    });
    assert_eq!(who, name);
    let id = world.status()["swap"]["id"].as_str().expect("one is in flight").to_owned();
    let (_, shown) = world.at_terminal(&["status"]);
    assert!(shown.contains(&format!("the drain waits for {name}")), "{shown}");

    let (code, words) = world.refused(&["swap", "--binary", &v2, "--wait"]);
    assert_eq!(code, 5);
    assert!(words.contains(&format!("swap {id} is in flight")), "{words}");

    let (code, shown) = world.at_terminal(&["abort", "--reason", "it takes too long"]);
    assert_eq!(code, Some(0), "{shown}");
    let record = world.record(&id);
    assert_eq!(record["end"]["outcome"], "rolled-back");
    assert_eq!(record["end"]["cause"], "the supervisor was asked to abort: it takes too long");
    assert_eq!(world.build(), "1");
    let (code, words) = world.refused(&["abort"]);
    assert_eq!((code, words.contains("no swap is in flight")), (5, true), "{words}");
}

/// One that dies in its probation is not given a second try.
#[test]
fn a_successor_that_dies_in_its_probation_is_replaced_by_what_served_before() {
    let mut world = World::new();
    world.configure("[probation]\nfor = \"1h\"\ncommand = [\"true\"]\n");
    world.supervise();
    let v2 = world.path("v2").display().to_string();
    let mut swap = world.terminal(&["swap", "--binary", &v2, "--wait"]);
    swap.wait_to_show("on probation for 1h");
    let (_, shown) = world.at_terminal(&["status"]);
    assert!(shown.contains("probation   of swap "), "{shown}");
    world.kill_daemon();
    let (code, shown) = swap.finish();
    assert_eq!(code, Some(6), "{shown}");
    assert!(shown.contains("probation failed: it died: killed by SIGKILL"), "{shown}");
    assert!(shown.contains("what served before serves again: "), "{shown}");
    assert_eq!(world.build(), "1");
    let failed = &world.record("last")["probation"]["failed"]["why"];
    assert_eq!(failed, "it died: killed by SIGKILL");
}

/// One exit code is the truth: also where what committed did not last.
#[test]
fn a_swap_that_is_waited_for_tells_how_its_probation_ended() {
    let mut world = World::new();
    let probation = |length: &str, more: &str| {
        format!(
            "[probation]\nfor = \"{length}\"\nevery = \"20ms\"\nfailures = 2\ncommand = [\"test\", \"!\", \"-e\", \"unwell\"]\n{more}"
        )
    };
    world.configure(&probation("200ms", ""));
    let codes = |world: &World| {
        let codes = ["status", "is-active"].map(|command| world.run(&[command]));
        assert!(codes[1].stdout.is_empty() && codes[1].stderr.is_empty(), "{codes:?}");
        codes.map(|output| output.status.code().expect("it exits"))
    };
    assert_eq!(codes(&world), [4, 4], "no supervisor runs");
    world.supervise();
    assert_eq!(codes(&world), [0, 0]);

    // To the same binary: there is no other one to go back to.
    world.write("unwell", "");
    let (code, shown) = world.at_terminal(&["swap", "--wait"]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("there was no swap back: "), "{shown}");
    std::fs::remove_file(world.path("unwell")).expect("it is there");
    let v2 = world.path("v2").display().to_string();

    let (code, shown) = world.at_terminal(&["swap", "--binary", &v2, "--wait"]);
    assert_eq!(code, Some(0), "{shown}");
    for words in ["committed: the new process serves", "on probation for ", "probation passed"] {
        assert!(shown.contains(words), "{words} is not in {shown}");
    }

    // It is unwell from the first check on.
    world.write("unwell", "");
    world.configure(&probation("1h", ""));
    let (code, shown) = world.at_terminal(&["swap", "--wait"]);
    assert_eq!(code, Some(6), "{shown}");
    for words in
        ["probation failed: ", "exit status: 1", "what served before serves again, by swap "]
    {
        assert!(shown.contains(words), "{words} is not in {shown}");
    }
    assert_eq!(world.build(), "2");
    let (_, shown) = world.at_terminal(&["status"]);
    assert!(shown.contains("it undid swap ") && shown.contains("exit status: 1"), "{shown}");
    assert!(shown.contains("WARNING     swap "), "{shown}");

    // The commit alone is of interest.
    let (code, shown) = world.at_terminal(&["swap", "--wait", "--no-probation-wait"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("probation"), "{shown}");
    world.wait_for_last_swap(|record| {
        record["trigger"]["probation"]["of"].is_string() && record["end"]["outcome"] == "committed"
    });

    // Another swap comes first.
    std::fs::remove_file(world.path("unwell")).expect("it is there");
    let mut first = world.terminal(&["swap", "--wait"]);
    first.wait_to_show("on probation for 1h");
    let mut second = world.terminal(&["swap", "--binary", &v2, "--wait"]);
    let (code, shown) = first.finish();
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("probation not finished: another swap committed: "), "{shown}");
    second.wait_to_show("on probation for 1h");
    // The supervisor stops.
    world.said(&["stop"]);
    let (code, shown) = second.finish();
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("the supervisor was stopped"), "{shown}");
    let (code, words) = world.refused(&["swap", "--no-probation-wait"]);
    assert!(code == 2 && words.contains("--wait"), "{words}");
}

/// A daemon that does not come to serve is told by the exit code.
#[test]
fn a_daemon_that_is_dead_is_not_active() {
    let mut world = World::new();
    world.configure("[restart]\npause = \"1h\"\n");
    world.supervise();
    let daemon = world.daemon_pid();
    world.kill_daemon();
    // The second death in a row is followed by a pause.
    kill(world.daemon_pid(), Signal::KILL);
    let shown = world.wait_for_daemon("dead");
    assert_ne!(shown["daemon"]["party"]["pid"], daemon);
    assert_eq!(world.refused(&["status"]).0, 3);
    assert_eq!(world.refused(&["is-active"]), (3, String::new()));
}

/// A daemon that keeps dying gives its place to the binary that served before.
#[test]
fn a_binary_that_keeps_dying_gives_its_place_to_what_served_before() {
    let mut world = World::new();
    let restart = "[restart]\npause = \"1ms\"\nattempts = 2\nstable = \"1h\"\n";
    world.configure(restart);
    world.supervise();
    let clients = Clients::start(world.port, 2);
    clients.wait_for_progress();
    let v2 = world.path("v2").display().to_string();
    world.said(&["swap", "--binary", &v2, "--wait"]);
    let killed = Instant::now();
    for _ in 0..2 {
        assert_eq!(world.build(), "2");
        world.kill_daemon();
    }
    assert_eq!(world.build(), "1");
    let warnings = world.status()["warnings"].to_string();
    assert!(warnings.contains("kept dying"), "{warnings}");
    clients.wait_for_progress();
    clients.stop().assert_failed_only_within(&[(killed, Instant::now())]);
}

/// `SIGHUP` swaps to what lies at the configured path by then, and what lay there before is still
/// at hand.
#[test]
fn a_hangup_swaps_to_the_file_that_was_put_in_place_and_the_one_before_can_be_gone_back_to() {
    let mut world = World::new();
    world.configure(
        "[probation]\nfor = \"1h\"\nevery = \"10ms\"\nfailures = 1\ncommand = [\"test\", \"!\", \"-e\", \"unwell\"]\n",
    );
    world.supervise();
    let before = world.status()["daemon"]["party"]["blake3"].clone();
    // Another file under the same name, as a package manager leaves it.
    std::fs::copy(world.path("v1"), world.path("v1.new")).expect("it can be copied");
    let mut new = std::fs::OpenOptions::new()
        .append(true)
        .open(world.path("v1.new"))
        .expect("it can be opened");
    std::io::Write::write_all(&mut new, b"\0").expect("it can be written");
    drop(new);
    std::fs::rename(world.path("v1.new"), world.path("v1")).expect("it can be renamed");
    kill(world.supervisor().pid(), Signal::HUP);
    world.wait_for_last_swap(|record| {
        record["trigger"] == "hangup" && record["end"]["outcome"] == "committed"
    });
    assert_ne!(world.status()["daemon"]["party"]["blake3"], before);
    // The file that it goes back to has no name any more.
    world.write("unwell", "");
    world.wait_for_last_swap(|record| {
        record["trigger"]["probation"]["of"].is_string() && record["end"]["outcome"] == "committed"
    });
    assert_eq!(world.status()["daemon"]["party"]["blake3"], before);
    // It is known by its own name.
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", world.daemon_pid()));
    assert_eq!(comm.expect("it runs"), "v1\n");
}

/// A supervisor that dies in the midst of a swap leaves a history that says what became of it.
#[test]
fn a_swap_whose_supervisor_dies_is_resolved_and_told_by_the_next() {
    let mut world = World::with_fixture();
    world.supervise();
    let _held = hold(&world);
    let v2 = world.path("v2").display().to_string();
    world.said(&["swap", "--binary", &v2]);
    eventually("it drains", TIMEOUT, || {
        (world.status()["swap"]["phase"] == "draining").then_some(())
    });
    let served = world.daemon_pid();
    world.kill_supervisor();
    world.supervise();
    let record = world.record("last");
    assert_eq!(record["end"]["outcome"], "rolled-back");
    assert_eq!(record["end"]["cause"], "its supervisor died; the next one resolved it");
    assert_eq!((world.daemon_pid(), world.build()), (served, "1".to_owned()));
}

/// A supervisor that is told twice does not wait.
#[test]
fn a_second_signal_hastens_the_end() {
    let mut world = World::new();
    world.configure("[limits]\nstop = \"1h\"\n");
    world.supervise();
    // It hears nothing any more.
    kill(world.daemon_pid(), Signal::STOP);
    let supervisor = world.supervisor().pid();
    kill(supervisor, Signal::TERM);
    world.wait_for_daemon("stopping");
    kill(supervisor, Signal::TERM);
    let (code, shown) = world.supervisor().finish();
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("told to stop again: it kills the daemon"), "{shown}");
}
