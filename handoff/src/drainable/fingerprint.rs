//! 32 bytes that identify a sealed state.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::drainable::SealedShard;
use crate::error::{Error, Result};

/// Accumulates the fingerprint of a data directory: BLAKE3 over the name, the revision and
/// the digest of each shard, in declared order.
///
/// The key is derived from a context that names this use and its version, so that it is no
/// hash of anything else. Each name goes in after its length, so that no two lists of shards
/// give the same bytes.
#[derive(Clone)]
pub struct Fingerprint {
    hasher: blake3::Hasher,
    /// Gathered, since BLAKE3 is at its best over many bytes at once.
    gathered: Vec<u8>,
    empty: bool,
}

impl Fingerprint {
    /// The fingerprint of no shard yet.
    #[must_use]
    pub fn new() -> Self {
        let hasher = blake3::Hasher::new_derive_key(CONTEXT);
        Self { hasher, gathered: Vec::new(), empty: true }
    }

    /// Adds one shard after the others.
    #[must_use]
    pub fn shard(mut self, name: &str, revision: u64, digest: &[u8; 32]) -> Self {
        self.gathered.extend((name.len() as u64).to_le_bytes());
        self.gathered.extend(name.as_bytes());
        self.gathered.extend(revision.to_le_bytes());
        self.gathered.extend(digest);
        if self.gathered.len() >= ENOUGH {
            self.hasher.update(&self.gathered);
            self.gathered.clear();
        }
        self.empty = false;
        self
    }

    /// The fingerprint. Of no shard it is all zero, which says that there is none to verify.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        if self.empty {
            return [0; 32];
        }
        *self.hasher.clone().update(&self.gathered).finalize().as_bytes()
    }

    /// The fingerprint of these shards.
    #[must_use]
    pub fn of_shards(shards: &[SealedShard]) -> [u8; 32] {
        shards
            .iter()
            .fold(Self::new(), |sum, shard| sum.shard(&shard.name, shard.revision, &shard.digest))
            .finish()
    }
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fingerprint").finish_non_exhaustive()
    }
}

/// BLAKE3 of a whole file, as `b3sum` prints it, for
/// [`Shard::fingerprint`](crate::Shard::fingerprint).
///
/// # Errors
///
/// [`Error::Path`] when the file cannot be opened or read.
pub fn digest_file(path: impl AsRef<Path>) -> Result<[u8; 32]> {
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::at("open", path))?;
    digest(file).map_err(Error::at("read", path))
}

/// BLAKE3 of everything that is left to read.
///
/// # Errors
///
/// The error of the reader.
pub fn digest_reader(reader: impl Read) -> Result<[u8; 32]> {
    Ok(digest(reader)?)
}

fn digest(reader: impl Read) -> std::io::Result<[u8; 32]> {
    // `update_reader` reads through a buffer of 64 KiB, the size that its widest kernel takes.
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(reader)?;
    Ok(*hasher.finalize().as_bytes())
}

const ENOUGH: usize = 32 << 10;
/// Part of the data format: it changes with the hashed bytes, and with nothing else.
const CONTEXT: &str = "handoff 2026 fingerprint of sealed shards, version 1";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shard(name: &str, revision: u64, digest: u8) -> SealedShard {
        SealedShard { name: name.to_owned(), revision, digest: [digest; 32] }
    }

    fn shards() -> impl Strategy<Value = Vec<SealedShard>> {
        let shard = (".{0,8}", any::<u64>(), any::<[u8; 32]>())
            .prop_map(|(name, revision, digest)| SealedShard { name, revision, digest });
        proptest::collection::vec(shard, 1..6)
    }

    #[test]
    fn the_bytes_that_are_hashed_are_frozen() {
        let mut bytes = Vec::new();
        for (name, revision, digest) in [("log", 7_u64, 1_u8), ("index.0", 0x0102, 2)] {
            bytes.extend_from_slice(&[
                u8::try_from(name.len()).expect("short"),
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&revision.to_le_bytes());
            bytes.extend_from_slice(&[digest; 32]);
        }
        let shards = [shard("log", 7, 1), shard("index.0", 0x0102, 2)];
        let fingerprint = Fingerprint::of_shards(&shards);
        assert_eq!(fingerprint, blake3::derive_key(CONTEXT, &bytes));
        assert_eq!(
            blake3::Hash::from_bytes(fingerprint).to_hex().as_str(),
            "318efecec04d45988081ee79230c12fec641c3a28af03ae9a2240806bf70f105"
        );
    }

    #[test]
    fn no_shard_has_no_fingerprint() {
        assert_eq!(Fingerprint::of_shards(&[]), [0; 32]);
    }

    #[test]
    fn a_name_does_not_run_into_its_neighbours() {
        let revision = u64::from_le_bytes(*b"abcdefgh");
        assert_ne!(
            Fingerprint::of_shards(&[shard("x", revision, 1)]),
            Fingerprint::of_shards(&[shard("xabcdefgh", 0, 1)])
        );
    }

    proptest! {
        #[test]
        fn every_change_changes_it(
            before in shards(),
            at in any::<prop::sample::Index>(),
            byte in 0..32_usize,
        ) {
            let sum = Fingerprint::of_shards(&before);
            let at = at.index(before.len());
            let change = |change: &dyn Fn(&mut Vec<SealedShard>)| {
                let mut after = before.clone();
                change(&mut after);
                Fingerprint::of_shards(&after)
            };
            prop_assert_eq!(sum, change(&|_| {}));
            prop_assert_ne!(sum, change(&|after| after[at].name.push('x')));
            prop_assert_ne!(sum, change(&|after| after[at].revision ^= 1));
            prop_assert_ne!(sum, change(&|after| after[at].digest[byte] ^= 1));
            prop_assert_ne!(sum, change(&|after| drop(after.remove(at))));
            prop_assert_ne!(sum, change(&|after| after.push(shard("more", 1, 1))));
        }

        #[test]
        fn the_order_counts(before in shards()) {
            let mut after = before.clone();
            after.reverse();
            prop_assert_eq!(
                before == after,
                Fingerprint::of_shards(&before) == Fingerprint::of_shards(&after)
            );
        }

        #[test]
        fn a_file_s_digest_is_that_of_its_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), &bytes).expect("written");
            let expected = *blake3::hash(&bytes).as_bytes();
            prop_assert_eq!(digest_file(file.path()).expect("readable"), expected);
            prop_assert_eq!(digest_reader(&bytes[..]).expect("readable"), expected);
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = dir.path().join("missing");
        assert!(matches!(
            digest_file(&missing),
            Err(Error::Path { action: "open", path, .. }) if path == missing
        ));
        assert!(matches!(
            digest_file(dir.path()),
            Err(Error::Path { action: "read", path, .. }) if path == dir.path()
        ));
    }
}
