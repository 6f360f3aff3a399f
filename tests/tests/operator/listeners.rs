//! Listeners that are added, removed, moved and renamed in the configuration: a swap takes the change
//! over, or is refused before anything is begun.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use command_fds::{CommandFdExt, FdMapping};
use handoff_tests::harness::{Client, Clients, TIMEOUT, Tally, eventually, kill};
use rustix::process::Signal;

use crate::world::{World, free_port};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A listener as the configuration says it.
fn listener(name: &str, address: &str) -> String {
    format!("[[listeners]]\nname = {name:?}\naddress = {address:?}\n")
}

/// What the daemon was passed besides the listener of its clients, as it says.
fn passed(world: &World) -> String {
    let mut client = Client::connect(at(world.port)).expect("the daemon serves");
    client.ask("listeners").expect("it answers")
}

/// The warnings of `handoff status`.
fn warnings(world: &World) -> String {
    world.status()["warnings"].to_string()
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(at(port)).is_ok()
}

/// The process that was replaced, and leaves, may have it for a moment.
fn wait_until_closed(world: &World, port: u16) {
    eventually("it is closed everywhere", TIMEOUT, || {
        let words = format!("127.0.0.1:{port} is configured no more");
        (!is_open(port) && !warnings(world).contains(&words)).then_some(())
    });
}

fn assert_nothing_failed(tally: &Tally) {
    let faults = (tally.refused, tally.reset, tally.unanswered, &tally.failed);
    assert_eq!(faults, (0, 0, 0, &Vec::new()));
    assert!(!tally.written.is_empty());
}

#[test]
fn a_swap_adds_moves_renames_and_removes_listeners_while_clients_write() {
    let mut world = World::with_fixture();
    world.supervise();
    let clients = Clients::start(at(world.port), 4, "all");
    let (first, second) = (free_port(), free_port());
    let unix = listener("admin", "unix:admin.sock") + "mode = \"0620\"\n";
    world.configure(&(listener("extra", &format!("127.0.0.1:{first}")) + &unix));
    let shown = world.said(&["swap", "--wait"]);
    assert!(shown.contains("committed"), "{shown}");
    assert_eq!(passed(&world), format!("extra tcp {first},admin unix admin.sock"));
    let file = world.path("admin.sock");
    assert_eq!(fs::metadata(&file).expect("it is bound").permissions().mode() & 0o777, 0o620);
    UnixStream::connect(&file).expect("somebody listens");
    assert!(is_open(first));

    // SIGHUP is a swap as well.
    world.configure(&(listener("extra", &format!("127.0.0.1:{second}")) + &unix));
    let pid = world.daemon_pid();
    kill(world.supervisor().pid(), Signal::HUP);
    eventually("another process serves", TIMEOUT, || (world.daemon_pid() != pid).then_some(()));
    assert_eq!(passed(&world), format!("extra tcp {second},admin unix admin.sock"));
    wait_until_closed(&world, first);

    // The very socket, under another name, and the other one's mode is another.
    let wider = listener("admin", "unix:admin.sock") + "mode = \"0666\"\n";
    world.configure(&(wider + &listener("other", &format!("127.0.0.1:{second}"))));
    let waiting = TcpStream::connect(at(second)).expect("it is held");
    world.said(&["swap", "--wait"]);
    assert_eq!(passed(&world), format!("admin unix admin.sock,other tcp {second}"));
    assert_eq!(fs::metadata(&file).expect("it is bound").permissions().mode() & 0o777, 0o666);
    waiting.set_nonblocking(true).expect("a socket");
    let mut byte = [0];
    let still = waiting.peek(&mut byte).expect_err("nobody has closed it");
    assert_eq!(still.kind(), std::io::ErrorKind::WouldBlock);
    drop(waiting);

    world.configure("");
    world.said(&["swap", "--wait"]);
    assert_eq!(passed(&world), "");
    wait_until_closed(&world, second);
    eventually("its file is removed", TIMEOUT, || {
        (!file.exists() && !world.path(".admin.sock.kept").exists()).then_some(())
    });
    assert_eq!(warnings(&world), "[]");
    assert_nothing_failed(&clients.stop());
}

#[test]
fn the_listener_of_the_clients_moves_and_those_that_are_connected_stay() {
    let mut world = World::with_fixture();
    world.supervise();
    let mut connected = Client::connect(at(world.port)).expect("the daemon serves");
    let (before, pid) = (world.port, world.daemon_pid());
    world.port = free_port();
    world.configure("");
    world.said(&["swap", "--wait"]);
    assert_ne!(world.daemon_pid(), pid);
    wait_until_closed(&world, before);
    assert_eq!(connected.ask("pid").expect("it is carried"), world.daemon_pid().to_string());
    assert_eq!(passed(&world), "");
}

#[test]
fn a_listener_that_cannot_be_had_refuses_the_swap_before_anything_is_begun() {
    let mut world = World::with_fixture();
    world.supervise();
    let clients = Clients::start(at(world.port), 2, "refused");
    let pid = world.daemon_pid();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = taken.local_addr().map(|at| (taken, at.port())).expect("it is bound");
    world.write("file", "mine");
    let own = format!("[::]:{}", world.port);
    let added = listener("first", "unix:first.sock");
    for (more, told) in [
        (listener("a", &format!("127.0.0.1:{}", taken.1)), "who has it says: ss -ltnp"),
        (listener("a", "192.0.2.1:7000"), "no interface of this machine has that address"),
        (listener("a", "unix:file"), "it is no socket; it was left alone"),
        (listener("a", "unix:nowhere/a.sock"), "No such file or directory"),
    ] {
        world.configure(&(added.clone() + &more));
        let (code, words) = world.refused(&["swap", "--wait"]);
        assert_eq!(code, 5, "{words}");
        assert!(words.contains("cannot listen on") && words.contains(told), "{words}");
        assert!(!world.path("first.sock").exists(), "what was bound before it is undone");
    }
    // The port of one that is still held; a flag that is shared.
    world.configure("");
    let blocking = format!("127.0.0.1:{}\"\nblocking = true\n#\"", world.port);
    let config = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    for (text, told) in [
        (
            config.replace(&format!("127.0.0.1:{}", world.port), &own),
            "stays open until the new process serves",
        ),
        (
            config.replace(&format!("127.0.0.1:{}", world.port), &blocking),
            "shares that flag of the socket",
        ),
    ] {
        world.write("handoff.toml", &text);
        let (code, words) = world.refused(&["swap", "--wait"]);
        assert_eq!(code, 5, "{words}");
        assert!(words.contains(told), "{words}");
    }
    assert!(warnings(&world).contains("are not those of the daemon; the next swap"));
    let (_, words) = world.refused(&["upgrade"]);
    assert!(words.contains("swap first (handoff swap), then upgrade"), "{words}");
    world.write("handoff.toml", &config);
    assert_eq!(world.run(&["show", "last"]).status.code(), Some(1), "no swap was begun");
    assert_eq!(world.daemon_pid(), pid);
    world.said(&["swap", "--wait"]);
    world.said(&["upgrade"]);
    assert_nothing_failed(&clients.stop());
}

#[test]
fn a_swap_that_is_undone_leaves_the_listeners_as_they_were() {
    let mut world = World::with_fixture();
    let (kept, added) = (free_port(), free_port());
    let kept_line = listener("kept", &format!("127.0.0.1:{kept}"));
    world.configure(&kept_line);
    world.supervise();
    let clients = Clients::start(at(world.port), 2, "undone");
    let more = listener("added", &format!("127.0.0.1:{added}")) + &listener("file", "unix:f.sock");
    world.configure(&more);
    let broken = world.path("broken").display().to_string();
    for arguments in
        [&["swap", "--wait", "--binary", &broken][..], &["swap", "--wait", "--dry-run"]]
    {
        let _ = world.run(arguments);
        assert_eq!(passed(&world), format!("kept tcp {kept}"));
        assert!(is_open(kept) && !is_open(added) && !world.path("f.sock").exists());
    }
    assert!(warnings(&world).contains("takes them over"));
    world.said(&["swap", "--wait"]);
    assert_eq!(passed(&world), format!("added tcp {added},file unix f.sock"));
    wait_until_closed(&world, kept);
    // A daemon that dies is started with what it had.
    let tally = clients.stop();
    assert_nothing_failed(&tally);
    world.kill_daemon();
    assert_eq!(passed(&world), format!("added tcp {added},file unix f.sock"));
}

#[test]
fn a_swap_back_takes_the_listeners_of_before_as_well() {
    let mut world = World::with_fixture();
    let (before, after) = (free_port(), free_port());
    world.configure(&listener("old", &format!("127.0.0.1:{before}")));
    world.supervise();
    let clients = Clients::start(at(world.port), 2, "back");
    let probation =
        "[probation]\nfor = \"10m\"\nevery = \"10ms\"\nfailures = 1\ncommand = [\"/bin/false\"]\n";
    world.configure(&(listener("new", &format!("127.0.0.1:{after}")) + probation));
    assert_eq!(world.run(&["swap", "--wait"]).status.code(), Some(6));
    assert_eq!(passed(&world), format!("old tcp {before}"));
    wait_until_closed(&world, after);
    assert!(is_open(before));
    assert_nothing_failed(&clients.stop());
}

#[test]
fn the_next_supervisor_knows_which_listeners_the_configuration_had() {
    let mut world = World::with_fixture();
    let (kept, gone, added) = (free_port(), free_port(), free_port());
    let kept_line = listener("kept", &format!("127.0.0.1:{kept}"));
    world.configure(&(listener("gone", &format!("127.0.0.1:{gone}")) + &kept_line));
    world.supervise();
    let clients = Clients::start(at(world.port), 2, "next");
    world.kill_supervisor();
    world.configure(&(kept_line + &listener("added", &format!("127.0.0.1:{added}"))));
    world.supervise();
    assert_eq!(passed(&world), format!("gone tcp {gone},kept tcp {kept}"));
    let told = warnings(&world);
    for change in [
        format!("takes them over: added at 127.0.0.1:{added} is added, "),
        format!("gone at 127.0.0.1:{gone} is removed"),
    ] {
        assert!(told.contains(&change), "{told}");
    }
    world.said(&["swap", "--wait"]);
    assert_eq!(passed(&world), format!("kept tcp {kept},added tcp {added}"));
    wait_until_closed(&world, gone);
    assert_eq!(warnings(&world), "[]");
    assert_nothing_failed(&clients.stop());
}

/// `handoff run`, which inherits that socket under that name.
fn supervise_passing(world: &World, name: &str, socket: &TcpListener) -> std::process::Child {
    let mut command = world.command(&["run"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name).stderr(Stdio::null());
    let parent_fd = socket.try_clone().expect("it is open").into();
    command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).expect("there is one");
    let supervisor = command.spawn().expect("it can be run");
    world.wait_for_daemon("serving");
    supervisor
}

fn stop(world: &World, mut supervisor: std::process::Child) {
    world.said(&["stop"]);
    assert!(supervisor.wait().expect("it is ours").success());
}

/// A child of the daemon that has inherited the socket, say, or a service manager.
#[test]
fn a_removed_listener_that_another_process_has_is_told() {
    let world = World::with_fixture();
    let port = free_port();
    let passed = TcpListener::bind(at(port)).expect("it is free");
    world.configure(&listener("extra", &format!("127.0.0.1:{port}")));
    let supervisor = supervise_passing(&world, "extra", &passed);
    world.configure("");
    world.said(&["swap", "--wait"]);
    let own = format!("still open in process {} (", std::process::id());
    eventually("the old process has left", TIMEOUT, || {
        let told = warnings(&world);
        (told.contains(&format!("listener extra at 127.0.0.1:{port}")) && told.contains(&own))
            .then_some(())
    });
    drop(passed);
    wait_until_closed(&world, port);
    stop(&world, supervisor);
}

#[test]
fn an_inherited_listener_stays_where_it_is_and_that_is_told() {
    let world = World::with_fixture();
    let (here, there) = (free_port(), free_port());
    let passed = TcpListener::bind(at(here)).expect("it is free");
    world.configure(&listener("extra", &format!("127.0.0.1:{there}")));
    let supervisor = supervise_passing(&world, "extra", &passed);
    let told = format!("listener extra is held at 127.0.0.1:{here}, and not at 127.0.0.1:{there}");
    for _ in 0..2 {
        assert!(warnings(&world).contains(&told), "{}", warnings(&world));
        assert_eq!(self::passed(&world), format!("extra tcp {here}"));
        world.said(&["swap", "--wait"]);
        world.said(&["upgrade"]);
    }
    let third = free_port();
    world.configure(&listener("extra", &format!("127.0.0.1:{third}")));
    world.said(&["swap", "--wait"]);
    assert_eq!(self::passed(&world), format!("extra tcp {third}"));
    stop(&world, supervisor);
}
