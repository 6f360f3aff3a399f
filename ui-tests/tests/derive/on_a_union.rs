use handoff::Drainable;

#[derive(Drainable)]
union Kv {
    number: u64,
    bytes: [u8; 8],
}

fn main() {}
