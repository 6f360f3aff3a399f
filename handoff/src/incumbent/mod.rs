//! The old process: serving, then drained, then sealed, then gone, or serving again.

mod admit;
mod bind;
mod door;
mod handover;
mod hooks;
mod look;
mod offers;
mod quota;
mod room;
mod serve;
mod session;
mod sessions;
mod standing;
mod stop;

pub(crate) use admit::{Commit, First, OnCommit, Settling};
pub use bind::Incumbent;
pub(crate) use handover::{MAX_RETRY_PAUSE, RETRY_PAUSE};
#[cfg(test)]
pub(crate) use standing::Standing;
pub use stop::{Ended, StopHandle};
