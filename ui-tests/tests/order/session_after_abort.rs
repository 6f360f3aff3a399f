use handoff::Session;
use handoff::supervisor::{Failed, Prepared, Sealed};

fn swap(session: Session<Prepared>) -> Result<Session<Sealed>, Failed> {
    let rolled_back = session.abort("a change of mind");
    println!("{rolled_back:?}");
    session.seal()
}

fn main() {}
