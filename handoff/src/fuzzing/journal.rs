//! The supervisor's journal.

use super::Input;
use crate::machine::outcome::Outcome;
use crate::protocol::HandoffId;
use crate::supervisor::journal::{Entry, OpenSwap, checksum, parse, replay};
use crate::sys::process::ProcessId;

/// Entries are read back as they were written. An entry that is cut off or damaged is lost, and
/// no other one is.
///
/// An input is a mode, a place and a change to a byte there, and a text or the fields of entries.
pub fn journal(input: &[u8]) {
    let mut input = Input(input);
    let mode = input.byte() % 3;
    let (at, by) = (u16::from_le_bytes(input.array()), input.byte());
    let entries = match mode {
        0 => parse(&String::from_utf8_lossy(input.rest())),
        1 => {
            let text = String::from_utf8_lossy(input.rest()).into_owned();
            let mended = text.lines().map(|line| format!("{line} #{}\n", checksum(line)));
            parse(&mended.collect::<String>())
        }
        _ => of_fields(&mut input),
    };
    let text: String = entries.iter().map(|entry| entry.to_line(u64::from(at))).collect();
    assert_eq!(parse(&text), entries, "{text}");
    assert_eq!(text.lines().count(), entries.len(), "{text}");
    let of_this_boot = replay(&entries, BOOT);
    assert!(of_this_boot.swap.is_none() || of_this_boot.daemon.is_some(), "{text}");

    let mut bytes = text.into_bytes();
    if bytes.is_empty() {
        return;
    }
    let at = usize::from(at) % bytes.len();
    let cut = String::from_utf8_lossy(&bytes[..at]).into_owned();
    assert_eq!(parse(&cut), entries[..cut.matches('\n').count()], "cut at {at}");
    let before = bytes[at];
    bytes[at] ^= by;
    // A line feed that appears or disappears may spoil two lines.
    let spoilt = if before == b'\n' || bytes[at] == b'\n' { 2 } else { 1 };
    let read = parse(&String::from_utf8_lossy(&bytes));
    assert!(read.len() + spoilt >= entries.len(), "{by:#x} at {at}");
    assert!(read.iter().all(|entry| entries.contains(entry)), "{by:#x} at {at}");
}

fn of_fields(input: &mut Input<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    while !input.is_empty() && entries.len() < MAX_ENTRIES {
        entries.push(match input.byte() % 6 {
            0 => Entry::Supervisor {
                process: process(input),
                boot_id: if input.byte().is_multiple_of(2) { BOOT } else { input.array() },
            },
            1 => Entry::Started(process(input)),
            2 => Entry::Serves(process(input)),
            3 => Entry::Swap(OpenSwap {
                handoff_id: id(input),
                incumbent: process(input),
                successor: process(input),
                one_way: false,
            }),
            4 => Entry::OneWay { handoff_id: id(input) },
            _ => {
                let how = Outcome::ALL[usize::from(input.byte()) % Outcome::ALL.len()];
                Entry::Ended { handoff_id: id(input), how }
            }
        });
    }
    entries
}

fn process(input: &mut Input<'_>) -> ProcessId {
    ProcessId { pid: u32::from_le_bytes(input.array()), start_time: input.number() }
}

/// Few of them, so that swaps end.
fn id(input: &mut Input<'_>) -> HandoffId {
    HandoffId::from_bytes([input.byte() % 4; 16])
}

const BOOT: [u8; 16] = [7; 16];
const MAX_ENTRIES: usize = 64;
