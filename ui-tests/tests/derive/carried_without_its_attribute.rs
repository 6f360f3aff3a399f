use handoff::Drainable;
use handoff::carry::Memory;

#[derive(Drainable)]
struct Kv {
    cache: Memory,
}

fn main() {}
