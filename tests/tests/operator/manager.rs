//! The supervisor under a service manager: sockets that it inherits, and what it tells.

use std::net::TcpListener;

use command_fds::{CommandFdExt, FdMapping};
use handoff_tests::harness::kill;
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::process::Signal;

use crate::clients::{Clients, Connection};
use crate::world::World;

#[test]
fn a_socket_that_is_inherited_is_passed_on_also_through_an_upgrade() {
    let world = World::new();
    // As the manager does: bound before there is anybody to serve it.
    let listener = TcpListener::bind(("127.0.0.1", world.port)).expect("it was free");
    assert!(
        !fcntl_getfl(&listener).expect("it is open").contains(OFlags::NONBLOCK),
        "it is blocking"
    );
    let mut command = world.command(&["run"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "resp");
    command
        .fd_mappings(vec![FdMapping { parent_fd: listener.into(), child_fd: 3 }])
        .expect("there is one");
    let mut supervisor = command.spawn().expect("it can be run");
    world.wait_for_daemon("serving");
    let clients = Clients::start(world.port, 2);
    clients.wait_for_progress();
    for _ in 0..3 {
        world.said(&["upgrade"]);
        world.said(&["swap", "--wait"]);
        clients.wait_for_progress();
    }
    // Nobody but the supervisor has it now.
    world.wait_for_daemon("serving");
    kill(world.daemon_pid(), Signal::KILL);
    let mut waiting = Connection::to(world.port).expect("somebody listens");
    assert_eq!(waiting.ask("PING").expect("it is answered"), "PONG");
    let tally = clients.stop();
    assert!(!tally.acknowledged.is_empty());
    world.said(&["stop"]);
    assert!(supervisor.wait().expect("it is ours").success());
}

#[test]
fn a_signal_is_passed_on_to_a_daemon_that_does_not_die_of_it() {
    let mut world = World::new();
    world.supervise();
    let (supervisor, daemon) = (world.supervisor().pid(), world.daemon_pid());
    kill(supervisor, Signal::USR1);
    world.supervisor().wait_to_show("does not forward a signal: the daemon does not handle it");
    assert_eq!(world.daemon_pid(), daemon);
    // One that ignores it.
    std::fs::rename(world.path("v1"), world.path("kvd")).expect("it is there");
    let wrapper = "#!/bin/sh\ntrap '' USR1\nexec ./kvd \"$@\"\n";
    world.write("v1", wrapper);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.path("v1"), mode).expect("it is ours");
    world.said(&["swap", "--wait"]);
    let daemon = world.daemon_pid();
    kill(supervisor, Signal::USR1);
    world.supervisor().wait_to_show("this supervisor forwarded a signal to the daemon");
    assert_eq!(world.daemon_pid(), daemon);
}

#[test]
fn an_upgrade_to_what_could_not_go_on_is_refused() {
    let mut world = World::new();
    world.supervise();
    let pid = world.daemon_pid();
    let good = std::fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    // One that succeeds at everything.
    let text = format!("supervisor = \"/bin/true\"\n{good}");
    world.write("handoff.toml", &text);
    world.said(&["swap", "--wait"]); // so that it is read
    let (code, words) = world.refused(&["upgrade"]);
    assert_eq!(code, 5);
    assert!(words.contains("/bin/true is no supervisor"), "{words}");
    // One that would look for another daemon.
    world.write(
        "handoff.toml",
        &good.replace("control = \"control.sock\"", "control = \"other.sock\""),
    );
    let (code, words) = world.refused(&["upgrade"]);
    assert_eq!(code, 5);
    assert!(words.contains("daemon.control has changed"), "{words}");
    world.write("handoff.toml", &good);
    assert_ne!(world.daemon_pid(), pid);
    world.said(&["swap", "--wait"]);
}

/// The kernel names the interpreter of a script; the history names the script.
#[test]
fn a_script_that_is_adopted_is_started_again_as_that_script() {
    let mut world = World::new();
    std::fs::rename(world.path("v1"), world.path("kvd")).expect("it is there");
    world.write("v1", "#!/bin/sh\nexport WRAPPED=yes\nexec ./kvd \"$@\"\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.path("v1"), mode).expect("it is ours");
    world.supervise();
    world.kill_supervisor();
    world.supervise();
    let named = world.status()["daemon"]["party"]["binary"].clone();
    assert_eq!(named, world.path("v1").display().to_string());
    world.kill_daemon();
    let environment = std::fs::read(format!("/proc/{}/environ", world.daemon_pid()));
    let environment = String::from_utf8_lossy(&environment.expect("it runs")).into_owned();
    assert!(environment.contains("WRAPPED=yes"), "{environment}");
}
