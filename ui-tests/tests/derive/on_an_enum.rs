use handoff::Drainable;

#[derive(Drainable)]
enum Kv {
    Memory,
    Disk { path: String },
}

fn drainable<T: Drainable>() {}

fn main() {
    drainable::<Kv>();
}
