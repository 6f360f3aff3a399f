//! Inside of the namespaces: the files of a machine, and then systemd.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::process::pivot_root;

use super::SYSTEMD;

/// Mounts the machine's files below that directory, and becomes its systemd.
///
/// # Errors
///
/// When something cannot be mounted, or systemd cannot be executed. There is no other return.
pub fn boot(files: &Path) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let root = overlay(files)?;
    configure(&root)?;
    let none = MountFlags::empty();
    mount("proc", root.join("proc"), "proc", none, None)?;
    mount("sysfs", root.join("sys"), "sysfs", none, None)?;
    mount("cgroup2", root.join("sys/fs/cgroup"), "cgroup2", none, None)?;
    devices(&root.join("dev"))?;
    mount("tmpfs", root.join("run"), "tmpfs", none, Some(c"mode=0755"))?;
    enter(&root)?;
    let mut systemd = Command::new(SYSTEMD);
    systemd.args(["--system", "--unit=basic.target"]).env_clear().env("container", "handoff-tests");
    Err(systemd.exec())
}

/// All of this machine's files, where changes are kept in memory.
fn overlay(files: &Path) -> io::Result<std::path::PathBuf> {
    mount("tmpfs", files, "tmpfs", MountFlags::empty(), Some(c"mode=0755"))?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| files.join(name));
    for directory in [&upper, &work, &root] {
        fs::create_dir(directory)?;
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}\0", upper.display(), work.display());
    let options =
        std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).map_err(io::Error::other)?;
    mount("overlay", &root, "overlay", MountFlags::empty(), Some(options))?;
    Ok(root)
}

/// What systemd is not to do here.
fn configure(root: &Path) -> io::Result<()> {
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(&units)?;
    for unit in MASKED {
        let path = units.join(unit);
        let _ = fs::remove_file(&path);
        symlink("/dev/null", path)?;
    }
    for file in ["etc/fstab", "etc/machine-id"] {
        fs::write(root.join(file), "")?;
    }
    Ok(())
}

/// A `/dev` with what every container has.
fn devices(dev: &Path) -> io::Result<()> {
    mount("tmpfs", dev, "tmpfs", MountFlags::NOSUID, Some(c"mode=0755"))?;
    for node in ["null", "zero", "full", "random", "urandom", "tty"] {
        File::create(dev.join(node))?;
        mount_bind(Path::new("/dev").join(node), dev.join(node))?;
    }
    for directory in ["pts", "shm"] {
        fs::create_dir(dev.join(directory))?;
    }
    fs::set_permissions(dev.join("shm"), fs::Permissions::from_mode(0o1777))?;
    let options = Some(c"newinstance,ptmxmode=0666,mode=0620");
    mount("devpts", dev.join("pts"), "devpts", MountFlags::NOSUID, options)?;
    symlink("pts/ptmx", dev.join("ptmx"))?;
    symlink("/proc/self/fd", dev.join("fd"))
}

/// Makes that directory the root, and lets go of the one before.
fn enter(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    // The old root goes on top of the new one, and from there away.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

const MASKED: [&str; 15] = [
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-modules-load.service",
    "systemd-sysctl.service",
    "systemd-remount-fs.service",
    "systemd-logind.service",
    "systemd-timesyncd.service",
    "systemd-binfmt.service",
    "getty.target",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
];
