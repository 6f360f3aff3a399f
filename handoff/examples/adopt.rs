//! A supervisor that may die: its daemon serves on, and the supervisor that starts next adopts it.
//! `adopt NAME ADDRESS CONTROL_SOCKET BINARY [ARGUMENT ...]` swaps the daemon at each `SIGHUP`, to
//! the file that lies at the binary's path by then. When the daemon dies, it starts another.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{env, error::Error, mem, path::Path, thread};

use handoff::supervisor::{Adoption, ChildProcess, DaemonProcess, HandoffOutcome};
use handoff::{SpawnSpec, Supervisor};
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::{consts::SIGHUP, low_level::pipe};

fn adopt_or_start(
    control: &str,
    (name, address): (&str, &str),
    spec: &SpawnSpec,
) -> handoff::Result<(Supervisor, DaemonProcess)> {
    let journal = format!("{control}.journal"); // one supervisor has it at a time
    let mut supervisor = Supervisor::new(Path::new(control))?.with_journal(journal)?;
    let daemon: DaemonProcess = match supervisor.adopt(Duration::from_secs(60))? {
        // The daemon has given back its listeners: those that a supervisor passed to it, and those
        // that it bound and then gave to `Listeners::keep`.
        Adoption::Daemon(daemon) => {
            println!("adopted: generation {}, listeners {:?}", daemon.generation, daemon.listeners);
            daemon.process.into()
        }
        Adoption::Nothing { .. } => {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?; // now or never: all processes share the flag
            println!("the daemon's address is {}", listener.local_addr()?);
            supervisor.add_listener(name, listener);
            supervisor.start(spec)?.into()
        }
    };
    println!("process {} serves", daemon.pid());
    Ok((supervisor, daemon))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [name, address, control, binary, arguments @ ..] = &arguments[..] else {
        return Err("usage: adopt NAME ADDRESS CONTROL_SOCKET BINARY [ARGUMENT ...]".into());
    };
    let (mut hangups, writer) = UnixStream::pair()?;
    hangups.set_nonblocking(true)?;
    pipe::register(SIGHUP, writer)?;
    let spec = SpawnSpec { args: arguments.to_vec(), ..SpawnSpec::new(binary) };
    let (supervisor, mut daemon) = adopt_or_start(control, (name, address), &spec)?;
    loop {
        let fds = &mut [PollFd::new(&daemon, PollFlags::IN), PollFd::new(&hangups, PollFlags::IN)];
        let _ = poll(fds, None); // a signal interrupts it, which is no error
        let next = if !daemon.is_alive()? {
            println!("process {} has ended", daemon.pid());
            Some(restart(&supervisor, &spec))
        } else if hangups.read(&mut [0; 64]).is_ok() {
            swap(&supervisor, spec.clone())
        } else {
            None
        };
        if let Some(next) = next {
            println!("process {} serves", next.pid());
            // The old process ends by itself; this waits a minute for it, and collects a child.
            let mut old = mem::replace(&mut daemon, next.into());
            old.wait_until(Instant::now() + Duration::from_secs(60))?;
        }
    }
}

/// Starts the daemon again, and tries until one serves.
fn restart(supervisor: &Supervisor, spec: &SpawnSpec) -> ChildProcess {
    let mut pause = Duration::from_secs(1);
    loop {
        thread::sleep(pause); // one that dies at once is not started at once
        match supervisor.start(spec) {
            Ok(daemon) => return daemon,
            Err(error) => println!("no daemon serves: {error}"),
        }
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}

/// The new process, if it serves.
fn swap(supervisor: &Supervisor, spec: SpawnSpec) -> Option<ChildProcess> {
    match supervisor.perform_handoff(spec) {
        Ok(HandoffOutcome::Committed(committed)) => Some(committed.successor),
        Ok(HandoffOutcome::Failed(failed)) => {
            println!("{failed}");
            failed.promoted.map(|promoted| promoted.successor) // the old process had died
        }
        Err(error) => {
            println!("the swap did not begin: {error}");
            None
        }
    }
}
