use handoff::{Drainable, Result, Shard};

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
struct Kv {
    log: [Log; 2],
    #[handoff(name = "log.1")]
    other: Log,
    #[handoff(name = "log.2")]
    beyond: Log,
}

fn main() {}
