//! The answer to `handoff status`.

use std::time::Instant;

use handoff::supervisor::JournalState;

use super::Runner;
use super::job::Job;
use super::swap::Swaps;
use crate::record::{Outcome, Probation, SwapRecord, Trigger};
use crate::status::{
    DaemonState, DaemonStatus, LastSwap, ProbationStatus, Status, SupervisorStatus, SwapStatus,
    Undone,
};
use crate::units::{duration_ms, to_ms};

/// A warning with the cause, if the journal could not be written.
fn fault(journal: &JournalState) -> Option<String> {
    let (lines, why) = journal.lacking()?;
    let path = journal.path().display();
    Some(format!(
        "the journal {path} lacks {lines} lines, so no swap begins, and a supervisor that took this one's place would find the daemon only once it serves: {why}"
    ))
}

impl Runner {
    pub(super) fn status(&self) -> Status {
        let Swaps { history, in_flight, watch, .. } = &self.swaps;
        Status {
            supervisor: SupervisorStatus {
                pid: std::process::id(),
                version: crate::VERSION.to_owned(),
                config: self.config.file.display().to_string(),
                since_ms: to_ms(self.since),
            },
            daemon: self.daemon_status(),
            swap: in_flight.as_ref().map(|swap| {
                let record = history.swap(&swap.id);
                SwapStatus {
                    id: swap.id.clone(),
                    to: record.map(|record| record.to.clone()).unwrap_or_default(),
                    one_way: record.is_some_and(|record| record.one_way),
                    phase: swap.phase.clone(),
                    elapsed_ms: duration_ms(swap.begun.elapsed()),
                    gate_closed_us: record.and_then(SwapRecord::gate_closed),
                    waits_for: swap.waits_for.clone(),
                }
            }),
            probation: watch.as_ref().map(|watch| ProbationStatus {
                swap: watch.swap.clone(),
                left_ms: duration_ms(watch.until.saturating_duration_since(Instant::now())),
                failures: watch.failures,
                last_failure: watch.last_failure.clone(),
            }),
            last_swap: self.last_swap(),
            listeners: self
                .holding
                .configured
                .iter()
                .map(|listener| format!("{} at {}", listener.name, listener.address))
                .collect(),
            warnings: self.warnings(),
        }
    }

    fn daemon_status(&self) -> DaemonStatus {
        let state = match (&self.service.daemon, self.jobs.running()) {
            _ if self.stopping.is_some() => DaemonState::Stopping,
            (_, Some(Job::Adopt)) => DaemonState::Adopting,
            (_, Some(Job::Start)) => DaemonState::Starting,
            (Some(_), None) if self.is_unwell() => DaemonState::Unwell,
            (Some(_), _) => DaemonState::Serving,
            (None, _) => DaemonState::Dead,
        };
        let previous = self.service.previous.as_ref();
        let until = |at: Instant| duration_ms(at.saturating_duration_since(Instant::now()));
        DaemonStatus {
            state,
            party: self.service.party(),
            since_ms: self.service.daemon.as_ref().map(|daemon| to_ms(daemon.since)),
            previous: previous.map(|previous| super::party_of(&previous.binary)),
            one_way: previous.is_some_and(|previous| previous.one_way),
            failures: self.service.restarts.failures(),
            failed_checks: self.health.failures,
            last_failure: self.health.last_failure.clone(),
            starts_in_ms: self.service.next_start.as_ref().map(|(at, _)| until(*at)),
        }
    }

    fn last_swap(&self) -> Option<LastSwap> {
        self.swaps.history.swaps().rev().find_map(|record| {
            let end = record.end.clone()?;
            let (id, begun_ms, one_way) = (record.id.clone(), record.begun_ms, record.one_way);
            let (outcome, cause, undid) = (end.outcome, end.cause, self.undone_by(record));
            Some(LastSwap { id, begun_ms, one_way, outcome, cause, undid })
        })
    }

    fn undone_by(&self, record: &SwapRecord) -> Option<Undone> {
        let Trigger::Probation { of } = &record.trigger else { return None };
        match &self.swaps.history.swap(of)?.probation {
            Some(Probation::Failed { why }) => Some(Undone { swap: of.clone(), why: why.clone() }),
            _ => None,
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.service.fell_back.iter().cloned().collect();
        if let (true, Some(why)) = (self.is_unwell(), &self.health.last_failure) {
            let failures = self.health.failures;
            warnings.push(format!(
                "the daemon has failed {failures} health checks in a row: {why}; its clients may wait. If it does not recover: handoff stop, or [health] restart"
            ));
        }
        warnings.extend(self.holding.warnings().chain(self.pending_listeners()));
        warnings.extend(self.untaken.iter().cloned());
        warnings.extend(self.swaps.history.fault());
        warnings.extend(self.journal.as_ref().and_then(fault));
        warnings.extend(crate::log::fault());
        let last = self.last_swap();
        let undid = last.as_ref().filter(|last| last.outcome == Outcome::Committed);
        if let Some(Undone { swap, why }) = undid.and_then(|last| last.undid.as_ref()) {
            warnings.push(format!(
                "swap {swap:.8} was undone, and what served before it serves again: the new process failed its probation: {why}"
            ));
        }
        if let Some(last) = last.filter(|last| last.outcome == Outcome::Unknown) {
            warnings.push(format!(
                "swap {} was given up, and the old process has not confirmed that it serves: look whether it answers its clients",
                last.id
            ));
        }
        warnings
    }
}
