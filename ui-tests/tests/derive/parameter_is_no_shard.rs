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
struct Kv<S> {
    #[handoff(gate)]
    gate: Gate,
    log: Log,
    table: S,
}

fn drainable(_: &impl Drainable) {}

fn main() {
    drainable(&Kv { gate: Gate::new(), log: Log, table: String::new() });
}
