//! What `#[derive(Drainable)]` writes, as a daemon's state sees it.

#![cfg(feature = "derive")]

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use handoff::carry::{Carried, Carry, Connections, Memory};
use handoff::drainable::{Fingerprint, SealedShard};
use handoff::error::CarryError;
use handoff::{
    DataDirLock, Drainable, Error, Gate, Incumbent, Result, SealReport, Shard, StateSnapshot,
};
use serde::{Deserialize, Serialize};

/// What was called, in order, and what is to fail.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Calls>>);

#[derive(Default)]
struct Calls {
    made: Vec<String>,
    faulty: Option<String>,
    panicking: Option<String>,
}

impl Journal {
    /// Notes a call; fails or panics where that was asked for.
    fn call(&self, call: impl Into<String>) -> Result<()> {
        let call = call.into();
        let (fails, panics) = {
            let mut calls = self.0.lock().expect("whole");
            calls.made.push(call.clone());
            (calls.faulty.as_ref() == Some(&call), calls.panicking.as_ref() == Some(&call))
        };
        assert!(!panics, "{call} panicked");
        if fails { Err(io::Error::other(format!("{call} failed")).into()) } else { Ok(()) }
    }

    fn fail(&self, call: &str) {
        self.0.lock().expect("whole").faulty = Some(call.to_owned());
    }

    fn panic(&self, call: &str) {
        self.0.lock().expect("whole").panicking = Some(call.to_owned());
    }

    /// The calls since this was last asked.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("whole").made)
    }
}

/// A shard that is one number.
struct Log {
    name: &'static str,
    revision: AtomicU64,
    /// How often its contents were read.
    reads: AtomicU64,
    journal: Journal,
}

impl Log {
    fn new(name: &'static str, revision: u64, journal: &Journal) -> Self {
        let (revision, reads) = (AtomicU64::new(revision), AtomicU64::new(0));
        Self { name, revision, reads, journal: journal.clone() }
    }
}

impl Shard for Log {
    fn seal(&self) -> Result<u64> {
        self.journal.call(format!("seal {}", self.name)).map(|()| self.revision())
    }
    fn revision(&self) -> u64 {
        self.revision.load(SeqCst)
    }
    fn fingerprint(&self) -> Result<[u8; 32]> {
        self.reads.fetch_add(1, SeqCst);
        Ok([u8::try_from(self.revision() % 256).expect("small"); 32])
    }
    fn resume(&self) -> Result<()> {
        self.journal.call(format!("resume {}", self.name))
    }
}

#[derive(Drainable)]
#[handoff(
    before_admit = "before_admit",
    after_admit = "Self::after_admit",
    before_drain = "before_drain",
    after_drain = "after_drain"
)]
#[handoff(before_seal = "before_seal", after_seal = "self::hooks::after_seal")]
#[handoff(before_resume = "before_resume", after_resume = "after_resume")]
struct Kv {
    #[handoff(gate)]
    gate: Arc<Gate>,
    #[handoff(gate)]
    more_gates: Vec<Gate>,
    #[handoff(shards)]
    tables: Vec<Log>,
    #[handoff(name = "audit-v1")]
    audit_log: Log,
    extra: Option<Box<dyn Shard>>,
    #[handoff(skip)]
    journal: Journal,
}

impl Kv {
    fn new() -> Self {
        let journal = Journal::default();
        Self {
            gate: Arc::default(),
            more_gates: vec![Gate::new(), Gate::new()],
            tables: vec![Log::new("t0", 10, &journal), Log::new("t1", 11, &journal)],
            audit_log: Log::new("audit", 20, &journal),
            extra: Some(Box::new(Log::new("extra", 30, &journal))),
            journal,
        }
    }

    fn serving() -> Self {
        let kv = Self::new();
        kv.admit().expect("admitted");
        kv.journal.take();
        kv
    }

    fn gates(&self) -> [&Gate; 3] {
        [&self.gate, &self.more_gates[0], &self.more_gates[1]]
    }

    fn open_gates(&self) -> usize {
        self.gates().iter().filter(|gate| gate.is_open()).count()
    }

    fn before_admit(&self) {
        self.note("before_admit").expect("no fault asked for");
    }

    fn after_admit(&self) -> Result<()> {
        self.note("after_admit")
    }

    fn before_drain(&self) -> Result<()> {
        self.note("before_drain")
    }

    fn after_drain(&self) -> io::Result<()> {
        self.note("after_drain").map_err(io::Error::other)
    }

    fn before_seal(&self) -> Result<()> {
        self.note("before_seal")
    }

    fn before_resume(&self) -> Result<()> {
        self.note("before_resume")
    }

    fn after_resume(&self) -> Result<()> {
        self.note("after_resume")
    }

    /// With the number of gates that are open.
    fn note(&self, hook: &str) -> Result<()> {
        self.journal.call(format!("{hook} {}", self.open_gates()))
    }
}

mod hooks {
    pub(super) fn after_seal(kv: &super::Kv) -> handoff::Result<()> {
        kv.note("after_seal")
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[track_caller]
fn until(fact: impl Fn() -> bool) {
    let deadline = soon();
    while !fact() {
        assert!(Instant::now() < deadline, "it never came to be");
        thread::yield_now();
    }
}

fn words_of<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("it fails").to_string()
}

/// Sorts each run of seals, which happen side by side.
fn sorted(mut calls: Vec<String>) -> Vec<String> {
    for run in calls.chunk_by_mut(|a, b| a.starts_with("seal ") && b.starts_with("seal ")) {
        run.sort();
    }
    calls
}

#[test]
fn a_swap_that_is_undone_calls_everything_in_its_order() {
    let kv = Kv::new();
    kv.admit().expect("admitted");
    assert_eq!(kv.journal.take(), ["before_admit 0", "after_admit 3"]);

    let drained = kv.drain(soon()).expect("drained");
    assert_eq!((drained.open_conns_remaining, drained.accept_closed), (0, true));
    assert_eq!(kv.journal.take(), ["before_drain 3", "after_drain 0"]);

    kv.seal().expect("sealed");
    assert_eq!(
        sorted(kv.journal.take()),
        ["before_seal 0", "seal audit", "seal extra", "seal t0", "seal t1", "after_seal 0"]
    );

    kv.resume_after_abort().expect("resumed");
    let mut calls = kv.journal.take();
    calls[3..5].sort(); // those of one collection are resumed side by side
    assert_eq!(
        calls,
        [
            "before_resume 0",
            "resume extra",
            "resume audit",
            "resume t0",
            "resume t1",
            "after_resume 0"
        ]
    );
    assert_eq!(kv.open_gates(), 0, "the incumbent compares the shards first");
    kv.admit().expect("admitted");
    assert_eq!(kv.open_gates(), 3);
}

#[test]
fn the_report_is_over_names_revisions_and_contents_in_declared_order() {
    let kv = Kv::serving();
    let report = kv.seal().expect("sealed");
    let shard = |name: &str, revision: u8| SealedShard {
        name: name.to_owned(),
        revision: u64::from(revision),
        digest: [revision; 32],
    };
    let expected =
        [shard("tables.0", 10), shard("tables.1", 11), shard("audit-v1", 20), shard("extra", 30)];
    assert_eq!(
        report,
        SealReport {
            last_revision_per_shard: vec![10, 11, 20, 30],
            data_dir_fingerprint: Fingerprint::of_shards(&expected),
        }
    );
    assert_eq!(kv.seal_shards(&|_| ()).expect("sealed").shards, expected);
    assert_eq!(kv.opened_shards().expect("readable"), expected);

    kv.tables[1].revision.store(12, SeqCst);
    assert_eq!(kv.opened_shards().expect("readable")[1], shard("tables.1", 12));
    assert_ne!(kv.seal().expect("sealed").data_dir_fingerprint, report.data_dir_fingerprint);
}

/// The manifest is made of what the seal has seen: a shard may take long to read.
#[test]
fn a_shard_is_fingerprinted_once_a_seal() {
    let kv = Kv::serving();
    let reads = || [&kv.tables[0], &kv.tables[1], &kv.audit_log].map(|log| log.reads.load(SeqCst));
    let sealed = kv.seal_shards(&|_| ()).expect("sealed");
    assert_eq!((sealed.shards.len(), reads()), (4, [1; 3]));
    assert_eq!(sealed.report, kv.seal().expect("sealed again"));
    assert_eq!(reads(), [2; 3]);
}

#[test]
fn progress_is_told_after_each_shard() {
    let kv = Kv::serving();
    let told = Mutex::new(Vec::new());
    kv.seal_shards(&|progress| {
        told.lock().expect("whole").push((progress.shards_sealed, progress.shards_total));
    })
    .expect("sealed");
    assert_eq!(told.into_inner().expect("whole"), [(1, 4), (2, 4), (3, 4), (4, 4)]);
}

#[test]
fn a_shard_that_fails_is_named_and_those_sealed_are_resumed() {
    let kv = Kv::serving();
    kv.journal.fail("seal audit");
    assert!(matches!(
        kv.seal(),
        Err(Error::Shard { name, source })
            if name == "audit-v1" && source.to_string() == "seal audit failed"
    ));
    let calls = kv.journal.take();
    assert!(!calls.iter().any(|call| call.starts_with("after_seal")), "{calls:?}");
    let told = |verb: &str| -> Vec<&str> {
        calls.iter().filter_map(|call| call.strip_prefix(verb)).collect()
    };
    let sealed = told("seal ");
    let mut expected = vec!["extra", "t0", "t1"];
    expected.retain(|name| sealed.contains(name));
    let mut resumed = told("resume ");
    resumed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(resumed, expected);
}

#[test]
fn a_shard_that_panics_is_one_that_fails() {
    let kv = Kv::serving();
    kv.journal.panic("seal t1");
    assert!(matches!(
        kv.seal(),
        Err(Error::Shard { name, source })
            if name == "tables.1"
                && matches!(&*source, Error::HookPanicked { hook: "seal", message } if message == "seal t1 panicked")
    ));
}

#[test]
fn a_resume_that_fails_tries_all_shards_and_keeps_the_gates_closed() {
    let kv = Kv::serving();
    kv.drain(soon()).expect("drained");
    kv.journal.take();
    kv.journal.fail("resume audit");
    assert!(matches!(
        kv.resume_after_abort(),
        Err(Error::Shard { name, source })
            if name == "audit-v1" && source.to_string() == "resume audit failed"
    ));
    let mut resumed = kv.journal.take().split_off(2);
    resumed.sort();
    assert_eq!(resumed, ["resume audit", "resume t0", "resume t1"]);
    assert_eq!(kv.open_gates(), 0);

    kv.journal.fail("nothing");
    kv.resume_after_abort().expect("resumed");
    assert_eq!(kv.open_gates(), 0, "what was resumed is compared first");
    kv.admit().expect("admits");
    assert_eq!(kv.open_gates(), 3);
}

#[test]
fn a_hook_s_error_ends_what_it_stands_before() {
    let kv = Kv::serving();
    kv.journal.fail("before_drain 3");
    assert_eq!(words_of(kv.drain(soon())), "before_drain 3 failed");
    assert_eq!(kv.open_gates(), 3);

    kv.journal.fail("before_seal 3");
    kv.journal.take();
    assert_eq!(words_of(kv.seal()), "before_seal 3 failed");
    assert_eq!(kv.journal.take(), ["before_seal 3"]);

    kv.drain(soon()).expect("drained");
    kv.journal.fail("after_resume 0");
    assert_eq!(words_of(kv.resume_after_abort()), "after_resume 0 failed");
    assert_eq!(kv.open_gates(), 0);
}

#[test]
fn a_hook_may_return_another_error() {
    let kv = Kv::serving();
    kv.journal.fail("after_drain 0");
    assert!(
        matches!(kv.drain(soon()), Err(Error::Io(error)) if error.to_string() == "after_drain 0 failed")
    );
}

#[test]
fn a_drain_closes_every_gate_before_it_waits_and_counts_who_stays() {
    let kv = Kv::serving();
    let _passes = [kv.gate.enter().expect("open"), kv.more_gates[1].enter().expect("open")];
    assert_eq!(kv.snapshot_state().open_conns, 2);
    let deadline = Instant::now() + Duration::from_millis(20);
    let drained = kv.drain(deadline).expect("drained");
    assert!(Instant::now() >= deadline);
    assert_eq!(drained.open_conns_remaining, 2);
    assert_eq!(kv.open_gates(), 0);
}

#[test]
fn a_drain_ends_with_the_last_request() {
    let kv = Kv::serving();
    let pass = kv.gate.enter_owned().expect("open");
    let drained = thread::scope(|scope| {
        let drain = scope.spawn(|| kv.drain(Instant::now() + Duration::from_secs(60)));
        // The last gate is closed while the first is still occupied.
        until(|| kv.open_gates() == 0);
        assert!(!drain.is_finished());
        drop(pass);
        until(|| drain.is_finished());
        drain.join().expect("it ends").expect("drained")
    });
    assert_eq!(drained.open_conns_remaining, 0);
}

#[test]
fn an_interrupt_ends_a_drain_and_the_next_one_waits_again() {
    let kv = Kv::serving();
    let _pass = kv.more_gates[0].enter().expect("open");
    let drained = thread::scope(|scope| {
        let drain = scope.spawn(|| kv.drain(Instant::now() + Duration::from_secs(60)));
        until(|| kv.open_gates() == 0);
        kv.interrupt();
        until(|| drain.is_finished());
        drain.join().expect("it ends").expect("drained")
    });
    assert_eq!(drained.open_conns_remaining, 1);

    kv.resume_after_abort().expect("resumed");
    kv.admit().expect("admits");
    let deadline = Instant::now() + Duration::from_millis(20);
    kv.drain(deadline).expect("drained");
    assert!(Instant::now() >= deadline, "the interrupt outlived the drain");
}

#[test]
fn a_snapshot_counts() {
    let mut kv = Kv::new();
    kv.extra = None;
    assert_eq!(
        kv.snapshot_state(),
        StateSnapshot { shard_count: 3, open_conns: 0, last_revision_per_shard: vec![10, 11, 20] }
    );
}

#[test]
fn names_that_collide_at_run_time_are_an_error() {
    #[derive(Drainable)]
    struct Clash {
        tables: Vec<Log>,
        #[handoff(name = "tables.1")]
        other: Log,
    }
    let journal = Journal::default();
    let [one, two, other] = ["one", "two", "other"].map(|name| Log::new(name, 1, &journal));
    let clash = Clash { tables: vec![one, two], other };
    assert!(matches!(clash.seal(), Err(Error::DuplicateShard { name }) if name == "tables.1"));
    assert!(
        matches!(clash.opened_shards(), Err(Error::DuplicateShard { name }) if name == "tables.1")
    );
    assert_eq!(journal.take(), [""; 0]);
}

#[test]
fn a_raw_identifier_and_a_place_are_names() {
    #[derive(Drainable)]
    struct Raw {
        r#type: Log,
    }
    #[derive(Drainable)]
    struct Tuple(Log, #[handoff(gate)] Gate, #[handoff(skip)] (), (Log, Log));
    #[derive(Drainable)]
    struct Unit;

    let journal = Journal::default();
    let log = || Log::new("log", 1, &journal);
    let names = |state: &dyn Drainable| -> Vec<String> {
        state.opened_shards().expect("readable").into_iter().map(|shard| shard.name).collect()
    };
    assert_eq!(names(&Raw { r#type: log() }), ["type"]);
    assert_eq!(names(&Tuple(log(), Gate::new(), (), (log(), log()))), ["0", "3.0", "3.1"]);
    assert_eq!(names(&Unit), [""; 0]);
    assert_eq!(Unit.seal().expect("sealed"), SealReport::default());
}

#[derive(Serialize, Deserialize)]
struct Client;

impl Carried for Client {
    const NAME: &'static str = "test.client";
    const VERSION: u32 = 1;
}

/// The sets by name, with their kinds.
fn sets(state: &impl Drainable) -> String {
    format!("{:?}", state.carriage())
}

#[test]
fn what_is_carried_is_named_by_its_field_and_its_place_there() {
    #[derive(Drainable)]
    struct Server<S: Carried, M> {
        #[handoff(carry)]
        clients: Arc<Connections<S>>,
        #[handoff(carry)]
        several: Vec<Arc<Connections<S>>>,
        log: Log,
        #[handoff(carry)]
        optional: Option<Connections<S>>,
        #[handoff(carry, name = "hot-keys")]
        cache: Memory,
        #[handoff(carry)]
        any: M,
        #[handoff(gate)]
        gate: Gate,
        #[handoff(skip)]
        own: Memory,
        #[handoff(carry)]
        r#type: Box<Memory>,
    }

    let journal = Journal::default();
    let mut server = Server {
        clients: Arc::new(Connections::<Client>::new()),
        several: vec![Arc::default(), Arc::default()],
        log: Log::new("log", 1, &journal),
        optional: None,
        cache: Memory::new(),
        any: [Memory::new(), Memory::new()],
        gate: Gate::new(),
        own: Memory::new(),
        r#type: Box::default(),
    };
    let expected = "{\"clients\": connections, \"several.0\": connections, \
        \"several.1\": connections, \"hot-keys\": memory, \"any.0\": memory, \"any.1\": memory, \
        \"type\": memory}";
    assert_eq!(sets(&server), expected);
    server.several.truncate(1);
    server.optional = Some(Connections::new());
    assert_eq!(server.carriage().len(), 7);
    assert!(sets(&server).contains("\"several.0\": connections, \"optional\": connections"));
    // It is no shard.
    assert_eq!(server.snapshot_state().shard_count, 1);
    assert!(server.own.keys().is_empty());
}

#[test]
fn what_is_carried_in_a_tuple_is_named_by_its_place() {
    #[derive(Drainable)]
    struct Tuple<'a, C: Carry + ?Sized>(
        #[handoff(skip)] (),
        #[handoff(carry)] &'a C,
        #[handoff(carry)] [Memory; 2],
    );

    let clients: &[Connections<Client>] = &[Connections::new()];
    let tuple = Tuple((), clients, <[Memory; 2]>::default());
    assert_eq!(sets(&tuple), "{\"1.0\": connections, \"2.0\": memory, \"2.1\": memory}");
}

#[test]
fn a_daemon_that_says_nothing_carries_nothing() {
    assert!(Kv::new().carriage().is_empty());
}

#[test]
fn sets_that_collide_at_run_time_are_an_error_before_anything_is_served() {
    #[derive(Drainable)]
    struct Clash {
        #[handoff(carry)]
        clients: Vec<Arc<Connections<Client>>>,
        #[handoff(carry, name = "clients.1")]
        other: Memory,
    }

    let clash = |count: usize| Clash {
        clients: (0..count).map(|_| Arc::default()).collect(),
        other: Memory::new(),
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let lock = DataDirLock::acquire_or_break_stale(directory.path()).expect("nobody has it");
    let socket = directory.path().join("control.sock");
    let incumbent = Incumbent::bind_cold_start(&socket, lock).expect("it binds");
    assert_eq!(sets(&clash(1)), "{\"clients.0\": connections, \"clients.1\": memory}");
    let served = incumbent.serve(clash(2));
    assert!(
        matches!(&served, Err(Error::Carry(CarryError::DuplicateSet { set })) if set == "clients.1"),
        "{served:?}"
    );
}
