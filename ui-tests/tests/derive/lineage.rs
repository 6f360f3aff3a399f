//! What became of the shards of older builds, declared so that it cannot be.

use handoff::{Drainable, Shard};

struct Log;

impl Shard for Log {
    fn seal(&self) -> handoff::Result<u64> {
        Ok(0)
    }
    fn resume(&self) -> handoff::Result<()> {
        Ok(())
    }
    fn revision(&self) -> u64 {
        0
    }
    fn fingerprint(&self) -> handoff::Result<[u8; 32]> {
        Ok([0; 32])
    }
}

#[derive(Drainable)]
struct WasIsThere {
    #[handoff(was = "index")]
    log: Log,
    index: Log,
}

#[derive(Drainable)]
#[handoff(retired("index"))]
struct AddedAndRetired {
    log: Log,
    #[handoff(added)]
    index: Log,
}

#[derive(Drainable)]
#[handoff(retired("log"))]
struct RetiredIsThere {
    log: Log,
}

#[derive(Drainable)]
#[handoff(retired("journal"))]
struct OneNameForTwo {
    #[handoff(was = "journal")]
    log: Log,
}

#[derive(Drainable)]
#[handoff(retired("a", "a"))]
struct RetiredTwice {
    #[handoff(was = "")]
    log: Log,
}

#[derive(Drainable)]
#[handoff(retired)]
struct RetiredWithoutNames {
    log: Log,
}

#[derive(Drainable)]
#[handoff(retired(log))]
struct RetiredWithoutQuotes {
    other: Log,
}

#[derive(Drainable)]
struct OfAGate {
    #[handoff(gate, added)]
    gate: handoff::Gate,
    #[handoff(skip, was = "journal")]
    log: Log,
}

fn main() {}
