//! Waiting for an [`Event`] that makes a condition true.
//!
//! A waiter looks before it listens, so that a condition that is true already costs no lock. It
//! looks once more when it listens, so that it misses no change in between.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Instant;

use crate::sys::sync::{Event, Listener};

/// Waits until `look` finds something; `event` tells when to look again. Runs on any executor.
///
/// It also looks whenever it is polled for another reason: the thread that makes the condition
/// true may be interrupted before it notifies `event`.
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

/// [`until`], for a thread: none if `look` found nothing until the deadline. Without a deadline
/// it waits for ever.
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
