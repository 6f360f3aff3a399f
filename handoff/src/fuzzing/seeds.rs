//! The first inputs of the corpus: real values, and one input for each possible failure.

use std::fmt::Write as _;

use crate::datadir::schema::Left;
use crate::datadir::{OwnerRecord, RecordPhase, SealManifest};
use crate::drainable::{Extent, Schema, SealReport, SealedShard};
use crate::frame::{MAX_FRAME_LEN, encode};
use crate::machine::outcome::Outcome;
use crate::protocol::{
    Capabilities, CarriedSet, CarryFate, CarryKind, HandoffId, MAX_NAMED_CONNECTIONS, MAX_SHARDS,
    Message, Side,
};
use crate::supervisor::journal::{Entry, OpenSwap};
use crate::sys::process::ProcessId;

/// The seeds of a target, by name.
pub(super) fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    match target {
        "frame" => frames(),
        "record" => records(),
        "manifest" => manifests(),
        "schema" => schemas(),
        "journal" => journals(),
        "session" => sessions(),
        "carry" => carries(),
        _ => Vec::new(),
    }
}

fn messages() -> Vec<Message> {
    let handoff_id = HandoffId::from_bytes([1; 16]);
    vec![
        Message::Hello {
            role: Side::Successor,
            pid: 70_000,
            build_id: b"build 2".to_vec(),
            proto_min: 1,
            proto_max: 300,
            capabilities: Capabilities::default(),
        },
        Message::HelloAck { proto_version_chosen: 1, handoff_id },
        Message::PrepareHandoff {
            handoff_id,
            successor_pid: 250,
            deadline_ms: 300_000,
            drain_grace_ms: u64::MAX,
        },
        Message::Drained { open_conns_remaining: 251, accept_closed: true },
        Message::SealRequest { handoff_id },
        Message::SealProgress { shards_sealed: 3, shards_total: 16, last_revision: 1 << 32 },
        Message::SealComplete {
            handoff_id,
            last_revision_per_shard: vec![0, 250, 65_536, u64::MAX],
            data_dir_fingerprint: [0xab; 32],
        },
        Message::SealFailed { handoff_id, error: "no space".into(), partial_state: "é".into() },
        Message::Begin { handoff_id },
        Message::Ready {
            handoff_id,
            listening_on: vec!["http".into(), String::new()],
            healthz_ok: true,
            advertised_revision_per_shard: vec![7, 300],
        },
        Message::Commit { handoff_id },
        Message::Abort { handoff_id, reason: "why".into() },
        Message::ResumeAfterAbort { handoff_id },
        Message::Heartbeat { ts_ms: 1_700_000_000_000 },
        Message::Serving { handoff_id, generation: 5 },
        Message::Warmed { handoff_id },
        Message::Verified { handoff_id, data_dir_fingerprint: [8; 32] },
        Message::Adopt { handoff_id },
        Message::Adopted { handoff_id, generation: 5, listeners: vec!["http".into()], left: 1 },
        Message::Fetch { handoff_id },
        Message::Late { handoff_id, connections: vec!["10.0.0.1:80".into()], unnamed: 2 },
        Message::Carried {
            handoff_id,
            sets: vec![CarriedSet {
                name: "clients".into(),
                kind: CarryKind::Connections,
                count: 2,
                bytes: 300,
                fate: CarryFate::Dropped { why: "why".into() },
            }],
        },
        Message::Draining {
            handoff_id,
            open_conns: 3,
            connections: vec!["10.0.0.1:80".into()],
            unnamed: 2,
        },
        Message::WatchGate { handoff_id },
        Message::GateClosed { handoff_id },
    ]
}

fn frames() -> Vec<(String, Vec<u8>)> {
    let frame = |message: &Message| encode(1, message).expect("it is short");
    let mut all = Vec::new();
    let mut seeds = Vec::new();
    for message in &messages() {
        let body = &frame(message)[4..];
        all.extend_from_slice(&frame(message));
        // In one piece, with a prefix that follows the body's length.
        seeds.push((message.name().to_lowercase(), [&[0, 1, body.len() as u8], body].concat()));
    }
    seeds.push(("all-in-one-piece".into(), [&[0, 3], &all[..]].concat()));
    seeds.push(("all-byte-by-byte".into(), [&[1, 1, 3], &all[..]].concat()));
    seeds.push(("all-in-uneven-pieces".into(), [&[3, 3, 201, 17, 3], &all[..]].concat()));
    seeds.push(("all-but-the-end".into(), [&[1, 50, 3], &all[..all.len() - 1]].concat()));
    seeds.push(("ends-in-a-prefix".into(), [&[0, 3], &all[..2]].concat()));
    seeds.push(("nothing".into(), vec![0]));
    seeds.push(("too-short".into(), vec![0, 3, 1, 0, 0, 0, 9]));
    seeds.push(("too-long".into(), vec![1, 1, 3, 1, 0, 16, 0, 9]));
    seeds.push(("no-message".into(), vec![0, 1, 3, 1, 0, 200]));
    seeds.push(("trailing".into(), vec![0, 1, 5, 1, 0, 13, 7, 7]));
    let max_len = MAX_FRAME_LEN - 2 - 1 - 17 - 5;
    let mut abort =
        frame(&Message::Abort { handoff_id: id(), reason: String::new() })[4..].to_vec();
    abort.pop();
    abort.push(0xfc);
    for (name, length) in [("max-length", max_len), ("longer-than-max", max_len + 1)] {
        let head = [&abort[..], &length.to_le_bytes()].concat();
        seeds.push((name.into(), stretched(255, &head, b'x', length)));
    }
    for (name, count) in [("max-shards", MAX_SHARDS), ("too-many-shards", MAX_SHARDS + 1)] {
        let mut head = frame(&Message::SealRequest { handoff_id: id() })[4..].to_vec();
        head[2] = 6;
        head.push(0xfc);
        head.extend_from_slice(&(count as u32).to_le_bytes());
        // The fingerprint is zero, as the revisions are.
        seeds.push((name.into(), stretched(0, &head, 0, count as u32 + 32)));
    }
    for (name, count) in [("max-listeners", 1024_u16), ("too-many-listeners", 1025)] {
        let mut head = frame(&Message::SealRequest { handoff_id: id() })[4..].to_vec();
        head[2] = 9;
        head.push(0xfb);
        head.extend_from_slice(&count.to_le_bytes());
        // Unhealthy, and without revisions.
        seeds.push((name.into(), stretched(7, &head, 0, u32::from(count) + 2)));
    }
    for (name, count) in
        [("max-late", MAX_NAMED_CONNECTIONS), ("too-many-late", MAX_NAMED_CONNECTIONS + 1)]
    {
        let mut head = frame(&Message::SealRequest { handoff_id: id() })[4..].to_vec();
        head[2] = 20;
        head.push(count as u8);
        // No further connections.
        seeds.push((name.into(), stretched(3, &head, 0, count as u32 + 1)));
    }
    for (name, count) in
        [("max-draining", MAX_NAMED_CONNECTIONS), ("too-many-draining", MAX_NAMED_CONNECTIONS + 1)]
    {
        let mut head = frame(&Message::SealRequest { handoff_id: id() })[4..].to_vec();
        head[2] = 22;
        // The daemon counts none as open.
        head.extend([0, count as u8]);
        seeds.push((name.into(), stretched(3, &head, 0, count as u32 + 1)));
    }
    for (name, count) in [("max-sets", 256_u16), ("too-many-sets", 257)] {
        let mut head = frame(&Message::SealRequest { handoff_id: id() })[4..].to_vec();
        head[2] = 21;
        head.push(0xfb);
        head.extend_from_slice(&count.to_le_bytes());
        // Sets without a name, of no connections, which the successor took.
        seeds.push((name.into(), stretched(9, &head, 0, 5 * u32::from(count))));
    }
    seeds
}

/// One frame: a head, and then `count` times the byte `filler`.
fn stretched(piece: u8, head: &[u8], filler: u8, count: u32) -> Vec<u8> {
    let [low, middle, high, _] = count.to_le_bytes();
    [&[1, piece, 2, head.len() as u8], head, &[filler, low, middle, high]].concat()
}

fn records() -> Vec<(String, Vec<u8>)> {
    let record = |phase| OwnerRecord {
        by_byte: true,
        reserved_by_byte: false,
        is_unserved: phase == RecordPhase::Held,
        phase,
        generation: 7,
        sealed_generation: 6,
        is_seal_unsynced: phase == RecordPhase::Opening,
        writer: ProcessId { pid: 11, start_time: 12 },
        reserved: ProcessId { pid: 13, start_time: 14 },
        handoff_id: Some(id()),
        build_id: b"build 3".to_vec(),
        format: 5,
        boot_id: [9; 16],
    };
    let mut seeds = vec![
        ("empty".to_owned(), vec![0]),
        ("default".to_owned(), vec![3, 0, 0]),
        ("fields".to_owned(), [&[3, 5, 1], &[4; 80][..], b"build"].concat()),
        ("long-build-id".to_owned(), [&[3, 255, 128], &[4; 240][..]].concat()),
    ];
    for phase in [
        RecordPhase::Released,
        RecordPhase::Held,
        RecordPhase::Serving,
        RecordPhase::Sealed,
        RecordPhase::Opening,
    ] {
        let name = format!("{phase:?}").to_lowercase();
        let block = record(phase).encode();
        seeds.push((name.clone(), [&[0, 0, 0], &block[..]].concat()));
        seeds.push((format!("{name}-mended"), [&[1, 200, 1], &block[..224]].concat()));
        seeds.push((format!("{name}-body"), [&[2, 30, 2], &[0; 12][..], &block[12..140]].concat()));
    }
    for (name, at, value) in [("phase", 12, 5), ("format", 8, 2), ("length", 104, 119)] {
        let mut block = record(RecordPhase::Held).encode();
        block[at] = value;
        seeds.push((format!("bad-{name}"), [&[1, 0, 0], &block[..224]].concat()));
        seeds.push((format!("bad-{name}-unmended"), [&[0, 0, 0], &block[..]].concat()));
    }
    seeds
}

fn journals() -> Vec<(String, Vec<u8>)> {
    let process = |pid| ProcessId { pid, start_time: 9_000 + u64::from(pid) };
    let swap = OpenSwap {
        handoff_id: HandoffId::from_bytes([1; 16]),
        incumbent: process(2),
        successor: process(3),
        one_way: false,
    };
    let handoff_id = swap.handoff_id;
    let begun = [
        Entry::Supervisor { process: process(1), boot_id: [7; 16] },
        Entry::Started(process(2)),
        Entry::Serves(process(2)),
        Entry::Swap(swap),
    ];
    let text = |entries: &[Entry]| entries.iter().map(|entry| entry.to_line(5)).collect::<String>();
    let unchecked = |text: &str| {
        let lines = text.lines().map(|line| line.rsplit_once(" #").map_or(line, |(line, _)| line));
        lines.collect::<Vec<_>>().join("\n")
    };
    let raw = |text: &str| [&[0, 40, 0, 1], text.as_bytes()].concat();
    let mended = |text: &str| [&[1, 40, 0, b'\n'], unchecked(text).as_bytes()].concat();
    let mut seeds = vec![
        ("empty".into(), vec![0]),
        ("begun".into(), raw(&text(&begun))),
        ("cut-short".into(), raw(&text(&begun)[..200])),
        ("no-checksums".into(), raw(&unchecked(&text(&begun)))),
        ("mended".into(), mended(&text(&begun))),
        ("no-number".into(), mended(&text(&begun).replace("9002", "x"))),
        ("no-word".into(), mended(&text(&begun).replace("serves", "swerves"))),
        ("fields".into(), [vec![2, 3, 0, 9], (0..200).collect()].concat()),
    ];
    let one_way = [&begun[..], &[Entry::OneWay { handoff_id }]].concat();
    seeds.push(("one-way".into(), raw(&text(&one_way))));
    for how in Outcome::ALL {
        let over = [&begun[..], &[Entry::Ended { handoff_id, how: *how }]].concat();
        seeds.push((format!("{how:?}").to_lowercase(), raw(&text(&over))));
    }
    seeds
}

fn schema() -> Schema {
    let schema = Schema::new().added("x y").retired("").renamed("a\tb\n", "c").resizable("z");
    schema.format(3, 1..=4).field_format("log", 2, 2..=2)
}

fn schemas() -> Vec<(String, Vec<u8>)> {
    let fields = vec![
        ("log".to_owned(), Extent::One),
        ("a b\n".to_owned(), Extent::Elements(3)),
        (String::new(), Extent::Varies),
    ];
    let schema = Schema { fields, ..schema() };
    let highest = vec![("log".to_owned(), 5), ("a b\n".to_owned(), 2)];
    let whole = Left { schema, highest }.text("writer 11 12 7d");
    let body = whole[..whole.rfind("checksum").expect("there is one")].to_owned();
    let raw = |text: &str| [&[0, 0, 0, 0], text.as_bytes()].concat();
    let mended = |text: &str| [&[1, 7, 0, 32], text.as_bytes()].concat();
    vec![
        ("empty".into(), vec![0]),
        ("whole".into(), raw(&whole)),
        ("nothing".into(), raw(&Left::default().text(""))),
        ("cut-short".into(), raw(&whole[..50])),
        ("mended".into(), mended(&body)),
        ("other-format".into(), mended(&body.replace("schema 1", "schema 2"))),
        ("no-number".into(), mended(&body.replace("format 3 1 4", "format 3 1 x"))),
        ("does-not-read-its-own".into(), mended(&body.replace("format 3 1 4", "format 3 1 2"))),
        ("unknown-kind".into(), mended(&body.replace("varies", "wanders"))),
        ("no-count".into(), mended(&body.replace("elements 3", "elements three"))),
    ]
}

fn manifests() -> Vec<(String, Vec<u8>)> {
    let shard = |name: &str, revision| SealedShard { name: name.into(), revision, digest: [5; 32] };
    let shards = vec![shard("log", 4), shard("a b\\n\n\\\r", u64::MAX), shard("", 0)];
    let report = SealReport { data_dir_fingerprint: [9; 32], ..SealReport::default() };
    let of = |shards: &[SealedShard]| {
        SealManifest::of_seal(7, &report, shards.to_vec(), Schema::new(), true).to_text()
    };
    let schema = SealManifest::of_seal(7, &report, shards.clone(), schema(), true).to_text();
    let schema = schema[..schema.rfind("checksum").expect("there is one")].to_owned();
    let body = |text: &str| {
        let end = text.rfind("checksum").expect("there is one");
        text[..end].to_owned()
    };
    let whole = of(&shards);
    let of_a_boot = body(&whole).replace("boot any", &format!("boot {}", "7d".repeat(16)));
    let mut fields = vec![3, 9, 0, 1];
    fields.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
    fields.extend_from_slice(&[9; 32]);
    for name in ["log", "é\r\n\\", ""] {
        fields.push(name.len() as u8);
        fields.extend_from_slice(name.as_bytes());
        fields.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 0x5a]);
    }
    let mut many = String::new();
    for index in 0..8 {
        let _ = writeln!(many, "shard {index} {} {}", "0a".repeat(32), "\\".repeat(index));
    }
    let raw = |text: &str| [&[0, 0, 0, 0], text.as_bytes()].concat();
    let mended = |text: &str| [&[1, 7, 0, 32], text.as_bytes()].concat();
    vec![
        ("empty".into(), vec![0]),
        ("whole".into(), raw(&whole)),
        ("no-shards".into(), raw(&of(&[]))),
        ("cut-short".into(), raw(&whole[..50])),
        ("not-mended".into(), raw(&whole.replace("generation 7", "generation 8"))),
        ("no-text".into(), vec![0, 0, 0, 0, 0xff, 0xfe]),
        ("mended".into(), mended(&body(&whole))),
        ("schema".into(), mended(&schema)),
        ("of-a-boot".into(), mended(&of_a_boot)),
        ("many-shards".into(), mended(&(body(&of(&[])) + &many))),
        ("other-format".into(), mended(&body(&whole).replace("manifest 1", "manifest 3"))),
        ("no-generation".into(), mended(&body(&whole).replace("generation 7", "generation x"))),
        ("no-digest".into(), mended(&body(&whole).replace("05", "0g"))),
        ("dos-lines".into(), mended(&body(&whole).replace('\n', "\r\n"))),
        ("header".into(), [&[2, 1, 0, 4], &body(&whole).as_bytes()[19..]].concat()),
        ("fields".into(), fields),
    ]
}

/// Turns of the `session` target, in words; see `Driver::turn`.
fn sessions() -> Vec<(String, Vec<u8>)> {
    // Messages of the swap, then of another one.
    let [prepare, seal, commit, abort, resume, heartbeat] =
        [0, 1, 2, 3, 4, 5].map(|kind| [1, kind, 0]);
    let (foreign, adopt) = ([1, 2, 1], [1, 11, 0]);
    let half = [129, 5, 0];
    // A turn of 14 is an idle one.
    let (well, badly, kept) = ([4, 3, 14], [6, 14, 14], [132, 3, 14]);
    let [retaken, superseded, retry, lost, deadline, stop] =
        [7, 8, 9, 10, 11, 12].map(|turn| [turn, 14, 14]);
    let plays: [(&str, &[[u8; 3]]); 23] = [
        ("committed", &[prepare, well, seal, well, heartbeat, commit]),
        ("aborted-while-draining", &[prepare, abort, well, well, heartbeat]),
        ("aborted-when-drained", &[prepare, well, resume, heartbeat, well, heartbeat]),
        ("aborted-while-sealing", &[prepare, well, seal, abort, well, well]),
        ("aborted-when-sealed", &[prepare, well, seal, well, abort, retaken, well]),
        ("superseded", &[prepare, well, seal, well, lost, superseded]),
        ("drain-failed", &[prepare, badly, well, prepare, well]),
        ("seal-failed", &[prepare, well, seal, badly, well]),
        ("lock-kept", &[prepare, well, seal, kept, well]),
        ("resume-failed", &[prepare, well, abort, badly, retry, badly, retry, well]),
        ("resume-failed-and-lost", &[prepare, badly, badly, lost, retry, well]),
        ("deadline-while-draining", &[prepare, deadline, well, well]),
        ("deadline-while-sealing", &[prepare, well, seal, deadline, badly, well]),
        ("deadline-when-sealed", &[prepare, well, seal, well, deadline, retaken, well]),
        ("deadline-then-lost", &[prepare, well, deadline, lost, well]),
        ("foreign-commit", &[prepare, well, seal, well, foreign, retaken, well]),
        ("early-commit", &[prepare, well, commit, well, prepare]),
        ("commit-without-a-swap", &[commit, prepare, heartbeat]),
        ("stopped", &[stop, well, well]),
        ("stop-failed", &[stop, prepare, badly, badly]),
        ("frame-in-two", &[prepare, half, half, well]),
        ("adopted", &[adopt, prepare, adopt, well, well, adopt]),
        ("lost-at-once", &[prepare, lost, heartbeat, stop, well, well]),
    ];
    let mut seeds: Vec<_> =
        plays.map(|(name, turns)| (name.to_owned(), turns.concat())).into_iter().collect();
    let all = messages();
    let raw = all.iter().flat_map(|message| {
        let frame = encode(1, message).expect("it is short");
        [vec![0, frame.len() as u8], frame].concat()
    });
    seeds.push(("every-message".into(), raw.collect()));
    seeds.push(("no-frame".into(), [&prepare[..], &[0, 4, 0, 0, 0, 0], &well].concat()));
    let late = |begin: &[[u8; 3]]| -> Vec<u8> {
        let late = (0..14).flat_map(|kind| [13, kind]);
        begin.concat().into_iter().chain(late).collect()
    };
    seeds.push(("late-when-serving".into(), late(&[])));
    seeds.push(("late-when-drained".into(), late(&[prepare, well])));
    seeds.push(("late-when-waiting".into(), late(&[prepare, well, seal, well, lost])));
    seeds.push(("late-when-stopping".into(), late(&[stop])));
    seeds
}

/// Steps of the `carry` target, in words; see `Incumbent::step`.
fn carries() -> Vec<(String, Vec<u8>)> {
    // It offers, and the directory is as it was sealed.
    const USUAL: u8 = 0b101;
    let [dead, not_as_sealed, taken_back, lossy] = [0b1101, 0b1001, 0b1111, 0b1_0101];
    let of = |circumstances: u8, steps: &[&[u8]]| [&[circumstances][..], &steps.concat()].concat();
    let client = |length: u16| [&[2][..], &length.to_le_bytes()].concat();
    let (short, long, end) = (client(5), client(17_000), [3]);
    // A parcel: set, format, state; then descriptors: their count, and the kind of each.
    let damaged = [4, 0, 1, 2, 3, 5, 9, b'x', 1, 0];
    let older = [4, 0, 2, 2, 1, 7, 1, 0];
    let piece = [4, 2, 0, 1, 2, 1, 1, 2, b'o', b'k'];
    let not_sealed = [4, 2, 0, 1, 0, 1, 2];
    let no_descriptor = [4, 0, 1, 2, 1, 7, 0];
    let another_kind = [4, 2, 1, 2, 1, 7, 1, 0];
    let no_set = [4, 3, 1, 2, 1, 7, 1, 0];
    let apart = [&[4, 0, 1, 0][..], &u64::MAX.to_le_bytes(), &[2, 0, 1, 1, b'x']].concat();
    // An `End` that counts one item in the first set, and one that counts one in the last.
    let one = [1, 5, 2, 3, 1, 0, 0, 0];
    let one_piece = [1, 5, 2, 3, 0, 0, 1, 0];
    vec![
        ("nothing".into(), Vec::new()),
        ("nothing-to-carry".into(), of(USUAL, &[&end])),
        ("whole".into(), of(USUAL, &[&short, &long, &short, &end])),
        ("whole-and-dead".into(), of(dead, &[&short, &long, &end])),
        ("whole-and-not-kept".into(), of(not_as_sealed, &[&short, &end])),
        ("taken-back".into(), of(taken_back, &[&short, &end])),
        ("cut-off".into(), of(USUAL, &[&short, &short])),
        ("cut-off-and-dead".into(), of(dead, &[&short, &long, &[0, 3, 9, 0, 0, 0]])),
        ("no-offer".into(), of(0, &[&[1, 3, 2, 1, 0, 0]])),
        ("damaged".into(), of(USUAL, &[&damaged, &one])),
        ("damaged-and-lost".into(), of(lossy, &[&damaged, &one])),
        ("older".into(), of(USUAL, &[&older, &one])),
        ("piece".into(), of(USUAL, &[&piece, &one_piece])),
        ("not-sealed".into(), of(USUAL, &[&not_sealed])),
        ("no-descriptor".into(), of(USUAL, &[&no_descriptor])),
        ("another-kind".into(), of(USUAL, &[&another_kind])),
        ("no-set".into(), of(USUAL, &[&no_set])),
        ("endless".into(), of(USUAL, &[&short, &apart])),
        ("too-long".into(), of(USUAL, &[&[0, 4, 0xff, 0xff, 0xff, 0xff, 3, 0, 3, 4]])),
    ]
}

fn id() -> HandoffId {
    HandoffId::from_bytes([1; 16])
}
