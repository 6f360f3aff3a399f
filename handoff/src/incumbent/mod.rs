//! The old process: serving, then drained, then sealed, then gone, or serving again.

mod accept;
mod admit;
mod bind;
mod hooks;
mod look;
mod quota;
mod serve;
mod session;
mod standing;
mod swap;

pub(crate) use admit::{Commit, Settling};
pub use bind::{Ended, Incumbent, StopHandle};
#[cfg(test)]
pub(crate) use standing::{ROLLBACK_PATIENCE, Standing};
pub(crate) use swap::{MAX_RETRY_PAUSE, RETRY_PAUSE};
