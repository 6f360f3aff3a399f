//! Every execution of a few threads at a gate.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::sys::sync::explorer::{Model, Plain, block_on, spawn, unnoticed};

const EMPTY: Model = Model {
    name: "gate: a closed gate that is empty stays empty, and the drain sees all that was done inside",
    bound: None,
    clock_runs: false,
    run: || {
        let (gate, data) = (open_gate(), Plain::new());
        let request = {
            let (gate, data) = (Arc::clone(&gate), data.clone());
            spawn(move || {
                if let Ok(_pass) = gate.enter() {
                    data.write();
                }
            })
        };
        gate.close();
        assert_eq!(gate.wait_empty(never()), 0);
        data.write();
        request.join().expect("it ends");
        assert_eq!(gate.inside(), 0);
    },
};

const LAST_OUT: Model = Model {
    name: "gate: the last of two requests to leave wakes the drain",
    bound: Some(3),
    clock_runs: false,
    run: || {
        let (gate, data) = (open_gate(), [Plain::new(), Plain::new()]);
        let requests = [0, 1].map(|one| {
            let (gate, data) = (Arc::clone(&gate), data[one].clone());
            spawn(move || {
                if let Ok(_pass) = gate.enter() {
                    data.write();
                }
            })
        });
        gate.close();
        assert_eq!(gate.wait_empty(never()), 0);
        data.iter().for_each(Plain::write);
        requests.into_iter().for_each(|request| request.join().expect("it ends"));
    },
};

const REOPENED: Model = Model {
    name: "gate: a request that waits enters once the gate is open, and sees all that was done before",
    bound: None,
    clock_runs: false,
    run: || {
        let (gate, data) = (closed_gate(), Plain::new());
        let request = {
            let (gate, data) = (Arc::clone(&gate), data.clone());
            spawn(move || {
                let _pass = gate.enter_blocking(None).expect("there is no deadline");
                data.write();
            })
        };
        data.write();
        gate.open();
        request.join().expect("it ends");
    },
};

const AWAITED: Model = Model {
    name: "gate: a task that waits enters once the gate is open",
    bound: None,
    clock_runs: false,
    run: || {
        let (gate, data) = (closed_gate(), Plain::new());
        let request = {
            let (entered, data) = (gate.entered_owned(), data.clone());
            spawn(move || {
                let _pass = block_on(pin!(entered));
                data.write();
            })
        };
        data.write();
        gate.open();
        request.join().expect("it ends");
    },
};

const TOLD_OF_CLOSING: Model = Model {
    name: "gate: a thread that waits for the gate to close is told",
    bound: None,
    clock_runs: false,
    run: || {
        let (gate, data) = (open_gate(), Plain::new());
        let idle = {
            let (gate, data) = (Arc::clone(&gate), data.clone());
            spawn(move || {
                assert!(gate.wait_closed(None));
                data.write();
            })
        };
        data.write();
        gate.close();
        idle.join().expect("it ends");
    },
};

const SWAP_UNDONE: Model = Model {
    name: "gate: requests go on after a drain that is undone",
    bound: Some(3),
    clock_runs: false,
    run: || {
        let (gate, data) = (open_gate(), Plain::new());
        let requests = {
            let (gate, data) = (Arc::clone(&gate), data.clone());
            spawn(move || {
                for _ in 0..2 {
                    let _pass = gate.enter_blocking(None).expect("there is no deadline");
                    data.write();
                }
            })
        };
        gate.close();
        assert_eq!(gate.wait_empty(never()), 0);
        data.write();
        gate.open();
        requests.join().expect("it ends");
        assert_eq!(gate.inside(), 0);
    },
};

const INTERRUPTED: Model = Model {
    name: "gate: an interrupt ends the wait of a drain",
    bound: None,
    clock_runs: false,
    run: || {
        let (gate, data) = (open_gate(), Plain::new());
        let _pass = gate.enter().expect("it is open");
        gate.close();
        let drain = {
            let (gate, data) = (Arc::clone(&gate), data.clone());
            spawn(move || {
                assert_eq!(gate.wait_empty(never()), 1);
                data.write();
            })
        };
        data.write();
        gate.interrupt();
        drain.join().expect("it ends");
    },
};

const CUT_SHORT: Model = Model {
    name: "gate: an opening ends the wait of a drain",
    bound: None,
    clock_runs: false,
    run: || {
        let gate = open_gate();
        let _pass = gate.enter().expect("it is open");
        gate.close();
        let drain = {
            let gate = Arc::clone(&gate);
            spawn(move || assert_eq!(gate.wait_empty(never()), 1))
        };
        gate.open();
        drain.join().expect("it ends");
    },
};

const MODELS: [Model; 8] =
    [EMPTY, LAST_OUT, REOPENED, AWAITED, TOLD_OF_CLOSING, SWAP_UNDONE, INTERRUPTED, CUT_SHORT];

#[test]
fn the_promises_of_a_gate_hold() {
    for model in MODELS {
        model.hold();
    }
}

#[test]
fn each_order_of_a_gate_is_needed() {
    let unnoticed = unnoticed(&MODELS, "drainable/gate.rs", include_str!("../gate.rs"));
    assert_eq!(unnoticed, SPARE);
}

/// With these all models hold too. An opening and an interrupt have to be seen with what was done
/// before, no more. For the other two, a SeqCst fence stands in between, which `Event` promises or
/// which the look at the state stands for: the gate relies on neither.
const SPARE: [&str; 7] = [
    "self.state.0.fetch_or(CLOSED, SeqCst); AcqRel",
    "self.state.0.fetch_or(CLOSED, SeqCst); Release",
    "self.state.0.store(OPEN, SeqCst); Release",
    "let inside: u64 = self.stripes.iter().map(|stripe| stripe.0.load(SeqCst)).sum(); Acquire",
    "(inside == 0 || self.state.0.load(SeqCst) != CLOSED).then_some(inside) Acquire",
    "self.state.0.fetch_or(INTERRUPTED, SeqCst); AcqRel",
    "self.state.0.fetch_or(INTERRUPTED, SeqCst); Release",
];

fn closed_gate() -> Arc<Gate> {
    let gate = Arc::new(Gate::new());
    // Makes each atomic before there is a second thread.
    assert!(!gate.is_open() && gate.inside() == 0);
    gate.turned.touch();
    gate.emptied.touch();
    stripe_of_this_thread();
    gate
}

fn open_gate() -> Arc<Gate> {
    let gate = closed_gate();
    gate.open();
    gate
}

fn never() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
