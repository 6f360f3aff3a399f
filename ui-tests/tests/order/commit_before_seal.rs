use handoff::Session;
use handoff::supervisor::{Committed, Failed, Prepared};

fn swap(session: Session<Prepared>) -> Result<Committed, Failed> {
    session.commit()
}

fn main() {}
