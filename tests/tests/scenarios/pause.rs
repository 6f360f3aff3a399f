//! The limit of the pause, in each phase in which it may pass, and in those in which it may not.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use handoff::frame::{read_message, write_message};
use handoff::protocol::{Capabilities, HandoffId, Message, PROTO_MAX, PROTO_MIN, Side};
use handoff::supervisor::{
    Candidate, Cause, Failed, HandoffOutcome, IncumbentFate, Paired, PauseStart, Phase, Progress,
};
use handoff::{Phase as SwapPhase, Session, SpawnSpec, Supervisor};
use handoff_tests::fixture::NAP;
use handoff_tests::harness::{Client, Cluster, Peer, TIMEOUT};

/// All that the observer of a supervisor was told, in order.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Progress>>>);

impl Told {
    fn by(cluster: &mut Cluster) -> Self {
        let told = Self::default();
        let hears = told.clone();
        cluster.supervise(|supervisor| {
            supervisor.with_observer(move |progress: &Progress| hears.all().push(progress.clone()))
        });
        told
    }

    fn all(&self) -> MutexGuard<'_, Vec<Progress>> {
        self.0.lock().expect("no panic")
    }

    /// When the gate closed, since the swap began.
    fn gate_closed(&self) -> Duration {
        let closed = |progress: &Progress| match progress {
            Progress::GateClosed { elapsed, .. } => Some(*elapsed),
            _ => None,
        };
        let all = self.all();
        let mut closed = all.iter().filter_map(closed);
        let first = closed.next().expect("the incumbent told of it");
        assert_eq!(closed.next(), None, "the gate closes once");
        first
    }

    /// When a phase was entered, since the swap began.
    fn entered(&self, wanted: SwapPhase) -> Option<Duration> {
        self.all().iter().find_map(|progress| match progress {
            Progress::Entered { phase, elapsed, .. } if *phase == wanted => Some(*elapsed),
            _ => None,
        })
    }

    /// From the closing of the gate until the supervisor gave the swap up.
    fn paused(&self) -> Duration {
        let undone = [SwapPhase::EndingSuccessor, SwapPhase::RollingBack];
        let undone = undone.into_iter().filter_map(|phase| self.entered(phase)).min();
        undone.expect("it was given up") - self.gate_closed()
    }

    /// The limit gave the swap up in that phase, and neither sooner nor much later.
    fn assert_too_long(&self, failed: &Failed, at: SwapPhase, limit: Duration) {
        assert_cause(failed, at, limit, PauseStart::GateClosed);
        assert_eq!(failed.incumbent, SERVING, "{failed}");
        let paused = self.paused();
        assert!(limit <= paused && paused < limit + TIMEOUT, "{paused:?}");
    }
}

fn assert_cause(failed: &Failed, at: SwapPhase, limit: Duration, since: PauseStart) {
    assert_eq!(failed.cause, Cause::PauseTooLong { limit, phase: at, since }, "{failed}");
    let words = failed.to_string();
    let told =
        format!("clients waited for {limit:?}, the limit of the pause, and the swap was {at}");
    assert!(words.contains(&told) && words.contains("raise the limit"), "{words}");
}

/// A successor whose swap may take ten minutes, and its pause no longer than that.
fn spec(cluster: &mut Cluster, limit: Duration, faults: &[&str]) -> SpawnSpec {
    let (deadline, pause_limit) = (Duration::from_secs(600), Some(limit));
    SpawnSpec { deadline, pause_limit, ..cluster.successor(faults).spec() }
}

fn swap(cluster: &mut Cluster, limit: Duration, faults: &[&str]) -> Result<(), Failed> {
    let spec = spec(cluster, limit, faults);
    match cluster.supervisor.perform_handoff(spec).expect("it can be begun") {
        HandoffOutcome::Committed(committed) => {
            cluster.commit(committed);
            Ok(())
        }
        HandoffOutcome::Failed(failed) => Err(failed),
    }
}

/// Clients are served again, nothing is lost, and the next swap commits.
fn assert_sound(cluster: Cluster, serves: u32) {
    cluster.wait_for_progress();
    assert_eq!(cluster.ask("pid"), serves.to_string());
    cluster.assert_sound();
}

#[test]
fn a_request_that_does_not_end_makes_nobody_wait_for_longer_than_the_limit() {
    let mut cluster = Cluster::start();
    let (told, old) = (Told::by(&mut cluster), cluster.serving());
    let spec = spec(&mut cluster, SHORT, &[]);
    let session = cluster.supervisor.pair(spec).expect("both say hello");
    let session = session.warm().expect("it warms up");
    let mut client = Client::connect(cluster.address()).expect("it accepts");
    let nap = thread::spawn(move || client.ask("nap 8000").map_err(|error| error.to_string()));
    cluster.wait_struck(NAP);
    let failed = session.prepare_and_seal().expect_err("a request is inside");
    told.assert_too_long(&failed, SwapPhase::Draining, SHORT);
    assert!(!nap.is_finished(), "the request was waited for");
    // It is answered all the same.
    assert_eq!(nap.join().expect("no panic"), Ok(old.to_string()));
    assert_sound(cluster, old);
}

#[test]
fn a_seal_that_is_slow_is_undone() {
    let mut cluster = Cluster::start_with(&["seal=slow:12000"]);
    let (told, old) = (Told::by(&mut cluster), cluster.serving());
    let failed = swap(&mut cluster, LONG, &[]).expect_err("its seal is slow");
    told.assert_too_long(&failed, SwapPhase::Sealing, LONG);
    cluster.assert_struck("seal", 1);
    assert_sound(cluster, old);
}

#[test]
fn an_opening_that_is_slow_is_ended() {
    let mut cluster = Cluster::start();
    let (told, old) = (Told::by(&mut cluster), cluster.serving());
    let failed = swap(&mut cluster, LONG, &["open=slow:120000"]).expect_err("it opens for long");
    told.assert_too_long(&failed, SwapPhase::Opening, LONG);
    cluster.assert_struck("open", 1);
    assert_sound(cluster, old);
}

/// A limit that `slow` exceeds, and that the pause itself does not.
fn commits(of_incumbent: &[&str], of_successor: &[&str], slow: &str) {
    let mut cluster = Cluster::start_with(of_incumbent);
    let told = Told::by(&mut cluster);
    swap(&mut cluster, GENEROUS, of_successor).expect("what is slow is not in the pause");
    cluster.assert_struck(slow, 1);
    let (begun, closed) = (told.entered(SwapPhase::Draining), told.gate_closed());
    let committing = told.entered(SwapPhase::Committing).expect("it commits");
    assert!(begun <= Some(closed) && closed <= committing);
    cluster.assert_sound();
}

#[test]
fn a_warm_up_and_a_settling_do_not_count() {
    thread::scope(|scope| {
        scope.spawn(|| commits(&[], &["warm=slow:12000"], "warm"));
        scope.spawn(|| commits(&["settle=slow:12000"], &[], "settle"));
    });
}

#[test]
fn an_admission_that_is_slow_does_not_count() {
    commits(&[], &["admit=slow:12000"], "admit");
}

/// Whatever phase `reach` brings a session to, the limit ends the swap without a call of its owner.
fn held<P: Phase>(
    at: SwapPhase,
    reach: impl FnOnce(Session<Paired>) -> Result<Session<P>, Failed>,
    next: impl FnOnce(Session<P>) -> Failed,
) {
    let mut cluster = Cluster::start();
    let (told, old) = (Told::by(&mut cluster), cluster.serving());
    let spec = spec(&mut cluster, LONG, &[]);
    let paired = cluster.supervisor.pair(spec).expect("both say hello");
    let session = reach(paired).expect("the limit is far");
    let held = Instant::now();
    cluster.wait_for_progress();
    assert!(held.elapsed() < LONG + TIMEOUT, "{at}: {:?}", held.elapsed());
    told.assert_too_long(&next(session), at, LONG);
    assert_sound(cluster, old);
}

#[test]
fn a_session_that_is_held_between_two_transitions_is_rolled_back_without_a_call() {
    thread::scope(|scope| {
        scope.spawn(|| {
            let reach = |paired: Session<Paired>| paired.warm()?.prepare();
            held(SwapPhase::Prepared, reach, |session| session.seal().expect_err("too late"));
        });
        scope.spawn(|| {
            let reach = |paired: Session<Paired>| paired.warm()?.prepare_and_seal();
            held(SwapPhase::Sealed, reach, |session| session.begin().expect_err("too late"));
        });
        scope.spawn(|| {
            let reach = |paired: Session<Paired>| paired.warm()?.prepare_and_seal()?.begin();
            held(SwapPhase::Ready, reach, |session| session.commit().expect_err("too late"));
        });
    });
}

/// Swaps, and returns the failure of a swap whose limit passes while the caller's code waits.
fn stuck_in(
    limit: Duration,
    change: impl FnOnce(Supervisor, Stuck) -> Supervisor,
) -> (Cluster, Failed) {
    let mut cluster = Cluster::start();
    let (entered, entering) = mpsc::channel();
    let (let_go, letting_go) = mpsc::channel();
    let wait = move || {
        let _ = entered.send(());
        let _: Result<(), _> = letting_go.recv();
    };
    cluster.supervise(|supervisor| change(supervisor, Mutex::new(Box::new(wait))));
    let spec = spec(&mut cluster, limit, &[]);
    let outcome = thread::scope(|scope| {
        let swap = scope.spawn(|| cluster.supervisor.perform_handoff(spec));
        entering.recv_timeout(TIMEOUT).expect("the caller's code is reached");
        cluster.wait_for_progress();
        assert!(!swap.is_finished(), "the caller's code has not returned");
        drop::<mpsc::Sender<()>>(let_go);
        swap.join().expect("no panic")
    });
    match outcome.expect("it was begun") {
        HandoffOutcome::Failed(failed) => (cluster, failed),
        HandoffOutcome::Committed(committed) => panic!("{committed:?}"),
    }
}

/// Code of the caller that returns once the test lets it go on.
type Stuck = Mutex<Box<dyn FnMut() + Send>>;

#[test]
fn a_policy_that_does_not_return_holds_no_client_past_the_limit() {
    let (cluster, failed) = stuck_in(LONG, |supervisor, stuck| {
        supervisor.with_ready_policy(move |_: &Candidate<'_>| {
            stuck.lock().expect("no panic")();
            Ok(())
        })
    });
    assert_cause(&failed, SwapPhase::Opening, LONG, PauseStart::GateClosed);
    assert_eq!(failed.incumbent, SERVING, "{failed}");
    let old = cluster.serving();
    assert_sound(cluster, old);
}

/// The word that the gate has closed lies unread, until the thread of the deadline reads it.
#[test]
fn an_observer_that_does_not_return_from_the_drain_holds_no_client_past_the_limit() {
    let (cluster, failed) = stuck_in(SHORT, |supervisor, stuck| {
        supervisor.with_observer(move |progress: &Progress| {
            if matches!(progress, Progress::Entered { phase: SwapPhase::Draining, .. }) {
                stuck.lock().expect("no panic")();
            }
        })
    });
    let Cause::PauseTooLong { limit: SHORT, phase, since: PauseStart::GateClosed } = failed.cause
    else {
        panic!("{failed}")
    };
    assert!((SwapPhase::Draining..=SwapPhase::Sealed).contains(&phase), "{failed}");
    assert_eq!(failed.incumbent, SERVING, "{failed}");
    let old = cluster.serving();
    assert_sound(cluster, old);
}

/// It tells the supervisor that asked, while the drain still waits, and no other one.
#[test]
fn the_closing_of_the_gate_is_told_at_once_to_the_supervisor_that_asked_for_it() {
    for asks in [true, false] {
        let cluster = Cluster::start_with(&["drain=linger:60000"]);
        let id = HandoffId::new();
        let mut peer = Peer::greeted(&cluster.control(), id);
        let watch = Message::WatchGate { handoff_id: id };
        let prepare = Message::PrepareHandoff {
            handoff_id: id,
            successor_pid: 0,
            deadline_ms: 600_000,
            drain_grace_ms: 600_000,
        };
        peer.say(&[watch, prepare][usize::from(!asks)..]);
        let first = peer.read().expect("the drain goes on");
        assert_eq!(first == Message::GateClosed { handoff_id: id }, asks, "{first:?}");
        // It waits for the interrupt.
        cluster.wait_struck("drain");
        peer.say(&[Message::ResumeAfterAbort { handoff_id: id }]);
        assert!(peer.is_heard());
        drop(peer);
        cluster.wait_for_progress();
        cluster.assert_sound();
    }
}

/// An incumbent that never ends its drain. It hears a supervisor, and answers as `answer` says.
struct Drains {
    cluster: Cluster,
    heard: Receiver<(Instant, Message)>,
}

impl Drains {
    fn with(
        capabilities: Capabilities,
        answer: impl Fn(&Message) -> Option<(Duration, Message)> + Send + Sync + 'static,
    ) -> Self {
        let mut cluster = Cluster::start();
        let control = cluster.state().join("run/stand-in");
        let listener = UnixListener::bind(&control).expect("it can be bound");
        let supervisor = Supervisor::new(&control).expect("the path is short");
        cluster.supervise(|_| supervisor);
        let (tell, heard) = mpsc::channel();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (tell, answer) = (tell.clone(), Arc::clone(&answer));
                thread::spawn(move || {
                    let _ = converse(stream, capabilities, &*answer, &|message| {
                        let _ = tell.send((Instant::now(), message));
                    });
                });
            }
        });
        Self { cluster, heard }
    }

    /// Swaps, and returns the failure with the supervisor's messages until then.
    fn swap(&mut self, limit: Duration) -> (Failed, Vec<(Instant, Message)>) {
        // It warms up, and is not told to open anything.
        let mut successor = self.cluster.successor(&["ready=no-fetch"]);
        successor.options.control = self.cluster.state().join("run/stand-in");
        let (deadline, pause_limit) = (Duration::from_secs(600), Some(limit));
        let spec = SpawnSpec { deadline, pause_limit, ..successor.spec() };
        match self.cluster.supervisor.perform_handoff(spec).expect("it can be begun") {
            HandoffOutcome::Failed(failed) => (failed, self.heard.try_iter().collect()),
            HandoffOutcome::Committed(committed) => panic!("{committed:?}"),
        }
    }
}

/// Says hello, and echoes each heartbeat, as an incumbent does.
fn converse(
    mut stream: UnixStream,
    capabilities: Capabilities,
    answer: &dyn Fn(&Message) -> Option<(Duration, Message)>,
    tell: &dyn Fn(Message),
) -> handoff::Result<()> {
    let hello = Message::Hello {
        role: Side::Incumbent,
        pid: std::process::id(),
        build_id: b"stand-in".to_vec(),
        proto_min: PROTO_MIN,
        proto_max: PROTO_MAX,
        capabilities,
    };
    write_message(&mut stream, PROTO_MAX, &hello)?;
    loop {
        let (version, message) = read_message(&mut stream)?;
        let said = match &message {
            Message::Heartbeat { .. } => Some((Duration::ZERO, message.clone())),
            message => answer(message),
        };
        if !matches!(message, Message::Heartbeat { .. } | Message::HelloAck { .. }) {
            tell(message);
        }
        if let Some((after, said)) = said {
            thread::sleep(after);
            write_message(&mut stream, version, &said)?;
        }
    }
}

fn names(heard: &[(Instant, Message)]) -> Vec<&'static str> {
    heard.iter().map(|(_, message)| message.name()).collect()
}

#[test]
fn an_incumbent_that_cannot_say_when_its_gate_closes_is_not_asked_and_all_of_its_drain_counts() {
    let mut incumbent = Drains::with(Capabilities::default(), |_| None);
    let (failed, heard) = incumbent.swap(LONG);
    assert_cause(&failed, SwapPhase::Draining, LONG, PauseStart::DrainRequested);
    assert!(failed.to_string().contains("does not say when its gate closes"), "{failed}");
    assert_eq!(failed.incumbent, SERVING, "{failed}");
    assert_eq!(names(&heard), ["PrepareHandoff", "ResumeAfterAbort"]);
    // It may have read the request late.
    assert_paused(&heard, LONG / 2);
}

#[test]
fn an_incumbent_that_can_is_asked_before_it_drains_and_the_limit_counts_from_its_word() {
    let serves_on = Duration::from_secs(2);
    let can = Capabilities { reserved: 1 << 2 };
    let mut incumbent = Drains::with(can, move |message| match *message {
        Message::PrepareHandoff { handoff_id, .. } => {
            Some((serves_on, Message::GateClosed { handoff_id }))
        }
        _ => None,
    });
    let (failed, heard) = incumbent.swap(SHORT);
    assert_cause(&failed, SwapPhase::Draining, SHORT, PauseStart::GateClosed);
    assert_eq!(names(&heard), ["WatchGate", "PrepareHandoff", "ResumeAfterAbort"]);
    assert_paused(&heard, serves_on + SHORT);
}

/// So long at least passed between the request to drain and the undo.
fn assert_paused(heard: &[(Instant, Message)], least: Duration) {
    let at = |name| heard.iter().find(|(_, message)| message.name() == name).map(|(at, _)| *at);
    let paused =
        at("ResumeAfterAbort").zip(at("PrepareHandoff")).map(|(undone, asked)| undone - asked);
    assert!(paused.is_some_and(|paused| paused >= least), "{paused:?}");
}

const SERVING: IncumbentFate = IncumbentFate::Serving;
const SHORT: Duration = Duration::from_millis(600);
/// A loaded machine comes to the phase that is looked at in that time. No process may be silent for
/// as long.
const LONG: Duration = Duration::from_secs(4);
/// More than the pause of a loaded machine.
const GENEROUS: Duration = Duration::from_secs(10);
