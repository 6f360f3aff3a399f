use handoff::Drainable;
use handoff::carry::Memory;

#[derive(Drainable)]
struct Kv {
    #[handoff(carry = "cache")]
    cache: Memory,
}

fn main() {}
