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
struct Unit;

#[derive(Drainable)]
struct Tuple(Log, #[handoff(gate)] Gate, #[handoff(skip)] u64, #[handoff(name = "last")] Log);

#[derive(Drainable)]
struct Braces {}

#[derive(Drainable)]
struct r#Raw {
    r#type: Log,
    #[handoff(gate)]
    r#gate: Gate,
    #[handoff(skip)]
    r#match: u64,
}

// Without the field that is configured away, which is no shard.
#[derive(Drainable)]
struct Configured {
    #[cfg(any())]
    absent: String,
    #[cfg(all())]
    present: Log,
    #[cfg_attr(all(), handoff(skip))]
    skipped: u64,
}

mod outer {
    #[derive(super::Drainable)]
    pub(crate) struct Elsewhere {
        pub(crate) log: super::Log,
    }
}

fn names(state: &dyn Drainable) -> Vec<String> {
    state.opened_shards().expect("readable").into_iter().map(|shard| shard.name).collect()
}

fn main() {
    assert_eq!(names(&Unit), [""; 0]);
    assert_eq!(names(&Braces {}), [""; 0]);
    assert_eq!(names(&Tuple(Log, Gate::new(), 0, Log)), ["0", "last"]);
    assert_eq!(names(&Raw { r#type: Log, r#gate: Gate::new(), r#match: 0 }), ["type"]);
    assert_eq!(names(&Configured { present: Log, skipped: 0 }), ["present"]);
    assert_eq!(names(&outer::Elsewhere { log: Log }), ["log"]);
}
