//! The fields of a build's state struct: their names and formats, and the differences from builds
//! before it.

use std::iter;
use std::ops::RangeInclusive;

use crate::drainable::{Extent, Shards};
use crate::error::Mismatch;

/// The shards that a build opens, the formats that it reads and writes, and the differences from
/// older builds, as its author declares them.
///
/// `#[derive(Drainable)]` writes it from the struct's fields and attributes. A name stands for the
/// shards of a whole collection too. An incumbent leaves its schema in the data directory, and the
/// seal manifest has the declared part of it, so that a build compares itself with the one before
/// it, and an older build, which knows nothing of a newer one, opens that one's data as well.
///
/// ```
/// use handoff::drainable::Schema;
///
/// let schema = Schema::new()
///     .format(3, 1..=3)             // writes format 3, and reads 1 and 2 as well
///     .added("index")               // older builds have no such shard
///     .retired("audit")             // they have this one
///     .renamed("journal", "log")    // and this one under another name
///     .resizable("tables");         // and of these more, or fewer
/// # drop(schema);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// Of all shards without one of their own.
    pub(crate) formats: Formats,
    /// All fields, in declared order; none where the daemon does not say.
    pub(crate) fields: Vec<Field>,
    /// Of the fields with formats of their own.
    pub(crate) own_formats: Vec<(String, Formats)>,
    pub(crate) added: Vec<String>,
    pub(crate) retired: Vec<String>,
    /// The earlier name, and the present one.
    pub(crate) renamed: Vec<(String, String)>,
    pub(crate) resizable: Vec<String>,
}

/// A name, and how many shards it stands for.
type Field = (String, Extent);

/// The fields of an earlier build, each with the present one for it.
type Pairs<'a> = Vec<(&'a Field, Option<&'a Field>)>;

/// The format that a build writes, and those that it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Formats {
    pub(crate) written: u32,
    pub(crate) first_read: u32,
    pub(crate) last_read: u32,
}

impl Default for Formats {
    fn default() -> Self {
        Self { written: FIRST, first_read: FIRST, last_read: FIRST }
    }
}

impl Formats {
    fn new(written: u32, reads: RangeInclusive<u32>) -> Self {
        Self {
            written,
            first_read: written.min(*reads.start()),
            last_read: written.max(*reads.end()),
        }
    }

    pub(crate) const fn read(self, format: u32) -> bool {
        self.first_read <= format && format <= self.last_read
    }
}

impl Schema {
    /// Without a field and without a difference, of format 1.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The format that this build writes, and those that it reads, which include it. Formats count
    /// from 1: that is the format of a build that names none.
    #[must_use]
    pub fn format(mut self, written: u32, reads: RangeInclusive<u32>) -> Self {
        self.formats = Formats::new(written, reads);
        self
    }

    /// A field of that type. A schema with fields has all of them.
    #[must_use]
    pub fn field<S: Shards>(self, name: impl Into<String>) -> Self {
        self.field_of(name, S::extent())
    }

    /// A field that holds so many shards.
    #[must_use]
    pub fn field_of(mut self, name: impl Into<String>, extent: Extent) -> Self {
        self.fields.push((name.into(), extent));
        self
    }

    /// The formats of one field, in place of those of the whole.
    #[must_use]
    pub fn field_format(
        mut self,
        name: impl Into<String>,
        written: u32,
        reads: RangeInclusive<u32>,
    ) -> Self {
        self.own_formats.push((name.into(), Formats::new(written, reads)));
        self
    }

    /// A shard that an older build does not have: this one creates it where it is not there.
    #[must_use]
    pub fn added(mut self, name: impl Into<String>) -> Self {
        self.added.push(name.into());
        self
    }

    /// A shard that an older build has, and this one does not open.
    #[must_use]
    pub fn retired(mut self, name: impl Into<String>) -> Self {
        self.retired.push(name.into());
        self
    }

    /// A shard that an older build has under the name `was`.
    #[must_use]
    pub fn renamed(mut self, was: impl Into<String>, name: impl Into<String>) -> Self {
        self.renamed.push((was.into(), name.into()));
        self
    }

    /// A collection of which an older build may have more shards, or fewer.
    #[must_use]
    pub fn resizable(mut self, name: impl Into<String>) -> Self {
        self.resizable.push(name.into());
        self
    }

    /// Whether this build opens the data of one of the schema `found`, by the names of its fields
    /// and by their formats.
    ///
    /// # Errors
    ///
    /// The first difference that neither build declares.
    pub(crate) fn check(&self, found: &Self) -> Result<(), Mismatch> {
        self.check_format(found.formats.written)?;
        let differ = self.towards(found);
        let (pairs, new) = self.pairs(found, &differ);
        for ((name, extent), own) in pairs {
            let Some((own, now)) = own else {
                if differ.may_lack(name) {
                    continue;
                }
                return Err(Mismatch::NotOpened { name: name.clone() });
            };
            self.check_format_of(own, found.formats_of(name))?;
            if let Some(first) = extent.first_unlike(*now)
                && !is_of(own, &differ.resizable)
            {
                return Err(Mismatch::Resized {
                    field: own.clone(),
                    name: format!("{own}{first}"),
                });
            }
        }
        let new = new.into_iter().find(|(name, _)| !differ.may_add(name));
        new.map_or(Ok(()), |(name, _)| Err(Mismatch::NotSealed { name: name.clone() }))
    }

    /// Whether this build reads data of which the whole has that format.
    ///
    /// # Errors
    ///
    /// [`Mismatch::Format`].
    pub(crate) fn check_format(&self, found: u32) -> Result<(), Mismatch> {
        check_format(None, self.formats, found)
    }

    /// Whether this build reads a shard of these formats under its own name `name`.
    ///
    /// # Errors
    ///
    /// [`Mismatch::Format`].
    pub(crate) fn check_format_of(&self, name: &str, found: Formats) -> Result<(), Mismatch> {
        let (field, own) = self.own_formats_of(name);
        check_format(field, own, found.written)
    }

    /// The first format that this build writes and the build of `found` does not read, with the
    /// last one that it reads: there is no way back to it.
    pub(crate) fn unread_by(&self, found: &Self) -> Option<(u32, u32)> {
        let (pairs, _) = self.pairs(found, &self.towards(found));
        let fields = pairs.into_iter().filter_map(|((there, _), own)| {
            own.map(|(own, _)| (self.formats_of(own), found.formats_of(there)))
        });
        let mut formats = iter::once((self.formats, found.formats)).chain(fields);
        let unread = formats.find(|(own, there)| !there.read(own.written));
        unread.map(|(own, there)| (own.written, there.last_read))
    }

    /// This schema, with the highest formats that the data may have: some of the build of `found` may
    /// still be there.
    pub(crate) fn over(&self, found: Option<&Self>) -> Self {
        let mut all = self.clone();
        let Some(found) = found else { return all };
        all.formats.written = all.formats.written.max(found.formats.written);
        let (pairs, _) = self.pairs(found, &self.towards(found));
        for ((there, _), own) in pairs {
            let Some((name, _)) = own else { continue };
            let own = all.own_formats.iter_mut().find(|(field, _)| field == name);
            if let Some((_, formats)) = own {
                formats.written = formats.written.max(found.formats_of(there).written);
            }
        }
        all
    }

    /// The fields of `found`, each with this build's field for it, and the fields that are left.
    /// There are none where one of the two does not tell its fields.
    fn pairs<'a>(&'a self, found: &'a Self, differ: &Self) -> (Pairs<'a>, Vec<&'a Field>) {
        if self.fields.is_empty() || found.fields.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let mut left: Vec<_> = self.fields.iter().collect();
        let mut take = |name: &str| {
            left.iter().position(|(own, _)| own == name).map(|place| left.remove(place))
        };
        // The names that are still the same go first: an earlier name may belong to another field.
        let mut pairs: Pairs<'_> =
            found.fields.iter().map(|field| (field, take(&field.0))).collect();
        for ((name, _), own) in &mut pairs {
            if own.is_none() {
                *own = differ.names_of(name).find_map(|name| take(&name));
            }
        }
        (pairs, left)
    }

    /// The formats of the shard of that name.
    pub(crate) fn formats_of(&self, name: &str) -> Formats {
        self.own_formats_of(name).1
    }

    /// The field with formats of its own that has the shard of that name, if any, and the formats.
    fn own_formats_of(&self, name: &str) -> (Option<&String>, Formats) {
        let own = self.own_formats.iter().find(|(field, _)| element_of(name, field).is_some());
        own.map_or((None, self.formats), |(field, formats)| (Some(field), *formats))
    }

    /// Whether a build that declares nothing has the same manifest.
    pub(crate) fn declares_nothing(&self) -> bool {
        let Self { formats, fields: _, own_formats, added, retired, renamed, resizable } = self;
        *formats == Formats::default()
            && own_formats.is_empty()
            && [added, retired, resizable].iter().all(|names| names.is_empty())
            && renamed.is_empty()
    }

    /// The differences between a build of this schema and the data of one of the schema `found`. A
    /// declaration of both is no difference between them. The older of two builds has not heard of
    /// the newer one's declarations, so they count for it in the other direction; a newer build,
    /// which its format tells from an older one, has to declare its own.
    pub(crate) fn towards(&self, found: &Self) -> Self {
        let is_newer = self.formats.written > found.formats.written;
        let nothing = Self::default();
        let theirs = if is_newer { &nothing } else { found };
        let only = |one: &[String], other: &[String]| {
            one.iter().filter(|name| !other.contains(name)).cloned().collect::<Vec<_>>()
        };
        let back = theirs.renamed.iter().map(|(was, name)| (name.clone(), was.clone()));
        let renamed: Vec<_> = self.renamed.iter().cloned().chain(back).collect();
        let mut resizable = [&self.resizable[..], &theirs.resizable].concat();
        for (was, name) in &renamed {
            if resizable.contains(name) || resizable.contains(was) {
                resizable.extend([was.clone(), name.clone()]);
            }
        }
        Self {
            added: [only(&self.added, &found.added), only(&theirs.retired, &self.retired)].concat(),
            retired: [only(&self.retired, &found.retired), only(&theirs.added, &self.added)]
                .concat(),
            renamed,
            resizable,
            ..Self::default()
        }
    }

    /// The other names under which this build may have the shard that was sealed as `sealed`.
    pub(crate) fn names_of(&self, sealed: &str) -> impl Iterator<Item = String> {
        self.renamed.iter().filter_map(move |(was, name)| {
            element_of(sealed, was).map(|element| format!("{name}{element}"))
        })
    }

    /// Whether a build may leave a sealed shard of that name.
    pub(crate) fn may_lack(&self, name: &str) -> bool {
        is_of(name, &self.retired) || is_of(name, &self.resizable)
    }

    /// Whether a build may open a shard of that name that was not sealed.
    pub(crate) fn may_add(&self, name: &str) -> bool {
        is_of(name, &self.added) || is_of(name, &self.resizable)
    }
}

/// # Errors
///
/// [`Mismatch::Format`].
fn check_format(field: Option<&String>, own: Formats, found: u32) -> Result<(), Mismatch> {
    if own.read(found) {
        return Ok(());
    }
    let (field, reads) = (field.cloned(), own.first_read..=own.last_read);
    Err(Mismatch::Format { field, found, reads })
}

/// The rest of a shard's name behind that of its field: empty, or `.` and the element.
fn element_of<'a>(name: &'a str, field: &str) -> Option<&'a str> {
    name.strip_prefix(field).filter(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn is_of(name: &str, fields: &[String]) -> bool {
    fields.iter().any(|field| element_of(name, field).is_some())
}

/// The format of a build that names none.
pub(crate) const FIRST: u32 = 1;
