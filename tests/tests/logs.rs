//! A log that takes no lines, in each of the three processes of a swap: it costs its lines, and
//! nothing else.

use std::time::{Duration, Instant};

use handoff::supervisor::IncumbentFate;
use handoff_tests::harness::Cluster;
use tracing_subscriber::util::SubscriberInitExt;

#[path = "../src/sink.rs"]
mod sink;

use sink::{BLOCKED, SINK, Sink};

/// A swap and its rollback, of daemons and a supervisor whose log is that one. A swap says some
/// dozens of lines: if a step waited for one, the whole would take longer than it may.
fn swap_with(sink: Sink, word: &str) {
    let _log = sink.subscriber().set_default();
    let mut cluster = Cluster::start();
    let prelude = format!("export {SINK}={word}");
    let spec = |cluster: &mut Cluster, faults: &[&str]| {
        let mut spec = cluster.successor(faults);
        spec.prelude = Some(prelude.clone());
        spec
    };
    // The successor's log, then that of both daemons.
    for build in ["build-2", "build-3"] {
        let to = spec(&mut cluster, &[]);
        within("a commit", || cluster.swap_to(&to).expect("it commits"));
        assert_eq!(cluster.ask("build"), build);
    }
    for faults in [&["open=error"][..], &["warm=error"], &["successor.opened=kill"]] {
        let to = spec(&mut cluster, faults);
        let failed = within("a rollback", || cluster.swap_to(&to).expect_err("it fails"));
        assert_eq!(failed.incumbent, IncumbentFate::Serving, "{faults:?}: {failed}");
        assert_eq!(cluster.ask("build"), "build-3");
        cluster.wait_for_progress();
    }
    within("a swap step by step", || {
        let session = cluster.ready(&[]);
        let committed = session.commit().expect("it commits");
        cluster.commit(committed);
    });
    // What was replaced ends, though its last lines are not told.
    cluster.wait_until_alone();
    cluster.assert_sound();
}

fn within<T>(what: &str, does: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = does();
    assert!(begun.elapsed() < LIMIT, "{what} took {:?}: it waited for the log", begun.elapsed());
    done
}

/// Far below the time for which a single line blocks.
const LIMIT: Duration = BLOCKED.checked_div(2).expect("it is not zero");

#[test]
fn logs_that_block_for_ten_seconds_a_line_delay_no_commit_and_no_rollback() {
    swap_with(Sink::Blocks, "blocks");
}

#[test]
fn logs_that_panic_at_every_line_end_no_process_and_no_swap() {
    swap_with(Sink::Panics, "panics");
}
