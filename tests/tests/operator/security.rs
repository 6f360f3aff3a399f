//! Who may tell the supervisor what to do, and what is executed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use handoff_tests::harness::TIMEOUT;

use crate::world::World;

fn connect(world: &World) -> UnixStream {
    let stream = UnixStream::connect(world.path("state/supervisor.sock")).expect("it listens");
    stream.set_read_timeout(Some(TIMEOUT)).expect("it can be set");
    stream
}

fn answer(mut stream: UnixStream) -> String {
    let mut answer = String::new();
    // What was sent and not read resets the connection after the answer.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn clients_that_send_too_much_nothing_or_garbage_are_told_and_harm_nobody() {
    let mut world = World::new();
    world.supervise();
    // One that says nothing is there all the while, and so are many more.
    let silent = connect(&world);
    let crowd: Vec<UnixStream> = (0..40).map(|_| connect(&world)).collect();

    let mut long = connect(&world);
    let _ = long.write_all(&vec![b'x'; 1 << 20]);
    let words = answer(long);
    assert!(words.contains("a request has at most 65536 bytes"), "{words}");

    for garbage in ["\n", "{}\n", "\"dance\"\n", "\u{0}\n", "{\"swap\":{\"binary\":3}}\n"] {
        let mut stream = connect(&world);
        stream.write_all(garbage.as_bytes()).expect("it reads");
        let words = answer(stream);
        assert!(words.contains("this is no request of this version of handoff"), "{words}");
    }
    let stream = connect(&world);
    stream.shutdown(std::net::Shutdown::Write).expect("it can be shut");
    assert!(answer(stream).contains("the connection was closed without a request"));

    world.said(&["swap", "--wait"]);
    assert!(answer(silent).contains("nothing whole was asked within 5 s"));
    drop(crowd);
    let metrics = world.said(&["metrics"]);
    assert!(metrics.contains("handoff_swaps_total{outcome=\"committed\"} 1"), "{metrics}");
    assert!(!metrics.contains("handoff_requests_refused_total 0"), "{metrics}");
}

/// A client of another version asks.
#[test]
fn a_request_with_an_option_of_tomorrow_is_refused_whole_and_one_of_yesterday_is_carried_out() {
    let mut world = World::new();
    world.supervise();
    let ask = |options: &str| {
        let mut stream = connect(&world);
        let request = format!(
            "{{\"swap\":{{\"binary\":null,\"dry_run\":false,\"follow\":true{options}}}}}\n"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        answer(stream)
    };
    let words = ask(",\"of_tomorrow\":true");
    assert!(words.contains("unknown field `of_tomorrow`"), "{words}");
    assert!(words.contains("`handoff upgrade` replaces this supervisor"), "{words}");
    assert!(!world.said(&["history"]).contains("swap"), "{words}");
    let words = ask("");
    assert!(words.contains("\"outcome\":\"committed\""), "{words}");
}

#[test]
fn the_socket_and_the_state_are_the_owner_s_alone() {
    let mut world = World::new();
    world.supervise();
    let mode = |name: &str| {
        let metadata = fs::metadata(world.path(name)).expect("it is there");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("state"), 0o700);
    assert_eq!(mode("state/supervisor.sock"), 0o600);
    assert_eq!(mode("state/history.jsonl"), 0o600);
    if !rustix::process::geteuid().is_root() {
        return; // only root can be somebody else
    }
    // Even where the socket can be reached.
    for (name, mode) in [("", 0o755), ("state", 0o711), ("handoff.toml", 0o644)] {
        let path = world.path(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    let as_nobody = |socket_mode| {
        let socket = world.path("state/supervisor.sock");
        let mode = fs::Permissions::from_mode(socket_mode);
        fs::set_permissions(socket, mode).expect("it is ours");
        let program = world.command(&["stop"]);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--clear-groups"]).arg("--").arg(program.get_program());
        let output = command.args(program.get_args()).output().expect("it can be run");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let words = as_nobody(0o600);
    assert!(words.contains("may not be asked by this user"), "{words}");
    let words = as_nobody(0o666);
    assert!(words.contains("user 65534 may not tell a supervisor of user 0"), "{words}");
    assert_eq!(world.build(), "1");
}

#[test]
fn a_state_directory_that_others_may_write_is_refused() {
    let world = World::new();
    fs::create_dir(world.path("state")).expect("it can be made");
    let mode = fs::Permissions::from_mode(0o777);
    fs::set_permissions(world.path("state"), mode).expect("it is ours");
    let (code, words) = world.refused(&["run"]);
    assert_eq!(code, 1);
    assert!(words.contains("may be written by others (mode 0777, user "), "{words}");
    assert!(words.contains("chmod go-w "), "{words}");
}

#[test]
fn a_file_that_is_not_the_one_pinned_is_not_executed() {
    let mut world = World::new();
    let hash = world.said(&["check"]);
    let hash = hash.lines().find(|line| line.ends_with("/v1")).expect("it is listed");
    let hash = hash.split(' ').next().expect("it is first").to_owned();
    let config = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    let pinned = config.replace("binary = \"v1\"", &format!("binary = \"v1\"\nblake3 = {hash:?}"));
    world.write("handoff.toml", &pinned);
    world.supervise();
    world.said(&["swap", "--wait"]);
    fs::rename(world.path("v1"), world.path("v0")).expect("it is there");
    fs::write(world.path("v1"), "#!/bin/sh\ntouch executed\n").expect("it can be written");
    fs::set_permissions(world.path("v1"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let (code, words) = world.refused(&["swap", "--wait"]);
    assert_eq!(code, 5);
    assert!(words.contains(&format!("and {hash} is wanted")), "{words}");
    assert!(!world.path("executed").exists());
    // Whoever asks for a file by another name gets the listed one, or none.
    let (code, words) = world.refused(&["swap", "--binary", "/usr/bin/env"]);
    assert_eq!(code, 5);
    assert!(words.contains("/usr/bin/env is not listed in"), "{words}");
    assert_eq!(world.build(), "1");
}

#[test]
fn a_script_that_was_written_to_since_it_was_checked_is_not_executed() {
    let mut world = World::new();
    fs::rename(world.path("v1"), world.path("kvd")).expect("it is there");
    world.write("v1", "#!/bin/sh\nexec ./kvd \"$@\"\n");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(world.path("v1"), mode).expect("it is ours");
    world.supervise();
    let daemon = world.daemon_pid();
    let mut script =
        fs::OpenOptions::new().append(true).open(world.path("v1")).expect("it can be opened");
    script.write_all(b"touch executed\n").expect("it can be written");
    handoff_tests::harness::kill(daemon, rustix::process::Signal::KILL);
    world.supervisor().wait_to_show("it was written to since it was checked");
    assert!(!world.path("executed").exists());
}
