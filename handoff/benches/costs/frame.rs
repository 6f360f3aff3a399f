//! The largest message of a swap, to a frame and back.

use std::hint::black_box;

use handoff::HandoffId;
use handoff::frame::{read_message, write_message};
use handoff::protocol::{Message, PROTO_MAX};

use crate::measure::{Effort, Pace, Race, Rate, Results, Subject};

pub(crate) fn run(effort: &Effort) -> Results {
    let frames = SHARDS.map(|shards| {
        let message = ready(shards);
        let mut frame = Vec::new();
        write_message(&mut frame, PROTO_MAX, &message).expect("it fits into a frame");
        (shards, message, frame)
    });

    let title = format!("a Ready of {LISTENERS} listeners");
    let mut race = Race::new(title, Rate::MegabytesPerSecond);
    for (shards, message, frame) in &frames {
        let chunk = if *shards < 1000 { 64 } else { 1 };
        let about = format!("{shards} shards, {} bytes", frame.len());
        let mut out = Vec::with_capacity(frame.len());
        race.add(
            Subject::new(format!("write_message: {about}"), move || {
                let pace = Pace::of(effort.turn, chunk, || {
                    out.clear();
                    write_message(&mut out, PROTO_MAX, black_box(message)).expect("as before");
                    black_box(&out);
                });
                assert_eq!(&out, frame);
                pace
            })
            .bytes(frame.len()),
        );
        race.add(
            Subject::new(format!("read_message:  {about}"), move || {
                let mut read = None;
                let pace = Pace::of(effort.turn, chunk, || {
                    read = black_box(read_message(&mut black_box(frame.as_slice())).ok());
                });
                assert_eq!(read.as_ref(), Some(&(PROTO_MAX, message.clone())));
                pace
            })
            .bytes(frame.len()),
        );
    }
    race.run(effort)
}

fn ready(shards: u64) -> Message {
    Message::Ready {
        handoff_id: HandoffId::from_bytes([7; 16]),
        listening_on: (0..LISTENERS).map(|listener| format!("listener-{listener}")).collect(),
        healthz_ok: true,
        advertised_revision_per_shard: (0..shards).map(|shard| 1_000_000 + shard).collect(),
    }
}

const LISTENERS: usize = 4;
const SHARDS: [u64; 2] = [16, 10_000];
