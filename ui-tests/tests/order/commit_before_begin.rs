use handoff::Session;
use handoff::supervisor::{Committed, Failed, Sealed};

fn swap(session: Session<Sealed>) -> Result<Committed, Failed> {
    session.commit()
}

fn main() {}
