//! The schema of a writer, as the data directory has it: in the seal manifest as far as the build
//! declares something, and whole in a file of its own, for the build that comes next.
//!
//! ```text
//! handoff-schema 1
//! writer 1234 88012 7d0c... (pid, start time and boot, as in the owner record)
//! format 3 1 3            (written, and the first and the last one that it reads)
//! field one log           (its shard), or "elements 3 tables", or "varies tables"
//! format-of 2 1 2 tables  (of a field with formats of its own)
//! added index             (and retired, resizable, renamed)
//! highest 2 tables        (the highest format that the field may have, whoever wrote it)
//! checksum 5c11...        (BLAKE3 of everything above)
//! ```
//!
//! The format of the whole is in the owner record as well, that of a field here alone: such a file
//! is durable before its writer admits a request. A file that is not there or is damaged says
//! nothing; one of another writer than the record's tells the highest formats alone.

use std::fmt::Write as _;
use std::io::{Read, Write as _};

use super::place::Place;
use super::{OwnerRecord, text};
use crate::drainable::{Extent, Formats, Highest, Schema};
use crate::error::{Error, Result};
use crate::sys::process::boot_id_in_hex;

/// Writes the lines of a declaration: no fields.
pub(super) fn write_declared(schema: &Schema, text: &mut String) {
    let Schema { formats, fields: _, own_formats, added, retired, renamed, resizable } = schema;
    if *formats != Formats::default() {
        let _ = writeln!(text, "format {}", numbers(*formats));
    }
    for (name, formats) in own_formats {
        let _ = writeln!(text, "format-of {} {}", numbers(*formats), text::escaped(name));
    }
    for (key, names) in [("added", added), ("retired", retired), ("resizable", resizable)] {
        for name in names {
            let _ = writeln!(text, "{key} {}", text::escaped(name));
        }
    }
    for (was, name) in renamed {
        let [was, name] = [was, name].map(|name| text::escaped(name).replace('\t', "\\t"));
        let _ = writeln!(text, "renamed {was}\t{name}");
    }
}

/// Reads one such line, or that of a field; none if it is neither.
pub(super) fn parse_line(
    schema: &mut Schema,
    key: &str,
    rest: &str,
) -> Option<Result<(), &'static str>> {
    let parse = || {
        match key {
            "format" => schema.formats = formats(rest)?.0,
            "format-of" => {
                let (formats, name) = formats(rest)?;
                schema.own_formats.push((text::plain(name), formats));
            }
            "field" => schema.fields.push(field(rest)?),
            "added" => schema.added.push(text::plain(rest)),
            "retired" => schema.retired.push(text::plain(rest)),
            "resizable" => schema.resizable.push(text::plain(rest)),
            _ => {
                let (was, name) = rest.split_once('\t').ok_or("a name is missing")?;
                schema.renamed.push((text::plain(was), text::plain(name)));
            }
        }
        Ok(())
    };
    KEYS.contains(&key).then(parse)
}

/// What a writer leaves for the next build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) schema: Schema,
    /// By whichever writer: it holds whoever has written since.
    pub(crate) highest: Highest,
}

impl Left {
    /// The highest formats by the names of a build that may be older than the one that left this.
    pub(crate) fn highest_for(&self, own: &Schema) -> Highest {
        let name = |name: &String| {
            let has = |name: &String| own.fields.iter().any(|(field, _)| field == name);
            let mut renamed = self.schema.renamed.iter();
            let was = renamed.find(|(was, now)| now == name && !has(now) && has(was));
            was.map_or(name, |(was, _)| was).clone()
        };
        self.highest.iter().map(|(field, format)| (name(field), *format)).collect()
    }

    pub(crate) fn text(&self, writer: &str) -> String {
        let mut text = format!("{HEADER}\n{writer}\n");
        write_declared(&self.schema, &mut text);
        for (name, extent) in &self.schema.fields {
            let extent = match extent {
                Extent::One => "one".to_owned(),
                Extent::Elements(count) => format!("elements {count}"),
                Extent::Varies => "varies".to_owned(),
            };
            let _ = writeln!(text, "field {extent} {}", text::escaped(name));
        }
        for (name, format) in &self.highest {
            let _ = writeln!(text, "highest {format} {}", text::escaped(name));
        }
        text::sealed(text)
    }

    /// What was left, and the line of its writer.
    pub(crate) fn parse(text: &str) -> Result<(&str, Self), &'static str> {
        let mut lines = text::opened(text)?.split_terminator('\n');
        if lines.next() != Some(HEADER) {
            return Err("its version is one that this build does not know");
        }
        let writer = lines.next().ok_or("a line is missing")?;
        let mut left = Self::default();
        for line in lines {
            let (key, rest) = line.split_once(' ').ok_or("a line is cut short")?;
            if key == "highest" {
                let (format, name) = rest.split_once(' ').ok_or("a format is cut short")?;
                let format = format.parse().map_err(|_| "a format is no number")?;
                left.highest.push((text::plain(name), format));
            } else {
                parse_line(&mut left.schema, key, rest).ok_or("a line is none of a schema")??;
            }
        }
        Ok((writer, left))
    }

    /// Writes the file of a writer beside that of the last one. The caller holds the lock.
    pub(crate) fn stage(&self, place: &Place, writer: &OwnerRecord, durable: bool) -> Result<()> {
        let beside = place.path_of(BESIDE);
        let mut file = place.create(BESIDE)?;
        let text = self.text(&line_of(writer));
        file.write_all(text.as_bytes()).map_err(Error::at("write", &beside))?;
        if durable { file.sync_all().map_err(Error::at("sync", &beside)) } else { Ok(()) }
    }

    /// Puts the file in the place of the last writer's.
    pub(crate) fn write(&self, place: &Place, writer: &OwnerRecord, durable: bool) -> Result<()> {
        self.stage(place, writer, durable)?;
        publish(place, durable).inspect_err(|_| drop(place.remove(BESIDE)))
    }
}

/// Puts the file that was written beside the last writer's in its place.
pub(crate) fn publish(place: &Place, durable: bool) -> Result<()> {
    place.rename(BESIDE, FILE)?;
    if durable { place.sync() } else { Ok(()) }
}

/// Removes the file, and one that is staged.
pub(crate) fn remove(place: &Place) -> Result<()> {
    place.remove(FILE)?;
    place.remove(BESIDE)
}

/// An error of the file.
pub(crate) fn at(place: &Place, error: std::io::Error) -> Error {
    Error::at("replace", &place.path_of(FILE))(error)
}

/// Whether something lies at the name of the file that no file can replace.
pub(crate) fn is_in_the_way(place: &Place) -> bool {
    std::fs::symlink_metadata(place.path_of(FILE)).is_ok_and(|found| found.is_dir())
}

/// What was left, and whether the writer in the record has left it. None where it cannot be read.
pub(crate) fn read(place: &Place, writer: &OwnerRecord) -> Option<(Left, bool)> {
    let mut text = String::new();
    place.read(FILE).ok()??.take(MAX_LENGTH).read_to_string(&mut text).ok()?;
    let (found, left) = Left::parse(&text).ok()?;
    Some((left, found == line_of(writer)))
}

fn line_of(OwnerRecord { writer, boot_id, .. }: &OwnerRecord) -> String {
    format!("writer {} {} {}", writer.pid, writer.start_time, boot_id_in_hex(*boot_id))
}

fn numbers(Formats { written, first_read, last_read }: Formats) -> String {
    format!("{written} {first_read} {last_read}")
}

/// The formats, and the rest of the line.
fn formats(line: &str) -> Result<(Formats, &str), &'static str> {
    let mut words = line.splitn(4, ' ');
    let mut number =
        || words.next().and_then(|word| word.parse().ok()).ok_or("a format is no number");
    let formats = Formats { written: number()?, first_read: number()?, last_read: number()? };
    if !formats.read(formats.written) {
        return Err("a format is not one that its build reads");
    }
    Ok((formats, words.next().unwrap_or_default()))
}

fn field(line: &str) -> Result<(String, Extent), &'static str> {
    let (extent, rest) = line.split_once(' ').ok_or("a field is cut short")?;
    let (extent, name) = match extent {
        "one" => (Extent::One, rest),
        "varies" => (Extent::Varies, rest),
        "elements" => {
            let (count, name) = rest.split_once(' ').ok_or("a field is cut short")?;
            (Extent::Elements(count.parse().map_err(|_| "a count is no number")?), name)
        }
        _ => return Err("a field is of a kind that this build does not know"),
    };
    Ok((text::plain(name), extent))
}

const KEYS: [&str; 7] =
    ["format", "format-of", "field", "added", "retired", "resizable", "renamed"];
const FILE: &str = ".handoff.schema";
const BESIDE: &str = ".handoff.schema.new";
const HEADER: &str = "handoff-schema 1";
/// A struct has fields enough for far less.
const MAX_LENGTH: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::ProcessId;

    fn left() -> Left {
        let schema = Schema::new()
            .format(3, 1..=3)
            .field_of("log", Extent::One)
            .field_of("a b\n", Extent::Elements(3))
            .field_of("", Extent::Varies)
            .field_format("a b\n", 2, 2..=5)
            .added("index")
            .retired("audit")
            .renamed("a\tb", "c\td")
            .resizable("z");
        Left { schema, highest: vec![("a b\n".into(), 4), ("gone".into(), 2)] }
    }

    fn writer(pid: u32) -> OwnerRecord {
        OwnerRecord { writer: ProcessId { pid, start_time: 12 }, ..OwnerRecord::default() }
    }

    #[test]
    fn a_schema_is_read_as_it_was_written_and_is_of_the_writer_that_wrote_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = Place::open(directory.path()).expect("it opens");
        assert_eq!(read(&place, &writer(7)), None);
        for left in [left(), Left::default()] {
            left.write(&place, &writer(7), true).expect("it is written");
            assert_eq!(read(&place, &writer(7)), Some((left.clone(), true)));
            assert_eq!(read(&place, &writer(8)), Some((left, false)), "another one has written");
        }
    }

    #[test]
    fn a_damaged_schema_says_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = Place::open(directory.path()).expect("it opens");
        left().write(&place, &writer(7), false).expect("it is written");
        let path = directory.path().join(FILE);
        let text = std::fs::read(&path).expect("it is there");
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 0x15;
            std::fs::write(&path, &changed).expect("it is written");
            assert_eq!(read(&place, &writer(7)), None, "{}", String::from_utf8_lossy(&changed));
            std::fs::write(&path, &text[..at]).expect("it is written");
            assert_eq!(read(&place, &writer(7)), None, "{at}");
        }
    }
}
