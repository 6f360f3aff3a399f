use super::{carried_set, foreign, messages, ours};
use crate::machine::successor::{Effect, Event, GaveUp, ReadyWords, State};
use crate::protocol::Message;

/// One transition of a copy.
fn after(state: &State, event: Event) -> (State, Vec<Effect>) {
    let mut state = state.clone();
    let effects = state.on(event);
    (state, effects)
}

fn states() -> Vec<State> {
    vec![
        State::Greeting,
        State::Warming(ours()),
        State::Warm(ours()),
        State::Opening(ours()),
        State::Ready(ours()),
        State::LastLook(ours()),
        State::Committing(ours()),
        State::Admitting(ours(), 5),
        State::Announced(ours()),
        State::Final(ours()),
        State::Serving,
        State::Gone(GaveUp::SupervisorLost),
    ]
}

fn is_over(state: &State) -> bool {
    matches!(state, State::Serving | State::Gone(_))
}

/// Whether it is the writer already.
fn has_committed(state: &State) -> bool {
    matches!(state, State::Admitting(..) | State::Announced(_) | State::Final(_))
}

fn legal(state: &State, message: &Message) -> Option<(State, Vec<Effect>)> {
    let about_ours = message.handoff_id() == Some(ours());
    let aborted = || (State::Gone(GaveUp::Aborted("r".into())), vec![Effect::GiveUp]);
    Some(match (state, message.name()) {
        (_, "Heartbeat") => (state.clone(), vec![]),
        (State::Greeting, "HelloAck") => (State::Warming(message.handoff_id()?), vec![]),
        (State::Greeting, "Abort") => aborted(),
        (State::Committing(_), "Abort") => (state.clone(), vec![]),
        (_, "Abort") if about_ours => aborted(),
        (State::Warm(_), "Begin") if about_ours => (State::Opening(ours()), vec![]),
        (State::Ready(_) | State::LastLook(_), "Commit") if about_ours => {
            (State::Committing(ours()), vec![Effect::WriteRecord])
        }
        _ => return None,
    })
}

#[test]
fn every_message_is_legal_or_makes_it_give_up() {
    let (mut legal_pairs, mut giving_up) = (0, 0);
    for state in states() {
        for message in [messages(ours()), messages(foreign())].concat() {
            let (next, effects) = after(&state, Event::Message(message.clone()));
            let pair = format!("{state:?} + {message:?}");
            let is_last_word = message == Message::Commit { handoff_id: ours() };
            if matches!(state, State::Announced(_)) && is_last_word {
                assert_eq!((next, effects), (State::Final(ours()), vec![]), "{pair}");
            } else if is_over(&state) || has_committed(&state) {
                assert_eq!((next, effects), (state.clone(), vec![]), "{pair}");
            } else if let Some(expected) = legal(&state, &message) {
                assert_eq!((next, effects), expected, "{pair}");
                legal_pairs += 1;
            } else {
                assert!(matches!(next, State::Gone(GaveUp::Misbehaved(_))), "{pair}: {next:?}");
                assert_eq!(effects, [Effect::GiveUp], "{pair}");
                giving_up += 1;
            }
        }
    }
    assert_eq!((legal_pairs, giving_up), (14 + 2 + 2 + 2 + 5 + 1 + 2, 7 * 50 - 28));
}

#[test]
fn only_a_commit_leads_to_the_owner_record_or_the_death_of_both_others() {
    let events = || {
        let mut events = vec![
            Event::WarmUpDone,
            Event::Opened { carried: None, verified: None, ready: words() },
            Event::Failed("f".into()),
            Event::RecordWritten { generation: 5 },
            Event::Announced,
            Event::Admitted,
            Event::SupervisorLost,
            Event::Alone,
            Event::NothingQueued,
        ];
        events.extend(messages(ours()).into_iter().map(Event::Message));
        events
    };
    for state in states() {
        for event in events() {
            let (next, effects) = after(&state, event.clone());
            let writes = effects.contains(&Effect::WriteRecord);
            let is_commit = matches!(event, Event::Message(Message::Commit { .. }));
            let may = matches!(state, State::Ready(_) | State::LastLook(_)) && is_commit
                || matches!(state, State::Ready(_)) && event == Event::Alone;
            assert_eq!(writes, may, "{state:?} + {event:?}");
            let serves = next == State::Serving && state != State::Serving;
            let admits = matches!(state, State::Admitting(..) | State::Final(_));
            let admitted = admits && event == Event::Admitted;
            assert_eq!(serves, admitted, "{state:?} + {event:?}");
        }
    }
}

fn words() -> ReadyWords {
    ReadyWords { listening_on: vec![], healthz_ok: true, advertised_revision_per_shard: vec![7] }
}

#[test]
fn every_other_event_matters_where_it_belongs() {
    let handoff_id = ours();
    let gone = |why| (State::Gone(why), vec![Effect::GiveUp]);
    let lost = || gone(GaveUp::SupervisorLost);
    for state in states() {
        let unchanged = || (state.clone(), vec![]);
        let expected = |event: &Event| match (&state, event) {
            _ if is_over(&state) => unchanged(),
            (State::Warming(_), Event::WarmUpDone) => {
                let warmed = Effect::Send(vec![Message::Warmed { handoff_id }]);
                (State::Warm(handoff_id), vec![warmed])
            }
            (State::Opening(_), Event::Opened { verified: Some(fingerprint), .. }) => {
                let carried = Message::Carried { handoff_id, sets: vec![carried_set()] };
                let verified = Message::Verified { handoff_id, data_dir_fingerprint: *fingerprint };
                let ready = messages(ours()).swap_remove(9);
                let said = vec![carried, verified, ready];
                (State::Ready(handoff_id), vec![Effect::Send(said)])
            }
            (State::Committing(_), Event::RecordWritten { generation }) => {
                (State::Admitting(handoff_id, *generation), vec![])
            }
            (&State::Admitting(_, generation), Event::Admitted) => {
                let serving = Message::Serving { handoff_id, generation };
                (State::Serving, vec![Effect::Send(vec![serving])])
            }
            (&State::Admitting(_, generation), Event::Announced) => {
                let serving = Message::Serving { handoff_id, generation };
                (State::Announced(handoff_id), vec![Effect::Send(vec![serving])])
            }
            (State::Announced(_), Event::SupervisorLost | Event::Alone) => {
                (State::Final(handoff_id), vec![])
            }
            (State::Final(_), Event::Admitted) => (State::Serving, vec![]),
            (State::Greeting, Event::Failed(why)) => gone(GaveUp::Failed(why.clone())),
            (_, Event::Failed(why)) => {
                let abort = Message::Abort { handoff_id, reason: why.clone() };
                let gone = State::Gone(GaveUp::Failed(why.clone()));
                (gone, vec![Effect::Send(vec![abort]), Effect::GiveUp])
            }
            (State::Ready(_), Event::SupervisorLost) => {
                (State::LastLook(handoff_id), vec![Effect::ShutAndLook])
            }
            (
                State::LastLook(_) | State::Committing(_) | State::Admitting(..) | State::Final(_),
                Event::SupervisorLost,
            ) => unchanged(),
            (State::Greeting | State::Warming(_), Event::Alone) => lost(),
            (State::Warm(_), Event::Alone) => (State::Opening(handoff_id), vec![]),
            (State::Ready(_), Event::Alone) => {
                (State::Committing(handoff_id), vec![Effect::WriteRecord])
            }
            (State::LastLook(_), Event::NothingQueued) | (_, Event::SupervisorLost) => lost(),
            _ => unchanged(),
        };
        for event in [
            Event::WarmUpDone,
            Event::Opened {
                carried: Some(vec![carried_set()]),
                verified: Some([8; 32]),
                ready: words(),
            },
            Event::Failed("f".into()),
            Event::RecordWritten { generation: 5 },
            Event::Announced,
            Event::Admitted,
            Event::SupervisorLost,
            Event::Alone,
            Event::NothingQueued,
        ] {
            assert_eq!(after(&state, event.clone()), expected(&event), "{state:?} + {event:?}");
        }
    }
}
