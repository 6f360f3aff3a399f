use std::sync::atomic::AtomicU64;

use handoff::{Drainable, Gate};

#[derive(Drainable)]
#[handoff(before_sleep = "flush")]
struct Kv<'a> {
    #[handoff(door)]
    gate: Gate,
    #[handoff(skip, name = "metrics")]
    metrics: &'a AtomicU64,
    #[handoff(gate, gate)]
    more: Gate,
}

// The stub keeps a second error from following here.
fn drainable(_: &impl Drainable) {}

fn main() {
    let metrics = AtomicU64::new(0);
    drainable(&Kv { gate: Gate::new(), metrics: &metrics, more: Gate::new() });
}
