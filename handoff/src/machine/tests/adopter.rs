use crate::machine::adopter::{Effect, Event, Machine, State};
use crate::machine::outcome::Outcome;

const EVENTS: [Event; 7] = [
    Event::IncumbentDied,
    Event::IncumbentDisconnected,
    Event::Echoed,
    Event::Refused,
    Event::SuccessorServes,
    Event::SuccessorSilent,
    Event::SuccessorEnded,
];

/// The state that follows, with its effects; none for a pair that changes nothing.
fn legal(state: State, is_dead: bool, event: Event) -> Option<(State, Vec<Effect>)> {
    use Effect::{AskIncumbent, KillSuccessor};
    use State::{Adopting, Confirming, Ending, Resolved};
    Some(match (state, event) {
        (Adopting, Event::SuccessorServes) => (Resolved(Outcome::Committed), vec![]),
        (Adopting, Event::SuccessorSilent) => (Ending, vec![KillSuccessor]),
        (Adopting | Ending, Event::SuccessorEnded) if is_dead => {
            (Resolved(Outcome::Lost), vec![KillSuccessor])
        }
        (Adopting | Ending, Event::SuccessorEnded) => (Confirming, vec![AskIncumbent]),
        (Adopting | Ending | Confirming, Event::Echoed) => {
            (Resolved(Outcome::RolledBack), vec![KillSuccessor])
        }
        (Adopting | Ending | Confirming, Event::Refused) => {
            (Resolved(Outcome::Unknown), vec![KillSuccessor])
        }
        (Adopting | Ending | Confirming, Event::IncumbentDisconnected) => {
            (state, vec![AskIncumbent])
        }
        (Confirming, Event::IncumbentDied) => (Resolved(Outcome::Lost), vec![KillSuccessor]),
        _ => return None,
    })
}

#[test]
fn every_event_matters_where_it_belongs() {
    let resolved = Outcome::ALL.iter().copied().map(State::Resolved);
    let states = [State::Adopting, State::Ending, State::Confirming].into_iter().chain(resolved);
    let mut legal_pairs = 0;
    for state in states {
        for incumbent_is_dead in [false, true] {
            for event in EVENTS {
                let mut machine = Machine { state, incumbent_is_dead };
                let effects = machine.on(event);
                let expected = legal(state, incumbent_is_dead, event);
                legal_pairs += usize::from(expected.is_some());
                let expected = expected.unwrap_or((state, vec![]));
                assert_eq!((machine.state, effects), expected, "{state:?} + {event:?}");
                let learns = event == Event::IncumbentDied;
                assert_eq!(machine.incumbent_is_dead, incumbent_is_dead || learns);
            }
        }
    }
    assert_eq!(legal_pairs, 2 * (6 + 4 + 4));
}

#[test]
fn a_killed_successor_need_not_end_before_the_incumbent_serves() {
    let mut machine = Machine::new();
    assert_eq!(machine.on(Event::SuccessorSilent), [Effect::KillSuccessor]);
    assert_eq!(machine.on(Event::Echoed), [Effect::KillSuccessor]);
    assert_eq!(machine.state, State::Resolved(Outcome::RolledBack));
    let mut machine = Machine::new();
    assert_eq!(machine.on(Event::SuccessorSilent), [Effect::KillSuccessor]);
    assert_eq!(machine.on(Event::SuccessorEnded), [Effect::AskIncumbent]);
    assert_eq!(machine.on(Event::Echoed), [Effect::KillSuccessor]);
    assert_eq!(machine.state, State::Resolved(Outcome::RolledBack));
}

#[test]
fn of_both_dead_in_either_order_nobody_is_left() {
    for events in [
        [Event::IncumbentDied, Event::SuccessorEnded],
        [Event::SuccessorEnded, Event::IncumbentDied],
    ] {
        let mut machine = Machine::new();
        for event in events {
            machine.on(event);
        }
        assert_eq!(machine.state, State::Resolved(Outcome::Lost));
    }
}

#[test]
fn a_successor_that_is_alone_goes_on_without_the_incumbent() {
    let mut machine = Machine::new();
    assert_eq!(machine.on(Event::IncumbentDied), []);
    assert_eq!(machine.on(Event::SuccessorServes), []);
    assert_eq!(machine.state, State::Resolved(Outcome::Committed));
}
