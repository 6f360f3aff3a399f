//! The names of the sockets in the file system. A cleaner of temporary files, or a person, may
//! remove one while the supervisor runs: a thread looks after them, and brings them back.
//!
//! The socket of the supervisor is bound anew. A listener is held by daemons, so it keeps its inode:
//! the file has a second name beside the first, hidden, from which the first is linked again. A
//! connection goes by the inode, and reaches the socket that the daemons have.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::ListenerConfig;
use crate::listen;

/// A name that is looked after.
pub(crate) trait Kept: Send {
    fn path(&self) -> &Path;

    /// Looks at the name, and brings it back if it is gone: whether it was.
    ///
    /// # Errors
    ///
    /// It could not be brought back.
    fn look(&mut self) -> io::Result<bool>;
}

/// Looks after this name on a thread of its own, which may wait for a disk.
pub(crate) fn keep(mut name: Box<dyn Kept>) {
    spawn(move || {
        let mut told = None;
        loop {
            thread::sleep(INTERVAL);
            look_and_tell(name.as_mut(), &mut told);
        }
    });
}

/// Whether the thread was started.
fn spawn(look: impl FnOnce() + Send + 'static) -> bool {
    let started = thread::Builder::new().name("names".into()).spawn(look);
    if let Err(error) = &started {
        tracing::warn!(%error, "this supervisor cannot look after the names of its sockets: one that is removed does not come back");
    }
    started.is_ok()
}

fn look_and_tell(name: &mut dyn Kept, told: &mut Option<Instant>) {
    match name.look() {
        Ok(was_gone) => {
            if was_gone {
                let path = name.path().display();
                tracing::warn!(%path, "the name of a socket was removed, and this supervisor has brought it back: see that no cleaner removes it");
            }
            *told = None;
        }
        Err(error) if told.is_none_or(|told| told.elapsed() > TOLD_INTERVAL) => {
            *told = Some(Instant::now());
            let path = name.path().display();
            tracing::error!(%path, %error, "the name of a socket was removed, and this supervisor cannot bring it back: clients cannot connect to it; it tries again every second");
        }
        Err(_) => {}
    }
}

/// The names of the listeners, which a thread looks after until this is dropped.
#[derive(Debug)]
pub(crate) struct Names(Option<Sender<Vec<Linked>>>);

impl Names {
    pub(crate) fn start() -> Self {
        let (sender, sets) = mpsc::channel();
        Self(spawn(move || keep_listeners(&sets)).then_some(sender))
    }

    /// Looks after these from now on. The names of others that the thread has looked after go.
    pub(crate) fn set(&self, names: Vec<Linked>) {
        if let Some(sender) = &self.0 {
            let _ = sender.send(names);
        }
    }
}

fn keep_listeners(sets: &Receiver<Vec<Linked>>) {
    let mut names: Vec<(Linked, Option<Instant>)> = Vec::new();
    loop {
        match sets.recv_timeout(INTERVAL) {
            Ok(set) => {
                for (gone, _) in names.iter().filter(|(name, _)| !set.contains(name)) {
                    gone.remove();
                }
                names = set.into_iter().map(|name| (name, None)).collect();
                names.iter().for_each(|(name, _)| name.begin());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for (name, told) in &mut names {
            look_and_tell(name, told);
        }
    }
}

/// The names of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linked {
    path: PathBuf,
    hidden: PathBuf,
    /// Whether a service manager made the first one, and removes it.
    is_managers: bool,
}

impl Linked {
    /// A name that an earlier supervisor left may be that of another socket.
    fn begin(&self) {
        if socket_at(&self.path).is_some_and(|found| socket_at(&self.hidden) != Some(found)) {
            let _ = fs::remove_file(&self.hidden);
        }
    }

    /// Of a listener that is configured no more.
    fn remove(&self) {
        let kept = socket_at(&self.hidden);
        if kept.is_some() && socket_at(&self.path) == kept && !self.is_managers {
            let _ = fs::remove_file(&self.path);
        }
        let _ = fs::remove_file(&self.hidden);
    }
}

/// The names of the listeners with a file.
pub(crate) fn of_listeners(
    listeners: &[ListenerConfig],
    is_managers: impl Fn(&ListenerConfig) -> bool,
) -> Vec<Linked> {
    let named = |listener: &ListenerConfig| {
        let path = listener.address.file()?.to_owned();
        Some(Linked { hidden: hidden(&path), path, is_managers: is_managers(listener) })
    };
    listeners.iter().filter_map(named).collect()
}

/// Removes the hidden names of listeners.
pub(crate) fn forget(listeners: &[ListenerConfig]) {
    for path in listeners.iter().filter_map(|listener| listener.address.file()) {
        let _ = fs::remove_file(hidden(path));
    }
}

fn hidden(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".kept");
    path.with_file_name(name)
}

impl Kept for Linked {
    fn path(&self) -> &Path {
        &self.path
    }

    fn look(&mut self) -> io::Result<bool> {
        match (socket_at(&self.path), socket_at(&self.hidden)) {
            (Some(found), Some(kept)) if found == kept => Ok(false),
            (Some(_), None) => {
                fs::hard_link(&self.path, &self.hidden)?;
                Ok(false)
            }
            (_, Some(_)) => {
                // A socket that nobody listens on goes; any other file stays.
                listen::clear(&self.path)?;
                fs::hard_link(&self.hidden, &self.path)?;
                Ok(true)
            }
            (None, None) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "its second name is gone as well; stop the daemon and start it anew",
            )),
        }
    }
}

/// The device and the inode of a socket at a path.
pub(crate) fn socket_at(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    metadata.file_type().is_socket().then(|| (metadata.dev(), metadata.ino()))
}

/// Creates the directory of a socket, for this user alone.
pub(crate) fn create_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => DirBuilder::new().recursive(true).mode(0o700).create(parent),
        None => Ok(()),
    }
}

/// A name that was removed is back within about a second.
const INTERVAL: Duration = Duration::from_millis(500);
const TOLD_INTERVAL: Duration = Duration::from_secs(60);
