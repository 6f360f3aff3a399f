use std::path::Path;

use handoff::successor::{Begun, OnLoss, Role, Successor};
use handoff::supervisor::{Committed, Failed, Ready};
use handoff::{Session, SpawnSpec, Supervisor};

fn swap(supervisor: &Supervisor) -> handoff::Result<Result<Committed, Failed>> {
    let session = supervisor.pair(SpawnSpec::new("/opt/demo/v2"))?;
    let walk = || -> Result<Committed, Failed> {
        let ready: Session<Ready> = session.warm()?.prepare()?.seal()?.begin()?;
        println!("{:?} {:?}", ready.seal_report(), ready.readiness());
        ready.commit()
    };
    Ok(walk())
}

fn succeed() -> handoff::Result<Option<Successor<Begun>>> {
    Ok(match handoff::successor::detect()? {
        Role::ColdStart(_) => None,
        Role::Successor(successor) => Some(
            successor
                .greet(b"2", OnLoss::Exit)?
                .warmed()?
                .wait_for_begin(Path::new("control.sock"), Path::new("data"))?,
        ),
    })
}

fn main() {
    let _ = (swap, succeed);
}
