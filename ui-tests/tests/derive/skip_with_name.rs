use handoff::{Drainable, Gate};

#[derive(Drainable)]
struct Kv {
    #[handoff(skip, name = "metrics")]
    metrics: u64,
    #[handoff(gate, name = "gate")]
    gate: Gate,
}

fn main() {}
