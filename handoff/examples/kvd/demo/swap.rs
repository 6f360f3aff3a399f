//! The server under supervision, swapped for one build after another.

use std::env;
use std::path::Path;
use std::time::{Duration, Instant};

use handoff::carry::CarryKind;
use handoff::supervisor::{CarryReport, ChildProcess, DaemonProcess, HandoffOutcome, Timings};
use handoff::{Outcome, SpawnSpec, Supervisor};

use crate::BoxError;
use crate::cli::SuperviseOptions;
use crate::demo::report::{Carried, Order, Phases, SwapReport};

/// The process that serves. Dropping it ends the process.
pub(crate) struct Supervised {
    supervisor: Supervisor,
    options: SuperviseOptions,
    build: u32,
    server: DaemonProcess,
    /// They leave by themselves; `swap` collects them later.
    replaced: Vec<DaemonProcess>,
}

impl Supervised {
    /// Takes charge of a server that serves.
    pub(crate) const fn new(
        supervisor: Supervisor,
        options: SuperviseOptions,
        build: u32,
        server: DaemonProcess,
    ) -> Self {
        Self { supervisor, options, build, server, replaced: Vec::new() }
    }

    /// Swaps to another build.
    ///
    /// # Errors
    ///
    /// Nothing was begun; the server serves as before.
    pub(crate) fn swap(&mut self, order: &Order) -> Result<SwapReport, BoxError> {
        self.replaced.retain_mut(|server| matches!(server.is_alive(), Ok(true)));
        let spec = spec(&self.options, order)?;
        let (from, to) = (self.build, order.build);
        let (outcome, timings, carried, reason) = match self.supervisor.perform_handoff(spec)? {
            HandoffOutcome::Committed(committed) => {
                let carried = carried(&committed.carried);
                self.replace(committed.successor, to);
                (Outcome::Committed, committed.timings, Some(carried), String::new())
            }
            HandoffOutcome::Failed(mut failed) => {
                let (outcome, reason) = (failed.outcome(), failed.to_string());
                let carried = failed.promoted.take().map(|promoted| {
                    self.replace(promoted.successor, to);
                    carried(&promoted.carried)
                });
                (outcome, *failed.timings, carried, reason)
            }
        };
        let pid = self.server.pid();
        Ok(SwapReport { from, to, outcome, pid, phases: phases(timings), carried, reason })
    }

    fn replace(&mut self, successor: ChildProcess, build: u32) {
        self.replaced.push(std::mem::replace(&mut self.server, successor.into()));
        self.build = build;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        for server in self.replaced.iter_mut().chain([&mut self.server]) {
            // The kill of a process that has ended already may fail.
            let _ = server.kill();
            let _ = server.wait_until(Instant::now() + EXIT_TIMEOUT);
        }
    }
}

/// The command of this program, as the build that the order names.
pub(crate) fn spec(options: &SuperviseOptions, order: &Order) -> Result<SpawnSpec, BoxError> {
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("a path is not UTF-8");
    let spec = SpawnSpec::new(env::current_exe()?)
        .arg("serve")
        .arg("--data")
        .arg(text(&options.data)?)
        .arg("--control")
        .arg(text(&options.control)?)
        .arg("--build")
        .arg(order.build.to_string())
        .arg("--open-delay")
        .arg(order.open_delay.as_millis().to_string());
    Ok(if order.fail_open { spec.arg("--fail-open") } else { spec })
}

fn carried(report: &CarryReport) -> Carried {
    report.sets.iter().fold(Carried::default(), |carried, set| match set.kind {
        CarryKind::Connections => {
            Carried { connections: carried.connections + set.count, ..carried }
        }
        CarryKind::Memory => Carried { memory: carried.memory + set.bytes, ..carried },
    })
}

/// A phase that was not reached took no time; nor did one that was over before it was begun.
fn phases(timings: Timings) -> Phases {
    let Timings { pair, warm, drain, seal, open, commit } = timings;
    let mut phases = [pair, warm, drain, seal, open, commit].map(Some);
    let reached = phases.iter().rposition(|took| *took != Some(Duration::ZERO));
    phases[reached.map_or(0, |last| last + 1)..].fill(None);
    phases
}

const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_after_the_last_that_took_time_were_not_reached() {
        let ms = Duration::from_millis;
        let timings = Timings { pair: ms(3), drain: ms(2), ..Timings::default() };
        let expected = [Some(ms(3)), Some(ms(0)), Some(ms(2)), None, None, None];
        assert_eq!(phases(timings), expected);
        assert_eq!(phases(Timings::default()), Phases::default());
    }
}
