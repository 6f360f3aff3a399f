//! The file system over FUSE: it does as its [`Disk`], keeps the record, and fails as planned.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyWrite, Request, Session,
    TimeOrNow, WriteFlags,
};
use handoff_tests::harness::TIMEOUT;
use rustix::mount::{UnmountFlags, unmount};

use super::disk::{Disk, Event, Ino, Seen, What};

/// A mounted disk. Dropping it unmounts, whatever hangs.
pub(crate) struct Mounted {
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    disk: Disk,
    faults: Vec<Fault>,
    /// The operations that hang: each is performed, or fails.
    held: Vec<Held>,
    struck: usize,
}

type Held = Box<dyn FnOnce(&mut Inner, Verdict) + Send>;

/// What becomes of an operation that hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Succeeds,
    Fails,
}

/// What fails: of the operations of a kind on a file with that name, `times` after the first
/// `after`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) on: On,
    /// A part of the name of the file or directory; the root has none.
    pub(crate) name: &'static str,
    pub(crate) with: With,
    pub(crate) after: usize,
    pub(crate) times: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Sync,
    /// Writes and truncations, and new names.
    Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum With {
    /// An error; a sync drops what it would have written.
    Errno(Errno),
    /// It does not return until the test says so.
    Hang,
}

/// Why no file system can be mounted here.
pub(crate) fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("it is not run by root");
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse");
    }
    None
}

impl Mounted {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("disk");
        std::fs::create_dir(&path).expect("it is empty");
        let inner = Inner { disk: Disk::new(), faults: Vec::new(), held: Vec::new(), struck: 0 };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new() });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("handoff-power".to_owned())];
        let session = Session::new(Fuse(Arc::clone(&shared)), &path, &config);
        let session = session.and_then(Session::spawn).expect("root can mount");
        Self { shared, session: Some(session), path, _directory: directory }
    }

    /// The root of the file system.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A place beside it, which is not on the disk.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// What was done to the disk until now is no part of the test.
    pub(crate) fn power_on(&self) {
        self.shared.lock().disk.events.push(Event::PowerOn);
    }

    pub(crate) fn saw(&self, seen: Seen) {
        self.shared.lock().disk.saw(seen);
    }

    /// Damages the file of that name.
    pub(crate) fn damage(&self, name: &str, contents: &[u8]) {
        self.shared.lock().disk.damage(name, contents);
    }

    /// The record so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.shared.lock().disk.events.clone()
    }

    pub(crate) fn plan(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// How many operations have failed as planned, or hang.
    pub(crate) fn struck(&self) -> usize {
        self.shared.lock().struck
    }

    /// Waits until that many operations have failed or hang.
    pub(crate) fn wait_struck(&self, times: usize) {
        let inner = self.shared.lock();
        let (inner, waited) = self
            .shared
            .changed
            .wait_timeout_while(inner, TIMEOUT, |inner| inner.struck < times)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "{} of {times} faults struck", inner.struck);
    }

    /// Lets the operations that hang succeed.
    pub(crate) fn release(&self) {
        let mut inner = self.shared.lock();
        inner.faults.retain(|fault| fault.with != With::Hang);
        for held in std::mem::take(&mut inner.held) {
            held(&mut inner, Verdict::Succeeds);
        }
    }

    /// Fails whatever hangs, so that its process can end, and plans nothing more.
    pub(crate) fn let_go(&self) {
        let mut inner = self.shared.lock();
        inner.faults.clear();
        for held in std::mem::take(&mut inner.held) {
            held(&mut inner, Verdict::Fails);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.let_go();
        let unmounted = unmount(&self.path, UnmountFlags::DETACH);
        drop(self.session.take());
        if !std::thread::panicking() {
            assert_eq!(unmounted, Ok(()));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The fault that is planned for this operation; it is counted.
    fn due(&mut self, on: On, name: &str) -> Option<With> {
        let is_due = |fault: &&mut Fault| {
            let is_it =
                if fault.name.is_empty() { name.is_empty() } else { name.contains(fault.name) };
            fault.on == on && fault.times > 0 && is_it
        };
        let fault = self.faults.iter_mut().find(is_due)?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        fault.times -= 1;
        self.struck += 1;
        Some(fault.with)
    }

    fn sync(&mut self, ino: Ino) {
        let is_dir = self.disk.entries(ino).is_some();
        self.disk.events.push(if is_dir { Event::SyncDir { ino } } else { Event::Sync { ino } });
    }

    fn attr(&self, ino: Ino) -> Option<FileAttr> {
        let node = self.disk.nodes.get(&ino)?;
        let (kind, size) = match &node.what {
            What::File(contents) => (FileType::RegularFile, contents.len() as u64),
            What::Dir(_) => (FileType::Directory, 0),
            What::Link(target) => (FileType::Symlink, target.as_os_str().len() as u64),
            What::Socket => (FileType::Socket, 0),
        };
        let time = SystemTime::UNIX_EPOCH;
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: node.mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

/// What the kernel asks.
struct Fuse(Arc<Shared>);

impl Fuse {
    /// Does something that changes the disk, and answers; unless it is to fail, or to hang.
    fn change<T>(
        &self,
        name: &OsStr,
        act: impl FnOnce(&mut Inner, &str) -> Result<T, Errno> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let Some(name) = name.to_str().map(str::to_owned) else {
            return answer(Err(Errno::EINVAL));
        };
        let mut inner = self.0.lock();
        match inner.due(On::Change, &name) {
            Some(With::Errno(errno)) => answer(Err(errno)),
            Some(With::Hang) => inner.held.push(Box::new(move |inner, verdict| {
                answer(match verdict {
                    Verdict::Succeeds => act(inner, &name),
                    Verdict::Fails => Err(Errno::EIO),
                });
            })),
            None => answer(act(&mut inner, &name)),
        }
        self.0.changed.notify_all();
    }

    fn change_file<T>(
        &self,
        ino: Ino,
        act: impl FnOnce(&mut Inner) -> Result<T, Errno> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let name = self.0.lock().disk.name_of(ino);
        self.change(OsStr::new(&name), |inner, _| act(inner), answer);
    }

    /// Makes something that is not there yet.
    fn make(
        &self,
        dir: INodeNo,
        name: &OsStr,
        make: impl FnOnce(&mut Disk, &str) -> Ino + Send + 'static,
        answer: impl FnOnce(Result<FileAttr, Errno>) + Send + 'static,
    ) {
        let act = move |inner: &mut Inner, name: &str| {
            if inner.disk.lookup(dir.0, name).is_some() {
                return Err(Errno::EEXIST);
            }
            let ino = make(&mut inner.disk, name);
            inner.attr(ino).ok_or(Errno::EIO)
        };
        self.change(name, act, answer);
    }

    fn remove(&self, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let act = move |inner: &mut Inner, name: &str| {
            inner.disk.lookup(dir.0, name).ok_or(Errno::ENOENT)?;
            inner.disk.name(vec![(dir.0, name.to_owned(), None)]);
            Ok(())
        };
        self.change(name, act, |done| answer(done, reply));
    }

    fn sync(&self, ino: Ino, reply: ReplyEmpty) {
        let mut inner = self.0.lock();
        let name = inner.disk.name_of(ino);
        match inner.due(On::Sync, &name) {
            None => {
                inner.sync(ino);
                reply.ok();
            }
            Some(With::Errno(errno)) => {
                inner.disk.events.push(Event::SyncFailed { ino });
                reply.error(errno);
            }
            Some(With::Hang) => inner.held.push(Box::new(move |inner, verdict| {
                if verdict == Verdict::Succeeds {
                    inner.sync(ino);
                    reply.ok();
                } else {
                    reply.error(Errno::EIO);
                }
            })),
        }
        self.0.changed.notify_all();
    }
}

impl Filesystem for Fuse {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inner = self.0.lock();
        let found = name.to_str().and_then(|name| inner.disk.lookup(parent.0, name));
        match found.and_then(|ino| inner.attr(ino)) {
            Some(attr) => reply.entry(&KEPT, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().attr(ino.0) {
            Some(attr) => reply.attr(&KEPT, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = move |inner: &mut Inner| {
            if let (Some(mode), Some(node)) = (mode, inner.disk.nodes.get_mut(&ino.0)) {
                node.mode = u16::try_from(mode & 0o7777).unwrap_or(0);
            }
            if let Some(length) = size {
                inner.disk.truncate(ino.0, usize::try_from(length).map_err(|_| Errno::EFBIG)?);
            }
            inner.attr(ino.0).ok_or(Errno::ENOENT)
        };
        let answer = |done: Result<FileAttr, Errno>| match done {
            Ok(attr) => reply.attr(&KEPT, &attr),
            Err(errno) => reply.error(errno),
        };
        match size {
            Some(_) => self.change_file(ino.0, set, answer),
            None => answer(set(&mut self.0.lock())),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.lock().disk.nodes.get(&ino.0).map(|node| &node.what) {
            Some(What::Link(target)) => reply.data(target.as_os_str().as_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.to_owned();
        let make = move |disk: &mut Disk, name: &str| disk.link(parent.0, name, &target);
        self.make(parent, name, make, |made| entry(made, reply));
    }

    /// Of a socket.
    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let mode = bits(mode & !umask);
        let make = move |disk: &mut Disk, name: &str| disk.socket(parent.0, name, mode);
        self.make(parent, name, make, |made| entry(made, reply));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = bits(mode & !umask);
        let make = move |disk: &mut Disk, name: &str| disk.create(parent.0, name, mode, true);
        self.make(parent, name, make, |made| entry(made, reply));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let flags = FopenFlags::empty();
        let mode = bits(mode & !umask);
        let make = move |disk: &mut Disk, name: &str| disk.create(parent.0, name, mode, false);
        self.make(parent, name, make, move |made| match made {
            Ok(attr) => reply.created(&KEPT, &attr, Generation(0), FileHandle(0), flags),
            Err(errno) => reply.error(errno),
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let act = move |inner: &mut Inner, name: &str| {
            inner.disk.name(vec![(newparent.0, name.to_owned(), Some(ino.0))]);
            inner.attr(ino.0).ok_or(Errno::ENOENT)
        };
        self.change(newname, act, |made| entry(made, reply));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(name) = name.to_str().map(str::to_owned) else {
            return reply.error(Errno::EINVAL);
        };
        let act = move |inner: &mut Inner, newname: &str| {
            let ino = inner.disk.lookup(parent.0, &name).ok_or(Errno::ENOENT)?;
            inner
                .disk
                .name(vec![(parent.0, name, None), (newparent.0, newname.to_owned(), Some(ino))]);
            Ok(())
        };
        self.change(newname, act, |done| answer(done, reply));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let inner = self.0.lock();
        let Some(contents) = inner.disk.contents(ino.0) else { return reply.error(Errno::EISDIR) };
        let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.len());
        let end = (begin + size as usize).min(contents.len());
        reply.data(&contents[begin..end]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        let act = move |inner: &mut Inner| {
            let offset = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
            inner.disk.write(ino.0, offset, &data);
            u32::try_from(data.len()).map_err(|_| Errno::EFBIG)
        };
        self.change_file(ino.0, act, |written| match written {
            Ok(length) => reply.written(length),
            Err(errno) => reply.error(errno),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(ino.0, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(ino.0, reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let inner = self.0.lock();
        let Some(entries) = inner.disk.entries(ino.0) else { return reply.error(Errno::ENOTDIR) };
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (name, ino)) in entries.iter().enumerate().skip(skipped) {
            let Some(attr) = inner.attr(*ino) else { continue };
            if reply.add(attr.ino, index as u64 + 1, attr.kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn answer(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn entry(made: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match made {
        Ok(attr) => reply.entry(&KEPT, &attr, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn bits(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

/// The kernel asks for the length of a file each time, which damage may have changed.
const KEPT: Duration = Duration::ZERO;
