#![deny(unused_must_use)]

use handoff::supervisor::Failed;
use handoff::supervisor::Paired;
use handoff::{Session, SpawnSpec, Supervisor};

fn pair(supervisor: &Supervisor) -> handoff::Result<()> {
    supervisor.pair(SpawnSpec::new("/opt/demo/v2"))?;
    Ok(())
}

fn warm(session: Session<Paired>) -> Result<(), Failed> {
    session.warm()?;
    Ok(())
}

fn main() {}
