//! The formats of a build, declared so that they cannot be.

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
#[handoff(format = 3, reads = 1..=2)]
struct DoesNotReadItsOwn {
    log: Log,
}

#[derive(Drainable)]
#[handoff(format = 3, reads = 3..=1)]
struct ReadsNothing {
    log: Log,
}

#[derive(Drainable)]
#[handoff(reads = 1..=3)]
struct ReadsAlone {
    log: Log,
}

#[derive(Drainable)]
#[handoff(format = 0)]
struct CountsFromZero {
    log: Log,
}

#[derive(Drainable)]
struct OfOneField {
    #[handoff(format = 1, reads = 2..=3)]
    log: Log,
    #[handoff(format = "2")]
    audit: Log,
    #[handoff(format)]
    index: Log,
}

#[derive(Drainable)]
#[handoff(format = 2, reads = 2)]
struct ReadsNoRange {
    log: Log,
}

#[derive(Drainable)]
#[handoff(format = 2, reads = 1..3)]
struct ReadsAHalfOpenRange {
    log: Log,
}

#[derive(Drainable)]
struct OfAGate {
    #[handoff(gate, format = 2)]
    gate: handoff::Gate,
    #[handoff(skip, format = 2, reads = 1..=2)]
    log: Log,
}

fn main() {}
