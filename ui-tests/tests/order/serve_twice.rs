use handoff::{Drainable, Incumbent};

fn serve(incumbent: Incumbent, one: impl Drainable + 'static, two: impl Drainable + 'static) -> handoff::Result<()> {
    incumbent.serve(one)?;
    incumbent.serve(two)
}

fn main() {}
