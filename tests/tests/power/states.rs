//! The states that a disk may have after a power cut, by the record of what was done to it.
//!
//! A sector of 512 bytes holds its synced contents or any later ones. The length of a file is its
//! synced length or any later one. Each change of a name since the last sync of its directory is
//! there or not, whatever else is. The sync of a file says nothing of its name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::disk::{Entry, Event, Ino, Names, ROOT, change, write};

/// What a disk holds, and what is on its way to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Platter {
    files: BTreeMap<Ino, FileState>,
    /// Sockets and links.
    others: BTreeMap<Ino, Entry>,
    /// As synced.
    dirs: BTreeMap<Ino, BTreeMap<String, Ino>>,
    /// Changes of names since, in their order.
    names: Vec<Names>,
}

#[derive(Debug, Clone, Default)]
struct FileState {
    /// As a running process sees it.
    now: Vec<u8>,
    synced: BTreeMap<usize, Vec<u8>>,
    synced_length: usize,
    sectors: BTreeMap<usize, Pending<Vec<u8>>>,
    length: Pending<usize>,
}

/// What may be on the disk in the place of the synced value.
#[derive(Debug, Clone)]
struct Pending<T> {
    values: Vec<T>,
    /// Whether the last one is on its way still: a sync that fails drops it, and the next sync
    /// neither writes it nor says so.
    is_dirty: bool,
}

/// Everything below the root, by its path.
pub(crate) type Tree = BTreeMap<String, Entry>;

impl Platter {
    pub(crate) fn new() -> Self {
        Self { dirs: BTreeMap::from([(ROOT, BTreeMap::new())]), ..Self::default() }
    }

    pub(crate) fn on(&mut self, event: &Event) {
        match event {
            Event::Create { ino, is_dir: true } => drop(self.dirs.insert(*ino, BTreeMap::new())),
            Event::Create { ino, is_dir: false } => {
                self.files.insert(*ino, FileState::default());
            }
            Event::Place { ino, entry } => drop(self.others.insert(*ino, entry.clone())),
            Event::Names(names) => self.names.push(names.clone()),
            Event::Write { ino, offset, data } => self.file(*ino).write(*offset, data),
            Event::Truncate { ino, length } => self.file(*ino).truncate(*length),
            Event::Sync { ino } => self.file(*ino).sync(),
            // A journal keeps the names of a directory, or the file system stops.
            Event::SyncFailed { ino } if self.dirs.contains_key(ino) => {}
            Event::SyncFailed { ino } => self.file(*ino).drop_pending(),
            Event::SyncDir { ino } => {
                let is_in = |names: &mut Names| names.iter().any(|(dir, ..)| dir == ino);
                for names in self.names.extract_if(.., is_in) {
                    apply(&mut self.dirs, &names);
                }
            }
            Event::Damage { ino, contents } => {
                let damaged = self.file(*ino);
                *damaged = FileState::default();
                damaged.write(0, contents);
                damaged.sync();
            }
            Event::Seen(_) | Event::PowerOn => {}
        }
    }

    fn file(&mut self, ino: Ino) -> &mut FileState {
        self.files.entry(ino).or_default()
    }

    /// At most `limit` of the states that the disk may have now; all of them where they are so few.
    pub(crate) fn states(&self, limit: usize, seed: u64) -> Vec<Tree> {
        let dials = self.dials();
        let count = dials.iter().try_fold(1_usize, |count, dial| count.checked_mul(*dial));
        let mut states = Vec::new();
        if let Some(count) = count.filter(|count| *count <= limit) {
            for mut number in 0..count {
                let pick = |dial: &usize| {
                    let picked = number % dial;
                    number /= dial;
                    picked
                };
                states.push(self.state(&dials.iter().map(pick).collect::<Vec<_>>()));
            }
            return states;
        }
        let none = vec![0; dials.len()];
        let all: Vec<usize> = dials.iter().map(|dial| dial - 1).collect();
        let (only_names, only_data) = (self.mixed(&all, &none), self.mixed(&none, &all));
        let mut random = Random(seed);
        let mut picks = vec![none.clone(), all.clone(), only_names, only_data];
        for index in 0..dials.len() {
            for (of, other) in [(&none, &all), (&all, &none)] {
                let mut one = of.clone();
                one[index] = other[index];
                picks.push(one);
            }
        }
        while picks.len() < limit {
            picks.push(dials.iter().map(|dial| random.below(*dial)).collect());
        }
        picks.truncate(limit);
        picks.iter().map(|picks| self.state(picks)).collect()
    }

    /// How many values each thing may have that is not certain.
    fn dials(&self) -> Vec<usize> {
        let mut dials = vec![2; self.names.len()];
        for file in self.files.values() {
            dials.push(1 + file.length.values.len());
            dials.extend(file.sectors.values().map(|sector| 1 + sector.values.len()));
        }
        dials
    }

    /// The names of one state, and the data of another.
    fn mixed(&self, names: &[usize], data: &[usize]) -> Vec<usize> {
        let split = self.names.len();
        [&names[..split], &data[split..]].concat()
    }

    fn state(&self, picks: &[usize]) -> Tree {
        let (names, mut data) = picks.split_at(self.names.len());
        let mut dirs = self.dirs.clone();
        for (names, _) in self.names.iter().zip(names).filter(|(_, is_there)| **is_there == 1) {
            apply(&mut dirs, names);
        }
        let mut entries = self.others.clone();
        for (ino, file) in &self.files {
            let (own, rest) = data.split_at(1 + file.sectors.len());
            entries.insert(*ino, Entry::File(file.contents(own)));
            data = rest;
        }
        let mut tree = Tree::new();
        add(&mut tree, "", ROOT, &dirs, &entries);
        tree
    }
}

fn add(
    tree: &mut Tree,
    path: &str,
    dir: Ino,
    dirs: &BTreeMap<Ino, BTreeMap<String, Ino>>,
    entries: &BTreeMap<Ino, Entry>,
) {
    for (name, ino) in &dirs[&dir] {
        let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        if let Some(entry) = entries.get(ino) {
            tree.insert(path, entry.clone());
        } else {
            tree.insert(path.clone(), Entry::Dir);
            add(tree, &path, *ino, dirs, entries);
        }
    }
}

fn apply(dirs: &mut BTreeMap<Ino, BTreeMap<String, Ino>>, names: &Names) {
    for (dir, name, ino) in names {
        change(dirs.entry(*dir).or_default(), name, *ino);
    }
}

/// Writes a state into an empty directory.
pub(crate) fn lay_out(tree: &Tree, directory: &Path) {
    for (path, entry) in tree {
        let path = directory.join(path);
        match entry {
            Entry::Dir => fs::create_dir(&path).expect("it can be created"),
            Entry::File(contents) => fs::write(&path, contents).expect("it can be written"),
            Entry::Link(target) => symlink(target, &path).expect("it can be made"),
            // The name alone: a listener would answer for as long as a child that another test
            // starts has a copy of it.
            Entry::Socket => {
                let mode = Mode::RUSR | Mode::WUSR;
                mknodat(CWD, &path, FileType::Socket, mode, 0).expect("the name is free");
            }
        }
    }
}

impl FileState {
    fn write(&mut self, offset: usize, data: &[u8]) {
        let before = self.now.len();
        write(&mut self.now, offset, data);
        // To write the end of a file again is to write its length again, if that was dropped.
        let is_dropped = !self.length.values.is_empty() && !self.length.is_dirty;
        if self.now.len() != before || is_dropped && offset + data.len() == before {
            self.length.push(self.now.len());
        }
        self.touch(offset.min(before) / SECTOR, (offset + data.len()).div_ceil(SECTOR));
    }

    fn truncate(&mut self, length: usize) {
        let before = self.now.len();
        self.now.resize(length, 0);
        self.length.push(length);
        self.touch(before.min(length) / SECTOR, before.max(length).div_ceil(SECTOR));
    }

    /// What these sectors hold now is on its way.
    fn touch(&mut self, first: usize, end: usize) {
        for sector in first..end {
            let mut contents: Vec<u8> =
                self.now.iter().skip(sector * SECTOR).take(SECTOR).copied().collect();
            contents.resize(SECTOR, 0);
            self.sectors.entry(sector).or_default().push(contents);
        }
    }

    fn sync(&mut self) {
        if let Some(length) = self.length.sync() {
            self.synced_length = length;
        }
        for (sector, pending) in &mut self.sectors {
            if let Some(contents) = pending.sync() {
                self.synced.insert(*sector, contents);
            }
        }
        self.sectors.retain(|_, pending| !pending.values.is_empty());
    }

    fn drop_pending(&mut self) {
        self.length.is_dirty = false;
        for pending in self.sectors.values_mut() {
            pending.is_dirty = false;
        }
    }

    /// By a number for the length, and one for each sector that is not certain.
    fn contents(&self, picks: &[usize]) -> Vec<u8> {
        let length =
            picks[0].checked_sub(1).map_or(self.synced_length, |at| self.length.values[at]);
        let mut contents = Vec::new();
        for (sector, synced) in &self.synced {
            write(&mut contents, sector * SECTOR, synced);
        }
        for ((sector, pending), pick) in self.sectors.iter().zip(&picks[1..]) {
            if let Some(at) = pick.checked_sub(1) {
                write(&mut contents, sector * SECTOR, &pending.values[at]);
            }
        }
        contents.resize(length, 0);
        contents
    }
}

impl<T> Pending<T> {
    fn push(&mut self, value: T) {
        self.is_dirty = true;
        self.values.push(value);
    }

    /// The value that a sync makes certain; none where nothing is on its way.
    fn sync(&mut self) -> Option<T> {
        let synced = std::mem::take(&mut self.is_dirty).then(|| self.values.pop()).flatten();
        if synced.is_some() {
            self.values.clear();
        }
        synced
    }
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { values: Vec::new(), is_dirty: false }
    }
}

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap_or(0)
    }
}

const SECTOR: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn after(events: &[Event]) -> Vec<Tree> {
        let mut platter = Platter::new();
        events.iter().for_each(|event| platter.on(event));
        let mut states = platter.states(1000, 1);
        states.sort();
        states.dedup();
        states
    }

    fn create() -> [Event; 2] {
        let names = vec![(ROOT, "a".to_owned(), Some(2))];
        [Event::Create { ino: 2, is_dir: false }, Event::Names(names)]
    }

    fn write_at(offset: usize, byte: u8, length: usize) -> Event {
        Event::Write { ino: 2, offset, data: vec![byte; length] }
    }

    fn file(contents: &[u8]) -> Tree {
        Tree::from([("a".to_owned(), Entry::File(contents.to_vec()))])
    }

    #[test]
    fn what_was_not_synced_may_be_there_or_not() {
        let [created, named] = create();
        let written = write_at(0, 7, 3);
        let states = after(&[created, named, written]);
        assert_eq!(states, [Tree::new(), file(b""), file(&[0; 3]), file(&[7; 3])]);
    }

    #[test]
    fn a_sync_makes_the_data_certain_and_one_of_the_directory_the_name() {
        let [created, named] = create();
        let events = [created, named, write_at(0, 7, 3), Event::Sync { ino: 2 }];
        assert_eq!(after(&events), [Tree::new(), file(&[7; 3])]);
        let all = [&events[..], &[Event::SyncDir { ino: ROOT }]].concat();
        assert_eq!(after(&all), [file(&[7; 3])]);
        // A later write of another sector leaves this one alone.
        let more = [&all[..], &[write_at(512, 8, 1)]].concat();
        let cut = [[7; 3].to_vec(), vec![0; 509]].concat();
        let (lost, whole) = ([&cut[..], &[0]].concat(), [&cut[..], &[8]].concat());
        assert_eq!(after(&more), [file(&[7; 3]), file(&lost), file(&whole)]);
    }

    #[test]
    fn what_a_failed_sync_dropped_is_not_certain_by_the_next_one() {
        let [created, named] = create();
        let named = [created, named, Event::SyncDir { ino: ROOT }];
        let (failed, synced) = (Event::SyncFailed { ino: 2 }, Event::Sync { ino: 2 });
        let dropped = [&named[..], &[write_at(0, 7, 3), failed, synced.clone()]].concat();
        assert_eq!(after(&dropped), [file(b""), file(&[0; 3]), file(&[7; 3])]);
        let begun = [&dropped[..], &[write_at(0, 7, 2), synced.clone()]].concat();
        assert_eq!(after(&begun), [file(b""), file(&[7; 3])], "the length was not written again");
        let again = [&dropped[..], &[write_at(0, 7, 3), synced]].concat();
        assert_eq!(after(&again), [file(&[7; 3])]);
    }
}
