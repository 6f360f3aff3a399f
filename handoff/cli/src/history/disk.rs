//! The file of the history, and the thread that writes it: a disk that does not answer keeps that
//! thread, and not the supervisor.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Entry, LONG, Line, MAX_UNWRITTEN_ENTRIES, ends_torn, open};
use crate::record;

/// The file, wherever it is, and the lines that came since it is away.
#[derive(Debug)]
pub(super) struct Disk {
    at: At,
    waiting: VecDeque<Line>,
}

#[derive(Debug)]
enum At {
    Here(Writing),
    /// A thread writes.
    Away {
        back: Receiver<Writing>,
        since: Instant,
        /// The number of lines that it writes.
        lines: usize,
        is_told: bool,
    },
}

/// The file, and the lines that it did not take yet.
#[derive(Debug)]
struct Writing {
    path: PathBuf,
    unwritten: VecDeque<Line>,
    /// Why the last line could not be written.
    fault: Option<String>,
    /// From this length on, in bytes, the file is begun anew.
    max_length: u64,
    /// Whether the file is as long.
    is_long: bool,
    /// Whether a sync has failed. The kernel may have dropped lines, and the next sync would not
    /// say so: the file is begun anew.
    is_suspect: bool,
    /// Whether the name of the file survives a crash of the machine.
    is_named: bool,
}

impl Disk {
    /// With the cause, if the file could not be read: then it is never begun anew.
    pub(super) fn new(path: &Path, fault: Option<String>) -> Self {
        let max_length = if fault.is_some() { u64::MAX } else { LONG };
        let (path, unwritten) = (path.to_owned(), VecDeque::new());
        let (is_long, is_suspect, is_named) = (false, false, false);
        let writing = Writing { path, unwritten, fault, max_length, is_long, is_suspect, is_named };
        Self { at: At::Here(writing), waiting: VecDeque::new() }
    }

    pub(super) fn add(&mut self, line: Line) {
        self.waiting.push_back(line);
        while self.waiting.len() > MAX_UNWRITTEN_ENTRIES {
            self.waiting.pop_front();
        }
    }

    /// How many lines the file lacks, and why, if it could not be read or written.
    pub(super) fn fault(&self) -> Option<(usize, String)> {
        match &self.at {
            At::Here(writing) => {
                Some((writing.unwritten.len() + self.waiting.len(), writing.fault.clone()?))
            }
            At::Away { since, lines, .. } if since.elapsed() > LATE => {
                Some((lines + self.waiting.len(), "the disk does not answer".to_owned()))
            }
            At::Away { .. } => None,
        }
    }

    /// How many lines the disk has not taken yet; one at least where a sync has failed.
    pub(super) fn unwritten(&self) -> usize {
        let lines = match &self.at {
            At::Here(writing) => writing.unwritten.len() + usize::from(writing.is_suspect),
            At::Away { lines, .. } => *lines,
        };
        lines + self.waiting.len()
    }

    pub(super) const fn answers(&self) -> bool {
        matches!(self.at, At::Here(_))
    }

    /// Hands the lines to a thread, and waits a moment for it: most lines are on the disk when this
    /// returns. While the disk does not answer it waits no more.
    pub(super) fn write(&mut self, path: &Path, entries: &VecDeque<Entry>) {
        self.come_back(path, Duration::ZERO);
        for _ in 0..2 {
            let At::Here(writing) = &mut self.at else { return };
            writing.unwritten.append(&mut self.waiting);
            if writing.unwritten.is_empty() && !writing.begins_anew() {
                return;
            }
            self.hand_over(entries);
            self.come_back(path, PATIENCE);
            // The thread may have found the file to be long: it is begun anew at once.
            if !matches!(&self.at, At::Here(writing) if writing.begins_anew()) {
                return;
            }
        }
    }

    /// Waits for the thread at most so long, and writes the lines that came meanwhile.
    pub(super) fn flush(&mut self, path: &Path, entries: &VecDeque<Entry>, timeout: Duration) {
        self.come_back(path, timeout);
        self.write(path, entries);
    }

    fn hand_over(&mut self, entries: &VecDeque<Entry>) {
        let (sender, back) = mpsc::channel();
        let away = At::Away { back, since: Instant::now(), lines: 0, is_told: false };
        let At::Here(writing) = std::mem::replace(&mut self.at, away) else { return };
        if let At::Away { lines, .. } = &mut self.at {
            *lines = writing.unwritten.len();
        }
        let entries = writing.begins_anew().then(|| entries.clone());
        // A thread that does not start drops its closure, and not this.
        let handed = Arc::new(Mutex::new(Some((writing, entries, sender))));
        let taken = Arc::clone(&handed);
        let work = move || {
            let taken = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some((mut writing, entries, sender)) = taken else { return };
            writing.write(entries.as_ref());
            let _ = sender.send(writing);
        };
        if thread::Builder::new().name("history".into()).spawn(work).is_err() {
            let taken = handed.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some((mut writing, entries, _)) = taken else { return };
            writing.write(entries.as_ref());
            self.at = At::Here(writing);
        }
    }

    fn come_back(&mut self, path: &Path, timeout: Duration) {
        let At::Away { back, since, is_told, .. } = &mut self.at else { return };
        let (is_late, was_told) = (since.elapsed() > LATE, *is_told);
        match back.recv_timeout(timeout) {
            Ok(writing) => {
                if was_told {
                    tracing::info!(path = %path.display(), "the disk of the history answers again");
                }
                self.at = At::Here(writing);
            }
            Err(RecvTimeoutError::Timeout) => {
                *is_told |= is_late;
                if is_late && !was_told {
                    tracing::error!(
                        path = %path.display(),
                        "the disk of the history does not answer; this supervisor goes on, and keeps the lines in memory"
                    );
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                let fault = Some("the thread that wrote it is lost".to_owned());
                self.at = Self::new(path, fault).at;
            }
        }
    }
}

impl Writing {
    const fn begins_anew(&self) -> bool {
        self.is_long || self.is_suspect
    }

    /// Writes the lines; or all entries, which have these lines, into a new file.
    fn write(&mut self, entries: Option<&VecDeque<Entry>>) {
        if let Some(entries) = entries {
            self.shorten(entries);
        }
        if self.unwritten.is_empty() {
            return;
        }
        let had_fault = self.fault.is_some();
        match self.write_all() {
            Ok(()) => {
                self.fault = None;
                self.is_long = self.length() >= self.max_length;
                if had_fault {
                    tracing::info!(path = %self.path.display(), "this supervisor can write the history again, and has written every line that it kept");
                }
            }
            Err(error) => {
                self.fault = Some(error.to_string());
                if !had_fault {
                    tracing::error!(
                        path = %self.path.display(), %error,
                        "this supervisor cannot write the history; it keeps the lines in memory and tries again: free the disk, or make the file writable"
                    );
                }
            }
        }
        while self.unwritten.len() > MAX_UNWRITTEN_ENTRIES {
            self.unwritten.pop_front();
        }
    }

    fn write_all(&mut self) -> io::Result<()> {
        let mut file = open(&self.path)?;
        let mut ends_something = false;
        while let Some(line) = self.unwritten.front() {
            ends_something |= line.ends_something();
            let mut text = record::line(line)?;
            // A line that was not written whole spoils no other.
            if ends_torn(&mut file)? {
                text.insert(0, b'\n');
            }
            file.write_all(&text)?;
            self.unwritten.pop_front();
        }
        if ends_something {
            let synced = file.sync_data();
            // A file that could not be read is never begun anew.
            self.is_suspect = synced.is_err() && self.max_length != u64::MAX;
            synced?;
            self.sync_name()?;
        }
        Ok(())
    }

    fn sync_name(&mut self) -> io::Result<()> {
        if !self.is_named {
            let directory = self.path.parent().filter(|path| !path.as_os_str().is_empty());
            let directory = directory.unwrap_or(Path::new("."));
            File::open(directory)?.sync_all()?;
            sync_names_of(directory);
            self.is_named = true;
        }
        Ok(())
    }

    fn length(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Begins the file anew with these entries.
    fn shorten(&mut self, entries: &VecDeque<Entry>) {
        self.is_long = false;
        match self.begin_anew(entries) {
            Ok(()) => {
                self.unwritten.clear();
                if std::mem::take(&mut self.is_suspect) {
                    self.fault = None;
                }
                // The entries that are kept may be long themselves.
                self.max_length = LONG.max(2 * self.length());
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "this supervisor cannot replace the history by a shorter one, and it grows on");
                if !self.is_suspect {
                    self.max_length = self.max_length.saturating_mul(2);
                }
            }
        }
    }

    fn begin_anew(&mut self, entries: &VecDeque<Entry>) -> io::Result<()> {
        let beside = self.path.with_added_extension("new");
        let _ = fs::remove_file(&beside);
        let mut file: File = open(&beside)?;
        for entry in entries {
            let line = match entry {
                Entry::Swap(record) => Line::Begun(record.clone()),
                Entry::Daemon(event) => Line::Daemon(event.clone()),
            };
            file.write_all(&record::line(&line)?)?;
        }
        file.sync_data()?;
        fs::rename(&beside, &self.path)?;
        self.is_named = false;
        self.sync_name()
    }
}

/// Makes the names durable by which the directory is found on its disk: it may be new. Another's
/// directory that cannot be opened keeps its entries itself.
fn sync_names_of(directory: &Path) {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let Ok(directory) = std::path::absolute(directory) else { return };
    let of = device(&directory);
    for above in directory.ancestors().skip(1).take_while(|above| device(above) == of) {
        let _ = File::open(above).and_then(|above| above.sync_all());
    }
}

#[cfg(test)]
impl Disk {
    /// As after a sync that has failed.
    pub(super) fn suspect(&mut self) {
        if let At::Here(writing) = &mut self.at {
            writing.is_suspect = true;
        }
    }
}

/// A healthy disk has taken a line by then.
const PATIENCE: Duration = Duration::from_millis(250);
/// A disk that has not answered for so long is told of.
const LATE: Duration = Duration::from_secs(5);
