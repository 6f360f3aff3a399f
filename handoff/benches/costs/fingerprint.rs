//! The hashing of a seal and a check, against BLAKE3 over the same bytes on one thread.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use handoff::drainable::{Fingerprint, SealedShard, digest_file, digest_reader};

use crate::measure::{Effort, Pace, Race, Rate, Results, Subject};

/// A file in the page cache, and its bytes in memory.
pub(crate) fn of_a_file(effort: &Effort) -> Results {
    let mut bytes = vec![0; effort.file_len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&bytes).expect("room for it");
    // The kernel then writes nothing back during the race.
    file.as_file().sync_all().expect("synced");
    let (bytes, path) = (bytes.as_slice(), file.path());

    let title = format!("{} MiB, the file in the page cache", bytes.len() >> 20);
    let mut race = Race::new(title, Rate::GigabytesPerSecond);
    let from_memory =
        race.add(whole("blake3, memory", bytes, || blake3::hash(black_box(bytes)).into()));
    race.add(
        whole("digest_reader, memory", bytes, || {
            digest_reader(black_box(bytes)).expect("memory is readable")
        })
        .against(from_memory),
    );
    let from_file = race.add(whole("blake3, file", bytes, || blake3_of_file(path)));
    race.add(
        whole("digest_file", bytes, || digest_file(path).expect("the file is readable"))
            .against(from_file),
    );
    race.run(effort)
}

/// One call a turn, which has to give the digest of `bytes`.
fn whole<'a>(name: &str, bytes: &[u8], digest: impl Fn() -> [u8; 32] + 'a) -> Subject<'a> {
    let expected = *blake3::hash(bytes).as_bytes();
    let turn = move || Pace::of(Duration::ZERO, 1, || assert_eq!(digest(), expected));
    Subject::new(name, turn).bytes(bytes.len())
}

fn blake3_of_file(path: &Path) -> [u8; 32] {
    let mut file = File::open(path).expect("the file is there");
    let mut hasher = blake3::Hasher::new();
    let mut buffer = [0; BUFFER];
    loop {
        match file.read(&mut buffer).expect("the file is readable") {
            0 => return hasher.finalize().into(),
            length => hasher.update(&buffer[..length]),
        };
    }
}

/// The list of shards, their own digests given.
pub(crate) fn of_shards(effort: &Effort) -> Results {
    let shards: Vec<_> = (0..SHARDS)
        .map(|shard| SealedShard {
            name: format!("shards.{shard}"),
            revision: 1_000_000 + shard,
            digest: *blake3::hash(&shard.to_le_bytes()).as_bytes(),
        })
        .collect();
    let mut bytes = Vec::new();
    for SealedShard { name, revision, digest } in &shards {
        bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&revision.to_le_bytes());
        bytes.extend_from_slice(digest);
    }

    let title = format!("{SHARDS} shards, {} bytes", bytes.len());
    let mut race = Race::new(title, Rate::GigabytesPerSecond);
    let turn = || {
        Pace::of(effort.turn, 1, || {
            black_box(blake3::hash(black_box(&bytes)));
        })
    };
    let in_one_piece = race.add(Subject::new("blake3, in one piece", turn).bytes(bytes.len()));
    let turn = || {
        Pace::of(effort.turn, 1, || {
            black_box(Fingerprint::of_shards(black_box(&shards)));
        })
    };
    race.add(Subject::new("Fingerprint::of_shards", turn).bytes(bytes.len()).against(in_one_piece));
    race.run(effort)
}

/// As large as the one that `digest_file` reads through.
const BUFFER: usize = 64 << 10;
const SHARDS: u64 = 10_000;
