//! What a seal and a check hash, against BLAKE3 over the same bytes on one thread.

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
    // So that nothing is written back meanwhile.
    file.as_file().sync_all().expect("synced");
    let (bytes, path) = (bytes.as_slice(), file.path());
    let expected = *blake3::hash(bytes).as_bytes();

    let once = |digest: &dyn Fn() -> [u8; 32]| {
        Pace::of(Duration::ZERO, 1, || assert_eq!(digest(), expected))
    };
    let title = format!("{} MiB, file in the page cache", bytes.len() >> 20);
    let mut race = Race::new(title, Rate::GigabytesPerSecond);
    let mut add = |name: &str, baseline, digest: &'_ dyn Fn() -> [u8; 32]| {
        let subject = Subject::new(name, move || once(digest)).bytes(bytes.len());
        race.add(match baseline {
            None => subject,
            Some(baseline) => subject.against(baseline),
        })
    };
    todo!()
}
