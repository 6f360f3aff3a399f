use std::time::Duration;

use super::{foreign, messages, ours};
use crate::machine::AfterDrain;
use crate::machine::cause::{Cause, IncumbentFate, PauseStart, Unfit};
use crate::machine::phase::Phase;
use crate::machine::supervisor::{
    Command, Effect, Event, Incumbent, Machine, Promotion, State, Successor, TimeLimit,
};
use crate::protocol::Message;

fn cause() -> Cause {
    Cause::Requested("first".into())
}

fn states() -> Vec<State> {
    vec![
        State::Paired,
        State::Warming,
        State::Warmed,
        State::Draining(AfterDrain::Wait),
        State::Draining(AfterDrain::Seal),
        State::Prepared,
        State::Sealing,
        State::Sealed,
        State::Opening,
        State::Ready,
        State::Committing,
        State::Committed,
        State::Ending(cause()),
        State::Confirming(cause()),
        State::Promoting(Promotion::Warming, cause()),
        State::Promoting(Promotion::Opening, cause()),
        State::Promoting(Promotion::Committing, cause()),
        State::RolledBack(IncumbentFate::Serving, cause()),
        State::Promoted(cause()),
    ]
}

/// A successor is warm once that was waited for.
fn successor_in(state: &State) -> Successor {
    match state {
        State::Paired | State::Warming | State::Promoting(Promotion::Warming, _) => {
            Successor::Starting
        }
        _ => Successor::Warm,
    }
}

fn step_with(state: &State, incumbent: Incumbent, event: Event) -> (Machine, Vec<Effect>) {
    let mut machine = Machine {
        handoff_id: ours(),
        state: state.clone(),
        incumbent,
        successor: successor_in(state),
        is_one_way: false,
    };
    let effects = machine.on(event);
    (machine, effects)
}

fn step(state: &State, event: Event) -> (Machine, Vec<Effect>) {
    step_with(state, Incumbent::Connected, event)
}

const FORWARD: usize = 11;

fn is_forward(state: &State) -> bool {
    states()[..FORWARD].contains(state)
}

fn is_over(state: &State) -> bool {
    matches!(state, State::Committed | State::RolledBack(..) | State::Promoted(_))
}

fn may_hold_the_lock(state: &State) -> bool {
    use Promotion::{Committing, Opening};
    matches!(
        state,
        State::Opening
            | State::Ready
            | State::Committing
            | State::Promoting(Opening | Committing, _)
    )
}

/// Whether this is the one way back from `state`; gives the cause.
fn rolled_back(state: &State, (machine, effects): &(Machine, Vec<Effect>)) -> Option<Cause> {
    match &machine.state {
        State::Ending(cause)
            if may_hold_the_lock(state) && machine.successor != Successor::Dead =>
        {
            let asked = (machine.incumbent != Incumbent::Dead).then_some(Effect::AskIncumbent);
            let expected: Vec<_> = [Effect::KillSuccessor].into_iter().chain(asked).collect();
            assert_eq!(*effects, expected);
            Some(cause.clone())
        }
        State::Confirming(cause)
            if !may_hold_the_lock(state) || machine.successor == Successor::Dead =>
        {
            let at_fault = matches!(
                cause,
                Cause::SuccessorLost(_)
                    | Cause::SuccessorGaveUp(_)
                    | Cause::SuccessorSilent(_)
                    | Cause::SuccessorMisbehaved(_)
                    | Cause::Unfit(_)
            );
            // A successor that is not at fault is spared until the incumbent has confirmed.
            let killed = (at_fault || !is_forward(state)).then_some(Effect::KillSuccessor);
            let expected: Vec<_> = killed.into_iter().chain([Effect::AskIncumbent]).collect();
            assert_eq!(*effects, expected);
            Some(cause.clone())
        }
        State::RolledBack(IncumbentFate::Lost, cause) if machine.incumbent == Incumbent::Dead => {
            assert_eq!(*effects, [Effect::KillSuccessor]);
            Some(cause.clone())
        }
        _ => None,
    }
}

fn abort() -> Event {
    Event::Command(Command::Abort("why".into()))
}

/// To the incumbent, in one go.
fn said(indices: &[usize]) -> Vec<Effect> {
    let said = indices.iter().map(|index| messages(ours()).swap_remove(*index)).collect();
    vec![Effect::ToIncumbent(said)]
}

fn to_successor(index: usize) -> Effect {
    Effect::ToSuccessor(messages(ours()).swap_remove(index))
}

const DEADLINE: Event = Event::LimitPassed(TimeLimit::Deadline);
const PREPARE: usize = 2;
const SEAL_REQUEST: usize = 4;
const BEGIN: usize = 8;
const COMMIT: usize = 10;
const WATCH_GATE: usize = 23;

#[test]
fn a_command_moves_the_phase_it_belongs_to() {
    let prepare = |watches_gate, after_drain| Command::Prepare {
        successor_pid: 2,
        deadline_ms: 3,
        drain_grace_ms: 4,
        watches_gate,
        after_drain,
    };
    let table = [
        (State::Paired, Command::Warm, State::Warming, vec![]),
        (
            State::Warmed,
            prepare(false, AfterDrain::Wait),
            State::Draining(AfterDrain::Wait),
            said(&[PREPARE]),
        ),
        (
            State::Warmed,
            prepare(true, AfterDrain::Wait),
            State::Draining(AfterDrain::Wait),
            said(&[WATCH_GATE, PREPARE]),
        ),
        (
            State::Warmed,
            prepare(false, AfterDrain::Seal),
            State::Draining(AfterDrain::Seal),
            said(&[PREPARE, SEAL_REQUEST]),
        ),
        (
            State::Warmed,
            prepare(true, AfterDrain::Seal),
            State::Draining(AfterDrain::Seal),
            said(&[WATCH_GATE, PREPARE, SEAL_REQUEST]),
        ),
        (State::Prepared, Command::Seal, State::Sealing, said(&[SEAL_REQUEST])),
        (State::Sealed, Command::Begin, State::Opening, vec![to_successor(BEGIN)]),
        (State::Ready, Command::Commit, State::Committing, vec![to_successor(COMMIT)]),
    ];
    for state in states() {
        for (_, command, ..) in &table {
            let (machine, made) = step(&state, Event::Command(command.clone()));
            let row = table.iter().find(|(from, of, ..)| (from, of) == (&state, command));
            if let Some((_, _, to, effects)) = row {
                assert_eq!((&machine.state, &made), (to, effects));
            } else {
                assert_eq!((machine.state, made), (state.clone(), vec![]), "{command:?}");
            }
        }
        let stepped = step(&state, abort());
        if is_forward(&state) {
            let expected = Cause::Requested("why".into());
            assert_eq!(rolled_back(&state, &stepped), Some(expected), "{state:?}");
        } else {
            assert_eq!((stepped.0.state, stepped.1), (state, vec![]));
        }
    }
}

#[test]
fn every_message_of_the_incumbent_is_legal_late_or_leads_back() {
    let (mut legal, mut late, mut back) = (0, 0, 0);
    for state in states() {
        for message in [messages(ours()), messages(foreign())].concat() {
            let pair = format!("{state:?} + {message:?}");
            let about_ours = message.handoff_id() != Some(foreign());
            let stepped = step(&state, Event::Incumbent(message.clone()));
            let expected = match (&state, message.name()) {
                _ if !is_forward(&state) || may_hold_the_lock(&state) => {
                    assert_eq!((&stepped.0.state, &stepped.1), (&state, &vec![]), "{pair}");
                    late += 1;
                    continue;
                }
                (_, "Heartbeat") | (State::Sealing, "SealProgress") => state.clone(),
                (State::Draining(_), "Late" | "Draining" | "GateClosed") if about_ours => {
                    state.clone()
                }
                (State::Draining(AfterDrain::Wait), "Drained") => State::Prepared,
                (State::Draining(AfterDrain::Seal), "Drained") => State::Sealing,
                (State::Sealing, "SealComplete") if about_ours => State::Sealed,
                (State::Draining(_) | State::Prepared | State::Sealing, "SealFailed")
                    if about_ours =>
                {
                    let expected =
                        Cause::SealFailed { error: "e".into(), partial_state: "p".into() };
                    assert_eq!(rolled_back(&state, &stepped), Some(expected), "{pair}");
                    back += 1;
                    continue;
                }
                (_, "Abort") if about_ours => {
                    let expected = match &state {
                        State::Paired | State::Warming | State::Warmed => {
                            Cause::IncumbentStopped("r".into())
                        }
                        _ => Cause::IncumbentAborted("r".into()),
                    };
                    assert_eq!(rolled_back(&state, &stepped), Some(expected), "{pair}");
                    back += 1;
                    continue;
                }
                _ => {
                    let cause = rolled_back(&state, &stepped);
                    assert!(matches!(cause, Some(Cause::IncumbentMisbehaved(_))), "{pair}");
                    back += 1;
                    continue;
                }
            };
            assert_eq!((stepped.0.state, stepped.1), (expected, vec![]), "{pair}");
            legal += 1;
        }
    }
    assert_eq!((legal, late, back), (16 + 2 * (3 + 2) + 3, 11 * 50, 8 * 50 - 29));
}

#[test]
fn every_message_of_the_successor_is_legal_late_or_leads_back() {
    use Promotion::{Committing, Opening, Warming};
    let (mut legal, mut late, mut back) = (0, 0, 0);
    for state in states() {
        for message in [messages(ours()), messages(foreign())].concat() {
            let pair = format!("{state:?} + {message:?}");
            let about_ours = message.handoff_id() == Some(ours());
            let stepped = step(&state, Event::Successor(message.clone()));
            let expected = match (&state, message.name()) {
                (State::Ending(_) | State::Confirming(_), _) => {
                    late += 1;
                    (state.clone(), vec![])
                }
                _ if is_over(&state) => {
                    late += 1;
                    (state.clone(), vec![])
                }
                (_, "Heartbeat") => {
                    legal += 1;
                    (state.clone(), vec![])
                }
                (State::Paired, "Warmed") if about_ours => {
                    assert_eq!(stepped.0.successor, Successor::Warm);
                    legal += 1;
                    (State::Paired, vec![])
                }
                (State::Warming, "Warmed") if about_ours => {
                    legal += 1;
                    (State::Warmed, vec![])
                }
                (State::Promoting(Warming, _), "Warmed") if about_ours => {
                    legal += 1;
                    (State::Promoting(Opening, cause()), vec![to_successor(BEGIN)])
                }
                (State::Opening | State::Promoting(Opening, _), "Verified" | "Carried")
                    if about_ours =>
                {
                    legal += 1;
                    (state.clone(), vec![])
                }
                (State::Opening | State::Promoting(Opening, _), "Ready") if about_ours => {
                    legal += 1;
                    (state.clone(), vec![Effect::Judge])
                }
                (State::Committing, "Serving") if about_ours => {
                    legal += 1;
                    (State::Committed, said(&[COMMIT]))
                }
                (State::Promoting(Committing, _), "Serving") if about_ours => {
                    legal += 1;
                    (State::Promoted(cause()), vec![])
                }
                (_, name) => {
                    let cause = rolled_back(&state, &stepped);
                    if name == "Abort" && about_ours {
                        assert_eq!(cause, Some(Cause::SuccessorGaveUp("r".into())), "{pair}");
                    } else {
                        assert!(matches!(cause, Some(Cause::SuccessorMisbehaved(_))), "{pair}");
                    }
                    back += 1;
                    continue;
                }
            };
            assert_eq!((stepped.0.state, stepped.1), expected, "{pair}");
        }
    }
    let heard = 14 * 50;
    let legally = 14 * 2 + 3 + 4 + 2 + 2;
    assert_eq!((legal, late, back), (legally, 5 * 50, heard - legally));
}

#[test]
fn a_verdict_counts_while_it_is_awaited() {
    let unfit = || Unfit::Unhealthy;
    for state in states() {
        let good = step(&state, Event::Judged(Ok(())));
        let bad = step(&state, Event::Judged(Err(unfit())));
        match &state {
            State::Opening => {
                assert_eq!((good.0.state, good.1), (State::Ready, vec![]));
                assert_eq!(rolled_back(&state, &bad), Some(Cause::Unfit(unfit())));
            }
            State::Promoting(Promotion::Opening, _) => {
                let committing = State::Promoting(Promotion::Committing, cause());
                assert_eq!((good.0.state, good.1), (committing, vec![to_successor(COMMIT)]));
                assert_eq!(rolled_back(&state, &bad), Some(Cause::Unfit(unfit())));
            }
            _ => {
                assert_eq!((&good.0.state, good.1), (&state, vec![]));
                assert_eq!((&bad.0.state, bad.1), (&state, vec![]));
            }
        }
    }
}

#[test]
fn a_dead_incumbent_is_succeeded_and_never_waited_for() {
    for state in states() {
        let (machine, effects) = step(&state, Event::IncumbentDied);
        assert_eq!(machine.incumbent, Incumbent::Dead);
        match &state {
            State::Paired | State::Warming => {
                assert!(matches!(machine.state, State::Promoting(Promotion::Warming, _)));
                assert_eq!(effects, []);
            }
            State::Warmed | State::Draining(_) | State::Prepared | State::Sealing => {
                let State::Promoting(Promotion::Opening, cause) = machine.state else {
                    panic!("{:?}", machine.state)
                };
                assert_eq!(cause, Cause::IncumbentDied(state.phase()));
                assert_eq!(effects, [to_successor(BEGIN)]);
            }
            State::Confirming(cause) => {
                let promoting = State::Promoting(Promotion::Opening, cause.clone());
                assert_eq!((machine.state, effects), (promoting, vec![to_successor(BEGIN)]));
            }
            _ => assert_eq!((&machine.state, effects), (&state, vec![])),
        }
        let ended = step_with(&state, Incumbent::Dead, Event::SuccessorEnded);
        if let State::Ending(cause) = &state {
            let lost = State::RolledBack(IncumbentFate::Lost, cause.clone());
            assert_eq!((ended.0.state, ended.1), (lost, vec![Effect::KillSuccessor]));
        }
    }
}

#[test]
fn losses_silences_and_deadlines_lead_back_wherever_something_is_to_be_undone() {
    for state in states() {
        let unchanged = |event: Event| {
            let (machine, effects) = step(&state, event);
            assert_eq!((&machine.state, effects), (&state, vec![]));
        };
        let name = state.phase();
        let forward = [
            (Event::SuccessorLost, Cause::SuccessorLost(name)),
            (Event::SuccessorEnded, Cause::SuccessorLost(name)),
            (Event::SuccessorSilent, Cause::SuccessorSilent(name)),
            (DEADLINE, Cause::DeadlinePassed(name)),
        ];
        for (event, expected) in forward {
            let stepped = step(&state, event.clone());
            match &state {
                State::Promoting(..) if event == DEADLINE => unchanged(event),
                State::Promoting(_, first) => {
                    assert_eq!(rolled_back(&state, &stepped), Some(first.clone()));
                }
                _ if is_forward(&state) => {
                    assert_eq!(rolled_back(&state, &stepped), Some(expected), "{state:?}");
                }
                State::Ending(first) if event == Event::SuccessorEnded => {
                    // It was asked already.
                    let confirming = (State::Confirming(first.clone()), vec![]);
                    assert_eq!((stepped.0.state, stepped.1), confirming);
                }
                _ => unchanged(event),
            }
        }
        let silent = step(&state, Event::IncumbentSilent);
        if matches!(state, State::Draining(_) | State::Sealing) {
            assert_eq!(rolled_back(&state, &silent), Some(Cause::IncumbentSilent(name)));
        } else {
            unchanged(Event::IncumbentSilent);
        }
        let gone = step(&state, Event::IncumbentDisconnected);
        match &state {
            State::Confirming(_) | State::Ending(_) => {
                assert_eq!((gone.0.state, gone.1), (state.clone(), vec![Effect::AskIncumbent]));
            }
            _ if is_forward(&state) && !may_hold_the_lock(&state) => {
                let expected = Cause::IncumbentDisconnected(name);
                assert_eq!(rolled_back(&state, &gone), Some(expected));
            }
            _ => unchanged(Event::IncumbentDisconnected),
        }
    }
}

/// So the model needs no limit of the pause: its deadline passes at any time.
#[test]
fn a_pause_that_is_too_long_is_a_deadline_from_the_gate_to_the_commit_and_nothing_elsewhere() {
    let (limit, since) = (Duration::from_secs(5), PauseStart::GateClosed);
    let mut undone = 0;
    for state in states() {
        for incumbent in [Incumbent::Connected, Incumbent::Disconnected, Incumbent::Dead] {
            let passed = Event::LimitPassed(TimeLimit::Pause(limit, since));
            let stepped = step_with(&state, incumbent, passed);
            let phase = state.phase();
            if !is_forward(&state) || phase < Phase::Draining || phase > Phase::Ready {
                assert_eq!((stepped.0.state, stepped.1), (state.clone(), vec![]));
                continue;
            }
            let (mut late, effects) = step_with(&state, incumbent, DEADLINE);
            let cause = Cause::PauseTooLong { limit, phase, since };
            match &mut late.state {
                State::Ending(late) | State::Confirming(late) | State::Promoting(_, late) => {
                    assert_eq!(std::mem::replace(late, cause), Cause::DeadlinePassed(phase));
                }
                other => panic!("{state:?} becomes {other:?}"),
            }
            assert_eq!(stepped, (late, effects), "{state:?}, {incumbent:?}");
            undone += 1;
        }
    }
    assert_eq!(undone, 7 * 3);
}

#[test]
fn a_rollback_is_reported_as_it_was_confirmed() {
    for state in states() {
        for (event, fate) in [
            (Event::Echoed, IncumbentFate::Serving),
            (Event::PatienceEnded, IncumbentFate::Unknown),
            (Event::Refused, IncumbentFate::Unknown),
        ] {
            let (machine, effects) = step(&state, event.clone());
            let expected = match (&state, &event) {
                (State::Confirming(cause) | State::Ending(cause), _) => {
                    (State::RolledBack(fate, cause.clone()), vec![Effect::KillSuccessor])
                }
                _ => (state.clone(), vec![]),
            };
            assert_eq!((machine.state, effects), expected, "{state:?} + {event:?}");
        }
    }
}

#[test]
fn a_state_at_rest_awaits_nothing() {
    for state in states() {
        let waits = matches!(
            state,
            State::Warming
                | State::Draining(_)
                | State::Sealing
                | State::Opening
                | State::Committing
                | State::Ending(_)
                | State::Confirming(_)
                | State::Promoting(..)
        );
        assert_eq!(state.is_at_rest(), !waits, "{state:?}");
        assert_eq!(state.is_over(), is_over(&state), "{state:?}");
    }
}

/// An incumbent that does not wait for the supervisor's word leaves by the owner record, so
/// the successor that was told to commit may be all there is.
#[test]
fn a_successor_that_was_told_to_commit_is_not_killed_while_it_may_be_all_there_is() {
    let state = State::Committing;
    for incumbent in [Incumbent::Disconnected, Incumbent::Dead] {
        for event in [DEADLINE, abort(), Event::SuccessorLost] {
            let (machine, effects) = step_with(&state, incumbent, event);
            assert_eq!((&machine.state, effects), (&state, vec![]), "{incumbent:?}");
        }
        let ended = step_with(&state, incumbent, Event::SuccessorEnded);
        let cause = Cause::SuccessorLost(Phase::Committing);
        assert_eq!(rolled_back(&state, &ended), Some(cause), "{incumbent:?}");
        let silent = step_with(&state, incumbent, Event::SuccessorSilent);
        let cause = Cause::SuccessorSilent(Phase::Committing);
        assert_eq!(rolled_back(&state, &silent), Some(cause), "{incumbent:?}");
    }
    for event in [DEADLINE, abort(), Event::SuccessorLost] {
        let (machine, effects) = step(&state, event);
        assert!(matches!(machine.state, State::Ending(_)));
        assert_eq!(effects, [Effect::KillSuccessor, Effect::AskIncumbent]);
    }
    let (machine, _) = step(&State::Opening, Event::IncumbentDisconnected);
    assert_eq!((machine.state, machine.incumbent), (State::Opening, Incumbent::Disconnected));
}

#[test]
fn with_a_dead_incumbent_there_is_nobody_to_roll_back_to() {
    use Promotion::{Committing, Opening};
    let why = || Cause::Requested("why".into());
    for (state, stage, effects) in [
        (State::Sealed, Opening, vec![to_successor(BEGIN)]),
        (State::Opening, Opening, vec![]),
        (State::Ready, Committing, vec![to_successor(COMMIT)]),
    ] {
        let (machine, made) = step_with(&state, Incumbent::Dead, abort());
        assert_eq!((machine.state, made), (State::Promoting(stage, why()), effects), "{state:?}");
        // What speaks against the successor ends it all the same.
        let silent = step_with(&state, Incumbent::Dead, Event::SuccessorSilent);
        assert_eq!(rolled_back(&state, &silent), Some(Cause::SuccessorSilent(state.phase())));
    }
    for stage in [Promotion::Warming, Opening, Committing] {
        let state = State::Promoting(stage, why());
        for event in [Event::SuccessorSilent, Event::SuccessorLost, Event::SuccessorEnded] {
            let ended = step_with(&state, Incumbent::Dead, event);
            assert_eq!(rolled_back(&state, &ended), Some(why()), "{state:?}");
        }
    }
}

#[test]
fn a_successor_that_is_not_at_fault_is_spared_until_the_incumbent_has_confirmed() {
    let failed =
        Message::SealFailed { handoff_id: ours(), error: "e".into(), partial_state: "p".into() };
    let (mut machine, effects) = step(&State::Sealing, Event::Incumbent(failed));
    assert_eq!(effects, [Effect::AskIncumbent]);
    let mut served = machine.clone();
    assert_eq!(served.on(Event::Echoed), [Effect::KillSuccessor]);
    assert!(matches!(served.state, State::RolledBack(IncumbentFate::Serving, _)));
    assert_eq!(machine.on(Event::IncumbentDied), [to_successor(BEGIN)]);
    assert!(matches!(machine.state, State::Promoting(Promotion::Opening, _)));

    // One that is at fault is ended at once, and nobody is left when the incumbent dies.
    let (mut machine, effects) = step(&State::Draining(AfterDrain::Wait), Event::SuccessorSilent);
    assert_eq!(effects, [Effect::KillSuccessor, Effect::AskIncumbent]);
    assert_eq!(machine.on(Event::IncumbentDied), [Effect::KillSuccessor]);
    assert!(matches!(machine.state, State::RolledBack(IncumbentFate::Lost, _)));

    // It may say that it is warm meanwhile.
    let mut machine = step(&State::Paired, DEADLINE).0;
    assert_eq!(machine.on(Event::Successor(Message::Warmed { handoff_id: ours() })), []);
    assert_eq!(machine.on(Event::IncumbentDied), [to_successor(BEGIN)]);
}

#[test]
fn an_early_warmth_is_remembered() {
    let mut machine = Machine::new(ours(), false);
    assert_eq!(machine.on(Event::Successor(Message::Warmed { handoff_id: ours() })), []);
    assert_eq!(machine.state, State::Paired);
    assert_eq!(machine.on(Event::Command(Command::Warm)), []);
    assert_eq!(machine.state, State::Warmed);
    let effects = machine.on(Event::Successor(Message::Warmed { handoff_id: ours() }));
    assert_eq!(effects, [Effect::KillSuccessor, Effect::AskIncumbent], "said twice");
    assert!(matches!(machine.state, State::Confirming(Cause::SuccessorMisbehaved(_))));
}

#[test]
fn nobody_takes_the_place_of_an_incumbent_that_is_stopped() {
    for state in [State::Paired, State::Warming, State::Warmed] {
        let stop = Message::Abort { handoff_id: ours(), reason: "r".into() };
        let mut machine = step(&state, Event::Incumbent(stop)).0;
        assert_eq!(machine.on(Event::IncumbentDied), [Effect::KillSuccessor]);
        let cause = Cause::IncumbentStopped("r".into());
        assert_eq!(machine.state, State::RolledBack(IncumbentFate::Lost, cause));
    }
}
