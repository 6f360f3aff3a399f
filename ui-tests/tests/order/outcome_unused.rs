#![deny(unused_must_use)]

use handoff::{SpawnSpec, Supervisor};

fn swap(supervisor: &Supervisor) -> handoff::Result<()> {
    supervisor.perform_handoff(SpawnSpec::new("/opt/demo/v2"))?;
    Ok(())
}

fn main() {}
