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
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{Address, ListenerConfig};
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

/// Looks after these names on a thread of its own, which may wait for a disk.
pub(crate) fn keep(mut names: Vec<Box<dyn Kept>>) {
    let look = move || {
        let mut told: Vec<Option<Instant>> = vec![None; names.len()];
        loop {
            thread::sleep(INTERVAL);
            for (name, told) in names.iter_mut().zip(&mut told) {
                look_and_tell(name.as_mut(), told);
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("names".into()).spawn(look) {
        tracing::warn!(%error, "this supervisor cannot look after the names of its sockets: one that is removed does not come back");
    }
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

/// The names of a listener.
#[derive(Debug)]
struct Linked {
    path: PathBuf,
    hidden: PathBuf,
}

/// The listeners with a name.
pub(crate) fn of_listeners(listeners: &[ListenerConfig]) -> Vec<Box<dyn Kept>> {
    let paths = listeners.iter().filter_map(|listener| match &listener.address {
        Address::Unix(path) | Address::UnixDatagram(path) => Some(path),
        Address::Tcp(_) | Address::Udp(_) | Address::Abstract(_) => None,
    });
    paths
        .map(|path| {
            let linked = Linked { path: path.clone(), hidden: hidden(path) };
            // A name that an earlier supervisor left may be that of another socket.
            if socket_at(&linked.path).is_some_and(|found| socket_at(&linked.hidden) != Some(found))
            {
                let _ = fs::remove_file(&linked.hidden);
            }
            Box::new(linked) as Box<dyn Kept>
        })
        .collect()
}

/// Removes the hidden names of listeners.
pub(crate) fn forget(listeners: &[ListenerConfig]) {
    for listener in listeners {
        if let Address::Unix(path) | Address::UnixDatagram(path) = &listener.address {
            let _ = fs::remove_file(hidden(path));
        }
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
