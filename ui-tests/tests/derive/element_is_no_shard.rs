use handoff::Drainable;

struct Table;

#[derive(Drainable)]
struct Kv {
    #[handoff(shards)]
    tables: Vec<Table>,
}

fn main() {}
