//! An hour of an operator who meets each dead end that there once was, at a terminal, while clients
//! write: each command has the words and the exit code that lead on.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use handoff_tests::harness::{TIMEOUT, eventually, kill};
use rustix::process::Signal;

use crate::clients::Clients;
use crate::world::{World, free_port};

fn assert_shows(world: &World, arguments: &[&str], code: i32, words: &[&str]) {
    let (exit, shown) = world.at_terminal(arguments);
    assert_eq!(exit, Some(code), "{arguments:?}: {shown}");
    for words in words {
        assert!(shown.contains(words), "{words}\nis not in\n{shown}");
    }
}

/// The second build opens its data for so long.
fn slow(world: &World, more: &str, delay_ms: u32) {
    world.configure(more);
    let text = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    let slow = format!(r#""--build", "2", "--open-delay", "{delay_ms}"]"#);
    world.write("handoff.toml", &text.replace(r#""--build", "2"]"#, &slow));
}

#[test]
fn every_dead_end_has_a_way_on() {
    let mut world = World::new();
    let v2 = world.path("v2").display().to_string();
    world.supervise();
    let clients = Clients::start(world.port, 2);

    // A swap that its probation undoes is no success.
    world.configure(
        "[probation]\nfor = \"10m\"\nevery = \"10ms\"\nfailures = 1\ncommand = [\"/bin/false\"]\n",
    );
    let to_v2 = ["swap", "--wait", "--binary", &v2];
    assert_shows(&world, &to_v2, 6, &["probation failed", "what served before serves again"]);
    assert_shows(&world, &["status"], 0, &["WARNING", "was undone"]);

    // Four hundred clients that come while the new process opens its data wait, and are served.
    slow(&world, "", 1500);
    let mut swap = world.terminal(&to_v2);
    eventually("it opens its data", TIMEOUT, || {
        (world.status()["swap"]["phase"] == "opening").then_some(())
    });
    let at = SocketAddr::from(([127, 0, 0, 1], world.port));
    let waiting: Vec<_> = (0..400)
        .map(|_| thread::spawn(move || TcpStream::connect_timeout(&at, TIMEOUT).is_ok()))
        .collect();
    assert!(waiting.into_iter().all(|client| client.join().expect("it does not panic")));
    assert_eq!(swap.finish().0, Some(0));
    assert_shows(&world, &["swap", "--wait"], 0, &["committed"]);

    // A pause has a limit of its own.
    slow(&world, "[limits]\npause = \"300ms\"\n", 600_000);
    assert_shows(
        &world,
        &to_v2,
        3,
        &["`pause` under [limits]", "rolled back: the old process serves"],
    );

    // A supervisor that dies, or leaves, takes no daemon along.
    world.configure("");
    let pid = world.daemon_pid();
    world.kill_supervisor();
    assert_shows(&world, &["status"], 4, &["start one: handoff run"]);
    world.supervise();
    assert_shows(&world, &["stop", "--keep-daemon"], 0, &["daemon"]);
    world.supervisor().wait_to_show("leaves");
    world.supervise();
    assert_eq!(world.daemon_pid(), pid);

    // A file that is broken keeps nobody from the supervisor.
    let good = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    world.write("handoff.toml", &good.replace("[daemon]", "[daemon"));
    assert_shows(&world, &["status"], 0, &["warning: the file is broken", "serving since"]);
    assert_shows(&world, &["abort"], 5, &["no swap is in flight"]);

    // A listener is added by a swap, with its mode, and told of where the daemon does not take it.
    let port = free_port();
    world.configure(&format!(
        "[[listeners]]\nname = \"more\"\naddress = \"127.0.0.1:{port}\"\n[[listeners]]\nname = \"admin\"\naddress = \"unix:admin.sock\"\nmode = \"0620\"\n"
    ));
    assert_shows(&world, &["swap", "--wait"], 0, &["committed"]);
    let untaken = "the daemon has not taken the listener more at";
    assert_shows(&world, &["status"], 0, &[untaken, "admin at unix:"]);
    assert_shows(&world, &["show", "last"], 0, &[&format!("more at 127.0.0.1:{port} is added")]);
    world.configure("");
    assert_shows(&world, &["swap", "--wait"], 0, &["committed"]);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());

    // A daemon that hangs, and one that is dead, are not active.
    world.configure("[health]\nevery = \"20ms\"\ntimeout = \"1s\"\nfailures = 2\n[restart]\npause = \"10m\"\nlongest_pause = \"10m\"\n");
    assert_shows(&world, &["swap", "--wait"], 0, &["committed"]);
    clients.stop().assert_failed_only_within(&[]);
    let pid = world.daemon_pid();
    kill(pid, Signal::STOP);
    world.wait_for_daemon("unwell");
    assert_shows(&world, &["status"], 4, &["not well since", "its clients may wait"]);
    kill(pid, Signal::CONT);
    world.wait_for_daemon("serving");
    world.kill_daemon(); // started again at once
    kill(world.daemon_pid(), Signal::KILL);
    world.wait_for_daemon("dead");
    assert_shows(&world, &["is-active"], 3, &[]);
    assert_shows(&world, &["status"], 3, &["dead", "it is started in"]);
    assert_shows(&world, &["stop"], 0, &["stopped; the daemon: none served"]);
}
