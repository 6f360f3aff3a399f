//! The seal manifest: the sealed shards, for the process that opens them next.
//!
//! A text, so that a person can read it when it does not match:
//!
//! ```text
//! handoff-manifest 3
//! generation 7
//! boot 7d0c...            (or "boot any" after a clean stop, which is durable)
//! fingerprint 91f4...
//! shard 42 03ab... log    (revision, digest, name)
//! added index             (and retired, resizable, renamed: the schema of the build that sealed)
//! checksum 5c11...        (BLAKE3 of everything above)
//! ```
//!
//! One of a build that declares nothing of other builds is of version 1, and one of a build that names
//! no format of version 2: older builds read them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::sync::Arc;

use blake3::Hash;
use rustix::fs::FallocateFlags;

use super::place::Place;
use super::record::REMEDY;
use super::{schema, text};
use crate::drainable::{Schema, SealReport, SealedShard};
use crate::error::{Error, Mismatch, Result};
use crate::log;
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
    /// Of the build that sealed.
    pub(crate) schema: Schema,
    /// The boot in which it holds; none for one that was synced.
    boot_id: Option<[u8; 16]>,
}

impl SealManifest {
    pub(crate) fn of_seal(
        generation: u64,
        report: &SealReport,
        shards: Vec<SealedShard>,
        schema: Schema,
        durable: bool,
    ) -> Self {
        Self {
            generation,
            fingerprint: report.data_dir_fingerprint,
            shards,
            schema: Schema { fields: Vec::new(), ..schema },
            boot_id: (!durable).then(boot_id),
        }
    }

    /// Compares the opened shards with the sealed ones, by their names. A manifest of a daemon that
    /// named no shards has nothing to compare with. A build of `schema` opened them:
    /// [`Drainable::schema`](crate::Drainable::schema).
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] with the first difference, which names the shard.
    pub fn verify(&self, opened: &[SealedShard], schema: &Schema) -> Result<()> {
        self.as_sealed(opened, schema).map(drop)
    }

    /// For each sealed shard, in their order, its place among the opened ones, once all are as they
    /// were sealed; none for one that this build does not open.
    pub(crate) fn as_sealed(
        &self,
        opened: &[SealedShard],
        schema: &Schema,
    ) -> Result<Vec<Option<usize>>> {
        self.check_format(schema)?;
        self.places(opened, schema, &schema.towards(&self.schema))
    }

    /// Whether a build of that schema reads the data.
    ///
    /// # Errors
    ///
    /// [`Mismatch::Format`].
    pub(crate) fn check_format(&self, schema: &Schema) -> Result<()> {
        Ok(schema.check_format(self.schema.formats.written)?)
    }

    fn places(
        &self,
        opened: &[SealedShard],
        schema: &Schema,
        differ: &Schema,
    ) -> Result<Vec<Option<usize>>> {
        if self.shards.is_empty() {
            return Ok(Vec::new());
        }
        let mut left = HashMap::new();
        for (place, shard) in opened.iter().enumerate() {
            if left.insert(&*shard.name, place).is_some() {
                return Err(Error::DuplicateShard { name: shard.name.clone() });
            }
        }
        // The names that are still the same go first: an earlier name may belong to another shard.
        let mut places: Vec<_> =
            self.shards.iter().map(|sealed| left.remove(&*sealed.name)).collect();
        for (sealed, place) in self.shards.iter().zip(&mut places) {
            if place.is_none() {
                *place = differ.names_of(&sealed.name).find_map(|name| left.remove(&*name));
            }
            match *place {
                Some(place) => self.compare(sealed, &opened[place], schema)?,
                None if differ.may_lack(&sealed.name) => log::warn!(
                    shard = sealed.name,
                    "this build leaves a shard that was sealed: one of the two builds declares that it may"
                ),
                None => return Err(self.not_opened(&sealed.name, opened).into()),
            }
        }
        for shard in opened.iter().filter(|shard| left.contains_key(&*shard.name)) {
            if !differ.may_add(&shard.name) {
                return Err(self.not_sealed(&shard.name).into());
            }
            log::warn!(
                shard = shard.name,
                "this build opens a shard that was not sealed, and compares it with nothing: one of the two builds declares that it may"
            );
        }
        Ok(places)
    }

    /// A shard of another format has as many writes, and not the same bytes.
    fn compare(&self, sealed: &SealedShard, opened: &SealedShard, schema: &Schema) -> Result<()> {
        let name = opened.name.clone();
        let formats = self.schema.formats_of(&sealed.name);
        schema.check_format_of(&name, formats.written)?;
        if sealed.revision != opened.revision {
            let (sealed, opened) = (sealed.revision, opened.revision);
            return Err(Mismatch::Revision { name, sealed, opened }.into());
        }
        let is_of_another_format = schema.formats_of(&name).written != formats.written;
        if sealed.digest != opened.digest && !is_of_another_format {
            return Err(Mismatch::Contents { name, revision: sealed.revision }.into());
        }
        Ok(())
    }

    /// The error of a sealed shard that this build does not open and should.
    fn not_opened(&self, name: &str, opened: &[SealedShard]) -> Mismatch {
        match field_of(name) {
            Some(field) if opened.iter().any(|shard| field_of(&shard.name) == Some(field)) => {
                Mismatch::Resized { field: field.to_owned(), name: name.to_owned() }
            }
            _ => Mismatch::NotOpened { name: name.to_owned() },
        }
    }

    /// The error of a shard that was not sealed, and that this build opens.
    fn not_sealed(&self, name: &str) -> Mismatch {
        match field_of(name) {
            Some(field) if self.shards.iter().any(|shard| field_of(&shard.name) == Some(field)) => {
                Mismatch::Resized { field: field.to_owned(), name: name.to_owned() }
            }
            _ => Mismatch::NotSealed { name: name.to_owned() },
        }
    }

    /// Compares the shards that an incumbent resumed with those that it sealed. A shard may have
    /// more than it had: a request that outlived the drain writes as soon as the shard is open. Where
    /// a successor `had_opened` the data, its contents may differ: that build may have another format.
    pub(crate) fn verify_resumed(
        &self,
        mut opened: Vec<SealedShard>,
        had_opened: bool,
    ) -> Result<()> {
        let sealed: HashMap<&str, &SealedShard> =
            self.shards.iter().map(|sealed| (&*sealed.name, sealed)).collect();
        for opened in &mut opened {
            let Some(sealed) = sealed.get(&*opened.name) else { continue };
            let has_more = opened.revision > sealed.revision;
            let has_as_much = opened.revision == sealed.revision;
            if has_more || has_as_much && had_opened {
                opened.clone_from(sealed);
            }
        }
        // A daemon with hooks of its own may name no shards.
        if opened.is_empty() {
            Ok(())
        } else {
            self.places(&opened, &self.schema, &Schema::new()).map(drop)
        }
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
    pub(crate) fn missing(place: &Place) -> Error {
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
        let header = match &self.schema {
            schema if schema.declares_nothing() => HEADER_OF_OLD,
            schema if schema.has_formats() => HEADER,
            _ => HEADER_WITHOUT_FORMATS,
        };
        let mut text =
            format!("{header}\ngeneration {generation}\nboot {boot}\nfingerprint {fingerprint}\n");
        text.reserve(100 + self.shards.len() * 100);
        for SealedShard { name, revision, digest } in &self.shards {
            let _ =
                writeln!(text, "shard {revision} {} {}", Hash::from(*digest), text::escaped(name));
        }
        schema::write_declared(&self.schema, &mut text);
        text::sealed(text)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut lines = text::opened(text)?.lines();
        if !matches!(lines.next(), Some(HEADER | HEADER_WITHOUT_FORMATS | HEADER_OF_OLD)) {
            return Err("its version is one that this build does not know: it is of a newer build");
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
        let (mut shards, mut schema) = (Vec::new(), Schema::new());
        for line in lines {
            let (key, rest) = line.split_once(' ').ok_or("a line is cut short")?;
            match schema::parse_line(&mut schema, key, rest) {
                Some(parsed) => parsed?,
                None if key == "shard" => shards.push(parse_shard(rest)?),
                None => return Err("a line is no shard"),
            }
        }
        if !schema.fields.is_empty() {
            return Err("a line is no shard");
        }
        Ok(Self { generation, fingerprint, shards, schema, boot_id })
    }
}

/// The field whose collection has a shard of that name.
fn field_of(name: &str) -> Option<&str> {
    name.split_once('.').map(|(field, _)| field)
}

fn parse_shard(line: &str) -> Result<SealedShard, &'static str> {
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().ok_or("a shard's line is cut short");
    let revision = word()?.parse().map_err(|_| "a revision is no number")?;
    let digest = parse_digest(word()?)?;
    Ok(SealedShard { name: text::plain(word()?), revision, digest })
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
const HEADER: &str = "handoff-manifest 3";
const HEADER_WITHOUT_FORMATS: &str = "handoff-manifest 2";
const HEADER_OF_OLD: &str = "handoff-manifest 1";
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
        SealManifest::of_seal(7, &report, shards, Schema::new(), false)
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

    fn mismatch(sealed: &SealManifest, opened: &[SealedShard], schema: &Schema) -> Mismatch {
        match sealed.verify(opened, schema) {
            Err(Error::Mismatch(mismatch)) => mismatch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let (sealed, none) = (manifest(), Schema::new());
        let mut opened = sealed.shards.clone();
        assert!(sealed.verify(&opened, &none).is_ok());
        let mismatch = |opened: &[SealedShard]| mismatch(&sealed, opened, &none);
        assert_eq!(mismatch(&opened[..2]), Mismatch::NotOpened { name: String::new() });
        opened[0].digest[31] ^= 1;
        assert_eq!(mismatch(&opened), Mismatch::Contents { name: "log".into(), revision: 4 });
        opened[0].revision = 3;
        let behind = Mismatch::Revision { name: "log".into(), sealed: 4, opened: 3 };
        assert_eq!(mismatch(&opened), behind);
        opened[0].name = "journal".into();
        assert_eq!(mismatch(&opened), Mismatch::NotOpened { name: "log".into() });
        opened.push(sealed.shards[0].clone());
        assert_eq!(mismatch(&opened), Mismatch::NotSealed { name: "journal".into() });
    }

    fn of(shards: &[SealedShard], schema: &Schema) -> SealManifest {
        let report = SealReport::default();
        SealManifest::of_seal(7, &report, shards.to_vec(), schema.clone(), true)
    }

    /// An older build's shards, a newer one's, the schema of the newer one, and the two ways in
    /// which they differ where nothing is declared: older data opened by the newer build, and back.
    type Change = (Vec<SealedShard>, Vec<SealedShard>, Schema, [Mismatch; 2]);

    fn changes() -> Vec<Change> {
        let log = || shard("log", 1, 1);
        let named = |name: &str| name.to_owned();
        let tables =
            |count: u64| (0..count).map(|index| shard(&format!("tables.{index}"), index, 2));
        let index = [
            Mismatch::NotSealed { name: named("index") },
            Mismatch::NotOpened { name: named("index") },
        ];
        let audit = [
            Mismatch::NotOpened { name: named("audit") },
            Mismatch::NotSealed { name: named("audit") },
        ];
        let renamed = [
            Mismatch::NotOpened { name: named("journal") },
            Mismatch::NotOpened { name: named("log") },
        ];
        let resized = || Mismatch::Resized { field: named("tables"), name: named("tables.2") };
        let all_renamed = [
            Mismatch::NotOpened { name: named("old.0") },
            Mismatch::NotOpened { name: named("tables.0") },
        ];
        vec![
            (vec![log()], vec![shard("index", 9, 9), log()], Schema::new().added("index"), index),
            (vec![log(), shard("audit", 2, 2)], vec![log()], Schema::new().retired("audit"), audit),
            (
                vec![shard("journal", 1, 1)],
                vec![log()],
                Schema::new().renamed("journal", "log"),
                renamed,
            ),
            (
                tables(2).collect(),
                tables(4).collect(),
                Schema::new().resizable("tables"),
                [resized(), resized()],
            ),
            (
                tables(2).collect(),
                vec![shard("pages.0", 0, 2)],
                Schema::new().renamed("tables", "pages").resizable("pages"),
                [
                    Mismatch::NotOpened { name: named("tables.0") },
                    Mismatch::NotOpened { name: named("pages.0") },
                ],
            ),
            (
                vec![shard("old.0", 3, 3), shard("old.1", 4, 4)],
                vec![shard("tables.0", 3, 3), shard("tables.1", 4, 4)],
                Schema::new().renamed("old", "tables"),
                all_renamed,
            ),
        ]
    }

    #[test]
    fn a_declared_change_is_the_same_state_forwards_and_back_and_another_one_is_named() {
        for (older, newer, schema, [forwards, back]) in changes() {
            let none = Schema::new();
            of(&older, &none).verify(&newer, &schema).expect("it is declared");
            // The older build has only the manifest to go by.
            of(&newer, &schema).verify(&older, &none).expect("the newer build declared it");
            assert_eq!(mismatch(&of(&older, &none), &newer, &none), forwards);
            assert_eq!(mismatch(&of(&newer, &none), &older, &none), back);
            // Contents are compared all the same.
            let mut changed = newer.clone();
            changed.iter_mut().for_each(|shard| shard.digest[0] ^= 1);
            let found = mismatch(&of(&older, &none), &changed, &schema);
            assert!(matches!(found, Mismatch::Contents { .. }), "{found:?}");
            let text = of(&newer, &schema).to_text();
            assert_eq!(SealManifest::parse(&text), Ok(of(&newer, &schema)), "{text}");
        }
    }

    /// A declaration about older builds is no licence for the build itself, nor for the next.
    #[test]
    fn a_declaration_that_both_builds_make_is_no_difference_between_them() {
        let added = Schema::new().added("tables").retired("audit");
        let sealed = of(&[shard("tables.0", 0, 2), shard("tables.1", 1, 2)], &added);
        let fewer = mismatch(&sealed, &sealed.shards[..1], &added);
        assert!(matches!(fewer, Mismatch::Resized { .. }), "{fewer:?}");
        let mut more = sealed.shards.clone();
        more.push(shard("audit", 1, 1));
        let more = mismatch(&sealed, &more, &added);
        assert_eq!(more, Mismatch::NotSealed { name: "audit".into() });
        // An incumbent that resumes is the build that sealed, whatever it declares.
        let sealed = of(&sealed.shards, &Schema::new().resizable("tables").added("tables"));
        let fewer = sealed.shards[..1].to_vec();
        assert!(sealed.verify_resumed(fewer, false).is_err());
    }

    #[test]
    fn a_name_that_is_still_the_same_goes_before_an_earlier_one() {
        let older = Schema::new().renamed("log", "journal");
        let newer = Schema::new().added("log");
        let sealed = of(&[shard("log", 9, 9), shard("journal", 1, 1)], &newer);
        sealed.verify(&[shard("journal", 1, 1)], &older).expect("log is the newer build's own");
    }

    #[test]
    fn a_name_that_is_opened_twice_is_an_error() {
        let sealed = of(&[shard("log", 1, 1)], &Schema::new());
        let twice = [shard("log", 1, 2), shard("log", 1, 1)];
        let error = sealed.verify(&twice, &Schema::new());
        assert!(matches!(error, Err(Error::DuplicateShard { .. })), "{error:?}");
    }

    #[test]
    fn a_resumed_shard_is_found_by_its_name() {
        let sealed = of(&[shard("log", 1, 1), shard("audit", 2, 2)], &Schema::new());
        let late = vec![shard("audit", 3, 9), shard("log", 1, 1)];
        sealed.verify_resumed(late, false).expect("a late request has written");
        let behind = vec![shard("audit", 1, 9), shard("log", 1, 1)];
        assert!(sealed.verify_resumed(behind, false).is_err());
    }

    #[test]
    fn the_order_of_the_shards_is_no_part_of_the_state() {
        let (sealed, none) = (manifest(), Schema::new());
        let mut opened = sealed.shards.clone();
        opened.rotate_left(1);
        let places = sealed.as_sealed(&opened, &none).expect("it is the same state");
        assert_eq!(places, [Some(2), Some(0), Some(1)]);
    }

    #[test]
    fn a_build_without_a_schema_writes_what_older_builds_read() {
        assert!(manifest().to_text().starts_with("handoff-manifest 1\n"));
        let schema =
            Schema::new().renamed("a\tb\n\\", "c\td").added("x y").retired("").resizable("z");
        let declared = SealManifest { schema, ..manifest() };
        let text = declared.to_text();
        assert!(text.starts_with("handoff-manifest 2\n"), "{text}");
        assert_eq!(SealManifest::parse(&text), Ok(declared));
    }

    #[test]
    fn a_manifest_of_a_newer_version_is_refused_by_it() {
        let text = manifest().to_text().replacen("handoff-manifest 1", "handoff-manifest 4", 1);
        let end = text.rfind("checksum").expect("there is one");
        let body = &text[..end];
        let text = format!("{body}checksum {}\n", blake3::hash(body.as_bytes()));
        let why = SealManifest::parse(&text).expect_err("it is of a newer build");
        assert!(why.contains("version") && why.contains("newer"), "{why}");
    }
}
