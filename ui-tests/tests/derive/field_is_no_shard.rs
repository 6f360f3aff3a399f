use std::collections::HashMap;

use handoff::Drainable;

#[derive(Drainable)]
struct Kv {
    sessions: HashMap<u64, String>,
    requests: u64,
}

fn main() {}
