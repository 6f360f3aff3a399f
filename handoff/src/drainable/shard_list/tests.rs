use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::*;

/// What shards were told, in order.
type Calls = Mutex<Vec<String>>;

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Settle,
    Seal,
    SealPanics,
    Fingerprint,
    FingerprintAndResume,
    Resume,
}

struct Mock<'a> {
    name: &'static str,
    fault: Fault,
    calls: &'a Calls,
}

impl Mock<'_> {
    fn called(&self, call: &str, fault: Fault) -> Result<()> {
        self.calls.lock().expect("whole").push(format!("{call} {}", self.name));
        if self.fault == fault {
            return Err(io::Error::other(format!("{call} of {}", self.name)).into());
        }
        Ok(())
    }
}

impl Shard for Mock<'_> {
    fn settle(&self) -> Result<()> {
        self.called("settle", Fault::Settle)
    }
    fn seal(&self) -> Result<u64> {
        assert!(self.fault != Fault::SealPanics, "{} is in pieces", self.name);
        self.called("seal", Fault::Seal).map(|()| self.revision())
    }
    fn revision(&self) -> u64 {
        self.name.len() as u64
    }
    fn fingerprint(&self) -> Result<[u8; 32]> {
        if matches!(self.fault, Fault::Fingerprint | Fault::FingerprintAndResume) {
            return Err(io::Error::other("unreadable").into());
        }
        Ok(*blake3::hash(self.name.as_bytes()).as_bytes())
    }
    fn resume(&self) -> Result<()> {
        let fault = match self.fault {
            Fault::FingerprintAndResume => Fault::FingerprintAndResume,
            _ => Fault::Resume,
        };
        self.called("resume", fault)
    }
}

fn mocks<'a>(calls: &'a Calls, faults: &[(&'static str, Fault)]) -> Vec<Mock<'a>> {
    faults.iter().map(|&(name, fault)| Mock { name, fault, calls }).collect()
}

fn shard_list<'a>(mocks: &'a [Mock<'a>]) -> ShardList<'a> {
    mocks.iter().fold(ShardList::new(), |shard_list, mock| shard_list.with(mock.name, mock))
}

/// The calls that begin with this word, in order.
fn called(calls: &Calls, word: &str) -> Vec<String> {
    let calls = calls.lock().expect("whole");
    calls
        .iter()
        .filter_map(|call| call.strip_prefix(word))
        .map(|name| name.trim().to_owned())
        .collect()
}

/// The failed shard's name, and what it said.
fn blame<T: fmt::Debug>(result: Result<T>) -> (String, String) {
    match result {
        Err(Error::Shard { name, source }) => (name, source.to_string()),
        other => panic!("no shard was blamed: {other:?}"),
    }
}

#[test]
fn every_shard_is_sealed_and_reported_in_declared_order() {
    let calls = Calls::default();
    let mocks = mocks(&calls, &[("log", Fault::None), ("index", Fault::None), ("b", Fault::None)]);
    let sealed = shard_list(&mocks).seal(&|_| {}).expect("sealed");
    let report = SealReport::of_shards(&sealed);
    assert_eq!(sealed.iter().map(|shard| &*shard.name).collect::<Vec<_>>(), ["log", "index", "b"]);
    assert_eq!(report.last_revision_per_shard, [3, 5, 1]);
    assert_eq!(sealed[1].digest, *blake3::hash(b"index").as_bytes());
    assert_eq!(report.data_dir_fingerprint, Fingerprint::of_shards(&sealed));
    assert_eq!(shard_list(&mocks).inspect().expect("readable"), sealed);
    assert_eq!(shard_list(&mocks).revisions(), report.last_revision_per_shard);
}

#[test]
fn progress_counts_up_one_at_a_time() {
    let calls = Calls::default();
    let names = ["a", "bb", "ccc", "dddd"].map(|name| (name, Fault::None));
    let mocks = mocks(&calls, &names);
    let told: Mutex<Vec<SealProgress>> = Mutex::default();
    shard_list(&mocks)
        .seal(&|progress| told.try_lock().expect("nobody else tells").push(progress))
        .expect("sealed");
    let told = told.into_inner().expect("whole");
    let counts: Vec<_> = told.iter().map(|p| (p.shards_sealed, p.shards_total)).collect();
    assert_eq!(counts, [(1, 4), (2, 4), (3, 4), (4, 4)]);
    let mut revisions: Vec<_> = told.iter().map(|p| p.last_revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [1, 2, 3, 4]);
}

#[test]
fn no_shard_at_all_is_sealed_without_a_fingerprint() {
    let sealed = ShardList::new().seal(&|_| panic!("there is no progress")).expect("sealed");
    assert_eq!(SealReport::of_shards(&sealed), SealReport::default());
}

#[test]
fn a_failed_seal_names_the_shard_and_resumes_those_sealed() {
    for (fault, words, sealed) in [
        (Fault::Seal, "seal of bad", false),
        (Fault::SealPanics, "the hook `seal` panicked: bad is in pieces", false),
        (Fault::Fingerprint, "unreadable", true),
    ] {
        let calls = Calls::default();
        let mocks = mocks(
            &calls,
            &[("one", Fault::None), ("two", Fault::None), ("bad", fault), ("four", Fault::None)],
        );
        let failure = blame(shard_list(&mocks).seal(&|_| {}));
        assert_eq!(failure, ("bad".to_owned(), words.to_owned()));
        let mut expected = called(&calls, "seal");
        expected.retain(|name| name != "bad" || sealed);
        expected.sort_by_key(|name| mocks.iter().rev().position(|mock| mock.name == name));
        assert_eq!(called(&calls, "resume"), expected);
    }
}

#[test]
fn a_failed_undo_does_not_hide_why_the_seal_failed() {
    let calls = Calls::default();
    let mocks = mocks(&calls, &[("bad", Fault::FingerprintAndResume)]);
    assert_eq!(
        blame(shard_list(&mocks).seal(&|_| {})),
        ("bad".to_owned(), "unreadable".to_owned())
    );
    assert_eq!(called(&calls, "resume"), ["bad"]);
}

#[test]
fn of_several_that_fail_the_first_declared_is_named() {
    let calls = Calls::default();
    let mocks = mocks(&calls, &[("good", Fault::None), ("one", Fault::Seal), ("two", Fault::Seal)]);
    for _ in 0..50 {
        assert_eq!(blame(shard_list(&mocks).seal(&|_| {})).0, "one");
    }
}

#[test]
fn after_a_shard_that_failed_no_further_one_is_begun() {
    /// The first fails at once, and the others wait for it.
    struct Later<'a> {
        first: bool,
        begun: &'a AtomicU32,
        failed: &'a AtomicBool,
    }
    impl Shard for Later<'_> {
        fn seal(&self) -> Result<u64> {
            self.begun.fetch_add(1, Relaxed);
            if self.first {
                self.failed.store(true, Relaxed);
                return Err(io::Error::other("full").into());
            }
            while !self.failed.load(Relaxed) {
                thread::yield_now();
            }
            thread::yield_now();
            Ok(1)
        }
        fn revision(&self) -> u64 {
            1
        }
        fn fingerprint(&self) -> Result<[u8; 32]> {
            Ok([0; 32])
        }
        fn resume(&self) -> Result<()> {
            Ok(())
        }
    }
    let (begun, failed) = (AtomicU32::new(0), AtomicBool::new(false));
    let shards: Vec<_> = (0..20_000)
        .map(|place| Later { first: place == 0, begun: &begun, failed: &failed })
        .collect();
    assert_eq!(blame(ShardList::new().with("shards", &shards).seal(&|_| {})).0, "shards.0");
    assert!(begun.into_inner() < 20_000);
}

#[test]
fn all_are_resumed_in_reverse_and_the_first_failure_is_returned() {
    let calls = Calls::default();
    let mocks = mocks(
        &calls,
        &[
            ("one", Fault::Resume),
            ("two", Fault::None),
            ("three", Fault::Resume),
            ("four", Fault::None),
        ],
    );
    assert_eq!(blame(shard_list(&mocks).resume()).0, "three");
    assert_eq!(called(&calls, "resume"), ["four", "three", "two", "one"]);
}

#[test]
fn two_shards_of_one_name_are_an_error_before_anything_is_sealed() {
    let calls = Calls::default();
    let one = mocks(&calls, &[("one", Fault::None)]);
    let clash = mocks(&calls, &[("two", Fault::None)]);
    let shard_list = ShardList::new().with("logs", &one).with("logs.0", &clash[0]);
    for result in [shard_list.seal(&|_| {}), shard_list.inspect()] {
        assert!(matches!(result, Err(Error::DuplicateShard { name }) if name == "logs.0"));
    }
    assert_eq!(called(&calls, "seal"), [""; 0]);
}

/// Comes back only once `expected` of its kind run at the same time.
struct Together<'a> {
    arrived: &'a AtomicU32,
    expected: u32,
}

impl Together<'_> {
    fn meet(&self) {
        let place = self.arrived.fetch_add(1, Relaxed) + 1;
        let wave = place.div_ceil(self.expected) * self.expected;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.arrived.load(Relaxed) < wave {
            assert!(Instant::now() < deadline, "the others do not run beside this one");
            thread::yield_now();
        }
    }
}

impl Shard for Together<'_> {
    fn seal(&self) -> Result<u64> {
        self.meet();
        Ok(1)
    }
    fn revision(&self) -> u64 {
        1
    }
    fn fingerprint(&self) -> Result<[u8; 32]> {
        Ok([0; 32])
    }
    fn resume(&self) -> Result<()> {
        self.meet();
        Ok(())
    }
}

#[test]
fn those_of_a_collection_are_resumed_side_by_side() {
    let arrived = AtomicU32::new(0);
    let shards: Vec<_> = (0..8).map(|_| Together { arrived: &arrived, expected: 8 }).collect();
    ShardList::new().with("shards", &shards).resume().expect("resumed");
    assert_eq!(arrived.load(Relaxed), 8);
}

#[test]
fn shards_are_sealed_side_by_side_also_where_there_are_more_than_threads() {
    for (count, expected) in [(2, 2), (8, 8), (MAX_WORKERS * 2, 64)] {
        let arrived = AtomicU32::new(0);
        let shards: Vec<_> = (0..count).map(|_| Together { arrived: &arrived, expected }).collect();
        let sealed = ShardList::new().with("shards", &shards).seal(&|_| {}).expect("sealed");
        assert_eq!(sealed.len(), count);
        assert_eq!(sealed[count - 1].name, format!("shards.{}", count - 1));
    }
}

#[test]
fn one_shard_is_sealed_on_the_thread_that_asks() {
    struct Here(ThreadId);
    impl Shard for Here {
        fn seal(&self) -> Result<u64> {
            assert_eq!(thread::current().id(), self.0);
            Ok(1)
        }
        fn revision(&self) -> u64 {
            1
        }
        fn fingerprint(&self) -> Result<[u8; 32]> {
            Ok([0; 32])
        }
        fn resume(&self) -> Result<()> {
            Ok(())
        }
    }
    let here = Here(thread::current().id());
    assert_eq!(ShardList::new().with("here", &here).seal(&|_| {}).expect("sealed").len(), 1);
}

#[test]
fn all_are_settled_and_the_first_that_fails_is_named() {
    let calls = Calls::default();
    let shards = mocks(&calls, &[("a", Fault::None), ("b", Fault::None)]);
    ShardList::new().with("logs", &shards).settle().expect("none fails");
    let mut called = calls.lock().expect("whole").clone();
    called.sort();
    assert_eq!(called, ["settle a", "settle b"]);
    let shards = mocks(&calls, &[("a", Fault::None), ("b", Fault::Settle)]);
    match ShardList::new().with("logs", &shards).settle() {
        Err(Error::Shard { name, source }) => {
            assert_eq!((name.as_str(), source.to_string().as_str()), ("logs.1", "settle of b"));
        }
        other => panic!("{other:?}"),
    }
    // One that has nothing to settle need not say so, and a pointer asks what it points to.
    let boxed: Box<dyn Shard + '_> = Box::new(&shards[1]);
    assert!(boxed.settle().is_err());
}
