//! The name of a socket that is removed while the supervisor runs comes back.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use handoff_tests::fixture::bring;
use handoff_tests::harness::{TIMEOUT, eventually};

use crate::world::World;

/// Waits until a supervisor answers, and checks the socket by which it does.
fn assert_answers(world: &World, socket: &Path) {
    eventually("the supervisor answers", TIMEOUT, || {
        world.run(&["status"]).status.success().then_some(())
    });
    let mode = fs::metadata(socket).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert!(is_listed(socket), "a cleaner would take {} for dead", socket.display());
}

/// Whether the kernel lists a socket at that path.
fn is_listed(path: &Path) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").expect("there is a kernel");
    let path = path.display().to_string();
    sockets.lines().any(|line| line.ends_with(&format!(" {path}")))
}

#[test]
fn the_supervisor_s_socket_comes_back_when_it_or_its_directory_is_removed() {
    let mut world = World::new();
    let config = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    world.write("handoff.toml", &format!("socket = \"run/deep/own.sock\"\n{config}"));
    world.supervise();
    let socket = world.path("run/deep/own.sock");
    assert_answers(&world, &socket);
    fs::remove_file(&socket).expect("it is there");
    assert_answers(&world, &socket);
    fs::remove_dir_all(world.path("run")).expect("it is there");
    assert_answers(&world, &socket);
    world.supervisor().wait_to_show("this supervisor has brought it back");
    // Another socket, on which nobody listens.
    fs::remove_file(&socket).expect("it is there");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("the name is free"));
    assert_answers(&world, &socket);
    world.said(&["upgrade"]);
    world.wait_for_daemon("serving");
    fs::remove_file(&socket).expect("it is there");
    assert_answers(&world, &socket);
    // A file of somebody else stays, and is told of.
    fs::remove_file(&socket).expect("it is there");
    fs::write(&socket, "mine").expect("the name is free");
    world.supervisor().wait_to_show("this supervisor cannot bring it back");
    assert_eq!(fs::read(&socket).expect("it is there"), b"mine");
    fs::remove_file(&socket).expect("it is there");
    assert_answers(&world, &socket);
    world.said(&["swap", "--wait"]);
    world.said(&["stop"]);
    assert!(!socket.exists(), "no supervisor needs it any more");
}

#[test]
fn a_listener_s_name_comes_back_and_leads_to_the_socket_that_the_daemon_has() {
    let mut world = World::with_fixture();
    world.configure("[[listeners]]\nname = \"local\"\naddress = \"unix:local.sock\"\n");
    world.supervise();
    let path = world.path("local.sock");
    let ask = || {
        let mut stream = UnixStream::connect(&path).ok()?;
        bring(&stream, &[]).ok()?;
        stream.write_all(b"pid\n").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    let inode = || fs::symlink_metadata(&path).expect("it is there").ino();
    let first = inode();
    let assert_reached = |world: &World| {
        let pid = world.daemon_pid().to_string();
        eventually("the daemon is reached", TIMEOUT, || (ask()? == pid).then_some(()));
        assert_eq!(inode(), first, "it is the socket of before");
        let hidden = world.path(".local.sock.kept");
        eventually("it has its second name", TIMEOUT, || hidden.exists().then_some(()));
        assert!(is_listed(&path));
    };
    assert_reached(&world);
    for removes_second in [false, true] {
        if removes_second {
            fs::remove_file(world.path(".local.sock.kept")).expect("it is there");
            assert_reached(&world);
        }
        fs::remove_file(&path).expect("it is there");
        assert_reached(&world);
    }
    world.said(&["swap", "--wait"]);
    fs::remove_file(&path).expect("it is there");
    assert_reached(&world);
    // The next supervisor has it from the daemon, and looks after it as well.
    world.kill_supervisor();
    fs::remove_file(&path).expect("it is there");
    world.supervise();
    assert_reached(&world);
}

/// The kernel accepts connections on it all the same, and nobody serves them.
#[test]
fn a_listener_that_the_daemon_does_not_take_is_told() {
    let mut world = World::new();
    let more = "[[listeners]]\nname = \"admin\"\naddress = \"unix:admin.sock\"\nmode = \"0600\"\nbacklog = 7\n";
    world.configure(more);
    world.supervise();
    let metadata = fs::metadata(world.path("admin.sock")).expect("it is bound");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    world.said(&["swap", "--wait"]);
    let words = "the daemon has not taken the listener admin at unix:";
    world.supervisor().wait_to_show(words);
    let warnings = world.status()["warnings"].to_string();
    assert!(warnings.contains(words) && !warnings.contains("listener resp"), "{warnings}");
}
