use super::*;
use crate::frame::{FrameReader, encode};

/// What an older build has said is understood, and said in the same way.
#[track_caller]
fn assert_frozen(note: &Note, bytes: &[u8]) {
    assert_eq!(encode(1, note).expect("it is short"), bytes);
    let mut reader = FrameReader::new();
    reader.push(bytes);
    let read = reader.next_of::<Note>().expect("it is a frame").expect("it is whole");
    assert_eq!((read.0, &read.1), (1, note));
}

#[test]
fn the_bytes_of_an_offer_are_frozen() {
    let words = |name: &str, kind, may_be_lost| WireSet { name: name.into(), kind, may_be_lost };
    let sets = vec![
        words("clients", CarryKind::Connections, false),
        words("a.0", CarryKind::Memory, true),
    ];
    let bytes = [
        &[20, 0, 0, 0, 1, 0, 0, 2][..],
        &[7, b'c', b'l', b'i', b'e', b'n', b't', b's', 0, 0],
        &[3, b'a', b'.', b'0', 1, 1],
    ];
    assert_frozen(&Note::Offer { sets }, &bytes.concat());
    assert_frozen(&Note::Offer { sets: Vec::new() }, &[4, 0, 0, 0, 1, 0, 0, 0]);
}

#[test]
fn the_bytes_of_a_parcel_are_frozen() {
    let item = |name: &str, state| WireItem { name: name.into(), state };
    let items = vec![
        item("ab", WireState::Inline(Bytes(vec![0xff, 0, 251]))),
        item("", WireState::Apart { length: 1 << 32 }),
        item("k", WireState::Memory { length: 300 }),
    ];
    let bytes = [
        &[36, 0, 0, 0, 1, 0, 1, 250][..],
        &[1, 1, b'n', 0xfb, 0x2c, 1],
        &[3],
        &[2, b'a', b'b', 0, 3, 0xff, 0, 251],
        &[0, 1, 0xfd, 0, 0, 0, 0, 1, 0, 0, 0],
        &[1, b'k', 2, 0xfb, 0x2c, 1],
    ];
    let format = Some(Format { name: "n".into(), version: 300 });
    assert_frozen(&Note::Parcel { set: 250, format, items }, &bytes.concat());
    let none = Note::Parcel { set: 0, format: None, items: Vec::new() };
    assert_frozen(&none, &[6, 0, 0, 0, 1, 0, 1, 0, 0, 0]);
}

#[test]
fn the_bytes_of_the_end_are_frozen() {
    let end = Note::End { sent: vec![0, 250, 251] };
    assert_frozen(&end, &[9, 0, 0, 0, 1, 0, 2, 3, 0, 250, 0xfb, 251, 0]);
}

/// Whatever else grows, a parcel has to go with a frame.
#[test]
fn the_fullest_parcel_is_shorter_than_a_frame_may_be() {
    const { assert!(PARCEL_BYTES + MAX_INLINE_LEN + (4 << 10) < 1 << 20) };
}
