//! The seal manifest: the sealed shards, for the process that opens them next.
//!
//! A text, so that a person can read it when it does not match:
//!
//! ```text
//! handoff-manifest 1
//! generation 7
//! boot 7d0c...            (or "boot any" after a clean stop, which is durable)
//! fingerprint 91f4...
//! shard 42 03ab... log    (revision, digest, name)
//! checksum 5c11...        (BLAKE3 of everything above)
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::sync::Arc;

use blake3::Hash;
use rustix::fs::FallocateFlags;

use super::place::Place;
use super::record::REMEDY;
use crate::drainable::{SealReport, SealedShard};
use crate::error::{Error, Mismatch, Result};
use crate::sys::process::{boot_id, boot_id_in_hex, boot_id_of};

/// The state that was sealed, shard by shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealManifest {
    /// The generation of the writer that sealed.
    pub generation: u64,
    /// As in its [`SealReport`].
    pub fingerprint: [u8; 32],
    /// In declared order; empty where the daemon named none.
    pub shards: Vec<SealedShard>,
    /// The boot in which it holds; none for one that was synced.
    boot_id: Option<[u8; 16]>,
}

impl SealManifest {
    pub(crate) fn of_seal(
        generation: u64,
        report: &SealReport,
        shards: Vec<SealedShard>,
        durable: bool,
    ) -> Self {
        Self {
            generation,
            fingerprint: report.data_dir_fingerprint,
            shards,
            boot_id: (!durable).then(boot_id),
        }
    }

    /// Compares the opened shards with the sealed ones. A manifest of a daemon that named no
    /// shards has nothing to compare with.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] with the first difference, which names the shard.
    pub fn verify(&self, opened: &[SealedShard]) -> Result<()> {
        if self.shards.is_empty() {
            return Ok(());
        }
        let pairs = self.shards.iter().zip(opened).enumerate();
        for (index, (sealed, opened)) in pairs {
            if sealed.name != opened.name {
                let (sealed, opened) = (sealed.name.clone(), opened.name.clone());
                return Err(Mismatch::Name { index, sealed, opened }.into());
            }
            let name = sealed.name.clone();
            if sealed.revision != opened.revision {
                let (sealed, opened) = (sealed.revision, opened.revision);
                return Err(Mismatch::Revision { name, sealed, opened }.into());
            }
            if sealed.digest != opened.digest {
                return Err(Mismatch::Contents { name, revision: sealed.revision }.into());
            }
        }
        if self.shards.len() != opened.len() {
            let (sealed, opened) = (self.shards.len(), opened.len());
            return Err(Mismatch::ShardCount { sealed, opened }.into());
        }
        Ok(())
    }

    /// Compares the shards that an incumbent resumed with those that it sealed. A shard may have
    /// more than it had: a request that outlived the drain writes as soon as the shard is open. Where
    /// a successor `had_opened` the data, its contents may differ: that build may have another format.
    pub(crate) fn verify_resumed(
        &self,
        mut opened: Vec<SealedShard>,
        had_opened: bool,
    ) -> Result<()> {
        for (opened, sealed) in opened.iter_mut().zip(&self.shards) {
            let has_more = opened.revision > sealed.revision;
            let has_as_much = opened.revision == sealed.revision;
            if opened.name == sealed.name && (has_more || has_as_much && had_opened) {
                opened.clone_from(sealed);
            }
        }
        // A daemon with hooks of its own may name no shards.
        if opened.is_empty() { Ok(()) } else { self.verify(&opened) }
    }

    /// Reads the manifest of a directory, if it has one.
    pub(crate) fn read(place: &Place) -> Result<Option<Self>> {
        let path = place.path_of(FILE);
        let Some(mut file) = place.read(FILE)? else { return Ok(None) };
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(Error::at("read", &path))?;
        std::str::from_utf8(&text)
            .map_err(|_| "it is no text")
            .and_then(Self::parse)
            .map(Some)
            .map_err(|why| Error::Damaged { path, why, remedy: REMEDY })
    }

    /// Replaces the manifest of a directory whose lock the caller holds; see [`Draft`].
    pub(crate) fn write(&self, place: &Arc<Place>) -> Result<()> {
        Draft::begin(place)?.publish(self)
    }

    pub(super) fn remove(place: &Place) -> Result<()> {
        place.remove(FILE)
    }

    /// The error of a manifest that is not there, or not of the last seal.
    pub(super) fn missing(place: &Place) -> Error {
        let why = "that of the last seal is missing";
        Error::Damaged { path: place.path_of(FILE), why, remedy: REMEDY }
    }

    pub(super) fn is_of_this_boot_or_durable(&self) -> bool {
        self.boot_id.is_none_or(|id| id == boot_id())
    }

    pub(crate) fn to_text(&self) -> String {
        let boot = self.boot_id.map_or_else(|| "any".to_owned(), boot_id_in_hex);
        let fingerprint = Hash::from(self.fingerprint);
        let generation = self.generation;
        let mut text =
            format!("{HEADER}\ngeneration {generation}\nboot {boot}\nfingerprint {fingerprint}\n");
        text.reserve(100 + self.shards.len() * 100);
        for SealedShard { name, revision, digest } in &self.shards {
            let name = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
            let _ = writeln!(text, "shard {revision} {} {name}", Hash::from(*digest));
        }
        let checksum = blake3::hash(text.as_bytes());
        let _ = writeln!(text, "checksum {checksum}");
        text
    }

    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const CHECKSUM_LINE: usize = "checksum ".len() + 64 + 1;
        let split = text.len().checked_sub(CHECKSUM_LINE).ok_or("it is cut short")?;
        let (text, checksum) = text.split_at_checked(split).ok_or("it is cut short")?;
        let expected = format!("checksum {}\n", blake3::hash(text.as_bytes()));
        if checksum != expected {
            return Err("its checksum does not match");
        }
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err("its format is one that this build does not know");
        }
        let mut field = |name: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.strip_prefix(' ')).ok_or("a line is missing")
        };
        let generation = field("generation")?.parse().map_err(|_| "its generation is no number")?;
        let boot_id = match field("boot")? {
            "any" => None,
            id => Some(boot_id_of(id).ok_or(NOT_HEXADECIMAL)?),
        };
        let fingerprint = parse_digest(field("fingerprint")?)?;
        let shards = lines.map(parse_shard).collect::<Result<_, _>>()?;
        Ok(Self { generation, fingerprint, shards, boot_id })
    }
}

fn parse_shard(line: &str) -> Result<SealedShard, &'static str> {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().ok_or("a shard's line is cut short");
    if word()? != "shard" {
        return Err("a line is no shard");
    }
    let revision = word()?.parse().map_err(|_| "a revision is no number")?;
    let digest = parse_digest(word()?)?;
    let mut name = String::new();
    let mut characters = word()?.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => name.push(match characters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                _ => '\\',
            }),
            other => name.push(other),
        }
    }
    Ok(SealedShard { name, revision, digest })
}

/// The file of a manifest that is about to be written, beside the old one. Dropping it leaves the
/// old one as it was.
#[derive(Debug)]
pub(crate) struct Draft {
    file: File,
    place: Arc<Place>,
    is_published: bool,
}

impl Draft {
    /// Begins one, for a directory whose lock the caller holds.
    pub(crate) fn begin(place: &Arc<Place>) -> Result<Self> {
        let file = place.create(BESIDE)?;
        // A file system that delays allocation would find blocks only in the rename, while clients
        // wait. One that does not support the call goes without.
        let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, USUAL_LENGTH);
        Ok(Self { file, place: Arc::clone(place), is_published: false })
    }

    /// Puts the manifest in the place of the old one. That of a swap is not synced: only a
    /// process of the same boot goes by it (invariant 11).
    pub(crate) fn publish(mut self, manifest: &SealManifest) -> Result<()> {
        let beside = self.place.path_of(BESIDE);
        let is_durable = manifest.boot_id.is_none();
        let text = manifest.to_text();
        self.file.write_all(text.as_bytes()).map_err(Error::at("write", &beside))?;
        if is_durable {
            self.file.sync_all().map_err(Error::at("sync", &beside))?;
        }
        self.place.rename(BESIDE, FILE)?;
        self.is_published = true;
        if is_durable {
            self.place.sync()?;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = self.place.remove(BESIDE);
        }
    }
}

fn parse_digest(text: &str) -> Result<[u8; 32], &'static str> {
    Hash::from_hex(text).map(Hash::into).map_err(|_| NOT_HEXADECIMAL)
}

const FILE: &str = ".handoff.manifest";
const BESIDE: &str = ".handoff.manifest.new";
const USUAL_LENGTH: u64 = 16 << 10;
const HEADER: &str = "handoff-manifest 1";
const NOT_HEXADECIMAL: &str = "a digest is not hexadecimal";

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(name: &str, revision: u64, digest: u8) -> SealedShard {
        SealedShard { name: name.into(), revision, digest: [digest; 32] }
    }

    fn manifest() -> SealManifest {
        let report = SealReport { data_dir_fingerprint: [9; 32], ..SealReport::default() };
        let shards = vec![shard("log", 4, 1), shard("a b\\n\n\\\r", u64::MAX, 2), shard("", 0, 3)];
        SealManifest::of_seal(7, &report, shards, false)
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = Arc::new(Place::open(directory.path()).expect("it opens"));
        assert_eq!(SealManifest::read(&place).expect("none is fine"), None);
        for durable in [false, true] {
            let written = SealManifest { boot_id: (!durable).then(boot_id), ..manifest() };
            written.write(&place).expect("it is written");
            assert_eq!(SealManifest::read(&place).expect("it is read"), Some(written));
        }
    }

    #[test]
    fn any_change_is_damage_that_names_the_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = Place::open(directory.path()).expect("it opens");
        let path = directory.path().join(FILE);
        let text = manifest().to_text().into_bytes();
        let mut changed: Vec<Vec<u8>> =
            (0..text.len()).map(|length| text[..length].to_vec()).collect();
        changed.extend((0..text.len()).map(|at| {
            let mut text = text.clone();
            text[at] ^= 0x15;
            text
        }));
        for text in changed {
            std::fs::write(&path, &text).expect("it is written");
            match SealManifest::read(&place) {
                Err(Error::Damaged { path: named, .. }) => assert_eq!(named, path),
                other => panic!("{other:?} for {}", String::from_utf8_lossy(&text)),
            }
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let sealed = manifest();
        let mut opened = sealed.shards.clone();
        assert!(sealed.verify(&opened).is_ok());
        let mismatch = |opened: &[SealedShard]| match sealed.verify(opened) {
            Err(Error::Mismatch(mismatch)) => mismatch,
            other => panic!("{other:?}"),
        };
        assert_eq!(mismatch(&opened[..2]), Mismatch::ShardCount { sealed: 3, opened: 2 });
        opened[0].digest[31] ^= 1;
        assert_eq!(mismatch(&opened), Mismatch::Contents { name: "log".into(), revision: 4 });
        opened[0].revision = 3;
        let behind = Mismatch::Revision { name: "log".into(), sealed: 4, opened: 3 };
        assert_eq!(mismatch(&opened), behind);
        opened[0].name = "journal".into();
        let renamed = Mismatch::Name { index: 0, sealed: "log".into(), opened: "journal".into() };
        assert_eq!(mismatch(&opened), renamed);
    }
}
