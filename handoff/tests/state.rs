//! States that cannot be sealed, and states without a gate.

use std::time::{Duration, Instant};

use handoff::carry::{Carried, Connections, Memory};
use handoff::drainable::{Gating, ShardList};
use handoff::error::CarryError;
use handoff::{DataDirLock, Drainable, Error, Gate, Incumbent, Result, Shard};
use serde::{Deserialize, Serialize};

struct Log;

impl Shard for Log {
    fn seal(&self) -> Result<u64> {
        panic!("no state here is sealed")
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

#[derive(Default, Serialize, Deserialize)]
struct Client;

impl Carried for Client {
    const NAME: &'static str = "test.client";
    const VERSION: u32 = 1;
}

/// Serves that state at a cold start, which fails: the error. Afterwards the lock is free, and the
/// record names no writer.
fn served(state: impl Drainable + 'static) -> Error {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let lock = DataDirLock::acquire(directory.path()).expect("nobody has it");
    let socket = directory.path().join("control.sock");
    let incumbent = Incumbent::bind_cold_start(&socket, lock).expect("it binds");
    let error = incumbent.serve(state).expect_err("it does not serve");
    DataDirLock::acquire(directory.path()).expect("the lock is free");
    error
}

#[test]
fn shards_of_one_name_are_found_before_anything_is_served() {
    #[derive(Drainable)]
    struct Clash {
        #[handoff(gate)]
        gate: &'static Gate,
        logs: Vec<Log>,
        #[handoff(name = "logs.1")]
        other: Log,
    }

    static GATE: Gate = Gate::new();
    let clash =
        |count: usize| Clash { gate: &GATE, logs: (0..count).map(|_| Log).collect(), other: Log };
    clash(1).check().expect("its shards are logs.0 and logs.1");
    let error = served(clash(2));
    assert!(matches!(&error, Error::DuplicateShard { name } if name == "logs.1"), "{error}");
    assert!(!GATE.is_open(), "nothing was admitted");
}

#[test]
fn more_shards_than_a_message_can_name_are_found_before_anything_is_served() {
    #[derive(Drainable)]
    #[handoff(no_gate)]
    struct Many {
        logs: Vec<Log>,
    }

    let many = |count: usize| Many { logs: (0..count).map(|_| Log).collect() };
    many(1 << 17).check().expect("a message can name them");
    let error = served(many((1 << 17) + 1));
    assert!(matches!(error, Error::TooManyShards(131_073)), "{error}");
}

/// The manifest escapes them, and the other messages name no shard.
#[test]
fn any_name_will_do_for_a_shard() {
    let long = "long".repeat(100_000);
    let list = ShardList::new().with("a b\n", &Log).with("\u{0}", &Log).with(&long, &Log);
    list.check().expect("they differ");
    assert_eq!(list.inspect().expect("they can be read")[2].name, long);
}

#[derive(Drainable)]
struct Gateless {
    #[handoff(carry)]
    clients: Option<Connections<Client>>,
    #[handoff(carry)]
    cache: Memory,
    #[handoff(skip)]
    gate: Gate,
}

impl Gateless {
    fn new(clients: Option<Connections<Client>>) -> Self {
        Self { clients, cache: Memory::new(), gate: Gate::new() }
    }
}

#[test]
fn connections_are_carried_only_where_a_gate_keeps_new_ones_out() {
    #[derive(Drainable)]
    #[handoff(no_gate)]
    struct OnPurpose(#[handoff(carry)] Connections<Client>);

    #[derive(Drainable)]
    struct NoGates(#[handoff(gate)] Vec<Gate>, #[handoff(carry)] [Connections<Client>; 2]);

    let of = |error: Error| match error {
        Error::Carry(CarryError::NoGate { set }) => set,
        other => panic!("{other:?}"),
    };
    assert_eq!(of(served(Gateless::new(Some(Connections::new())))), "clients");
    assert_eq!(of(served(OnPurpose(Connections::new()))), "0");
    assert_eq!(of(served(NoGates(Vec::new(), Default::default()))), "1.0");
}

#[test]
fn a_drain_says_that_nothing_is_accepted_only_where_it_has_closed_a_gate() {
    #[derive(Drainable)]
    struct Gated(#[handoff(gate)] Gate);

    let soon = Instant::now() + Duration::from_secs(20);
    let (gated, gateless) = (Gated(Gate::new()), Gateless::new(None));
    gateless.gate.open();
    assert!(gated.drain(soon).expect("it is empty").accept_closed);
    assert!(!gateless.drain(soon).expect("it has no gate").accept_closed);
    assert!(gateless.gate.is_open(), "it was skipped");
    assert_eq!((gated.gating(), gateless.gating()), (Gating::Gates, Gating::None));
}
