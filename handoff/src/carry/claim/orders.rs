//! Every execution of two processes that claim the connections, each on a thread.

use std::sync::Arc;

use super::*;
use crate::sys::sync::explorer::{Model, Plain, spawn, unnoticed};

const ONE_READER: Model = Model {
    name: "claim: exactly one of two processes takes the connections",
    bound: None,
    clock_runs: false,
    run: || {
        let [incumbent, successor] = both_ends();
        let data = Plain::new();
        let up = {
            let data = data.clone();
            spawn(move || {
                let is_taken_up = successor.take_up();
                if is_taken_up {
                    data.write();
                }
                is_taken_up
            })
        };
        let is_taken_back = incumbent.take_back();
        if is_taken_back {
            data.write();
        }
        assert_ne!(up.join().expect("it ends"), is_taken_back);
    },
};

const LOSER_SEES: Model = Model {
    name: "claim: the process that finds it taken sees what the other did before it took it",
    bound: None,
    clock_runs: false,
    run: || {
        let [incumbent, successor] = both_ends();
        let [ours, theirs] = [Plain::new(), Plain::new()];
        let up = {
            let [ours, theirs] = [ours.clone(), theirs.clone()];
            spawn(move || {
                theirs.write();
                if !successor.take_up() {
                    ours.write();
                }
            })
        };
        ours.write();
        if !incumbent.take_back() {
            theirs.write();
        }
        up.join().expect("it ends");
    },
};

const LOOKER_SEES: Model = Model {
    name: "claim: the process that looks and finds it taken sees what the other did before it took it",
    bound: None,
    clock_runs: false,
    run: || {
        let [incumbent, successor] = both_ends();
        let data = Plain::new();
        let back = {
            let data = data.clone();
            spawn(move || {
                data.write();
                assert!(incumbent.take_back());
            })
        };
        if successor.held() == Held::TakenBack {
            data.write();
        }
        back.join().expect("it ends");
    },
};

const MODELS: [Model; 3] = [ONE_READER, LOSER_SEES, LOOKER_SEES];

#[test]
fn the_promises_of_a_claim_hold() {
    for model in MODELS {
        model.hold();
    }
}

#[test]
fn each_order_of_a_claim_is_needed() {
    let source = include_str!("../../sys/memory.rs");
    assert_eq!(unnoticed(&MODELS, "sys/memory.rs", source), [""; 0]);
}

fn both_ends() -> [Claim<Arc<AtomicU32>>; 2] {
    let word = Arc::new(AtomicU32::new(0));
    let ends = [(); 2].map(|()| Claim(Word::at(Arc::clone(&word))));
    assert_eq!(ends[0].held(), Held::Parked);
    ends
}
