//! Waiting for an [`Event`] that makes something so.
//!
//! Who waits looks before it listens, so that what is so already costs no lock, and once more when
//! it listens, so that what comes about in between is not missed.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Instant;

use event_listener::{Event, Listener};

/// Waits until `look` finds something; `event` tells when to look again. Runs on any executor.
///
/// It also looks whenever it is polled for another reason: whoever makes it so may be interrupted
/// before he has woken anybody.
pub(crate) async fn until<T>(event: &Event, mut look: impl FnMut() -> Option<T>) -> T {
    let mut listener = None;
    poll_fn(|context| {
        loop {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            let Some(listening) = &mut listener else {
                listener = Some(event.listen());
                continue;
            };
            ready!(Pin::new(listening).poll(context));
            listener = None;
        }
    })
    .await
}

/// [`until`], for a thread: none if there was none until the deadline. Without a deadline it waits
/// for ever.
pub(crate) fn blocking<T>(
    event: &Event,
    deadline: Option<Instant>,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    let mut listener = None;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        match (listener.take(), deadline) {
            (None, _) => listener = Some(event.listen()),
            (Some(listening), None) => listening.wait(),
            (Some(listening), Some(deadline)) => {
                if listening.wait_deadline(deadline).is_none() {
                    return look();
                }
            }
        }
    }
}
