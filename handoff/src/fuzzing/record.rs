//! The owner record.

use super::Input;
use crate::datadir::{OwnerRecord, RecordPhase};
use crate::protocol::HandoffId;
use crate::sys::process::ProcessId;

/// A block that was read is written again the same, a record is read back as it was written,
/// and any changed byte is damage (invariant 12).
///
/// An input is a mode, a place and a change to a byte there, and a block or the fields of a record.
pub fn record(input: &[u8]) {
    let mut input = Input(input);
    let mode = input.byte() % 4;
    let damage = Damage { at: input.byte(), by: input.byte() };
    if mode == 3 {
        return written(&of_fields(&mut input), damage);
    }
    let mut block = input.array::<LENGTH>();
    if mode == 2 {
        block[..HEADER.len()].copy_from_slice(HEADER);
    }
    if mode >= 1 {
        mend(&mut block);
    }
    let Ok(record) = OwnerRecord::decode(&block) else { return };
    if block != [0; LENGTH] {
        assert_eq!(record.encode(), canonical(block), "{record:?}");
    }
    written(&record, damage);
}

#[derive(Clone, Copy)]
struct Damage {
    at: u8,
    by: u8,
}

fn written(record: &OwnerRecord, Damage { at, by }: Damage) {
    let mut block = record.encode();
    let mut read = OwnerRecord::decode(&block).expect("what was written is read");
    // The record cuts a long build id.
    if let Some(cut) = record.build_id.get(read.build_id.len()..).filter(|cut| !cut.is_empty()) {
        assert_eq!(read.build_id.len(), BUILD_ID_MAX, "{} bytes were cut", cut.len());
        read.build_id.extend_from_slice(cut);
    }
    assert_eq!(read, *record);
    block[usize::from(at)] ^= by;
    assert_eq!(OwnerRecord::decode(&block).is_err(), by != 0, "{by:#x} at {at}");
}

fn of_fields(input: &mut Input<'_>) -> OwnerRecord {
    let phases = [
        RecordPhase::Released,
        RecordPhase::Held,
        RecordPhase::Serving,
        RecordPhase::Sealed,
        RecordPhase::Opening,
    ];
    let byte = usize::from(input.byte());
    let phase = phases[byte % phases.len()];
    let handoff_id = input.array();
    let mut process =
        || ProcessId { pid: u32::from_le_bytes(input.array()), start_time: input.number() };
    OwnerRecord {
        phase,
        writer: process(),
        reserved: process(),
        by_byte: byte / phases.len() % 4 >= 2,
        reserved_by_byte: byte / phases.len() % 8 >= 4,
        is_unserved: byte / phases.len() % 16 >= 8,
        generation: input.number(),
        sealed_generation: input.number(),
        is_seal_unsynced: byte / phases.len() % 2 == 1,
        // On disk, zero means none.
        handoff_id: (handoff_id != [0; 16]).then(|| HandoffId::from_bytes(handoff_id)),
        boot_id: input.array(),
        format: u32::from_le_bytes(input.array()),
        build_id: input.rest().to_vec(),
    }
}

/// The block as this build writes it: the bits that no field covers are zero.
fn canonical(mut block: [u8; LENGTH]) -> [u8; LENGTH] {
    let length = usize::from(u16::from_le_bytes([block[104], block[105]]));
    block[40] &= 15;
    block[41..44].fill(0);
    block[48..56].fill(0);
    block[BUILD_ID + length..CHECKED].fill(0);
    mend(&mut block);
    block
}

fn mend(block: &mut [u8; LENGTH]) {
    let checksum = blake3::hash(&block[..CHECKED]);
    block[CHECKED..].copy_from_slice(checksum.as_bytes());
}

// The layout is written down here again, so that this target notices a change of it.
const LENGTH: usize = 256;
const CHECKED: usize = 224;
const BUILD_ID: usize = 106;
const BUILD_ID_MAX: usize = 118;
const HEADER: &[u8] = b"HANDOFF\0\x01\0\0\0";
