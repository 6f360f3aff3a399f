//! What goes wrong, how it is told, and that the daemon serves on.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::clients::{Clients, Connection};
use crate::world::World;

/// Puts another file in the place of a build.
fn replace(world: &World, build: &str, text: &str, mode: u32) {
    let path = world.path(build);
    let _ = fs::remove_file(&path);
    world.write(build, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it can be set");
}

/// `handoff run` that does not come to serve: what it says.
fn fails_to_run(world: &World) -> String {
    let (code, words) = world.refused(&["run"]);
    assert_eq!(code, 1, "{words}");
    words
}

#[test]
fn a_port_in_use_is_told_and_nothing_is_started() {
    let world = World::new();
    let taken = TcpListener::bind(("127.0.0.1", world.port)).expect("it was free");
    let words = fails_to_run(&world);
    let told =
        format!("cannot listen on 127.0.0.1:{0} for \"resp\": Address already in use", world.port);
    assert!(words.contains(&told), "{words}");
    assert!(words.contains(&format!("ss -ltnp 'sport = :{}'", world.port)), "{words}");
    drop(taken);
}

#[test]
fn a_binary_that_is_none_is_told_at_the_start_and_at_a_check() {
    let world = World::new();
    fs::remove_file(world.path("v1")).expect("it is there");
    let missing = format!("the binary {} does not exist", world.path("v1").display());
    assert!(fails_to_run(&world).contains(&missing));
    assert!(world.refused(&["check"]).1.contains(&missing));
    fs::create_dir(world.path("v1")).expect("it can be made");
    assert!(fails_to_run(&world).contains("is a directory; name the file in it"));
    fs::remove_dir(world.path("v1")).expect("it is empty");
    replace(&world, "v1", "echo no interpreter\n", 0o755);
    let words = fails_to_run(&world);
    assert!(words.contains("is neither a program nor a script"), "{words}");
    assert!(words.contains("#!/bin/sh"), "{words}");
}

#[test]
fn a_daemon_that_never_serves_is_told_with_what_may_be_wrong() {
    let world = World::new();
    world.configure("[limits]\nstart = \"300ms\"\n");
    replace(&world, "v1", "#!/bin/sh\nexec sleep 1000\n", 0o755);
    let words = fails_to_run(&world);
    assert!(words.contains("did not serve its control socket"), "{words}");
    assert!(words.contains("within 300ms, so it was ended"), "{words}");
    replace(&world, "v1", "#!/bin/sh\necho 'no such option' >&2\nexit 64\n", 0o755);
    let words = fails_to_run(&world);
    assert!(words.contains("no such option\n"), "its own words come first: {words}");
    assert!(words.contains("ended (exit status: 64) before it served"), "{words}");
}

#[test]
fn a_successor_that_is_none_is_refused_and_the_daemon_serves_on() {
    let mut world = World::new();
    world.configure("[limits]\nhello = \"300ms\"\n");
    world.supervise();
    let clients = Clients::start(world.port, 2);
    let pid = world.daemon_pid();
    let v2 = world.path("v2").display().to_string();
    let swap = |world: &World, binary: &str| world.refused(&["swap", "--binary", binary]);
    let follow = |world: &World| world.at_terminal(&["swap", "--binary", &v2, "--wait"]);

    let (code, words) = swap(&world, "/bin/sh");
    assert_eq!(code, 5);
    assert!(words.contains("/bin/sh is not listed in"), "{words}");
    assert!(words.contains("List it under [[binaries]]"), "{words}");

    fs::remove_file(world.path("v2")).expect("it is there");
    assert_eq!(swap(&world, &v2).0, 5);
    fs::create_dir(world.path("v2")).expect("it can be made");
    assert!(swap(&world, &v2).1.contains("is a directory; name the file in it"));
    fs::remove_dir(world.path("v2")).expect("it is empty");
    replace(&world, "v2", "echo no interpreter\n", 0o755);
    assert!(swap(&world, &v2).1.contains("is neither a program nor a script"));
    replace(&world, "v2", "#!/nowhere/sh\n", 0o755);
    let (code, shown) = follow(&world);
    assert_eq!(code, Some(5), "{shown}");
    assert!(shown.contains("not begun: the old process was not touched"), "{shown}");
    replace(&world, "v2", "#!/bin/sh\nexec sleep 1000\n", 0o755);
    let (code, shown) = follow(&world);
    assert_eq!(code, Some(5), "{shown}");
    assert!(shown.contains("the new process said nothing within 300ms"), "{shown}");
    replace(&world, "v2", "#!/bin/sh\nexit 3\n", 0o755);
    let (code, shown) = follow(&world);
    assert_eq!(code, Some(5), "{shown}");
    assert!(shown.contains("ended (exit status: 3) before it said hello"), "{shown}");

    assert_eq!(world.daemon_pid(), pid);
    clients.wait_for_progress();
    clients.stop().assert_failed_only_within(&[]);
}

#[test]
fn a_configuration_that_is_garbage_is_refused_and_the_daemon_serves_on() {
    let mut world = World::new();
    world.supervise();
    let pid = world.daemon_pid();
    let good = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    let unknown = format!("{good}\n[limits]\ndeadlin = \"3s\"\n");
    let line = 1 + unknown.find("deadlin").map_or(0, |at| unknown[..at].matches('\n').count());
    // A client reads it as well, so the supervisor is told by a signal.
    for (text, told) in [
        (unknown, format!("line {line}, column")),
        ("\u{0}\u{1}".to_owned(), "is not a configuration".to_owned()),
        (
            good.replace("control = \"control.sock\"", "control = \"other.sock\""),
            "daemon.control has changed".to_owned(),
        ),
    ] {
        world.write("handoff.toml", &text);
        let supervisor = world.supervisor();
        handoff_tests::harness::kill(supervisor.pid(), rustix::process::Signal::HUP);
        supervisor.wait_to_show(&told);
    }
    // An operator is not left alone with the swap in flight: what the file says of the socket is enough.
    world.write("handoff.toml", &good.replace("[daemon]", "[daemon"));
    assert_eq!(world.daemon_pid(), pid);
    let (code, words) = world.refused(&["abort"]);
    assert_eq!(code, 5, "{words}");
    assert!(
        words.contains("warning: the file is broken") && words.contains("no swap is in flight")
    );
    let (code, words) = world.refused(&["swap", "--wait"]);
    assert_eq!(code, 5, "{words}");
    assert!(words.contains("is not a configuration"), "{words}");
    world.write("handoff.toml", "state_dir = ");
    let (code, words) = world.refused(&["run"]);
    assert_eq!(code, 1);
    assert!(words.contains("line 1, column"), "{words}");
    world.write("handoff.toml", &good);
    assert_eq!(world.daemon_pid(), pid);
    world.said(&["swap", "--wait"]);
}

#[test]
fn a_second_supervisor_is_refused_and_so_is_a_second_daemon_on_the_data() {
    let mut world = World::new();
    world.supervise();
    let pid = world.daemon_pid();
    let words = fails_to_run(&world);
    assert!(words.contains("another supervisor has the journal"), "{words}");
    assert!(words.contains("stop the other one first"), "{words}");

    // One of another daemon, with the same state.
    let text = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    world.write("other.toml", &text.replace("control.sock", "other.sock"));
    let path = world.path("other.toml").display().to_string();
    let output = world.run_with(&path, &["run"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("another supervisor keeps its state in "), "{words}");

    // One that knows nothing of the first: another state, another control socket, the same data.
    let text = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    let port = format!("127.0.0.1:{}", world.port);
    let other = text.replace("control.sock", "other.sock").replace("\"state\"", "\"other\"");
    world.write("other.toml", &other.replace(&port, "127.0.0.1:0"));
    let path = world.path("other.toml").display().to_string();
    let output = world.run_with(&path, &["run"]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("is held by process"), "the daemon says why: {words}");
    assert!(words.contains("before it served its control socket"), "{words}");

    assert_eq!(world.daemon_pid(), pid);
    let mut connection = Connection::to(world.port).expect("it serves");
    assert_eq!(connection.ask("PING").expect("it answers"), "PONG");
}

#[test]
fn a_full_disk_under_the_history_is_told_and_keeps_nobody_from_swapping() {
    let mut world = World::new();
    fs::create_dir(world.path("state")).expect("it can be made");
    symlink("/dev/full", world.path("state/history.jsonl")).expect("it can be linked");
    world.supervise();
    world.supervisor().wait_to_show("this supervisor cannot write the history");
    let v2 = world.path("v2").display().to_string();
    world.said(&["swap", "--binary", &v2, "--wait"]);
    assert_eq!(world.record("last")["end"]["outcome"], "committed");
    let (_, shown) = world.at_terminal(&["status"]);
    assert!(shown.contains("WARNING     the history "), "{shown}");
    assert!(shown.contains("No space left on device"), "{shown}");
    // There is room again.
    fs::remove_file(world.path("state/history.jsonl")).expect("it is there");
    handoff_tests::harness::eventually("it is written", handoff_tests::harness::TIMEOUT, || {
        world.status()["warnings"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    let written = fs::read_to_string(world.path("state/history.jsonl")).expect("it is there");
    assert!(written.contains("\"committed\""), "{written}");
}
