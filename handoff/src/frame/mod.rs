//! How a message is put on the wire, and a control connection that carries frames.
//!
//! A frame is
//!
//! ```text
//! u32 LE   length of what follows, 2 ..= 1 MiB
//! u16 LE   protocol version
//! ...      the message: bincode 2, `config::standard()`, through serde
//! ```
//!
//! [`read_message`] and [`write_message`] serve any blocking stream. A [`FrameReader`] is for
//! streams with time-outs: what it has read of a frame stays with it.

mod codec;
mod link;
mod reader;

pub use codec::{MAX_FRAME_LEN, read_message, write_message};
pub(crate) use codec::{encode, read_value, write_value};
pub(crate) use link::{HEARTBEAT_INTERVAL, LIVENESS_LIMIT, Link, Lost, Pulse, Received};
pub use reader::FrameReader;
