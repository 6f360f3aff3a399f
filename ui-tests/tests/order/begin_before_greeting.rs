use std::path::Path;

use handoff::successor::{Arrived, Begun, Successor};

fn serve(successor: Successor<Arrived>) -> handoff::Result<Successor<Begun>> {
    successor.wait_for_begin(Path::new("control.sock"), Path::new("data"))
}

fn main() {}
