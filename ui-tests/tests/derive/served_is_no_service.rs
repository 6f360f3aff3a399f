//! A field with `serve` that has no gate and no connections.

use handoff::Drainable;

#[derive(Drainable)]
struct App {
    #[handoff(serve)]
    http: u32,
}

fn main() {}
