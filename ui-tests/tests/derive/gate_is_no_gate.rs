use std::sync::Mutex;

use handoff::{Drainable, Gate};

#[derive(Drainable)]
struct Kv {
    #[handoff(gate)]
    gate: Mutex<Gate>,
}

fn main() {}
