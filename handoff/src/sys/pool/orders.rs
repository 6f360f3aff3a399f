//! Every execution of a caller and a thread or two of the pool.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::sys::sync::AtomicUsize;
use crate::sys::sync::explorer::{
    Model, Plain, current, join_started, pass_until, spawn, unnoticed,
};

const STARTED: Model = Model {
    name: "pool: with a thread that is started for it, each piece is done once and the caller sees it",
    bound: None,
    clock_runs: false,
    run: || {
        begin();
        work(1, 2);
        end();
    },
};

const PREPARED: Model = Model {
    name: "pool: with a thread that rests, each piece is done once and the caller sees it",
    bound: Some(3),
    clock_runs: false,
    run: || {
        begin();
        let held = hold();
        prepare(1);
        work(1, 2);
        drop(held);
        end();
    },
};

const TIME_PASSES: Model = Model {
    name: "pool: so it is where each thread rests and loses patience at any time",
    bound: Some(3),
    clock_runs: true,
    run: || {
        let held = hold();
        prepare(1);
        drop(held);
        work(1, 1);
        end();
    },
};

const TOGETHER: Model = Model {
    name: "pool: a thread that rests gets up for a call that cannot end without it",
    bound: Some(3),
    clock_runs: false,
    run: || {
        begin();
        let held = hold();
        prepare(1);
        let (inside, both) = (Mutex::new(0), Condvar::new());
        side_by_side(1, &|| {
            let mut inside = inside.lock().expect("no thread panics with it");
            *inside += 1;
            both.notify_all();
            while *inside < 2 {
                inside = both.wait(inside).expect("no thread panics with it");
            }
        });
        drop(held);
        end();
    },
};

const TWO_CALLERS: Model = Model {
    name: "pool: with two callers at once, each piece is done once and its caller sees it",
    bound: Some(2),
    clock_runs: false,
    run: || {
        begin();
        let held = hold();
        prepare(1);
        let other = spawn(|| work(1, 1));
        work(1, 1);
        other.join().expect("it ends");
        drop(held);
        end();
    },
};

const PANICS: Model = Model {
    name: "pool: a panic of a thread is one of the caller, once no thread is at work",
    bound: None,
    clock_runs: false,
    run: || {
        begin();
        let (caller, data) = (current().id(), Plain::new());
        let next = AtomicUsize::new(0);
        let worked = catch_unwind(AssertUnwindSafe(|| {
            side_by_side(1, &|| {
                if next.fetch_add(1, Relaxed) == 0 {
                    data.write();
                    if current().id() != caller {
                        resume_unwind(Box::new("in pieces"));
                    }
                }
            });
        }));
        data.write();
        let words = worked.err().map(|panic| panic.downcast_ref::<&str>().copied());
        assert!(words.is_none_or(|words| words == Some("in pieces")));
        end();
    },
};

const MODELS: [Model; 6] = [STARTED, PREPARED, TOGETHER, TWO_CALLERS, PANICS, TIME_PASSES];

#[test]
fn the_promises_of_the_pool_hold() {
    for model in MODELS {
        model.hold();
    }
}

#[test]
fn each_wake_up_of_the_pool_is_needed() {
    let unnoticed = unnoticed(&MODELS, "sys/pool.rs", include_str!("../pool.rs"));
    assert_eq!(unnoticed, [""; 0]);
}

fn work(max: usize, count: usize) {
    let pieces: Vec<_> = (0..count).map(|_| (AtomicUsize::new(0), Plain::new())).collect();
    for (done, _) in &pieces {
        done.load(Relaxed);
    }
    let next = AtomicUsize::new(0);
    next.load(Relaxed);
    side_by_side(max, &|| {
        while let Some((done, result)) = pieces.get(next.fetch_add(1, Relaxed)) {
            assert_eq!(done.fetch_add(1, Relaxed), 0);
            result.write();
        }
    });
    for (done, result) in &pieces {
        assert_eq!(done.load(Relaxed), 1);
        result.write();
    }
}

/// A call finds that its patience is over.
fn begin() {
    pass_until(PATIENCE);
}

/// Time passes until each thread has ended.
fn end() {
    let state = POOL.lock();
    pass_until(Duration::MAX);
    POOL.called.notify_all();
    drop(state);
    join_started();
}
