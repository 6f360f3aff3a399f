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
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use blake3::Hash;
use rustix::fs::FallocateFlags;

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

    /// Reads the manifest of a directory, if it has one.
    pub(crate) fn read(data_dir: &Path) -> Result<Option<Self>> {
        let path = data_dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::at("read", &path)(error)),
        };
        std::str::from_utf8(&text)
            .map_err(|_| "it is no text")
            .and_then(Self::parse)
            .map(Some)
            .map_err(|why| Error::Damaged { path, why, remedy: REMEDY })
    }

    /// Replaces the manifest of a directory whose lock the caller holds; see [`Draft`].
    pub(crate) fn write(&self, data_dir: &Path) -> Result<()> {
        Draft::begin(data_dir)?.publish(self)
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
    beside: PathBuf,
    data_dir: PathBuf,
    is_published: bool,
}

impl Draft {
    /// Begins one, for a directory whose lock the caller holds.
    pub(crate) fn begin(data_dir: &Path) -> Result<Self> {
        let beside = data_dir.join(BESIDE);
        let file = File::create(&beside).map_err(Error::at("create", &beside))?;
        // A file system that delays allocation would find blocks only in the rename, while clients
        // wait. One that does not support the call goes without.
        let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, USUAL_LENGTH);
        Ok(Self { file, beside, data_dir: data_dir.to_owned(), is_published: false })
    }

    /// Puts the manifest in the place of the old one. That of a swap is not synced: only a
    /// process of the same boot goes by it (invariant 11).
    pub(crate) fn publish(mut self, manifest: &SealManifest) -> Result<()> {
        let path = self.data_dir.join(FILE);
        let is_durable = manifest.boot_id.is_none();
        let text = manifest.to_text();
        self.file.write_all(text.as_bytes()).map_err(Error::at("write", &self.beside))?;
        if is_durable {
            self.file.sync_all().map_err(Error::at("sync", &self.beside))?;
        }
        fs::rename(&self.beside, &path).map_err(Error::at("rename to", &path))?;
        self.is_published = true;
        if is_durable {
            sync_directory(&self.data_dir)?;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Creates a directory, and those above it, where there is none. It survives a crash of the machine,
/// since a daemon that syncs the files in it relies on that.
pub(super) fn create_directory(path: &Path) -> Result<()> {
    create_durably(path).map_err(Error::at("create the data directory", path))
}

fn create_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    create_durably(above)?;
    match fs::create_dir(path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => created?,
    }
    File::open(above)?.sync_all()
}

/// Syncs a directory, so that the names in it survive a crash of the machine.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(Error::at("sync", path))
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
        assert_eq!(SealManifest::read(directory.path()).expect("none is fine"), None);
        for durable in [false, true] {
            let written = SealManifest { boot_id: (!durable).then(boot_id), ..manifest() };
            written.write(directory.path()).expect("it is written");
            assert_eq!(SealManifest::read(directory.path()).expect("it is read"), Some(written));
        }
    }

    #[test]
    fn any_change_is_damage_that_names_the_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
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
            fs::write(&path, &text).expect("it is written");
            match SealManifest::read(directory.path()) {
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
