//! The machine itself: it leaves nothing behind.

use std::fs;
use std::path::PathBuf;

use handoff_tests::systemd::Machine;

use crate::instance::is_skipped;

#[test]
fn a_machine_that_ends_leaves_nothing_behind() {
    if is_skipped("a_machine_that_ends_leaves_nothing_behind") {
        return;
    }
    let machine = Machine::boot();
    machine.write("/etc/machine-of-a-test", "");
    let (keeper, systemd) = (machine.keeper(), machine.systemd());
    let cgroups = fs::read_to_string("/proc/mounts").expect("there is a kernel");
    let cgroups = cgroups.lines().find(|line| line.contains(" cgroup2 ")).expect("it is mounted");
    let mount = cgroups.split(' ').nth(1).expect("it has a path");
    let cgroup = PathBuf::from(mount).join(format!("handoff-tests-{keeper}"));
    assert!(cgroup.join("system.slice").exists(), "{}", cgroup.display());
    drop(machine);
    assert!(!cgroup.exists(), "{}", cgroup.display());
    assert!(!PathBuf::from(format!("/proc/{systemd}/root")).exists());
    assert!(!PathBuf::from("/etc/machine-of-a-test").exists());
}
