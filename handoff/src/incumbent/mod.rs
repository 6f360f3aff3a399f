//! The old process: serving, then drained, then sealed, then gone, or serving again.

mod bind;
mod hooks;
mod serve;
mod session;

pub(crate) use bind::bind_hidden;
pub use bind::{Ended, Incumbent, StopHandle};
