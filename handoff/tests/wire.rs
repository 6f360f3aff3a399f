//! The wire, byte by byte: what one build writes, every other has to read.

use std::io::{Cursor, ErrorKind};

use handoff::Error;
use handoff::error::FrameError;
use handoff::frame::{FrameReader, MAX_FRAME_LEN, read_message, write_message};
use handoff::protocol::{
    Capabilities, CarriedSet, CarryFate, CarryKind, HandoffId, MAX_LISTENERS,
    MAX_NAMED_CONNECTIONS, MAX_SHARDS, Message, Side,
};
use proptest::prelude::*;

const ID: [u8; 16] = [
    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
];
/// An identifier is written as 16 bytes after their count.
const ID_HEX: &str = "1000112233445566778899aabbccddeeff";

/// Every variant in the order of its discriminant, with the payload it is on the wire.
fn golden() -> Vec<(Message, String)> {
    let handoff_id = HandoffId::from_bytes(ID);
    let id = ID_HEX;
    vec![
        (
            Message::Hello {
                role: Side::Successor,
                pid: 70_000,
                build_id: b"v2".to_vec(),
                proto_min: 1,
                proto_max: 300,
                capabilities: Capabilities { reserved: 0 },
            },
            "00 01 fc70110100 02 7632 01 fb2c01 00".into(),
        ),
        (Message::HelloAck { proto_version_chosen: 1, handoff_id }, format!("01 01 {id}")),
        (
            Message::PrepareHandoff {
                handoff_id,
                successor_pid: 250,
                deadline_ms: 300_000,
                drain_grace_ms: u64::MAX,
            },
            format!("02 {id} fa fce0930400 fdffffffffffffffff"),
        ),
        (
            Message::Drained { open_conns_remaining: 251, accept_closed: true },
            "03 fbfb00 01".into(),
        ),
        (Message::SealRequest { handoff_id }, format!("04 {id}")),
        (
            Message::SealProgress { shards_sealed: 3, shards_total: 16, last_revision: 1 << 32 },
            "05 03 10 fd0000000001000000".into(),
        ),
        (
            Message::SealComplete {
                handoff_id,
                last_revision_per_shard: vec![0, 7, 65_536],
                data_dir_fingerprint: [0xab; 32],
            },
            format!("06 {id} 03 00 07 fc00000100 {}", "ab".repeat(32)),
        ),
        (
            Message::SealFailed {
                handoff_id,
                error: "disk".into(),
                partial_state: "\u{e9}".into(),
            },
            format!("07 {id} 04 6469736b 02 c3a9"),
        ),
        (Message::Begin { handoff_id }, format!("08 {id}")),
        (
            Message::Ready {
                handoff_id,
                listening_on: vec!["resp".into()],
                healthz_ok: true,
                advertised_revision_per_shard: vec![9],
            },
            format!("09 {id} 01 04 72657370 01 01 09"),
        ),
        (Message::Commit { handoff_id }, format!("0a {id}")),
        (Message::Abort { handoff_id, reason: String::new() }, format!("0b {id} 00")),
        (Message::ResumeAfterAbort { handoff_id }, format!("0c {id}")),
        (Message::Heartbeat { ts_ms: 1_763_900_000_000 }, "0d fd0007a2b09a010000".into()),
        (Message::Serving { handoff_id, generation: 12 }, format!("0e {id} 0c")),
        (Message::Warmed { handoff_id }, format!("0f {id}")),
        (
            Message::Verified { handoff_id, data_dir_fingerprint: [1; 32] },
            format!("10 {id} {}", "01".repeat(32)),
        ),
        (Message::Adopt { handoff_id }, format!("11 {id}")),
        (
            Message::Adopted {
                handoff_id,
                generation: 300,
                listeners: vec!["a".into(), "resp".into()],
                left: 2,
            },
            format!("12 {id} fb2c01 02 01 61 04 72657370 02"),
        ),
        (Message::Fetch { handoff_id }, format!("13 {id}")),
        (
            Message::Late { handoff_id, connections: vec!["a".into()], unnamed: 251 },
            format!("14 {id} 01 01 61 fbfb00"),
        ),
        (
            Message::Carried {
                handoff_id,
                sets: vec![
                    CarriedSet {
                        name: "a".into(),
                        kind: CarryKind::Connections,
                        count: 2,
                        bytes: 300,
                        fate: CarryFate::Taken,
                    },
                    CarriedSet {
                        name: "b".into(),
                        kind: CarryKind::Memory,
                        count: 1,
                        bytes: 0,
                        fate: CarryFate::Converted { from: "f".into() },
                    },
                    CarriedSet {
                        name: "c".into(),
                        kind: CarryKind::Memory,
                        count: 0,
                        bytes: 0,
                        fate: CarryFate::Dropped { why: "w".into() },
                    },
                ],
            },
            format!(
                "15 {id} 03 01 61 00 02 fb2c01 00 01 62 01 01 00 01 01 66 01 63 01 00 00 02 01 77"
            ),
        ),
        (
            Message::Draining {
                handoff_id,
                open_conns: 3,
                connections: vec!["b".into()],
                unnamed: 300,
            },
            format!("16 {id} 03 01 01 62 fb2c01"),
        ),
        (Message::WatchGate { handoff_id }, format!("17 {id}")),
        (Message::GateClosed { handoff_id }, format!("18 {id}")),
    ]
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn frame(version: u16, message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_message(&mut bytes, version, message).expect("a vector takes it");
    bytes
}

#[test]
fn every_variant_has_its_golden_bytes() {
    for (index, (message, payload)) in golden().into_iter().enumerate() {
        let payload = unhex(&payload);
        assert_eq!(usize::from(payload[0]), index, "the discriminant of {message:?}");
        let mut expected = ((payload.len() + 2) as u32).to_le_bytes().to_vec();
        expected.extend([0x01, 0x00]);
        expected.extend(payload);
        assert_eq!(frame(1, &message), expected, "{message:?}");
        let read = read_message(&mut expected.as_slice()).expect("it is a frame");
        assert_eq!(read, (1, message));
    }
}

#[test]
fn a_frame_that_is_cut_is_truncated_and_an_empty_stream_is_its_end() {
    for (message, _) in golden() {
        let whole = frame(1, &message);
        for length in 1..whole.len() {
            match read_message(&mut &whole[..length]) {
                Err(Error::Frame(FrameError::Truncated)) => {}
                other => panic!("{length} of {}: {other:?}", whole.len()),
            }
        }
    }
    match read_message(&mut std::io::empty()) {
        Err(Error::Io(error)) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
        other => panic!("{other:?}"),
    }
}

#[test]
fn lengths_outside_the_limits_are_refused_before_anything_is_read() {
    for length in [0, 1, MAX_FRAME_LEN + 1, u32::MAX] {
        let mut stream = Cursor::new([&length.to_le_bytes()[..], &[0; 64]].concat());
        match read_message(&mut stream) {
            Err(Error::Frame(FrameError::TooShort(told))) => assert!(told == length && length < 2),
            Err(Error::Frame(FrameError::TooLong(told))) => assert!(told == length && length > 1),
            other => panic!("{other:?}"),
        }
        assert_eq!(stream.position(), 4);
    }
}

#[test]
fn a_message_above_the_limit_is_not_written() {
    let handoff_id = HandoffId::from_bytes(ID);
    let reason = |length: usize| Message::Abort { handoff_id, reason: "x".repeat(length) };
    let overhead = 2 + 1 + 17 + 5;
    let max_len = MAX_FRAME_LEN as usize - overhead;
    let written = frame(1, &reason(max_len));
    assert_eq!(written.len(), 4 + MAX_FRAME_LEN as usize);
    assert_eq!(read_message(&mut written.as_slice()).expect("it is a frame").1, reason(max_len));
    let mut bytes = Vec::new();
    match write_message(&mut bytes, 1, &reason(max_len + 1)) {
        Err(Error::Frame(FrameError::TooLong(length))) => assert_eq!(length, MAX_FRAME_LEN + 1),
        other => panic!("{other:?}"),
    }
    assert!(bytes.is_empty());
}

#[test]
fn a_payload_that_is_no_message_or_more_than_one_is_refused() {
    let framed = |payload: &[u8]| {
        let mut bytes = ((payload.len() + 2) as u32).to_le_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(payload);
        bytes
    };
    for payload in [&[][..], &[17], &[200, 1], &[4, 3], &[3, 1, 2], &[0xff; 9]] {
        match read_message(&mut framed(payload).as_slice()) {
            Err(Error::Frame(FrameError::Payload(_))) => {}
            other => panic!("{payload:?}: {other:?}"),
        }
    }
    match read_message(&mut framed(&[13, 5, 0, 0]).as_slice()) {
        Err(Error::Frame(FrameError::TrailingBytes(2))) => {}
        other => panic!("{other:?}"),
    }
    // A count that claims more than the frame holds reserves nothing of that size.
    let mut claims = unhex(&format!("06 {ID_HEX}"));
    claims.extend([0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00]);
    match read_message(&mut framed(&claims).as_slice()) {
        Err(Error::Frame(FrameError::Payload(_))) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_that_would_take_more_memory_than_a_frame_is_refused() {
    let handoff_id = HandoffId::from_bytes(ID);
    let revisions = |count| Message::SealComplete {
        handoff_id,
        last_revision_per_shard: vec![0; count],
        data_dir_fingerprint: [0; 32],
    };
    let names = |count| Message::Ready {
        handoff_id,
        listening_on: vec![String::new(); count],
        healthz_ok: true,
        advertised_revision_per_shard: Vec::new(),
    };
    let draining = |count| Message::Draining {
        handoff_id,
        open_conns: 0,
        connections: vec![String::new(); count],
        unnamed: 0,
    };
    for (largest, more) in [
        (revisions(MAX_SHARDS), revisions(MAX_SHARDS + 1)),
        (names(MAX_LISTENERS), names(MAX_LISTENERS + 1)),
        (draining(MAX_NAMED_CONNECTIONS), draining(MAX_NAMED_CONNECTIONS + 1)),
    ] {
        assert_eq!(
            read_message(&mut frame(1, &largest).as_slice()).expect("it is a frame").1,
            largest
        );
        match read_message(&mut frame(1, &more).as_slice()) {
            Err(Error::Frame(FrameError::Payload(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_version_of_a_frame_is_the_reader_s_to_judge() {
    let message = Message::Heartbeat { ts_ms: 1 };
    for version in [0, 1, 2, u16::MAX] {
        let bytes = frame(version, &message);
        let read = read_message(&mut bytes.as_slice()).expect("it is a frame");
        assert_eq!(read, (version, message.clone()));
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let id = any::<[u8; 16]>().prop_map(HandoffId::from_bytes);
    let revisions = prop::collection::vec(any::<u64>(), 0..40);
    prop_oneof![
        (any::<u32>(), prop::collection::vec(any::<u8>(), 0..40), any::<(u16, u16, u64)>())
            .prop_map(|(pid, build_id, (proto_min, proto_max, reserved))| Message::Hello {
                role: Side::Incumbent,
                pid,
                build_id,
                proto_min,
                proto_max,
                capabilities: Capabilities { reserved },
            }),
        (id.clone(), any::<(u32, u64, u64)>()).prop_map(|(handoff_id, numbers)| {
            let (successor_pid, deadline_ms, drain_grace_ms) = numbers;
            Message::PrepareHandoff { handoff_id, successor_pid, deadline_ms, drain_grace_ms }
        }),
        (id.clone(), revisions.clone(), any::<[u8; 32]>()).prop_map(
            |(handoff_id, last_revision_per_shard, data_dir_fingerprint)| Message::SealComplete {
                handoff_id,
                last_revision_per_shard,
                data_dir_fingerprint,
            }
        ),
        (id.clone(), any::<(String, String)>()).prop_map(|(handoff_id, (error, partial_state))| {
            Message::SealFailed { handoff_id, error, partial_state }
        }),
        (id, any::<(Vec<String>, bool)>(), revisions).prop_map(
            |(handoff_id, (listening_on, healthz_ok), advertised_revision_per_shard)| {
                Message::Ready {
                    handoff_id,
                    listening_on,
                    healthz_ok,
                    advertised_revision_per_shard,
                }
            }
        ),
        any::<u64>().prop_map(|ts_ms| Message::Heartbeat { ts_ms }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in any_message(), version: u16) {
        let bytes = frame(version, &message);
        prop_assert_eq!(read_message(&mut bytes.as_slice()).ok(), Some((version, message)));
    }

    #[test]
    fn arbitrary_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = read_message(&mut bytes.as_slice());
    }

    #[test]
    fn both_readers_agree_wherever_the_stream_is_cut(
        messages in prop::collection::vec(any_message(), 1..6),
        cuts in prop::collection::vec(1usize..50, 1..40),
        flip in prop::option::of(any::<(prop::sample::Index, u8)>()),
    ) {
        let mut bytes: Vec<u8> = messages.iter().flat_map(|message| frame(1, message)).collect();
        if let Some((index, mask)) = flip {
            let index = index.index(bytes.len());
            bytes[index] ^= mask;
        }
        let mut stream = bytes.as_slice();
        let mut whole = Vec::new();
        let whole_error = loop {
            match read_message(&mut stream) {
                Ok(frame) => whole.push(frame),
                Err(error) => break error.to_string(),
            }
        };
        let mut reader = FrameReader::new();
        let mut pieces = Vec::new();
        let mut rest = bytes.as_slice();
        let mut cuts = cuts.into_iter().cycle();
        let piece_error = 'reading: loop {
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => pieces.push(frame),
                    Ok(None) => break,
                    Err(error) => break 'reading Some(Error::from(error).to_string()),
                }
            }
            if rest.is_empty() {
                break None;
            }
            let (piece, after) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            reader.push(piece);
            rest = after;
        };
        prop_assert_eq!(whole, pieces);
        match piece_error {
            Some(error) => prop_assert_eq!(error, whole_error),
            None => prop_assert_eq!(
                reader.is_inside_a_frame(),
                whole_error == Error::from(FrameError::Truncated).to_string()
            ),
        }
    }
}
