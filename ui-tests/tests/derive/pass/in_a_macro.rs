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

macro_rules! state {
    ($name:ident { $field:ident: $shard:ty }, $hook:literal) => {
        #[derive(Drainable)]
        #[handoff(before_seal = $hook, after_seal = "after_seal")]
        struct $name<T> {
            $field: $shard,
            own: Log,
            parameter: T,
            #[handoff(gate)]
            gate: Gate,
        }

        impl<T> $name<T> {
            fn after_seal(&self) {}
        }
    };
}

state!(Kv { log: Vec<Log> }, "before_seal");

impl<T> Kv<T> {
    fn before_seal(&self) {}
}

fn main() {
    let kv = Kv { log: vec![Log], own: Log, parameter: Log, gate: Gate::new() };
    assert_eq!(kv.seal().expect("sealed").last_revision_per_shard.len(), 3);
}
