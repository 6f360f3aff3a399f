//! Whatever lies at a name that the program opens: it ends in time, says what is wrong, and changes
//! no file that is not its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use handoff_tests::harness::{TIMEOUT, eventually};
use rustix::process::geteuid;

use crate::world::World;

/// A name that the program opens, and a good file for it.
struct Name {
    path: &'static str,
    good: &'static str,
}

const NAMES: [Name; 9] = [
    Name { path: "handoff.toml", good: "" },
    Name { path: "v1", good: "" },
    Name { path: "state", good: "" },
    Name { path: "state/lock", good: "" },
    Name {
        path: "state/history.jsonl",
        good: "{\"probation\":{\"id\":\"a\",\"probation\":\"passed\"}}\n",
    },
    Name { path: "state/supervisor.sock", good: "" },
    Name { path: "control.sock", good: "" },
    Name { path: "control.sock.journal", good: "1 serves 1 1 #00000000\n" },
    Name { path: "local.sock", good: "" },
];

const KINDS: [&str; 10] = [
    "symbolic link",
    "dangling link",
    "pipe",
    "socket",
    "directory",
    "device",
    "hard link",
    "empty file",
    "cut file",
    "another user's",
];

/// A file that is somebody else's, with a name of its own.
const OTHERS: &str = "others";

/// Puts such a thing at the path, with these bytes where it has some; false where this process may
/// not.
fn put(world: &World, kind: &str, path: &Path, good: &[u8]) -> bool {
    let others = world.path(OTHERS);
    fs::write(&others, good).expect("it can be written");
    fs::set_permissions(&others, Permissions::from_mode(0o755)).expect("it is ours");
    let done = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    match kind {
        "symbolic link" => symlink(&others, path).is_ok(),
        "dangling link" => symlink("nowhere", path).is_ok(),
        "pipe" => done(Command::new("mkfifo").arg(path)),
        "socket" => UnixListener::bind(path).is_ok(),
        "directory" => fs::create_dir(path).is_ok(),
        "device" => {
            let mut mknod = Command::new("mknod");
            geteuid().is_root() && done(mknod.arg(path).args(["c", "1", "5"]).stderr(Stdio::null()))
        }
        "hard link" => fs::hard_link(&others, path).is_ok(),
        "empty file" => fs::write(path, "").is_ok(),
        "cut file" => fs::write(path, &good[..good.len() / 2]).is_ok(),
        _ => {
            let written = fs::write(path, good).is_ok();
            let mode = Permissions::from_mode(0o755);
            let moded = written && fs::set_permissions(path, mode).is_ok();
            moded && std::os::unix::fs::chown(path, Some(65_534), None).is_ok()
        }
    }
}

/// `handoff run` with a daemon that ends at once: whether the supervisor came so far, or its words.
fn outcome(world: &World) -> String {
    let errors = world.path("errors");
    let stderr = fs::File::create(&errors).expect("it can be made");
    let mut run = world.command(&["run"]).stderr(stderr).spawn().expect("it can be run");
    let status = eventually("it ends, and waits for nothing", TIMEOUT, || {
        run.try_wait().expect("it is ours")
    });
    let words = fs::read_to_string(errors).expect("it is text");
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(!words.contains("panick"), "{words}");
    let last = words.lines().rfind(|line| line.starts_with("handoff: "));
    let last = last.unwrap_or_else(|| panic!("it does not say why: {words}"));
    if last.contains("before it served its control socket") {
        let warned =
            words.lines().find(|line| line.contains("ERROR") && !line.contains("v1 ended"));
        let warned = warned.and_then(|line| line.split(" ERROR ").nth(1)).unwrap_or("runs");
        return warned.replace(&world.directory.path().display().to_string(), "");
    }
    last.replace(&world.directory.path().display().to_string(), "").replacen("handoff: ", "", 1)
}

fn remove(path: &Path) {
    let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
}

#[test]
fn whatever_lies_at_a_name_the_program_waits_for_nothing_and_changes_no_other_file() {
    let world = World::new();
    world.configure("[[listeners]]\nname = \"local\"\naddress = \"unix:local.sock\"\n[restart]\npause = \"1ms\"\n");
    let config = fs::read(world.path("handoff.toml")).expect("it is there");
    let script = b"#!/bin/sh\nexit 9\n";
    let mut table = String::new();
    for Name { path: name, good } in NAMES {
        for kind in KINDS {
            // Everything is as at a first start, but for the one.
            for name in NAMES {
                remove(&world.path(name.path));
            }
            remove(&world.path(OTHERS));
            remove(&world.path("control.sock.journal.damaged"));
            fs::write(world.path("handoff.toml"), &config).expect("it can be written");
            fs::write(world.path("v1"), script).expect("it can be written");
            let mode = Permissions::from_mode(0o755);
            fs::set_permissions(world.path("v1"), mode).expect("it is ours");
            fs::create_dir(world.path("state")).expect("it can be made");
            let mode = Permissions::from_mode(0o700);
            fs::set_permissions(world.path("state"), mode).expect("it is ours");
            let path = world.path(name);
            let good = match name {
                "handoff.toml" => &config[..],
                "v1" => script,
                _ => good.as_bytes(),
            };
            remove(&path);
            if !put(&world, kind, &path, good) {
                table += &format!("{name:<22} {kind:<15} skipped: this user may not make one\n");
                continue;
            }
            let others = world.path(OTHERS);
            let before = fs::metadata(&others).expect("it is there");
            let outcome = outcome(&world);
            table += &format!("{name:<22} {kind:<15} {outcome:.110}\n");
            let after = fs::metadata(&others).expect("it is still there");
            let is_followed = kind == "symbolic link" && name == "state/history.jsonl";
            if !is_followed {
                assert_eq!(fs::read(&others).expect("it is there"), good, "changed:\n{table}");
            }
            let what = |of: &fs::Metadata| (of.ino(), of.mode(), of.uid());
            assert_eq!(what(&after), what(&before), "changed:\n{table}");
        }
    }
    println!("{table}");
    let says = |name: &str, kind: &str, words: &str| {
        let line = table.lines().find(|line| line.starts_with(&format!("{name:<22} {kind:<15} ")));
        let line = line.expect("each has its line");
        assert!(line.contains(words) || line.contains("skipped"), "{words}: {line}");
    };
    says("state", "pipe", "is no directory; move it away");
    says("state/lock", "symbolic link", "it is a symbolic link, and has to be a regular file");
    says("state/lock", "pipe", "has to be a regular file; move it away");
    says("state/history.jsonl", "pipe", "this supervisor cannot read the history");
    says("state/history.jsonl", "hard link", "this supervisor cannot read the history");
    says("state/supervisor.sock", "empty file", "there is a file of that name");
    says("control.sock.journal", "symbolic link", "it is a symbolic link");
    says("control.sock.journal", "cut file", "no line of the journal can be read");
    says("control.sock.journal", "another user's", "it is a file of user 65534");
    says("local.sock", "device", "it is no socket; it was left");
    for line in table.lines().filter(|line| line.contains("v1  ") || line.contains("handoff.toml"))
    {
        let refused = ["dangling", "pipe", "socket", "directory", "device", "empty", "cut"];
        let is_refused =
            refused.iter().any(|kind| line.contains(kind)) && !line.contains("skipped");
        assert_eq!(is_refused, !line.ends_with("runs"), "{line}");
    }
}
