use handoff::Drainable;

#[derive(Drainable)]
#[handoff(before_seal = "flush_caches", after_seal = "self::hooks::sealed")]
struct Kv;

mod hooks {}

fn main() {}
