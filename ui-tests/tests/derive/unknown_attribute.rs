use handoff::{Drainable, Gate};

#[derive(Drainable)]
#[handoff(before_sael = "flush")]
struct Kv {
    #[handoff(gates)]
    gate: Gate,
}

fn main() {}
