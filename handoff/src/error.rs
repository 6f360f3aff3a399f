//! The errors of this crate.

mod carry;

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

pub use carry::CarryError;

use crate::terms::{HandoffId, MAX_FRAME_LEN, MAX_LISTENERS, MAX_SHARDS, ProtoVersion, Side};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any failure of this crate, and of the hooks of a daemon.
///
/// A message follows the words of the action that failed, as in "failed to start: ...". It contains
/// the message of the error's `source`, and names a remedy where the reader has one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hook failed with an I/O error, or a system call that concerns no path failed.
    #[error(transparent)]
    Io(#[from] io::Error),

    /// A system call failed on a path.
    #[error("cannot {action} {}: {source}", path.display())]
    Path {
        /// The action that failed: "create", "open", "bind".
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },

    /// Another process holds the lock of the data directory, so it is the writer (invariant 1).
    #[error(
        "the lock of {dir} is held by {}, by its owner record; one process at a time may write a data directory: if that process serves, swap it instead of starting another, or give this one another directory",
        holder(*holder_pid),
        dir = data_dir.display()
    )]
    LockHeld {
        /// The process that the owner record names; 0 when the record names none.
        holder_pid: u32,
        /// The directory.
        data_dir: PathBuf,
    },

    /// The writer of the data directory is dead, and a process that it forked holds the lock.
    #[error(
        "the lock of {dir} is held by process {child_pid}, which has it from the dead process {writer_pid} that forked it, and may still write: end process {child_pid}, and try again",
        dir = data_dir.display()
    )]
    LockInherited {
        /// The dead process, by the owner record.
        writer_pid: u32,
        /// A process that has the lock file open.
        child_pid: u32,
        /// The directory.
        data_dir: PathBuf,
    },

    /// This process was forked from the one that took the lock, and does not have it.
    #[error(
        "process {pid} took the lock of {}, and this process, which it forked, does not have it: fork first (as for running in the background), and take the lock afterwards",
        data_dir.display()
    )]
    Forked {
        /// The process that took the lock.
        pid: u32,
        /// The directory.
        data_dir: PathBuf,
    },

    /// This successor has the lock, but the last writer lives and did not reserve it for its swap.
    #[error(
        "the last writer of {}, process {writer_pid}, lives and did not release the directory for this swap, so this successor may not take it over; begin the swap anew",
        data_dir.display()
    )]
    NotReserved {
        /// The last writer, by the owner record.
        writer_pid: u32,
        /// The directory.
        data_dir: PathBuf,
    },

    /// The path of the data directory leads elsewhere than to the directory that the daemon writes.
    #[error(
        "{} is not the data directory that the daemon has written so far: that was moved, replaced or unmounted; put it back at this path, and the daemon serves again or can be swapped again",
        .0.display()
    )]
    Moved(PathBuf),

    /// The lock is free, but the owner record reserves it for a swap's successor (invariant 9).
    #[error(
        "{} is reserved for process {successor_pid}, the successor of a swap in flight, after which it or the old process serves: start another only if both are dead; end process {successor_pid} if it hangs, and the old one serves again",
        data_dir.display()
    )]
    Reserved {
        /// The process that the owner record reserves the lock for. It is alive.
        successor_pid: u32,
        /// The directory.
        data_dir: PathBuf,
    },

    /// Another supervisor has the journal.
    #[error(
        "another supervisor has the journal {path}, and a daemon has one supervisor: stop the other one first (`fuser {path}` shows its process)",
        path = .0.display()
    )]
    Supervised(PathBuf),

    /// No supervisor wrote the file at the journal's path.
    #[error("{} is no journal of a supervisor, and was left as it is: move it away, or choose another path for the journal", .0.display())]
    NotAJournal(PathBuf),

    /// A session of this supervisor is not over, and a supervisor drives one swap at a time.
    #[error(
        "swap {handoff_id} of this supervisor is in flight, and a supervisor drives one swap at a time: commit, abort or drop its session first; the deadline of that swap ends a session that was lost"
    )]
    SwapInFlight {
        /// The swap in flight.
        handoff_id: HandoffId,
    },

    /// A process that serves a control socket, or was started to, does not answer there.
    #[error(
        "process {pid} does not answer at the control socket {}; it may still open its data, or hang: try again, and end process {pid} if it never answers",
        path.display()
    )]
    Unanswered {
        /// Its pid, as the kernel or the journal names it.
        pid: u32,
        /// The control socket.
        path: PathBuf,
    },

    /// The last writer released the data directory at a clean stop: no successor takes it over.
    #[error("the last writer of {} was stopped and released it, so no successor may take it over; start the daemon instead of swapping it", .0.display())]
    Stopped(PathBuf),

    /// A file of this crate in the data directory is damaged (invariant 12).
    #[error(
        "{} is damaged ({why}), and was left as it is; make sure that no process serves its data directory, then call `{remedy}` on that directory",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        why: &'static str,
        /// The function that mends it.
        remedy: &'static str,
    },

    /// A process opened other data than the last writer sealed (invariant 11).
    #[error(
        "the data differs from the data that the last writer sealed: {0}; restore it, or accept it as it is: stop the daemon, remove .handoff.manifest from the data directory, and start it"
    )]
    Mismatch(#[from] Mismatch),

    /// This build does not open the data of the build before it. It has touched nothing.
    #[error("this build does not open the data of the build before it: {}{}", .0, accept(.0))]
    Schema(#[source] Mismatch),

    /// After this swap there would be no way back: the build that serves does not read the format
    /// of the new one.
    #[error(
        "this swap is one-way: the new build writes format {written}, and the build that serves reads {}, so that no swap and no start leads back to it, but only a restore of the data; the build that serves goes on. Back the data up first, where a way back matters; then allow the swap with `handoff swap --one-way` (and the same --binary, if one was named), or SpawnSpec::one_way",
        in_words(.reads)
    )]
    OneWay {
        /// The format of the new build.
        written: u32,
        /// Those that the build that serves reads, as far as it says.
        reads: RangeInclusive<u32>,
    },

    /// Another process has converted the data, and died before it served: this one has the old
    /// directory open ([`migration`](crate::migration)).
    #[error(
        "{} leads to {to:?}, where a process that is dead has converted the data of {opened:?}, which this process has open; start this build again: it opens the converted data",
        .link.display()
    )]
    Converted {
        /// The link to the directory in use.
        link: PathBuf,
        /// The directory that this process has open.
        opened: String,
        /// The directory in use.
        to: String,
    },

    /// A hook of a shard failed.
    #[error("a hook of shard {name:?} failed: {source}")]
    Shard {
        /// The shard's name in the data format.
        name: String,
        /// Its error.
        source: Box<Self>,
    },

    /// Two shards have one name, so that the data format cannot tell them apart.
    #[error(
        "two shards are named {name:?}; give the field of one another name with #[handoff(name = \"...\")]"
    )]
    DuplicateShard {
        /// The name.
        name: String,
    },

    /// There are more shards than the messages of a swap can name revisions of.
    #[error("a daemon may have {max} shards, and this one has {0}; let one shard hold several parts", max = MAX_SHARDS)]
    TooManyShards(usize),

    /// A hook of the daemon panicked; the panic was caught.
    #[error("the hook `{hook}` panicked: {message}")]
    HookPanicked {
        /// The hook's name: "drain", "seal", "resume_after_abort".
        hook: &'static str,
        /// The panic's message.
        message: String,
    },

    /// This process read bytes that are no frame.
    #[error("cannot read or write a frame: {0}")]
    Frame(#[from] FrameError),

    /// The two sides have no protocol version in common.
    #[error(
        "this process speaks the protocol versions {our_min} to {our_max} and its peer {their_min} to {their_max}, so they have none in common; upgrade the side with the lower ones first: a supervisor adopts its daemon afterwards, and a daemon has to be stopped and started, since no swap reaches it"
    )]
    VersionMismatch {
        /// Ours.
        our_min: ProtoVersion,
        /// Ours.
        our_max: ProtoVersion,
        /// The peer's.
        their_min: ProtoVersion,
        /// The peer's.
        their_max: ProtoVersion,
    },

    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    PeerMisbehaved(#[from] PeerMisbehaved),

    /// The peer closed the connection, or died.
    #[error(
        "the {peer} was lost while this process was {during}: it ended, closed its connection, fell silent, or sent bytes that are no message"
    )]
    PeerLost {
        /// "supervisor", "incumbent" or "successor".
        peer: &'static str,
        /// The step of this process: "waiting for its hello", "sealed".
        during: &'static str,
    },

    /// The peer refused the swap or gave it up, and sent its reason.
    #[error("the peer refused request {handoff_id}, or gave that swap up: {reason}")]
    Aborted {
        /// The swap.
        handoff_id: HandoffId,
        /// The peer's reason.
        reason: String,
    },

    /// The caller used an [`AbortHandle`](crate::supervisor::AbortHandle), with these words.
    #[error("the supervisor was asked to abort: {0}")]
    Requested(String),

    /// A timeout passed.
    #[error("timed out while {0}")]
    TimedOut(&'static str),

    /// A process that the supervisor started as a successor sent no hello in time.
    #[error(
        "the successor did not say hello in time and was ended; it has to run handoff::daemon::Daemon, or call handoff::successor::detect() and then greet(), before its slow start-up work"
    )]
    NoHello,

    /// The control socket's path cannot be used.
    #[error(transparent)]
    ControlSocket(#[from] ControlSocketError),

    /// An environment variable has an impossible value.
    #[error("environment variable {name}={value:?} {why}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// The fault.
        why: &'static str,
    },

    /// The listener that a caller asked for is missing, or is of another kind.
    #[error(transparent)]
    Listener(#[from] ListenerError),

    /// The supervisor could not start a successor.
    #[error(transparent)]
    Launch(#[from] LaunchError),

    /// Connections or memory could not be carried; the incumbent has them all (invariant 14).
    #[error(transparent)]
    Carry(#[from] CarryError),
}

impl Error {
    /// For `map_err`: the kernel's error, with the action and the path that it is about.
    /// An error of the daemon's own, of any type or a text: for a hook or a closure that returns
    /// [`Result`].
    ///
    /// ```
    /// # use handoff::Error;
    /// fn workers(of: &str) -> handoff::Result<u32> {
    ///     let count = of.parse()?; // the usual errors of std need no word
    ///     if count == 0 { Err(Error::other("no worker")) } else { Ok(count) }
    /// }
    /// assert_eq!(workers("0").expect_err("too few").to_string(), "no worker");
    /// let error = workers("x").expect_err("no number").to_string();
    /// assert_eq!(error, "invalid digit found in string");
    /// ```
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Io(std::io::Error::other(error))
    }

    pub(crate) fn at<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |error| Self::Path { action, path: path.to_owned(), source: error.into() }
    }
}

/// Errors that code beside the library meets, so that a hook and a closure of
/// [`Daemon::run`](crate::daemon::Daemon::run) may use `?`. For others there is [`Error::other`].
macro_rules! from_usual {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::other(error)
            }
        }
    )*};
}

from_usual!(
    Box<dyn std::error::Error + Send + Sync>,
    std::env::VarError,
    std::net::AddrParseError,
    std::num::ParseFloatError,
    std::num::ParseIntError,
    std::num::TryFromIntError,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
    std::time::SystemTimeError,
);
#[cfg(feature = "tokio")]
from_usual!(tokio::task::JoinError);

/// The holder of a lock; its record may name none.
fn accept(mismatch: &Mismatch) -> &'static str {
    match mismatch {
        Mismatch::Format { .. } => "",
        _ => {
            ". Where the data is right as it is: stop the daemon, remove .handoff.schema and .handoff.manifest from the data directory, and start this build"
        }
    }
}

fn of_the_data(field: Option<&str>) -> String {
    field.map_or("the data is ".to_owned(), |field| format!("the data of the field {field:?} is "))
}

fn in_words(reads: &RangeInclusive<u32>) -> String {
    match (reads.start(), reads.end()) {
        (first, last) if first == last => format!("format {first} alone"),
        (first, last) => format!("the formats {first} to {last}"),
    }
}

fn holder(pid: u32) -> String {
    match pid {
        0 => "a process that the owner record does not name".to_owned(),
        pid => format!("process {pid}"),
    }
}

/// The difference between the data that was opened and the data that was sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// This build does not open a shard that was sealed.
    #[error(
        "the last writer has the shard {name:?}, which this build does not open. Where it has another name now, the newer of the two builds declares #[handoff(was = {name:?})] on its field; where it is gone, #[handoff(retired({name:?}))] on the struct (of a shard of a collection, give the collection's name)"
    )]
    NotOpened {
        /// The shard.
        name: String,
    },
    /// This build opens a shard that was not sealed.
    #[error(
        "this build opens the shard {name:?}, which the last writer does not have. Where it had another name, the newer of the two builds declares #[handoff(was = \"...\")] with that on its field; where it is new, #[handoff(added)]"
    )]
    NotSealed {
        /// The shard.
        name: String,
    },
    /// A collection has more or fewer shards than were sealed.
    #[error(
        "the collection {field:?} has another size than with the last writer (the shard {name:?} is the first that only one of the two has). Where that is meant, the newer of the two builds declares #[handoff(resizable)] on its field"
    )]
    Resized {
        /// The field.
        field: String,
        /// The first shard that only one of the two has.
        name: String,
    },
    /// This build does not read the format of the data.
    #[error(
        "{}of format {found}, and this build reads {}: start a build that reads format {found}, or restore older data together with the .handoff.* files that lie beside it (fencing tokens may then repeat)",
        of_the_data(.field.as_deref()), in_words(.reads)
    )]
    Format {
        /// The field with a format of its own; none for that of the whole.
        field: Option<String>,
        /// The format of the data.
        found: u32,
        /// The formats that this build reads.
        reads: RangeInclusive<u32>,
    },
    /// A shard has another revision.
    #[error("shard {name:?} was sealed at revision {sealed} and opened at revision {opened}")]
    Revision {
        /// The shard.
        name: String,
        /// In the manifest.
        sealed: u64,
        /// Found.
        opened: u64,
    },
    /// A shard has other contents at the same revision.
    #[error("shard {name:?} was opened at its sealed revision {revision}, and with other contents")]
    Contents {
        /// The shard.
        name: String,
        /// The revision of both.
        revision: u64,
    },
}

/// Bytes that are no [`Checkpoint`](crate::drainable::Checkpoint).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no checkpoint of a digest, or a damaged one")]
pub struct NoCheckpoint;

impl From<NoCheckpoint> for Error {
    fn from(error: NoCheckpoint) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error).into()
    }
}

/// Bytes that are no frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// A length below the smallest possible frame.
    #[error("a length of {0} is below the smallest frame, 2")]
    TooShort(u32),
    /// A length above the maximum; this process read and allocated nothing for it.
    #[error("a length of {0} is above the limit, {limit}", limit = MAX_FRAME_LEN)]
    TooLong(u32),
    /// A length that a frame may have, but longer than any message that this peer has to send.
    #[error("a length of {length} is above that of any message for this process, {limit}")]
    TooLongForPeer {
        /// The value of the length field.
        length: u32,
        /// The maximum for this peer.
        limit: u32,
    },
    /// A version that this build does not speak.
    #[error("protocol version {0} is not one this build speaks")]
    Version(ProtoVersion),
    /// The payload is no message.
    #[error("the payload is no message: {0}")]
    Payload(String),
    /// Bytes follow the message in the payload.
    #[error("{0} bytes follow the message in its payload")]
    TrailingBytes(usize),
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum PeerMisbehaved {
    /// A message that this state does not admit.
    #[error("{message} is not admitted while {state}")]
    Unexpected {
        /// The message's name.
        message: &'static str,
        /// The state's name.
        state: &'static str,
    },
    /// A message of another swap.
    #[error("{message} names swap {got}, and swap {expected} was expected")]
    WrongHandoff {
        /// The message's name.
        message: &'static str,
        /// The swap in flight, or the one that the session is for.
        expected: HandoffId,
        /// The swap that the message names.
        got: HandoffId,
    },
    /// A hello with a pid that the kernel contradicts, or another process at the control socket.
    #[error("it is, or says that it is, process {said}, and process {expected} was expected")]
    WrongPid {
        /// In its hello; or as the kernel reports the process that answered.
        said: u32,
        /// As the kernel reports it; or the process that this one looked for.
        expected: u32,
    },
    /// A hello of the wrong side.
    #[error("it says that it is the {name}, which it cannot be here", name = .0.name())]
    WrongRole(Side),
    /// A process of another user.
    #[error("it runs as user {0}, which this process does not trust; run both as one user")]
    WrongUser(u32),
    /// The peer sends and does not read the answers.
    #[error("it does not read what it is sent")]
    DoesNotRead,
    /// The peer names listeners, and fewer descriptors arrived.
    #[error(
        "fewer descriptors arrived than it named; if this process has as many open files as it may, raise its limit (ulimit -n)"
    )]
    DescriptorsMissing,
    /// The peer sends more listeners than a process may be passed.
    #[error("it sent {0} listeners, and a process may be passed {max}", max = MAX_LISTENERS)]
    TooManyListeners(usize),
}

/// Why the control socket's path cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlSocketError {
    /// The path is longer than the kernel takes.
    #[error("the control socket's path {} has {len} bytes; the kernel takes {max}: choose a shorter one", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
        /// The maximum length in bytes.
        max: usize,
    },
    /// A process answers there.
    #[error("another process serves the control socket {path}; stop it (`ss -lxp | grep /.handoff-` lists the control sockets with their processes), or choose another path", path = .0.display())]
    InUse(PathBuf),
    /// A daemon serves there already.
    #[error("process {pid} serves the control socket {} already; adopt it with handoff::Supervisor::adopt instead of starting another", path.display())]
    Served {
        /// Its pid, as the kernel reports it.
        pid: u32,
        /// The path.
        path: PathBuf,
    },
    /// Something that is not a socket lies there.
    #[error("{} exists and is no socket; it was left alone: remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
}

/// Why an inherited listener cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// No listener of that name is left.
    #[error(
        "no listener named {name:?} is left; those that are: {available:?}. The supervisor, or the service manager, has to pass one of that name"
    )]
    Missing {
        /// The name that the caller asked for.
        name: String,
        /// The names of the listeners that are left.
        available: Vec<String>,
    },
    /// The next listener of that name is of another kind.
    #[error("the listener {name:?} is {found}, and this process takes {wanted} of that name")]
    WrongKind {
        /// The name that the caller asked for.
        name: String,
        /// Its kind.
        found: &'static str,
        /// The kind that the caller asked for.
        wanted: &'static str,
    },
}

/// Why a successor could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// There is no such file.
    #[error("the binary {} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is not a regular file.
    #[error("the binary {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Its mode does not let this process execute it.
    #[error("the binary {path} is not executable; set its mode: chmod +x {path}", path = .0.display())]
    NotExecutable(PathBuf),
    /// The kernel would not execute it.
    #[error("cannot execute {}: {source}", path.display())]
    Exec {
        /// The binary.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// It ended before it said hello.
    #[error("{} ended ({status}) before it said hello; its standard error says why", path.display())]
    ExitedEarly {
        /// The binary.
        path: PathBuf,
        /// Its exit status in words.
        status: String,
    },
    /// The name of a listener cannot be passed.
    #[error(
        "the listener name {0:?} cannot be passed: it may not contain ':' or control characters"
    )]
    ListenerName(String),
    /// The listeners need more descriptors than a process may have.
    #[error("{0} listeners are more than a process can inherit; pass fewer")]
    TooManyListeners(usize),
}
