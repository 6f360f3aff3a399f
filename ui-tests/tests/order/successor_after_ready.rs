use handoff::successor::{Begun, Successor};
use handoff::{Incumbent, ReadinessSnapshot};

fn serve(successor: Successor<Begun>) -> handoff::Result<Incumbent> {
    let incumbent = successor.ready(ReadinessSnapshot::default())?;
    println!("{:?}", successor.lock());
    Ok(incumbent)
}

fn main() {}
