//! Probation: for a while after a commit the supervisor checks the health of the successor. If the
//! checks fail, it swaps back to the binary that served before.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use super::Runner;
use super::check::Prober;
use super::daemon::Daemon;
use super::service::Previous;
use super::swap::Swaps;
use crate::binary::Binary;
use crate::config::ProbationConfig;
use crate::history::Line;
use crate::metrics;
use crate::record::{Outcome, Probation, SwapRecord, Trigger};
use crate::trigger::{Judged, Reply, SwapRequest};
use crate::units::{duration_ms, from_ms};

/// The probation of a successor.
#[derive(Debug)]
pub(super) struct Watch {
    /// The swap by which it came.
    pub(super) swap: String,
    pub(super) until: Instant,
    /// Failed checks in a row.
    pub(super) failures: u32,
    pub(super) last_failure: Option<String>,
    max_failures: u32,
    /// Whether the last check that came to an end was passed.
    is_well: bool,
    _prober: Prober,
}

/// Those who wait for the end of a probation.
#[derive(Debug)]
pub(super) struct Judging {
    swap: String,
    followers: Vec<Sender<Reply>>,
    /// What served before it, if that is another binary.
    previous: Option<Arc<Binary>>,
}

impl Runner {
    /// A successor whose swap undoes another one is not watched: its binary served before, and to
    /// swap back and forth helps no client.
    pub(super) fn begin_probation(
        &mut self,
        swap: &str,
        trigger: &Trigger,
        followers: Vec<Sender<Reply>>,
    ) {
        if trigger.undoes() {
            return;
        }
        if self.stopping.is_some() {
            return;
        }
        let Some(config) = self.config.probation.clone() else { return };
        self.watch_for(swap.to_owned(), &config, config.length);
        if self.swaps.watch.is_some() {
            let told = Reply::OnProbation { left_ms: duration_ms(config.length) };
            let tell = |follower: &Sender<Reply>| follower.send(told.clone()).is_ok();
            let followers = followers.into_iter().filter(tell).collect();
            let previous = self.service.previous.as_ref().map(|it| Arc::clone(&it.binary));
            self.swaps.judging = Some(Judging { swap: swap.to_owned(), followers, previous });
        }
    }

    /// Tells those who have waited for it how the probation ended, and what serves; `back` is the swap
    /// that undid its swap, or was to.
    pub(super) fn judge(&mut self, back: Option<&str>) {
        let Some(Judging { swap, followers, previous }) = self.swaps.judging.take() else { return };
        let record = |id: &str| self.swaps.history.swap(id).cloned();
        let Some(swap) = record(&swap) else { return };
        let back = back.and_then(record);
        let outcome = back.as_ref().and_then(SwapRecord::outcome);
        let daemon = self.service.daemon.as_ref().filter(|daemon| {
            !daemon.has_ended() && !matches!(outcome, Some(Outcome::Lost | Outcome::Unknown))
        });
        let is_back = match outcome {
            Some(outcome) => matches!(outcome, Outcome::Committed | Outcome::Promoted),
            // It has died, and another one was started.
            None => daemon
                .is_some_and(|daemon| previous.is_some_and(|previous| daemon.binary.is(&previous))),
        };
        let judged = Judged { swap, back, serves: daemon.map(Daemon::party), is_back };
        for follower in followers {
            let _ = follower.send(Reply::Judged(Box::new(judged.clone())));
        }
    }

    /// Goes on with a probation that the supervisor before this one began.
    pub(super) fn resume_probation(&mut self) {
        let Some(config) = self.config.probation.clone() else { return };
        let pid = self.service.pid();
        let is_its = |record: &&SwapRecord| {
            record.outcome() == Some(Outcome::Committed) && record.to.pid == pid
        };
        let Some(record) = self.swaps.history.swaps().rfind(is_its) else { return };
        let is_unproven = record.probation.is_none() && !record.trigger.undoes();
        let took = Duration::from_micros(record.end.as_ref().map_or(0, |end| end.took_us));
        let over = from_ms(record.begun_ms) + took + config.length;
        let left = over.duration_since(SystemTime::now()).unwrap_or_default();
        if is_unproven && !left.is_zero() {
            let id = record.id.clone();
            self.watch_for(id, &config, left.min(config.length));
        }
    }

    fn watch_for(&mut self, swap: String, config: &ProbationConfig, left: Duration) {
        let (tell, of) = (self.jobs.tell(), swap.clone());
        let prober = Prober::start(config, &self.config.directory, move |result| {
            tell(super::Event::Checked { swap: of.clone(), result })
        });
        match prober {
            Ok(prober) => {
                tracing::info!(swap, left = ?left, "the successor is on probation: this supervisor checks its health");
                self.swaps.watch = Some(Watch {
                    swap,
                    until: Instant::now() + left,
                    failures: 0,
                    last_failure: None,
                    max_failures: config.failures,
                    is_well: false,
                    _prober: prober,
                });
            }
            Err(error) => tracing::error!(
                swap, %error,
                "the successor gets no probation: this supervisor cannot start the thread of the checks"
            ),
        }
    }

    pub(super) fn on_checked(&mut self, swap: &str, result: Result<(), String>) {
        let failed = self.swaps.on_checked(swap, result);
        // A job that runs, a dry run or a start, ends first; the next check decides.
        let is_free = self.jobs.running().is_none() && self.stopping.is_none();
        if let Some(why) = failed.filter(|_| is_free) {
            self.swap_back(why);
        }
    }

    fn swap_back(&mut self, why: String) {
        let probation = Probation::Failed { why: why.clone() };
        let Some(of) = self.swaps.end_probation(probation) else { return };
        let Some(previous) = self.service.previous.clone() else {
            tracing::error!(
                swap = of,
                error = why,
                "the successor failed its probation, and the binary that served before is not at hand: swap to a good one (handoff swap --binary PATH)"
            );
            return self.judge(None);
        };
        let Previous { binary, one_way } = previous;
        let path = binary.path.display().to_string();
        tracing::error!(
            swap = of,
            path,
            one_way,
            error = why,
            "the successor failed its probation: this supervisor swaps back to the binary that served before"
        );
        let trigger = Trigger::Probation { of };
        if let Err(error) = self.begin(binary, trigger, &SwapRequest::default()) {
            tracing::error!(
                path, %error,
                "this supervisor cannot swap back: swap by hand (handoff swap --binary PATH)"
            );
            self.judge(None);
        }
    }

    pub(super) fn end_probation_on_time(&mut self) {
        if self.swaps.end_probation_on_time() {
            self.judge(None);
        }
    }
}

impl Swaps {
    /// Why the successor on probation is not well, once it has failed too many checks in a row.
    fn on_checked(&mut self, swap: &str, result: Result<(), String>) -> Option<String> {
        let watch = self.watch.as_mut().filter(|watch| watch.swap == swap)?;
        metrics::checked(result.is_ok());
        watch.is_well = result.is_ok();
        let Err(why) = result else {
            watch.failures = 0;
            return None;
        };
        watch.failures += 1;
        tracing::warn!(
            swap,
            failures = watch.failures,
            error = why,
            "a health check of the successor on probation failed"
        );
        watch.last_failure = Some(why.clone());
        (watch.failures >= watch.max_failures).then_some(why)
    }

    /// Ends the probation, if there is one, and returns the swap by which the successor came.
    pub(super) fn end_probation(&mut self, probation: Probation) -> Option<String> {
        let Watch { swap, .. } = self.watch.take()?;
        self.history.add(Line::Probation { id: swap.clone(), probation });
        Some(swap)
    }

    /// Whether it has ended now.
    fn end_probation_on_time(&mut self) -> bool {
        let Some(watch) = self.watch.as_ref().filter(|watch| watch.until <= Instant::now()) else {
            return false;
        };
        let probation = if watch.is_well {
            tracing::info!(swap = watch.swap, "the successor passed its probation");
            Probation::Passed
        } else {
            let why = watch.last_failure.as_deref().unwrap_or("no check came to an end");
            tracing::warn!(
                swap = watch.swap,
                error = why,
                "the probation is over, and its last check was not passed; the successor serves on: look at its health"
            );
            Probation::Ended {
                why: format!("its time was over, and the last check was not passed: {why}"),
            }
        };
        self.end_probation(probation).is_some()
    }
}
