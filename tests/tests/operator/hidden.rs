//! `/proc` hides the daemon from the next supervisor, as it does where each run of a unit has a user
//! namespace of its own (`PrivateUsers=`, `ProtectProc=invisible`).

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use crate::clients::Clients;
use crate::world::World;

const USER: u32 = 54_321;

/// `handoff run` as another user, in a user namespace of its own, with a `/proc` that hides the
/// processes of others. None where this user may not do that.
fn hidden(world: &World) -> Option<Command> {
    let script = r#"mount -t proc -o hidepid=invisible proc /proc || exit 77
program=$1; shift
exec setpriv --reuid 54321 --regid 54321 --clear-groups unshare --user --map-current-user "$program" "$@""#;
    let run = world.command(&["run"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]);
    let mut trial = Command::new("unshare");
    trial.args(["--mount", "sh", "-c", script, "sh", "test", "!", "-e", "/proc/1"]);
    if !trial.output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this user may not mount a /proc that hides processes (root may)");
        return None;
    }
    command.arg(run.get_program()).args(run.get_args());
    Some(command)
}

#[test]
fn a_daemon_that_proc_hides_is_adopted_and_swapped_and_its_lock_is_not_broken() {
    let mut world = World::new();
    let Some(command) = hidden(&world) else { return };
    let directory = world.path("");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("it is ours");
    chown(&directory, Some(USER), Some(USER)).expect("root may");
    world.operator = Some(USER); // root is no user of that namespace
    world.supervise_by(&command);
    let clients = Clients::start(world.port, 2);
    for path in ["v1", "v2"] {
        let pid = world.daemon_pid();
        world.kill_supervisor();
        if path == "v2" {
            // Another file at its path, so that the history does not tell what the daemon executes.
            let mut bytes = fs::read(world.path("v1")).expect("it is there");
            bytes.push(0);
            fs::remove_file(world.path("v1")).expect("it is there");
            fs::write(world.path("v1"), bytes).expect("it can be written");
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(world.path("v1"), mode).expect("it is ours");
        }
        world.supervise_by(&command);
        assert_eq!(world.daemon_pid(), pid, "it was adopted");
        clients.wait_for_progress();
        if path == "v2" {
            world.supervisor().wait_to_show("cannot look at what the daemon executes");
        }
        // A second daemon does not take the data.
        let mut second = Command::new(world.path("v2"));
        second.args(["serve", "--data", "data", "--control", "other.sock", "--build", "9"]);
        let output = second.current_dir(&directory).output().expect("it can be run");
        assert!(!output.status.success());
        world.said(&["swap", "--wait", "--binary", &world.path(path).display().to_string()]);
        assert_ne!(world.daemon_pid(), pid);
    }
    // Its death is seen, and another one is started.
    world.kill_daemon();
    drop(clients);
}
