//! The incumbent's end of a carry channel.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::carry::claim::Claim;
use crate::carry::set::{Carriage, Source};
use crate::carry::wire::{Note, WireSet};
use crate::control::{LIVENESS_TIMEOUT, send_some};
use crate::error::{CarryError, Error, PeerMisbehaved, Result};
use crate::fence::fenced;
use crate::frame::encode;
use crate::log;
use crate::protocol::PROTO_MIN;
use crate::sys::as_fd;
use crate::sys::poll::{self, Waker};

/// A connection to the successor of a swap that is about to begin.
#[derive(Debug)]
pub(crate) struct SendingEnd {
    stream: UnixStream,
    claim: Arc<Claim>,
    offered: Vec<WireSet>,
}

impl SendingEnd {
    /// Tells a successor which sets there are, without waiting: a peer that has read all earlier
    /// messages has room for the offer.
    pub(crate) fn open(stream: UnixStream, carriage: &Carriage<'_>) -> Result<Self> {
        let claim = Claim::new()?;
        let offered = carriage.words();
        let offer = encode(PROTO_MIN, &Note::Offer { sets: offered.clone() })?;
        if send_some(&stream, &offer, &[claim.as_fd()])? < offer.len() {
            return Err(PeerMisbehaved::DoesNotRead.into());
        }
        Ok(Self { stream, claim: Arc::new(claim), offered })
    }

    pub(crate) fn claim(&self) -> Arc<Claim> {
        Arc::clone(&self.claim)
    }

    /// Sends one frame; its descriptors go with the first byte.
    fn send(&self, note: &Note, descriptors: &[BorrowedFd<'_>], cancel: &Cancel) -> Result<()> {
        let frame = encode(PROTO_MIN, note)?;
        let (mut sent, mut last_sent) = (0, Instant::now());
        while sent < frame.len() {
            let descriptors = if sent == 0 { descriptors } else { &[] };
            match send_some(&self.stream, &frame[sent..], descriptors) {
                Ok(0) => cancel.wait_for(&self.stream, PollFlags::OUT, None)?,
                Ok(length) => (sent, last_sent) = (sent + length, Instant::now()),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::PIPE | Errno::CONNRESET) => return Err(CarryError::Closed.into()),
                    // So many descriptors are in flight that the kernel wants some to arrive first.
                    Some(Errno::TOOMANYREFS) => {
                        if last_sent.elapsed() >= LIVENESS_TIMEOUT {
                            return Err(CarryError::TooManyInFlight.into());
                        }
                        let pause = Instant::now() + IN_FLIGHT_PAUSE;
                        cancel.wait_for(&self.stream, PollFlags::empty(), Some(pause))?;
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(())
    }
}

as_fd!(SendingEnd, stream);

/// Ends a wait from another thread.
#[derive(Debug)]
pub(super) struct Cancel {
    is_cancelled: AtomicBool,
    waker: Waker,
}

impl Cancel {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { is_cancelled: AtomicBool::new(false), waker: Waker::new()? })
    }

    pub(super) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::SeqCst)
    }

    /// Waits until the stream is ready or the deadline has passed.
    pub(super) fn wait_for(
        &self,
        stream: &UnixStream,
        flags: PollFlags,
        deadline: Option<Instant>,
    ) -> Result<()> {
        let deadline = deadline.unwrap_or_else(|| Instant::now() + LONG);
        poll::wait_with_waker(&self.waker, &[(stream.as_fd(), flags)], deadline)?;
        if self.is_cancelled() { Err(CarryError::GivenUp.into()) } else { Ok(()) }
    }
}

/// Sends connections as they park, on a thread of its own, from the drain to the seal.
#[derive(Debug)]
pub(crate) struct Carrier {
    shared: Arc<Shared>,
    /// None once no thread is to wait for it.
    thread: Option<JoinHandle<Result<()>>>,
    handle: Thread,
}

#[derive(Debug)]
struct Shared {
    /// The shards are sealed: the thread that sealed them sends the rest, the carrier's no more.
    is_sealed: AtomicBool,
    cancel: Cancel,
    /// None once `finish` has taken it, or sending has failed.
    line: Mutex<Option<Line>>,
}

impl Shared {
    /// A thread that panicked with it may have sent half a frame: nothing can follow that.
    fn line(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(|poisoned| {
            let mut line = poisoned.into_inner();
            *line = None;
            line
        })
    }
}

/// The channel, and how many items of each set went over it.
#[derive(Debug)]
struct Line {
    channel: SendingEnd,
    sent: Vec<u64>,
}

/// Cuts a carrier short, from another thread.
#[derive(Debug, Clone)]
pub(crate) struct StopCarrier(Arc<Shared>, Thread);

impl StopCarrier {
    pub(crate) fn stop(&self) {
        self.0.cancel.cancel();
        self.1.unpark();
    }
}

impl Carrier {
    pub(crate) fn start<S: Source + 'static>(source: Arc<S>, channel: SendingEnd) -> Result<Self> {
        let line = Line { sent: vec![0; channel.offered.len()], channel };
        let (is_sealed, cancel) = (AtomicBool::new(false), Cancel::new()?);
        let shared = Arc::new(Shared { is_sealed, cancel, line: Mutex::new(Some(line)) });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("handoff-carrier".into()).spawn(move || {
                fenced("carry", || carry(&source.carries(), &shared)).inspect_err(|_| {
                    // The successor sees that nothing more comes.
                    shared.line().take();
                })
            })?
        };
        Ok(Self { shared, handle: thread.thread().clone(), thread: Some(thread) })
    }

    /// The thread to wake when enough connections have parked.
    pub(crate) const fn thread(&self) -> &Thread {
        &self.handle
    }

    pub(crate) fn stopper(&self) -> StopCarrier {
        StopCarrier(Arc::clone(&self.shared), self.handle.clone())
    }

    /// The error with which its thread has ended, if it has.
    pub(crate) fn failure(carrier: &mut Option<Self>) -> Result<()> {
        let has_ended =
            |carrier: &mut Self| carrier.thread.as_ref().is_none_or(JoinHandle::is_finished);
        carrier.take_if(has_ended).map_or(Ok(()), Self::end)
    }

    /// Everything is sealed: sends the rest on this thread, so that no other has to be woken while
    /// clients wait.
    pub(crate) fn finish(mut self, carriage: &Carriage<'_>) -> Result<()> {
        self.shared.is_sealed.store(true, Ordering::SeqCst);
        self.handle.unpark();
        let line = self.shared.line().take();
        let Some(mut line) = line else { return self.end() };
        self.thread = None;
        fenced("carry", || line.finish(carriage, &self.shared.cancel))
    }

    /// The swap is given up: nothing more is sent once this has returned.
    pub(crate) fn give_up(self) {
        self.stopper().stop();
        if let Err(error) = self.end() {
            log::debug!(%error, "the carrier was stopped");
        }
    }

    fn end(mut self) -> Result<()> {
        let ended = self.thread.take().map_or(Ok(Ok(())), JoinHandle::join);
        ended.unwrap_or_else(|_| {
            let message = "the thread panicked".to_owned();
            Err(Error::HookPanicked { hook: "carry", message })
        })
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stopper().stop();
        }
    }
}

impl Line {
    /// Sends full parcels before the seal, and everything after it.
    fn send(&mut self, carriage: &Carriage<'_>, is_sealed: bool, cancel: &Cancel) -> Result<()> {
        let Self { channel, sent } = self;
        if carriage.words() != channel.offered {
            let words = "the daemon has other sets than when the successor asked".to_owned();
            return Err(CarryError::Channel(words).into());
        }
        for ((set, sent), index) in carriage.sets().zip(sent).zip(0..) {
            loop {
                if cancel.is_cancelled() {
                    return Err(CarryError::GivenUp.into());
                }
                let more = set.send_next(is_sealed, &mut |format, items, descriptors| {
                    try_failpoint!(IncumbentCarries)?;
                    let count = items.len() as u64;
                    let parcel = Note::Parcel { set: index, format, items };
                    channel.send(&parcel, descriptors, cancel)?;
                    *sent += count;
                    Ok(())
                })?;
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, carriage: &Carriage<'_>, cancel: &Cancel) -> Result<()> {
        self.send(carriage, true, cancel)?;
        try_failpoint!(IncumbentCarried)?;
        let sent = std::mem::take(&mut self.sent);
        self.channel.send(&Note::End { sent }, &[], cancel)
    }
}

/// The carrier's thread: sends the connections that park before the seal.
fn carry(carriage: &Carriage<'_>, shared: &Shared) -> Result<()> {
    loop {
        {
            let mut place = shared.line();
            let Some(line) = place.as_mut() else { return Ok(()) };
            if shared.is_sealed.load(Ordering::SeqCst) {
                return Ok(());
            }
            if let Err(error) = line.send(carriage, false, &shared.cancel) {
                *place = None;
                return Err(error);
            }
        }
        // No code of the daemon runs between these looks and the park: on this thread it might use
        // up the wake-up that is meant for the carrier.
        if shared.cancel.is_cancelled() {
            return Err(CarryError::GivenUp.into());
        }
        if !shared.is_sealed.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}

const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
