use std::os::fd::AsFd;
use std::sync::Arc;

use super::*;
use crate::sys::memory;

fn both_ends() -> (Claim, Claim) {
    let incumbent = Claim::new().expect("memory");
    let copy = incumbent.as_fd().try_clone_to_owned().expect("a descriptor is left");
    (incumbent, Claim::of(copy).expect("it is one"))
}

#[test]
#[cfg_attr(miri, ignore = "maps memory that has a descriptor")]
fn what_is_taken_back_cannot_be_taken_up() {
    let (incumbent, successor) = both_ends();
    assert_eq!(successor.held(), Held::Parked);
    assert!(incumbent.take_back());
    assert_eq!((incumbent.held(), successor.held()), (Held::TakenBack, Held::TakenBack));
    assert!(!successor.take_up());
}

#[test]
#[cfg_attr(miri, ignore = "maps memory that has a descriptor")]
fn what_is_taken_up_cannot_be_taken_back() {
    let (incumbent, successor) = both_ends();
    assert!(successor.take_up());
    assert!(!incumbent.take_back());
    assert_eq!((incumbent.held(), successor.held()), (Held::TakenUp, Held::TakenUp));
    assert!(!successor.take_up(), "it is taken up once");
}

/// An undo that fails on its way is run again.
#[test]
#[cfg_attr(miri, ignore = "maps memory that has a descriptor")]
fn what_is_taken_back_again_is_still_this_process_s() {
    let (incumbent, _successor) = both_ends();
    assert!(incumbent.take_back());
    assert!(incumbent.take_back());
}

#[test]
#[cfg_attr(miri, ignore = "maps memory that has a descriptor")]
fn of_two_that_try_at_once_one_has_it() {
    for _ in 0..200 {
        let (incumbent, successor) = both_ends();
        let up = std::thread::spawn(move || successor.take_up());
        let back = incumbent.take_back();
        assert_ne!(up.join().expect("it ends"), back);
    }
}

#[test]
fn wherever_the_word_is_one_of_two_has_it_and_the_other_sees_what_was_written_before() {
    use std::sync::atomic::Ordering::Relaxed;
    let rounds = if cfg!(miri) { 20 } else { 200 };
    for _ in 0..rounds {
        let (word, data) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let incumbent = Claim(memory::Word::at(Arc::clone(&word)));
        let successor = Claim(memory::Word::at(word));
        let up = std::thread::spawn({
            let data = Arc::clone(&data);
            move || {
                data.store(1, Relaxed);
                successor.take_up()
            }
        });
        let back = incumbent.take_back();
        assert!(back || data.load(Relaxed) == 1);
        assert_ne!(up.join().expect("it ends"), back);
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps memory that has a descriptor")]
fn what_cannot_be_written_or_is_of_another_length_is_no_claim() {
    let sealed = memory::create("test").expect("memory");
    sealed.set_len(4).expect("it grows");
    let sealed = memory::Sealed::seal(sealed).expect("it is sealed");
    let sealed = sealed.as_fd().try_clone_to_owned().expect("a descriptor is left");
    for descriptor in [sealed, tempfile::tempfile().expect("a file").into()] {
        let error = Claim::of(descriptor).expect_err("it is none");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps memory that has a descriptor")]
fn of_a_word_that_says_what_it_cannot_nothing_is_used() {
    let word = memory::Word::new().expect("memory");
    word.claim(7).expect("it is zero");
    let copy = word.as_fd().try_clone_to_owned().expect("a descriptor is left");
    let claim = Claim::of(copy).expect("it is a word");
    assert_eq!((claim.held(), claim.take_up(), claim.take_back()), (Held::TakenBack, false, false));
}

/// All there is, but for what nobody can have: `Usable::of` is explored in the model too.
#[test]
fn what_a_successor_may_use_follows_from_how_the_channel_ended() {
    use End::{Broken, CutOff, Whole};
    use Held::{Parked, TakenBack};
    use Usable::{All, Connections, Nothing};
    for (end, is_as_sealed, held, is_dead, expected) in [
        (Whole, true, Parked, false, Some(All)),
        (Whole, true, Parked, true, Some(All)),
        (Whole, false, Parked, true, Some(Connections)),
        (Whole, false, Parked, false, None),
        (Whole, true, TakenBack, true, Some(Nothing)),
        (CutOff, true, Parked, true, Some(Connections)),
        (CutOff, false, Parked, true, Some(Connections)),
        (CutOff, true, Parked, false, None),
        (CutOff, true, TakenBack, true, Some(Nothing)),
        (CutOff, true, TakenBack, false, Some(Nothing)),
        (Broken, true, Parked, true, Some(Nothing)),
        (Broken, true, TakenBack, true, Some(Nothing)),
        (Broken, true, Parked, false, None),
        (Broken, true, TakenBack, false, None),
    ] {
        let usable = Usable::of(end, is_as_sealed, held, is_dead);
        assert_eq!(usable, expected, "{end:?}, {is_as_sealed}, {held:?}, {is_dead}");
    }
}
