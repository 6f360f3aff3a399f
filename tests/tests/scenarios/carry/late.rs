//! Requests that take longer than the grace of a drain.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use handoff::Session;
use handoff::supervisor::{IncumbentFate, LateConnections, Prepared, Progress};
use handoff_tests::fixture::NAP;
use handoff_tests::harness::{Cluster, LIMIT, eventually};

use super::{Fleet, Line};

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
    spec.drain_grace = Duration::from_millis(50);
    let session = cluster.supervisor.pair(spec.spec()).expect("both say hello");
    let session = session.warm().expect("it warms up");
    let mut line = Line::open(cluster);
    let before = cluster.struck(NAP, None);
    line.send(&format!("nap {busy}\n"));
    let begun = || (cluster.struck(NAP, None) > before).then_some(());
    eventually("the request is begun", LIMIT, begun);
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
    let mut fleet = Fleet::open(&cluster);
    let (mut busy, session) = prepared_while_busy(&mut cluster, &[], 60_000);
    let committed = session.seal().and_then(|sealed| sealed.begin()?.commit());
    cluster.commit(committed.expect("nobody waits for it"));
    let begun = Instant::now();
    busy.assert_closed();
    // The old process gives it longer than that to end by itself.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(cluster.carried.late.connections, [busy.name()]);
    assert_eq!(cluster.carried.sets[0].count, fleet.count() as u64);
    fleet.assert_served(&cluster);
    fleet.assert_sound(cluster, &[]);
}

#[test]
fn a_late_connection_that_may_finish_has_its_reply_from_the_old_process() {
    let mut cluster = Cluster::start_carrying(&["carry=finish"]);
    let old = cluster.serving().to_string();
    let mut fleet = Fleet::open(&cluster);
    let (mut busy, session) = prepared_while_busy(&mut cluster, &[], 1500);
    let committed = session.seal().and_then(|sealed| sealed.begin()?.commit());
    cluster.commit(committed.expect("nobody waits for it"));
    fleet.assert_served(&cluster);
    assert_eq!(busy.reply(), old);
    busy.assert_closed();
    fleet.assert_sound(cluster, &[]);
}

#[test]
fn a_late_connection_goes_on_where_the_swap_is_given_up() {
    for late in ["carry=close", "carry=finish"] {
        let mut cluster = Cluster::start_carrying(&[late]);
        let serving = cluster.serving().to_string();
        let mut fleet = Fleet::open(&cluster);
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
        fleet.idle.extend([of_the_drained, of_the_sealed]);
        fleet.assert_served(&cluster);
        fleet.assert_sound(cluster, &[]);
    }
}

#[test]
fn a_late_connection_that_parks_before_all_is_sealed_is_carried() {
    let mut cluster = Cluster::start_carrying(&["seal=slow:3000"]);
    let old = cluster.serving().to_string();
    let mut fleet = Fleet::open(&cluster);
    let (busy, session) = prepared_while_busy(&mut cluster, &[], 800);
    fleet.idle.push(busy);
    let committed = session.seal().and_then(|sealed| sealed.begin()?.commit());
    cluster.commit(committed.expect("nobody waits for it"));
    cluster.assert_struck("seal", 1);
    assert_eq!(cluster.carried.sets[0].count, fleet.count() as u64);
    assert_eq!(fleet.idle.last_mut().map(Line::reply), Some(old));
    fleet.assert_served(&cluster);
    fleet.assert_sound(cluster, &[]);
}
