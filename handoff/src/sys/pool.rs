//! Threads that help a caller with its work on borrowed data.
//!
//! They are started ahead and end when they have had no work for a while. A caller does work that
//! is over soon alone: to wake another thread takes longer.

#![expect(
    unsafe_code,
    reason = "a thread outlives the borrow; that it does not use it so long is seen to here"
)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use super::sync::{Builder, Condvar, Instant, Mutex, MutexGuard, global};

/// Starts threads until there are so many, or the system refuses one. Without a [`Hold`] it starts
/// none: others may want the processors more, and a call starts the threads that it needs.
pub(crate) fn prepare(threads: usize) {
    let mut state = POOL.lock();
    while state.holds > 0 && state.threads < threads {
        if state.start_one().is_err() {
            return;
        }
    }
}

/// For as long as it lives no thread ends for want of work.
#[derive(Debug)]
pub(crate) struct Hold(());

pub(crate) fn hold() -> Hold {
    POOL.lock().holds += 1;
    Hold(())
}

impl Drop for Hold {
    fn drop(&mut self) {
        POOL.lock().holds -= 1;
    }
}

/// Calls `work` on this thread and, unless that is over soon, also on up to `max` others, and
/// returns once it has returned on all of them. Each call takes pieces that no other has, until
/// none is left: so once it has returned on one thread, the pool calls it on no further one.
///
/// # Panics
///
/// As `work` does, on any thread.
pub(crate) fn side_by_side(max: usize, work: &(dyn Fn() + Sync)) {
    // SAFETY: the reference is used by threads of the pool only between `begin` and `end` of a
    // running call, which are counted under the lock, and `Called::drop` waits until none runs and
    // lets none begin. That happens before this function returns, also by a panic, and so before
    // the borrow ends.
    let erased = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), Work>(work) };
    let called = Called::begin(erased, max);
    work();
    drop(called);
}

/// A call of [`side_by_side`], until it returns.
struct Called(u64);

impl Called {
    fn begin(work: Work, max: usize) -> Self {
        let mut state = POOL.lock();
        state.last += 1;
        // It exists before the task does, so that nothing can leave the task behind.
        let called = Self(state.last);
        let since = Instant::now();
        state.tasks.push(Task { id: called.0, work, since, seats: max, running: 0, panic: None });
        if max > 0 {
            state.call_one();
        }
        drop(state);
        called
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        let mut state = POOL.lock();
        loop {
            let place = state.tasks.iter().position(|task| task.id == self.0);
            let Some(place) = place else { return };
            state.tasks[place].seats = 0;
            if state.tasks[place].running > 0 {
                state = POOL.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let task = state.tasks.swap_remove(place);
            drop(state);
            match task.panic {
                Some(panic) if !thread::panicking() => resume_unwind(panic),
                _ => return,
            }
        }
    }
}

type Work = &'static (dyn Fn() + Sync);

struct Task {
    id: u64,
    work: Work,
    since: Instant,
    /// How many threads may still take part.
    seats: usize,
    /// How many do.
    running: usize,
    panic: Option<Box<dyn std::any::Any + Send>>,
}

struct Pool {
    state: Mutex<Inner>,
    /// There is work for a thread that rests.
    called: Condvar,
    /// A thread waits on it to see whether a caller finishes alone; no thread signals it.
    patience: Condvar,
    /// A thread has returned from a task.
    ended: Condvar,
}

struct Inner {
    tasks: Vec<Task>,
    last: u64,
    threads: usize,
    /// Those that rest, and were not called.
    idle: usize,
    /// Those that were called, and have not got up yet.
    calls: usize,
    holds: usize,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait<'a>(on: &Condvar, state: MutexGuard<'a, Inner>, time: Duration) -> MutexGuard<'a, Inner> {
    on.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
}

impl Inner {
    /// Has one more thread look at the tasks.
    fn call_one(&mut self) {
        if self.idle > 0 {
            (self.idle, self.calls) = (self.idle - 1, self.calls + 1);
            POOL.called.notify_one();
        } else if self.threads < MAX_THREADS {
            // Where none can be started, the existing threads do the work.
            let _ = self.start_one();
        }
    }

    fn start_one(&mut self) -> io::Result<()> {
        Builder::new().name("handoff-shard".into()).spawn(help)?;
        self.threads += 1;
        Ok(())
    }
}

/// A thread of the pool.
fn help() {
    let mut state = POOL.lock();
    let mut rested = Instant::now();
    loop {
        let Some(task) = state.tasks.iter_mut().find(|task| task.seats > 0) else {
            let left = REST.saturating_sub(rested.elapsed());
            if left.is_zero() && state.holds == 0 {
                state.threads -= 1;
                return;
            }
            state.idle += 1;
            state = wait(&POOL.called, state, left.max(MIN_REST));
            // No call is meant for one thread: as many get up as were called.
            match state.calls.checked_sub(1) {
                Some(calls) => state.calls = calls,
                None => state.idle -= 1,
            }
            continue;
        };
        let left = PATIENCE.saturating_sub(task.since.elapsed());
        if !left.is_zero() {
            // The caller may be done by then.
            state = wait(&POOL.patience, state, left);
            continue;
        }
        (task.seats, task.running) = (task.seats - 1, task.running + 1);
        let (id, work, seats) = (task.id, task.work, task.seats);
        for _ in 0..seats.min(2) {
            state.call_one();
        }
        drop(state);
        let worked = catch_unwind(AssertUnwindSafe(work));
        state = POOL.lock();
        if let Some(task) = state.tasks.iter_mut().find(|task| task.id == id) {
            (task.running, task.seats) = (task.running - 1, 0);
            POOL.ended.notify_all();
            if let (Err(panic), None) = (worked, &task.panic) {
                task.panic = Some(panic);
            }
        }
        rested = Instant::now();
    }
}

global! {
    static POOL: Pool = Pool {
        state: Mutex::new(Inner {
            tasks: Vec::new(),
            last: 0,
            threads: 0,
            idle: 0,
            calls: 0,
            holds: 0,
        }),
        called: Condvar::new(),
        patience: Condvar::new(),
        ended: Condvar::new(),
    };
}
/// About twice the time that it takes to wake a thread.
const PATIENCE: Duration = Duration::from_micros(100);
/// How long a thread waits for work.
const REST: Duration = Duration::from_secs(5);
/// The minimum time for which a thread without work sleeps.
const MIN_REST: Duration = Duration::from_secs(1);
/// More than any one caller asks for.
const MAX_THREADS: usize = 128;

#[cfg(all(test, handoff_loom))]
mod orders;
#[cfg(all(test, not(handoff_loom)))]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, Mutex};

    use super::*;

    #[test]
    fn everything_is_done_once_by_the_time_it_returns() {
        for count in [0, 1, 2, 100, if cfg!(miri) { 200 } else { 10_000 }] {
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let next = AtomicUsize::new(0);
            side_by_side(16, &|| {
                while let Some(one) = done.get(next.fetch_add(1, Ordering::SeqCst)) {
                    one.fetch_add(1, Ordering::SeqCst);
                }
            });
            assert!(done.iter().all(|one| one.load(Ordering::SeqCst) == 1), "{count}");
        }
    }

    /// Each waits for all others: fewer threads would never get through.
    #[test]
    fn what_waits_is_done_side_by_side() {
        prepare(8);
        let (barrier, next) = (Barrier::new(8), AtomicUsize::new(0));
        let threads = Mutex::new(HashSet::new());
        side_by_side(7, &|| {
            while next.fetch_add(1, Ordering::SeqCst) < 8 {
                threads.lock().expect("whole").insert(thread::current().id());
                barrier.wait();
            }
        });
        assert_eq!(threads.into_inner().expect("whole").len(), 8);
    }

    #[test]
    fn a_thread_that_is_held_stays() {
        let held = hold();
        prepare(1);
        drop(held);
        let state = POOL.lock();
        assert!(state.threads >= 1 && state.calls <= state.threads, "{}", state.threads);
    }

    #[test]
    fn work_within_work_gets_through() {
        let sum = AtomicUsize::new(0);
        let outer = AtomicUsize::new(0);
        side_by_side(4, &|| {
            while outer.fetch_add(1, Ordering::SeqCst) < 8 {
                let (inner, both) = (AtomicUsize::new(0), Barrier::new(2));
                side_by_side(4, &|| {
                    while inner.fetch_add(1, Ordering::SeqCst) < 2 {
                        both.wait();
                        sum.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 16);
    }

    #[test]
    fn a_panic_of_another_thread_is_one_of_the_caller() {
        let barrier = Barrier::new(2);
        let next = AtomicUsize::new(0);
        let caller = thread::current().id();
        let worked = catch_unwind(AssertUnwindSafe(|| {
            side_by_side(1, &|| {
                while next.fetch_add(1, Ordering::SeqCst) < 2 {
                    barrier.wait();
                    assert!(thread::current().id() == caller, "in pieces");
                }
            });
        }));
        let panic = worked.expect_err("it panics");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"in pieces"));
    }
}
