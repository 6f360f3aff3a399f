//! The seal manifest.

use super::Input;
use crate::datadir::SealManifest;
use crate::drainable::{Formats, Schema, SealReport, SealedShard};

/// A manifest is read back as it was written, and any changed byte is damage (invariant 12).
///
/// An input is a mode, a place and a change to a byte there, and a text or the fields of one.
pub fn manifest(input: &[u8]) {
    let mut input = Input(input);
    let mode = input.byte() % 4;
    let damage = Damage { at: u16::from_le_bytes(input.array()), by: input.byte() };
    if mode == 3 {
        return written(&of_fields(&mut input), damage);
    }
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    let mut text = text.to_owned();
    if mode == 2 {
        text.insert_str(0, HEADER);
    }
    if mode >= 1 {
        let checksum = blake3::hash(text.as_bytes());
        text.push_str(&format!("checksum {checksum}\n"));
    }
    if let Ok(manifest) = SealManifest::parse(&text) {
        written(&manifest, damage);
    }
}

#[derive(Clone, Copy)]
struct Damage {
    at: u16,
    by: u8,
}

fn written(manifest: &SealManifest, Damage { at, by }: Damage) {
    let text = manifest.to_text();
    assert_eq!(SealManifest::parse(&text).as_ref(), Ok(manifest), "{text}");
    let declared = declared(&manifest.schema);
    assert_eq!(text.lines().count(), 5 + manifest.shards.len() + declared, "{text}");

    let mut bytes = text.into_bytes();
    let at = usize::from(at) % bytes.len();
    bytes[at] ^= by;
    let read = std::str::from_utf8(&bytes).ok().map(SealManifest::parse);
    assert_eq!(matches!(read, Some(Ok(_))), by == 0, "{by:#x} at {at}");
}

/// The lines of the declared part of a schema.
pub(super) fn declared(schema: &Schema) -> usize {
    let Schema { formats, fields: _, own_formats, added, retired, renamed, resizable } = schema;
    let names = added.len() + retired.len() + renamed.len() + resizable.len();
    usize::from(*formats != Formats::default()) + own_formats.len() + names
}

fn of_fields(input: &mut Input<'_>) -> SealManifest {
    let generation = input.number();
    let report =
        SealReport { data_dir_fingerprint: input.array(), last_revision_per_shard: Vec::new() };
    let mut shards = Vec::new();
    while !input.is_empty() {
        let length = usize::from(input.byte());
        let name = String::from_utf8_lossy(input.bytes(length)).into_owned();
        // The digest takes one byte of an input, so that the names get most of it.
        shards.push(SealedShard { name, revision: input.number(), digest: [input.byte(); 32] });
    }
    SealManifest::of_seal(generation, &report, shards, Schema::new(), true)
}

const HEADER: &str = "handoff-manifest 1\n";
