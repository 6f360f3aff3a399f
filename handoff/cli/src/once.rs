//! `handoff swap --once`: swaps a daemon that has no supervisor, as a command of the unit that the daemon
//! is. This process supervises for the time of the swap.

use std::path::Path;
use std::process::{Child, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{anyhow, bail};
use handoff::supervisor::{Adoption, Failed, Launch, LaunchRequest, Paired, Progress, Session};
use handoff::{HandoffId, SpawnSpec, Supervisor};

use crate::binary::Binary;
use crate::commands;
use crate::config::Program;
use crate::notify;
use crate::record::{End, Outcome, Party, SwapEvent, SwapEventKind, SwapRecord, Trigger};
use crate::show::Live;
use crate::trigger::{Reply, SwapRequest};
use crate::units::{duration_us, to_ms};

/// The swap, shown as it goes on.
struct Shown {
    begun: Instant,
    record: SwapRecord,
    live: Live,
}

impl Shown {
    fn hear(&mut self, progress: Progress) {
        let Some(what) = SwapEventKind::of(progress) else { return };
        let step = SwapEvent { at_us: duration_us(self.begun.elapsed()), what };
        self.record.steps.push(step.clone());
        // A reader that is gone keeps nobody from swapping.
        let _ = self.live.hear(&Reply::Step(step));
    }

    fn end(&mut self, outcome: Outcome, cause: Option<String>, carried: Vec<String>) {
        let took_us = duration_us(self.begun.elapsed());
        self.record.end = Some(End { outcome, took_us, admitted_us: None, cause, carried });
        let _ = self.live.hear(&Reply::Ended(Box::new(self.record.clone())));
    }
}

/// Swaps the daemon that serves that control socket.
pub(crate) fn swap(
    control: &Path,
    request: &SwapRequest,
    args: Vec<String>,
    deadline: Duration,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let control = std::path::absolute(control)?;
    let supervisor =
        Supervisor::new(&control)?.with_journal(control.with_added_extension("journal"));
    let mut supervisor = supervisor.map_err(|error| match error {
        handoff::Error::Supervised { .. } => {
            anyhow!("{error}: ask that one, by its configuration: handoff --config FILE swap")
        }
        error => error.into(),
    })?;
    let Adoption::Daemon(daemon) = supervisor.adopt(ADOPT_TIMEOUT)? else {
        bail!(
            "no daemon serves the control socket {}; start it, and name the socket that it serves",
            control.display()
        );
    };
    let pid = daemon.process.pid();
    let binary = binary(request, args, pid)?;
    let handoff_id = HandoffId::new();
    let id = handoff_id.to_string();
    let build = String::from_utf8_lossy(&daemon.build_id).into_owned();
    let from = Binary::of_process(pid, Vec::new()).map(|binary| party(&binary)).unwrap_or_default();
    let mut shown = Shown {
        begun: Instant::now(),
        live: Live::new(json),
        record: SwapRecord {
            id: id.clone(),
            begun_ms: to_ms(SystemTime::now()),
            trigger: Trigger::Operator {
                uid: rustix::process::geteuid().as_raw(),
                pid: std::process::id(),
            },
            dry_run: request.dry_run,
            one_way: request.one_way,
            from: Party {
                build: Some(build).filter(|build| !build.is_empty()),
                pid: Some(pid),
                generation: Some(daemon.generation),
                ..from
            },
            to: party(&binary),
            listeners: Vec::new(),
            steps: Vec::new(),
            end: None,
            probation: None,
        },
    };
    shown.live.hear(&Reply::Begun { id, one_way: request.one_way })?;
    let shown = Arc::new(Mutex::new(shown));
    let told = Arc::clone(&shown);
    let supervisor = supervisor.with_launch(InUnit).with_observer(move |progress: &Progress| {
        lock(&told).hear(progress.clone());
    });
    let spec = SpawnSpec {
        args: binary.args.clone(),
        deadline,
        handoff_id: Some(handoff_id),
        one_way: request.one_way,
        ..SpawnSpec::new(&binary.path)
    };
    let ended = make(&supervisor, spec, request.dry_run, pid);
    // Has the observer hear of the last step.
    drop(supervisor);
    let mut shown = lock(&shown);
    let outcome = ended.outcome;
    shown.end(outcome, ended.cause, ended.carried);
    Ok(commands::code_of(outcome))
}

fn lock(shown: &Mutex<Shown>) -> std::sync::MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file at the path that the daemon executes, and its arguments, unless the operator names them.
fn binary(request: &SwapRequest, args: Vec<String>, pid: u32) -> anyhow::Result<Binary> {
    let (path, args) = match &request.binary {
        Some(path) => (std::path::absolute(path)?, args),
        None => {
            let runs = Binary::of_process(pid, Vec::new()).map_err(|error| {
                anyhow!("cannot look at what the daemon executes, process {pid}: {error}; name the binary and its arguments: --binary PATH -- ARGUMENTS")
            })?;
            (runs.path, runs.args)
        }
    };
    Binary::open(&Program { path, args, blake3: None, listeners: Vec::new() })
}

fn party(binary: &Binary) -> Party {
    let (path, blake3) = (binary.path.display().to_string(), binary.blake3.clone());
    Party { binary: path, blake3, ..Party::default() }
}

/// The end of the swap.
struct Ended {
    outcome: Outcome,
    cause: Option<String>,
    carried: Vec<String>,
}

impl Ended {
    const fn without_cause(outcome: Outcome) -> Self {
        Self { outcome, cause: None, carried: Vec::new() }
    }
}

fn make(supervisor: &Supervisor, spec: SpawnSpec, dry_run: bool, incumbent: u32) -> Ended {
    let session = match supervisor.pair(spec) {
        Ok(session) => session,
        Err(error) => {
            let cause = Some(error.to_string());
            return Ended { cause, ..Ended::without_cause(Outcome::NotBegun) };
        }
    };
    drive(session, dry_run).unwrap_or_else(|failed| {
        match &failed.promoted {
            Some(promoted) => main_process(promoted.successor.pid()),
            // The manager was told otherwise before the commit.
            None => main_process(incumbent),
        }
        let cause = Some(failed.cause.to_string());
        Ended { cause, ..Ended::without_cause(failed.outcome()) }
    })
}

fn drive(session: Session<Paired>, dry_run: bool) -> Result<Ended, Failed> {
    let warmed = session.warm()?;
    if dry_run {
        let outcome = match warmed.abort("a dry run ends here").outcome() {
            Outcome::RolledBack => Outcome::DryRun,
            outcome => outcome,
        };
        return Ok(Ended::without_cause(outcome));
    }
    let ready = warmed.prepare_and_seal()?.begin()?;
    // First: behind the commit the old process ends, and a manager stops the unit with it.
    main_process(ready.successor_pid());
    let committed = ready.commit()?;
    let carried = committed.carried.to_string().lines().map(str::to_owned).collect();
    Ok(Ended { carried, ..Ended::without_cause(Outcome::Committed) })
}

/// Starts the successor as the main process of the unit, which a command of the unit is not.
struct InUnit;

impl Launch for InUnit {
    fn launch(&self, request: LaunchRequest<'_>) -> handoff::Result<Child> {
        request.spawn(|command| {
            for of_this_command in ["WATCHDOG_PID", "MAINPID"] {
                command.env_remove(of_this_command);
            }
        })
    }
}

/// Tells the service manager, if there is one, which process the unit is.
fn main_process(pid: u32) {
    if let Err(error) = notify::tell_main_process(pid) {
        crate::complain(&format!(
            "cannot tell the service manager that process {pid} is the unit's main process now: {error}"
        ));
    }
}

/// The daemon that runs answers at once.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(30);
