//! The limit on log lines: a peer must not fill a disk through the log (invariant 6).

use std::time::{Duration, Instant};

use crate::log;

/// Admits `max` lines a second, and counts the others.
#[derive(Debug)]
pub(super) struct Quota {
    max: u32,
    /// When the second began.
    since: Instant,
    said: u32,
    unsaid: u64,
    /// When the count is to be told.
    due: Option<Instant>,
}

impl Quota {
    pub(super) const fn new(max: u32, now: Instant) -> Self {
        Self { max, since: now, said: 0, unsaid: 0, due: None }
    }

    /// Whether a line may be said now.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        if now >= self.since + SECOND {
            (self.since, self.said) = (now, 0);
        }
        if self.said < self.max {
            self.said += 1;
            return true;
        }
        self.unsaid += 1;
        self.due.get_or_insert(self.since + SECOND);
        false
    }

    /// How many lines were not said, once that is due.
    pub(super) fn take_unsaid(&mut self, now: Instant) -> Option<u64> {
        self.due.take_if(|due| *due <= now)?;
        Some(std::mem::take(&mut self.unsaid))
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// The quotas for lines about peers and about swaps.
#[derive(Debug)]
pub(super) struct Quotas {
    pub(super) refusals: Quota,
    pub(super) steps: Quota,
}

impl Quotas {
    pub(super) const fn new(now: Instant) -> Self {
        Self { refusals: Quota::new(MAX_REFUSALS, now), steps: Quota::new(MAX_STEPS, now) }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.refusals.due().into_iter().chain(self.steps.due()).min()
    }

    /// Logs how many lines were not said, once that is due.
    pub(super) fn tell_unsaid(&mut self, now: Instant) {
        for (quota, of) in [(&mut self.refusals, "refusals"), (&mut self.steps, "steps")] {
            if let Some(count) = quota.take_unsaid(now) {
                log::warn!(
                    count,
                    of,
                    "this daemon logged no more of these in the last second, and counted them"
                );
            }
        }
    }
}

/// Lines a second.
const MAX_REFUSALS: u32 = 16;
const MAX_STEPS: u32 = 64;
const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_said_each_second_and_the_others_are_counted() {
        let begun = Instant::now();
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let mut quota = Quota::new(3, begun);
        let said = (0..10).filter(|index| quota.admits(at(index * 10))).count();
        assert_eq!((said, quota.due()), (3, Some(at(1000))));
        assert_eq!(quota.take_unsaid(at(999)), None);
        assert!(quota.admits(at(1000)), "another second");
        assert_eq!(quota.take_unsaid(at(1000)), Some(7));
        assert_eq!((quota.due(), quota.take_unsaid(at(5000))), (None, None));
    }

    #[test]
    fn what_never_stops_is_counted_every_second_and_nothing_is_forgotten() {
        let begun = Instant::now();
        let mut quota = Quota::new(5, begun);
        let (mut said, mut told, mut counted) = (0, 0, 0);
        for millisecond in 0..10_000 {
            let now = begun + Duration::from_millis(millisecond);
            said += u64::from(quota.admits(now));
            if let Some(unsaid) = quota.take_unsaid(now) {
                (told, counted) = (told + 1, counted + unsaid);
            }
        }
        counted += quota.take_unsaid(begun + Duration::from_secs(10)).unwrap_or_default();
        assert_eq!((said, said + counted), (50, 10_000));
        assert!((8..=10).contains(&told), "{told}");
    }

    #[test]
    fn what_stays_below_is_all_said() {
        let begun = Instant::now();
        let mut quota = Quota::new(2, begun);
        for half_second in 0..100 {
            assert!(quota.admits(begun + Duration::from_millis(500 * half_second)));
        }
        assert_eq!((quota.due(), quota.take_unsaid(begun + SECOND * 100)), (None, None));
    }
}
