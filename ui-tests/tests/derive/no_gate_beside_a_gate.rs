use handoff::{Drainable, Gate};

#[derive(Drainable)]
#[handoff(no_gate)]
struct Kv {
    #[handoff(gate)]
    gate: Gate,
}

#[derive(Drainable)]
#[handoff(no_gate = "yes")]
struct WithAValue;

#[derive(Drainable)]
struct OnAField {
    #[handoff(no_gate)]
    gate: Gate,
}

fn main() {}
