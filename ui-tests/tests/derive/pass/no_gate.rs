//! A daemon that serves no requests says so.

use handoff::drainable::Gating;
use handoff::{Drainable, Gate};

#[derive(Drainable)]
#[handoff(no_gate)]
struct Worker {
    #[handoff(skip)]
    jobs: u64,
}

#[derive(Drainable)]
struct Forgotten {
    #[handoff(skip)]
    gate: Gate,
}

fn main() {
    let (worker, forgotten) = (Worker { jobs: 0 }, Forgotten { gate: Gate::new() });
    assert_eq!((worker.gating(), worker.jobs), (Gating::NoneWanted, 0));
    assert_eq!((forgotten.gating(), forgotten.gate.is_open()), (Gating::None, false));
}
