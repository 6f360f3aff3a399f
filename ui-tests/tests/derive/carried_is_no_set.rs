use handoff::Drainable;

#[derive(Drainable)]
struct Kv {
    #[handoff(carry)]
    requests: u64,
}

fn main() {}
