//! Whether a build fits the data of a directory, and what it leaves there for the next one.

use std::path::Path;
use std::sync::Arc;

use super::super::{OwnerRecord, Place, SealManifest, schema};
use super::DataDirLock;
use super::file::LOCK_FILE;
use crate::drainable::Schema;
use crate::error::{Error, Result};
use crate::guard::{Guard, stands};
use crate::log;

/// A build that fits the data of the build before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fit {
    /// The format that it writes, and the last one that the build before it reads, where that does
    /// not read the former.
    pub(crate) one_way: Option<(u32, u32)>,
}

impl Fit {
    /// Compares a build of the schema `own` with the data of the writer in the record.
    fn of(place: &Place, record: &OwnerRecord, own: &Schema) -> Result<Self> {
        own.check_format(record.format()).map_err(Error::Schema)?;
        let one_way = match schema::read(place, record) {
            Some(found) => {
                own.check(&found).map_err(Error::Schema)?;
                own.unread_by(&found)
            }
            // A build that says nothing reads the format that is there.
            None => own.unread_by(&Schema::new().format(record.format(), 1..=record.format())),
        };
        Ok(Self { one_way })
    }

    /// Compares a build with the one that serves a directory: the successor has no lock yet.
    pub(crate) fn ahead(data_dir: &Path, own: &Schema) -> Result<Self> {
        let record = Place::open(data_dir).and_then(|place| {
            let file = place.read(LOCK_FILE)?;
            let record = file.map(|file| OwnerRecord::read(&file, &place.path_of(LOCK_FILE)));
            Ok((record.transpose()?.unwrap_or_default(), place))
        });
        // What is wrong with the directory the next steps find.
        record.map_or(Ok(Self::default()), |(record, place)| Self::of(&place, &record, own))
    }

    /// # Errors
    ///
    /// [`Error::OneWay`] where no caller allowed that.
    pub(crate) const fn check_way_back(self, is_allowed: bool) -> Result<()> {
        match self.one_way {
            Some((written, read)) if !is_allowed => Err(Error::OneWay { written, read }),
            _ => Ok(()),
        }
    }
}

impl DataDirLock {
    /// Compares a build with the data as the last writer left it, by the names and formats of the
    /// shards, before anything is opened: its [`Drainable::schema`](crate::Drainable::schema). Data
    /// of a writer that told no schema fit every build of format 1.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`] with the first difference.
    pub fn check_schema(&self, own: &Schema) -> Result<()> {
        self.fit(own).map(drop)
    }

    pub(crate) fn fit(&self, own: &Schema) -> Result<Fit> {
        Fit::of(self.place(), &self.found, own)
    }

    /// Notes what this build may leave in the data from here on. It is durable before that happens:
    /// after a crash of the machine an older build must not take the data for its own.
    pub(crate) fn record_schema(&mut self, own: &Schema) -> Result<Leaves> {
        let found = schema::read(self.place(), &self.found);
        let left = own.over(found.as_ref());
        let raised = self.found.format.max(own.formats.written);
        let is_new = raised != self.found.format()
            || found.map_or_else(Vec::new, |found| found.own_formats) != left.own_formats;
        self.own = Some(own.clone());
        self.record.format = raised;
        let (place, record) = (Arc::clone(self.place()), self.record.clone());
        let leaves = Leaves { place, record, schema: left };
        if is_new {
            self.check()?;
            schema::write(&leaves.place, &leaves.record, &leaves.schema, true)?;
            self.write_record()?;
            self.shared.sync(self.generation())?;
        }
        Ok(leaves)
    }

    /// The format of the data where the record of it is lost.
    pub(super) fn format_beside_the_record(&self) -> u32 {
        let of_schema = schema::read_of_anyone(self.place()).map(|(_, schema)| schema);
        let of_manifest = SealManifest::read(self.place()).ok().flatten();
        let of_manifest = of_manifest.map(|manifest| manifest.schema);
        [of_schema, of_manifest]
            .into_iter()
            .flatten()
            .map(|schema| schema.formats.written)
            .max()
            .unwrap_or(0)
    }

    /// Whether this process, which has the lock again, still reads the data of the process that had
    /// it meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`].
    pub(super) fn reads(&self, now: &OwnerRecord) -> Result<()> {
        let Some(own) = self.own.as_ref().filter(|_| stands(Guard::FormatBeforeResume)) else {
            return Ok(());
        };
        own.check_format(now.format()).map_err(Error::Schema)?;
        let Some(theirs) = schema::read(self.place(), now) else { return Ok(()) };
        theirs.unread_by(own).map_or(Ok(()), |(written, _)| {
            Err(Error::Schema(own.check_format(written).expect_err("it was just found")))
        })
    }
}

/// What the process that became the writer leaves for the next build.
#[derive(Debug)]
pub(crate) struct Leaves {
    place: Arc<Place>,
    record: OwnerRecord,
    schema: Schema,
}

impl Leaves {
    /// Writes it. Without it the next build is compared when it has opened the data.
    pub(crate) fn write(&self) {
        if let Err(error) = schema::write(&self.place, &self.record, &self.schema, false) {
            log::warn!(
                path = %self.place.path().display(), %error,
                "this daemon cannot write its schema beside its data: a next build with another struct finds that out while clients wait, and not before"
            );
        }
    }
}
