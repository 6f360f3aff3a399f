//! What came from another process.

use super::*;
use crate::carry::set::{StateBytes, descriptors_of};

fn good() -> Vec<u8> {
    let mut bytes = Vec::new();
    write_value(&Client::new(5, 20), &mut bytes).expect("it is written");
    bytes
}

fn arrive(set: &Shared, mut parcels: Vec<Parcel>) -> Result<CarryFate, CarryError> {
    let fate = set.arrive("clients", &mut parcels)?;
    assert_eq!(parcels.len(), 0, "all of it was taken");
    Ok(fate)
}

fn parcel(format: Format, descriptor: impl Into<OwnedFd>, state: Vec<u8>) -> Parcel {
    let (name, descriptor) = ("one".to_owned(), descriptor.into());
    let item = Item::Connection { name, descriptor, state: StateBytes::Inline(state) };
    Parcel { format: Some(format), items: vec![item] }
}

/// What an older build wrote.
#[derive(Serialize, Deserialize)]
struct OldClient(u32);

impl Carried for OldClient {
    const NAME: &'static str = Client::NAME;
    const VERSION: u32 = 6;
}

impl From<OldClient> for Client {
    fn from(old: OldClient) -> Self {
        Self::new(old.0, 0)
    }
}

#[test]
fn the_state_of_an_older_build_is_converted_where_that_was_said() {
    let old = || parcel(Format::of::<OldClient>(), socket(), vec![9]);
    let new = || parcel(Format::of::<Client>(), socket(), good());
    let set = Arc::new(Connections::<Client>::new().from::<OldClient>());
    let fate = arrive(&set, vec![old(), new()]).expect("both are read");
    assert_eq!(fate, CarryFate::Converted { from: "test.client version 6".into() });
    assert_eq!(arrive(&set, vec![new()]).expect("it is read"), CarryFate::Taken);
    set.release();
    let states: Vec<_> = take_all(&set).into_iter().map(|(_, (_, state))| state).collect();
    assert_eq!(states, [Client::new(5, 20), Client::new(5, 20), Client::new(9, 0)]);

    let error = arrive(&serving(), vec![old()]).expect_err("it is not read");
    let CarryError::Unreadable { set, arrived, reads } = error else { panic!("{error}") };
    assert_eq!((&*set, &*arrived), ("clients", "test.client version 6"));
    assert_eq!(reads, "test.client version 7");
}

#[test]
fn a_state_that_is_cut_or_too_long_or_another_s_is_refused_and_nothing_is_kept() {
    let format = Format::of::<Client>;
    let all = good();
    let mut bad: Vec<Vec<u8>> = (0..all.len()).map(|cut| all[..cut].to_vec()).collect();
    bad.push([&all[..], &[0]].concat());
    for state in bad {
        let set = Shared::<Client>::default();
        let (sound, cut) = (socket(), socket());
        let inodes = [inode(&sound), inode(&cut)];
        let mut parcels = vec![parcel(format(), sound, good()), parcel(format(), cut, state)];
        match set.arrive("clients", &mut parcels) {
            Err(CarryError::Damaged { set, item, .. }) => {
                assert_eq!((&*set, &*item), ("clients", "one"));
            }
            other => panic!("{other:?}"),
        }
        // Where they may be lost, they are closed once this process serves.
        let left: Vec<_> = descriptors_of(parcels).collect();
        assert!(left.iter().map(inode).eq(inodes));
        drop(left);
        set.release();
        assert!(set.try_arrival().is_none());
        assert_closed(&inodes);
    }
    let set = Shared::<Client>::default();
    let no_format = Parcel { format: None, ..parcel(format(), socket(), good()) };
    let error = arrive(&set, vec![no_format]).expect_err("nobody knows what it is");
    assert!(matches!(error, CarryError::Channel(_)), "{error}");
}

#[test]
fn of_another_process_only_the_copies_are_closed() {
    let set = Shared::<Client>::default();
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let copy = inode(&ours);
    arrive(&set, vec![parcel(Format::of::<Client>(), ours, good())]).expect("it is read");
    set.forget();
    set.release();
    assert!(set.try_arrival().is_none());
    assert_closed(&[copy]);
    drop(theirs);
}

#[test]
fn a_daemon_cannot_open_what_has_arrived_before_it_serves() {
    let set = Shared::<Client>::default();
    // A daemon that has no reason to, and does.
    set.open();
    arrive(&set, vec![parcel(Format::of::<Client>(), socket(), good())]).expect("it is read");
    assert!(set.try_arrival().is_none());
    set.open();
    assert!(set.try_arrival().is_none(), "the incumbent may serve it again");
    set.release();
    assert!(set.try_arrival().is_some());
}
