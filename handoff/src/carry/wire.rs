//! The frames that the incumbent sends to the successor on a carry channel.
//!
//! ```text
//! Offer   the sets, with the claim's descriptor, at once after `Fetch`
//! Parcel  up to 253 descriptors of one set, and the states that go with them; any number
//! End     how many there were of each set, once the shards are sealed
//! ```
//!
//! Frames are those of [`crate::frame`]. Descriptors come with the first byte of the frame that
//! counts them.

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::carry::format::Format;
use crate::protocol::{CarryKind, MAX_SETS, bounded};
use crate::sys::rights::MAX_DESCRIPTORS;

/// One frame. The order of the variants is frozen, as that of the messages is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Note {
    /// With one descriptor, the claim's.
    Offer {
        #[serde(deserialize_with = "bounded::list::<MAX_SETS, _, _>")]
        sets: Vec<WireSet>,
    },
    Parcel {
        /// In the order of the offer.
        set: u32,
        /// Of all states in it; none for memory of plain bytes.
        format: Option<Format>,
        #[serde(deserialize_with = "bounded::list::<MAX_DESCRIPTORS, _, _>")]
        items: Vec<WireItem>,
    },
    End {
        /// In the order of the offer.
        #[serde(deserialize_with = "bounded::list::<MAX_SETS, _, _>")]
        sent: Vec<u64>,
    },
}

/// A set, as the incumbent has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireSet {
    pub(crate) name: String,
    pub(crate) kind: CarryKind,
    /// Whether a successor that has no set of that name may do without.
    pub(crate) may_be_lost: bool,
}

/// A connection with its state, or a piece of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireItem {
    /// The daemon's name for the connection, or the memory's key.
    pub(crate) name: String,
    pub(crate) state: WireState,
}

/// Where a state is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireState {
    /// Here. One descriptor comes, the connection's.
    Inline(Bytes),
    /// In memory, being too long for the frame. The memory's descriptor follows the connection's.
    Apart { length: u64 },
    /// It is memory: its descriptor is the only one.
    Memory { length: u64 },
}

impl WireState {
    /// How many descriptors come with it.
    pub(crate) const fn descriptors(&self) -> usize {
        match self {
            Self::Inline(_) | Self::Memory { .. } => 1,
            Self::Apart { .. } => 2,
        }
    }
}

/// Bytes as one piece; serde takes a plain vector for a list of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Owned;
        impl Visitor<'_> for Owned {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_byte_buf(Owned)
    }
}

impl CarryKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Memory => "memory",
        }
    }
}

/// States up to this length go with the frame, longer ones in memory of their own.
pub(crate) const MAX_INLINE_LEN: usize = 16 << 10;
/// A parcel takes no more items once its names and states have more bytes than this.
pub(crate) const PARCEL_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests;
