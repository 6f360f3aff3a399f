//! The service manager: each turn of the loop tells it what is due. It sees by that alone that the
//! loop goes on: no other thread tells it anything.

use std::env;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use super::Runner;
use super::job::Job;
use crate::notify::{self, News};
use crate::record::{Outcome, Probation, SwapRecord, Trigger};
use crate::trigger::Reply;
use crate::units;

/// What the service manager was told.
#[derive(Debug, Default)]
pub(super) struct Manager {
    /// Whether it knows that a daemon serves.
    is_ready: bool,
    status: String,
    reload: Option<Reload>,
    /// The refusal of the last reload.
    refused: Option<String>,
    watchdog: Option<Watchdog>,
    /// When it was last asked for time.
    asked: Option<Instant>,
}

/// A reload that the manager waits for: a swap, until it and its probation are over.
#[derive(Debug)]
struct Reload {
    /// Ends with it, whatever the end is.
    replies: Receiver<Reply>,
}

/// The watchdog of the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watchdog {
    /// Half of the time after which the manager takes the supervisor for hung.
    every: Duration,
    due: Instant,
}

impl Watchdog {
    /// By the variables `WATCHDOG_USEC` and `WATCHDOG_PID`.
    fn of(interval: Option<&str>, of: Option<&str>, own: u32) -> Option<Self> {
        let is_own = of.is_none_or(|pid| pid.parse() == Ok(own));
        let interval = Duration::from_micros(interval?.parse().ok()?);
        let every = interval / 2;
        (is_own && !every.is_zero()).then(|| Self { every, due: Instant::now() })
    }
}

impl Manager {
    pub(super) fn new() -> Self {
        let variable = |name| env::var(name).ok();
        let (interval, of) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        let watchdog = Watchdog::of(interval.as_deref(), of.as_deref(), std::process::id());
        Self { watchdog: watchdog.filter(|_| notify::is_heard()), ..Self::default() }
    }

    /// When it is told that the loop goes on.
    pub(super) fn due(&self) -> Option<Instant> {
        self.watchdog.map(|watchdog| watchdog.due)
    }

    fn tell_alive(&mut self) {
        let now = Instant::now();
        if let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.due <= now) {
            watchdog.due = now + watchdog.every;
            notify::tell(News::Alive);
        }
    }

    /// A reload begins. Returns the follower of its swap: the manager waits until that is dropped.
    pub(super) fn begin_reload(&mut self) -> Option<Sender<Reply>> {
        if self.reload.is_some() {
            return None;
        }
        let (follower, replies) = mpsc::channel();
        (self.reload, self.refused) = (Some(Reload { replies }), None);
        notify::tell(News::reloading());
        Some(follower)
    }

    pub(super) fn refuse_reload(&mut self, why: &str) {
        self.refused = Some(format!("the last reload was refused: {why}"));
    }

    pub(super) fn forget_refusal(&mut self) {
        self.refused = None;
    }

    /// Whether the reload is over; it is no more then.
    fn takes_end_of_reload(&mut self) -> bool {
        let Some(reload) = &self.reload else { return false };
        loop {
            match reload.replies.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        self.reload = None;
        true
    }
}

impl Runner {
    /// Once a turn.
    pub(super) fn tell_manager(&mut self) {
        let is_reloaded = self.manager.takes_end_of_reload();
        if !notify::is_heard() {
            return;
        }
        self.manager.tell_alive();
        self.ask_for_time();
        let words = self.in_words();
        let is_ready = self.manager.is_ready || self.service.daemon.is_some();
        let is_news = is_reloaded || is_ready != self.manager.is_ready;
        if is_news && self.stopping.is_none() {
            self.manager.is_ready = is_ready;
            notify::tell(News::Ready(words.clone()));
        } else if words != self.manager.status {
            notify::tell(News::Status(words.clone()));
        }
        self.manager.status = words;
    }

    /// Asks the manager for time, again and again, while the supervisor does something long and the
    /// limit of that has not passed.
    fn ask_for_time(&mut self) {
        let now = Instant::now();
        let Some((since, limit)) = self.long_work() else {
            self.manager.asked = None;
            return;
        };
        if is_time_asked(self.manager.asked, since, limit, now) {
            self.manager.asked = Some(now);
            notify::tell(News::Busy(EXTENSION));
        }
    }

    /// The work that the manager may wait for: since when it lasts, and its limit.
    fn long_work(&self) -> Option<(Instant, Duration)> {
        let limits = &self.config.limits;
        if let Some((job, since)) = self.jobs.running_since() {
            let limit = match job {
                Job::Adopt => limits.adopt,
                Job::Start => limits.start,
                Job::Swap => limits.deadline,
            };
            return Some((since, limit));
        }
        if let Some(stopping) = &self.stopping {
            return Some((stopping.since, limits.stop));
        }
        let watch = self.swaps.watch.as_ref().filter(|_| self.manager.reload.is_some())?;
        let now = Instant::now();
        Some((now.checked_sub(BRIEF)?, watch.until.saturating_duration_since(now)))
    }

    /// The state, for `systemctl status`.
    pub(super) fn in_words(&self) -> String {
        let swap = self.swaps.in_flight.as_ref();
        if let Some(stopping) = &self.stopping {
            let limit = humantime::format_duration(self.config.limits.stop);
            return match swap {
                Some(swap) => format!("stopping: swap {:.8} is undone first", swap.id),
                None if stopping.ends_daemon() => {
                    format!("stopping: the daemon drains and ends, within {limit}")
                }
                None => "stopping: the daemon is left serving".to_owned(),
            };
        }
        match (self.jobs.running(), &self.service.daemon) {
            (Some(Job::Adopt), _) => {
                format!("looking for a daemon at {}", self.config.control.display())
            }
            (Some(Job::Start), _) => {
                let limit = humantime::format_duration(self.config.limits.start);
                format!("starting the daemon, which has {limit} to serve")
            }
            (Some(Job::Swap), _) => swap.map_or_else(String::new, |swap| {
                let (id, path) = (&swap.id, swap.binary.path.display());
                let who = swap.waits_for.as_ref().map(|who| format!(", waits for {who}"));
                let who = who.unwrap_or_default();
                format!("swap {id:.8} to {path} is {}{who}", swap.phase)
            }),
            (None, Some(daemon)) => {
                let (path, pid) = (daemon.binary.path.display(), daemon.pid());
                let build = daemon.said.build.as_ref().map(|build| format!(", build {build}"));
                let build = build.unwrap_or_default();
                format!("{path} serves as process {pid}{build}{}", self.since_then())
            }
            (None, None) => self.dead_in_words(),
        }
    }

    fn dead_in_words(&self) -> String {
        let Some((at, binary)) = &self.service.next_start else {
            return "no daemon serves".to_owned();
        };
        let left = at.saturating_duration_since(Instant::now());
        let (path, at) = (binary.path.display(), units::to_ms(SystemTime::now() + left));
        let (at, times) = (units::time(at), self.service.restarts.failures());
        format!("no daemon serves: {path} is started at {at}, after {times} deaths in a row")
    }

    /// What an operator should know of the daemon that serves: probation, and the last swap.
    fn since_then(&self) -> String {
        let mut words = String::new();
        if let Some(watch) = &self.swaps.watch {
            words.push_str(", on probation");
            if let Some(why) = watch.last_failure.as_ref().filter(|_| watch.failures > 0) {
                words
                    .push_str(&format!(" ({} checks in a row have failed: {why})", watch.failures));
            }
        }
        let last = self.swaps.history.swaps().next_back();
        let refused = self.manager.refused.clone();
        for more in last.and_then(|last| self.trouble_of(last)).into_iter().chain(refused) {
            words.push_str("; ");
            words.push_str(&more);
        }
        words
    }

    /// Why a swap was not made, or was undone.
    fn trouble_of(&self, record: &SwapRecord) -> Option<String> {
        let id = &record.id;
        match (record.outcome()?, &record.trigger, &record.probation) {
            (Outcome::Committed, Trigger::Probation { of }, _) => {
                let probation = self.swaps.history.swap(of)?.probation.as_ref()?;
                let Probation::Failed { why } = probation else { return None };
                Some(format!("swap {of:.8} was swapped back: {why}"))
            }
            (Outcome::Committed, _, Some(Probation::Failed { why })) => {
                Some(format!("swap {id:.8} failed its probation: {why}"))
            }
            (Outcome::Committed | Outcome::DryRun, ..) => None,
            (outcome, ..) => {
                let cause = record.end.as_ref().and_then(|end| end.cause.as_deref());
                let cause = cause.unwrap_or("no cause is known");
                Some(format!("swap {id:.8} ended as {}: {cause}", outcome.name()))
            }
        }
    }
}

/// Whether more time is asked now for the work that began at `since` and has that limit.
fn is_time_asked(asked: Option<Instant>, since: Instant, limit: Duration, now: Instant) -> bool {
    let due = asked.map_or(since + BRIEF, |asked| asked + ASKED_EVERY);
    due <= now && now < since + limit + AFTERMATH
}

/// No more time is asked for work that ends by then.
const BRIEF: Duration = Duration::from_millis(500);
const ASKED_EVERY: Duration = Duration::from_secs(5);
/// Longer than until the next time, also where the machine is slow.
const EXTENSION: Duration = Duration::from_secs(15);
/// Beyond a limit: to undo, to kill, and to be told of it.
const AFTERMATH: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_asked_for_before_it_runs_out_and_not_for_ever() {
        let (since, limit) = (Instant::now(), Duration::from_secs(60));
        let (mut asked, mut granted) = (None, Duration::ZERO);
        for ms in (0..1_000_000).step_by(100) {
            let after = Duration::from_millis(ms);
            if is_time_asked(asked, since, limit, since + after) {
                assert!(asked.is_none() || after < granted, "it came too late");
                (asked, granted) = (Some(since + after), after + EXTENSION);
            }
        }
        assert!(granted > limit && granted < limit * 2, "{granted:?}");
    }

    #[test]
    fn a_watchdog_is_that_of_this_process_alone() {
        let every = |interval, of| Watchdog::of(interval, of, 7).map(|watchdog| watchdog.every);
        assert_eq!(every(Some("3000000"), Some("7")), Some(Duration::from_millis(1500)));
        assert_eq!(every(Some("3000000"), None), Some(Duration::from_millis(1500)));
        assert_eq!(every(Some("3000000"), Some("8")), None);
        for nothing in [None, Some(""), Some("0"), Some("-1"), Some("soon")] {
            assert_eq!(every(nothing, None), None);
        }
    }
}
