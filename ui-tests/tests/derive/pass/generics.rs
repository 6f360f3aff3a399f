use std::collections::{BTreeMap, HashMap};
use std::fmt::{Debug, Display};
use std::marker::PhantomData;
use std::sync::Arc;

use handoff::{Drainable, Gate, Result, Shard, Shards};

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

trait Storage {
    type Table: Shard;
}

struct Disk;

impl Storage for Disk {
    type Table = Log;
}

#[derive(Drainable)]
struct Parameters<S, T: Debug, U = (), const N: usize = 2>
where
    T: Send + Sync,
{
    #[handoff(gate)]
    gate: Gate,
    one: S,
    many: [Log; N],
    #[handoff(skip)]
    label: T,
    #[handoff(skip)]
    kind: PhantomData<U>,
}

#[derive(Drainable)]
struct Associated<B: Storage> {
    tables: Vec<B::Table>,
    first: Option<<B as Storage>::Table>,
}

#[derive(Drainable)]
struct Lifetimes<'a, 'b: 'a, S: Shard + ?Sized> {
    log: &'a Log,
    dynamic: &'b dyn Shard,
    shared: Arc<S>,
    #[handoff(gate)]
    gate: &'a Gate,
    #[handoff(skip)]
    name: &'b str,
}

#[derive(Drainable)]
struct Where<K, S>
where
    K: Display + Ord + Send + Sync,
    for<'a> &'a K: Send,
    S: Shards,
{
    sorted: BTreeMap<K, S>,
    hashed: HashMap<K, Vec<S>>,
    pair: (S, Log),
}

#[derive(Drainable)]
struct Gated<G> {
    #[handoff(gate)]
    gate: G,
}

fn shards(state: &dyn Drainable) -> u32 {
    state.snapshot_state().shard_count
}

fn main() {
    let gate = Gate::new();
    let parameters = Parameters::<_, _> {
        gate: Gate::new(),
        one: Box::new(Log) as Box<dyn Shard>,
        many: [Log, Log],
        label: "kv",
        kind: PhantomData::<()>,
    };
    assert_eq!(shards(&parameters), 3);
    assert_eq!(shards(&Associated::<Disk> { tables: vec![Log], first: Some(Log) }), 2);
    let log = Log;
    let lifetimes = Lifetimes::<dyn Shard> {
        log: &log,
        dynamic: &log,
        shared: Arc::new(Log),
        gate: &gate,
        name: "kv",
    };
    assert_eq!(shards(&lifetimes), 3);
    lifetimes.admit().expect("admitted");
    assert!(gate.is_open());
    let sorted = BTreeMap::from([(1_u8, Log), (2, Log)]);
    let hashed = HashMap::from([(1_u8, vec![Log, Log])]);
    assert_eq!(shards(&Where { sorted, hashed, pair: (Log, Log) }), 6);
    assert_eq!(shards(&Gated { gate: vec![Arc::new(Gate::new())] }), 0);
}
