use super::*;
use crate::record::{End, Phase, SwapEvent};
use crate::status::{DaemonState, DaemonStatus, LastSwap, ProbationStatus, SwapStatus};

fn served() -> Party {
    Party {
        binary: "/opt/notesd".into(),
        blake3: "0123456789abcdef0123".into(),
        build: Some("7".into()),
        pid: Some(41),
        generation: Some(3),
    }
}

fn rolled_back() -> SwapRecord {
    let steps = [
        (0, Phase::Paired),
        (2_000, Phase::Draining),
        (3_000, Phase::Sealing),
        (14_500, Phase::RolledBack),
    ];
    SwapRecord {
        id: "0123456789abcdef0123456789abcdef".into(),
        begun_ms: 1_795_000_000_000,
        trigger: Trigger::Operator { uid: 0, pid: 9 },
        dry_run: false,
        one_way: false,
        from: served(),
        to: Party { build: Some("8".into()), pid: Some(42), generation: None, ..served() },
        listeners: Vec::new(),
        steps: steps
            .map(|(at_us, phase)| SwapEvent { at_us, what: SwapEventKind::Entered { phase } })
            .into(),
        end: Some(End {
            outcome: Outcome::RolledBack,
            took_us: 15_000,
            admitted_us: None,
            cause: Some("its health check failed".into()),
            carried: vec!["clients: 8 connections, 64 bytes, taken".into()],
        }),
        probation: None,
    }
}

#[test]
fn a_swap_is_shown_with_its_cause_its_pause_and_who_serves() {
    let text = record(&rolled_back());
    for line in [
        "swap        0123456789abcdef0123456789abcdef",
        "begun       2026-11-18T11:06:40Z",
        "by          handoff swap, user 0, process 9",
        "from        /opt/notesd, build 7, process 41, generation 3, blake3 0123456789abcdef",
        "outcome     rolled back: the old process serves, and has confirmed it",
        "cause       its health check failed",
        "pause       12.500 ms",
        "carried     clients: 8 connections, 64 bytes, taken",
        " 14.500 ms  rolled back",
    ] {
        assert!(text.lines().any(|shown| shown.trim_end() == line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn the_pause_of_a_swap_that_may_be_one_way_lasts_until_its_successor_admits() {
    let mut swap = rolled_back();
    swap.steps[3].what = SwapEventKind::Entered { phase: Phase::Committed };
    let end = swap.end.as_mut().unwrap();
    (end.outcome, end.admitted_us) = (Outcome::Committed, Some(22_500));
    assert_eq!(swap.pause_us(), Some((2_000, 22_500)));
}

#[test]
fn the_pause_begins_when_the_gate_closes_where_the_old_process_tells() {
    let mut swap = rolled_back();
    swap.steps.insert(2, SwapEvent { at_us: 2_600, what: SwapEventKind::GateClosed });
    assert_eq!(swap.pause_us(), Some((2_600, 14_500)));
    let text = record(&swap);
    for line in ["pause       11.900 ms", "  2.600 ms  the gate is closed: clients wait"] {
        assert!(text.lines().any(|shown| shown.trim_end() == line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn the_history_has_a_line_for_each() {
    let line = entry(&Entry::Swap(rolled_back())).unwrap();
    assert_eq!(
        line,
        "2026-11-18T11:06:40Z  swap 01234567  rolled back  pause 12.500 ms  build 7 -> build 8  (its health check failed)"
    );
    let kind = DaemonEventKind::Died { status: "killed by SIGKILL".into() };
    let event = DaemonEvent {
        at_ms: 1_795_000_000_000,
        kind,
        daemon: served(),
        args: Vec::new(),
        listeners: None,
    };
    let line = entry(&Entry::Daemon(event)).unwrap();
    assert!(line.starts_with("2026-11-18T11:06:40Z  daemon DIED (killed by SIGKILL)  /opt/notesd"));
}

#[test]
fn the_status_says_who_serves_and_who_holds_a_drain_up() {
    let mut shown = Status {
        supervisor: SupervisorStatus {
            pid: 1,
            version: "0.1.0".into(),
            config: "/etc/notes.toml".into(),
            since_ms: 0,
        },
        daemon: DaemonStatus {
            state: DaemonState::Serving,
            party: Some(served()),
            since_ms: Some(1_795_000_000_000),
            previous: Some(served()),
            one_way: true,
            failures: 0,
            failed_checks: 0,
            last_failure: None,
            starts_in_ms: None,
        },
        swap: Some(SwapStatus {
            id: "0123456789abcdef".into(),
            to: served(),
            one_way: true,
            phase: "draining".into(),
            elapsed_ms: 61_000,
            gate_closed_us: Some(25_100),
            waits_for: Some("10.0.0.1:4711 and 3 more".into()),
        }),
        probation: None,
        last_swap: None,
        listeners: vec!["http at 127.0.0.1:7000".into()],
        warnings: vec!["the history lacks 3 lines".into()],
    };
    let text = status(&shown);
    for line in [
        "daemon      serving since 2026-11-18T11:06:40Z",
        "before it   /opt/notesd (blake3 0123456789abcdef); no way back to it is promised",
        "swap        01234567 is draining, 1m 1s after it began, allowed to be one-way",
        "            the gate closed at +25.100 ms: clients wait",
        "            the drain waits for 10.0.0.1:4711 and 3 more",
        "WARNING     the history lacks 3 lines",
    ] {
        assert!(text.lines().any(|shown| shown.trim_end() == line), "{line}\nis not in\n{text}");
    }
    shown.daemon.state = DaemonState::Dead;
    (shown.daemon.failures, shown.daemon.starts_in_ms) = (4, Some(800));
    (shown.daemon.since_ms, shown.swap) = (None, None);
    shown.last_swap = Some(LastSwap {
        id: "0123456789abcdef".into(),
        begun_ms: 1_795_000_000_000,
        one_way: true,
        outcome: Outcome::Lost,
        cause: Some("it died".into()),
        undid: None,
    });
    shown.probation = Some(ProbationStatus {
        swap: "0123456789abcdef".into(),
        left_ms: 12_000,
        failures: 2,
        last_failure: Some("status 503".into()),
    });
    let text = status(&shown);
    for line in [
        "daemon      dead; it is started in 800ms; died 4 times in a row",
        "last swap   01234567 at 2026-11-18T11:06:40Z: lost, allowed to be one-way: it died",
        "probation   of swap 01234567, for 12s more; 2 checks in a row have failed: status 503",
    ] {
        assert!(text.lines().any(|shown| shown.trim_end() == line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn who_holds_a_drain_up_is_named_as_far_as_it_is_known() {
    assert_eq!(waiting(3, &[], 0), "3 requests or connections");
    assert_eq!(waiting(9, &["a".into(), "b".into()], 7), "a, b and 7 more");
}
