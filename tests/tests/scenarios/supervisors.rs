//! What the author of a supervisor may replace, and what a daemon short of means costs it.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use handoff::supervisor::{Candidate, Cause, IncumbentFate, Progress, Unfit};
use handoff_tests::harness::{Cluster, TIMEOUT, eventually};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// What an observer hears, in words.
fn heard(cluster: &mut Cluster) -> Arc<Mutex<Vec<String>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    cluster.supervise(|supervisor| {
        supervisor.with_observer(move |progress: &Progress| {
            let words = match progress {
                Progress::Entered { phase, .. } => phase.to_string(),
                Progress::Sealing { progress, .. } => format!("of {}", progress.shards_total),
                Progress::GivenUp { cause, .. } => format!("because {cause}"),
                Progress::Launched { .. } => "launched".to_owned(),
                Progress::GateClosed { .. } => "the gate closed".to_owned(),
                other => format!("{other:?}"),
            };
            hearing.lock().expect("whole").push(words);
        })
    });
    heard
}

#[test]
fn an_observer_hears_of_every_phase_in_order() {
    let mut cluster = Cluster::start();
    let heard = heard(&mut cluster);
    cluster.swap(&[]).expect("it commits");
    let mut words = std::mem::take(&mut *heard.lock().expect("whole"));
    // A successor that is warm before that is asked for passes over a phase, and how often
    // progress is told depends on how long a seal takes.
    words.retain(|word| word != "warming");
    words.dedup();
    let expected = [
        "launched",
        "paired",
        "warmed",
        "draining",
        "the gate closed",
        "sealing",
        "of 3",
        "sealed",
        "opening",
        "ready",
        "committing",
        "committed",
    ];
    assert_eq!(words, expected);

    cluster.swap(&["open=error"]).expect_err("it cannot be opened");
    let words = heard.lock().expect("whole").clone();
    let because = |word: &String| word.starts_with("because the successor gave up: ");
    let from = words.iter().position(because).expect("a cause is told");
    // The incumbent may serve again before the successor has ended.
    let end: Vec<_> = words[from + 1..].iter().filter(|word| *word != "rolling back").collect();
    assert_eq!(end, ["ending the successor", "rolled back"], "{words:?}");
    cluster.assert_sound();
}

#[test]
fn a_policy_of_the_author_s_own_decides() {
    let mut cluster = Cluster::start();
    cluster.supervise(|supervisor| {
        supervisor.with_ready_policy(|candidate: &Candidate<'_>| {
            assert_eq!(candidate.listeners, ["main"]);
            assert!(candidate.ready.healthz_ok && candidate.sealed.is_some());
            Err(Unfit::Refused("not on a Monday".into()))
        })
    });
    let failed = cluster.swap_fails(&[]);
    assert_eq!(failed.cause, Cause::Unfit(Unfit::Refused("not on a Monday".into())));
    assert_eq!(failed.incumbent, IncumbentFate::Serving);

    cluster.supervise(|supervisor| supervisor.with_ready_policy(|_: &Candidate<'_>| Ok(())));
    cluster.swap(&["ready=unhealthy"]).expect("whoever decides is content");
    cluster.assert_struck("ready", 1);
    cluster.supervise(|supervisor| supervisor.with_ready_policy(handoff::supervisor::AsSealed));
    cluster.assert_sound();
}

#[test]
fn an_observer_that_panics_stops_no_swap() {
    let mut cluster = Cluster::start();
    cluster.supervise(|supervisor| {
        supervisor.with_observer(|_: &Progress| panic!("it cannot bear to look"))
    });
    cluster.swap(&[]).expect("it commits");
    cluster.swap_fails(&["open=error"]);
    cluster.assert_sound();
}

#[test]
fn a_daemon_that_is_stopped_is_not_replaced() {
    let mut cluster = Cluster::start();
    let session = cluster.warmed(&[]);
    let incumbent = cluster.serving();
    assert_eq!(cluster.ask("stop"), "ok");
    cluster.resets_expected = true;
    eventually("it stops", TIMEOUT, || (!cluster.alive().contains(&incumbent)).then_some(()));
    let failed = session.prepare().expect_err("it was stopped on purpose");
    assert!(matches!(failed.cause, Cause::IncumbentStopped(_)), "{failed}");
    assert_eq!(failed.incumbent, IncumbentFate::Lost);
    assert!(failed.promoted.is_none(), "{failed}");
    assert_eq!(cluster.alive(), []);
    let spec = cluster.successor(&[]).spec();
    let first = cluster.supervisor.start(&spec).expect("nobody stands in its way");
    cluster.begin_anew(first);
    cluster.assert_sound();
}

#[test]
fn a_daemon_out_of_descriptors_goes_on_and_is_swapped_once_it_has_some() {
    let mut cluster = Cluster::start();
    let pid = i32::try_from(cluster.serving()).ok().and_then(Pid::from_raw);
    let limited = Rlimit { current: Some(3), ..getrlimit(Resource::Nofile) };
    let before = prlimit(pid, Resource::Nofile, limited).expect("it is a child of ours");
    // Each is accepted by the kernel, and by the daemon only once it has a descriptor for it.
    let waiting: Vec<_> = (0..20)
        .map(|_| UnixStream::connect(cluster.control()).expect("it still listens"))
        .collect();
    cluster.wait_for_progress();
    prlimit(pid, Resource::Nofile, before).expect("it is a child of ours");
    cluster.swap(&[]).expect("it accepts again");
    drop(waiting);
    cluster.assert_sound();
}
