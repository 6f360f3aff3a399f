use handoff::{Drainable, Gate};

#[derive(Drainable)]
#[handoff(skip, carry)]
struct Kv {
    #[handoff(gate, before_drain = "flush")]
    gate: Gate,
}

fn main() {}
