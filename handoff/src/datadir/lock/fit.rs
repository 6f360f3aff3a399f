//! Whether a build fits the data of a directory, and what it leaves there for the next one.

use std::path::Path;
use std::sync::Arc;

use super::super::schema::{self, Left};
use super::super::{OwnerRecord, Place, SealManifest};
use super::DataDirLock;
use super::file::LOCK_FILE;
use crate::drainable::{FIRST_FORMAT, Schema, Unread};
use crate::error::{Error, Mismatch, Result};
use crate::guard::{Guard, stands};
use crate::log;

/// A build that fits the data of the build before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fit {
    /// A format that it writes and the build before it does not read.
    pub(crate) one_way: Option<Unread>,
}

impl Fit {
    /// Compares a build of the schema `own` with the data of the writer in the record. Where that has
    /// left no schema, the one in the manifest of its seal counts.
    fn of(
        place: &Place,
        record: &OwnerRecord,
        sealed: Option<Schema>,
        own: &Schema,
    ) -> Result<Self> {
        if !record.is_new() {
            own.check_format(record.format()).map_err(Error::Schema)?;
        }
        let left = schema::read(place, record);
        if let Some((left, _)) = &left {
            own.check_highest(&left.highest_for(own)).map_err(Error::Schema)?;
        }
        let highest = left.as_ref().map_or_else(Vec::new, |(left, _)| left.highest_for(own));
        let left = left.and_then(|(left, is_of_writer)| is_of_writer.then_some(left.schema));
        let Some(found) = left.or(sealed) else {
            if record.is_new() {
                return Ok(Self::default());
            }
            // A build that says nothing has no field of a format of its own but those that are known,
            // and may read none above the one that is there.
            let (written, fields) = own.writes();
            let mut above = (written > record.format()).then_some((written, record.format()));
            for (name, written) in fields {
                let known = highest.iter().find(|(field, _)| field == name);
                if known.is_none() && !own.added.iter().any(|added| added == name) {
                    own.check_format_of(name, record.format()).map_err(Error::Schema)?;
                }
                let known = known.map_or(0, |(_, format)| *format).max(record.format());
                above = above.or_else(|| (written > known).then_some((written, known)));
            }
            let unread = |(written, known)| {
                let reads = FIRST_FORMAT..=known;
                Unread { field: None, written, reads }
            };
            return Ok(Self { one_way: above.map(unread) });
        };
        own.check(&found).map_err(Error::Schema)?;
        Ok(Self { one_way: own.unread_by(&found) })
    }

    /// Compares a build with the one that serves a directory: the successor has no lock yet.
    pub(crate) fn ahead(data_dir: &Path, own: &Schema) -> Result<Self> {
        let record = Place::open(data_dir).and_then(|place| {
            let file = place.read(LOCK_FILE)?;
            let record = file.map(|file| OwnerRecord::read(&file, &place.path_of(LOCK_FILE)));
            Ok((record.transpose()?.unwrap_or_default(), place))
        });
        // What is wrong with the directory the next steps find.
        record.map_or(Ok(Self::default()), |(record, place)| Self::of(&place, &record, None, own))
    }

    /// # Errors
    ///
    /// [`Error::OneWay`] where no caller allowed that.
    pub(crate) fn check_way_back(&self, is_allowed: bool) -> Result<()> {
        match self.one_way.clone().filter(|_| !is_allowed) {
            Some(Unread { written, reads, .. }) => Err(Error::OneWay { written, reads }),
            None => Ok(()),
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
        let sealed = self.manifest().ok().flatten().map(|manifest| manifest.schema);
        Fit::of(self.place(), &self.found, sealed, own)
    }

    /// Writes all that [`record_schema`](Self::record_schema) must not fail to write, beside what is
    /// there: here a failure still undoes the swap.
    pub(crate) fn prepare_schema(&mut self, own: &Schema) -> Result<()> {
        let note = self.note(own);
        if note.is_new && !note.left.highest.is_empty() {
            if schema::is_in_the_way(self.place()) {
                let error = std::io::Error::from(std::io::ErrorKind::IsADirectory);
                return Err(schema::at(self.place(), error));
            }
            note.left.stage(self.place(), &self.record, true)?;
        }
        self.note = Some(Note { is_staged: true, ..note });
        Ok(())
    }

    /// Notes what this build may leave in the data from here on. It is durable before that happens:
    /// after a crash of the machine an older build must not take the data for its own. What failed
    /// before does it again.
    pub(crate) fn record_schema(&mut self, own: &Schema) -> Result<Leaves> {
        let mut note = self.note.take().unwrap_or_else(|| self.note(own));
        let noted = self.write_note(&mut note);
        let (place, record) = (Arc::clone(self.place()), self.record.clone());
        let leaves = Leaves { place, record, left: note.left.clone() };
        (self.own, self.note) = (Some(own.clone()), Some(note));
        noted.map(|()| leaves)
    }

    fn write_note(&mut self, note: &mut Note) -> Result<()> {
        self.record.format = note.format;
        if !note.is_new {
            return Ok(());
        }
        self.check()?;
        if !note.left.highest.is_empty() && !note.is_published {
            // Once: where that fails, the next try writes it anew.
            if std::mem::take(&mut note.is_staged) {
                schema::publish(self.place(), true)?;
            } else {
                note.left.write(self.place(), &self.record, true)?;
            }
            note.is_published = true;
        }
        self.write_record()?;
        self.shared.sync(self.generation())
    }

    fn note(&self, own: &Schema) -> Note {
        let found = schema::read(self.place(), &self.found);
        let (before, found) = found.map_or_else(Default::default, |(left, is_of_writer)| {
            (left.highest, is_of_writer.then_some(left.schema))
        });
        let highest = own.highest(&before, found.as_ref());
        let format = self.found.format.max(own.formats.written);
        let is_new = format != self.found.format()
            || found.is_some_and(|found| found.writes() != own.writes())
            || highest != before;
        let left = Left { schema: own.clone(), highest };
        Note { left, format, is_new, is_staged: false, is_published: false }
    }

    /// After another process had the directory: the next build compares itself with this one again.
    pub(super) fn leave_schema_again(&self) {
        let (Some(own), Some(note)) = (&self.own, &self.note) else { return };
        let before = schema::read(self.place(), &self.record).map(|(left, _)| left.highest);
        let before = [before.unwrap_or_default(), note.left.highest.clone()].concat();
        let left = Left { schema: own.clone(), highest: own.highest(&before, None) };
        Leaves { place: Arc::clone(self.place()), record: self.record.clone(), left }.write();
    }

    /// The format of the data where the record of it is lost.
    pub(super) fn format_beside_the_record(&self) -> u32 {
        let left = schema::read(self.place(), &OwnerRecord::default()).map(|(left, _)| left.schema);
        let sealed = SealManifest::read(self.place()).ok().flatten();
        let both = left.into_iter().chain(sealed.map(|manifest| manifest.schema));
        both.map(|schema| schema.formats.written).max().unwrap_or(0)
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
        let Some((left, is_of_writer)) = schema::read(self.place(), now) else { return Ok(()) };
        own.check_highest(&left.highest_for(own)).map_err(Error::Schema)?;
        match left.schema.unread_by(own).filter(|_| is_of_writer) {
            Some(Unread { field, written: found, reads }) => {
                Err(Error::Schema(Mismatch::Format { field, found, reads }))
            }
            None => Ok(()),
        }
    }
}

/// What this process notes of its schema when it begins to write.
#[derive(Debug)]
pub(super) struct Note {
    left: Left,
    /// The highest that the whole of the data may have.
    format: u32,
    /// Whether it writes other formats than the last writer.
    is_new: bool,
    /// Whether the file lies beside the last writer's.
    is_staged: bool,
    is_published: bool,
}

/// What the process that became the writer leaves for the next build.
#[derive(Debug)]
pub(crate) struct Leaves {
    place: Arc<Place>,
    record: OwnerRecord,
    left: Left,
}

impl Leaves {
    /// Writes it. Without it the next build is compared when it has opened the data.
    pub(crate) fn write(&self) {
        let is_durable = !self.left.highest.is_empty();
        if let Err(error) = self.left.write(&self.place, &self.record, is_durable) {
            log::warn!(
                path = %self.place.path().display(), %error,
                "this daemon cannot write its schema beside its data: a next build with another struct finds that out while clients wait, and not before"
            );
        }
    }
}
