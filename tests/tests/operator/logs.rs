//! A log that takes no lines: standard error is a closed pipe, a full disk, a reader that stalls, a
//! terminal that is gone. It costs lines of the log, and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use handoff_tests::harness::{TIMEOUT, eventually};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::world::World;

/// `handoff run` with that standard error. It is ended with the value.
struct Supervisor(Child);

impl Supervisor {
    fn start(world: &World, stderr: impl Into<Stdio>) -> Self {
        let mut command = world.command(&["run"]);
        command.stdout(Stdio::null()).stderr(stderr);
        Self::serving(world, &mut command)
    }

    fn serving(world: &World, command: &mut Command) -> Self {
        let supervisor = Self(command.spawn().expect("it can be run"));
        world.wait_for_daemon("serving");
        supervisor
    }

    fn wait(&mut self) -> ExitStatus {
        eventually("the supervisor ends", TIMEOUT, || self.0.try_wait().expect("it is ours"))
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All that an operator may want of a supervisor, whatever becomes of its log.
fn assert_supervised(world: &World, supervisor: &mut Supervisor) {
    assert_supervised_and(world, supervisor, || drop(world.said(&["upgrade"])));
}

fn assert_supervised_and(world: &World, supervisor: &mut Supervisor, upgrade: impl FnOnce()) {
    let v2 = world.path("v2").display().to_string();
    world.said(&["swap", "--binary", &v2, "--wait"]);
    assert_eq!(world.build(), "2");
    let broken = world.path("broken").display().to_string();
    let (code, words) = world.refused(&["swap", "--binary", &broken, "--wait"]);
    assert_eq!(code, 3, "rolled back: {words}");
    world.kill_daemon();
    upgrade();
    world.wait_for_daemon("serving");
    world.said(&["swap", "--wait"]);
    assert_eq!(world.build(), "1");
    assert!(supervisor.0.try_wait().expect("it is ours").is_none(), "the supervisor ended");
}

/// ... and it ends as it is told to.
fn assert_stops(world: &World, supervisor: &mut Supervisor) {
    world.said(&["stop"]);
    let status = supervisor.wait();
    assert!(status.success(), "{status}");
}

#[test]
fn a_reader_of_the_log_that_is_gone_ends_no_supervisor() {
    let world = World::new();
    let (reader, writer) = pipe().expect("there are pipes");
    let mut supervisor = Supervisor::start(&world, writer);
    drop(reader);
    assert_supervised(&world, &mut supervisor);
    let warnings = world.status()["warnings"].to_string();
    assert!(warnings.contains("standard error takes no lines of the log"), "{warnings}");
    let metrics = world.said(&["metrics"]);
    let dropped = metrics
        .lines()
        .find_map(|line| line.strip_prefix("handoff_log_lines_dropped_total "))
        .and_then(|count| count.parse::<u64>().ok());
    assert!(dropped.is_some_and(|dropped| dropped > 0), "{metrics}");
    assert_stops(&world, &mut supervisor);
}

#[test]
fn a_log_on_a_full_device_ends_no_supervisor() {
    let world = World::new();
    let full = OpenOptions::new().write(true).open("/dev/full").expect("it is there");
    let mut supervisor = Supervisor::start(&world, full);
    assert_supervised(&world, &mut supervisor);
    assert_stops(&world, &mut supervisor);
}

/// A pipe with room for some lines.
fn nearly_full() -> (PipeReader, OwnedFd) {
    let (reader, mut writer) = pipe().expect("there are pipes");
    writer.write_all(&vec![b'.'; PIPE_SIZE - 700]).expect("it fits");
    (reader, writer.into())
}

#[test]
fn a_reader_of_the_log_that_stalls_delays_no_swap_no_restart_and_no_answer() {
    let world = World::new();
    let (mut reader, writer) = nearly_full();
    let mut supervisor = Supervisor::start(&world, writer);
    assert_supervised(&world, &mut supervisor);
    // The reader goes on: the lines that waited come, in order.
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("it is text");
        text
    });
    assert_stops(&world, &mut supervisor);
    drop(supervisor);
    let text = read.join().expect("it reads to the end");
    let place =
        |words: &str| text.find(words).unwrap_or_else(|| panic!("{words:?} is not in {text}"));
    // Those from before the upgrade ended with the old program.
    assert!(place("adopted the daemon") < place("this supervisor begins a swap"));
    assert!(place("this supervisor begins a swap") < place("this supervisor stops"));
}

#[test]
fn a_reader_of_the_log_that_never_reads_again_keeps_no_supervisor_from_its_end() {
    let world = World::new();
    let (reader, writer) = nearly_full();
    let mut supervisor = Supervisor::start(&world, writer);
    assert_supervised(&world, &mut supervisor);
    assert_stops(&world, &mut supervisor);
    drop(reader);
    // One that does not come to serve says why, and does not wait for a reader either.
    let (reader, writer) = nearly_full();
    (&File::from(writer.try_clone().expect("descriptors are left")))
        .write_all(&[b'.'; 700])
        .expect("it fits");
    fs::remove_file(world.path("v1")).expect("it is there");
    let mut command = world.command(&["run"]);
    let mut supervisor = Supervisor(command.stderr(writer).spawn().expect("it can be run"));
    assert_eq!(supervisor.wait().code(), Some(1));
    drop(reader);
}

#[test]
fn a_terminal_that_is_closed_ends_no_supervisor() {
    let world = World::new();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags).expect("there are terminals");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("it is ours");
    let line = ioctl_tiocgptpeer(&terminal, flags).expect("it has another end");
    let run = world.command(&["run"]);
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(run.get_program()).args(run.get_args());
    let copy = || line.try_clone().expect("descriptors are left");
    command.stdin(copy()).stdout(copy()).stderr(copy()).env_remove("HANDOFF_CONFIG");
    let mut supervisor = Supervisor::serving(&world, &mut command);
    drop((command, line, terminal));
    assert_supervised(&world, &mut supervisor);
    assert_stops(&world, &mut supervisor);
}

/// A small disk of its own, until it is dropped.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// None where this process may mount nothing.
    fn mount(at: &'a Path) -> Option<Self> {
        fs::create_dir(at).expect("it can be made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "none"]).arg(at);
        let status = mount.stderr(Stdio::null()).status().ok()?;
        status.success().then_some(Self(at))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_under_the_log_and_the_state_ends_no_supervisor_and_the_loss_is_told() {
    let world = World::new();
    let at = world.path("state");
    let Some(_disk) = Disk::mount(&at) else {
        return println!("skipped: no disk can be mounted here");
    };
    fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("ours");
    let log = at.join("log");
    let stderr = OpenOptions::new().create(true).append(true).open(&log).expect("there is room");
    let mut supervisor = Supervisor::start(&world, stderr);
    let filler = at.join("filler");
    let mut file = File::create(&filler).expect("inodes are left");
    while file.write_all(&[b'.'; 512]).is_ok() {}
    // The lines that the disk has not taken would be lost with this program.
    assert_supervised_and(&world, &mut supervisor, || {
        let (code, words) = world.refused(&["upgrade"]);
        assert_eq!(code, 5, "{words}");
        assert!(words.contains("has not taken each line"), "{words}");
    });
    drop(file);
    fs::remove_file(&filler).expect("it is there");
    eventually("the loss is told", TIMEOUT, || {
        world.said(&["swap", "--wait"]);
        let text = fs::read_to_string(&log).expect("it is text");
        text.contains("lines of this log were dropped").then_some(())
    });
    eventually("the history is written", TIMEOUT, || {
        world.status()["warnings"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    world.said(&["upgrade"]);
    assert_stops(&world, &mut supervisor);
}

/// Of a pipe whose size nobody set.
const PIPE_SIZE: usize = 64 * 1024;
