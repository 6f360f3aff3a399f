//! The journal: a supervisor's record of the daemons and the swaps that it began. The supervisor
//! that is started after its death reads it.
//!
//! A text file, one line an entry. A supervisor appends to it, or replaces a long one as a whole,
//! so that a process that is killed while it writes spoils at most the last line:
//!
//! ```text
//! 1795467871123 supervisor 811 90210 boot 7d0c... #5c11a0b2
//! 1795467871140 started 812 90214 #...            a first daemon that may not serve yet
//! 1795467871190 serves 812 90214 #...
//! 1795467899001 swap 3f2a... incumbent 812 90214 successor 840 93005 #...
//! 1795467899002 one-way 3f2a... #...             it may be one-way
//! 1795467899321 ended 3f2a... committed #...
//! ```
//!
//! Times are in milliseconds since the epoch; a process is its pid and the clock tick at which
//! it started; the last word is the beginning of the line's BLAKE3. The file has to outlive the
//! supervisor, not the machine, so the supervisor never syncs it. The supervisor writes nothing
//! between the drain and the commit. A thread writes the lines, and keeps those that the disk does
//! not take ([`Writer`]).

mod writer;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::log;
use crate::machine::outcome::Outcome;
use crate::protocol::HandoffId;
use crate::sys::file::{open_private, try_lock};
use crate::sys::process::{ProcessId, boot_id, boot_id_in_hex, boot_id_of};
use writer::{Lacking, Task, Writer};

/// A journal that this process has locked.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// None once the journal is being dropped.
    tasks: Mutex<Option<Sender<Task>>>,
    lacking: Arc<Lacking>,
    /// Closed once the thread has ended, and the file is unlocked.
    ended: Mutex<Receiver<()>>,
}

/// The daemon and the swap that the last supervisor left, if it ran in this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Replay {
    /// The process that served, or was started to serve.
    pub(crate) daemon: Option<ProcessId>,
    /// The swap that it began and did not end.
    pub(crate) swap: Option<OpenSwap>,
}

/// A swap that a supervisor began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenSwap {
    pub(crate) handoff_id: HandoffId,
    pub(crate) incumbent: ProcessId,
    pub(crate) successor: ProcessId,
    /// Whether it may be one-way; a line of its own says so, which older supervisors pass over.
    pub(crate) one_way: bool,
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// This supervisor writes from here on.
    Supervisor {
        process: ProcessId,
        boot_id: [u8; 16],
    },
    /// The supervisor started a first daemon.
    Started(ProcessId),
    /// The daemon serves.
    Serves(ProcessId),
    Swap(OpenSwap),
    /// The swap that was begun last may be one-way.
    OneWay {
        handoff_id: HandoffId,
    },
    Ended {
        handoff_id: HandoffId,
        how: Outcome,
    },
}

impl Drop for Journal {
    fn drop(&mut self) {
        // The thread writes the last lines, and unlocks the file.
        *self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(PATIENCE);
    }
}

impl Journal {
    /// Opens the journal, or creates it, for this process alone. Also returns the daemon and the
    /// swap that its last writer left. A file in which no line can be read gets another name.
    pub(crate) fn open(path: &Path) -> Result<(Self, Replay)> {
        let (writer, replayed) = Writer::open(path)?;
        let lacking = writer.lacking();
        let (tasks, given) = mpsc::channel();
        let (alive, ended) = mpsc::channel();
        let work = move || {
            writer.work(&given);
            drop::<Sender<()>>(alive);
        };
        std::thread::Builder::new().name("handoff-journal".into()).spawn(work)?;
        let (tasks, ended) = (Mutex::new(Some(tasks)), Mutex::new(ended));
        let journal = Self { path: path.to_owned(), tasks, lacking, ended };
        if let Err(error) = journal.append(&Entry::this_process()) {
            log::error!(%error, "this supervisor cannot write its journal, and goes on without: free the disk; until the journal is written, no swap begins");
        }
        Ok((journal, replayed))
    }

    /// Writes one line, in one call. Where the disk does not take it, or does not answer in time,
    /// the line is kept, and written before any later one. While the disk does not answer this
    /// waits no more.
    pub(crate) fn append(&self, entry: &Entry) -> Result<()> {
        let patience = if self.lacking.is_late() { Duration::ZERO } else { PATIENCE };
        self.append_within(entry, patience)
    }

    /// [`append`](Self::append), with that patience for the disk in any case.
    pub(crate) fn append_within(&self, entry: &Entry, patience: Duration) -> Result<()> {
        let line = entry.to_line(now_ms());
        self.lacking.add_line();
        self.ask(|answer| Task::Append(line, answer), patience)
    }

    /// Replaces a long journal by one that holds `entries` alone. No client waits meanwhile: the
    /// caller does this before it begins a swap. Where it fails the journal is as it was.
    pub(crate) fn shorten(&self, entries: &[Entry]) {
        if self.lacking.is_late() {
            return;
        }
        let shortened = self.ask(|answer| Task::Shorten(entries.to_vec(), answer), PATIENCE);
        if let Err(error) = shortened {
            log::warn!(%error, "this supervisor cannot begin its journal anew, and it grows on");
        }
    }

    /// Has the thread try again to write the lines that the disk did not take; returns the number
    /// of those lines, and why.
    pub(crate) fn lacking(&self) -> Option<(usize, String)> {
        let lacking = self.lacking.told();
        if lacking.is_some()
            && let Some(tasks) = &*self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
            && self.lacking.begin_task_if_idle()
        {
            let _ = tasks.send(Task::Retry);
        }
        lacking
    }

    /// Gives the thread a task, and waits for it.
    fn ask(&self, task: impl FnOnce(Sender<Result<()>>) -> Task, patience: Duration) -> Result<()> {
        let (answer, answers) = mpsc::channel();
        if let Some(tasks) = &*self.tasks.lock().unwrap_or_else(PoisonError::into_inner) {
            self.lacking.begin_task();
            // A thread that is gone answers nothing.
            let _ = tasks.send(task(answer));
        }
        answers.recv_timeout(patience).unwrap_or_else(|_| {
            self.lacking.set_late();
            let words = "the disk does not answer";
            Err(Error::at("write", &self.path)(io::Error::new(io::ErrorKind::TimedOut, words)))
        })
    }
}

/// Whether a supervisor's journal has each line that it should have.
///
/// The supervisor keeps the lines that the disk does not take, and writes them later, in order. A
/// daemon is started and a swap ends without them; no swap begins. Until the lines are written, a
/// supervisor that takes this one's place goes by the last line that was: it finds a daemon by its
/// control socket alone, and does not know of one that still opens its data. Then a start of its
/// own fails: the other has the addresses, or the lock of the data directory.
#[derive(Debug, Clone)]
pub struct JournalState(Arc<Journal>);

impl JournalState {
    pub(super) fn of(journal: &Arc<Journal>) -> Self {
        Self(Arc::clone(journal))
    }

    /// How many lines the journal lacks, and why; none if it lacks none. Has them tried again.
    #[must_use]
    pub fn lacking(&self) -> Option<(usize, String)> {
        self.0.lacking()
    }

    /// Whether the disk has answered: false while the thread that writes has something to do, for
    /// however short a time.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.0.lacking.is_idle()
    }

    /// The journal's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Entry {
    pub(crate) fn this_process() -> Self {
        Self::Supervisor { process: ProcessId::own(), boot_id: boot_id() }
    }

    pub(crate) fn to_line(self, at_ms: u64) -> String {
        let named = |ProcessId { pid, start_time }| format!("{pid} {start_time}");
        let words = match self {
            Self::Supervisor { process, boot_id } => {
                format!("supervisor {} boot {}", named(process), boot_id_in_hex(boot_id))
            }
            Self::Started(daemon) => format!("started {}", named(daemon)),
            Self::Serves(daemon) => format!("serves {}", named(daemon)),
            Self::Swap(OpenSwap { handoff_id, incumbent, successor, one_way: _ }) => {
                let (incumbent, successor) = (named(incumbent), named(successor));
                format!("swap {handoff_id} incumbent {incumbent} successor {successor}")
            }
            Self::OneWay { handoff_id } => format!("one-way {handoff_id}"),
            Self::Ended { handoff_id, how } => format!("ended {handoff_id} {}", how.keyword()),
        };
        let line = format!("{at_ms} {words}");
        let checksum = checksum(&line);
        format!("{line} #{checksum}\n")
    }

    fn of_line(line: &str) -> Option<Self> {
        let (line, said) = line.rsplit_once(" #")?;
        if checksum(line) != said {
            return None;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let process = |pid: &str, start_time: &str| {
            Some(ProcessId { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
        };
        let id = |text: &str| text.parse::<HandoffId>().ok();
        Some(match *words.get(1..)? {
            ["supervisor", pid, start, "boot", boot] => {
                Self::Supervisor { process: process(pid, start)?, boot_id: boot_id_of(boot)? }
            }
            ["started", pid, start] => Self::Started(process(pid, start)?),
            ["serves", pid, start] => Self::Serves(process(pid, start)?),
            ["swap", of, "incumbent", i, i_start, "successor", s, s_start] => {
                Self::Swap(OpenSwap {
                    handoff_id: id(of)?,
                    incumbent: process(i, i_start)?,
                    successor: process(s, s_start)?,
                    one_way: false,
                })
            }
            ["one-way", of] => Self::OneWay { handoff_id: id(of)? },
            ["ended", of, how] => {
                Self::Ended { handoff_id: id(of)?, how: Outcome::of_keyword(how)? }
            }
            _ => return None,
        })
    }
}

/// The entries of a journal, in order. Passes over a line that is no entry: at worst the
/// supervisor does not know of a process that it would have ended.
pub(crate) fn parse(text: &str) -> Vec<Entry> {
    let (mut entries, mut damaged, mut first) = (Vec::new(), 0_usize, None);
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        match Entry::of_line(line) {
            Some(entry) => entries.push(entry),
            None if line.is_empty() => {}
            None => {
                damaged += 1;
                first.get_or_insert(line);
            }
        }
    }
    if let Some(line) = first {
        let line: String = line.chars().take(SHOWN).collect();
        log::warn!(
            damaged,
            ?line,
            "this supervisor passes over damaged lines of its journal, of which this is the first: it may not know of a process"
        );
    }
    entries
}

/// The daemon, and the swap that is still open, at the end of these entries.
pub(crate) fn replay(entries: &[Entry], boot: [u8; 16]) -> Replay {
    let mut replayed = Replay::default();
    let mut of_boot = None;
    for entry in entries {
        match *entry {
            Entry::Supervisor { boot_id, .. } => {
                // No process survives a reboot.
                if of_boot.replace(boot_id) != Some(boot_id) {
                    replayed = Replay::default();
                }
            }
            Entry::Started(process) | Entry::Serves(process) => replayed.daemon = Some(process),
            Entry::Swap(swap) => {
                replayed = Replay { daemon: Some(swap.incumbent), swap: Some(swap) };
            }
            Entry::OneWay { handoff_id } => {
                let swap = replayed.swap.as_mut().filter(|swap| swap.handoff_id == handoff_id);
                if let Some(swap) = swap {
                    swap.one_way = true;
                }
            }
            Entry::Ended { handoff_id, how } => {
                let swap = replayed.swap.take_if(|swap| swap.handoff_id == handoff_id);
                if let Some(swap) = swap.filter(|_| how.successor_serves()) {
                    replayed.daemon = Some(swap.successor);
                }
            }
        }
    }
    if of_boot == Some(boot) { replayed } else { Replay::default() }
}

/// Milliseconds since the epoch.
fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn checksum(line: &str) -> String {
    blake3::hash(line.as_bytes()).to_hex()[..8].to_owned()
}

/// Opens a journal and locks it.
fn open_checked(path: &Path) -> Result<File> {
    let file = open_file(path).map_err(Error::at("open the journal", path))?;
    let metadata = file.metadata().map_err(Error::at("look at", path))?;
    if !metadata.is_file() {
        return Err(Error::NotAJournal(path.to_owned()));
    }
    // It names the processes that this one may end.
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own {
        let words = format!(
            "it is a file of user {owner}, who could write other processes into it; if no other supervisor uses it, remove it: a daemon that serves is found without it"
        );
        let refused = io::Error::new(io::ErrorKind::PermissionDenied, words);
        return Err(Error::at("trust the journal", path)(refused));
    }
    lock(&file, path)?;
    Ok(file)
}

/// Renames a file that is locked and has no entry: it may be worth a look.
fn set_aside(path: &Path) -> Result<()> {
    let aside = path.with_added_extension("damaged");
    fs::rename(path, &aside).map_err(Error::at("rename", path))?;
    log::error!(
        path = %path.display(), to = %aside.display(),
        "no line of the journal can be read, so this supervisor renames it and begins another: it finds a daemon that serves, and does not know of a swap in flight"
    );
    Ok(())
}

fn open_file(path: &Path) -> io::Result<File> {
    open_private(path, OpenOptions::new().append(true)).map_err(|error| {
        let what = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP) => "it is a symbolic link",
            Some(Errno::NXIO) => "it is a socket",
            _ => return error,
        };
        let words = format!("{what}, and has to be a regular file; move it away");
        io::Error::new(io::ErrorKind::InvalidInput, words)
    })
}

/// One supervisor has a journal at a time: two would start two daemons.
fn lock(file: &File, path: &Path) -> Result<()> {
    if !try_lock(file).map_err(Error::at("lock", path))? {
        return Err(Error::Supervised(path.to_owned()));
    }
    // A lock on a file that was renamed over excludes no other supervisor.
    let opened = file.metadata().map_err(Error::at("look at", path))?;
    let named = fs::metadata(path).map_err(Error::at("look at", path))?;
    if (opened.dev(), opened.ino()) == (named.dev(), named.ino()) {
        Ok(())
    } else {
        Err(Error::Supervised(path.to_owned()))
    }
}

/// The last part of the file, from the beginning of a line.
fn read_end(file: &mut File) -> io::Result<String> {
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(2 * LONG);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(2 * LONG).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match text.split_once('\n') {
        Some((_, whole)) if skipped > 0 => whole.to_owned(),
        _ => text,
    })
}

/// A healthy disk has taken a line by then.
const PATIENCE: Duration = Duration::from_millis(250);
/// From this length on, in bytes, [`Journal::shorten`] replaces the file.
const LONG: u64 = 1 << 20;
/// So many characters of a damaged line are logged.
const SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A busy machine takes a line later than a supervisor waits for it.
    const TIMEOUT: Duration = Duration::from_secs(60);

    fn process(pid: u32) -> ProcessId {
        ProcessId { pid, start_time: u64::from(pid) * 10 }
    }

    fn swap(byte: u8) -> OpenSwap {
        OpenSwap {
            handoff_id: HandoffId::from_bytes([byte; 16]),
            incumbent: process(1),
            successor: process(2),
            one_way: false,
        }
    }

    fn ended(byte: u8, how: Outcome) -> Entry {
        Entry::Ended { handoff_id: HandoffId::from_bytes([byte; 16]), how }
    }

    fn supervisor() -> Entry {
        Entry::Supervisor { process: process(9), boot_id: [7; 16] }
    }

    fn entries() -> Vec<Entry> {
        let mut entries = vec![supervisor(), Entry::Started(process(1)), Entry::Serves(process(1))];
        entries.push(Entry::Swap(swap(3)));
        entries.extend(Outcome::ALL.iter().map(|how| ended(3, *how)));
        entries
    }

    fn text(entries: &[Entry]) -> String {
        entries.iter().map(|entry| entry.to_line(5)).collect()
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        assert_eq!(parse(&text(&entries())), entries());
    }

    #[test]
    fn a_line_that_is_cut_off_or_damaged_is_passed_over_and_the_others_are_read() {
        let whole = text(&entries());
        for length in 0..whole.len() {
            let read = parse(&whole[..length]);
            assert_eq!(read, entries()[..read.len()], "cut at {length}");
            assert_eq!(read.len(), whole[..length].matches('\n').count());
        }
        for index in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[index] ^= 1;
            let read = parse(&String::from_utf8_lossy(&bytes));
            assert!(read.len() < entries().len(), "a bit flipped at {index}");
            assert!(read.iter().all(|entry| entries().contains(entry)), "flipped at {index}");
        }
    }

    #[test]
    fn what_is_left_is_what_was_begun_and_did_not_end() {
        let daemon = |pid| Replay { daemon: Some(process(pid)), swap: None };
        let first = [supervisor(), Entry::Started(process(1))];
        let open = [&first[..], &[Entry::Swap(swap(3))]].concat();
        let in_flight = Replay { daemon: Some(process(1)), swap: Some(swap(3)) };
        assert_eq!(replay(&first, [7; 16]), daemon(1));
        assert_eq!(replay(&open, [7; 16]), in_flight);
        for (how, pid) in
            [(Outcome::Committed, 2), (Outcome::Promoted, 2), (Outcome::RolledBack, 1)]
        {
            let over = [&open[..], &[ended(3, how)]].concat();
            assert_eq!(replay(&over, [7; 16]), daemon(pid), "{how:?}");
        }
        // The end of another one ends nothing; and pids of another boot are nobody's.
        let other = [&open[..], &[ended(4, Outcome::Committed)]].concat();
        assert_eq!(replay(&other, [7; 16]), in_flight);
        assert_eq!(replay(&open, [8; 16]), Replay::default());
        assert_eq!(replay(&[], [7; 16]), Replay::default());
        let of_boot = |boot_id| Entry::Supervisor { process: process(9), boot_id };
        let rebooted = [&open[..], &[of_boot([8; 16]), of_boot([8; 16])]].concat();
        assert_eq!(replay(&rebooted, [8; 16]), Replay::default());
        // What a supervisor left that died before it had resolved what its own had left.
        let again = [&open[..], &[supervisor()]].concat();
        assert_eq!(replay(&again, [7; 16]), in_flight);
    }

    #[test]
    fn a_second_supervisor_is_refused_and_the_next_one_reads_on() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal");
        let (journal, replayed) = Journal::open(&path).expect("it is created");
        assert_eq!(replayed, Replay::default());
        journal.append_within(&Entry::Swap(swap(3)), TIMEOUT).expect("it is written");
        match Journal::open(&path) {
            Err(Error::Supervised(at)) => assert_eq!(at, path),
            other => panic!("{other:?}"),
        }
        drop(journal);
        // As if it had been killed while it wrote.
        let mut file = open_file(&path).expect("it opens");
        file.write_all(b"123 ended 03").expect("it is written");
        drop(file);
        let (journal, replayed) = Journal::open(&path).expect("nobody has it");
        assert_eq!(replayed.swap, Some(swap(3)));
        journal.append(&ended(3, Outcome::Lost)).expect("it is written");
        drop(journal);
        let (_, replayed) = Journal::open(&path).expect("nobody has it");
        assert_eq!((replayed.swap, replayed.daemon), (None, Some(process(1))));
    }

    #[test]
    fn what_is_no_journal_is_left_alone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let notes = directory.path().join("notes");
        fs::write(&notes, "notes").expect("it is written");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&notes, &link).expect("it can be linked");
        let fifo = directory.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("it is installed").success());
        for path in [&fifo, Path::new("/dev/null")] {
            match Journal::open(path) {
                Err(Error::NotAJournal(at)) => assert_eq!(at, path),
                other => panic!("{other:?}"),
            }
        }
        for path in [&link, directory.path(), &notes.join("below")] {
            match Journal::open(path) {
                Err(Error::Path { path: at, .. }) => assert_eq!(at, path),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(fs::read(&notes).expect("it is there"), b"notes");
    }

    #[test]
    fn of_a_damaged_journal_the_lines_that_can_be_read_count() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal");
        let of_boot = Entry::Supervisor { process: process(9), boot_id: boot_id() };
        let good = text(&[of_boot, Entry::Serves(process(1)), Entry::Swap(swap(3))]).into_bytes();
        let binary: Vec<u8> = (0..5000_u32).map(|byte| (byte * 7 % 256) as u8).collect();
        let with = |before: &[u8], after: &[u8]| [before, &good[..], after].concat();
        let damaged: [(&str, Vec<u8>); 6] = [
            ("a line before", with(b"garbage\n", b"")),
            ("a line after", with(b"", b"garbage\n")),
            ("bytes before", with(&[&binary[..], b"\n"].concat(), b"")),
            ("bytes after", with(b"", &binary)),
            ("zeros after", with(b"", &[0; 4096])),
            ("a line of another version", with(b"1 rested 4 5 #00000000\n", b"")),
        ];
        for (what, bytes) in damaged {
            fs::write(&path, bytes).expect("it is written");
            let (journal, replayed) = Journal::open(&path).expect(what);
            assert_eq!(replayed.swap, Some(swap(3)), "{what}");
            journal.append(&ended(3, Outcome::Committed)).expect("it is written");
            drop(journal);
            let (_, replayed) = Journal::open(&path).expect(what);
            let daemon = Some(process(2));
            assert_eq!(replayed, Replay { daemon, swap: None }, "{what}: the next line counts");
        }
    }

    #[test]
    fn a_journal_without_a_line_that_can_be_read_is_kept_under_another_name() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal");
        let aside = directory.path().join("journal.damaged");
        let tail = &text(&entries()).into_bytes()[20..60];
        for bytes in [b"not\na journal\n", tail, &[0; 512], b"\xff\xfe\n\n\x00", b"1795"] {
            fs::write(&path, bytes).expect("it is written");
            let (journal, replayed) = Journal::open(&path).expect("it is begun anew");
            assert_eq!(replayed, Replay::default());
            assert_eq!(fs::read(&aside).expect("it is kept"), bytes);
            assert!(matches!(Journal::open(&path), Err(Error::Supervised(_))), "it is locked");
            let (process, boot_id) = (ProcessId::own(), boot_id());
            journal
                .append_within(&Entry::Supervisor { process, boot_id }, TIMEOUT)
                .expect("it is written");
            journal.append_within(&Entry::Swap(swap(3)), TIMEOUT).expect("it is written");
            drop(journal);
            let (_, replayed) = Journal::open(&path).expect("nobody has it");
            assert_eq!(replayed.swap, Some(swap(3)));
        }
        fs::write(&path, "").expect("it is written");
        fs::remove_file(&aside).expect("it is there");
        Journal::open(&path).expect("an empty one is a new one");
        assert!(!aside.exists());
    }

    #[test]
    fn a_long_one_is_begun_anew_and_stays_locked() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal");
        let (journal, _) = Journal::open(&path).expect("it is created");
        journal.append_within(&Entry::Swap(swap(3)), TIMEOUT).expect("it is written");
        let before = fs::read(&path).expect("it is there");
        journal.shorten(&[Entry::Serves(process(5))]);
        assert_eq!(fs::read(&path).expect("it is there"), before);
        let garbage = "x".repeat(1 << 20);
        fs::write(&path, format!("{garbage}\n")).expect("it is written");
        journal.shorten(&[Entry::Serves(process(5))]);
        assert!(matches!(Journal::open(&path), Err(Error::Supervised(_))));
        assert!(fs::metadata(&path).expect("it is there").len() < 1000);
        drop(journal);
        let (_, replayed) = Journal::open(&path).expect("nobody has it");
        assert_eq!(replayed, Replay { daemon: Some(process(5)), swap: None });
    }

    #[test]
    fn of_a_file_beyond_all_measure_the_end_is_read() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal");
        let (journal, _) = Journal::open(&path).expect("it is created");
        let file = File::options().write(true).open(&path).expect("it opens");
        file.set_len(1 << 40).expect("a hole takes no room");
        journal.append(&supervisor()).expect("it is written");
        let (process, boot_id) = (ProcessId::own(), boot_id());
        journal
            .append_within(&Entry::Supervisor { process, boot_id }, TIMEOUT)
            .expect("it is written");
        journal.append_within(&Entry::Swap(swap(3)), TIMEOUT).expect("it is written");
        drop(journal);
        let (_, replayed) = Journal::open(&path).expect("nobody has it");
        assert_eq!(replayed.swap, Some(swap(3)));
    }
}
