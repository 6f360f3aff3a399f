//! A file system in memory, and the record of everything that was done to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The number of a file or directory.
pub(crate) type Ino = u64;

/// Names that change in one step, by their directory: none where a name is gone.
pub(crate) type Names = Vec<(Ino, String, Option<Ino>)>;

/// Something that was done to the disk, or that a test saw happen in between.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Create {
        ino: Ino,
        is_dir: bool,
    },
    /// A socket or a link, which is as it is created.
    Place {
        ino: Ino,
        entry: Entry,
    },
    Names(Names),
    Write {
        ino: Ino,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        ino: Ino,
        length: usize,
    },
    Sync {
        ino: Ino,
    },
    /// The kernel reports the error once, and drops the writes.
    SyncFailed {
        ino: Ino,
    },
    SyncDir {
        ino: Ino,
    },
    /// The disk itself puts something else in the place of what it held.
    Damage {
        ino: Ino,
        contents: Vec<u8>,
    },
    Seen(Seen),
    /// The machine runs from here on, with what is on the disk.
    PowerOn,
}

/// A fact that no crash of the machine may make untrue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A write was acknowledged as durable.
    Kept(String),
    /// A fencing token was handed out.
    Token(u64),
    /// The program's history told an entry, which it had written.
    Told(String),
    /// A directory with damage was repaired.
    Repaired,
}

/// Something at a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Entry {
    Dir,
    File(Vec<u8>),
    Link(PathBuf),
    Socket,
}

/// A file or a directory, as a running process sees it.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) mode: u16,
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    File(Vec<u8>),
    Dir(BTreeMap<String, Ino>),
    Link(PathBuf),
    Socket,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) nodes: BTreeMap<Ino, Node>,
    pub(crate) events: Vec<Event>,
    next: Ino,
}

impl Disk {
    /// An empty root directory.
    pub(crate) fn new() -> Self {
        let root = Node { mode: 0o700, what: What::Dir(BTreeMap::new()) };
        Self { nodes: BTreeMap::from([(ROOT, root)]), events: Vec::new(), next: ROOT + 1 }
    }

    pub(crate) fn entries(&self, dir: Ino) -> Option<&BTreeMap<String, Ino>> {
        match &self.nodes.get(&dir)?.what {
            What::Dir(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn lookup(&self, dir: Ino, name: &str) -> Option<Ino> {
        self.entries(dir)?.get(name).copied()
    }

    pub(crate) fn contents(&self, ino: Ino) -> Option<&Vec<u8>> {
        match &self.nodes.get(&ino)?.what {
            What::File(contents) => Some(contents),
            _ => None,
        }
    }

    fn contents_mut(&mut self, ino: Ino) -> Option<&mut Vec<u8>> {
        match &mut self.nodes.get_mut(&ino)?.what {
            What::File(contents) => Some(contents),
            _ => None,
        }
    }

    /// Some name of a file, for the faults that are planned by name.
    pub(crate) fn name_of(&self, ino: Ino) -> String {
        let entries = self.nodes.values().filter_map(|node| match &node.what {
            What::Dir(entries) => Some(entries),
            _ => None,
        });
        let mut named = entries.flatten().filter(|(_, of)| **of == ino);
        named.next().map_or_else(String::new, |(name, _)| name.clone())
    }

    pub(crate) fn create(&mut self, dir: Ino, name: &str, mode: u16, is_dir: bool) -> Ino {
        let what = if is_dir { What::Dir(BTreeMap::new()) } else { What::File(Vec::new()) };
        self.add(dir, name, mode, what, |ino| Event::Create { ino, is_dir })
    }

    pub(crate) fn link(&mut self, dir: Ino, name: &str, target: &Path) -> Ino {
        let entry = Entry::Link(target.to_owned());
        let what = What::Link(target.to_owned());
        self.add(dir, name, 0o777, what, |ino| Event::Place { ino, entry })
    }

    pub(crate) fn socket(&mut self, dir: Ino, name: &str, mode: u16) -> Ino {
        self.add(dir, name, mode, What::Socket, |ino| Event::Place { ino, entry: Entry::Socket })
    }

    fn add(
        &mut self,
        dir: Ino,
        name: &str,
        mode: u16,
        what: What,
        event: impl FnOnce(Ino) -> Event,
    ) -> Ino {
        let (ino, mode) = (self.next, mode & 0o7777);
        self.next += 1;
        self.nodes.insert(ino, Node { mode, what });
        self.events.push(event(ino));
        self.name(vec![(dir, name.to_owned(), Some(ino))]);
        ino
    }

    /// Changes names in one step.
    pub(crate) fn name(&mut self, changes: Names) {
        for (dir, name, ino) in &changes {
            if let Some(Node { what: What::Dir(entries), .. }) = self.nodes.get_mut(dir) {
                change(entries, name, *ino);
            }
        }
        self.events.push(Event::Names(changes));
    }

    pub(crate) fn write(&mut self, ino: Ino, offset: usize, data: &[u8]) {
        if let Some(contents) = self.contents_mut(ino) {
            write(contents, offset, data);
            self.events.push(Event::Write { ino, offset, data: data.to_vec() });
        }
    }

    pub(crate) fn truncate(&mut self, ino: Ino, length: usize) {
        if let Some(contents) = self.contents_mut(ino)
            && contents.len() != length
        {
            contents.resize(length, 0);
            self.events.push(Event::Truncate { ino, length });
        }
    }

    pub(crate) fn damage(&mut self, name: &str, damage: &[u8]) {
        let ino = self.nodes.keys().copied().find(|ino| self.name_of(*ino) == name);
        let ino = ino.expect("it is there");
        if let Some(contents) = self.contents_mut(ino) {
            *contents = damage.to_vec();
        }
        self.events.push(Event::Damage { ino, contents: damage.to_vec() });
    }

    pub(crate) fn saw(&mut self, seen: Seen) {
        self.events.push(Event::Seen(seen));
    }
}

pub(crate) fn change(entries: &mut BTreeMap<String, Ino>, name: &str, ino: Option<Ino>) {
    match ino {
        Some(ino) => drop(entries.insert(name.to_owned(), ino)),
        None => drop(entries.remove(name)),
    }
}

pub(crate) fn write(contents: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[offset..end].copy_from_slice(data);
}

pub(crate) const ROOT: Ino = 1;
