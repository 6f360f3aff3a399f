//! A swap whose hooks do nothing: what is left of the pause is the library's own.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use handoff::daemon::Daemon;
use handoff::drainable::{DrainReport, Drainable, SealReport, StateSnapshot};
use handoff::faults::{Point, STEPS_VARIABLE, steps};
use handoff::supervisor::{ChildProcess, HandoffOutcome};
use handoff::{Result, SpawnSpec, Supervisor};
use handoff_tests::figures::{Spread, us};

use crate::Effort;
use crate::pingpong::{MESSAGES, PingPong};
use crate::report::Results;
use crate::tell::{Tell, Told};

/// Hooks that do nothing, but to say when they were called.
struct Nothing(Arc<Tell>);

impl Drainable for Nothing {
    fn drain(&self, _: Instant) -> Result<DrainReport> {
        self.0.drained();
        Ok(DrainReport { open_conns_remaining: 0, accept_closed: true })
    }

    fn seal(&self) -> Result<SealReport> {
        Ok(SealReport::default())
    }

    fn resume_after_abort(&self) -> Result<()> {
        Ok(())
    }

    fn snapshot_state(&self) -> StateSnapshot {
        StateSnapshot::default()
    }

    fn admit(&self) -> Result<()> {
        self.0.serving();
        Ok(())
    }
}

/// Runs such a daemon, as this process.
pub(crate) fn daemon(args: &[String]) -> io::Result<()> {
    let [directory] = args else { return Err(io::Error::other("--daemon DIRECTORY")) };
    let directory = Path::new(directory);
    // Nothing that a bench which was killed has left lives for long.
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(120));
        std::process::exit(1);
    });
    let tell = Arc::new(Tell::to(&directory.join("told"))?);
    Daemon::new(directory.join("control"), directory.join("data"))
        .run(|_| Ok(()), |(), _| Ok(Nothing(tell)))
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(())
}

/// A daemon that serves.
pub(crate) struct Serving {
    supervisor: Supervisor,
    pub(crate) process: ChildProcess,
    told: Told,
    spec: SpawnSpec,
    _directory: tempfile::TempDir,
}

impl Serving {
    pub(crate) fn start(place: &Path, steps: Option<&Path>) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("limits-").tempdir_in(place)?;
        let told = Told::bind(&directory.path().join("told"))?;
        let supervisor = Supervisor::new(&directory.path().join("control")).map_err(other)?;
        let mut spec = SpawnSpec::new(std::env::current_exe()?);
        spec.args = vec!["--daemon".into(), directory.path().display().to_string()];
        if let Some(path) = steps {
            spec.env.push((STEPS_VARIABLE.to_owned(), path.display().to_string()));
        }
        let process = supervisor.start(&spec).map_err(other)?;
        told.wait_serving(TIMEOUT)?;
        Ok(Self { supervisor, process, told, spec, _directory: directory })
    }

    /// Swaps it; the pause.
    pub(crate) fn swap(&mut self) -> io::Result<Duration> {
        let outcome = self.supervisor.perform_handoff(self.spec.clone()).map_err(other)?;
        let HandoffOutcome::Committed(committed) = outcome else {
            return Err(io::Error::other("the swap failed"));
        };
        let mut replaced = std::mem::replace(&mut self.process, committed.successor);
        replaced.wait()?;
        let said = self.told.wait_serving(TIMEOUT)?;
        Ok(Duration::from_nanos(said.serving - said.drained))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn run(effort: &Effort, results: &mut Results) -> io::Result<()> {
    let place = place();
    let mut serving = Serving::start(&place, None)?;
    let mut ping_pong = PingPong::start()?;
    let (mut pauses, mut rested, mut in_a_row) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        thread::sleep(REST);
        pauses.push(us(serving.swap()?));
        thread::sleep(REST);
        rested.push(us(ping_pong.round()?));
        for _ in 0..IN_A_ROW {
            in_a_row.push(us(ping_pong.round()?));
        }
    }
    drop(serving);
    let [pause, rested, in_a_row] = [pauses, rested, in_a_row].map(Spread::of);
    let ratio = pause.median / rested.median;
    results.times("pause of a swap whose hooks do nothing", pause);
    results.times(format!("ping-pong of {MESSAGES} messages, after a rest"), rested);
    results.times(format!("ping-pong of {MESSAGES} messages, again and again"), in_a_row);
    results.figure(
        "pause / ping-pong again and again",
        format!("{:.2}", pause.median / in_a_row.median),
    );
    results.check("pause / ping-pong", ratio, "", 3.0);
    break_down(effort, &place, results)
}

/// Where it goes, step by step: the medians of the times from the first to each.
fn break_down(effort: &Effort, place: &Path, results: &mut Results) -> io::Result<()> {
    let file = tempfile::NamedTempFile::new_in(place)?;
    let mut serving = Serving::start(place, Some(file.path()))?;
    for _ in 0..effort.rounds {
        thread::sleep(REST);
        serving.swap()?;
    }
    drop(serving);
    let all = steps(file.path())?;
    let mut reached: HashMap<Point, Vec<f64>> = HashMap::new();
    let begins = all.iter().enumerate().filter(|(_, step)| step.point == Point::IncumbentDrains);
    for (index, first) in begins {
        for step in &all[index..] {
            let at = us(Duration::from_nanos(step.at - first.at));
            reached.entry(step.point).or_default().push(at);
            if step.point == Point::SuccessorAdmits {
                break;
            }
        }
    }
    let mut medians: Vec<_> =
        reached.into_iter().map(|(point, at)| (Spread::of(at).median, point)).collect();
    medians.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let mut before = 0.0;
    for (at, point) in medians {
        results.figure(format!("  {point}"), format!("{at:4.0} µs (+{:.0})", at - before));
        before = at;
    }
    Ok(())
}

/// In memory, where there is such a place: what a disk adds is not the library's.
pub(crate) fn place() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

const TIMEOUT: Duration = Duration::from_secs(20);
const REST: Duration = Duration::from_millis(20);
const IN_A_ROW: usize = 10;
