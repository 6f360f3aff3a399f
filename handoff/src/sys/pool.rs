//! Threads that help with work of a caller's, which borrows what it works on.
//!
//! They are started ahead and end when nothing is to be done for a while. Work that is over soon
//! is done by its caller alone: to wake another thread takes longer.

#![expect(
    unsafe_code,
    reason = "a thread outlives the borrow; that it does not use it so long is seen to here"
)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Starts threads until there are so many, as far as any can be started.
pub(crate) fn prepare(threads: usize) {
    let mut state = POOL.lock();
    while state.threads < threads {
        if state.start_one().is_err() {
            return;
        }
    }
}

/// Calls `work` on this thread and, unless that is over soon, also on up to `most` others, and
/// returns once it has returned on all of them. Each call takes up what no other has, until nothing
/// is left: so when it has returned here, it is not called any more.
///
/// # Panics
///
/// As `work` does, on whichever thread.
pub(crate) fn side_by_side(most: usize, work: &(dyn Fn() + Sync)) {
    // SAFETY: the reference is used by threads of the pool only between `begin` and `end` of a
    // running call, which are counted under the lock, and `Called::drop` waits until none runs and
    // lets none begin. That happens before this function returns, also by a panic, and so before
    // the borrow ends.
    let erased = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), Work>(work) };
    let called = Called::begin(erased, most);
    work();
    drop(called);
}

/// A call of [`side_by_side`], until it returns.
struct Called(u64);

impl Called {
    fn begin(work: Work, most: usize) -> Self {
        let mut state = POOL.lock();
        state.last += 1;
        let id = state.last;
        let since = Instant::now();
        state.jobs.push(Job { id, work, since, seats: most, running: 0, panic: None });
        if most > 0 {
            state.call_one();
        }
        Self(id)
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        let mut state = POOL.lock();
        loop {
            let place = state.jobs.iter().position(|job| job.id == self.0);
            let Some(place) = place else { return };
            state.jobs[place].seats = 0;
            if state.jobs[place].running > 0 {
                state = POOL.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let job = state.jobs.swap_remove(place);
            drop(state);
            match job.panic {
                Some(panic) if !thread::panicking() => resume_unwind(panic),
                _ => return,
            }
        }
    }
}

type Work = &'static (dyn Fn() + Sync);

struct Job {
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
    state: Mutex<State>,
    /// There may be something to do.
    called: Condvar,
    /// A thread has returned from a job.
    ended: Condvar,
}

struct State {
    jobs: Vec<Job>,
    last: u64,
    threads: usize,
    idle: usize,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.called.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl State {
    /// Has one more thread look at the jobs.
    fn call_one(&mut self) {
        if self.idle > 0 {
            POOL.called.notify_one();
        } else if self.threads < MOST {
            // Where none can be started, those that there are do it.
            let _ = self.start_one();
        }
    }

    fn start_one(&mut self) -> io::Result<()> {
        thread::Builder::new().name("handoff-shard".into()).spawn(help)?;
        self.threads += 1;
        Ok(())
    }
}

/// A thread of the pool.
fn help() {
    let mut state = POOL.lock();
    let mut rested = Instant::now();
    loop {
        let Some(job) = state.jobs.iter_mut().find(|job| job.seats > 0) else {
            let left = REST.saturating_sub(rested.elapsed());
            if left.is_zero() {
                state.threads -= 1;
                return;
            }
            state.idle += 1;
            state = POOL.wait(state, left);
            state.idle -= 1;
            continue;
        };
        let left = PATIENCE.saturating_sub(job.since.elapsed());
        if !left.is_zero() {
            // Whoever called may be done by then.
            state = POOL.wait(state, left);
            continue;
        }
        (job.seats, job.running) = (job.seats - 1, job.running + 1);
        let (id, work, seats) = (job.id, job.work, job.seats);
        for _ in 0..seats.min(2) {
            state.call_one();
        }
        drop(state);
        let worked = catch_unwind(AssertUnwindSafe(work));
        state = POOL.lock();
        if let Some(job) = state.jobs.iter_mut().find(|job| job.id == id) {
            (job.running, job.seats) = (job.running - 1, 0);
            if let Err(panic) = worked {
                job.panic.get_or_insert(panic);
            }
            POOL.ended.notify_all();
        }
        rested = Instant::now();
    }
}

static POOL: Pool = Pool {
    state: Mutex::new(State { jobs: Vec::new(), last: 0, threads: 0, idle: 0 }),
    called: Condvar::new(),
    ended: Condvar::new(),
};
/// About twice what it takes to wake a thread.
const PATIENCE: Duration = Duration::from_micros(100);
/// How long a thread waits for something to do.
pub(crate) const REST: Duration = Duration::from_secs(5);
/// More than any one caller asks for.
const MOST: usize = 128;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, Mutex};

    use super::*;

    #[test]
    fn everything_is_done_once_by_the_time_it_returns() {
        for count in [0, 1, 2, 100, 10_000] {
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
