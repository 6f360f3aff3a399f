//! What goes wrong while connections are on their way, after which the incumbent has them all.

use std::time::{Duration, Instant};

use handoff::Phase;
use handoff::supervisor::Cause;
use handoff_tests::fixture::DRAIN_BEGUN;
use handoff_tests::harness::{Cluster, LIVENESS};

use super::OpenLines;

/// Thirty of the states fill a parcel, so that there are two.
const OF_TWO_PARCELS: [usize; 30] = [12 << 10; 30];

#[test]
fn a_successor_that_may_have_too_few_files_open_is_refused_before_anything_is_drained() {
    for halves in [&[4][..], &OF_TWO_PARCELS] {
        let mut cluster = Cluster::start_carrying(&[]);
        let mut open_lines = OpenLines::of(&cluster, 50, halves);
        let mut spec = cluster.successor(&[]);
        spec.prelude = Some("ulimit -n 40".to_owned());
        let failed = open_lines.assert_swap_fails(&mut cluster, &spec);
        let Cause::SealFailed { error, .. } = &failed.cause else { panic!("{failed}") };
        for words in ["connections, and successor", "may have 40 (", "`ulimit -n`"] {
            assert!(error.contains(words), "{words:?} is not in {error:?}");
        }
        assert_eq!(cluster.struck(DRAIN_BEGUN, None), 0, "nothing was drained");
        open_lines.assert_sound(cluster, &[]);
    }
}

#[test]
fn an_incumbent_that_has_no_descriptor_left_for_a_long_state_goes_on_with_it() {
    let mut cluster = Cluster::start_carrying(&["incumbent.sealed=descriptors"]);
    let mut open_lines = OpenLines::of(&cluster, 50, &[4, 20_000]);
    let spec = cluster.successor(&[]);
    let failed = open_lines.assert_swap_fails(&mut cluster, &spec);
    let Cause::SealFailed { error, .. } = &failed.cause else { panic!("{failed}") };
    assert!(error.contains("ulimit -n"), "it does not say what to do: {error}");
    cluster.assert_struck("incumbent.sealed", 1);
    open_lines.assert_sound(cluster, &[]);
}

#[test]
fn a_successor_that_dies_with_half_of_the_connections_takes_none_along() {
    let mut cluster = Cluster::start_carrying(&[]);
    let mut open_lines = OpenLines::of(&cluster, 50, &OF_TWO_PARCELS);
    let spec = cluster.successor(&["successor.received=kill"]);
    let failed = open_lines.assert_swap_fails(&mut cluster, &spec);
    assert!(
        matches!(
            failed.cause,
            Cause::SuccessorLost(Phase::Sealing | Phase::Sealed | Phase::Opening)
        ),
        "{failed}"
    );
    cluster.assert_struck("successor.received", 1);
    open_lines.assert_sound(cluster, &[]);
}

#[test]
fn a_successor_that_hangs_with_half_of_the_connections_is_given_up() {
    let mut cluster = Cluster::start_carrying(&[]);
    let mut open_lines = OpenLines::of(&cluster, 50, &OF_TWO_PARCELS);
    let spec = cluster.successor(&["successor.received=hang"]);
    let begun = Instant::now();
    let failed = open_lines.assert_swap_fails(&mut cluster, &spec);
    assert!(begun.elapsed() < LIVENESS + Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(
        matches!(
            failed.cause,
            Cause::SuccessorSilent(Phase::Sealing | Phase::Sealed | Phase::Opening)
        ),
        "{failed}"
    );
    cluster.assert_struck("successor.received", 1);
    open_lines.assert_sound(cluster, &[]);
}

/// So long that the channel does not take them: the incumbent's own thread waits for room.
#[test]
fn a_successor_that_hangs_and_takes_nothing_more_keeps_the_incumbent_from_nothing() {
    let mut cluster = Cluster::start_carrying(&[]);
    let mut open_lines = OpenLines::of(&cluster, 1, &[15 << 10; 100]);
    let spec = cluster.successor(&["successor.received=hang"]);
    let begun = Instant::now();
    let failed = open_lines.assert_swap_fails(&mut cluster, &spec);
    assert!(begun.elapsed() < LIVENESS + Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(failed.cause, Cause::SuccessorSilent(Phase::Sealing));
    cluster.assert_struck("successor.received", 1);
    open_lines.assert_sound(cluster, &[]);
}

/// Each strikes at a step of the incumbent's own between the drain and the last word.
#[test]
fn an_incumbent_that_fails_while_it_sends_has_them_all_again() {
    for fault in [
        "incumbent.carries=error",
        "incumbent.carries=panic",
        "incumbent.carried=error",
        "incumbent.carried=panic",
        "incumbent.writes-manifest=error",
        "incumbent.takes-back=error",
        "incumbent.takes-back=panic",
    ] {
        let mut cluster = Cluster::start_carrying(&[fault]);
        let mut open_lines = OpenLines::of(&cluster, 10, &OF_TWO_PARCELS);
        // The last two strike in an undo.
        let spec = if fault.starts_with("incumbent.takes-back") {
            cluster.successor(&["open=error"])
        } else {
            cluster.successor(&[])
        };
        open_lines.assert_swap_fails(&mut cluster, &spec);
        cluster.assert_struck(fault.split_once('=').expect("a fault").0, 1);
        open_lines.assert_sound(cluster, &[]);
    }
}
