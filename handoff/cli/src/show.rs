//! The output for a person.

mod live;

use std::fmt::Write as _;

pub(crate) use live::Live;

use crate::history::{DaemonEvent, DaemonEventKind, Entry};
use crate::record::{Outcome, Party, Probation, SwapEventKind, SwapRecord, Trigger};
use crate::status::{Status, SupervisorStatus, Undone};
use crate::trigger::Judged;
use crate::units::{coarse, exact, time};

/// `handoff status`.
pub(crate) fn status(status: &Status) -> String {
    let mut text = String::new();
    let daemon = &status.daemon;
    let mut line = |name: &str, words: &str| {
        let _ = writeln!(text, "{name:<12}{words}");
    };
    let mut state = daemon.state.name().to_owned();
    if let Some(since) = daemon.since_ms {
        let _ = write!(state, " since {}", time(since));
    }
    if let Some(ms) = daemon.starts_in_ms {
        let _ = write!(state, "; it is started in {}", coarse(ms));
    }
    if daemon.failures > 0 {
        let _ = write!(state, "; died {} times in a row", daemon.failures);
    }
    line("daemon", &state);
    if let Some(served) = &daemon.party {
        line("", &party(served));
    }
    if let Some(previous) = &daemon.previous {
        let promise = if daemon.one_way { "; no way back to it is promised" } else { "" };
        let Party { binary, blake3, .. } = previous;
        line("before it", &format!("{binary} (blake3 {blake3:.16}){promise}"));
    }
    for listener in &status.listeners {
        line("listener", listener);
    }
    match (&status.swap, &status.last_swap) {
        (Some(swap), _) => {
            let elapsed = coarse(swap.elapsed_ms);
            let one_way = one_way(swap.one_way);
            let words =
                format!("{:.8} is {}, {elapsed} after it began{one_way}", swap.id, swap.phase);
            line("swap", &words);
            line("", &format!("to {}", party(&swap.to)));
            if let Some(at) = swap.gate_closed_us {
                line("", &format!("the gate closed at +{}: clients wait", exact(at)));
            }
            if let Some(who) = &swap.waits_for {
                line("", &format!("the drain waits for {who}"));
            }
        }
        (None, Some(last)) => {
            let cause = last.cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
            let (id, begun) = (&last.id, time(last.begun_ms));
            let outcome = format!("{}{}", last.outcome.name(), one_way(last.one_way));
            line("last swap", &format!("{id:.8} at {begun}: {outcome}{cause}"));
            if let Some(Undone { swap, why }) = &last.undid {
                line("", &format!("it undid swap {swap:.8}, which failed its probation: {why}"));
            }
        }
        (None, None) => line("last swap", "none yet"),
    }
    if let Some(probation) = &status.probation {
        let left = coarse(probation.left_ms);
        let mut words = format!("of swap {:.8}, for {left} more", probation.swap);
        if let Some(why) = probation.last_failure.as_ref().filter(|_| probation.failures > 0) {
            let _ = write!(words, "; {} checks in a row have failed: {why}", probation.failures);
        }
        line("probation", &words);
    }
    let SupervisorStatus { pid, version, config, since_ms } = &status.supervisor;
    let since = time(*since_ms);
    line("supervisor", &format!("process {pid}, version {version}, since {since}, by {config}"));
    for warning in &status.warnings {
        line("WARNING", warning);
    }
    text
}

/// A line of `handoff history`; none for an event that the line of its swap tells.
pub(crate) fn entry(entry: &Entry) -> Option<String> {
    Some(match entry {
        Entry::Swap(record) => {
            let (begun, id) = (time(record.begun_ms), &record.id);
            let outcome = record.outcome().map_or("in flight", Outcome::name);
            let mut line = format!("{begun}  swap {id:.8}  {outcome:<11}");
            if let Some((begun, over)) = record.pause_us() {
                let _ = write!(line, "  pause {}", exact(over.saturating_sub(begun)));
            }
            let _ = write!(line, "  {} -> {}", build(&record.from), build(&record.to));
            line.push_str(one_way(record.one_way));
            if let Some(cause) = record.end.as_ref().and_then(|end| end.cause.as_ref()) {
                let _ = write!(line, "  ({cause})");
            }
            match &record.probation {
                Some(Probation::Failed { why }) => {
                    let _ = write!(line, "  probation failed: {why}");
                }
                Some(Probation::Passed) => line.push_str("  probation passed"),
                Some(Probation::Ended { .. }) | None => {}
            }
            line
        }
        Entry::Daemon(DaemonEvent { at_ms, kind, daemon, .. }) => {
            let what = match kind {
                DaemonEventKind::Started => "started".to_owned(),
                DaemonEventKind::Adopted => "adopted".to_owned(),
                DaemonEventKind::Succeeded => return None, // the line of its swap
                DaemonEventKind::Died { status } => format!("DIED ({status})"),
                DaemonEventKind::NotStarted { why } => format!("NOT STARTED: {why}"),
                DaemonEventKind::Stopped { status } => format!("stopped ({status})"),
            };
            format!("{}  daemon {what}  {}", time(*at_ms), party(daemon))
        }
    })
}

/// `handoff show`.
pub(crate) fn record(record: &SwapRecord) -> String {
    let mut text = String::new();
    let mut line = |name: &str, words: &str| {
        let _ = writeln!(text, "{name:<12}{words}");
    };
    let mut outcome = record.outcome().map_or("in flight", Outcome::name).to_owned();
    outcome.push_str(meaning(record.outcome()));
    line("swap", &record.id);
    line("begun", &time(record.begun_ms));
    line("by", &by(&record.trigger));
    line("from", &party(&record.from));
    line("to", &party(&record.to));
    if record.one_way {
        line("one-way", "allowed");
    }
    for change in &record.listeners {
        line("listener", change);
    }
    line("outcome", &outcome);
    if let Some(end) = &record.end {
        if let Some(cause) = &end.cause {
            line("cause", cause);
        }
        line("took", &exact(end.took_us));
    }
    if let Some((begun, over)) = record.pause_us() {
        line("pause", &exact(over.saturating_sub(begun)));
    }
    match &record.probation {
        Some(Probation::Passed) => line("probation", "passed"),
        Some(Probation::Failed { why }) => line("probation", &format!("failed: {why}")),
        Some(Probation::Ended { why }) => line("probation", &format!("not finished: {why}")),
        None => {}
    }
    for carried in record.end.iter().flat_map(|end| &end.carried) {
        line("carried", carried);
    }
    if !record.steps.is_empty() {
        line("steps", "at the time since it began");
    }
    for step in &record.steps {
        line(&format!("{:>10}", exact(step.at_us)), &what(&step.what));
    }
    text
}

/// The end of a probation.
fn judged(judged: &Judged) -> String {
    let Judged { swap, back, serves, .. } = judged;
    let serves = serves.as_ref().map_or_else(|| "no process serves".to_owned(), party);
    match &swap.probation {
        Some(Probation::Failed { why }) if judged.is_back => {
            let by = back.as_ref().map(|back| format!(", by swap {:.8}", back.id));
            let by = by.unwrap_or_default();
            format!("probation failed: {why}\nwhat served before serves again{by}: {serves}")
        }
        Some(Probation::Failed { why }) => {
            let cause = back.as_ref().and_then(|back| back.end.as_ref()?.cause.clone());
            let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
            format!("probation failed: {why}\nthere was no swap back{cause}: {serves}")
        }
        Some(Probation::Ended { why }) => format!("probation not finished: {why}: {serves}"),
        Some(Probation::Passed) | None => "probation passed".to_owned(),
    }
}

/// A step in words.
fn what(what: &SwapEventKind) -> String {
    match what {
        SwapEventKind::Launched { pid } => format!("process {pid} is started"),
        SwapEventKind::Entered { phase } => phase.to_string(),
        SwapEventKind::GateClosed => "the gate is closed: clients wait".to_owned(),
        SwapEventKind::Waiting { open_conns, connections, unnamed } => {
            format!("the drain waits for {}", waiting(*open_conns, connections, *unnamed))
        }
        SwapEventKind::Late { connections, unnamed } => {
            format!("not at a request boundary in time: {}", names(connections, *unnamed))
        }
        SwapEventKind::Sealing { sealed, total } => {
            format!("{sealed} of {total} shards are sealed")
        }
        SwapEventKind::GivenUp { cause } => format!("given up: {cause}"),
    }
}

fn waiting(open: u32, connections: &[String], unnamed: u32) -> String {
    if connections.is_empty() {
        format!("{open} requests or connections")
    } else {
        names(connections, unnamed)
    }
}

fn names(connections: &[String], unnamed: u32) -> String {
    let mut text = connections.join(", ");
    if unnamed > 0 {
        let _ = write!(text, " and {unnamed} more");
    }
    text
}

/// The meaning of an outcome for an operator.
const fn meaning(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Committed) => ": the new process serves",
        Some(Outcome::RolledBack) => ": the old process serves, and has confirmed it",
        Some(Outcome::Promoted) => ": the old process died, and the new one serves in its place",
        Some(Outcome::NotBegun) => ": the old process was not touched",
        Some(Outcome::DryRun) => {
            ": the new process warmed up; the old one was not touched, and serves"
        }
        Some(Outcome::Lost) => ": the old process died, and no process took its place",
        Some(_) => ": the old process has not confirmed that it serves",
        None => "",
    }
}

/// The words for a swap that may be one-way.
const fn one_way(is_allowed: bool) -> &'static str {
    if is_allowed { ", allowed to be one-way" } else { "" }
}

fn by(trigger: &Trigger) -> String {
    match trigger {
        Trigger::Operator { uid, pid } => format!("handoff swap, user {uid}, process {pid}"),
        Trigger::Hangup => "SIGHUP".to_owned(),
        Trigger::Probation { of } => format!("the probation of swap {of:.8}, which failed"),
    }
}

pub(crate) fn party(party: &Party) -> String {
    let mut words = party.binary.clone();
    if let Some(build) = &party.build {
        let _ = write!(words, ", build {build}");
    }
    if let Some(pid) = party.pid {
        let _ = write!(words, ", process {pid}");
    }
    if let Some(generation) = party.generation {
        let _ = write!(words, ", generation {generation}");
    }
    let _ = write!(words, ", blake3 {:.16}", party.blake3);
    words
}

/// The shortest name that tells two processes apart.
fn build(party: &Party) -> String {
    party.build.as_ref().map_or_else(|| party.binary.clone(), |build| format!("build {build}"))
}

#[cfg(test)]
mod tests;
