//! A daemon that no supervisor looks after, as one that is a unit of its own: a command of that unit
//! swaps it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use handoff_tests::harness::{TIMEOUT, control_owner, eventually};

use crate::clients::Clients;
use crate::world::World;

/// The daemon's first build, with its listener, once it serves.
fn start(world: &World) -> Child {
    let listener = TcpListener::bind(("127.0.0.1", world.port)).expect("it was free");
    listener.set_nonblocking(true).expect("a socket");
    let mut command = Command::new(world.path("v1"));
    command.args(["serve", "--data", "data", "--control", "control.sock", "--build", "1"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "resp");
    command.current_dir(world.path("")).stderr(Stdio::null());
    command
        .fd_mappings(vec![FdMapping { parent_fd: listener.into(), child_fd: 3 }])
        .expect("there is one");
    let daemon = command.spawn().expect("it can be run");
    wait_to_serve(world, daemon.id());
    daemon
}

fn wait_to_serve(world: &World, pid: u32) {
    let control = world.path("control.sock");
    eventually("it serves", TIMEOUT, || {
        (control_owner(&control, TIMEOUT) == Some(pid)).then_some(())
    });
}

fn serving(world: &World) -> u32 {
    control_owner(&world.path("control.sock"), TIMEOUT).expect("a daemon serves")
}

/// `handoff swap --once`, in the directory of the daemon: exit code and output.
fn once(world: &World, more: &[&str]) -> (Option<i32>, String) {
    // To a file: the daemon that it starts has its output as well, and would keep a pipe open.
    let file = File::create(world.path("said")).expect("it can be made");
    let mut command = command(world, more);
    command.stdout(file.try_clone().expect("it is open")).stderr(file);
    let status = command.status().expect("it can be run");
    (status.code(), fs::read_to_string(world.path("said")).expect("it is there"))
}

fn command(world: &World, more: &[&str]) -> Command {
    let mut command = world.command(&["swap", "--once", "--control", "control.sock"]);
    command.args(more).current_dir(world.path("")).env_remove("NOTIFY_SOCKET");
    command
}

#[test]
fn a_daemon_without_a_supervisor_is_swapped_while_its_clients_write() {
    let world = World::new();
    let mut first = start(&world);
    let clients = Clients::start(world.port, 4);
    let v2 = world.path("v2").display().to_string();
    let args = ["serve", "--data", "data", "--control", "control.sock", "--build", "2"];
    // Its own path and arguments.
    let (code, shown) = once(&world, &[]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("committed: the new process serves"), "{shown}");
    assert!(first.wait().expect("it is ours").success());
    let second = serving(&world);
    clients.wait_for_progress();
    // Another binary, and the steps as JSON.
    let (code, shown) = once(&world, &[&["--json", "--binary", &v2, "--"][..], &args].concat());
    assert_eq!(code, Some(0), "{shown}");
    let last = shown.lines().last().expect("there are some");
    let last: serde_json::Value = serde_json::from_str(last).expect("it is JSON");
    assert_eq!(last["ended"]["end"]["outcome"], "committed", "{last}");
    assert_eq!(last["ended"]["from"]["pid"], second, "{last}");
    assert_eq!(last["ended"]["to"]["build"], serde_json::Value::Null);
    let third = serving(&world);
    assert_ne!(third, second);
    clients.wait_for_progress();

    // What fails leaves the daemon serving.
    let broken = [&["--binary", &v2, "--"][..], &args, &["--fail-open"]].concat();
    let (code, shown) = once(&world, &broken);
    assert_eq!(code, Some(3), "{shown}");
    let (code, shown) = once(&world, &["--dry-run"]);
    assert_eq!(code, Some(0), "{shown}");
    let (code, shown) = once(&world, &["--binary", "/bin/false"]);
    assert_eq!(code, Some(5), "{shown}");
    let (code, shown) = once(&world, &["--binary", "nowhere"]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("nowhere does not exist"), "{shown}");
    assert_eq!(serving(&world), third);
    clients.wait_for_progress();
    clients.stop().assert_failed_only_within(&[]);
    handoff_tests::harness::kill_and_wait(third);
    let (code, shown) = once(&world, &[]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("no daemon serves the control socket"), "{shown}");
}

#[test]
fn a_daemon_that_has_a_supervisor_is_left_to_it() {
    let mut world = World::new();
    world.supervise();
    let pid = world.daemon_pid();
    let (code, shown) = once(&world, &[]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("handoff --config FILE swap"), "{shown}");
    assert_eq!(world.daemon_pid(), pid);
}

/// The manager stops a unit when its main process ends, so it is told before that.
#[test]
fn the_service_manager_is_told_of_the_main_process_before_the_old_one_ends() {
    let world = World::new();
    let first = start(&world);
    let path = world.path("notify.sock");
    let manager = UnixDatagram::bind(&path).expect("the name is free");
    manager.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    let hear = || {
        let mut bytes = [0; 4096];
        let len = manager.recv(&mut bytes).expect("it is told");
        String::from_utf8_lossy(&bytes[..len]).trim().to_owned()
    };
    let told = |more: &[&str]| {
        let mut command = command(&world, more);
        command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("it can be run")
    };
    let mut swap = told(&[]);
    let heard = hear();
    assert_eq!(swap.wait().expect("it is ours").code(), Some(0));
    assert_eq!(heard, format!("MAINPID={}", serving(&world)));
    let now = serving(&world);
    // A swap that fails before the manager was told otherwise tells it once more what is so.
    let v2 = world.path("v2").display().to_string();
    let args = ["serve", "--data", "data", "--control", "control.sock", "--fail-open"];
    let mut swap = told(&[&["--binary", &v2, "--"][..], &args].concat());
    assert_eq!(hear(), format!("MAINPID={now}"));
    assert_eq!(swap.wait().expect("it is ours").code(), Some(3));
    drop(first);
}
