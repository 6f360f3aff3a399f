//! Decides when a daemon that died is started again, and with which binary. No clock, no process.

use std::time::Duration;

use crate::config::Restart;

/// The deaths in a row of the binary that is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Restarts {
    config: Restart,
    failures: u32,
}

/// The start that follows a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The same binary, after that pause.
    Again(Duration),
    /// The binary that served before it, at once.
    FallBack,
}

impl Restarts {
    pub(super) const fn new(config: Restart) -> Self {
        Self { config, failures: 0 }
    }

    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) const fn configure(&mut self, config: Restart) {
        self.config = config;
    }

    /// Another binary serves, or it was started on purpose.
    pub(super) const fn forget(&mut self) {
        self.failures = 0;
    }

    /// The daemon died after it had served for `served`; zero if it never served.
    pub(super) fn on_death(&mut self, served: Duration, has_previous: bool) -> Next {
        if served >= self.config.stable {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        if has_previous && self.failures >= self.config.attempts {
            self.failures = 0;
            return Next::FallBack;
        }
        Next::Again(self.pause())
    }

    fn pause(&self) -> Duration {
        let doublings = match self.failures {
            0 | 1 => return Duration::ZERO,
            failures => failures - 2,
        };
        let factor = 2_u32.saturating_pow(doublings.min(31));
        self.config.pause.saturating_mul(factor).min(self.config.longest_pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(60);

    fn again(milliseconds: u64) -> Next {
        Next::Again(Duration::from_millis(milliseconds))
    }

    #[test]
    fn the_first_death_costs_no_pause_and_those_after_it_twice_the_last_one() {
        let mut restarts = Restarts::new(Restart::default());
        let pauses: Vec<Next> = (0..12).map(|_| restarts.on_death(SHORT, false)).collect();
        let expected = [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000];
        assert_eq!(pauses, expected.map(again));
        for _ in 0..1000 {
            assert_eq!(restarts.on_death(Duration::ZERO, false), again(30_000));
        }
    }

    #[test]
    fn one_that_served_for_long_begins_anew() {
        let mut restarts = Restarts::new(Restart::default());
        assert_eq!(restarts.on_death(SHORT, true), again(0));
        assert_eq!(restarts.on_death(SHORT, true), again(100));
        assert_eq!(restarts.on_death(LONG, true), again(0));
        assert_eq!(restarts.failures(), 1);
    }

    #[test]
    fn one_that_keeps_dying_gives_its_place_to_what_served_before() {
        let mut restarts = Restarts::new(Restart::default());
        assert_eq!(restarts.on_death(LONG, true), again(0));
        assert_eq!(restarts.on_death(SHORT, true), again(100));
        assert_eq!(restarts.on_death(SHORT, true), Next::FallBack);
        assert_eq!(restarts.failures(), 0, "they are another binary's from here");
        let mut alone = Restarts::new(Restart::default());
        for _ in 0..10 {
            assert_ne!(alone.on_death(SHORT, false), Next::FallBack);
        }
        let mut at_once = Restarts::new(Restart { attempts: 1, ..Restart::default() });
        assert_eq!(at_once.on_death(LONG, true), Next::FallBack);
    }
}
