use handoff::Drainable;

#[derive(Drainable)]
#[handoff(before_seal = "flush", after_seal = "count", before_drain = "clear")]
struct Kv;

impl Kv {
    fn flush(&self, _hard: bool) {}

    fn count(&self) -> usize {
        0
    }

    fn clear(&mut self) {}
}

fn main() {}
