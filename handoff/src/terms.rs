//! The terms that messages and errors share: the side of a process, the name of a swap, and the
//! maxima of a message.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The maximum of a frame's length field.
pub const MAX_FRAME_LEN: u32 = 1 << 20;

/// A version of the protocol.
pub type ProtoVersion = u16;

/// The oldest version this build speaks.
pub const PROTO_MIN: ProtoVersion = 1;

/// The newest version this build speaks.
pub const PROTO_MAX: ProtoVersion = 1;

/// The maximum number of shards of which a message may carry the revisions. They fill as much
/// memory as a frame of the maximum length; a reader refuses more, however few bytes they take on
/// the wire.
pub const MAX_SHARDS: usize = 1 << 17;

/// The maximum number of listeners that a process may be passed.
pub const MAX_LISTENERS: usize = 1024;

/// The maximum number of connections that a message names; it counts the others.
pub const MAX_NAMED_CONNECTIONS: usize = 64;

/// The maximum number of sets that a daemon may carry.
pub const MAX_SETS: usize = 256;

/// The side of a swap that a process names in its
/// [`Message::Hello`](crate::protocol::Message::Hello).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The old process.
    Incumbent,
    /// The new process.
    Successor,
}

impl Side {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Incumbent => "incumbent",
            Self::Successor => "successor",
        }
    }
}

/// The name of one swap. The supervisor chooses it and sends it in
/// [`Message::HelloAck`](crate::protocol::Message::HelloAck).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HandoffId(Uuid);

impl HandoffId {
    /// A new random identifier.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default that differs at each call surprises")]
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }

    /// The identifier of 16 bytes, as it is on the wire and on disk.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for HandoffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads the text that [`Display`](fmt::Display) writes, among others.
impl FromStr for HandoffId {
    type Err = NotAHandoffId;

    fn from_str(text: &str) -> Result<Self, NotAHandoffId> {
        Uuid::parse_str(text).map(Self).map_err(|_| NotAHandoffId)
    }
}

/// The text is no [`HandoffId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a swap: it looks like 67e55044-10b1-426f-9247-bb680e5fe0c8")]
pub struct NotAHandoffId;

/// The abilities of a process beyond the version it speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Capabilities {
    /// Of an incumbent. Bit 0: it carries connections or memory; a successor may ask for them with
    /// [`Message::Fetch`](crate::protocol::Message::Fetch). Bit 1: it takes a
    /// [`Message::SealRequest`](crate::protocol::Message::SealRequest) while it drains, and seals
    /// after the drain. Bit 2: it takes a
    /// [`Message::WatchGate`](crate::protocol::Message::WatchGate). A sender sets all other bits to
    /// zero, and a reader ignores them.
    pub reserved: u64,
}

impl Capabilities {
    /// An incumbent with these carries connections or memory.
    pub(crate) const CARRIES: Self = Self { reserved: 1 };
    /// An incumbent with these remembers a `SealRequest` until it has drained.
    pub(crate) const SEALS_NEXT: Self = Self { reserved: 1 << 1 };
    /// An incumbent with these says when its gate closes, where it was asked to.
    pub(crate) const TELLS_OF_GATE: Self = Self { reserved: 1 << 2 };

    pub(crate) const fn and(self, other: Self) -> Self {
        Self { reserved: self.reserved | other.reserved }
    }

    pub(crate) const fn seals_next(self) -> bool {
        self.reserved & Self::SEALS_NEXT.reserved != 0
    }

    pub(crate) const fn tells_of_gate(self) -> bool {
        self.reserved & Self::TELLS_OF_GATE.reserved != 0
    }

    pub(crate) const fn carries(self) -> bool {
        self.reserved & Self::CARRIES.reserved != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another build has to find them where they are.
    #[test]
    fn the_bits_of_the_capabilities_are_frozen_and_others_are_ignored() {
        assert_eq!((Capabilities::CARRIES.reserved, Capabilities::SEALS_NEXT.reserved), (1, 2));
        assert_eq!(Capabilities::TELLS_OF_GATE.reserved, 4);
        let meanings = |reserved| {
            let capabilities = Capabilities { reserved };
            (capabilities.carries(), capabilities.seals_next(), capabilities.tells_of_gate())
        };
        assert_eq!(meanings(0), (false, false, false));
        assert_eq!(meanings(1), (true, false, false));
        assert_eq!(meanings(2), (false, true, false));
        assert_eq!(meanings(4), (false, false, true));
        assert_eq!(meanings(!7), (false, false, false));
        assert_eq!(meanings(u64::MAX), (true, true, true));
    }
}
