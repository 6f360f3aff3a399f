use super::{foreign, messages, ours};
use crate::drainable::{DrainReport, SealReport};
use crate::error::PeerMisbehaved;
use crate::machine::AfterDrain;
use crate::machine::incumbent::{Effect, Event, Reply, State, Undo};
use crate::protocol::Message;

fn failed<T>() -> Result<T, String> {
    Err("e".to_owned())
}

fn undo(reply: Option<Reply>) -> Undo {
    Undo { handoff_id: ours(), reply }
}

/// One transition of a copy.
fn after(state: &State, event: Event) -> (State, Vec<Effect>) {
    let mut state = state.clone();
    let effects = state.on(event);
    (state, effects)
}

fn states() -> Vec<State> {
    let deadline = || undo(Some(Reply::DeadlinePassed));
    vec![
        State::Serving,
        State::Draining(ours(), AfterDrain::Wait),
        State::Draining(ours(), AfterDrain::Seal),
        State::Drained(ours()),
        State::Sealing(ours()),
        State::Sealed(ours()),
        State::Interrupted(undo(None)),
        State::Interrupted(deadline()),
        State::Waiting(undo(None)),
        State::Waiting(deadline()),
        State::Resuming(undo(None)),
        State::Resuming(deadline()),
        State::Stopping,
        State::Closing,
        State::Replaced,
        State::Stopped,
    ]
}

/// The way back from a state, and its first effect.
fn way_back(state: &State, reply: Option<Reply>) -> (State, Vec<Effect>) {
    match state {
        State::Draining(..) => (State::Interrupted(undo(reply)), vec![Effect::InterruptDrain]),
        State::Drained(_) => (State::Resuming(undo(reply)), vec![Effect::RunResume]),
        State::Sealing(_) => (State::Interrupted(undo(reply)), vec![]),
        State::Sealed(_) => (State::Waiting(undo(reply)), vec![Effect::AwaitLock]),
        other => (other.clone(), vec![]),
    }
}

/// What is legal beyond the heartbeat, which always is.
fn legal(state: &State, message: &Message) -> Option<(State, Vec<Effect>)> {
    let about_ours = message.handoff_id() == Some(ours());
    Some(match (state, message.name()) {
        (State::Serving, "PrepareHandoff") => {
            let handoff_id = message.handoff_id()?;
            let drain = Effect::RunDrain {
                handoff_id,
                successor_pid: 2,
                deadline_ms: 3,
                drain_grace_ms: 4,
            };
            (State::Draining(handoff_id, AfterDrain::Wait), vec![drain])
        }
        (State::Serving, "Abort" | "ResumeAfterAbort") => (State::Serving, vec![]),
        (State::Serving, "Adopt") => {
            let handoff_id = message.handoff_id()?;
            (State::Serving, vec![Effect::GiveListeners { handoff_id }])
        }
        (State::Serving, "Fetch") => {
            let handoff_id = message.handoff_id()?;
            (State::Serving, vec![Effect::Offer { handoff_id }])
        }
        (State::Serving, "WatchGate") => (State::Serving, vec![Effect::WatchGate]),
        (State::Draining(id, AfterDrain::Wait), "SealRequest") if about_ours => {
            (State::Draining(*id, AfterDrain::Seal), vec![Effect::SealNext])
        }
        (State::Drained(_), "SealRequest") if about_ours => {
            (State::Sealing(ours()), vec![Effect::RunSeal])
        }
        (State::Sealed(_), "Commit") if about_ours => {
            (State::Replaced, vec![Effect::Leave(Ok(()))])
        }
        (
            State::Draining(..) | State::Drained(_) | State::Sealing(_) | State::Sealed(_),
            "Abort" | "ResumeAfterAbort",
        ) if about_ours => way_back(state, None),
        _ => return None,
    })
}

#[test]
fn every_message_is_legal_or_closes_the_session_after_undoing() {
    let (mut legal_pairs, mut closing, mut held) = (0, 0, 0);
    for state in states() {
        for message in [messages(ours()), messages(foreign())].concat() {
            let (next, effects) = after(&state, Event::Message(message.clone()));
            let pair = format!("{state:?} + {message:?}");
            if !state.admits_messages() {
                assert_eq!((&next, effects), (&state, vec![]), "{pair}");
                held += 1;
            } else if matches!(message, Message::Heartbeat { .. }) {
                assert_eq!((&next, effects), (&state, vec![Effect::Send(message)]), "{pair}");
                legal_pairs += 1;
            } else if let Some(expected) = legal(&state, &message) {
                assert_eq!((next, effects), expected, "{pair}");
                legal_pairs += 1;
            } else {
                let (back, then) = way_back(&state, None);
                assert_eq!(next, back, "{pair}");
                match effects.split_first() {
                    Some((Effect::Close(PeerMisbehaved::WrongHandoff { got, .. }), rest)) => {
                        assert_eq!((*got, rest), (foreign(), &*then), "{pair}");
                    }
                    Some((
                        Effect::Close(PeerMisbehaved::Unexpected { message: name, .. }),
                        rest,
                    )) => {
                        assert_eq!((*name, rest), (message.name(), &*then), "{pair}");
                    }
                    other => panic!("{pair}: {other:?}"),
                }
                closing += 1;
            }
        }
    }
    // 16 states, 50 messages; six states admit any.
    assert_eq!((legal_pairs, closing, held), (37, 263, 500));
}

#[test]
fn a_loss_and_a_deadline_lead_back_from_everywhere() {
    for state in states() {
        let (next, effects) = after(&state, Event::SessionLost);
        let expected = match &state {
            // Whoever would have read the reply is gone.
            State::Interrupted(_) => (State::Interrupted(undo(None)), vec![]),
            State::Waiting(_) => (State::Waiting(undo(None)), vec![]),
            State::Resuming(_) => (State::Resuming(undo(None)), vec![]),
            other => way_back(other, None),
        };
        assert_eq!((next, effects), expected, "{state:?} loses its session");
        let (next, effects) = after(&state, Event::DeadlinePassed);
        let expected = way_back(&state, Some(Reply::DeadlinePassed));
        assert_eq!((next, effects), expected, "{state:?} reaches its deadline");
    }
}

#[test]
fn the_ends_of_hooks_and_of_waits_matter_where_they_were_begun() {
    let report = || SealReport { last_revision_per_shard: vec![7], data_dir_fingerprint: [8; 32] };
    let resuming = |reply| (State::Resuming(undo(reply)), vec![Effect::RunResume]);
    let drained = Message::Drained { open_conns_remaining: 3, accept_closed: true };
    let drain_report = || DrainReport { open_conns_remaining: 3, accept_closed: true };
    let complete = Message::SealComplete {
        handoff_id: ours(),
        last_revision_per_shard: vec![7],
        data_dir_fingerprint: [8; 32],
    };
    let table: Vec<(Event, State, (State, Vec<Effect>))> = vec![
        (
            Event::DrainEnded(Ok(drain_report())),
            State::Draining(ours(), AfterDrain::Wait),
            (State::Drained(ours()), vec![Effect::Send(drained.clone())]),
        ),
        (
            Event::DrainEnded(Ok(drain_report())),
            State::Draining(ours(), AfterDrain::Seal),
            (State::Sealing(ours()), vec![Effect::Send(drained), Effect::RunSeal]),
        ),
        (
            Event::DrainEnded(failed()),
            State::Draining(ours(), AfterDrain::Seal),
            resuming(Some(Reply::DrainFailed("e".into()))),
        ),
        (
            Event::DrainEnded(failed()),
            State::Draining(ours(), AfterDrain::Wait),
            resuming(Some(Reply::DrainFailed("e".into()))),
        ),
        (Event::DrainEnded(failed()), State::Stopping, (State::Closing, vec![Effect::RunSeal])),
        (
            Event::DrainEnded(Ok(drain_report())),
            State::Stopping,
            (State::Closing, vec![Effect::RunSeal]),
        ),
        (
            Event::SealEnded(Ok(report())),
            State::Sealing(ours()),
            (State::Sealing(ours()), vec![Effect::ReleaseLock(report())]),
        ),
        (
            Event::SealEnded(failed()),
            State::Sealing(ours()),
            resuming(Some(Reply::SealFailed("e".into()))),
        ),
        (
            Event::LockKept("e".into()),
            State::Sealing(ours()),
            resuming(Some(Reply::SealFailed("e".into()))),
        ),
        (
            Event::SealEnded(Ok(report())),
            State::Closing,
            (State::Stopped, vec![Effect::ReleaseForGood(report()), Effect::Leave(Ok(()))]),
        ),
        (
            Event::SealEnded(failed()),
            State::Closing,
            (State::Stopped, vec![Effect::Leave(Err("e".into()))]),
        ),
        (
            Event::LockKept("e".into()),
            State::Closing,
            (State::Stopped, vec![Effect::Leave(Err("e".into()))]),
        ),
        (
            Event::LockReleased(report()),
            State::Sealing(ours()),
            (State::Sealed(ours()), vec![Effect::Send(complete)]),
        ),
        (Event::StopRequested, State::Serving, (State::Stopping, vec![Effect::RunLastDrain])),
    ];
    let events = [
        Event::DrainEnded(Ok(drain_report())),
        Event::DrainEnded(failed()),
        Event::SealEnded(Ok(report())),
        Event::SealEnded(failed()),
        Event::LockReleased(report()),
        Event::LockKept("e".into()),
        Event::LockRetaken,
        Event::Superseded,
        Event::ResumeEnded(Ok(())),
        Event::ResumeEnded(failed()),
        Event::RetryDue,
        Event::StopRequested,
    ];
    let mut matter = 0;
    for event in events {
        for state in states() {
            let reply = match &state {
                State::Interrupted(undo) | State::Waiting(undo) | State::Resuming(undo) => {
                    undo.reply.clone()
                }
                _ => None,
            };
            let row = table.iter().find(|(of, from, _)| (of, from) == (&event, &state));
            let expected = match (&event, &state) {
                _ if row.is_some() => row.map(|(.., expected)| expected.clone()),
                (
                    Event::DrainEnded(_) | Event::SealEnded(_) | Event::LockKept(_),
                    State::Interrupted(_),
                ) => Some(resuming(reply)),
                (Event::LockRetaken, State::Waiting(_)) | (Event::RetryDue, State::Resuming(_)) => {
                    Some(resuming(reply))
                }
                (Event::Superseded, State::Waiting(_)) => {
                    Some((State::Replaced, vec![Effect::Leave(Ok(()))]))
                }
                (Event::ResumeEnded(Err(_)), State::Resuming(undo)) => {
                    Some((State::Resuming(undo.clone()), vec![Effect::RetryLater]))
                }
                (Event::ResumeEnded(Ok(())), State::Resuming(_)) => {
                    let (_, effects) = after(&state, event.clone());
                    match (reply, effects.as_slice()) {
                        (None, []) => {}
                        (Some(_), [Effect::Send(Message::Abort { handoff_id, .. })]) => {
                            assert_eq!(*handoff_id, ours());
                        }
                        other => panic!("{state:?}: {other:?}"),
                    }
                    Some((State::Serving, effects))
                }
                _ => None,
            };
            matter += usize::from(expected.is_some());
            let actual = after(&state, event.clone());
            let expected = expected.unwrap_or((state.clone(), vec![]));
            assert_eq!(actual, expected, "{state:?} + {event:?}");
        }
    }
    assert_eq!(matter, table.len() + 2 * 5 + 2 * 2 + 2 + 2 * 2);
}

#[test]
fn a_failure_is_told_once_it_is_undone() {
    for (reply, name) in [
        (Reply::DrainFailed("why".into()), "SealFailed"),
        (Reply::SealFailed("why".into()), "SealFailed"),
        (Reply::DeadlinePassed, "Abort"),
    ] {
        let state = State::Resuming(undo(Some(reply)));
        let (state, effects) = after(&state, Event::ResumeEnded(Err("not yet".into())));
        assert_eq!(effects, [Effect::RetryLater], "nothing is told before it works");
        let (state, effects) = after(&state, Event::ResumeEnded(Ok(())));
        assert_eq!(state, State::Serving);
        match effects.as_slice() {
            [Effect::Send(message)] => {
                assert_eq!((message.name(), message.handoff_id()), (name, Some(ours())));
            }
            other => panic!("{other:?}"),
        }
    }
}
