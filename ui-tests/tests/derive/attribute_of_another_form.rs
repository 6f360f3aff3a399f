use handoff::{Drainable, Gate};

#[derive(Drainable)]
#[handoff(before_seal = "flush the caches", after_seal, before_drain = 5)]
struct Kv {
    #[handoff(gate = "main")]
    gate: Gate,
    #[handoff(skip(always))]
    requests: u64,
    #[handoff]
    sessions: u64,
    #[handoff(name = log)]
    log: u64,
}

fn main() {}
