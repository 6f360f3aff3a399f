//! The server's side: a thread that accepts, and one for each of a few connections.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{Backlog, Shutdown, getsockopt, sockopt::PeerCredentials};
use rustix::net::SocketType;

use super::{MAX_REQUEST_LEN, Reply, Request};
use crate::config::Access;
use crate::listen::bind_file;
use crate::metrics;
use crate::names::{Kept, create_parent, socket_at};

/// A request, its client, and the channel of its replies. The connection ends with the sender.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) asker: Asker,
    pub(crate) replies: Sender<Reply>,
}

/// The process of a client, as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) uid: u32,
    pub(crate) pid: u32,
}

/// The socket and its open connections.
#[derive(Debug)]
pub(crate) struct Trigger {
    door: Arc<Mutex<Door>>,
    open: Arc<Open>,
}

/// The socket, at its name.
#[derive(Debug)]
struct Door {
    path: PathBuf,
    listener: UnixListener,
    /// The file at the name, if it is this socket's.
    file: Option<(u64, u64)>,
    /// The thread that accepts from the listener ends once it is set.
    is_closed: Arc<AtomicBool>,
    /// Whether the supervisor stops, or executes another program: it looks after no name then.
    is_over: bool,
    /// Whether another socket is about to get the name.
    is_binding: bool,
}

/// The connections that the supervisor answers.
#[derive(Debug, Default)]
struct Open {
    count: Mutex<usize>,
    closed: Condvar,
}

impl Open {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of these connections, until it is dropped.
struct Slot(Arc<Open>);

impl Slot {
    fn take(open: &Arc<Open>) -> Option<Self> {
        let mut count = open.count();
        if *count >= MAX_CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Self(Arc::clone(open)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.closed.notify_all();
    }
}

impl Trigger {
    /// Takes the inherited socket, or binds one at the path, with mode 0600. The caller is the
    /// only supervisor, so a socket that lies at the path belongs to a dead one.
    pub(crate) fn open(
        path: &Path,
        inherited: Option<UnixListener>,
        tell: impl Fn(Asked) -> bool + Send + Clone + 'static,
    ) -> io::Result<Self> {
        let (listener, file) = match inherited {
            Some(listener) => (listener, socket_at(path)),
            None => bind(path)?,
        };
        let open = Arc::<Open>::default();
        let is_closed = start(&listener, &open, tell)?;
        let door = Door {
            path: path.to_owned(),
            listener,
            file,
            is_closed,
            is_over: false,
            is_binding: false,
        };
        Ok(Self { door: Arc::new(Mutex::new(door)), open })
    }

    /// The socket, for the program that this one executes. Until `keep` it stays the socket, whatever
    /// becomes of its name: the new program looks after that.
    pub(crate) fn pass_on(&self) -> io::Result<UnixListener> {
        let mut door = lock(&self.door);
        if door.is_binding {
            return Err(io::Error::other("the name of the socket is being made anew; try again"));
        }
        door.is_over = true;
        door.listener.try_clone()
    }

    /// The program was not executed.
    pub(crate) fn keep(&self) {
        lock(&self.door).is_over = false;
    }

    /// The name of the socket, to be looked after.
    pub(crate) fn name(
        &self,
        tell: impl Fn(Asked) -> bool + Send + Clone + 'static,
    ) -> Box<dyn Kept> {
        let path = lock(&self.door).path.clone();
        let (door, open) = (Arc::clone(&self.door), Arc::clone(&self.open));
        Box::new(Name { path, door, open, tell })
    }

    /// Waits until the last answers have gone out.
    pub(crate) fn drain(&self, timeout: Duration) {
        let _ = self.open.closed.wait_timeout_while(self.open.count(), timeout, |count| *count > 0);
    }

    /// Removes the socket of a supervisor that stops for good.
    pub(crate) fn remove(&self) {
        let mut door = lock(&self.door);
        door.is_over = true;
        let _ = fs::remove_file(&door.path);
    }
}

fn lock(door: &Mutex<Door>) -> MutexGuard<'_, Door> {
    door.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of the supervisor's socket.
struct Name<F> {
    path: PathBuf,
    door: Arc<Mutex<Door>>,
    open: Arc<Open>,
    tell: F,
}

impl<F: Fn(Asked) -> bool + Send + Clone + 'static> Kept for Name<F> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn look(&mut self) -> io::Result<bool> {
        let found = socket_at(&self.path);
        let mut door = lock(&self.door);
        if door.is_over || (found.is_some() && found == door.file) {
            return Ok(false);
        }
        door.is_binding = true;
        drop(door);
        let bound = bind(&self.path);
        let mut door = lock(&self.door);
        door.is_binding = false;
        let (listener, file) = bound?;
        if door.is_over {
            let _ = fs::remove_file(&self.path);
            return Ok(false);
        }
        let is_closed = start(&listener, &self.open, self.tell.clone())?;
        // The thread that accepts from the old socket ends; a connection that waits there is cut.
        door.is_closed.store(true, Ordering::Release);
        let old = std::mem::replace(&mut door.listener, listener);
        let _ = nix::sys::socket::shutdown(old.as_raw_fd(), Shutdown::Both);
        (door.file, door.is_closed) = (file, is_closed);
        Ok(true)
    }
}

/// Binds the socket for this user alone.
fn bind(path: &Path) -> io::Result<(UnixListener, Option<(u64, u64)>)> {
    create_parent(path)?;
    let access = Access { mode: Some(0o600), ..Access::default() };
    let socket = bind_file(path, SocketType::STREAM, access)?;
    rustix::net::listen(&socket, Backlog::MAXCONN.into())?;
    Ok((socket.into(), socket_at(path)))
}

/// Starts the thread that accepts from the listener, until the flag is set.
fn start(
    listener: &UnixListener,
    open: &Arc<Open>,
    tell: impl Fn(Asked) -> bool + Send + Clone + 'static,
) -> io::Result<Arc<AtomicBool>> {
    let (accepting, open) = (listener.try_clone()?, Arc::clone(open));
    let is_closed = Arc::new(AtomicBool::new(false));
    let closed = Arc::clone(&is_closed);
    thread::Builder::new()
        .name("trigger".into())
        .spawn(move || accept(&accepting, &open, &closed, &tell))?;
    Ok(is_closed)
}

fn accept(
    listener: &UnixListener,
    open: &Arc<Open>,
    is_closed: &AtomicBool,
    tell: &(impl Fn(Asked) -> bool + Send + Clone + 'static),
) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) if is_closed.load(Ordering::Acquire) => return,
            Err(error) => {
                tracing::warn!(%error, "this supervisor cannot accept an operator's connection, and tries again");
                thread::sleep(RETRY_PAUSE);
                continue;
            }
        };
        let Some(place) = Slot::take(open) else {
            refuse(&stream, None, "too many connections are open; try again");
            continue;
        };
        let tell = tell.clone();
        let served = thread::Builder::new().name("operator".into()).spawn(move || {
            serve(&stream, &tell);
            drop(place);
        });
        if let Err(error) = served {
            tracing::warn!(%error, "this supervisor cannot start a thread for an operator's connection, and closes it");
        }
    }
}

fn serve(stream: &UnixStream, tell: &impl Fn(Asked) -> bool) {
    let asker = match peer_of(stream) {
        Ok(asker) => asker,
        Err(error) => {
            return tracing::warn!(%error, "this supervisor closes an operator's connection: the kernel does not say which process made it");
        }
    };
    let own = rustix::process::geteuid().as_raw();
    if asker.uid != own && asker.uid != 0 {
        let why = format!("user {} may not tell a supervisor of user {own} what to do", asker.uid);
        return refuse(stream, Some(asker), &why);
    }
    let request = match read_request(stream) {
        Ok(request) => request,
        Err(why) => return refuse(stream, Some(asker), &why),
    };
    tracing::debug!(pid = asker.pid, uid = asker.uid, ?request, "an operator asks");
    let (replies, answers) = mpsc::channel();
    if !tell(Asked { request, asker, replies }) {
        return;
    }
    for reply in answers {
        if let Err(error) = send(stream, &reply) {
            return tracing::debug!(pid = asker.pid, %error, "an operator does not listen any more");
        }
    }
}

fn send(mut stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&crate::record::line(reply)?)
}

fn refuse(stream: &UnixStream, asker: Option<Asker>, why: &str) {
    metrics::refused();
    let (pid, uid) = (asker.map(|asker| asker.pid), asker.map(|asker| asker.uid));
    tracing::warn!(pid, uid, error = why, "this supervisor refuses an operator's request");
    let _ = send(stream, &Reply::refused(why));
}

/// Reads one line, within the maximum length and the timeout.
fn read_request(stream: &UnixStream) -> Result<Request, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut reader = BufReader::new(Within { stream, deadline }).take(MAX_REQUEST_LEN as u64 + 1);
    let mut line = Vec::new();
    let read = reader.read_until(b'\n', &mut line);
    if line.len() > MAX_REQUEST_LEN {
        return Err(format!("a request has at most {MAX_REQUEST_LEN} bytes"));
    }
    read.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("nothing whole was asked within {} s", PATIENCE.as_secs())
        }
        _ => format!("the request cannot be read: {error}"),
    })?;
    if line.is_empty() {
        return Err("the connection was closed without a request".into());
    }
    serde_json::from_slice(&line).map_err(|error| {
        format!(
            "this is no request of this version of handoff ({}): {error}; where the client is of a later version, `handoff upgrade` replaces this supervisor",
            crate::VERSION
        )
    })
}

/// Reads until a deadline, however slowly the bytes come.
struct Within<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl Read for Within<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

fn peer_of(stream: &UnixStream) -> io::Result<Asker> {
    let peer = getsockopt(stream, PeerCredentials)?;
    // A process of another pid namespace has none here.
    Ok(Asker { uid: peer.uid(), pid: u32::try_from(peer.pid()).unwrap_or(0) })
}

/// The timeout for a request to come, and for a client to read an answer.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const MAX_CONNECTIONS: usize = 64;
