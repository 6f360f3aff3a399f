//! The data directory, its lock file, and the control socket's name, changed under the daemon.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use handoff::error::LaunchError;
use handoff::supervisor::{Cause, Failed, IncumbentFate};
use handoff::{DataDirLock, Error};
use handoff_tests::fixture::give_up_root;
use handoff_tests::harness::{Cluster, TIMEOUT, eventually, lock_holders};
use rustix::fs::{CWD, Mode};

/// The directory of a cluster, moved away, with an empty one in its place.
struct Replaced {
    path: PathBuf,
    aside: PathBuf,
}

impl Replaced {
    fn with_an_empty_one(cluster: &Cluster) -> Self {
        let (path, aside) = (cluster.data(), cluster.state().join("data.old"));
        fs::rename(&path, &aside).expect("it is there");
        fs::create_dir(&path).expect("the name is free");
        Self { path, aside }
    }

    /// Asserts that no process wrote into the empty one, and puts the directory back.
    fn put_back(self) {
        let made: Vec<_> = fs::read_dir(&self.path).expect("it is there").flatten().collect();
        // A successor that looks for the lock makes the file for it.
        let logs = made.iter().any(|entry| entry.file_name() != ".handoff.lock");
        assert!(!logs, "a process wrote there: {made:?}");
        fs::remove_dir_all(&self.path).expect("it is ours");
        fs::rename(&self.aside, &self.path).expect("the name is free");
    }
}

/// Goes on with a swap on a thread of its own, until `undo` has put things right.
fn fails_once_put_back(
    cluster: &Cluster,
    swap: impl FnOnce() -> Result<(), Failed> + Send + 'static,
    meanwhile: &str,
    put_back: impl FnOnce(),
) -> Failed {
    let swap = std::thread::spawn(swap);
    let log = cluster.state().join("stderr");
    eventually(&format!("the log says {meanwhile:?}"), TIMEOUT, || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains(meanwhile)).then_some(())
    });
    assert!(!swap.is_finished(), "a process serves that must not");
    put_back();
    let failed = swap.join().expect("it does not panic").expect_err("it cannot commit");
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    failed
}

#[test]
fn a_replaced_directory_refuses_the_swap_before_anybody_waits() {
    let mut cluster = Cluster::start();
    let replaced = Replaced::with_an_empty_one(&cluster);
    let failed = cluster.swap_fails(&[]);
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    let words = failed.to_string();
    assert!(words.contains("was moved, replaced or unmounted"), "{words}");
    cluster.wait_for_progress();
    replaced.put_back();
    cluster.assert_sound();
}

#[test]
fn a_directory_that_is_replaced_after_the_seal_is_not_served() {
    let mut cluster = Cluster::start();
    let session = cluster.sealed(&[]);
    let replaced = Replaced::with_an_empty_one(&cluster);
    let begin = || session.begin().map(drop);
    let waits = "cannot take the lock of its data directory again";
    fails_once_put_back(&cluster, begin, waits, || replaced.put_back());
    cluster.wait_for_progress();
    cluster.assert_sound();
}

#[test]
fn a_directory_that_is_replaced_while_the_successor_opens_is_not_committed() {
    let mut cluster = Cluster::start();
    let session = cluster.ready(&[]);
    let replaced = Replaced::with_an_empty_one(&cluster);
    let commit = || session.commit().map(drop);
    let waits = "cannot take the lock of its data directory again";
    fails_once_put_back(&cluster, commit, waits, || replaced.put_back());
    cluster.wait_for_progress();
    cluster.assert_sound();
}

#[test]
fn a_directory_that_is_replaced_after_the_drain_is_neither_sealed_nor_served() {
    let mut cluster = Cluster::start();
    let session = cluster.prepared(&[]);
    let replaced = Replaced::with_an_empty_one(&cluster);
    let seal = || session.seal().map(drop);
    let waits = "hook=\"resume_after_abort\"";
    let failed = fails_once_put_back(&cluster, seal, waits, || replaced.put_back());
    match &failed.cause {
        Cause::SealFailed { error, .. } => {
            assert!(error.contains("was moved, replaced or unmounted"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    cluster.wait_for_progress();
    cluster.assert_sound();
}

/// No incumbent is left that could refuse the swap: the successor finds that nobody wrote there.
#[test]
fn an_empty_directory_in_the_place_of_a_dead_daemon_s_is_not_served() {
    let mut cluster = Cluster::start();
    let replaced = Replaced::with_an_empty_one(&cluster);
    let session = cluster.warmed(&[]);
    cluster.kill(cluster.serving());
    let failed = session.prepare().expect_err("the incumbent has died");
    assert!(failed.promoted.is_none(), "{failed}");
    assert_eq!(failed.incumbent, IncumbentFate::Lost, "{failed}");
    replaced.put_back();
    let spec = cluster.successor(&[]).spec();
    let first = cluster.supervisor.start(&spec).expect("its directory is there again");
    cluster.begin_anew(first);
    cluster.assert_sound();
}

#[test]
fn an_emptied_directory_is_neither_committed_nor_served() {
    for with_the_manifest in [false, true] {
        let mut cluster = Cluster::start();
        cluster.wait_for_progress();
        let session = cluster.sealed(&[]);
        let aside = cluster.state().join("aside");
        fs::create_dir(&aside).expect("the name is free");
        let mut moved: Vec<String> = (0..3).map(|index| format!("{index}.log")).collect();
        if with_the_manifest {
            moved.push(".handoff.manifest".to_owned());
        }
        let rename = |from: &Path, to: &Path| {
            for name in &moved {
                fs::rename(from.join(name), to.join(name)).expect("it is there");
            }
        };
        let data = cluster.data();
        rename(&data, &aside);
        let begin = || session.begin().map(drop);
        let waits = "hook=\"resume_after_abort\"";
        let failed = fails_once_put_back(&cluster, begin, waits, || rename(&aside, &data));
        if with_the_manifest {
            match &failed.cause {
                Cause::SuccessorGaveUp(words) => {
                    assert!(words.contains("that of the last seal is missing"), "{words}");
                }
                other => panic!("{other:?}"),
            }
        }
        cluster.wait_for_progress();
        cluster.assert_sound();
    }
}

#[test]
fn a_removed_lock_file_lets_no_second_writer_in_and_is_made_again() {
    let mut cluster = Cluster::start();
    cluster.swap(&[]).expect("nothing is wrong");
    let lock = cluster.data().join(".handoff.lock");
    let generation = generation_of(&lock);
    fs::remove_file(&lock).expect("it is there");
    match DataDirLock::acquire(&cluster.data()) {
        Err(Error::LockHeld { .. }) => {}
        other => panic!("a second writer is not refused: {other:?}"),
    }
    let output = cluster.run_by_hand(|_, _, _| ());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the lock of "), "{said}");
    let serving = cluster.serving();
    let is_ours = || {
        let inode = fs::metadata(&lock).ok()?.ino();
        lock_holders(inode).contains(&serving).then_some(())
    };
    eventually("the daemon makes its lock file again", TIMEOUT, is_ours);
    assert_eq!(generation_of(&lock), generation);
    fs::remove_file(&lock).expect("it is there");
    cluster.swap(&[]).expect("the incumbent makes it again before it releases it");
    assert!(generation_of(&lock) > generation, "a generation never falls");
    cluster.assert_sound();
}

#[test]
fn a_lock_file_that_is_removed_in_mid_swap_makes_no_generation_fall() {
    let mut cluster = Cluster::start();
    let lock = cluster.data().join(".handoff.lock");
    let session = cluster.prepared(&[]);
    let generation = generation_of(&lock);
    fs::remove_file(&lock).expect("it is there");
    let session = session.seal().expect("the incumbent makes it again before it releases it");
    assert_eq!(generation_of(&lock), generation);
    fs::remove_file(&lock).expect("it is there");
    let commit = || session.begin()?.commit();
    cluster.commit(commit().expect("the successor has the file, and makes its name again"));
    assert_eq!(generation_of(&lock), generation + 1);
    cluster.assert_sound();
}

#[test]
fn a_lock_file_that_was_replaced_or_has_another_name_is_made_again() {
    let mut cluster = Cluster::start();
    let lock = cluster.data().join(".handoff.lock");
    let (other, linked) = (cluster.state().join("other"), cluster.state().join("linked"));
    fs::write(&other, "").expect("it is written");
    fs::rename(&other, &lock).expect("it takes the name");
    cluster.swap(&[]).expect("the incumbent makes it again");
    assert_eq!(generation_of(&lock), 2);
    fs::hard_link(&lock, &linked).expect("it is linked");
    let kept = fs::read(&linked).expect("it is there");
    cluster.swap(&[]).expect("the incumbent makes it again");
    assert_eq!(generation_of(&lock), 3);
    assert_eq!(fs::read(&linked).expect("it is there"), kept, "that file is not ours any more");
    cluster.assert_sound();
}

#[test]
fn nothing_in_the_way_of_the_manifest_is_followed_or_waited_for() {
    let mut cluster = Cluster::start();
    let target = cluster.state().join("target");
    fs::write(&target, "kept").expect("it is written");
    let names = [
        ".handoff.manifest.new",
        ".handoff.manifest",
        ".handoff.schema.new",
        ".handoff.schema",
        ".handoff.lock.new",
    ];
    for name in names {
        let path = cluster.data().join(name);
        let make: [&dyn Fn() -> bool; 4] = [
            &|| symlink(&target, &path).is_ok(),
            &|| rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).is_ok(),
            &|| fs::hard_link(&target, &path).is_ok(),
            &|| std::os::unix::net::UnixListener::bind(&path).is_ok(),
        ];
        for make in make {
            // The daemon writes its schema when it has committed, and may be about to.
            eventually("it is made", TIMEOUT, || {
                let _ = fs::remove_file(&path);
                make().then_some(())
            });
            cluster.swap(&[]).expect("it is out of the way");
            assert_eq!(fs::read(&target).expect("it is there"), b"kept", "{name}");
        }
        let _ = fs::remove_file(&path);
    }
    let manifest = fs::symlink_metadata(cluster.data().join(".handoff.manifest"));
    assert!(manifest.expect("it is there").is_file());
    cluster.assert_sound();
}

#[test]
fn a_directory_in_the_way_of_the_manifest_is_told_and_nothing_is_lost() {
    for name in [".handoff.manifest.new", ".handoff.manifest"] {
        let mut cluster = Cluster::start();
        let path = cluster.data().join(name);
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).expect("the name is free");
        let failed = cluster.swap_fails(&[]);
        assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
        assert!(failed.to_string().contains(name), "{failed}");
        cluster.wait_for_progress();
        fs::remove_dir(&path).expect("nothing was put there");
        cluster.assert_sound();
    }
}

/// Sockets that came to their name by a rename are not in the kernel's list by it, so that a tool
/// that removes stale ones takes them for such.
#[test]
fn the_control_socket_is_listed_and_comes_back_with_its_directory() {
    let mut cluster = Cluster::start();
    let control = cluster.control();
    let is_listed = || {
        let listed = fs::read_to_string("/proc/net/unix").expect("the kernel tells");
        listed.lines().any(|line| line.ends_with(&*control.to_string_lossy()))
    };
    assert!(is_listed(), "a socket that was bound at a cold start");
    let serving = cluster.serving();
    let is_back = || (cluster.control_owner() == Some(serving)).then_some(());
    fs::remove_file(&control).expect("it is there");
    eventually("the socket comes back", TIMEOUT, is_back);
    assert!(is_listed());
    cluster.swap(&[]).expect("the daemon is reached");
    let serving = cluster.serving();
    let is_back = || (cluster.control_owner() == Some(serving)).then_some(());
    fs::remove_file(&control).expect("it is there");
    eventually("the successor's socket comes back", TIMEOUT, is_back);
    assert!(is_listed());
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!(mode(&control), 0o600);
    let directory = control.parent().expect("it is in a directory");
    fs::set_permissions(directory, Permissions::from_mode(0o750)).expect("it is ours");
    cluster.swap(&[]).expect("the daemon is reached");
    let serving = cluster.serving();
    let is_back = || (cluster.control_owner() == Some(serving)).then_some(());
    // In one step: the daemon may be about to bind in it.
    fs::rename(directory, directory.with_extension("removed")).expect("it is there");
    eventually("the socket comes back with its directory", TIMEOUT, is_back);
    assert!(is_listed());
    assert_eq!((mode(directory), mode(&control)), (0o750, 0o600));
    cluster.assert_sound();
}

fn generation_of(lock: &Path) -> u64 {
    let record = fs::read(lock).expect("it is there");
    let bytes = record[16..24].try_into().expect("a record is longer");
    u64::from_le_bytes(bytes)
}

/// Makes a file of this user in a directory of another one, where this user may.
fn is_another_user_s(path: &Path, mode: u32) -> bool {
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    fs::write(path, KEPT).expect("it is written");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
    chown(path.parent().expect("it is in one"), Some(NOBODY), Some(NOBODY)).is_ok()
}

/// Owner, mode and contents of a regular file.
fn seen(path: &Path) -> Option<(u32, u32, Vec<u8>)> {
    let stat = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some((stat.uid(), stat.mode(), fs::read(path).ok()?))
}

/// Calls `act` as the user that owns the directory, on a thread of its own, and waits no longer
/// than it may take.
fn as_owner_of<T: Send + 'static>(directory: &Path, act: impl FnOnce() -> T + Send + 'static) -> T {
    let owner = fs::metadata(directory).expect("it is there").uid();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        if owner != rustix::process::geteuid().as_raw() {
            give_up_root(owner).expect("root may");
        }
        let _ = tell.send(act());
    });
    told.recv_timeout(TIMEOUT).expect("it waits for nothing")
}

const NOBODY: u32 = 65_534;
const KEPT: &[u8] = b"of another user";

#[test]
fn a_start_finds_what_lies_in_its_way_and_changes_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = directory.path().join("target");
    fs::write(&target, "").expect("it is written");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).expect("it is ours");
    let device = |path: &Path| {
        use rustix::fs::{FileType, makedev, mknodat};
        mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 3))
            .is_ok()
    };
    type Make<'a> = (&'a str, Box<dyn Fn(&Path) -> bool + 'a>);
    let makes: Vec<Make<'_>> = vec![
        ("link", Box::new(|path| symlink(&target, path).is_ok())),
        ("FIFO", Box::new(|path| rustix::fs::mkfifoat(CWD, path, Mode::RWXU).is_ok())),
        ("socket", Box::new(|path| std::os::unix::net::UnixListener::bind(path).is_ok())),
        ("directory", Box::new(|path| fs::create_dir(path).is_ok())),
        ("device", Box::new(device)),
        ("hard link", Box::new(|path| fs::hard_link(&target, path).is_ok())),
        ("empty", Box::new(|path| fs::write(path, "").is_ok())),
        ("cut", Box::new(|path| fs::write(path, "HANDOFF\0cut").is_ok())),
        ("garbage", Box::new(|path| fs::write(path, [7; 4096]).is_ok())),
        ("other, 0600", Box::new(|path| is_another_user_s(path, 0o600))),
        ("other, 0000", Box::new(|path| is_another_user_s(path, 0o000))),
    ];
    println!("{:<24} {:<12} outcome of a start", "name", "kind");
    let names = [
        ".handoff.lock",
        ".handoff.lock.new",
        ".handoff.manifest",
        ".handoff.manifest.new",
        ".handoff.schema",
        ".handoff.schema.new",
    ];
    for name in names {
        for (kind, make) in &makes {
            let data = directory.path().join("data");
            fs::create_dir_all(&data).expect("it is made");
            let path = data.join(name);
            let made = make(&path);
            if !made {
                println!("{name:<24} {kind:<12} skipped: it cannot be made here");
                continue;
            }
            let before = seen(&path);
            let opened = data.clone();
            let started = as_owner_of(&data, move || {
                let lock = DataDirLock::acquire_or_break_stale(&opened)?;
                lock.manifest()?;
                Ok(lock.generation())
            });
            let outcome = match &started {
                Ok(generation) => format!("starts, generation {generation}"),
                Err(error @ (Error::Path { .. } | Error::Damaged { .. })) => {
                    assert!(error.to_string().contains(name), "{error}");
                    error.to_string()
                }
                Err(error) => panic!("{error}"),
            };
            let outcome = outcome.replace(&*directory.path().to_string_lossy(), "");
            println!("{name:<24} {kind:<12} {outcome}");
            let is_none = name == ".handoff.lock" && !matches!(*kind, "hard link" | "empty");
            assert_eq!(started.is_err(), is_none, "{name} {kind}");
            assert_eq!(fs::read(&target).expect("it is there"), b"", "{name} {kind}");
            if kind.starts_with("other") {
                assert_eq!(seen(&path), before, "{name} {kind}");
            }
            fs::remove_dir_all(&data).expect("it is ours");
        }
    }
}

#[test]
fn files_that_root_made_are_the_directory_s_owner_s() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root gives files away");
        return;
    }
    const OWNER: u32 = 54_321;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("data");
    fs::create_dir(&path).expect("the name is free");
    std::os::unix::fs::chown(&path, Some(OWNER), Some(OWNER)).expect("root may");
    let lock = DataDirLock::acquire(&path).expect("it is free");
    let control = path.join("control");
    let incumbent = handoff::Incumbent::bind_cold_start(&control, lock).expect("it is free");
    for name in [".handoff.lock", "control"] {
        let stat = fs::symlink_metadata(path.join(name)).expect("it is there");
        assert_eq!((stat.uid(), stat.gid()), (OWNER, OWNER), "{name}");
        assert_eq!(stat.mode() & 0o777, 0o600, "{name}");
    }
    drop(incumbent);
}

/// Gives a directory and all that it has to a user.
fn give_away(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).expect("root may");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("it is there").flatten() {
            give_away(&entry.path(), user);
        }
    }
}

#[test]
fn a_daemon_that_gives_up_root_while_it_warms_up_is_swapped_rolled_back_and_stopped() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be given up");
        return;
    }
    let gives_up = "warm=gives-up-root";
    let mut cluster = Cluster::start();
    let data = cluster.data();
    cluster.kill(cluster.serving());
    // The next start makes them, as root.
    for path in [data.join(".handoff.lock"), cluster.control()] {
        fs::remove_file(path).expect("it is there");
    }
    give_away(cluster.state(), NOBODY);
    let start = |cluster: &mut Cluster| {
        let spec = cluster.successor(&[gives_up]).spec();
        cluster.supervisor.start(&spec)
    };
    let first = start(&mut cluster).expect("it serves");
    cluster.begin_anew(first);
    cluster.assert_one_serves();
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.serving()));
    let status = status.expect("it runs");
    assert!(status.contains(&format!("\nUid:\t{NOBODY}\t{NOBODY}")), "{status}");

    cluster.swap(&[gives_up]).expect("its user may do all that a swap takes");
    let failed = cluster.swap_fails(&[gives_up, "open=error"]);
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    let rolled_back = cluster.ready(&[gives_up]).abort("on a whim");
    assert_eq!(rolled_back.incumbent, IncumbentFate::Serving);
    cluster.assert_one_serves();

    // Files of another user, who is root, in a directory of its own.
    for name in [".handoff.manifest.new", ".handoff.manifest", ".handoff.lock.new"] {
        let path = data.join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, KEPT).expect("it is written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("it is ours");
        cluster.swap(&[gives_up]).expect("it is out of the way");
    }
    let lock = data.join(".handoff.lock");
    fs::remove_file(&lock).expect("it is there");
    fs::write(&lock, KEPT).expect("it is written");
    fs::set_permissions(&lock, Permissions::from_mode(0o600)).expect("it is ours");
    let failed = cluster.swap_fails(&[gives_up]);
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    assert!(failed.to_string().contains(".handoff.lock: Permission denied"), "{failed}");
    assert_eq!(fs::read(&lock).expect("it is there"), KEPT);
    fs::remove_file(&lock).expect("it is there");
    cluster.swap(&[gives_up]).expect("the incumbent makes it again");

    let stop = |cluster: &Cluster| {
        assert_eq!(cluster.ask("stop"), "ok");
        let is_over = || cluster.alive().is_empty().then_some(());
        eventually("the daemon ends", TIMEOUT, is_over);
    };
    stop(&cluster);
    let manifest = data.join(".handoff.manifest");
    assert_eq!(fs::metadata(&manifest).expect("it is there").uid(), NOBODY);
    chown(&manifest, Some(0), Some(0)).expect("root may");
    let before = seen(&manifest);
    match start(&mut cluster) {
        Err(Error::Launch(LaunchError::ExitedEarly { .. })) => {}
        other => panic!("{other:?}"),
    }
    let log = fs::read_to_string(cluster.state().join("stderr")).expect("it is there");
    assert!(log.contains(".handoff.manifest: Permission denied"), "{log}");
    assert_eq!(seen(&manifest), before);
    chown(&manifest, Some(NOBODY), Some(NOBODY)).expect("root may");
    let first = start(&mut cluster).expect("it can be read again");
    cluster.begin_anew(first);
    cluster.assert_sound();
}

#[test]
fn a_reservation_holds_in_another_namespace() {
    let mut cluster = Cluster::start();
    let session = cluster.sealed(&[]);
    let successor = session.successor_pid();
    let output = cluster.run_by_hand(|_, _, command| {
        let daemon = command.get_program().to_owned();
        *command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc"]).arg(daemon);
    });
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("unshare:") {
        println!("skipped: no namespace can be made here: {said}");
    } else {
        assert!(said.contains(&format!("is reserved for process {successor}")), "{said}");
    }
    let commit = || session.begin()?.commit();
    cluster.commit(commit().expect("the lock is the successor's"));
    cluster.assert_sound();
}

/// A process in a frozen cgroup (of version 1) does not end when it is killed.
struct Frozen(PathBuf);

impl Frozen {
    fn process(pid: u32) -> Option<Self> {
        let cgroup = PathBuf::from(format!("/sys/fs/cgroup/freezer/handoff-test-{pid}"));
        fs::create_dir(&cgroup).ok()?;
        let frozen = Self(cgroup);
        fs::write(frozen.0.join("cgroup.procs"), pid.to_string()).ok()?;
        fs::write(frozen.0.join("freezer.state"), "FROZEN").ok()?;
        Some(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        let is_removed = || fs::remove_dir(&self.0).ok();
        eventually("the frozen process ends", TIMEOUT, is_removed);
    }
}

#[test]
fn a_killed_successor_that_cannot_end_keeps_nobody_from_serving() {
    let mut cluster = Cluster::start();
    let session = cluster.sealed(&[]);
    let successor = session.successor_pid();
    let Some(frozen) = Frozen::process(successor) else {
        println!("skipped: no cgroup can be frozen here");
        return;
    };
    let begun = Instant::now();
    let failed = session.begin().expect_err("it is frozen");
    assert!(begun.elapsed() < SOON, "its end is not waited for: {:?}", begun.elapsed());
    assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
    assert!(cluster.alive().contains(&successor), "it cannot have ended");
    cluster.wait_for_progress();
    drop(frozen);
    cluster.assert_sound();
}

/// Much less than a supervisor waits for the end of a successor that may have the lock.
const SOON: Duration = Duration::from_secs(40);

/// A child that a daemon forked outlives it. Its copies of descriptors stand in no process's way; but
/// it keeps the connections of clients open.
#[test]
fn a_forked_child_of_a_dead_daemon_holds_neither_its_lock_nor_its_socket() {
    let forks = "cold-start.serves=fork";
    let mut cluster = Cluster::start_with(&[forks]);
    cluster.kill(cluster.serving());
    let answered = UnixStream::connect(cluster.control()).map_err(|error| error.kind());
    assert_eq!(answered.err(), Some(ErrorKind::ConnectionRefused), "the child has the socket");
    let spec = cluster.successor(&[forks]).spec();
    let first = cluster.supervisor.start(&spec).expect("nothing stands in its way");
    cluster.begin_anew(first);
    let [child, another] = cluster.forked()[..] else { panic!("each of the two forked") };
    // A promotion, likewise.
    let session = cluster.warmed(&[]);
    cluster.kill(cluster.serving());
    let failed = session.prepare().expect_err("the incumbent has died");
    assert!(failed.promoted.is_some(), "{failed}");
    cluster.note(failed);
    for child in [child, another] {
        assert!(Path::new(&format!("/proc/{child}")).exists(), "it was there all the time");
        cluster.kill(child);
    }
    cluster.assert_sound();
}

#[test]
fn a_forked_child_of_a_dead_daemon_keeps_no_connection_to_its_socket() {
    let mut cluster = Cluster::start_with(&["incumbent.drains=fork"]);
    let mut peer = UnixStream::connect(cluster.control()).expect("it listens");
    peer.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be set");
    let session = cluster.prepared(&[]);
    cluster.kill(cluster.serving());
    peer.read_to_end(&mut Vec::new()).expect("the connection ends with the daemon");
    let failed = session.seal().expect_err("the incumbent has died");
    assert!(failed.promoted.is_some(), "{failed}");
    cluster.note(failed);
    let [child] = cluster.forked()[..] else { panic!("one child was forked") };
    assert!(Path::new(&format!("/proc/{child}")).exists(), "it was there all the time");
    cluster.kill(child);
    cluster.assert_sound();
}

/// A child that no handler saw keeps the lock: it is named.
#[test]
fn a_child_that_holds_the_lock_of_a_dead_daemon_is_named() {
    let mut cluster = Cluster::start_with(&["cold-start.serves=clone"]);
    let daemon = cluster.serving();
    cluster.kill(daemon);
    let [child] = cluster.forked()[..] else { panic!("one child was forked") };
    match DataDirLock::acquire_or_break_stale(&cluster.data()) {
        Err(Error::LockInherited { writer_pid, child_pid, .. }) => {
            assert_eq!((writer_pid, child_pid), (daemon, child));
        }
        other => panic!("{other:?}"),
    }
    cluster.kill(child);
    let spec = cluster.successor(&[]).spec();
    let first = cluster.supervisor.start(&spec).expect("nothing stands in its way");
    cluster.begin_anew(first);
    cluster.assert_sound();
}
