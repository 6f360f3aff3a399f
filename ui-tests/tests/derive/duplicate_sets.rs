use handoff::Drainable;
use handoff::carry::Memory;

#[derive(Drainable)]
struct Kv {
    #[handoff(carry)]
    cache: Memory,
    #[handoff(carry, name = "cache")]
    more: Memory,
}

fn main() {}
