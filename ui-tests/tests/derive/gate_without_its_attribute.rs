use handoff::{Drainable, Gate};

#[derive(Drainable)]
struct Kv {
    gate: Gate,
}

fn main() {}
