//! The history of the swaps and of the daemons, kept across restarts.
//!
//! A file of JSON lines. The supervisor appends to it, and begins it anew once it is long. A reader
//! passes over a line that it cannot read, so a supervisor that is killed while it writes spoils
//! one line. The supervisor keeps the lines that it cannot write in memory, and warns: a full disk
//! keeps no daemon from serving, and no swap from being made.

mod disk;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use disk::Disk;

use crate::config::ListenerConfig;
use crate::files;
use crate::record::{End, Party, Probation, SwapEvent, SwapRecord};

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    /// A swap is about to begin.
    Begun(SwapRecord),
    /// The build, the pid or the generation of a process has become known.
    Known {
        id: String,
        from: Party,
        to: Party,
    },
    Step {
        id: String,
        step: SwapEvent,
    },
    Ended {
        id: String,
        end: End,
    },
    Probation {
        id: String,
        probation: Probation,
    },
    Daemon(DaemonEvent),
}

impl Line {
    /// Whether the line tells an end, which has to survive a crash of the machine. No other line is
    /// synced: during a swap the daemon syncs its own data on the same disk, and its clients wait.
    const fn ends_something(&self) -> bool {
        match self {
            Self::Ended { .. } | Self::Probation { .. } | Self::Daemon(_) => true,
            Self::Begun(_) | Self::Known { .. } | Self::Step { .. } => false,
        }
    }
}

/// Something that happened to the daemon outside of a swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DaemonEvent {
    /// Milliseconds since the epoch.
    pub(crate) at_ms: u64,
    pub(crate) kind: DaemonEventKind,
    pub(crate) daemon: Party,
    pub(crate) args: Vec<String>,
    /// The sockets that it was passed; an earlier version did not note them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) listeners: Option<Vec<ListenerConfig>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DaemonEventKind {
    /// It was started and serves.
    Started,
    /// It was there when the supervisor was started.
    Adopted,
    /// It took the place of another one in a swap.
    Succeeded,
    /// It ended with that status, which may be unknown.
    Died { status: String },
    /// It was started and did not come to serve.
    NotStarted { why: String },
    /// The supervisor told it to stop, and it did.
    Stopped { status: String },
}

/// An entry of the history, as it is shown: a swap, or an event of a daemon.
#[expect(clippy::large_enum_variant, reason = "there are a thousand at most, and half are large")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Entry {
    Swap(SwapRecord),
    Daemon(DaemonEvent),
}

/// The history of one daemon, in memory and on disk.
#[derive(Debug)]
pub(crate) struct History {
    path: PathBuf,
    entries: VecDeque<Entry>,
    disk: Disk,
}

impl History {
    /// Reads the file. A file that cannot be read is a fault of the history, and keeps no
    /// supervisor from its work.
    pub(crate) fn open(path: &Path) -> Self {
        let (entries, fault) = match read(path) {
            Ok(entries) => (entries, None),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "this supervisor cannot read the history, and goes on without it: see `handoff status`");
                (VecDeque::new(), Some(format!("cannot read it: {error}")))
            }
        };
        Self { path: path.to_owned(), entries, disk: Disk::new(path, fault) }
    }

    pub(crate) const fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }

    /// A warning with the cause, if the file could not be read or written.
    pub(crate) fn fault(&self) -> Option<String> {
        let (count, why) = self.disk.fault()?;
        Some(format!("the history {} lacks {count} lines: {why}", self.path.display()))
    }

    /// How many lines the disk has not taken yet; one at least where a sync has failed.
    pub(crate) fn unwritten(&self) -> usize {
        self.disk.unwritten()
    }

    pub(crate) fn swaps(&self) -> impl DoubleEndedIterator<Item = &SwapRecord> {
        swaps(&self.entries)
    }

    /// The swap with that id.
    pub(crate) fn swap(&self, id: &str) -> Option<&SwapRecord> {
        find(&self.entries, id)
    }

    /// Daemons that came to serve, the last one first.
    pub(crate) fn starts(&self) -> impl Iterator<Item = &DaemonEvent> {
        self.entries.iter().rev().filter_map(|entry| match entry {
            Entry::Daemon(event)
                if matches!(event.kind, DaemonEventKind::Started | DaemonEventKind::Succeeded) =>
            {
                Some(event)
            }
            _ => None,
        })
    }

    /// How the daemon with that pid came to serve.
    pub(crate) fn start_of(&self, pid: u32) -> Option<&DaemonEvent> {
        self.starts().find(|event| event.daemon.pid == Some(pid))
    }

    /// Adds one line to the entries, and writes it.
    pub(crate) fn add(&mut self, line: Line) {
        fold(&mut self.entries, line.clone());
        self.disk.add(line);
        self.write();
    }

    /// Tries again to write the lines that the disk did not take.
    pub(crate) fn write(&mut self) {
        self.disk.write(&self.path, &self.entries);
    }

    /// Whether no thread waits for the disk.
    pub(crate) const fn answers(&self) -> bool {
        self.disk.answers()
    }

    /// Gives a disk that does not answer so long to take the last lines.
    pub(crate) fn flush(&mut self, timeout: Duration) {
        self.disk.flush(&self.path, &self.entries, timeout);
    }
}

/// The entries of the file, oldest first; none where there is no file.
pub(crate) fn read(path: &Path) -> io::Result<VecDeque<Entry>> {
    let mut entries = VecDeque::new();
    let mut file = match files::open(path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(entries),
        Err(error) => return Err(error),
    };
    check(&file)?;
    let skipped = file.metadata()?.len().saturating_sub(4 * LONG);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(4 * LONG).read_to_end(&mut bytes)?;
    let mut unreadable = 0_usize;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(line) => fold(&mut entries, line),
            Err(_) => unreadable += 1,
        }
    }
    if unreadable > 0 {
        tracing::warn!(path = %path.display(), unreadable, "lines of the history cannot be read, and are passed over");
    }
    Ok(entries)
}

fn swaps(entries: &VecDeque<Entry>) -> impl DoubleEndedIterator<Item = &SwapRecord> {
    entries.iter().filter_map(|entry| match entry {
        Entry::Swap(record) => Some(record),
        Entry::Daemon(_) => None,
    })
}

/// The one swap with an id that begins with these digits; the last swap for `last`.
pub(crate) fn find<'a>(entries: &'a VecDeque<Entry>, id: &str) -> Option<&'a SwapRecord> {
    let mut swaps = swaps(entries);
    if id == "last" {
        return swaps.next_back();
    }
    let mut found = swaps.filter(|record| !id.is_empty() && record.id.starts_with(id));
    let first = found.next();
    if found.next().is_some() { None } else { first }
}

fn fold(entries: &mut VecDeque<Entry>, line: Line) {
    match line {
        Line::Begun(record) => entries.push_back(Entry::Swap(record)),
        Line::Daemon(event) => entries.push_back(Entry::Daemon(event)),
        Line::Known { id, from, to } => change(entries, &id, |record| {
            (record.from, record.to) = (from, to);
        }),
        Line::Step { id, step } => change(entries, &id, |record| record.steps.push(step)),
        Line::Ended { id, end } => change(entries, &id, |record| record.end = Some(end)),
        Line::Probation { id, probation } => {
            change(entries, &id, |record| record.probation = Some(probation));
        }
    }
    while entries.len() > MAX_ENTRIES {
        entries.pop_front();
    }
}

fn change(entries: &mut VecDeque<Entry>, id: &str, change: impl FnOnce(&mut SwapRecord)) {
    let found = entries.iter_mut().rev().find_map(|entry| match entry {
        Entry::Swap(record) if record.id == id => Some(record),
        _ => None,
    });
    if let Some(record) = found {
        change(record);
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = files::open(path, options.read(true).append(true).create(true).mode(0o600))?;
    check(&file)?;
    Ok(file)
}

/// A pipe takes lines that nobody finds again. A file with a second name may be another one's.
fn check(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    let what = if metadata.file_type().is_fifo() {
        "it is a pipe; move it away"
    } else if metadata.is_file() && metadata.nlink() > 1 {
        "it has another name (a hard link); put a copy of it in its place"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

fn ends_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != [b'\n'])
}

/// From this length on, in bytes, the file is begun anew.
const LONG: u64 = 4 << 20;
/// Kept in memory, and in a file that is begun anew.
const MAX_ENTRIES: usize = 1000;
const MAX_UNWRITTEN_ENTRIES: usize = 10_000;

#[cfg(test)]
mod tests;
