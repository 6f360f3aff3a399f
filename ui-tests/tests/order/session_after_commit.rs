use handoff::Session;
use handoff::supervisor::{Failed, Ready, RolledBack};

fn swap(session: Session<Ready>) -> Result<RolledBack, Failed> {
    let committed = session.commit()?;
    println!("{committed:?}");
    Ok(session.abort("too late"))
}

fn main() {}
