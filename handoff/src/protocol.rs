//! What is said on a control connection, and in which versions.
//!
//! How a message is put on the wire is [`crate::frame`]'s matter; which message is admitted
//! when, the machines of the three roles know.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::error::{Error, Result};
pub use crate::terms::{
    Capabilities, HandoffId, MOST_LISTENERS, MOST_NAMED, MOST_SETS, MOST_SHARDS, NotAHandoffId,
    PROTO_MAX, PROTO_MIN, ProtoVersion, Side,
};

/// One message. The order of the variants is their discriminant on the wire: it is frozen,
/// and a new variant is appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
pub enum Message {
    /// The first message on a connection, from the process to the supervisor.
    Hello {
        /// What the process is.
        role: Side,
        /// Its pid, which the kernel is asked to confirm.
        pid: u32,
        /// The build it runs, as the daemon calls it; free bytes.
        build_id: Vec<u8>,
        /// The oldest version it speaks.
        proto_min: ProtoVersion,
        /// The newest version it speaks.
        proto_max: ProtoVersion,
        /// What else it can do.
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
        /// For whom the lock is reserved once it is released.
        successor_pid: u32,
        /// Milliseconds from receipt until the incumbent undoes everything by itself.
        deadline_ms: u64,
        /// Milliseconds that the drain may take.
        drain_grace_ms: u64,
    },
    /// Incumbent to supervisor: nothing is admitted any more.
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
    /// Incumbent to supervisor: a shard was sealed.
    SealProgress {
        /// So far.
        shards_sealed: u32,
        /// In all.
        shards_total: u32,
        /// Of the shard sealed last.
        last_revision: u64,
    },
    /// Incumbent to supervisor: everything is sealed and the lock is released.
    SealComplete {
        /// The swap.
        handoff_id: HandoffId,
        /// In declared order; at most [`MOST_SHARDS`].
        #[serde(deserialize_with = "bounded::list::<MOST_SHARDS, _, _>")]
        last_revision_per_shard: Vec<u64>,
        /// Over names, revisions and contents; zero where the daemon has none.
        data_dir_fingerprint: [u8; 32],
    },
    /// Incumbent to supervisor: drain or seal failed. It holds the lock and serves again.
    SealFailed {
        /// The swap.
        handoff_id: HandoffId,
        /// What failed.
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
        /// The names of the listeners that it took; at most [`MOST_LISTENERS`].
        #[serde(deserialize_with = "bounded::list::<MOST_LISTENERS, _, _>")]
        listening_on: Vec<String>,
        /// Whether its own check of its health passed.
        healthz_ok: bool,
        /// In declared order, as opened; at most [`MOST_SHARDS`].
        #[serde(deserialize_with = "bounded::list::<MOST_SHARDS, _, _>")]
        advertised_revision_per_shard: Vec<u64>,
    },
    /// Supervisor to successor: be the writer. Supervisor to incumbent: you have been replaced.
    Commit {
        /// The swap.
        handoff_id: HandoffId,
    },
    /// Either way: the swap is given up.
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
    /// Either way: still alive. The incumbent echoes one of the supervisor's, in order with
    /// all other messages.
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
    /// Successor to supervisor, before `Ready`: what it opened has this fingerprint.
    Verified {
        /// The swap.
        handoff_id: HandoffId,
        /// Over the same as that of `SealComplete`.
        data_dir_fingerprint: [u8; 32],
    },
    /// A supervisor that has lost its listeners, to the process that serves: give them back.
    Adopt {
        /// As in the `HelloAck` of this connection.
        handoff_id: HandoffId,
    },
    /// The process that serves to such a supervisor, with as many descriptors as names.
    Adopted {
        /// As in `Adopt`.
        handoff_id: HandoffId,
        /// In the owner record.
        generation: u64,
        /// The names of the listeners that come with this message, in the order in which they
        /// were passed.
        #[serde(deserialize_with = "bounded::list::<MOST_LISTENERS, _, _>")]
        listeners: Vec<String>,
        /// How many follow in further messages.
        left: u32,
    },
    /// Successor to incumbent, on a connection of its own: send what you carry. What is said
    /// on it from there on is [another vocabulary](crate::carry).
    Fetch {
        /// The swap, as in the `HelloAck` of this connection.
        handoff_id: HandoffId,
    },
    /// Incumbent to supervisor, before `Drained`: connections that did not reach a request
    /// boundary within the grace.
    Late {
        /// The swap.
        handoff_id: HandoffId,
        /// As the daemon calls them; at most [`MOST_NAMED`].
        #[serde(deserialize_with = "bounded::list::<MOST_NAMED, _, _>")]
        connections: Vec<String>,
        /// How many there are besides those that are named.
        unnamed: u32,
    },
    /// Successor to supervisor, before `Ready`: what it got from the incumbent.
    Carried {
        /// The swap.
        handoff_id: HandoffId,
        /// A line of the report each; at most [`MOST_SETS`].
        #[serde(deserialize_with = "bounded::list::<MOST_SETS, _, _>")]
        sets: Vec<CarriedSet>,
    },
    /// Incumbent to supervisor, about every second of a drain that takes longer than that: what
    /// is still open.
    Draining {
        /// The swap.
        handoff_id: HandoffId,
        /// Connections (or requests), by the daemon's own account.
        open_conns: u32,
        /// Of the connections that are carried, those that are not parked, as the daemon calls
        /// them; at most [`MOST_NAMED`].
        #[serde(deserialize_with = "bounded::list::<MOST_NAMED, _, _>")]
        connections: Vec<String>,
        /// How many of those there are besides.
        unnamed: u32,
    },
}

/// What became of one set of connections, or of memory, that was carried.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CarriedSet {
    /// As the incumbent calls it: the name of a field, unless that says otherwise.
    pub name: String,
    /// What it is a set of.
    pub kind: CarryKind,
    /// Connections, or pieces of memory, that arrived.
    pub count: u64,
    /// Of the states of connections, or of memory.
    pub bytes: u64,
    /// What the successor made of them.
    pub fate: CarryFate,
}

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CarryKind {
    /// Descriptors, each with a state of the daemon's.
    Connections,
    /// Sealed memory.
    Memory,
}

/// What a successor made of a set that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CarryFate {
    /// It has them.
    Taken,
    /// It has them, and read this older format.
    Converted {
        /// The type's name and version, as the incumbent wrote it.
        from: String,
    },
    /// It does without, as the daemon allows: connections are closed by the commit, and what
    /// was in memory is read from disk.
    Dropped {
        /// Why it could not have them.
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
            | Self::Draining { handoff_id, .. } => Some(*handoff_id),
            Self::Hello { .. }
            | Self::Drained { .. }
            | Self::SealProgress { .. }
            | Self::Heartbeat { .. } => None,
        }
    }
}

/// What an error says, at a length that fits into any message.
pub(crate) fn in_words(error: &Error) -> String {
    cut(error.to_string(), MOST_WORDS)
}

/// As much of a text as there is room for.
pub(crate) fn cut(mut words: String, most: usize) -> String {
    words.truncate(words.floor_char_boundary(most));
    words
}

const MOST_WORDS: usize = 4096;

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

/// Lists that are refused once they are too long, before they take memory.
pub(crate) mod bounded {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

    struct AtMost<T>(usize, PhantomData<T>);

    /// A list of no more than that many.
    pub(crate) fn list<'de, const MOST: usize, D: Deserializer<'de>, T: Deserialize<'de>>(
        list: D,
    ) -> Result<Vec<T>, D::Error> {
        list.deserialize_seq(AtMost(MOST, PhantomData))
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
