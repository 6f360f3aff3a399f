use handoff::successor::{Successor, Warmed};
use handoff::{Incumbent, ReadinessSnapshot};

fn serve(successor: Successor<Warmed>) -> handoff::Result<Incumbent> {
    successor.ready(ReadinessSnapshot::default())
}

fn main() {}
