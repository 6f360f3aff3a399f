//! `SIGHUP`: the terminal closes, or somebody asks for a swap.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

use handoff_tests::harness::{TIMEOUT, eventually, kill};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::world::World;

/// A terminal that closes with its first end.
fn terminal() -> (File, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let keyboard = openpt(flags).expect("there are terminals");
    grantpt(&keyboard).and_then(|()| unlockpt(&keyboard)).expect("it is ours");
    let line = ioctl_tiocgptpeer(&keyboard, flags).expect("it has another end");
    (keyboard.into(), line)
}

/// Starts a program as the leader of a session at that terminal. Its log goes into a file.
fn lead(world: &World, line: OwnedFd, program: &[&str]) -> Child {
    let mut leader = Command::new("setsid");
    leader.arg("--ctty").args(program).current_dir(world.directory.path());
    let log = File::create(world.path("log")).expect("it can be made");
    let shown = line.try_clone().expect("descriptors are left");
    leader.stdin(line).stdout(shown).stderr(log);
    leader.spawn().expect("it is installed")
}

fn run(world: &World) -> Vec<String> {
    let command = world.command(&["run"]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_str().expect("it is text").to_owned()).collect()
}

fn wait_for_log(world: &World, words: &str) {
    eventually("it is logged", TIMEOUT, || {
        fs::read_to_string(world.path("log")).ok()?.contains(words).then_some(())
    });
}

fn supervisor(world: &World) -> u32 {
    let pid = world.status()["supervisor"]["pid"].as_u64();
    pid.and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

fn swaps(world: &World) -> usize {
    world.said(&["history"]).matches("  swap ").count()
}

/// After the terminal is gone: it serves, has begun no swap, and begins one at the next request.
fn assert_goes_on(world: &World, before: usize) {
    wait_for_log(world, "the terminal of this supervisor is gone: it supervises on");
    world.wait_for_daemon("serving");
    assert_eq!(swaps(world), before);
    kill(supervisor(world), Signal::HUP);
    eventually("it swaps", TIMEOUT, || (swaps(world) > before).then_some(()));
    world.wait_for_last_swap(|record| {
        record["trigger"] == "hangup" && record["end"]["outcome"] == "committed"
    });
    world.said(&["stop"]);
}

#[test]
fn a_terminal_of_its_own_that_closes_is_no_request() {
    let world = World::new();
    let (keyboard, line) = terminal();
    let words = run(&world);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut leader = lead(&world, line, &words);
    world.wait_for_daemon("serving");
    drop(keyboard);
    assert_goes_on(&world, 0);
    assert!(leader.wait().expect("it is ours").success());
}

/// The shell passes the hangup on as if it had been typed, and that is a request.
#[test]
fn the_terminal_of_a_shell_that_closes_is_no_request_and_what_is_typed_there_is() {
    let world = World::new();
    let (mut keyboard, line) = terminal();
    let mut shell = lead(&world, line, &["bash", "--norc", "--noprofile", "-i"]);
    writeln!(keyboard, "{} &", run(&world).join(" ")).expect("it reads");
    world.wait_for_daemon("serving");
    writeln!(keyboard, "kill -HUP %1").expect("it reads");
    world.wait_for_last_swap(|record| {
        record["trigger"] == "hangup" && record["end"]["outcome"] == "committed"
    });
    drop(keyboard);
    shell.wait().expect("it is ours");
    assert_goes_on(&world, 1);
}
