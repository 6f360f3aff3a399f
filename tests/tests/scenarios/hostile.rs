//! What comes over the control socket from whoever is no supervisor: refused, with the reason
//! in the log, while the daemon serves.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use handoff::Error;
use handoff::error::PeerMisbehaved;
use handoff::frame::{MAX_FRAME_LEN, write_message};
use handoff::protocol::{Capabilities, HandoffId, Message, PROTO_MAX, PROTO_MIN, Side};
use handoff_tests::harness::{Cluster, Hostile, LIVENESS, Peer, TIMEOUT, eventually, kill};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;

/// One of each, of this swap.
fn every_message(handoff_id: HandoffId) -> [Message; 22] {
    [
        hello(Side::Successor),
        Message::HelloAck { proto_version_chosen: PROTO_MAX, handoff_id },
        prepare(handoff_id, 0),
        Message::Drained { open_conns_remaining: 0, accept_closed: true },
        Message::SealRequest { handoff_id },
        Message::SealProgress { shards_sealed: 1, shards_total: 2, last_revision: 3 },
        Message::SealComplete {
            handoff_id,
            last_revision_per_shard: vec![1, 2, 3],
            data_dir_fingerprint: [0; 32],
        },
        Message::SealFailed { handoff_id, error: String::new(), partial_state: String::new() },
        Message::Begin { handoff_id },
        Message::Ready {
            handoff_id,
            listening_on: vec!["main".into()],
            healthz_ok: true,
            advertised_revision_per_shard: vec![1],
        },
        Message::Commit { handoff_id },
        Message::Abort { handoff_id, reason: "for no reason".into() },
        Message::ResumeAfterAbort { handoff_id },
        Message::Heartbeat { ts_ms: 1 },
        Message::Serving { handoff_id, generation: 9 },
        Message::Warmed { handoff_id },
        Message::Verified { handoff_id, data_dir_fingerprint: [0; 32] },
        Message::Adopt { handoff_id },
        Message::Adopted { handoff_id, generation: 9, listeners: Vec::new(), left: 0 },
        Message::Late { handoff_id, connections: vec!["late".into()], unnamed: 1 },
        Message::Carried { handoff_id, sets: Vec::new() },
        Message::Draining {
            handoff_id,
            open_conns: 1,
            connections: vec!["slow".into()],
            unnamed: 1,
        },
    ]
}

fn hello(role: Side) -> Message {
    Message::Hello {
        role,
        pid: std::process::id(),
        build_id: b"hostile".to_vec(),
        proto_min: PROTO_MIN,
        proto_max: PROTO_MAX,
        capabilities: Capabilities::default(),
    }
}

fn prepare(handoff_id: HandoffId, successor_pid: u32) -> Message {
    let (deadline_ms, drain_grace_ms) = (60_000, 10_000);
    Message::PrepareHandoff { handoff_id, successor_pid, deadline_ms, drain_grace_ms }
}

fn frame(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_message(&mut bytes, PROTO_MAX, message).expect("it is short enough");
    bytes
}

/// How a daemon stands after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Serving,
    Draining,
    Refusing,
}

impl Stands {
    fn after(self, message: &Message) -> Self {
        match (self, message) {
            (Self::Refusing, _) => Self::Refusing,
            (_, Message::Heartbeat { .. }) => self,
            (_, Message::Abort { .. } | Message::ResumeAfterAbort { .. })
            | (Self::Serving, Message::Adopt { .. }) => Self::Serving,
            (Self::Serving, Message::PrepareHandoff { .. })
            | (Self::Draining, Message::SealRequest { .. }) => Self::Draining,
            _ => Self::Refusing,
        }
    }
}

#[test]
fn another_user_is_told_nothing_and_named_in_the_log() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let cluster = Cluster::start();
    // So that it is the check of the peer that refuses, and not the file system.
    fs::set_permissions(cluster.state(), Permissions::from_mode(0o755)).expect("it is ours");
    fs::set_permissions(cluster.control(), Permissions::from_mode(0o666)).expect("it is ours");
    for _ in 0..3 {
        let mut other = Hostile::start_as(NOBODY, &cluster, &["listen"]);
        assert_eq!(other.line(), "connected, and told 0 bytes");
        let pid = format!("pid={} ", other.pid());
        cluster.wait_logged(&["WARN", "refusing", &pid, "uid=65534", "it runs as user 65534"]);
    }
    cluster.assert_sound();
}

#[test]
fn a_child_of_the_successor_is_not_taken_for_it() {
    let mut cluster = Cluster::start();
    let spec = cluster.successor(&["hello=grandchild"]).spec();
    match cluster.supervisor.pair(spec) {
        Err(Error::PeerMisbehaved(PeerMisbehaved::WrongPid { said, expected })) => {
            assert_ne!(said, expected);
        }
        other => panic!("{other:?}"),
    }
    cluster.assert_struck("hello", 2);
    cluster.wait_until_alone();
    cluster.assert_sound();
}

#[test]
fn what_nobody_may_say_instead_of_a_greeting_is_refused_with_its_reason() {
    let cluster = Cluster::start();
    let id = HandoffId::new();
    let another = Message::HelloAck { proto_version_chosen: PROTO_MAX + 1, handoff_id: id };
    for (said, reason) in [
        (hello(Side::Incumbent), "Hello is not admitted while greeting"),
        (hello(Side::Successor), "Hello is not admitted while greeting"),
        (prepare(id, 0), "PrepareHandoff is not admitted while greeting"),
        (Message::Commit { handoff_id: id }, "Commit is not admitted while greeting"),
        (Message::Adopt { handoff_id: id }, "Adopt is not admitted while greeting"),
        (another, "version"),
    ] {
        let mut peer = Peer::connect(&cluster.control());
        peer.say(&[said]);
        peer.assert_refused();
        let pid = format!("pid={} ", std::process::id());
        cluster.wait_logged(&["WARN", "refusing a control connection", &pid, "uid=", reason]);
    }
    assert_eq!(cluster.refusals(), 6);
    cluster.assert_sound();
}

#[test]
fn every_two_messages_are_answered_or_refused_as_they_should() {
    let cluster = Cluster::start();
    let before = cluster.descriptors();
    let mut refused = 0;
    let id = HandoffId::new();
    for first in every_message(id) {
        for second in every_message(id) {
            let stands = Stands::Serving.after(&first).after(&second);
            let mut peer = Peer::greeted(&cluster.control(), id);
            peer.say(&[first.clone(), second.clone()]);
            let is_heard = peer.is_heard();
            assert_eq!(is_heard, stands != Stands::Refusing, "{first:?}, {second:?}");
            refused += u64::from(!is_heard);
        }
    }
    assert_eq!(refused, 22 * 22 - 24, "the table says what is admitted");
    let told = || (cluster.refusals() == refused).then_some(());
    eventually("each refusal is told, or counted", TIMEOUT, told);
    cluster.wait_for_progress();
    cluster.wait_for_descriptors(before + CLIENTS);
    cluster.assert_sound();
}

/// From a fixed seed, so that what fails fails again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % sides
    }
}

#[test]
fn messages_in_any_order_and_with_any_byte_changed_leave_the_daemon_serving() {
    let cluster = Cluster::start();
    let before = cluster.descriptors();
    let mut dice = Dice(0x5eed);
    let id = HandoffId::new();
    for _ in 0..200 {
        let mut bytes = Vec::new();
        let (mut seals, mut peer) = (false, Peer::greeted(&cluster.control(), id));
        for _ in 0..=dice.roll(8) {
            let of = if dice.roll(4) == 0 { HandoffId::from_bytes([7; 16]) } else { id };
            let message = every_message(of)[dice.roll(22)].clone();
            // A whole swap would be no nonsense.
            if !(seals && matches!(message, Message::Commit { .. })) {
                bytes.extend(frame(&message));
            }
            seals |= matches!(message, Message::SealRequest { .. });
        }
        if !seals && dice.roll(2) == 0 && !bytes.is_empty() {
            let place = dice.roll(bytes.len());
            bytes[place] ^= 1 << dice.roll(8);
        }
        let (first, second) = bytes.split_at(dice.roll(bytes.len() + 1));
        peer.send(first);
        peer.send(second);
        peer.end();
        peer.assert_refused();
    }
    cluster.wait_for_progress();
    cluster.wait_for_descriptors(before + CLIENTS);
    cluster.assert_sound();
}

#[test]
fn frames_of_any_size_are_refused_with_their_reason() {
    let cluster = Cluster::start();
    let sized = |length: u32, body: usize| {
        [&length.to_le_bytes()[..], &[1, 0], &vec![0; body.saturating_sub(2)]].concat()
    };
    let id = [&[16][..], HandoffId::new().as_bytes()].concat();
    // A list, or a string, of 2^60 elements, in a frame that is as long as it says.
    let lying = |variant: u8, fields: &[u8]| {
        let count = [&[253][..], &(1_u64 << 60).to_le_bytes()].concat();
        let payload = [&[1, 0, variant][..], fields, &count, &[0; 100]].concat();
        [&(payload.len() as u32).to_le_bytes()[..], &payload].concat()
    };
    let whole = frame(&Message::Abort {
        handoff_id: HandoffId::new(),
        reason: "x".repeat(MAX_FRAME_LEN as usize - 2 - 1 - 17 - 5),
    });
    assert_eq!(whole.len(), 4 + MAX_FRAME_LEN as usize);
    let ping = frame(&Message::Heartbeat { ts_ms: 1 });
    let other_version = [&ping[..4], &[9, 0], &ping[6..]].concat();
    for (bytes, reason) in [
        (sized(0, 0), "a length of 0 is below the smallest frame, 2"),
        (sized(1, 0), "a length of 1 is below the smallest frame, 2"),
        (sized(2, 0), "the payload is no message"),
        (whole, "a length of 1048576 is above that of any message for this process, 65536"),
        (sized(1 << 20, 1 << 19), "a length of 1048576 is above"),
        (sized((1 << 20) + 1, 1 << 20), "a length of 1048577 is above the limit, 1048576"),
        (sized(u32::MAX, 1 << 20), "a length of 4294967295 is above the limit, 1048576"),
        (lying(6, &id), "the payload is no message"),
        (lying(9, &id), "the payload is no message"),
        (lying(11, &id), "the payload is no message"),
        (lying(0, &[0, 1]), "the payload is no message"),
        (other_version, "protocol version 9 is not one"),
        ([&ping[..], &[255]].concat(), "the stream ended inside a frame"),
    ] {
        let before = cluster.logged(&["refusing a control connection", reason]).len();
        let mut peer = Peer::greeted(&cluster.control(), HandoffId::new());
        peer.send(&bytes);
        if reason.starts_with("the stream") {
            peer.end();
        }
        peer.assert_refused();
        let logged = || cluster.logged(&["refusing a control connection", reason]).len();
        eventually(reason, TIMEOUT, || (logged() == before + 1).then_some(()));
    }
    cluster.assert_sound();
}

#[test]
fn a_conversation_cut_anywhere_is_undone() {
    let cluster = Cluster::start();
    let before = cluster.descriptors();
    let id = HandoffId::new();
    let ack = Message::HelloAck { proto_version_chosen: PROTO_MAX, handoff_id: id };
    let conversation = [
        ack,
        prepare(id, 0),
        Message::SealRequest { handoff_id: id },
        Message::Commit { handoff_id: id },
    ];
    for (stage, message) in conversation.iter().enumerate() {
        let bytes = frame(message);
        for cut in 0..bytes.len() {
            let mut peer = Peer::connect(&cluster.control());
            for said in &conversation[..stage] {
                peer.say(std::slice::from_ref(said));
                match said {
                    Message::PrepareHandoff { .. } => peer.wait_for("Drained"),
                    Message::SealRequest { .. } => peer.wait_for("SealComplete"),
                    _ => {}
                }
            }
            peer.send(&bytes[..cut]);
            peer.end();
            peer.assert_refused();
        }
        cluster.wait_for_progress();
    }
    cluster.wait_logged(&["refusing a control connection", "the stream ended inside a frame"]);
    cluster.wait_logged(&["lost the supervisor", "the stream ended inside a frame"]);
    cluster.wait_for_descriptors(before + CLIENTS);
    cluster.assert_sound();
}

#[test]
fn bytes_that_drip_are_heard_and_a_greeting_that_drips_for_too_long_is_refused() {
    let cluster = Cluster::start();
    let id = HandoffId::new();
    let begun = Instant::now();
    let mut slow = Peer::connect(&cluster.control());
    slow.stream.set_read_timeout(Some(Duration::from_millis(300))).expect("it can be set");
    let ack = frame(&Message::HelloAck { proto_version_chosen: PROTO_MAX, handoff_id: id });
    let mut fast = Peer::connect(&cluster.control());
    for message in [&ack[..], &frame(&Message::Adopt { handoff_id: id })] {
        for byte in message {
            fast.send(&[*byte]);
        }
    }
    assert!(matches!(fast.read(), Some(Message::Adopted { .. })));
    assert!(fast.is_heard());
    for byte in &ack {
        slow.send(&[*byte]);
        match slow.stream.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => break,
            Ok(_) => panic!("it says something"),
        }
    }
    let elapsed = begun.elapsed();
    assert!(elapsed >= LIVENESS && elapsed < LIVENESS + LIVENESS / 3, "{elapsed:?}");
    cluster.wait_logged(&["refusing a control connection", "waiting for a greeting"]);
    assert!(fast.is_heard(), "it greeted in time");
    cluster.assert_sound();
}

#[test]
fn a_swap_that_is_replayed_is_refused_and_undone() {
    let mut cluster = Cluster::start();
    let session = cluster.paired(&[]);
    let id = session.handoff_id();
    let swap = || session.warm()?.prepare()?.seal()?.begin()?.commit();
    cluster.commit(swap().expect("it commits"));
    let said = [
        Message::Heartbeat { ts_ms: 7 },
        prepare(id, cluster.serving()),
        Message::Heartbeat { ts_ms: 8 },
        Message::SealRequest { handoff_id: id },
        Message::Commit { handoff_id: id },
    ];
    for times in 1..=5 {
        let mut peer = Peer::greeted(&cluster.control(), id);
        peer.say(&said);
        peer.assert_refused();
        let logged = || cluster.logged(&["refusing", "Commit is not admitted"]).len();
        eventually("it is told", TIMEOUT, || (logged() == times).then_some(()));
    }
    // By one who waits for the answers, as far as nobody has been told of a commit.
    let mut peer = Peer::greeted(&cluster.control(), id);
    peer.say(&said[..2]);
    peer.wait_for("Drained");
    peer.say(&said[3..4]);
    peer.wait_for("SealComplete");
    peer.say(&said[1..2]);
    peer.assert_refused();
    cluster.wait_logged(&["refusing", "PrepareHandoff is not admitted while sealed"]);
    cluster.wait_for_progress();
    cluster.assert_sound();
}

#[test]
fn a_thousand_connections_at_once_keep_no_swap_from_its_commit() {
    let mut cluster = Cluster::start();
    let before = cluster.descriptors();
    let mut crowd = Hostile::start(&cluster, &["crowd", "1000"]);
    assert_eq!(crowd.line(), "open");
    for _ in 0..3 {
        let begun = Instant::now();
        cluster.swap(&[]).expect("it commits");
        assert!(begun.elapsed() < LIVENESS, "they were waited for: {:?}", begun.elapsed());
        cluster.wait_for_progress();
        let descriptors = cluster.descriptors();
        assert!(descriptors <= before + MAX_SESSIONS + CLIENTS + 1, "{descriptors}");
    }
    // One that says nothing for longer than the others keeps its place in the crowd, too.
    let session = cluster.warmed(&[]);
    cluster.wait_for_progress();
    let swap = || session.prepare()?.seal()?.begin()?.commit();
    cluster.commit(swap().expect("it commits"));
    cluster.wait_logged(&[
        "refusing",
        "with too many other connections open",
        &format!("pid={}", crowd.pid()),
    ]);
    drop(crowd);
    cluster.wait_for_descriptors(before + CLIENTS);
    cluster.assert_sound();
}

#[test]
fn whoever_asks_without_end_and_never_reads_is_refused() {
    let cluster = Cluster::start();
    let before = cluster.descriptors();
    for what in ["heartbeat", "adopt"] {
        let mut mute = Hostile::start(&cluster, &["mute", "6", what]);
        assert_eq!(mute.line(), "all are closed", "{what}");
        let pid = format!("pid={} ", mute.pid());
        cluster.wait_logged(&["WARN", "refusing", &pid, "it does not read what it is sent"]);
        cluster.wait_for_descriptors(before + CLIENTS);
    }
    // The listeners are still there for one that asks for them as it should.
    let mut peer = Peer::greeted(&cluster.control(), HandoffId::new());
    peer.say(&[Message::Adopt { handoff_id: peer.id }]);
    assert!(matches!(peer.read(), Some(Message::Adopted { .. })));
    cluster.assert_sound();
}

#[test]
fn descriptors_that_are_sent_along_are_not_kept() {
    let cluster = Cluster::start();
    let before = cluster.descriptors();
    let file = File::open("/dev/null").expect("it is there");
    let many = [file.as_fd(); 100];
    let ping = frame(&Message::Heartbeat { ts_ms: 1 });
    let mut peers = Vec::new();
    for _ in 0..10 {
        let mut peer = Peer::greeted(&cluster.control(), HandoffId::new());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        assert!(rights.push(SendAncillaryMessage::ScmRights(&many)));
        let sent = sendmsg(&peer.stream, &[IoSlice::new(&ping)], &mut rights, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(ping.len()));
        assert!(peer.is_heard(), "what it said is heard");
        peers.push(peer);
    }
    let descriptors = cluster.descriptors();
    assert!(descriptors <= before + peers.len() + CLIENTS, "{descriptors}, and {before} before");
    drop(peers);
    cluster.wait_for_descriptors(before + CLIENTS);
    cluster.assert_sound();
}

#[test]
fn the_listeners_are_given_back_by_one_that_serves_alone() {
    let mut cluster = Cluster::start_with(&["seal=slow:200", "resume=slow:200"]);
    let id = HandoffId::new();
    let adopt = Message::Adopt { handoff_id: id };
    let is_refused = |mut peer: Peer| {
        peer.say(std::slice::from_ref(&adopt));
        peer.assert_refused();
    };
    // By the one whose swap is in flight it is asked in the wrong place.
    let drained = || {
        let mut peer = Peer::greeted(&cluster.control(), id);
        peer.say(&[prepare(id, 0)]);
        peer.wait_for("Drained");
        peer
    };
    is_refused(drained());
    cluster.wait_logged(&["refusing", "Adopt is not admitted while drained"]);
    // Whoever asks during the undo waits for its end.
    let mut waiting = Peer::greeted(&cluster.control(), HandoffId::new());
    waiting.say(std::slice::from_ref(&adopt));
    assert!(matches!(waiting.read(), Some(Message::Adopted { .. })));
    let mut sealing = drained();
    sealing.say(&[Message::SealRequest { handoff_id: id }]);
    cluster.wait_struck("seal");
    is_refused(sealing);
    cluster.wait_logged(&["refusing", "Adopt is not admitted while sealing"]);
    let mut sealed = drained();
    sealed.say(&[Message::SealRequest { handoff_id: id }]);
    sealed.wait_for("SealComplete");
    is_refused(sealed);
    cluster.wait_logged(&["refusing", "Adopt is not admitted while sealed"]);
    // By another it is asked while a swap is in flight, which goes on.
    let ask = |cluster: &Cluster| {
        let mut peer = Peer::greeted(&cluster.control(), id);
        peer.say(std::slice::from_ref(&adopt));
        match peer.read() {
            Some(Message::Abort { handoff_id, reason }) => {
                assert_eq!(handoff_id, id);
                assert!(reason.ends_with("is in flight"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        peer.assert_refused();
    };
    let session = cluster.prepared(&[]);
    ask(&cluster);
    let session = session.seal().expect("it is not disturbed");
    ask(&cluster);
    let session = session.begin().expect("it is not disturbed");
    ask(&cluster);
    cluster.commit(session.commit().expect("it is not disturbed"));
    cluster.wait_logged(&["refusing a message of another supervisor", "pid=", "Adopt"]);
    cluster.assert_sound();
}

#[test]
fn what_overtakes_the_end_of_another_s_swap_waits_for_its_undo() {
    let cluster = Cluster::start();
    // The one that was there first is heard first.
    let mut first = Peer::greeted(&cluster.control(), HandoffId::new());
    assert!(first.is_heard());
    for _ in 0..5 {
        let mut second = Peer::greeted(&cluster.control(), HandoffId::new());
        second.say(&[prepare(second.id, 0)]);
        second.wait_for("Drained");
        kill(cluster.serving(), Signal::STOP);
        drop(second);
        first.say(&[Message::Adopt { handoff_id: first.id }]);
        kill(cluster.serving(), Signal::CONT);
        assert!(matches!(first.read(), Some(Message::Adopted { .. })));
    }
    cluster.assert_sound();
}

#[test]
fn nothing_is_kept_beyond_the_limits_however_much_is_sent() {
    let cluster = Cluster::start();
    let (descriptors, memory) = (cluster.descriptors(), cluster.peak_memory());
    // Each is as much as one may send: more are closed, and the most stay open.
    for length in [MAX_PARTIAL_LEN, MAX_FRAME_LEN as usize] {
        let (count, sent) = ("600", length.to_string());
        let mut hoard = Hostile::start(&cluster, &["hoard", count, &sent]);
        assert_eq!(hoard.line(), "open");
        assert!(Peer::greeted(&cluster.control(), HandoffId::new()).is_heard());
    }
    for what in ["heartbeat", "adopt"] {
        let mut mute = Hostile::start(&cluster, &["mute", "250", what]);
        assert_eq!(mute.line(), "all are closed", "{what}");
    }
    let grown = cluster.peak_memory().saturating_sub(memory);
    let budget =
        MAX_SESSIONS * (MAX_PARTIAL_LEN + A_READ + MAX_UNREAD_LEN) + MAX_FRAME_LEN as usize + SPARE;
    println!("grown by {} KiB, of {} KiB", grown >> 10, budget >> 10);
    assert!(grown <= budget, "grown by {grown}, of {budget}");
    cluster.wait_for_descriptors(descriptors + CLIENTS);
    cluster.assert_sound();
}

#[test]
fn whoever_is_refused_without_end_does_not_fill_the_log() {
    let cluster = Cluster::start();
    let begun = Instant::now();
    let refused = 3000;
    for _ in 0..refused {
        let mut peer = Peer::connect(&cluster.control());
        peer.send(&[0; 4]);
        peer.assert_refused();
    }
    for _ in 0..100 {
        let mut peer = Peer::greeted(&cluster.control(), HandoffId::new());
        peer.say(&[prepare(peer.id, 0)]);
        peer.end();
        peer.assert_refused();
    }
    let told = || (cluster.refusals() == refused).then_some(());
    eventually("each refusal is told, or counted", TIMEOUT, told);
    let seconds = begun.elapsed().as_secs() as usize + 2;
    let lines = cluster.logged(&["refusing"]).len();
    assert!(lines <= 16 * seconds, "{lines} lines in {seconds} s");
    let lines = cluster.logged(&["handoff::incumbent"]).len();
    assert!(lines <= (16 + 64 + 2) * seconds, "{lines} lines in {seconds} s");
    cluster.wait_for_progress();
    cluster.assert_sound();
}

/// A user that no daemon here runs as.
const NOBODY: u32 = 65534;
/// They may connect anew between two counts.
const CLIENTS: usize = 2;
/// What the library states of a control socket: connections, bytes that one may have sent of a
/// frame, bytes of a read, and bytes that one may leave unread.
const MAX_SESSIONS: usize = 256;
const MAX_PARTIAL_LEN: usize = 64 << 10;
const A_READ: usize = 4 << 10;
const MAX_UNREAD_LEN: usize = 64 << 10;
/// For what clients write meanwhile, and for what an allocator keeps.
const SPARE: usize = 8 << 20;
