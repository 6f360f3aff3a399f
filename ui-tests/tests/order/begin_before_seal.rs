use handoff::Session;
use handoff::supervisor::{Failed, Prepared, Ready};

fn swap(session: Session<Prepared>) -> Result<Session<Ready>, Failed> {
    session.begin()
}

fn main() {}
