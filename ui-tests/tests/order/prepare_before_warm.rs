use handoff::Session;
use handoff::supervisor::{Failed, Paired, Prepared};

fn swap(session: Session<Paired>) -> Result<Session<Prepared>, Failed> {
    session.prepare()
}

fn main() {}
