//! The thread that writes the journal: a disk that does not answer keeps that thread, and not the
//! supervisor. The lines that the disk does not take are kept, and written before any later line.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Entry, LONG, Replay, lock, now_ms, open_checked, open_file, parse, read_end, replay, set_aside,
};
use crate::error::{Error, Result};
use crate::log;
use crate::sys::file::unlock;
use crate::sys::process::boot_id;

/// A task for the thread; it answers with the result.
#[derive(Debug)]
pub(super) enum Task {
    Append(String, Sender<Result<()>>),
    Shorten(Vec<Entry>, Sender<Result<()>>),
    Retry,
}

/// How many lines the file lacks, and why.
#[derive(Debug, Default)]
pub(super) struct Lacking(Mutex<Lack>);

#[derive(Debug, Default)]
struct Lack {
    lines: usize,
    fault: Option<String>,
    /// The tasks that the thread has, or is to have.
    tasks: usize,
    /// Whether a caller has waited in vain for one of these.
    is_late: bool,
}

impl Lacking {
    fn lock(&self) -> MutexGuard<'_, Lack> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_line(&self) {
        self.lock().lines += 1;
    }

    pub(super) fn is_late(&self) -> bool {
        self.lock().is_late
    }

    pub(super) fn begin_task(&self) {
        self.lock().tasks += 1;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lock().tasks == 0
    }

    /// Begins a task where the thread has none: one more would stand behind one that may hang.
    pub(super) fn begin_task_if_idle(&self) -> bool {
        let mut lack = self.lock();
        let is_idle = lack.tasks == 0;
        lack.tasks += usize::from(is_idle);
        is_idle
    }

    /// A caller waits no more. The thread may have ended its task at that moment.
    pub(super) fn set_late(&self) {
        let mut lack = self.lock();
        lack.is_late = lack.tasks > 0;
    }

    /// Returns whether the disk was late until now: it may be so for the next task.
    fn end_task(&self) -> bool {
        let mut lack = self.lock();
        lack.tasks = lack.tasks.saturating_sub(1);
        lack.tasks == 0 && std::mem::take(&mut lack.is_late)
    }

    /// None where each line is written, or about to be.
    pub(super) fn told(&self) -> Option<(usize, String)> {
        let lack = self.lock();
        let late = lack.is_late.then(|| "the disk does not answer".to_owned());
        let why = late.or_else(|| lack.fault.clone())?;
        (lack.lines > 0).then_some((lack.lines, why))
    }
}

/// The file, and the lines that it did not take yet.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    file: File,
    /// Whether part of a line may be at the end of the file.
    is_torn: bool,
    unwritten: VecDeque<String>,
    lacking: Arc<Lacking>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Explicitly: a child that was forked and has not executed its program yet has a copy.
        let _ = unlock(&self.file);
    }
}

impl Writer {
    pub(super) fn open(path: &Path) -> Result<(Self, Replay)> {
        let mut file = open_checked(path)?;
        let mut text = read_end(&mut file).map_err(Error::at("read the journal", path))?;
        let mut entries = parse(&text);
        if entries.is_empty() && !text.is_empty() {
            set_aside(path)?;
            file = open_checked(path)?;
            text = read_end(&mut file).map_err(Error::at("read the journal", path))?;
            entries = parse(&text);
        }
        // Its writer may have been killed in the middle of a line.
        let is_torn = !text.is_empty() && !text.ends_with('\n');
        let (path, unwritten, lacking) = (path.to_owned(), VecDeque::new(), Arc::default());
        Ok((Self { path, file, is_torn, unwritten, lacking }, replay(&entries, boot_id())))
    }

    pub(super) fn lacking(&self) -> Arc<Lacking> {
        Arc::clone(&self.lacking)
    }

    /// Performs tasks until the journal is dropped. The caller of a task may be gone by then.
    pub(super) fn work(mut self, tasks: &Receiver<Task>) {
        for task in tasks {
            match task {
                Task::Append(line, answer) => {
                    self.unwritten.push_back(line);
                    let _ = answer.send(self.write());
                }
                Task::Shorten(entries, answer) => {
                    let shortened = self.shorten(&entries);
                    self.lacking.end_task();
                    let _ = answer.send(shortened);
                }
                Task::Retry => drop(self.write()),
            }
        }
        if let Err(error) = self.write_all() {
            log::warn!(%error, lines = self.unwritten.len(), "this supervisor ends, and its journal lacks lines");
        }
    }

    /// Writes the lines that are kept, and tells the result.
    fn write(&mut self) -> Result<()> {
        let written = self.write_all();
        while self.unwritten.len() > MAX_UNWRITTEN {
            self.forget(OLDEST_OF_A_DAEMON);
        }
        let was_late = self.lacking.end_task();
        let fault = written.as_ref().err().map(ToString::to_string);
        let had_fault = std::mem::replace(&mut self.lacking.lock().fault, fault).is_some();
        if (had_fault || was_late) && written.is_ok() {
            log::info!(
                path = %self.path.display(),
                "this supervisor can write its journal again, and has written each line that it kept"
            );
        }
        written
    }

    fn write_all(&mut self) -> Result<()> {
        while let Some(line) = self.unwritten.front() {
            let torn = if self.is_torn { "\n" } else { "" };
            let written = self.file.write_all(format!("{torn}{line}").as_bytes());
            self.is_torn = written.is_err();
            written.map_err(Error::at("write", &self.path))?;
            self.forget(0);
        }
        Ok(())
    }

    fn forget(&mut self, index: usize) {
        if self.unwritten.remove(index).is_some() {
            let mut lack = self.lacking.lock();
            lack.lines = lack.lines.saturating_sub(1);
        }
    }

    fn shorten(&mut self, entries: &[Entry]) -> Result<()> {
        if self.file.metadata().map_err(Error::at("look at", &self.path))?.len() < LONG {
            return Ok(());
        }
        let beside = self.path.with_added_extension("new");
        let _ = fs::remove_file(&beside);
        let mut new = open_file(&beside).map_err(Error::at("create", &beside))?;
        lock(&new, &beside)?;
        let mut text = Entry::this_process().to_line(now_ms());
        text.extend(entries.iter().map(|entry| entry.to_line(now_ms())));
        new.write_all(text.as_bytes()).map_err(Error::at("write", &beside))?;
        fs::rename(&beside, &self.path).map_err(Error::at("rename to", &self.path))?;
        (self.file, self.is_torn) = (new, false);
        // The entries say what these lines would have said.
        while !self.unwritten.is_empty() {
            self.forget(0);
        }
        Ok(())
    }
}

/// The first line may be the one that says which supervisor writes, in which boot: without it the
/// others count for nothing.
const OLDEST_OF_A_DAEMON: usize = 1;
const MAX_UNWRITTEN: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::ProcessId;

    fn serves(pid: u32) -> String {
        Entry::Serves(ProcessId { pid, start_time: u64::from(pid) }).to_line(5)
    }

    /// The disk hangs under one line, takes it, and hangs under the next: it is late all the time.
    #[test]
    fn a_disk_is_late_until_each_task_has_ended() {
        let lacking = Lacking::default();
        for _ in 0..2 {
            lacking.begin_task();
            lacking.add_line();
        }
        lacking.set_late();
        assert!(!lacking.end_task() && lacking.is_late() && !lacking.is_idle());
        assert!(!lacking.begin_task_if_idle(), "nothing stands behind a task that may hang");
        assert!(lacking.end_task() && !lacking.is_late() && lacking.is_idle());
        assert!(lacking.begin_task_if_idle());
    }

    #[test]
    fn of_too_many_lines_the_first_is_kept_and_of_the_others_the_last() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (mut writer, _) = Writer::open(&directory.path().join("journal")).expect("it is made");
        writer.file = File::options().append(true).open("/dev/full").expect("it is there");
        let lines = u32::try_from(MAX_UNWRITTEN).expect("they are few") + 5;
        for pid in 1..=lines {
            writer.lacking.add_line();
            writer.unwritten.push_back(serves(pid));
            writer.write().expect_err("the disk is full");
        }
        let ends = [writer.unwritten.front(), writer.unwritten.back()];
        assert_eq!(ends, [Some(&serves(1)), Some(&serves(lines))]);
        assert_eq!(writer.lacking.told().map(|(lines, _)| lines), Some(MAX_UNWRITTEN));
    }

    /// A disk that was full in the middle of a line costs no line, not even that one.
    #[test]
    fn the_lines_that_a_full_disk_did_not_take_are_written_before_the_next_one() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal");
        let (mut writer, _) = Writer::open(&path).expect("it is created");
        let full = File::options().append(true).open("/dev/full").expect("it is there");
        let mut file = std::mem::replace(&mut writer.file, full);
        for pid in [1, 2] {
            writer.lacking.add_line();
            writer.unwritten.push_back(serves(pid));
            writer.write().expect_err("the disk is full");
        }
        let (lines, why) = writer.lacking.told().expect("it is told");
        assert_eq!(lines, 2);
        assert!(why.contains("No space left on device"), "{why}");
        file.write_all(b"1795 serves 1 1").expect("it is written");
        writer.file = file;
        writer.write().expect("there is room again");
        assert_eq!(writer.lacking.told(), None);
        let text = fs::read_to_string(&path).expect("it is there");
        assert_eq!(text, format!("1795 serves 1 1\n{}{}", serves(1), serves(2)));
    }
}
