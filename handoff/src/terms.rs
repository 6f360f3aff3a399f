//! The terms that messages and errors have in common: who a process is, which swap is meant, and
//! how much may be said.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest that a frame's length field may say.
pub const MAX_FRAME_LEN: u32 = 1 << 20;

/// A version of the protocol.
pub type ProtoVersion = u16;

/// The oldest version this build speaks.
pub const PROTO_MIN: ProtoVersion = 1;

/// The newest version this build speaks.
pub const PROTO_MAX: ProtoVersion = 1;

/// The most shards whose revisions a message may carry: more than fill a frame's worth of
/// memory are refused, whatever few bytes they take on the wire.
pub const MOST_SHARDS: usize = 1 << 17;

/// The most listeners that a process may be passed.
pub const MOST_LISTENERS: usize = 1024;

/// The most connections that are named in a message; the others are counted.
pub const MOST_NAMED: usize = 64;

/// The most sets that a daemon may carry.
pub const MOST_SETS: usize = 256;

/// Which side of a swap a process says it is, in its [`Message::Hello`](crate::protocol::Message::Hello).
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

/// The name of one swap. The supervisor makes it up and says it in [`Message::HelloAck`](crate::protocol::Message::HelloAck).
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

/// What [`Display`](fmt::Display) shows.
impl FromStr for HandoffId {
    type Err = NotAHandoffId;

    fn from_str(text: &str) -> Result<Self, NotAHandoffId> {
        Uuid::parse_str(text).map(Self).map_err(|_| NotAHandoffId)
    }
}

/// The text is no [`HandoffId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a handoff: it looks like 67e55044-10b1-426f-9247-bb680e5fe0c8")]
pub struct NotAHandoffId;

/// What a process can do beyond the version it speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Capabilities {
    /// Of an incumbent. Bit 0: it carries connections or memory, and may be asked for them with
    /// [`Message::Fetch`](crate::protocol::Message::Fetch). Bit 1: a [`Message::SealRequest`](crate::protocol::Message::SealRequest) may be sent to it while it drains, and
    /// the seal follows then. The others are sent as zero and ignored when read.
    pub reserved: u64,
}

impl Capabilities {
    /// Those of an incumbent that carries something.
    pub(crate) const CARRIES: Self = Self { reserved: 1 };
    /// Those of an incumbent that keeps a seal in mind.
    pub(crate) const SEALS_NEXT: Self = Self { reserved: 1 << 1 };

    pub(crate) const fn and(self, other: Self) -> Self {
        Self { reserved: self.reserved | other.reserved }
    }

    pub(crate) const fn seals_next(self) -> bool {
        self.reserved & Self::SEALS_NEXT.reserved != 0
    }

    pub(crate) const fn carries(self) -> bool {
        self.reserved & Self::CARRIES.reserved != 0
    }
}
