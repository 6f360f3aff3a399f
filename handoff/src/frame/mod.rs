//! The form of a message on the wire.
//!
//! A frame is
//!
//! ```text
//! u32 LE   length of the rest, 2 ..= 1 MiB
//! u16 LE   protocol version
//! ...      the message: bincode 2, `config::standard()`, through serde
//! ```
//!
//! [`read_message`] and [`write_message`] serve any blocking stream. A [`FrameReader`] is for
//! streams that do not block: it keeps the bytes of a frame until the frame is whole.

mod codec;
mod reader;

pub use crate::terms::MAX_FRAME_LEN;
pub(crate) use codec::{encode, read_value, write_value};
pub use codec::{read_message, write_message};
pub use reader::FrameReader;
