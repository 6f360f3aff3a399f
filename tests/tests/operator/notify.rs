//! What a service manager is told, by a socket that stands for it.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Child;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use handoff_tests::harness::{TIMEOUT, kill};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use crate::clients::{Clients, Connection};
use crate::world::{World, hold};

/// The socket, and a supervisor that knows of it.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// Has `handoff run` started with these variables, and does not wait for its daemon.
    fn start(world: &mut World, variables: &[(&str, &str)]) -> Self {
        let path = world.path("notify.sock");
        let socket = UnixDatagram::bind(&path).expect("it can be bound");
        socket.set_read_timeout(Some(TIMEOUT)).expect("it can be set");
        let mut command = world.command(&["run"]);
        command.env("NOTIFY_SOCKET", &path).envs(variables.iter().copied());
        world.begin_to_supervise_by(&command);
        Self { socket, heard: Vec::new() }
    }

    fn next(&mut self) -> &str {
        let mut datagram = [0; 4096];
        let length = self.socket.recv(&mut datagram).unwrap_or_else(|error| {
            panic!("no more is told ({error}) after {:#?}", self.heard);
        });
        self.heard.push(String::from_utf8_lossy(&datagram[..length]).into_owned());
        self.heard.last().expect("there is one")
    }

    /// Reads until a message has all these words.
    fn wait_for(&mut self, words: &[&str]) -> String {
        let since = Instant::now();
        loop {
            assert!(since.elapsed() < TIMEOUT, "{words:?} is not told: {:#?}", self.heard);
            let said = self.next();
            if words.iter().all(|word| said.contains(word)) {
                return said.to_owned();
            }
        }
    }

    /// Forgets what was heard, and what is on its way.
    fn forget(&mut self) {
        self.socket.set_nonblocking(true).expect("it can be set");
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).expect("it can be set");
        self.heard.clear();
    }

    /// Sends SIGHUP, and returns the message by which the reload ends.
    fn reload(&mut self, world: &mut World) -> String {
        self.forget();
        kill(world.supervisor().pid(), Signal::HUP);
        self.wait_for_reload();
        self.wait_for(&["READY=1\n"])
    }

    fn wait_for_reload(&mut self) {
        let begun = self.wait_for(&["RELOADING=1\n"]);
        let at = begun.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        let at: i64 = at.expect("the time comes with it").parse().expect("a number");
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let late = now.tv_sec - at / 1_000_000;
        assert!((0..TIMEOUT.as_secs().cast_signed()).contains(&late), "{begun}");
        let early = self.heard.iter().filter(|said| said.contains("READY=1")).count();
        assert_eq!(early, 0, "{:#?}", self.heard);
    }
}

#[test]
fn a_service_manager_is_told_and_the_daemon_does_not_speak_to_it() {
    let mut world = World::new();
    let variables = [("WATCHDOG_USEC", "60000000"), ("FDSTORE", "0")];
    let mut manager = Manager::start(&mut world, &variables);
    let told = manager.wait_for(&["READY=1\n"]);
    assert!(told.contains("v1 serves as process ") && told.contains(", build 1"), "{told}");
    assert_eq!(manager.heard.iter().filter(|said| said.contains("READY=1")).count(), 1);
    let environment = std::fs::read(format!("/proc/{}/environ", world.daemon_pid()));
    let environment = String::from_utf8_lossy(&environment.expect("it runs")).into_owned();
    for own in ["NOTIFY_SOCKET", "WATCHDOG_", "FDSTORE"] {
        assert!(!environment.contains(own), "{environment}");
    }
    manager.forget();
    world.kill_daemon();
    manager.wait_for(&["STATUS=", "v1 serves as process "]);
    assert!(!manager.heard.concat().contains("READY=1"), "{:#?}", manager.heard);
    // It hears nothing, so that the stop takes long.
    kill(world.daemon_pid(), Signal::STOP);
    manager.forget();
    kill(world.supervisor().pid(), Signal::TERM);
    manager.wait_for(&["STOPPING=1\n", "STATUS=stopping: the daemon drains and ends"]);
    let asked = manager.wait_for(&["EXTEND_TIMEOUT_USEC="]);
    assert_eq!(asked, "EXTEND_TIMEOUT_USEC=15000000\n");
}

#[test]
fn a_manager_is_told_that_the_daemon_is_left() {
    let mut world = World::new();
    let mut manager = Manager::start(&mut world, &[]);
    manager.wait_for(&["READY=1\n"]);
    kill(world.supervisor().pid(), Signal::QUIT);
    manager.wait_for(&["STOPPING=1\n"]);
    manager.wait_for(&["STATUS=left the daemon serving as process "]);
    assert_eq!(world.supervisor().exit_code(), Some(0));
}

#[test]
fn a_start_that_takes_long_is_ready_once_it_serves_and_asks_for_time() {
    let mut world = World::new();
    world.wait_before_start("go");
    let mut manager = Manager::start(&mut world, &[]);
    manager.wait_for(&["STATUS=starting the daemon, which has 5m to serve"]);
    manager.wait_for(&["EXTEND_TIMEOUT_USEC="]);
    assert!(!manager.heard.concat().contains("READY=1"), "{:#?}", manager.heard);
    world.write("go", "");
    manager.wait_for(&["READY=1\n", "serves as process "]);
}

/// A reload that is never said to be over ends with the end of the service.
#[test]
fn each_reload_is_said_to_be_over_and_how() {
    let mut world = World::new();
    let unwell = "[probation]\nfor = \"1h\"\nevery = \"20ms\"\nfailures = 2\ncommand = [\"test\", \"!\", \"-e\", \"unwell\"]\n";
    let mut manager = Manager::start(&mut world, &[]);
    manager.wait_for(&["READY=1\n"]);
    let clients = Clients::start(world.port, 2);

    let said = manager.reload(&mut world);
    assert!(said.contains("v1 serves as process ") && !said.contains("swap"), "{said}");
    assert!(manager.heard.concat().contains("STATUS=swap "), "{:#?}", manager.heard);

    // Refused: the configuration is wrong.
    let good = std::fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    world.write("handoff.toml", "daemon = 1\n");
    let said = manager.reload(&mut world);
    assert!(said.contains("; the last reload was refused: "), "{said}");
    world.write("handoff.toml", &good);

    // Rolled back: the new process fails.
    world.write(
        "handoff.toml",
        &good.replace(r#""--build", "1""#, r#""--build", "1", "--fail-open""#),
    );
    let said = manager.reload(&mut world);
    assert!(said.contains(" ended as rolled back: ") && !said.contains("refused"), "{said}");

    // Aborted, by an operator, while the new process opens.
    let slow = good.replace(r#""--build", "1""#, r#""--build", "1", "--open-delay", "3600000""#);
    world.write("handoff.toml", &slow);
    manager.forget();
    kill(world.supervisor().pid(), Signal::HUP);
    manager.wait_for_reload();
    manager.wait_for(&["STATUS=swap ", " is opening"]);
    manager.wait_for(&["EXTEND_TIMEOUT_USEC="]);
    // A second one in the midst of it is refused, and ends nothing.
    kill(world.supervisor().pid(), Signal::HUP);
    world.supervisor().wait_to_show("refuses the swap that SIGHUP asks for");
    world.said(&["abort", "--reason", "it takes too long"]);
    let said = manager.wait_for(&["READY=1\n"]);
    assert!(said.contains("it takes too long"), "{said}");
    assert_eq!(manager.heard.iter().filter(|said| said.contains("RELOADING")).count(), 1);

    // Refused: an operator's swap is in flight.
    manager.forget();
    world.said(&["swap"]);
    manager.wait_for(&["STATUS=swap ", " is opening"]);
    let said = manager.reload(&mut world);
    assert!(said.contains("STATUS=swap ") && said.contains(" is opening"), "{said}");
    world.said(&["abort"]);

    // Swapped back: its end is that of the swap back.
    world.configure(unwell);
    world.write("unwell", "");
    let (old, new) = (r#""--build", "1""#, r#""--build", "7""#);
    let probed = std::fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    world.write("handoff.toml", &probed.replace(old, new));
    let said = manager.reload(&mut world);
    assert!(said.contains(", build 1") && said.contains(" was swapped back: "), "{said}");

    // It is over at the end of the probation.
    std::fs::remove_file(world.path("unwell")).expect("it is there");
    world.configure(&unwell.replace("1h", "2s"));
    let said = manager.reload(&mut world);
    assert!(said.contains("v1 serves as process ") && !said.contains("swap"), "{said}");
    assert!(manager.heard.concat().contains(", on probation"), "{:#?}", manager.heard);
    clients.stop().assert_failed_only_within(&[]);
}

#[test]
fn a_reload_is_over_also_where_both_processes_die() {
    let mut world = World::with_fixture();
    world.configure("[limits]\ndrain_grace = \"1h\"\ndeadline = \"2h\"\n");
    let mut manager = Manager::start(&mut world, &[]);
    manager.wait_for(&["READY=1\n"]);
    let _held = hold(&world);
    manager.forget();
    kill(world.supervisor().pid(), Signal::HUP);
    manager.wait_for(&["STATUS=swap ", "waits for 127.0.0.1"]);
    let status = world.status();
    for pid in [&status["daemon"]["party"]["pid"], &status["swap"]["to"]["pid"]] {
        let pid = pid.as_u64().and_then(|pid| u32::try_from(pid).ok());
        kill(pid.expect("it runs"), Signal::KILL);
    }
    manager.wait_for(&["READY=1\n"]);
    manager.wait_for(&["v1 serves as process "]);
}

/// It is the loop that says that it goes on: a swap that takes long does not keep it from it, and
/// nothing else says it in its place.
#[test]
fn the_watchdog_is_told_by_a_loop_that_goes_on_and_by_no_other() {
    let mut world = World::new();
    let mut manager = Manager::start(&mut world, &[("WATCHDOG_USEC", "400000")]);
    manager.wait_for(&["READY=1\n"]);
    let beats =
        |manager: &mut Manager| (0..5).for_each(|_| drop(manager.wait_for(&["WATCHDOG=1\n"])));
    beats(&mut manager);

    let good = std::fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    let slow = good.replace(r#""--build", "1""#, r#""--build", "1", "--open-delay", "3600000""#);
    world.write("handoff.toml", &slow);
    world.said(&["swap"]);
    manager.wait_for(&["STATUS=swap ", " is opening"]);
    beats(&mut manager);
    world.said(&["abort"]);

    // The same process goes on after an upgrade, with the same watchdog.
    world.said(&["upgrade"]);
    manager.wait_for(&["READY=1\n"]);
    manager.forget();
    beats(&mut manager);

    // The loop hangs: it hashes a file of a tebibyte.
    let huge = std::fs::OpenOptions::new().write(true).open(world.path("v2"));
    huge.and_then(|file| file.set_len(1 << 40)).expect("it takes no room");
    let v2 = world.path("v2").display().to_string();
    let mut swap = world.command(&["swap", "--binary", &v2]).spawn().expect("it can be run");
    let pause = Duration::from_secs(3);
    manager.socket.set_read_timeout(Some(pause)).expect("it can be set");
    let since = Instant::now();
    while manager.socket.recv(&mut [0; 4096]).is_ok() {
        assert!(since.elapsed() < TIMEOUT, "it hangs, and something says that it does not");
    }
    world.kill_supervisor();
    assert!(!swap.wait().expect("it is ours").success());
}

#[test]
fn a_manager_that_reads_nothing_keeps_nobody_waiting() {
    let mut world = World::new();
    let mut manager = Manager::start(&mut world, &[("WATCHDOG_USEC", "2000")]);
    manager.wait_for(&["READY=1\n"]);
    // Its queue is full soon: one message a millisecond.
    for _ in 0..3 {
        world.said(&["swap", "--wait"]);
    }
    kill(world.supervisor().pid(), Signal::HUP);
    world.wait_for_last_swap(|record| {
        record["trigger"] == "hangup" && record["end"]["outcome"] == "committed"
    });
    manager.heard.clear();
    // It hears the end of the reload once it reads.
    manager.wait_for_reload();
    manager.wait_for(&["READY=1\n", "serves as process "]);
}

impl Manager {
    /// Reads until a message has all these words, and returns the socket that came with it.
    fn wait_for_socket(&self, words: &[&str]) -> OwnedFd {
        let since = Instant::now();
        loop {
            assert!(since.elapsed() < TIMEOUT, "{words:?} is not told");
            let mut datagram = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut datagram)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let heard = recvmsg(&self.socket, &mut parts, &mut control, flags);
            let length = heard.expect("more is told").bytes;
            let mut sockets = control.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(sockets) => sockets.collect(),
                _ => Vec::new(),
            });
            let (socket, more) = (sockets.next(), sockets.next());
            drop(sockets);
            let said = String::from_utf8_lossy(&datagram[..length]).into_owned();
            if words.iter().all(|word| said.contains(word)) {
                assert!(more.is_none(), "one at a time");
                return socket.unwrap_or_else(|| panic!("no socket is with {said}"));
            }
        }
    }
}

/// A supervisor that is ended with the value.
struct Spawned(Child);

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Clients that come while no process runs wait in the queue of a socket that the manager keeps.
#[test]
fn a_manager_that_keeps_sockets_gives_them_to_the_next_supervisor() {
    let mut world = World::new();
    let second =
        format!("[[listeners]]\nname = \"resp\"\naddress = \"127.0.0.2:{}\"\n", world.port);
    world.configure(&second);
    let manager = Manager::start(&mut world, &[("FDSTORE", "8")]);
    let stored = ["FDSTORE=1\n", "FDNAME=resp\n", "FDPOLL=0\n"];
    let first = manager.wait_for_socket(&stored);
    let second = manager.wait_for_socket(&stored);
    world.wait_for_daemon("serving");
    let daemon = world.daemon_pid();
    world.kill_supervisor();
    kill(daemon, Signal::KILL);
    let mut manager = manager;
    manager.forget();
    let mut waiting = Connection::to(world.port).expect("it is let in by the queue");

    // In the order in which systemd passes them, the second one by a unit of its own as well; and one
    // of a listener that is not configured any more.
    let unit = second.try_clone().expect("descriptors are left");
    let old = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound").into();
    let passed = [unit, second, first, old].into_iter().zip(3..);
    let passed = passed.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    let mut command = world.command(&["run"]);
    command.env("NOTIFY_SOCKET", world.path("notify.sock")).env("FDSTORE", "8");
    command.env("LISTEN_FDS", "4").env("LISTEN_FDNAMES", "resp:resp:resp:old");
    command.fd_mappings(passed.collect()).expect("the numbers differ");
    let mut supervisor = Spawned(command.spawn().expect("it can be run"));
    drop(command);
    assert_eq!(waiting.ask("PING").expect("it is answered"), "PONG");
    manager.wait_for(&["READY=1\n", "serves as process "]);
    let removed: Vec<_> = manager.heard.iter().filter(|it| it.contains("REMOVE")).collect();
    assert_eq!(removed, ["FDSTOREREMOVE=1\nFDNAME=old\n"]);
    let kept = manager.heard.iter().filter(|it| it.contains("FDSTORE=1")).count();
    assert_eq!(kept, 2);
    let warnings = world.status()["warnings"].to_string();
    assert!(!warnings.contains("is held at"), "{warnings}");
    world.said(&["stop"]);
    assert!(supervisor.0.wait().expect("it is ours").success());
}

/// A socket that was kept is of another kind than the listener, since the configuration has changed.
#[test]
fn a_socket_that_was_kept_and_fits_no_more_keeps_no_daemon_from_its_start() {
    let mut world = World::new();
    let mut manager = Manager::start(&mut world, &[]);
    manager.wait_for(&["READY=1\n"]);
    world.said(&["stop"]);
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    let mut command = world.command(&["run"]);
    command.env("NOTIFY_SOCKET", world.path("notify.sock")).env("FDSTORE", "8");
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "resp");
    let passed = FdMapping { parent_fd: datagrams.into(), child_fd: 3 };
    command.fd_mappings(vec![passed]).expect("there is one");
    let mut supervisor = Spawned(command.spawn().expect("it can be run"));
    manager.wait_for(&["FDSTOREREMOVE=1\nFDNAME=resp\n"]);
    manager.wait_for(&["FDSTORE=1\nFDNAME=resp\n"]);
    manager.wait_for(&["READY=1\n"]);
    world.said(&["stop"]);
    assert!(supervisor.0.wait().expect("it is ours").success());
}
