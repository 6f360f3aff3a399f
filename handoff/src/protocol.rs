//! The messages on a control connection, and the choice of a version.
//!
//! [`crate::frame`] puts a message on the wire. The machines of the three roles decide which
//! message they admit in which state.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::error::{Error, Result};
pub use crate::terms::{
    Capabilities, HandoffId, MAX_LISTENERS, MAX_NAMED_CONNECTIONS, MAX_SETS, MAX_SHARDS,
    NotAHandoffId, PROTO_MAX, PROTO_MIN, ProtoVersion, Side,
};

/// One message. The order of the variants is their discriminant on the wire: it is frozen,
/// and a new variant is appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
pub enum Message {
    /// The first message on a connection, from the process to the supervisor.
    Hello {
        /// The role of the process.
        role: Side,
        /// Its pid. The supervisor compares it with the kernel's answer.
        pid: u32,
        /// The build it runs, as the daemon calls it; free bytes.
        build_id: Vec<u8>,
        /// The oldest version it speaks.
        proto_min: ProtoVersion,
        /// The newest version it speaks.
        proto_max: ProtoVersion,
        /// Its abilities beyond the version.
        capabilities: Capabilities,
    },
    /// The supervisor's answer: the version for the rest of the connection.
    HelloAck {
        /// The newest version that both speak.
        proto_version_chosen: ProtoVersion,
        /// The swap in which the process takes part.
        handoff_id: HandoffId,
    },
    /// Supervisor to incumbent: drain.
    PrepareHandoff {
        /// The swap.
        handoff_id: HandoffId,
        /// The process for which the incumbent reserves the lock when it releases it (invariant 9).
        successor_pid: u32,
        /// Milliseconds from receipt until the incumbent undoes everything by itself.
        deadline_ms: u64,
        /// Milliseconds that the drain may take.
        drain_grace_ms: u64,
    },
    /// Incumbent to supervisor: it admits no more work.
    Drained {
        /// Connections that did not end within the grace.
        open_conns_remaining: u32,
        /// Whether it stopped accepting.
        accept_closed: bool,
    },
    /// Supervisor to incumbent: seal.
    SealRequest {
        /// The swap.
        handoff_id: HandoffId,
    },
    /// Incumbent to supervisor: it sealed a shard.
    SealProgress {
        /// So far.
        shards_sealed: u32,
        /// In all.
        shards_total: u32,
        /// Of the shard sealed last.
        last_revision: u64,
    },
    /// Incumbent to supervisor: it sealed every shard and released the lock.
    SealComplete {
        /// The swap.
        handoff_id: HandoffId,
        /// In declared order; at most [`MAX_SHARDS`].
        #[serde(deserialize_with = "bounded::list::<MAX_SHARDS, _, _>")]
        last_revision_per_shard: Vec<u64>,
        /// Over names, revisions and contents; zero where the daemon has none.
        data_dir_fingerprint: [u8; 32],
    },
    /// Incumbent to supervisor: its drain or seal failed. It holds the lock and serves again.
    SealFailed {
        /// The swap.
        handoff_id: HandoffId,
        /// The failure.
        error: String,
        /// How far it got, in words.
        partial_state: String,
    },
    /// Supervisor to successor: take the lock, open, verify, and say `Ready`.
    Begin {
        /// The swap.
        handoff_id: HandoffId,
    },
    /// Successor to supervisor: it could serve, and waits for `Commit`.
    Ready {
        /// The swap.
        handoff_id: HandoffId,
        /// The names of the listeners that it took; at most [`MAX_LISTENERS`].
        #[serde(deserialize_with = "bounded::list::<MAX_LISTENERS, _, _>")]
        listening_on: Vec<String>,
        /// Whether its own check of its health passed.
        healthz_ok: bool,
        /// In declared order, as opened; at most [`MAX_SHARDS`].
        #[serde(deserialize_with = "bounded::list::<MAX_SHARDS, _, _>")]
        advertised_revision_per_shard: Vec<u64>,
    },
    /// Supervisor to successor: be the writer. Supervisor to incumbent: you have been replaced.
    Commit {
        /// The swap.
        handoff_id: HandoffId,
    },
    /// From any process: it gives the swap up.
    Abort {
        /// The swap.
        handoff_id: HandoffId,
        /// Why.
        reason: String,
    },
    /// Supervisor to incumbent: take the lock again and serve.
    ResumeAfterAbort {
        /// The swap.
        handoff_id: HandoffId,
    },
    /// From any process: it is alive. The incumbent echoes each of the supervisor's, in order
    /// with all other messages (invariant 4).
    Heartbeat {
        /// Milliseconds since the epoch, or a value of the sender's own.
        ts_ms: u64,
    },
    /// Successor to supervisor: the owner record names it, and it serves.
    Serving {
        /// The swap.
        handoff_id: HandoffId,
        /// The generation that the owner record now has.
        generation: u64,
    },
    /// Successor to supervisor: its slow start-up work is done.
    Warmed {
        /// The swap.
        handoff_id: HandoffId,
    },
    /// Successor to supervisor, before `Ready`: the fingerprint of the data that it opened.
    Verified {
        /// The swap.
        handoff_id: HandoffId,
        /// Over the same as that of `SealComplete`.
        data_dir_fingerprint: [u8; 32],
    },
    /// A supervisor without its listeners to the process that serves: give them back.
    Adopt {
        /// As in the `HelloAck` of this connection.
        handoff_id: HandoffId,
    },
    /// The process that serves to such a supervisor, with a descriptor for each name.
    Adopted {
        /// As in `Adopt`.
        handoff_id: HandoffId,
        /// In the owner record.
        generation: u64,
        /// The names of the listeners that come with this message, in the order in which they
        /// were passed.
        #[serde(deserialize_with = "bounded::list::<MAX_LISTENERS, _, _>")]
        listeners: Vec<String>,
        /// How many follow in further messages.
        left: u32,
    },
    /// Successor to incumbent, on a connection of its own: send the connections and the memory
    /// that you carry. From there on both use [other messages](crate::carry) on it.
    Fetch {
        /// The swap, as in the `HelloAck` of this connection.
        handoff_id: HandoffId,
    },
    /// Incumbent to supervisor, before `Drained`: connections that did not reach a request
    /// boundary within the grace.
    Late {
        /// The swap.
        handoff_id: HandoffId,
        /// As the daemon calls them; at most [`MAX_NAMED_CONNECTIONS`].
        #[serde(deserialize_with = "bounded::list::<MAX_NAMED_CONNECTIONS, _, _>")]
        connections: Vec<String>,
        /// How many more there are.
        unnamed: u32,
    },
    /// Successor to supervisor, before `Ready`: the sets that arrived from the incumbent.
    Carried {
        /// The swap.
        handoff_id: HandoffId,
        /// A line of the report each; at most [`MAX_SETS`].
        #[serde(deserialize_with = "bounded::list::<MAX_SETS, _, _>")]
        sets: Vec<CarriedSet>,
    },
    /// Incumbent to supervisor, about once a second while a drain goes on: the connections or
    /// requests that are still open.
    Draining {
        /// The swap.
        handoff_id: HandoffId,
        /// Connections (or requests), by the daemon's own account.
        open_conns: u32,
        /// The carried connections that no handler has parked, as the daemon calls them; at most
        /// [`MAX_NAMED_CONNECTIONS`].
        #[serde(deserialize_with = "bounded::list::<MAX_NAMED_CONNECTIONS, _, _>")]
        connections: Vec<String>,
        /// How many more of those there are.
        unnamed: u32,
    },
    /// Supervisor to incumbent, before `PrepareHandoff`: say `GateClosed` in that swap.
    WatchGate {
        /// The swap.
        handoff_id: HandoffId,
    },
    /// Incumbent to supervisor, before `Drained`, where it was asked to: it closes its gate, and
    /// clients wait from here on.
    GateClosed {
        /// The swap.
        handoff_id: HandoffId,
    },
}

/// One set of connections, or of memory, as the successor received it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CarriedSet {
    /// The incumbent's name for it: the name of a field, unless its attribute names another.
    pub name: String,
    /// The kind of its items.
    pub kind: CarryKind,
    /// Connections, or pieces of memory, that arrived.
    pub count: u64,
    /// Of the states of connections, or of memory.
    pub bytes: u64,
    /// The successor's use of them.
    pub fate: CarryFate,
}

/// The kind of a set that is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CarryKind {
    /// Descriptors, each with a state that the daemon defines.
    Connections,
    /// Sealed memory.
    Memory,
}

/// The use that a successor made of a set that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CarryFate {
    /// It took the items.
    Taken,
    /// It took the items, and read their state in this older format.
    Converted {
        /// The type's name and version, as the incumbent wrote it.
        from: String,
    },
    /// It took none, as the daemon allows: the commit closes the connections, and the daemon
    /// reads from disk instead of from memory.
    Dropped {
        /// Why it could not take them.
        why: String,
    },
}

impl Message {
    /// The variant's name, for logs and errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }

    /// The swap that the message names, if it names one.
    #[must_use]
    pub const fn handoff_id(&self) -> Option<HandoffId> {
        match self {
            Self::HelloAck { handoff_id, .. }
            | Self::PrepareHandoff { handoff_id, .. }
            | Self::SealRequest { handoff_id }
            | Self::SealComplete { handoff_id, .. }
            | Self::SealFailed { handoff_id, .. }
            | Self::Begin { handoff_id }
            | Self::Ready { handoff_id, .. }
            | Self::Commit { handoff_id }
            | Self::Abort { handoff_id, .. }
            | Self::ResumeAfterAbort { handoff_id }
            | Self::Serving { handoff_id, .. }
            | Self::Warmed { handoff_id }
            | Self::Verified { handoff_id, .. }
            | Self::Adopt { handoff_id }
            | Self::Adopted { handoff_id, .. }
            | Self::Fetch { handoff_id }
            | Self::Late { handoff_id, .. }
            | Self::Carried { handoff_id, .. }
            | Self::Draining { handoff_id, .. }
            | Self::WatchGate { handoff_id }
            | Self::GateClosed { handoff_id } => Some(*handoff_id),
            Self::Hello { .. }
            | Self::Drained { .. }
            | Self::SealProgress { .. }
            | Self::Heartbeat { .. } => None,
        }
    }
}

/// The text of an error, cut to a length that fits into any message.
pub(crate) fn in_words(error: &Error) -> String {
    cut(error.to_string(), MAX_TEXT_LEN)
}

/// The beginning of a text, of at most `max_len` bytes.
pub(crate) fn cut(mut words: String, max_len: usize) -> String {
    words.truncate(words.floor_char_boundary(max_len));
    words
}

const MAX_TEXT_LEN: usize = 4096;

/// The newest version that two ranges have in common. A range is inclusive at both ends.
///
/// # Errors
///
/// [`Error::VersionMismatch`] when they have none, also when a range is empty.
pub fn negotiate_version(
    our_min: ProtoVersion,
    our_max: ProtoVersion,
    their_min: ProtoVersion,
    their_max: ProtoVersion,
) -> Result<ProtoVersion> {
    let lowest = our_min.max(their_min);
    let highest = our_max.min(their_max);
    if lowest > highest {
        return Err(Error::VersionMismatch { our_min, our_max, their_min, their_max });
    }
    Ok(highest)
}

/// Refuses a list that is too long, before it takes more memory (invariant 6).
pub(crate) mod bounded {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

    struct AtMost<T>(usize, PhantomData<T>);

    /// A list of at most `MAX` elements.
    pub(crate) fn list<'de, const MAX: usize, D: Deserializer<'de>, T: Deserialize<'de>>(
        list: D,
    ) -> Result<Vec<T>, D::Error> {
        list.deserialize_seq(AtMost(MAX, PhantomData))
    }

    impl<'de, T: Deserialize<'de>> Visitor<'de> for AtMost<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {}", self.0)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = list.next_element()? {
                if elements.len() == self.0 {
                    return Err(A::Error::invalid_length(self.0 + 1, &self));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_chosen() {
        assert_eq!(negotiate_version(1, 3, 2, 5).ok(), Some(3));
        assert_eq!(negotiate_version(1, 5, 3, 4).ok(), Some(4));
        assert_eq!(negotiate_version(1, 1, 1, 1).ok(), Some(1));
    }

    #[test]
    fn disjoint_and_empty_ranges_have_none() {
        for (theirs, ours) in [((2, 2), (1, 1)), ((1, 1), (2, 3)), ((3, 1), (1, 3))] {
            assert!(matches!(
                negotiate_version(ours.0, ours.1, theirs.0, theirs.1),
                Err(Error::VersionMismatch { .. })
            ));
        }
    }
}
