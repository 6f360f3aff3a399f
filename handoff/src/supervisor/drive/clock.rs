//! The limits of the time of a swap, and the time that each phase took.

use std::time::{Duration, Instant};

use super::hear::SILENCE_CHECK;
use crate::machine::cause::PauseStart;
use crate::machine::phase::Phase;
use crate::machine::supervisor::{State, TimeLimit};
use crate::supervisor::Timings;

/// The clock of one swap.
pub(in crate::supervisor) struct Clock {
    begun: Instant,
    deadline: Instant,
    pause_limit: Option<Duration>,
    /// When the pause began, as far as this supervisor has heard.
    paused: Option<(Instant, PauseStart)>,
    /// Whether the machine was told that a limit has passed. It needs to hear of one alone: the swap
    /// is then undone, or may not be.
    pub(super) limit_told: bool,
    pub(super) drain_grace: Duration,
    /// When the present state was entered.
    pub(super) entered: Instant,
    timings: Timings,
}

impl Clock {
    /// The clock of a swap, right after both hellos.
    pub(in crate::supervisor) fn new(
        begun: Instant,
        deadline: Instant,
        drain_grace: Duration,
        pause_limit: Option<Duration>,
    ) -> Self {
        let timings = Timings { pair: begun.elapsed(), ..Timings::default() };
        Self {
            begun,
            deadline,
            pause_limit,
            paused: None,
            limit_told: false,
            drain_grace,
            entered: Instant::now(),
            timings,
        }
    }

    /// Since the swap began.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Until the deadline.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(super) const fn timings(&self) -> Timings {
        self.timings
    }

    /// The pause begins, so long after the swap; none where it has begun before.
    pub(super) fn pause(&mut self, start: PauseStart) -> Option<Duration> {
        if self.paused.is_some() {
            return None;
        }
        let now = Instant::now();
        self.paused = Some((now, start));
        Some(now.saturating_duration_since(self.begun))
    }

    /// The limit that passes first in that state, and when.
    pub(super) fn next_limit(&self, state: &State) -> (Instant, TimeLimit) {
        let pause = || {
            let (limit, (begun, start)) = (self.pause_limit?, self.paused?);
            Some((begun.checked_add(limit)?, TimeLimit::Pause(limit, start)))
        };
        let pause = pause().filter(|(due, _)| state.is_in_pause() && *due < self.deadline);
        pause.unwrap_or((self.deadline, TimeLimit::Deadline))
    }

    /// The limit that has passed, if the machine was told of none.
    pub(super) fn passed(&self, state: &State) -> Option<TimeLimit> {
        let (due, limit) = self.next_limit(state);
        (!self.limit_told && due <= Instant::now()).then_some(limit)
    }

    /// When the watch looks at the swap: at its next limit, or soon where the incumbent may close its
    /// gate while no other thread hears of it.
    pub(super) fn next_look(&self, state: &State) -> Instant {
        let may_close = self.pause_limit.is_some()
            && self.paused.is_none()
            && matches!(state, State::Draining(_));
        let (due, _) = self.next_limit(state);
        if may_close { due.min(Instant::now() + SILENCE_CHECK) } else { due }
    }

    /// The clients of a one-way swap wait until now.
    pub(super) fn count_admission(&mut self) {
        self.timings.commit += self.entered.elapsed();
    }

    /// Records how long the phase took that is over.
    pub(super) fn leave(&mut self, phase: Phase) {
        let took = self.entered.elapsed();
        self.entered = Instant::now();
        match phase {
            Phase::Warming => self.timings.warm = took,
            Phase::Draining => self.timings.drain = took,
            Phase::Sealing => self.timings.seal = took,
            Phase::Opening => self.timings.open = took,
            Phase::Committing => self.timings.commit = took,
            _ => {}
        }
    }
}
