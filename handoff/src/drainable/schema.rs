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

/// The highest format that each field may have, where one of its own was told.
pub(crate) type Highest = Vec<(String, u32)>;

/// A format that another build does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    /// Of the other build; none for the whole.
    pub(crate) field: Option<String>,
    pub(crate) written: u32,
    /// The formats that the other build reads.
    pub(crate) reads: RangeInclusive<u32>,
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
        for (own, there) in self.pairs_of_formats(found) {
            self.check_format_of(own, found.formats_of(there).written)?;
        }
        let differ = self.towards(found);
        let (pairs, new) = self.pairs(found, &differ);
        for ((name, extent), own) in pairs {
            let Some((own, now)) = own else {
                if differ.may_lack(name) {
                    continue;
                }
                return Err(Mismatch::NotOpened { name: name.clone() });
            };
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

    /// Whether this build reads the highest format that each of these fields may have.
    ///
    /// # Errors
    ///
    /// [`Mismatch::Format`].
    pub(crate) fn check_highest(&self, highest: &[(String, u32)]) -> Result<(), Mismatch> {
        for (name, format) in highest {
            let own = self.present_name_of(name);
            if self.fields.is_empty() || self.fields.iter().any(|(field, _)| field == own) {
                self.check_format_of(own, *format)?;
            }
        }
        Ok(())
    }

    /// The highest format that each field may have once this build writes, by the present names:
    /// `before` it was that, and the last writer had the schema `found`.
    pub(crate) fn highest(&self, before: &[(String, u32)], found: Option<&Self>) -> Highest {
        let mut highest = Vec::<(String, u32)>::new();
        let mut note = |name: &str, format: u32| {
            let name = self.present_name_of(name);
            match highest.iter_mut().find(|(field, _)| field == name) {
                Some((_, known)) => *known = (*known).max(format),
                None => highest.push((name.to_owned(), format)),
            }
        };
        for (name, format) in before {
            note(name, (*format).max(self.formats_of(self.present_name_of(name)).written));
        }
        if let Some(found) = found {
            self.own_formats.iter().for_each(|(name, _)| {
                if !self.added.contains(name) {
                    note(name, found.formats_of(name).written);
                }
            });
        }
        let own = found.into_iter().chain([self]).flat_map(|schema| &schema.own_formats);
        own.for_each(|(name, formats)| note(name, formats.written));
        highest
    }

    /// The name that a field of this name has in this build.
    fn present_name_of<'a>(&'a self, name: &'a str) -> &'a str {
        let is_present = self.fields.iter().any(|(field, _)| field == name);
        let renamed = self.renamed.iter().find(|(was, _)| was == name && !is_present);
        renamed.map_or(name, |(_, now)| now)
    }

    /// Whether this build reads data of which the whole has that format.
    ///
    /// # Errors
    ///
    /// [`Mismatch::Format`].
    pub(crate) fn check_format(&self, found: u32) -> Result<(), Mismatch> {
        check_format(None, self.formats, found)
    }

    /// Whether this build reads a shard of that format under its own name `name`.
    ///
    /// # Errors
    ///
    /// [`Mismatch::Format`].
    pub(crate) fn check_format_of(&self, name: &str, found: u32) -> Result<(), Mismatch> {
        let (field, own) = self.own_formats_of(name);
        check_format(field, own, found)
    }

    /// The first format that this build writes and the build of `found` does not read: there is no
    /// way back to it.
    pub(crate) fn unread_by(&self, found: &Self) -> Option<Unread> {
        let fields = self.pairs_of_formats(found).into_iter().map(|(own, there)| {
            let (field, formats) = found.own_formats_of(there);
            (field, self.formats_of(own).written, formats)
        });
        let mut all = iter::once((None, self.formats.written, found.formats)).chain(fields);
        let (field, written, reads) = all.find(|(_, written, reads)| !reads.read(*written))?;
        Some(Unread { field: field.cloned(), written, reads: reads.first_read..=reads.last_read })
    }

    /// The formats that this build writes: of the whole, and of the fields with their own.
    pub(crate) fn writes(&self) -> (u32, Vec<(&str, u32)>) {
        let mut own: Vec<_> =
            self.own_formats.iter().map(|(name, formats)| (&**name, formats.written)).collect();
        own.sort_unstable();
        (self.formats.written, own)
    }

    /// The fields of both builds whose formats can differ, each by its own name and by that in
    /// `found`. Where one of the two does not tell its fields, those with formats of their own.
    fn pairs_of_formats<'a>(&'a self, found: &'a Self) -> Vec<(&'a str, &'a str)> {
        if self.fields.is_empty() || found.fields.is_empty() {
            let theirs =
                found.own_formats.iter().map(|(name, _)| (self.present_name_of(name), &**name));
            let mut pairs: Vec<_> = theirs.collect();
            for (name, _) in &self.own_formats {
                let is_new = self.added.contains(name) || pairs.iter().any(|(own, _)| own == name);
                if !is_new {
                    pairs.push((name, name));
                }
            }
            return pairs;
        }
        let (pairs, _) = self.pairs(found, &self.towards(found));
        let pairs = pairs.into_iter();
        pairs.filter_map(|((there, _), own)| Some((&*own?.0, &**there))).collect()
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
        let of = self.own_formats.iter().filter(|(field, _)| element_of(name, field).is_some());
        // `log.old` may be a field beside `log`.
        let own = of.max_by_key(|(field, _)| field.len());
        let is_field = own.is_none_or(|(field, _)| field != name)
            && self.fields.iter().any(|(field, _)| field == name);
        let own = own.filter(|_| !is_field);
        own.map_or((None, self.formats), |(field, formats)| (Some(field), *formats))
    }

    pub(crate) fn has_formats(&self) -> bool {
        self.formats != Formats::default() || !self.own_formats.is_empty()
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
