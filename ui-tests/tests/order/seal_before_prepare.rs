use handoff::Session;
use handoff::supervisor::{Failed, Sealed, Warmed};

fn swap(session: Session<Warmed>) -> Result<Session<Sealed>, Failed> {
    session.seal()
}

fn main() {}
