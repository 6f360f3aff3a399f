use handoff::Drainable;

struct Kv;

fn drainable(_: &impl Drainable) {}

fn main() {
    drainable(&Kv);
}
