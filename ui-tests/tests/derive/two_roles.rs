use handoff::{Drainable, Gate};

#[derive(Drainable)]
struct Kv {
    #[handoff(gate, skip)]
    gate: Gate,
    #[handoff(shards)]
    #[handoff(skip)]
    requests: u64,
}

fn main() {}
