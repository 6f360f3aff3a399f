//! The errors of carrying connections and memory.

use std::io;

use crate::terms::MAX_SETS;

/// Why connections or memory could not be carried from the incumbent to the successor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarryError {
    /// The successor did not ask for the sets; its build may not know of carrying.
    #[error(
        "the successor did not ask for the set {set:?}; or the incumbent could not start its carrier, as its log says; swap to a build that carries it (a successor that goes step by step calls `fetch`), or stop and start the daemon: only the running build can let the set be lost, with `may_be_lost`"
    )]
    NotAskedFor {
        /// The set.
        set: String,
    },
    /// The successor has no set of that name.
    #[error(
        "the successor has no set {set:?}; give the field that name with #[handoff(carry, name = \"...\")] (a successor that goes step by step calls `hand_on`), or stop and start the daemon: only the running build can let the set be lost, with `may_be_lost`"
    )]
    NotTaken {
        /// The set, as the incumbent calls it.
        set: String,
    },
    /// The set that arrived under that name is of another kind.
    #[error(
        "the set {set:?} arrived as {arrived}, and this build declares it as {expected}; declare it as {arrived}, or let this build's set be lost with `may_be_lost`"
    )]
    WrongKind {
        /// The set.
        set: String,
        /// As the incumbent says.
        arrived: &'static str,
        /// In this build.
        expected: &'static str,
    },
    /// This build does not read the state's type or version.
    #[error(
        "the state of the set {set:?} is {arrived}, and this build reads {reads}; let this build read the other state with `from`, or let the set be lost with `may_be_lost`"
    )]
    Unreadable {
        /// The set.
        set: String,
        /// Type and version, as the incumbent says.
        arrived: String,
        /// The types and versions that this build reads.
        reads: String,
    },
    /// This build reads the state's type, but cannot decode its bytes.
    #[error("the state of {item:?} in the set {set:?} is damaged: {why}")]
    Damaged {
        /// The set.
        set: String,
        /// The connection, or the key of the memory.
        item: String,
        /// The codec's error.
        why: String,
    },
    /// The state cannot be encoded.
    #[error("the state of {item:?} in the set {set:?} cannot be encoded: {why}")]
    Unwritable {
        /// The set.
        set: String,
        /// The connection, or the key of the memory.
        item: String,
        /// The codec's error.
        why: String,
    },
    /// The kernel dropped descriptors on their way, since the successor may have no more.
    #[error(
        "descriptors were lost on their way to the successor, which has as many open files as it may; raise its limit (ulimit -n)"
    )]
    NoDescriptorsLeft,
    /// The incumbent cannot put a state into memory, or cannot make memory.
    #[error(
        "the incumbent cannot put the state of {item:?} in the set {set:?} into memory: {source}; if it has as many open files as it may, raise its limit (ulimit -n)"
    )]
    NoMemory {
        /// The set.
        set: String,
        /// The connection.
        item: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel takes no more descriptors of this user until a receiver takes some.
    #[error(
        "too many descriptors are on their way between processes of this user; raise the limit of open files (ulimit -n) of the incumbent"
    )]
    TooManyInFlight,
    /// The successor has closed the channel.
    #[error("the successor closed the channel for the carried sets; the successor's log says why")]
    Closed,
    /// Another number of descriptors arrived than the incumbent announced.
    #[error("the incumbent announced {expected} descriptors, and {arrived} arrived")]
    Descriptors {
        /// As the incumbent says.
        expected: usize,
        /// As the kernel counts them.
        arrived: usize,
    },
    /// Another number of connections or pieces of memory arrived than the incumbent counted.
    #[error("the incumbent sent {sent} items of the set {set:?}, and {arrived} arrived")]
    Count {
        /// The set.
        set: String,
        /// As the incumbent says.
        sent: u64,
        /// Here.
        arrived: u64,
    },
    /// Memory that the incumbent calls sealed can still change, or has another length.
    #[error(
        "the memory of {item:?} in the set {set:?} can still change, or is not as long as the incumbent said"
    )]
    NotSealed {
        /// The set.
        set: String,
        /// The connection, or the key of the memory.
        item: String,
    },
    /// A message on the channel is impossible or cut short, or the incumbent's sets have changed.
    #[error("the incumbent broke the protocol of the carried sets: {0}")]
    Channel(String),
    /// Two sets have one name.
    #[error(
        "two sets are named {set:?}; give one another name with #[handoff(carry, name = \"...\")]"
    )]
    DuplicateSet {
        /// The name.
        set: String,
    },
    /// The set has connections, and the state has no gate.
    #[error(
        "the set {set:?} carries connections, and the state has no gate, so that a drain would not keep new requests out; give the struct a field `#[handoff(gate)] gate: Gate` that each request passes, a new connection too"
    )]
    NoGate {
        /// The set.
        set: String,
    },
    /// The successor may not have as many files open as the incumbent carries connections.
    #[error(
        "the incumbent carries {carried} connections, and successor {successor_pid}, which has {open} files open, may have {max} (the incumbent may have {own_max}): start the supervisor with a larger limit (`ulimit -n`, or LimitNOFILE= of its unit), of {needed} at least"
    )]
    TooManyFiles {
        /// The connections that have a handler.
        carried: u64,
        /// The successor.
        successor_pid: u32,
        /// The files that the successor has open.
        open: u64,
        /// The limit of the successor's open files, `RLIMIT_NOFILE`.
        max: u64,
        /// The incumbent's own limit.
        own_max: u64,
        /// A limit that is large enough for the connections that are open now.
        needed: u64,
    },
    /// There are more sets than a daemon may have.
    #[error("a daemon may carry {max} sets, and this one has {0}", max = MAX_SETS)]
    TooManySets(usize),
    /// The swap was given up before the incumbent had sent everything.
    #[error("the swap was given up before the incumbent had sent every set")]
    GivenUp,
}
