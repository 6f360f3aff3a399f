use std::cell::Cell;

use handoff::Drainable;

#[derive(Drainable)]
struct Kv {
    #[handoff(skip)]
    requests: Cell<u64>,
}

fn main() {}
