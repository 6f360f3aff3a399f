use handoff::Session;
use handoff::supervisor::{Failed, Prepared};

fn swap(session: Session<Prepared>) -> Result<(), Failed> {
    let first = session.seal()?;
    let second = session.seal()?;
    drop((first, second));
    Ok(())
}

fn main() {}
