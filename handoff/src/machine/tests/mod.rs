//! Every pair of state and event of every machine.
//!
//! What is legal stands in a table, written apart from the machine. Of every pair that is not
//! in it the tests say what has to happen: nothing, or the way back.

mod adopter;
mod incumbent;
mod successor;
mod supervisor;

use crate::protocol::{Capabilities, CarriedSet, CarryFate, CarryKind, HandoffId, Message, Side};

fn ours() -> HandoffId {
    HandoffId::from_bytes([1; 16])
}

fn foreign() -> HandoffId {
    HandoffId::from_bytes([2; 16])
}

/// One message of each variant, about that handoff.
fn messages(handoff_id: HandoffId) -> Vec<Message> {
    vec![
        Message::Hello {
            role: Side::Successor,
            pid: 1,
            build_id: Vec::new(),
            proto_min: 1,
            proto_max: 1,
            capabilities: Capabilities::default(),
        },
        Message::HelloAck { proto_version_chosen: 1, handoff_id },
        Message::PrepareHandoff { handoff_id, successor_pid: 2, deadline_ms: 3, drain_grace_ms: 4 },
        Message::Drained { open_conns_remaining: 0, accept_closed: true },
        Message::SealRequest { handoff_id },
        Message::SealProgress { shards_sealed: 1, shards_total: 2, last_revision: 3 },
        Message::SealComplete {
            handoff_id,
            last_revision_per_shard: vec![7],
            data_dir_fingerprint: [8; 32],
        },
        Message::SealFailed { handoff_id, error: "e".into(), partial_state: "p".into() },
        Message::Begin { handoff_id },
        Message::Ready {
            handoff_id,
            listening_on: Vec::new(),
            healthz_ok: true,
            advertised_revision_per_shard: vec![7],
        },
        Message::Commit { handoff_id },
        Message::Abort { handoff_id, reason: "r".into() },
        Message::ResumeAfterAbort { handoff_id },
        Message::Heartbeat { ts_ms: 9 },
        Message::Serving { handoff_id, generation: 5 },
        Message::Warmed { handoff_id },
        Message::Verified { handoff_id, data_dir_fingerprint: [8; 32] },
        Message::Adopt { handoff_id },
        Message::Adopted { handoff_id, generation: 5, listeners: vec!["l".into()], left: 0 },
        Message::Fetch { handoff_id },
        Message::Late { handoff_id, connections: vec!["c".into()], unnamed: 1 },
        Message::Carried { handoff_id, sets: vec![carried_set()] },
        draining(handoff_id),
        Message::WatchGate { handoff_id },
        gate_closed(handoff_id),
    ]
}

fn draining(handoff_id: HandoffId) -> Message {
    Message::Draining { handoff_id, open_conns: 3, connections: vec!["c".into()], unnamed: 1 }
}

fn gate_closed(handoff_id: HandoffId) -> Message {
    Message::GateClosed { handoff_id }
}

fn carried_set() -> CarriedSet {
    CarriedSet {
        name: "s".into(),
        kind: CarryKind::Connections,
        count: 2,
        bytes: 3,
        fate: CarryFate::Taken,
    }
}

/// All variants are there, and each in its place: the walk misses none.
#[test]
fn the_walk_covers_every_message() {
    let all = messages(ours());
    assert_eq!(all.len(), 25);
    assert_eq!(all.last(), Some(&gate_closed(ours())));
}
