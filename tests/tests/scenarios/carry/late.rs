//! Requests that take longer than the grace of a drain.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use handoff::Session;
use handoff::supervisor::{AbortHandle, Cause, IncumbentFate, LateConnections, Prepared, Progress};
use handoff_tests::fixture::NAP;
use handoff_tests::harness::{Cluster, TIMEOUT, eventually};

use super::{Line, OpenLines};

/// A connection that is busy for so many milliseconds while a swap is prepared, and the session
/// in which it was found late.
fn prepared_while_busy(
    cluster: &mut Cluster,
    faults: &[&str],
    busy: u32,
) -> (Line, Session<Prepared>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    cluster.supervise(|supervisor| {
        supervisor.with_observer(move |progress: &Progress| {
            if let Progress::Late { late, .. } = progress {
                hears.lock().expect("nobody panics").push(late.clone());
            }
        })
    });
    let mut spec = cluster.successor(faults);
    spec.drain_grace = GRACE;
    let session = cluster.supervisor.pair(spec.spec()).expect("both say hello");
    let session = session.warm().expect("it warms up");
    let line = busy_for(cluster, busy);
    let session = session.prepare().expect("it is not waited for");
    let late = LateConnections { connections: vec![line.name()], unnamed: 0 };
    assert_eq!(session.carry_report().late, late);
    assert_eq!(*heard.lock().expect("nobody panics"), [late]);
    assert_eq!(session.drain_report().open_conns_remaining, 1);
    (line, session)
}

#[test]
fn a_late_connection_is_named_and_told_to_close_once_another_process_serves() {
    let mut cluster = Cluster::start_carrying(&[]);
    let mut open_lines = OpenLines::open(&cluster);
    let (mut busy, session) = prepared_while_busy(&mut cluster, &[], 60_000);
    let committed = session.seal().and_then(|sealed| sealed.begin()?.commit());
    cluster.commit(committed.expect("nobody waits for it"));
    let begun = Instant::now();
    busy.assert_closed();
    // The old process gives it longer than that to end by itself.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(cluster.carried.late.connections, [busy.name()]);
    assert_eq!(cluster.carried.sets[0].count, open_lines.count() as u64);
    open_lines.assert_served(&cluster);
    open_lines.assert_sound(cluster, &[]);
}

#[test]
fn a_late_connection_that_may_finish_has_its_reply_from_the_old_process() {
    let mut cluster = Cluster::start_carrying(&["carry=finish"]);
    let old = cluster.serving().to_string();
    let mut open_lines = OpenLines::open(&cluster);
    let (mut busy, session) = prepared_while_busy(&mut cluster, &[], 1500);
    let committed = session.seal().and_then(|sealed| sealed.begin()?.commit());
    cluster.commit(committed.expect("nobody waits for it"));
    open_lines.assert_served(&cluster);
    assert_eq!(busy.reply(), old);
    busy.assert_closed();
    open_lines.assert_sound(cluster, &[]);
}

#[test]
fn a_late_connection_goes_on_where_the_swap_is_given_up() {
    for late in ["carry=close", "carry=finish"] {
        let mut cluster = Cluster::start_carrying(&[late]);
        let serving = cluster.serving().to_string();
        let mut open_lines = OpenLines::open(&cluster);
        let (mut of_the_drained, session) = prepared_while_busy(&mut cluster, &[], 1000);
        let rolled_back = session.abort("as planned");
        assert_eq!(rolled_back.incumbent, IncumbentFate::Serving);
        assert_eq!(of_the_drained.reply(), serving);
        // One that ends while the successor opens, or after.
        let (mut of_the_sealed, session) = prepared_while_busy(&mut cluster, &["health=bad"], 1000);
        let failed = session.seal().and_then(|sealed| sealed.begin()?.commit());
        let failed = failed.expect_err("it is not well");
        assert_eq!(failed.incumbent, IncumbentFate::Serving, "{failed}");
        assert_eq!(of_the_sealed.reply(), serving);
        open_lines.idle.extend([of_the_drained, of_the_sealed]);
        open_lines.assert_served(&cluster);
        open_lines.assert_sound(cluster, &[]);
    }
}

#[test]
fn a_late_connection_that_parks_before_all_is_sealed_is_carried() {
    let mut cluster = Cluster::start_carrying(&["seal=slow:3000"]);
    let old = cluster.serving().to_string();
    let mut open_lines = OpenLines::open(&cluster);
    let (busy, session) = prepared_while_busy(&mut cluster, &[], 800);
    open_lines.idle.push(busy);
    let committed = session.seal().and_then(|sealed| sealed.begin()?.commit());
    cluster.commit(committed.expect("nobody waits for it"));
    cluster.assert_struck("seal", 1);
    assert_eq!(cluster.carried.sets[0].count, open_lines.count() as u64);
    assert_eq!(open_lines.idle.last_mut().map(Line::reply), Some(old));
    open_lines.assert_served(&cluster);
    open_lines.assert_sound(cluster, &[]);
}

/// Idle connections park within it on a loaded machine too; a busy one takes longer.
const GRACE: Duration = Duration::from_millis(400);

/// What was told of a drain, by the swap's observer.
type Told = Arc<Mutex<Vec<(u32, LateConnections)>>>;

/// A supervisor that hears what its drains wait for, and gives a swap up then if it is told to.
fn hears_of_drains(cluster: &mut Cluster, abort: Option<AbortHandle>) -> Told {
    let told = Told::default();
    let hears = Arc::clone(&told);
    cluster.supervise(|supervisor| {
        supervisor.with_observer(move |progress: &Progress| {
            if let Progress::Draining { open_conns, waiting, .. } = progress {
                hears.lock().expect("nobody panics").push((*open_conns, waiting.clone()));
                abort.iter().for_each(|abort| abort.abort(waiting.to_string()));
            }
        })
    });
    told
}

/// A connection that is busy for so many milliseconds from now on.
fn busy_for(cluster: &Cluster, milliseconds: u32) -> Line {
    let (mut line, before) = (Line::open(cluster), cluster.struck(NAP, None));
    line.send(&format!("nap {milliseconds}\n"));
    let begun = || (cluster.struck(NAP, None) > before).then_some(());
    eventually("the request is begun", TIMEOUT, begun);
    line
}

#[test]
fn who_holds_a_drain_up_is_named_while_it_does() {
    let mut cluster = Cluster::start_carrying(&[]);
    let told = hears_of_drains(&mut cluster, None);
    let mut open_lines = OpenLines::open(&cluster);
    // Quick drains have nothing to tell.
    cluster.swap(&[]).expect("it commits");
    open_lines.assert_served(&cluster);
    assert_eq!(*told.lock().expect("nobody panics"), []);
    let old = cluster.serving().to_string();
    let busy = busy_for(&cluster, 3000);
    cluster.swap(&[]).expect("it commits");
    let told = told.lock().expect("nobody panics").clone();
    let waiting = LateConnections { connections: vec![busy.name()], unnamed: 0 };
    assert!((1..=3).contains(&told.len()), "about every second: {told:?}");
    assert!(told.iter().all(|told| *told == (1, waiting.clone())), "{told:?}");
    open_lines.idle.push(busy);
    assert_eq!(open_lines.idle.last_mut().map(Line::reply), Some(old));
    open_lines.assert_served(&cluster);
    open_lines.assert_sound(cluster, &[]);
}

#[test]
fn a_drain_is_given_up_by_who_sees_whom_it_waits_for() {
    let mut cluster = Cluster::start_carrying(&[]);
    let serving = cluster.serving().to_string();
    let abort = AbortHandle::new().expect("a descriptor is left");
    let told = hears_of_drains(&mut cluster, Some(abort.clone()));
    let mut open_lines = OpenLines::open(&cluster);
    let busy = busy_for(&cluster, 5000);
    let mut spec = cluster.successor(&[]);
    spec.abort = Some(abort);
    let begun = Instant::now();
    let failed = open_lines.assert_swap_fails(&mut cluster, &spec);
    assert!(begun.elapsed() < Duration::from_secs(4), "it was waited for: {:?}", begun.elapsed());
    assert_eq!(failed.cause, Cause::Requested(busy.name()), "{failed}");
    assert_eq!(told.lock().expect("nobody panics").len(), 1);
    open_lines.idle.push(busy);
    assert_eq!(open_lines.idle.last_mut().map(Line::reply), Some(serving));
    open_lines.assert_sound(cluster, &[]);
}
