use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Barrier, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use super::*;

/// Far enough that it outlives the test.
fn never() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Far enough that only a defect reaches it.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn open_gate() -> Gate {
    let gate = Gate::new();
    gate.open();
    gate
}

/// A thread that waits for something of a gate. It is left behind where a test fails.
struct Waiter<T>(JoinHandle<T>);

impl<T: Send + 'static> Waiter<T> {
    /// Returns once the thread listens and sleeps, so that only a notification wakes it.
    fn start(gate: &Arc<Gate>, wait: impl FnOnce(&Gate) -> T + Send + 'static) -> Self {
        let gate = Arc::clone(gate);
        let (tell, told) = mpsc::channel();
        let listens = Arc::clone(&gate);
        let thread = thread::spawn(move || {
            tell.send(rustix::thread::gettid()).expect("the test listens");
            wait(&gate)
        });
        let stat = format!("/proc/self/task/{}/stat", told.recv().expect("it starts"));
        until(|| listens.turned.total_listeners() + listens.emptied.total_listeners() == 1);
        until(|| {
            cfg!(miri) || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") S "))
        });
        Self(thread)
    }

    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    #[track_caller]
    fn finish(self) -> T {
        until(|| self.is_finished());
        self.0.join().expect("it ends")
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, until a deadline that only a defect reaches.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let deadline = soon();
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(Instant::now() < deadline, "nobody woke the future");
        thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The future waits; returns once it surely listens.
fn poll_once(future: std::pin::Pin<&mut impl Future>) {
    assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[test]
fn a_gate_is_born_closed() {
    let gate = Gate::default();
    assert!(!gate.is_open());
    assert_eq!(gate.enter().expect_err("closed"), GateClosed);
    gate.open();
    assert!(gate.is_open());
    let _pass = gate.enter().expect("open");
}

#[test]
fn passes_are_counted_until_they_are_dropped() {
    let gate = Arc::new(open_gate());
    let first = gate.enter().expect("open");
    let second = gate.enter_owned().expect("open");
    assert_eq!(gate.inside(), 2);
    drop(first);
    assert_eq!(gate.inside(), 1);
    drop(second);
    assert_eq!(gate.inside(), 0);
}

#[test]
fn who_is_refused_is_not_counted() {
    let gate = open_gate();
    let _pass = gate.enter().expect("open");
    gate.close();
    assert!(gate.enter().is_err());
    assert_eq!(gate.inside(), 1);
}

#[test]
fn a_pass_dropped_on_another_thread_leaves_the_stripe_it_entered() {
    let gate = Arc::new(open_gate());
    let passes: Vec<_> = (0..40).map(|_| gate.enter_owned().expect("open")).collect();
    for pass in passes {
        thread::spawn(move || drop(pass)).join().expect("it ends");
    }
    assert!(gate.stripes.iter().all(|stripe| stripe.0.load(SeqCst) == 0));
}

#[test]
fn threads_are_spread_over_the_stripes() {
    let stripes: std::collections::BTreeSet<_> = (0..STRIPES * 2)
        .map(|_| thread::spawn(stripe_of_this_thread).join().expect("it ends"))
        .collect();
    assert!(stripes.len() > STRIPES / 2, "{stripes:?}");
}

#[test]
fn a_wait_for_an_empty_gate_ends_at_its_deadline_with_the_count() {
    let gate = open_gate();
    let _passes = [gate.enter().expect("open"), gate.enter().expect("open")];
    gate.close();
    let deadline = Instant::now() + Duration::from_millis(20);
    assert_eq!(gate.wait_empty(deadline), 2);
    assert!(Instant::now() >= deadline);
}

#[test]
fn a_forgotten_pass_is_counted_for_ever() {
    let gate = open_gate();
    std::mem::forget(gate.enter().expect("open"));
    gate.close();
    assert_eq!(gate.wait_empty(Instant::now()), 1);
}

#[test]
fn the_last_one_out_wakes_the_wait() {
    let gate = Arc::new(open_gate());
    let [first, last] = [gate.enter_owned().expect("open"), gate.enter_owned().expect("open")];
    gate.close();
    let waiter = Waiter::start(&gate, |gate| gate.wait_empty(never()));
    drop(first);
    assert!(!waiter.is_finished());
    drop(last);
    assert_eq!(waiter.finish(), 0);
}

#[test]
fn an_interrupt_and_an_opening_cut_a_wait_short() {
    for cut in [Gate::interrupt, Gate::open] {
        let gate = Arc::new(open_gate());
        let _pass = gate.enter().expect("open");
        gate.close();
        let waiter = Waiter::start(&gate, |gate| gate.wait_empty(never()));
        cut(&gate);
        assert_eq!(waiter.finish(), 1);
    }
}

#[test]
fn an_interrupt_lasts_until_the_gate_is_opened() {
    let gate = open_gate();
    let _pass = gate.enter().expect("open");
    gate.interrupt();
    gate.close();
    assert_eq!(gate.wait_empty(soon()), 1);
    gate.open();
    gate.close();
    let deadline = Instant::now() + Duration::from_millis(20);
    assert_eq!(gate.wait_empty(deadline), 1);
    assert!(Instant::now() >= deadline, "the interrupt was not forgotten");
}

#[test]
fn threads_wait_for_the_gate_to_open() {
    let gate = Arc::new(Gate::new());
    let deadline = Instant::now() + Duration::from_millis(5);
    assert!(!gate.wait_open(Some(deadline)));
    assert_eq!(gate.enter_blocking(Some(deadline)).err(), Some(GateClosed));
    assert!(Instant::now() >= deadline);
    for deadline in [None, Some(never())] {
        let waiter = Waiter::start(&gate, move |gate| gate.enter_blocking(deadline).is_ok());
        gate.open();
        assert!(waiter.finish());
        gate.close();
    }
}

#[test]
fn threads_wait_for_the_gate_to_close() {
    let gate = Arc::new(open_gate());
    assert!(!gate.wait_closed(Some(Instant::now() + Duration::from_millis(5))));
    for deadline in [None, Some(never())] {
        let waiter = Waiter::start(&gate, move |gate| gate.wait_closed(deadline));
        gate.close();
        assert!(waiter.finish());
        gate.open();
    }
}

#[test]
fn tasks_wait_for_the_gate_to_open_and_to_close() {
    let gate = Arc::new(Gate::new());
    let (closed, passed) = mpsc::channel();
    let task = thread::spawn({
        let gate = Arc::clone(&gate);
        move || {
            block_on(async {
                let pass = gate.entered().await;
                passed_through(&closed, "entered");
                drop(pass);
                let pass = gate.entered_owned().await;
                passed_through(&closed, "entered again");
                gate.closed().await;
                drop(pass);
                passed_through(&closed, "closed");
            });
        }
    });
    until(|| gate.turned.total_listeners() == 1);
    assert!(passed.try_recv().is_err());
    gate.open();
    assert_eq!(passed.recv(), Ok("entered"));
    assert_eq!(passed.recv(), Ok("entered again"));
    gate.close();
    assert_eq!(passed.recv(), Ok("closed"));
    assert_eq!(gate.wait_empty(soon()), 0);
    task.join().expect("it ends");
}

fn passed_through(to: &mpsc::Sender<&'static str>, what: &'static str) {
    to.send(what).expect("the test listens");
}

#[test]
fn a_future_that_is_dropped_takes_no_one_s_turn() {
    let gate = Gate::new();
    {
        let mut given_up = pin!(gate.entered());
        poll_once(given_up.as_mut());
        assert_eq!(gate.turned.total_listeners(), 1);
    }
    assert_eq!(gate.turned.total_listeners(), 0);
    gate.open();
    drop(block_on(gate.entered()));
    assert_eq!(gate.inside(), 0);
}

#[test]
fn nobody_is_inside_once_a_closed_gate_is_empty() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = if cfg!(miri) { 8 } else { 400 };
    let gate = Gate::new();
    let [sealed, over] = [AtomicBool::new(false), AtomicBool::new(false)];
    let [passes, refusals] = [AtomicU32::new(0), AtomicU32::new(0)];
    let start = Barrier::new(THREADS as usize + 1);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                while !over.load(SeqCst) {
                    let Ok(_pass) = gate.enter() else {
                        refusals.fetch_add(1, Relaxed);
                        thread::yield_now();
                        continue;
                    };
                    assert!(!sealed.load(SeqCst), "entered after a seal");
                    std::hint::spin_loop();
                    assert!(!sealed.load(SeqCst), "sealed while one was inside");
                    passes.fetch_add(1, Relaxed);
                }
            });
        }
        let _end = SetOnDrop(&over);
        start.wait();
        for _ in 0..ROUNDS {
            let before = passes.load(SeqCst);
            gate.open();
            until(|| passes.load(SeqCst) > before);
            gate.close();
            let deadline = soon();
            assert_eq!(gate.wait_empty(deadline), 0);
            assert!(Instant::now() < deadline, "nobody woke the wait");
            sealed.store(true, SeqCst);
            let before = refusals.load(SeqCst);
            until(|| refusals.load(SeqCst) > before);
            sealed.store(false, SeqCst);
        }
    });
    assert_eq!(gate.inside(), 0);
    assert!(passes.into_inner() >= ROUNDS);
    assert!(refusals.into_inner() >= ROUNDS);
}

/// Ends the threads also where the test fails, so that it does not hang.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[track_caller]
fn until(fact: impl Fn() -> bool) {
    let deadline = soon();
    while !fact() {
        assert!(Instant::now() < deadline, "it never came to be");
        thread::yield_now();
    }
}

/// A thread that turns the gate may be interrupted before it has woken anybody.
#[test]
fn whoever_is_polled_sees_that_the_gate_has_turned_although_nobody_was_woken() {
    let gate = Gate::new();
    let mut context = Context::from_waker(Waker::noop());
    let mut opened = pin!(gate.opened());
    assert_eq!(opened.as_mut().poll(&mut context), Poll::Pending);
    gate.state.0.store(OPEN, SeqCst);
    assert_eq!(opened.as_mut().poll(&mut context), Poll::Ready(()));
    let mut closed = pin!(gate.closed());
    assert_eq!(closed.as_mut().poll(&mut context), Poll::Pending);
    gate.state.0.fetch_or(CLOSED, SeqCst);
    assert_eq!(closed.as_mut().poll(&mut context), Poll::Ready(()));
}
