use handoff::{Drainable, Gate, Result, Shard};

struct Log;

impl Shard for Log {
    fn seal(&self) -> Result<u64> {
        Ok(0)
    }
    fn revision(&self) -> u64 {
        0
    }
    fn fingerprint(&self) -> Result<[u8; 32]> {
        Ok([0; 32])
    }
    fn resume(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Drainable)]
struct SameLiteral {
    #[handoff(name = "log")]
    old: Log,
    #[handoff(name = "log")]
    new: Log,
}

#[derive(Drainable)]
struct SameAsAField {
    #[handoff(name = "new")]
    old: Log,
    new: Log,
}

#[derive(Drainable)]
struct NoNameAtAll(#[handoff(name = "")] Log, #[handoff(gate)] Gate);

fn main() {}
