//! Who waits for what.

use std::pin::{Pin, pin};
use std::sync::atomic::AtomicU32;
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};
use std::thread;

use super::*;
use crate::carry::pair::until;

/// Counts how often it is woken.
#[derive(Default)]
struct Alarm(AtomicU32);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_wait_that_is_dropped_loses_no_arrival() {
    let set = serving::<Client>();
    let alarms: [Arc<Alarm>; 3] = Default::default();
    let woken = || alarms.each_ref().map(|alarm| alarm.0.load(Ordering::SeqCst));
    let wakers = alarms.clone().map(Waker::from);
    let mut contexts = wakers.each_ref().map(Context::from_waker);
    let mut waits = [0; 3].map(|_| Box::pin(set.arrival()));
    for (wait, context) in waits.iter_mut().zip(&mut contexts) {
        assert!(wait.as_mut().poll(context).is_pending());
    }
    let [dropped, mut second, mut third] = waits;
    set.enter("one").park(socket(), Client::new(1, 0));
    assert_eq!(woken(), [1, 0, 0]);
    // It was woken, and is never polled again.
    drop(dropped);
    assert_eq!(woken(), [1, 1, 0]);
    let Poll::Ready(one) = second.as_mut().poll(&mut contexts[1]) else { panic!("it is lost") };
    set.enter("two").park(socket(), Client::new(2, 0));
    assert_eq!(woken(), [1, 1, 1]);
    let Poll::Ready(two) = third.as_mut().poll(&mut contexts[2]) else { panic!("it is lost") };
    assert_eq!((one.state.number, two.state.number), (1, 2));
}

#[test]
fn every_waiter_gets_what_comes() {
    const THREADS: usize = 4;
    const LAST: u32 = u32::MAX;
    let set = draining::<Client>();
    let (tell, told) = mpsc::channel();
    for _ in 0..THREADS {
        let (set, tell) = (Arc::clone(&set), tell.clone());
        thread::spawn(move || {
            while let Some(arrival) = set.wait_arrival(Some(soon()))
                && arrival.state.number != LAST
            {
                tell.send(arrival.state.number).expect("the test listens");
            }
        });
    }
    drop(tell);
    let all_wait = || set.arrived.total_listeners() == THREADS && set.state().waiting.is_empty();
    until(all_wait);
    let mut parked = Parked::new();
    (0..100).for_each(|number| park(&set, number, 0, &mut parked));
    set.take_back(true);
    set.release();
    until(all_wait);
    (100..200).for_each(|number| park(&set, number, 0, &mut parked));
    until(all_wait);
    (0..THREADS).for_each(|_| park(&set, LAST, 0, &mut parked));
    let mut numbers: Vec<_> = told.iter().collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..200));
    assert!(set.wait_arrival(Some(Instant::now())).is_none());
}

#[test]
fn a_drain_waits_for_those_that_have_a_handler_and_names_them() {
    let set = draining::<Client>();
    assert_eq!(set.wait_parked(soon()), [""; 0]);
    let long = "é".repeat(100);
    let tickets = [set.enter("b"), set.enter("a"), set.enter(long.clone()), set.enter("a")];
    let late = set.wait_parked(Instant::now());
    assert_eq!(late[..3], ["a", "a", "b"]);
    assert!(long.starts_with(&late[3]) && (100..=MAX_NAME_LEN).contains(&late[3].len()));
    let waiting = Arc::clone(&set);
    let wait = thread::spawn(move || waiting.wait_parked(soon()));
    until(|| set.changed.total_listeners() == 1);
    let [parks, ends, rest @ ..] = tickets;
    parks.park(socket(), Client::new(1, 0));
    drop(ends);
    assert!(!wait.is_finished());
    drop(rest);
    assert_eq!(wait.join().expect("it ends"), [""; 0]);
}

#[test]
fn who_is_not_parked_is_named_as_far_as_there_is_room() {
    let set = draining::<Client>();
    assert_eq!(set.not_parked(2), (vec![], 0));
    let mut tickets: Vec<_> = ["d", "b", "e", "a", "c"].map(|name| set.enter(name)).into();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(set.not_parked(0), (vec![], 5));
    assert_eq!(set.not_parked(2), (names(&["a", "b"]), 3));
    assert_eq!(set.not_parked(5), (names(&["a", "b", "c", "d", "e"]), 0));
    tickets.remove(3).park(socket(), Client::new(1, 0));
    drop(tickets.remove(1));
    assert_eq!(set.not_parked(2), (names(&["c", "d"]), 1));
}

#[test]
fn a_drain_that_is_given_up_is_waited_for_no_longer() {
    let set = draining::<Client>();
    let ticket = set.enter("busy");
    let waiting = Arc::clone(&set);
    let wait = thread::spawn(move || waiting.wait_parked(soon()));
    until(|| set.changed.total_listeners() == 1);
    let begun = Instant::now();
    set.interrupt();
    assert_eq!(wait.join().expect("it ends"), ["busy"]);
    assert_eq!(set.wait_parked(soon()), ["busy"]);
    assert!(begun.elapsed() < Duration::from_secs(10));
    // The next drain is another.
    set.take_back(true);
    set.release();
    set.collect(None);
    let waiting = Arc::clone(&set);
    let wait = thread::spawn(move || waiting.wait_parked(soon()));
    until(|| set.changed.total_listeners() == 1);
    drop(ticket);
    assert_eq!(wait.join().expect("it ends"), [""; 0]);
}

/// An abort may be quicker than the drain that it ends.
#[test]
fn a_drain_that_was_given_up_before_it_began_is_not_waited_for() {
    let set = serving::<Client>();
    let _ticket = set.enter("busy");
    set.interrupt();
    set.collect(None);
    assert_eq!(set.wait_parked(soon()), ["busy"]);
}

#[test]
fn main_waits_for_what_finishes_late() {
    let set = Arc::new(Connections::<Client>::new().late(Late::Finish));
    set.release();
    set.collect(None);
    let tickets = [set.enter("one"), set.enter("two")];
    set.part();
    assert!(tickets.iter().all(|ticket| !ticket.is_told_to_close()));
    assert_eq!(set.wait_ended(Instant::now()), 2);
    let waiting = Arc::clone(&set);
    let wait = thread::spawn(move || waiting.wait_ended(soon()));
    until(|| set.changed.total_listeners() == 1);
    drop(tickets);
    assert_eq!(wait.join().expect("it ends"), 0);
}

#[test]
fn a_handler_is_told_to_close_once_another_process_serves() {
    let set = draining::<Client>();
    let ticket = set.enter("busy");
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut told = pin!(ticket.told_to_close());
        assert!(told.as_mut().poll(&mut context).is_pending());
        set.interrupt();
        assert!(told.as_mut().poll(&mut context).is_pending());
        assert!(!ticket.is_told_to_close());
        set.part();
        assert!(told.as_mut().poll(&mut context).is_ready());
    }
    assert!(ticket.is_told_to_close());
}

#[test]
fn a_handler_is_told_to_park_once_a_drain_has_begun_and_until_it_is_given_up() {
    let set = serving::<Client>();
    let ticket = set.enter("10.0.0.1:80");
    assert_eq!(ticket.name(), "10.0.0.1:80");
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..2 {
        let mut told = Box::pin(ticket.told_to_park());
        assert!(told.as_mut().poll(&mut context).is_pending());
        assert!(!ticket.is_told_to_park());
        set.collect(None);
        assert!(told.as_mut().poll(&mut context).is_ready());
        assert!(ticket.is_told_to_park() && !ticket.is_told_to_close());
        // Nothing is admitted yet: a handler that finds the gate closed parks, and another one
        // goes on later.
        set.take_back(true);
        assert!(ticket.is_told_to_park());
        set.release();
        assert!(!ticket.is_told_to_park());
    }
    set.stop();
    assert!(ticket.is_told_to_park());
}

/// A connection on which nothing was served for long.
fn idle(set: &Shared) -> Ticket<Client> {
    let ticket = set.enter("idle");
    set.told.forget(&ticket.served);
    ticket
}

/// Also on a machine that takes its time between two looks.
fn is_served_on(busy: &Ticket<Client>) -> bool {
    (0..1000).any(|_| {
        busy.served();
        !busy.is_told_to_park()
    })
}

#[test]
fn those_that_are_idle_are_told_to_park_before_those_that_are_busy() {
    let set = serving();
    let (idle, busy) = (idle(&set), set.enter("busy"));
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(Arc::clone(&alarm));
    let mut context = Context::from_waker(&waker);
    let mut told = Box::pin(idle.told_to_park());
    assert!(told.as_mut().poll(&mut context).is_pending());
    assert!(!idle.is_told_to_park() && !busy.is_told_to_park());
    busy.served();
    set.collect_idle(&thread::current());
    assert!(idle.is_told_to_park() && is_served_on(&busy));
    let waiting = Arc::clone(&set);
    let never = Instant::now() + Duration::from_secs(3600);
    let wait = thread::spawn(move || waiting.wait_idle(never));
    until(|| alarm.0.load(Ordering::SeqCst) > 0);
    assert!(told.as_mut().poll(&mut context).is_ready());
    idle.park(socket(), Client::new(1, 0));
    // Without waiting for those that are busy.
    until(|| wait.is_finished());
    assert!(is_served_on(&busy));
    set.collect(None);
    assert!(busy.is_told_to_park());
    busy.park(socket(), Client::new(2, 0));
    let sent = send_parcels(&set, 1).expect("they are sent");
    assert_eq!(sent, ["idle", "busy"]);
}

/// Whoever is woken for nothing gets slower by it.
#[test]
fn those_that_are_busy_are_not_woken_while_the_idle_go_ahead() {
    let alarms: [Arc<Alarm>; 2] = Default::default();
    let wakers = alarms.clone().map(Waker::from);
    let mut contexts = wakers.each_ref().map(Context::from_waker);
    let set = serving();
    let (busy, idle) = (set.enter("busy"), idle(&set));
    let mut told = [Box::pin(busy.told_to_park()), Box::pin(idle.told_to_park())];
    for (told, context) in told.iter_mut().zip(&mut contexts) {
        assert!(told.as_mut().poll(context).is_pending());
    }
    // On a slow machine the busy one may be taken for idle.
    for _ in 0..1000 {
        busy.served();
        set.collect_idle(&thread::current());
        if set.state().awaited == 1 {
            break;
        }
    }
    set.wait_idle(Instant::now());
    assert_eq!(alarms.each_ref().map(|alarm| alarm.0.load(Ordering::SeqCst)), [0, 1]);
    set.collect(None);
    assert!(alarms.iter().all(|alarm| alarm.0.load(Ordering::SeqCst) == 1));
}

#[test]
fn those_that_are_idle_are_waited_for_until_the_limit_or_an_abort() {
    let set = serving();
    let ticket = idle(&set);
    // Where nobody listens there is nothing to wait for.
    set.collect_idle(&thread::current());
    set.wait_idle(soon());
    assert_eq!(set.state().mode, Mode::Serving);
    assert!(!ticket.is_told_to_park());
    set.collect_idle(&thread::current());
    assert_eq!(set.state().mode, Mode::CollectingIdle);
    set.wait_idle(Instant::now());
    let waiting = Arc::clone(&set);
    let never = Instant::now() + Duration::from_secs(3600);
    let wait = thread::spawn(move || waiting.wait_idle(never));
    until(|| set.changed.total_listeners() == 1);
    set.interrupt();
    until(|| wait.is_finished());
    set.take_back(true);
    set.release();
    assert!(!ticket.is_told_to_park());
}

/// Where nobody else says that this process serves.
#[test]
fn a_set_that_is_opened_gives_what_was_parked() {
    let set = Shared::default();
    let mut parked = Parked::new();
    park(&set, 1, 0, &mut parked);
    assert!(set.try_arrival().is_none());
    set.open();
    assert!(take_all(&set).into_iter().eq(parked));
}

#[test]
fn a_drain_waits_for_those_that_leave_and_for_no_others() {
    let set = serving::<Client>();
    let (stays, leaves) = (set.enter("stays"), set.enter("leaves"));
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(Arc::clone(&alarm));
    let mut context = Context::from_waker(&waker);
    let mut told = Box::pin(leaves.told_to_leave());
    assert!(told.as_mut().poll(&mut context).is_pending());
    assert!(!leaves.is_told_to_leave() && !set.is_leaving());

    set.tell_to_leave();
    assert_eq!(alarm.0.load(Ordering::SeqCst), 1);
    assert!(told.as_mut().poll(&mut context).is_ready());
    assert!(told.as_mut().poll(&mut context).is_ready(), "it may be polled again");
    assert!(set.is_leaving() && !stays.is_told_to_park(), "requests are served");
    let waiting = Arc::clone(&set);
    let wait = thread::spawn(move || waiting.wait_left(Instant::now(), soon()));
    assert!(!wait.is_finished());
    drop(leaves);
    wait.join().expect("it is over");
    assert_eq!(set.live(), 1);

    // One that comes now, and cannot be carried once it has begun, is kept for the next process.
    let new = set.enter("new");
    assert!(new.is_told_to_leave());
    new.park(socket(), Client::new(1, 0));
    assert!(set.try_arrival().is_none());
    set.take_back(true);
    set.release();
    assert!(!set.is_leaving() && !stays.is_told_to_leave());
    assert_eq!(set.try_arrival().expect("it has come back").state.number, 1);
}

#[test]
fn who_does_not_leave_is_waited_for_up_to_the_grace() {
    let set = Arc::new(Connections::<Client>::new().leave_grace(Duration::from_millis(20)));
    set.release();
    let ticket = set.enter("hangs");
    drop(ticket.told_to_leave());
    set.tell_to_leave();
    let begun = Instant::now();
    set.wait_left(Instant::now(), begun + LONG);
    assert!(begun.elapsed() >= Duration::from_millis(20) && begun.elapsed() < LONG);
    set.wait_left(Instant::now(), Instant::now());
    // An interrupt ends the wait, and so does the word that it can be carried after all.
    let set = Arc::new(Connections::<Client>::new().leave_grace(LONG));
    set.release();
    let ticket = set.enter("hangs");
    drop(ticket.told_to_leave());
    set.tell_to_leave();
    set.interrupt();
    set.wait_left(Instant::now(), Instant::now() + LONG);
    set.release();
    set.tell_to_leave();
    #[cfg(feature = "http")]
    ticket.set_leaves(false);
    #[cfg(not(feature = "http"))]
    drop(ticket);
    set.wait_left(Instant::now(), Instant::now() + LONG);
}

#[test]
fn a_handler_without_a_pass_is_waited_for_while_others_park() {
    let set = serving::<Client>();
    let (silent, first, second) = (set.enter("silent"), set.enter("first"), set.enter("second"));
    set.collect(None);
    let begun = Instant::now();
    let waiting = Arc::clone(&set);
    let wait = thread::spawn(move || waiting.wait_parked(begun + LONG));
    first.park(socket(), Client::new(1, 0));
    second.park(socket(), Client::new(2, 0));
    assert_eq!(wait.join().expect("it is over"), ["silent"]);
    assert!(begun.elapsed() < LONG, "not until the deadline");
    drop(silent);
    #[cfg(feature = "tokio")]
    assert_waits_over(&set);
}

/// Once another process serves, nobody waits for this one.
#[cfg(feature = "tokio")]
fn assert_waits_over(set: &Arc<Connections<Client>>) {
    let ticket = set.enter("busy");
    let waiting = Arc::clone(set);
    let wait = thread::spawn(move || waiting.wait_over(Instant::now() + LONG));
    drop(ticket);
    wait.join().expect("it is over");
}

const LONG: Duration = Duration::from_secs(60);

/// Such a handler may wait for nothing else: its client has said all that it says.
#[test]
fn a_handler_that_was_told_to_leave_is_woken_when_the_swap_is_undone() {
    let set = serving::<Client>();
    let ticket = set.enter("client");
    let (alarm, mut told) = (Arc::new(Alarm::default()), ticket.told_to_park());
    let waker = Waker::from(Arc::clone(&alarm));
    set.tell_to_leave();
    assert!(Pin::new(&mut told).poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(alarm.0.load(Ordering::SeqCst), 0);
    set.take_back(true);
    set.release();
    assert_eq!(alarm.0.load(Ordering::SeqCst), 1);
    assert!(!ticket.is_told_to_leave());
}

#[test]
fn a_drain_waits_for_no_connection_that_had_to_leave_and_has_not() {
    let set = serving::<Client>();
    let leaving = set.enter("leaving");
    let _told = leaving.told_to_leave();
    set.collect(None);
    // One of them is not interrupted by other processes.
    let waits = (0..5).map(|_| {
        let begun = Instant::now();
        assert_eq!(set.wait_parked(begun + LONG), ["leaving"]);
        begun.elapsed()
    });
    assert!(waits.min() < Some(drive::PARK_GRACE), "it was waited for");
}
