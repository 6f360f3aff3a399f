//! A supervisor for the matrix and the soak: it adopts what its predecessor left, and then does
//! as its standard input says, until that ends or somebody kills it.
//!
//! `fixture-live-supervisor CONTROL JOURNAL LISTEN LOG`. It says first what it found:
//! `adopted PID RESOLVED`, or `nothing RESOLVED`, and then it has bound LISTEN itself; RESOLVED is
//! `none` where no swap was in flight. An order is words between tabs: `start FAULTS ARGS...` or
//! `swap DEADLINE_MS FAULTS ARGS...`. Its answer is `started PID`, `committed PID`, `failed FATE
//! PROMOTED CAUSE`, where PROMOTED is a pid or `none`, or `error WHY`. `collect` is answered by
//! `children COUNT`: those that have not ended.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use handoff::faults;
use handoff::supervisor::{
    Adoption, ChildProcess, HandoffOutcome, Launch, LaunchRequest, Resolved,
};
use handoff::{Result, SpawnSpec, Supervisor};
use handoff_tests::harness::executable;
use tracing_subscriber::util::SubscriberInitExt;

#[path = "../sink.rs"]
mod sink;

use sink::{SINK, Sink};

fn main() -> ExitCode {
    if let Ok(word) = std::env::var(SINK) {
        word.parse::<Sink>().expect("the test knows the words").subscriber().init();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [control, journal, listen, log] = &args[..] else { return ExitCode::FAILURE };
    match supervise(Path::new(control), Path::new(journal), listen, log.into()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error {error}"));
            ExitCode::FAILURE
        }
    }
}

fn supervise(control: &Path, journal: &Path, listen: &str, log: PathBuf) -> Result<()> {
    let mut supervisor =
        Supervisor::new(control)?.with_launch(Logged(log)).with_journal(journal)?;
    match supervisor.adopt(ADOPT_TIMEOUT)? {
        Adoption::Daemon(daemon) => {
            say(&format!("adopted {} {}", daemon.process.pid(), resolved(daemon.resolved)));
        }
        Adoption::Nothing { resolved: swap } => {
            let listener = bind(listen)?;
            listener.set_nonblocking(true)?;
            supervisor.add_listener("main", listener);
            say(&format!("nothing {}", resolved(swap)));
        }
    }
    let mut children = Vec::new();
    for line in io::stdin().lines() {
        children.retain_mut(|child: &mut ChildProcess| matches!(child.try_wait(), Ok(None)));
        let line = line?;
        let words: Vec<&str> = line.split('\t').collect();
        let answer = match words[..] {
            ["start", faults, ref args @ ..] => match supervisor.start(&spec(args, faults)) {
                Ok(child) => {
                    let answer = format!("started {}", child.pid());
                    children.push(child);
                    answer
                }
                Err(error) => format!("error {error}"),
            },
            ["swap", deadline, faults, ref args @ ..] => {
                let deadline = Duration::from_millis(deadline.parse().unwrap_or(0));
                let spec = SpawnSpec { deadline, ..spec(args, faults) };
                swap(&supervisor, spec, &mut children)
            }
            ["collect"] => format!("children {}", children.len()),
            _ => format!("error what is {line:?}?"),
        };
        say(&answer);
    }
    Ok(())
}

fn swap(supervisor: &Supervisor, spec: SpawnSpec, children: &mut Vec<ChildProcess>) -> String {
    match supervisor.perform_handoff(spec) {
        Ok(HandoffOutcome::Committed(committed)) => {
            let answer = format!("committed {}", committed.successor.pid());
            children.push(committed.successor);
            answer
        }
        Ok(HandoffOutcome::Failed(failed)) => {
            let promoted = failed.promoted.map(|committed| committed.successor);
            let pid = promoted.as_ref().map_or("none".to_owned(), |child| child.pid().to_string());
            children.extend(promoted);
            format!("failed {:?} {pid} {}", failed.incumbent, failed.cause)
        }
        Err(error) => format!("error {error}"),
    }
}

fn spec(args: &[&str], faults: &str) -> SpawnSpec {
    SpawnSpec {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        // Also where there are none: the successor does not inherit those of this process.
        env: vec![(faults::VARIABLE.to_owned(), faults.to_owned())],
        hello_timeout: START_TIMEOUT,
        start_timeout: START_TIMEOUT,
        one_way: args.contains(&"--format"),
        ..SpawnSpec::new(executable("fixture-daemon"))
    }
}

fn resolved(resolved: Option<Resolved>) -> String {
    resolved.map_or("none".to_owned(), |resolved| format!("{:?}", resolved.outcome))
}

/// Whoever had the address may be just about to end.
fn bind(listen: &str) -> io::Result<TcpListener> {
    let deadline = Instant::now() + ADOPT_TIMEOUT;
    loop {
        match TcpListener::bind(listen) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// Not `println!`, which panics when nobody listens any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Starts processes with their standard error in a file, and nobody's standard output.
struct Logged(PathBuf);

impl Launch for Logged {
    fn launch(&self, request: LaunchRequest<'_>) -> Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.0)?;
        request.spawn(|command| {
            command.stdin(std::process::Stdio::null());
            command.stdout(std::process::Stdio::null());
            command.stderr(log);
        })
    }
}

const ADOPT_TIMEOUT: Duration = Duration::from_secs(30);
const START_TIMEOUT: Duration = Duration::from_secs(4);
