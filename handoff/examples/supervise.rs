//! A supervisor: it starts a daemon, and swaps it for each binary that a line of its input names.
//! `supervise NAME ADDRESS CONTROL_SOCKET BINARY [ARGUMENT ...]` listens at the address, and passes
//! the listener to each daemon under that name. It looks for a daemon that has died after each line,
//! and starts it again. The daemon serves on when the input ends.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, error::Error, io, mem, thread};

use handoff::supervisor::{ChildProcess, Committed, Failed, Paired, Progress};
use handoff::{Session, SpawnSpec, Supervisor};

fn swap(session: Session<Paired>) -> Result<Committed, Failed> {
    let warmed = session.warm()?; // the old process still serves; `SpawnSpec::deadline` runs
    let sealed = warmed.prepare_and_seal()?; // or prepare()?, a look at the drain, and seal()?
    let revisions = sealed.seal_report().last_revision_per_shard.clone();
    let ready = sealed.begin()?; // clients wait: do nothing slow before the commit
    let committed = ready.commit()?; // or ready.abort("why"), or drop it: rolled back either way
    println!("the old process sealed {revisions:?}, and the new one serves");
    Ok(committed)
}

fn start(
    control: &str,
    (name, address): (&str, &str),
    spec: &SpawnSpec,
) -> handoff::Result<(Supervisor, ChildProcess)> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?; // now or never: all processes share the flag
    println!("the daemon's address is {}", listener.local_addr()?);
    let supervisor = Supervisor::new(Path::new(control))?
        .with_listener(name, listener)
        .with_observer(print_phase);
    let daemon = supervisor.start(spec)?;
    println!("process {} serves", daemon.pid());
    Ok((supervisor, daemon))
}

fn print_phase(progress: &Progress) {
    if let Progress::Entered { phase, elapsed, .. } = progress {
        println!("{elapsed:>10.2?}  {phase}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [name, address, control, binary, arguments @ ..] = &arguments[..] else {
        return Err("usage: supervise NAME ADDRESS CONTROL_SOCKET BINARY [ARGUMENT ...]".into());
    };
    let spec = |binary: &str| SpawnSpec { args: arguments.to_vec(), ..SpawnSpec::new(binary) };
    let (supervisor, mut daemon) = start(control, (name, address), &spec(binary))?;
    let mut binary = binary.clone();
    for line in io::stdin().lines() {
        let line = line?;
        let serving = match supervisor.pair(spec(&line)).map(swap) {
            Ok(Ok(committed)) => Some(committed),
            Ok(Err(failed)) => {
                println!("{failed}");
                failed.promoted.map(|promoted| *promoted) // the old process had died
            }
            Err(error) => {
                println!("the swap did not begin: {error}");
                None
            }
        };
        if let Some(Committed { successor, generation, .. }) = serving {
            println!("process {} serves, generation {generation}", successor.pid());
            binary = line;
            let mut old = mem::replace(&mut daemon, successor);
            old.wait_until(Instant::now() + Duration::from_secs(60))?; // it ends by itself
        }
        if let Some(status) = daemon.try_wait()? {
            println!("process {} has ended: {status}", daemon.pid());
            daemon = restart(&supervisor, &spec(&binary));
            println!("process {} serves", daemon.pid());
        }
    }
    Ok(())
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
