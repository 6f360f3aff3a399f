use handoff::{Drainable, Gate};

#[derive(Drainable)]
#[handoff(before_seal = "flush", before_seal = "sync")]
struct Kv {
    #[handoff(gate)]
    #[handoff(gate)]
    gate: Gate,
}

fn main() {}
