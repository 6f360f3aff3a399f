//! Waiting for an [`Event`] that makes a condition true.
//!
//! A waiter looks before it listens, so that a condition that is true already costs no lock. It
//! looks once more when it listens, so that it misses no change in between.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use crate::sys::sync::{Event, Listener};

/// Waits until `look` finds something; `event` tells when to look again. Runs on any executor.
///
/// It also looks whenever it is polled for another reason: the thread that makes the condition
/// true may be interrupted before it notifies `event`.
pub(crate) async fn until<T>(event: &Event, look: impl FnMut() -> Option<T>) -> T {
    poll_fn(polled(|| event.listen(), look)).await
}

/// [`until`], as a function to poll, also after it has found something: it looks again then.
pub(crate) fn polled<T, L: Future<Output = ()> + Unpin>(
    mut listen: impl FnMut() -> L,
    mut look: impl FnMut() -> Option<T>,
) -> impl FnMut(&mut Context<'_>) -> Poll<T> {
    let mut listener = None;
    move |context| loop {
        if let Some(found) = look() {
            return Poll::Ready(found);
        }
        let Some(listening) = &mut listener else {
            listener = Some(listen());
            continue;
        };
        ready!(Pin::new(listening).poll(context));
        listener = None;
    }
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
