//! How a message is put on the wire.
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
//! streams that do not block: what it was given of a frame stays with it.

mod codec;
mod reader;

pub use crate::terms::MAX_FRAME_LEN;
pub(crate) use codec::{encode, read_value, write_value};
pub use codec::{read_message, write_message};
pub use reader::FrameReader;
