use handoff::Session;
use handoff::supervisor::{Failed, Prepared, Warmed};

fn swap(session: Session<Warmed>) -> Result<Session<Prepared>, Failed> {
    session.prepare()?.prepare()
}

fn main() {}
