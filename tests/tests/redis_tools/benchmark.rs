//! `redis-benchmark` runs through swaps: it ends at the first connection that is closed.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use handoff_tests::harness::{TIMEOUT, eventually};

use crate::kvd::{Kvd, number, words_of};

/// Of the process that serves.
#[derive(Clone, Copy)]
struct Progress {
    transactions: u64,
    hits: u64,
}

impl Progress {
    fn of(kvd: &Kvd) -> Self {
        let info = kvd.info();
        let revision = |line: &str| line.split_once("revision=")?.1.parse::<u64>().ok();
        Self {
            transactions: info.lines().filter_map(revision).sum(),
            hits: number(&info, "cache_hits"),
        }
    }

    const fn is_far_from(self, before: Self) -> bool {
        self.transactions >= before.transactions + 25 || self.hits >= before.hits + 10_000
    }
}

#[test]
fn redis_benchmark_runs_through_swaps_and_notices_none() {
    // What is asked here is not of the disk, and a slow one should not make it last.
    let memory = Path::new("/dev/shm");
    let mut kvd = if memory.is_dir() { Kvd::start_in(memory) } else { Kvd::start() };
    let mut arguments = vec!["-c", "50", "-n", "1000000", "-t", "set,get"];
    if cfg!(debug_assertions) {
        arguments.extend(["-P", "16"]);
    }
    let start = Instant::now();
    let mut benchmark = kvd.benchmark(&arguments);
    let benchmark = benchmark.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut benchmark = benchmark.expect("redis-benchmark is installed");

    let (mut commits, mut rollbacks, mut carried) = (0_u32, 0_u32, 0);
    let mut runs = || benchmark.try_wait().expect("it is ours").is_none();
    while runs() {
        // Each process serves for a while before it is replaced.
        let before = Progress::of(&kvd);
        eventually("the benchmark goes on, or ends", TIMEOUT, || {
            (Progress::of(&kvd).is_far_from(before) || !runs()).then_some(())
        });
        match (commits + rollbacks) % 5 {
            2 => kvd.fail_to_swap(),
            4 => kvd.give_up_drained(),
            _ => carried += kvd.swap().sets[0].count,
        }
        // One that it did not outlast is not counted.
        if runs() {
            match (commits + rollbacks) % 5 {
                2 | 4 => rollbacks += 1,
                _ => commits += 1,
            }
        }
    }
    let words = words_of(&benchmark.wait_with_output().expect("it ended"));
    println!("{commits} commits, {rollbacks} rollbacks, {carried} carried, {:?}", start.elapsed());
    println!("{}", words.replace('\r', "\n"));
    assert_eq!(words.matches("requests per second").count(), 2, "{words}");
    assert!(!words.contains("rror") && !words.contains("ERR"), "{words}");
    assert!(commits >= 20 && rollbacks >= 5, "{commits} commits, {rollbacks} rollbacks");
    // It makes new connections between its two tests, and a swap may find them half made.
    assert!(carried >= u64::from(commits - 2) * 50, "{carried} connections in {commits} commits");
}
