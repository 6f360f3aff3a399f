//! The server under supervision: started once, and swapped for one build after another.

use std::env;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handoff::supervisor::{ChildProcess, Failed, HandoffOutcome, IncumbentFate, Timings};
use handoff::{SpawnSpec, Supervisor};

use crate::BoxError;
use crate::report::{Order, Outcome, PHASES, SwapReport};
use crate::serve::LISTENER;
use crate::supervise::{FIRST_BUILD, SuperviseOptions};

/// The process that serves. Dropping it ends the process.
pub(crate) struct Supervised {
    supervisor: Supervisor,
    binary: PathBuf,
    data: PathBuf,
    control: PathBuf,
    build: u32,
    server: ChildProcess,
    /// They leave by themselves, and are waited for later.
    replaced: Vec<ChildProcess>,
}

impl Supervised {
    /// Starts the first build.
    pub(crate) fn start(
        options: &SuperviseOptions,
        listener: TcpListener,
    ) -> Result<Self, BoxError> {
        let SuperviseOptions { data, control } = options;
        let supervisor = Supervisor::new(control)?.with_listener(LISTENER, listener);
        let binary = env::current_exe()?;
        let first = Order { build: FIRST_BUILD, fail_open: false };
        let server = supervisor.start(&spec(&binary, data, control, &first)?)?;
        Ok(Self {
            supervisor,
            binary,
            data: data.clone(),
            control: control.clone(),
            build: FIRST_BUILD,
            server,
            replaced: Vec::new(),
        })
    }

    /// The process that serves.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Swaps to another build.
    ///
    /// # Errors
    ///
    /// Nothing was begun; the server serves as before.
    pub(crate) fn swap(&mut self, order: &Order) -> Result<SwapReport, BoxError> {
        self.replaced.retain_mut(|process| matches!(process.try_wait(), Ok(None)));
        let spec = spec(&self.binary, &self.data, &self.control, order)?;
        let (from, to) = (self.build, order.build);
        let (outcome, timings, reason) = match self.supervisor.perform_handoff(spec)? {
            HandoffOutcome::Committed(committed) => {
                self.replace(committed.successor, to);
                (Outcome::Committed, committed.timings, String::new())
            }
            HandoffOutcome::Failed(mut failed) => {
                let outcome = outcome_of(&failed);
                if let Some(promoted) = failed.promoted.take() {
                    self.replace(promoted.successor, to);
                }
                (outcome, *failed.timings, failed.to_string())
            }
        };
        Ok(SwapReport { from, to, outcome, pid: self.pid(), phases: phases(timings), reason })
    }

    fn replace(&mut self, successor: ChildProcess, build: u32) {
        self.replaced.push(std::mem::replace(&mut self.server, successor));
        self.build = build;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        for process in self.replaced.iter_mut().chain([&mut self.server]) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn spec(binary: &Path, data: &Path, control: &Path, order: &Order) -> Result<SpawnSpec, BoxError> {
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("a path is not UTF-8");
    let spec = SpawnSpec::new(binary)
        .arg("serve")
        .arg("--data")
        .arg(text(data)?)
        .arg("--control")
        .arg(text(control)?)
        .arg("--build")
        .arg(order.build.to_string());
    Ok(if order.fail_open { spec.arg("--fail-open") } else { spec })
}

fn outcome_of(failed: &Failed) -> Outcome {
    match failed.incumbent {
        _ if failed.promoted.is_some() => Outcome::Promoted,
        IncumbentFate::Serving => Outcome::RolledBack,
        IncumbentFate::Lost | IncumbentFate::Unknown => Outcome::Unknown,
    }
}

/// A phase that was not reached took no time; nor did one that was over before it was begun.
fn phases(timings: Timings) -> [Option<Duration>; PHASES.len()] {
    let Timings { pair, warm, drain, seal, open, commit } = timings;
    let mut phases = [pair, warm, drain, seal, open, commit].map(Some);
    let reached = phases.iter().rposition(|took| *took != Some(Duration::ZERO));
    phases[reached.map_or(0, |last| last + 1)..].fill(None);
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_behind_the_last_that_took_time_were_not_reached() {
        let ms = Duration::from_millis;
        let timings = Timings { pair: ms(3), drain: ms(2), ..Timings::default() };
        let expected = [Some(ms(3)), Some(ms(0)), Some(ms(2)), None, None, None];
        assert_eq!(phases(timings), expected);
        assert_eq!(phases(Timings::default()), [None; PHASES.len()]);
    }
}
