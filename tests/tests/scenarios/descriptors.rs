//! Descriptors that are placed in a child, and binaries that cannot be started.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use handoff::error::LaunchError;
use handoff::{Error, SpawnSpec, Supervisor};
use handoff_tests::harness::{Cluster, HelperSupervisor};

/// Files that are no programs, in a directory.
struct NoPrograms(tempfile::TempDir);

impl NoPrograms {
    /// Written by another process: one that was open for writing here, when a test beside
    /// this one forked, could be "busy".
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // The foreign one is of another architecture: byte 18 of its header says which.
        let script = "cd \"$1\" && mkdir directory && echo text >plain \
            && echo 'echo I am no program' >text && echo '#!/no/such/interpreter' >orphan \
            && cp \"$(command -v cp)\" foreign \
            && printf '\\267' | dd of=foreign bs=1 seek=18 conv=notrunc status=none \
            && chmod +x text foreign orphan";
        let status = Command::new("sh").args(["-c", script, "sh"]).arg(directory.path()).status();
        assert!(status.expect("a shell runs").success());
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Whether the error of starting each is the right one.
    fn assert_told(&self, start: impl Fn(&Path) -> Error) {
        for name in ["missing", "directory", "plain", "text", "foreign", "orphan"] {
            let path = self.path(name);
            let error = match start(&path) {
                Error::Launch(error) => error,
                other => panic!("{name}: {other:?}"),
            };
            let told = match (name, &error) {
                ("missing", LaunchError::Missing(named))
                | ("directory", LaunchError::NotAFile(named))
                | ("plain", LaunchError::NotExecutable(named)) => *named == path,
                ("text" | "foreign", LaunchError::Exec { path: named, source }) => {
                    *named == path && source.raw_os_error() == Some(ENOEXEC)
                }
                ("orphan", LaunchError::Exec { path: named, source }) => {
                    *named == path && source.kind() == std::io::ErrorKind::NotFound
                }
                _ => false,
            };
            assert!(told, "{name}: {error:?}");
        }
    }
}

const ENOEXEC: i32 = 8;

#[test]
fn a_binary_that_cannot_be_started_is_told_however_many_listeners_it_would_get() {
    let programs = NoPrograms::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    for count in [1, 5, 30] {
        let control = programs.path("control");
        let mut supervisor = Supervisor::new(&control).expect("the path is short");
        for _ in 0..count {
            let copy = listener.try_clone().expect("a descriptor is left");
            supervisor = supervisor.with_listener("main", copy);
        }
        programs.assert_told(|path| match supervisor.start(&SpawnSpec::new(path)) {
            Err(error) => error,
            Ok(child) => panic!("{} was started as {}", path.display(), child.pid()),
        });
    }
}

#[test]
fn a_successor_that_cannot_be_started_disturbs_nobody() {
    let programs = NoPrograms::new();
    for count in [0, 4, 29] {
        let others = others(programs.0.path(), count);
        let cluster = Cluster::start_passing(&[], others.sockets);
        programs.assert_told(|path| match cluster.supervisor.pair(SpawnSpec::new(path)) {
            Err(error) => error,
            Ok(session) => panic!("{} was started: {session:?}", path.display()),
        });
        cluster.wait_for_progress();
        cluster.assert_sound();
    }
}

#[test]
fn a_failed_exec_is_told_by_a_supervisor_whose_low_descriptors_are_free() {
    let programs = NoPrograms::new();
    for count in [1, 5, 30] {
        let mut cluster = Cluster::start();
        let spec = cluster.successor(&[]);
        for (name, told) in
            [("orphan", "code: 2, kind: NotFound"), ("text", "code: 8,"), ("foreign", "code: 8,")]
        {
            let path = programs.path(name);
            let supervisor = HelperSupervisor::start_other(&cluster, &spec, &path, count);
            let report = supervisor.report();
            assert!(report.starts_with("error Launch(Exec {"), "{count}: {report}");
            assert!(report.contains(told), "{count}: {report}");
        }
        cluster.wait_for_progress();
        cluster.assert_sound();
    }
}

#[test]
fn listeners_arrive_in_order_with_their_names_and_kinds() {
    for count in [0, 4, 29] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let others = others(directory.path(), count);
        let mut cluster = Cluster::start_passing(&[], others.sockets);
        let expected = others.expected.join(",");
        assert_eq!(cluster.ask("listeners"), expected, "in a cold start");
        for _ in 0..2 {
            cluster.swap(&[]).expect("it commits");
            assert_eq!(cluster.ask("listeners"), expected, "in a successor");
        }
        assert_all_are_close_on_exec(cluster.serving());
        cluster.assert_sound();
    }
}

#[test]
fn a_name_that_cannot_be_passed_is_told() {
    for name in ["a:b", "a\nb", "\0"] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let supervisor = Supervisor::new(&directory.path().join("control"));
        let supervisor = supervisor.expect("the path is short").with_listener(name, listener);
        match supervisor.start(&SpawnSpec::new("true")) {
            Err(Error::Launch(LaunchError::ListenerName(named))) => assert_eq!(named, name),
            other => panic!("{other:?}"),
        }
    }
}

/// Sockets of all kinds, some under one name, and what the fixture daemon says of them.
struct Others {
    sockets: Vec<(&'static str, OwnedFd)>,
    expected: Vec<String>,
}

fn others(directory: &Path, count: usize) -> Others {
    let mut others = Others { sockets: Vec::new(), expected: Vec::new() };
    for index in 0..count {
        // Each name for one kind, since a daemon takes them by name and kind.
        let at = directory.join(format!("socket-{count}-{index}"));
        let file_name = at.file_name().expect("it has one").to_string_lossy().into_owned();
        let (name, socket, kind, address): (_, OwnedFd, _, _) = match index % 5 {
            0 | 1 => {
                let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
                let port = tcp.local_addr().expect("it is bound").port().to_string();
                ("web", tcp.into(), "tcp", port)
            }
            2 => {
                let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
                let port = udp.local_addr().expect("it is bound").port().to_string();
                ("dns", udp.into(), "udp", port)
            }
            3 => {
                let unix = UnixListener::bind(&at).expect("the path is free");
                ("admin", unix.into(), "unix", file_name)
            }
            _ => {
                let datagram = UnixDatagram::bind(&at).expect("the path is free");
                ("log", datagram.into(), "datagram", file_name)
            }
        };
        others.sockets.push((name, socket));
        others.expected.push(format!("{name} {kind} {address}"));
    }
    others
}

fn assert_all_are_close_on_exec(pid: u32) {
    let mut seen = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("it lives").flatten() {
        let number: u32 = entry.file_name().to_string_lossy().parse().expect("a number");
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("it has them");
        let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
        let what = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
        // Whoever runs the tests may have left other files open.
        if number > 2 && what.to_string_lossy().starts_with("socket:") {
            assert!(flags & CLOSE_ON_EXEC != 0, "descriptor {number} outlives an exec");
            seen += 1;
        }
    }
    assert!(seen >= 2, "its descriptors could not be seen");
}

const CLOSE_ON_EXEC: u32 = 0o2_000_000;
