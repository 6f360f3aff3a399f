//! Successors that cannot have the connections: refused, unless the daemon may lose them.

use handoff::carry::{CarriedSet, CarryFate, CarryKind};
use handoff::error::CarryError;
use handoff::supervisor::{CarryReport, Cause};
use handoff_tests::harness::{Cluster, SuccessorSpec};

use super::{Line, OpenLines};

const UNREADABLE: fn() -> CarryError = || CarryError::Unreadable {
    set: "clients".to_owned(),
    arrived: "fixture.client version 1".to_owned(),
    reads: "fixture.stranger version 1".to_owned(),
};
const NOT_TAKEN: fn() -> CarryError = || CarryError::NotTaken { set: "clients".to_owned() };
const NOT_ASKED_FOR: fn() -> CarryError = || CarryError::NotAskedFor { set: "clients".to_owned() };

/// One that reads states of another make.
fn stranger(cluster: &mut Cluster, words: &[&str]) -> SuccessorSpec {
    cluster.successor(&[words, &["carry=stranger"]].concat())
}

/// One that asks, and has no set of that name.
fn without(cluster: &mut Cluster, words: &[&str]) -> SuccessorSpec {
    let mut spec = cluster.successor(words);
    spec.options.carry = false;
    spec
}

/// One that takes its steps by itself, and never asks.
fn unasking(cluster: &mut Cluster, words: &[&str]) -> SuccessorSpec {
    cluster.successor(&[words, &["ready=no-fetch"]].concat())
}

type Another = fn(&mut Cluster, &[&str]) -> SuccessorSpec;

#[test]
fn a_successor_that_cannot_have_the_connections_is_refused() {
    let ways: [(Another, Cause); 3] = [
        (stranger, Cause::SuccessorGaveUp(UNREADABLE().to_string())),
        (without, Cause::SuccessorGaveUp(NOT_TAKEN().to_string())),
        (
            unasking,
            Cause::SealFailed {
                error: NOT_ASKED_FOR().to_string(),
                partial_state: "the drain failed, and the incumbent serves again".to_owned(),
            },
        ),
    ];
    for (another, cause) in ways {
        let mut cluster = Cluster::start_carrying(&[]);
        let mut open_lines = OpenLines::open(&cluster);
        let spec = another(&mut cluster, &[]);
        let failed = open_lines.assert_swap_fails(&mut cluster, &spec);
        assert_eq!(failed.cause, cause);
        open_lines.assert_sound(cluster, &[]);
    }
}

#[test]
fn a_swap_that_is_refused_does_not_hide_that_the_settling_after_the_commit_failed() {
    let mut cluster = Cluster::start_carrying(&[]);
    cluster.swap(&["settle=error"]).expect("it commits");
    cluster.wait_struck("settle");
    let refused = unasking(&mut cluster, &[]);
    let failed = cluster.swap_to(&refused).expect_err("it never asks for the connections");
    match &failed.cause {
        Cause::SealFailed { error, .. } => assert!(error.contains("settle fails"), "{error}"),
        other => panic!("{other:?}"),
    }
    // The error was told, so the refusal is the next cause.
    let refused = unasking(&mut cluster, &[]);
    let failed = cluster.swap_to(&refused).expect_err("it never asks for the connections");
    match &failed.cause {
        Cause::SealFailed { error, .. } => assert_eq!(*error, NOT_ASKED_FOR().to_string()),
        other => panic!("{other:?}"),
    }
    cluster.assert_sound();
}

#[test]
fn where_they_may_be_lost_they_are_closed_in_order_and_the_report_says_why() {
    let ways: [(Another, Option<CarryError>); 3] =
        [(stranger, Some(UNREADABLE())), (without, Some(NOT_TAKEN())), (unasking, None)];
    for (another, why) in ways {
        let mut cluster = Cluster::start_carrying(&["carry=may-be-lost"]);
        let mut open_lines = OpenLines::open(&cluster);
        let spec = another(&mut cluster, &["carry=may-be-lost"]);
        let prepared = cluster.supervisor.pair(spec.spec()).expect("both say hello");
        let prepared = prepared.warm().expect("it warms up").prepare().expect("it drains");
        // Requests that nobody reads any more: a close over them would be a reset.
        open_lines.idle[..5].iter_mut().for_each(|line| line.send("get unread\n"));
        let committed = prepared.seal().and_then(|sealed| sealed.begin()?.commit());
        cluster.commit(committed.expect("they may be lost"));
        open_lines.idle.iter_mut().for_each(Line::assert_closed);
        open_lines.halves[0].line.assert_closed();
        match why {
            Some(why) => assert_dropped(&cluster.carried, open_lines.count(), &why),
            None => {
                let not_asked_for = true;
                assert_eq!(
                    cluster.carried,
                    CarryReport { not_asked_for, ..CarryReport::default() }
                );
            }
        }
        let next = another(&mut cluster, &["carry=may-be-lost"]);
        cluster.swap_to(&next).expect("they may be lost again");
        cluster.wait_for_progress();
        cluster.stop_clients();
        cluster.assert_sound_at_rest();
    }
}

fn assert_dropped(report: &CarryReport, count: usize, why: &CarryError) {
    let [clients] = &report.sets[..] else { panic!("{report}") };
    let bytes = clients.bytes;
    let expected = CarriedSet {
        name: "clients".to_owned(),
        kind: CarryKind::Connections,
        count: count as u64,
        bytes,
        fate: CarryFate::Dropped { why: why.to_string() },
    };
    assert_eq!(*clients, expected);
    assert!(!report.not_asked_for, "{report}");
    assert!(bytes > 0, "{report}");
}
