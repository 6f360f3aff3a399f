use handoff::{Drainable, Gate};

#[derive(Drainable)]
struct Kv {
    #[handoff(gate, skip)]
    gate: Gate,
    #[handoff(shards)]
    #[handoff(skip)]
    requests: u64,
    #[handoff(carry, gate)]
    clients: Gate,
    #[handoff(skip, carry)]
    cache: u64,
}

fn main() {}
