//! The counters and measurements of the supervisor, through the `metrics` facade.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::anyhow;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::record::{Outcome, SwapRecord};

const SWAPS: &str = "handoff_swaps_total";
const PHASES: &str = "handoff_swap_phase_seconds";
const PAUSE: &str = "handoff_pause_seconds";
const STARTS: &str = "handoff_daemon_starts_total";
const DEATHS: &str = "handoff_daemon_deaths_total";
const UP: &str = "handoff_daemon_up";
const WELL: &str = "handoff_daemon_well";
const GENERATION: &str = "handoff_generation";
const CHECKS: &str = "handoff_probation_checks_total";
const DROPPED: &str = "handoff_log_lines_dropped_total";
const REFUSED: &str = "handoff_requests_refused_total";
const UNWRITTEN: &str = "handoff_unwritten_lines";

/// Every metric: its name, its kind, its label and its meaning.
pub(crate) const DOCUMENTED: &[(&str, &str, &str, &str)] = &[
    (SWAPS, "counter", "outcome", "Swaps that have ended, by what they came to."),
    (PHASES, "histogram", "phase", "How long each phase of a swap took, in seconds."),
    (
        PAUSE,
        "histogram",
        "outcome",
        "From the closing of the old process's gate until somebody serves, in seconds.",
    ),
    (STARTS, "counter", "", "Daemons that were started outside of a swap, and serve."),
    (DEATHS, "counter", "", "Daemons that ended without having been told to."),
    (UP, "gauge", "", "1 while a daemon serves, else 0."),
    (WELL, "gauge", "", "1 while the daemon that serves passes its health checks, else 0."),
    (GENERATION, "gauge", "", "The generation of the daemon that serves."),
    (CHECKS, "counter", "result", "Health checks in a probation: passed, failed."),
    (DROPPED, "counter", "", "Lines of the supervisor's log that standard error did not take."),
    (
        UNWRITTEN,
        "gauge",
        "file",
        "Lines of the history or the journal that the disk has not taken yet.",
    ),
    (REFUSED, "counter", "", "Requests on the supervisor's socket that were refused unread."),
];

static PROMETHEUS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the recorder that `handoff metrics` reads.
pub(crate) fn install() -> anyhow::Result<()> {
    let builder = PrometheusBuilder::new()
        .set_buckets(BUCKETS)
        .map_err(|error| anyhow!("the buckets of the histograms: {error}"))?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    let _ = PROMETHEUS.set(handle);
    for (name, kind, _, words) in DOCUMENTED {
        match *kind {
            "counter" => describe_counter!(*name, *words),
            "gauge" => describe_gauge!(*name, *words),
            _ => describe_histogram!(*name, Unit::Seconds, *words),
        }
    }
    for name in [STARTS, DEATHS, DROPPED, REFUSED] {
        counter!(name).absolute(0);
    }
    gauge!(UP).set(0.0);
    gauge!(WELL).set(0.0);
    Ok(())
}

/// All metrics, in Prometheus's text format.
pub(crate) fn render() -> String {
    let Some(handle) = PROMETHEUS.get() else { return String::new() };
    handle.run_upkeep();
    handle.render()
}

pub(crate) fn swap_ended(record: &SwapRecord, outcome: Outcome) {
    let name = outcome.name().replace(' ', "_");
    counter!(SWAPS, "outcome" => name.clone()).increment(1);
    if let Some((begun, over)) = record.pause_us() {
        let pause = Duration::from_micros(over.saturating_sub(begun));
        histogram!(PAUSE, "outcome" => name).record(pause);
    }
    let phases: Vec<_> = record.phases().collect();
    for pair in phases.windows(2) {
        let took = Duration::from_micros(pair[1].0.saturating_sub(pair[0].0));
        let phase = pair[0].1.name().replace(' ', "_");
        histogram!(PHASES, "phase" => phase).record(took);
    }
}

pub(crate) fn started() {
    counter!(STARTS).increment(1);
}

pub(crate) fn died() {
    counter!(DEATHS).increment(1);
    gauge!(UP).set(0.0);
    well(false);
}

pub(crate) fn serves(generation: Option<u64>) {
    gauge!(UP).set(1.0);
    if let Some(generation) = generation {
        #[expect(clippy::cast_precision_loss, reason = "exact for 2^53 changes of writer")]
        gauge!(GENERATION).set(generation as f64);
    }
}

pub(crate) fn well(is_well: bool) {
    gauge!(WELL).set(if is_well { 1.0 } else { 0.0 });
}

pub(crate) fn checked(passed: bool) {
    let result = if passed { "passed" } else { "failed" };
    counter!(CHECKS, "result" => result).increment(1);
}

pub(crate) fn refused() {
    counter!(REFUSED).increment(1);
}

/// Of the history, or of the journal.
pub(crate) fn unwritten(file: &'static str, lines: usize) {
    #[expect(clippy::cast_precision_loss, reason = "there are ten thousand at most")]
    gauge!(UNWRITTEN, "file" => file).set(lines as f64);
}

pub(crate) fn log_line_dropped() {
    counter!(DROPPED).increment(1);
}

/// In seconds: a pause is milliseconds, a warm-up may be minutes.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];
