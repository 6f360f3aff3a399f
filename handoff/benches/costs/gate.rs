//! To enter a gate and leave it, against a read lock around each request, and beside the two
//! atomic operations that it promises to cost.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread;

use handoff::Gate;
use parking_lot::RwLock;

use crate::measure::{Effort, Pace, Race, Rate, Results, Subject};

pub(crate) fn run(effort: &Effort) -> Results {
    let gate = OwnLines(Gate::new());
    gate.0.open();
    let lock = OwnLines(RwLock::new(()));
    let counters = [const { OwnLines(AtomicU64::new(0)) }; MAX_THREADS];

    let read = |_| drop(black_box(&lock.0).read());
    let enter = |_| {
        let pass = black_box(&gate.0).enter();
        assert!(pass.is_ok(), "the gate is open");
        drop(pass);
    };
    let count = |thread: usize| {
        let counter = black_box(&counters[thread].0);
        counter.fetch_add(1, SeqCst);
        counter.fetch_sub(1, SeqCst);
    };

    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut race = Race::new("a pair, as each thread sees it", Rate::None);
    for threads in [1, 2, MAX_THREADS].into_iter().filter(|&threads| threads <= cores) {
        let on = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
        let of_lock = race
            .add(Subject::new(format!("{on}: parking_lot read, unlock"), move || {
                on_threads(threads, effort, read)
            }));
        race.add(
            Subject::new(format!("{on}: Gate::enter, leave"), move || {
                on_threads(threads, effort, enter)
            })
            .against(of_lock),
        );
        race.add(
            Subject::new(format!("{on}: add, subtract, a counter each"), move || {
                on_threads(threads, effort, count)
            })
            .against(of_lock),
        );
    }
    race.run(effort)
}

/// Calls on so many threads at once, each with its index.
///
/// They spin until all of them run. A thread that slept at a `Barrier` may wake milliseconds after
/// the others, on a busy core: then the threads do not meet, and a lock costs half as much.
fn on_threads(threads: usize, effort: &Effort, call: impl Fn(usize) + Sync) -> Pace {
    let running = AtomicUsize::new(0);
    thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|thread| {
                let (running, call) = (&running, &call);
                scope.spawn(move || {
                    running.fetch_add(1, SeqCst);
                    while running.load(SeqCst) < threads {
                        spin_loop();
                    }
                    Pace::of(effort.turn, CHUNK, || call(thread))
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().expect("no call panics")).sum()
    })
}

/// Nothing else is on the lines that the threads share.
#[repr(align(128))]
struct OwnLines<T>(T);

const MAX_THREADS: usize = 4;
const CHUNK: u32 = 1024;
