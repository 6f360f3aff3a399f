//! To enter a gate and leave it, against a read lock around each request.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;

use handoff::Gate;
use parking_lot::RwLock;

use crate::measure::{Effort, Pace, Race, Rate, Results, Subject};

pub(crate) fn run(effort: &Effort) -> Results {
    let gate = OwnLines(Gate::new());
    gate.0.open();
    let lock = OwnLines(RwLock::new(()));

    let cores = thread::available_parallelism().map_or(1, usize::from);
    let title = format!("a pair, as each thread sees it, on {cores} cores");
    let mut race = Race::new(title, Rate::None);
    for threads in THREADS.into_iter().filter(|&threads| threads <= cores) {
        let read = || drop(black_box(&lock.0).read());
        let enter = || {
            let pass = black_box(&gate.0).enter();
            assert!(pass.is_ok(), "the gate is open");
            drop(pass);
        };
        let of_lock = race.add(Subject::new(
            format!("{threads} thread(s), parking_lot read + unlock"),
            move || on_threads(threads, effort, read),
        ));
        race.add(
            Subject::new(format!("{threads} thread(s), Gate::enter + leave"), move || {
                on_threads(threads, effort, enter)
            })
            .against(of_lock),
        );
    }
    race.run(effort)
}

fn on_threads(threads: usize, effort: &Effort, call: impl Fn() + Sync) -> Pace {
    let together = Barrier::new(threads);
    thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    Pace::of(effort.turn, CHUNK, &call)
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().expect("no call panics")).sum()
    })
}

/// Nothing else is on the lines that the threads share.
#[repr(align(128))]
struct OwnLines<T>(T);

const THREADS: [usize; 3] = [1, 2, 4];
const CHUNK: u32 = 1024;
