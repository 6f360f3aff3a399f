use super::*;
use crate::carry::pair::{Client, socket};
use crate::carry::{Connections, Memory, SealedMemory};

fn names(carriage: &Carriage<'_>) -> Vec<String> {
    carriage.words().into_iter().map(|words| words.name).collect()
}

#[test]
fn the_elements_of_a_collection_are_numbered_and_an_option_has_its_name() {
    let clients = Arc::new(Connections::<Client>::new());
    let several = vec![Arc::clone(&clients), Arc::default()];
    let nested = [vec![Memory::new()], Vec::new(), vec![Memory::new(), Memory::new()]];
    let (some, none) = (Some(Box::new(Memory::new())), None::<Memory>);
    let carriage = Carriage::new()
        .with("clients", &clients)
        .with("several", &several)
        .with("slice", &several[..1])
        .with("nested", &nested)
        .with("some", &some)
        .with("none", &none);
    let expected = [
        "clients",
        "several.0",
        "several.1",
        "slice.0",
        "nested.0.0",
        "nested.2.0",
        "nested.2.1",
        "some",
    ];
    assert_eq!(names(&carriage), expected);
    assert_eq!(carriage.len(), expected.len());
    assert!(carriage.check().is_ok());
    assert!(Carriage::new().is_empty() && Carriage::new().with("none", &none).is_empty());
    let kinds: Vec<_> = carriage.words().into_iter().map(|words| words.kind).collect();
    assert_eq!(kinds[..4], [CarryKind::Connections; 4]);
    assert_eq!(kinds[4..], [CarryKind::Memory; 4]);
}

#[test]
fn two_sets_of_one_name_are_found_wherever_the_name_comes_from() {
    let (one, several) = (Memory::new(), [Memory::new(), Memory::new()]);
    let carriage = Carriage::new().with("a.1", &one).with("a", &several);
    let error = carriage.check().expect_err("there are two");
    let expected = CarryError::DuplicateSet { set: "a.1".into() };
    assert_eq!(format!("{error:?}"), format!("{expected:?}"));
}

#[test]
fn there_may_be_so_many_sets_and_no_more() {
    let mut many: Vec<_> = (0..MAX_SETS).map(|_| Memory::new()).collect();
    assert!(Carriage::new().with("many", &many).check().is_ok());
    many.push(Memory::new());
    let error = Carriage::new().with("many", &many).check().expect_err("one too many");
    assert!(matches!(error, CarryError::TooManySets(257)), "{error}");
}

/// Who did not ask is a build that knows nothing of it.
#[test]
fn a_successor_that_does_not_ask_is_refused_while_there_is_something_to_lose() {
    let not_asked_for = |set: &str| {
        let expected = CarryError::NotAskedFor { set: set.into() };
        Some(format!("{expected:?}"))
    };
    let refused =
        |carriage: Carriage<'_>| carriage.check_asked_for().err().map(|error| format!("{error:?}"));
    let clients = Arc::new(Connections::<Client>::new());
    let (cache, lossy_cache) = (Memory::new(), Memory::new().may_be_lost());
    let lossy_clients = Arc::new(Connections::<Client>::new().may_be_lost());
    let of = || {
        Carriage::new()
            .with("lossy-cache", &lossy_cache)
            .with("lossy-clients", &lossy_clients)
            .with("cache", &cache)
            .with("clients", &clients)
    };
    let bytes = || SealedMemory::of_bytes(b"").expect("memory");
    lossy_cache.put("key", bytes());
    let _lossy = lossy_clients.enter("client");
    assert_eq!(refused(of()), None);
    let ticket = clients.enter("client");
    assert_eq!(refused(of()), not_asked_for("clients"));
    // One that waits for a handler counts as one that has a handler.
    ticket.park(socket(), Client::new(1, 0));
    assert_eq!(refused(of()), not_asked_for("clients"));
    cache.put("key", bytes());
    assert_eq!(refused(of()), not_asked_for("cache"));
    cache.remove("key");
    of().release();
    drop(clients.try_arrival().expect("it is parked"));
    assert_eq!(refused(of()), None);
}

#[test]
fn all_that_are_late_are_named() {
    let sets = [Arc::new(Connections::<Client>::new()), Arc::default()];
    let carriage = Carriage::new().with("sets", &sets);
    let _tickets = [sets[1].enter("z"), sets[0].enter("b"), sets[0].enter("a")];
    assert_eq!(carriage.wait_parked(Instant::now()), ["a", "b", "z"]);
}

#[test]
fn those_that_are_not_parked_are_named_set_by_set_as_far_as_there_is_room() {
    let sets: [Arc<Connections<Client>>; 2] = Default::default();
    let cache = Memory::new();
    let carriage = Carriage::new().with("cache", &cache).with("sets", &sets);
    assert_eq!(carriage.not_parked(3), (vec![], 0));
    let _first = ["d", "c"].map(|name| sets[0].enter(name));
    let _second = ["b", "a"].map(|name| sets[1].enter(name));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(carriage.not_parked(1), (names(&["c"]), 3));
    assert_eq!(carriage.not_parked(3), (names(&["c", "d", "a"]), 1));
    assert_eq!(carriage.not_parked(4), (names(&["c", "d", "a", "b"]), 0));
}
