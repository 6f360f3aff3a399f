//! A supervisor for scenarios: it swaps once, and stops or kills itself when a phase is
//! entered, if it is told to. The daemon's listener is its standard input; it is passed as often
//! as it is told, from descriptors that are high, so that low ones are free.
//!
//! `fixture-supervisor CONTROL JOURNAL MARK DEADLINE_MS LISTENERS PHASE SIGNAL DAEMON ARGS...`, with a
//! signal of `stop`, `kill` or `none`. The file at MARK says that the phase was reached. What
//! the swap came to is printed: `committed PID`, `failed FATE: WHY` or `error WHY`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use handoff::supervisor::{HandoffOutcome, Progress};
use handoff::{Result, SpawnSpec, Supervisor};
use rustix::process::{Signal, getpid, kill_process};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [control, journal, mark, deadline, listeners, phase, signal, daemon, daemon_args @ ..] => {
            let spec = SpawnSpec {
                args: daemon_args.to_vec(),
                deadline: Duration::from_millis(deadline.parse().unwrap_or(60_000)),
                ..SpawnSpec::new(daemon)
            };
            let listeners = listeners.parse().unwrap_or(1);
            let supervisor = supervisor(Path::new(control), Path::new(journal), listeners);
            let swap = |supervisor| swap(supervisor, mark.into(), phase.clone(), signal, spec);
            match supervisor.and_then(swap) {
                Ok(HandoffOutcome::Committed(committed)) => {
                    println!("committed {}", committed.successor.pid());
                }
                Ok(HandoffOutcome::Failed(failed)) => {
                    println!("failed {:?}: {}", failed.incumbent, failed.cause);
                }
                Err(error) => println!("error {error:?}"),
            }
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

fn supervisor(control: &Path, journal: &Path, listeners: usize) -> Result<Supervisor> {
    let low = (0..=listeners).map(|_| File::open("/dev/null")).collect::<io::Result<Vec<_>>>()?;
    let mut supervisor = Supervisor::new(control)?.with_journal(journal)?;
    for index in 0..listeners {
        let listener = io::stdin().as_fd().try_clone_to_owned()?;
        let name = if index == 0 { "main" } else { "more" };
        supervisor = supervisor.with_listener(name, listener);
    }
    drop(low);
    Ok(supervisor)
}

fn swap(
    supervisor: Supervisor,
    mark: PathBuf,
    at: String,
    signal: &str,
    spec: SpawnSpec,
) -> Result<HandoffOutcome> {
    let signal = match signal {
        "stop" => Some(Signal::STOP),
        "kill" => Some(Signal::KILL),
        _ => None,
    };
    // In one call the seal follows the drain, and nothing rests in between.
    let rests = at == "prepared";
    let supervisor = supervisor.with_observer(move |progress: &Progress| {
        let reached = matches!(progress, Progress::Entered { phase, .. } if phase.name() == at);
        if let Some(signal) = signal.filter(|_| reached) {
            File::create(&mark).expect("the mark can be left");
            kill_process(getpid(), signal).expect("a process may signal itself");
        }
    });
    if !rests {
        return supervisor.perform_handoff(spec);
    }
    let session = supervisor.pair(spec)?;
    let committed = || session.warm()?.prepare()?.seal()?.begin()?.commit();
    Ok(match committed() {
        Ok(committed) => HandoffOutcome::Committed(committed),
        Err(failed) => HandoffOutcome::Failed(failed),
    })
}
