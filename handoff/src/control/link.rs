//! A connection that two threads share, and the pulse that keeps it alive.
//!
//! A thread that waits for a message reads the socket itself, so that no other thread stands
//! between it and the frame. The [`Pulse`] sends heartbeats, and reads between the waits, so that
//! the peer still hears a busy process and the inbox of that process does not fill.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::PollFlags;

use crate::control::Heard;
use crate::control::connection::{Connection, Incoming, admits, encode_all, send_before};
use crate::error::{Error, FrameError, Result};
use crate::log;
use crate::protocol::{Message, ProtoVersion};
use crate::sys::poll::{self, Waker};

/// How often a live process sends a heartbeat.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// A peer that is silent for longer counts as hung.
pub(crate) const LIVENESS_TIMEOUT: Duration = Duration::from_secs(5);

/// One end of a control connection. Any thread may send; frames stay whole.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    /// [`NO_VERSION`] until both processes agreed on one.
    version: AtomicU16,
    /// The link delivers a heartbeat of this value alone; the others only count as signs of life.
    echo: AtomicU64,
    writer: Mutex<()>,
    inbox: Mutex<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    incoming: Incoming,
    queue: VecDeque<Message>,
    heard: Instant,
    /// The last read found nothing more: only then does it help to wait for the kernel.
    is_dry: bool,
    end: Option<End>,
}

#[derive(Debug)]
enum End {
    Closed,
    Broken(FrameError),
}

/// The result of one look at a link.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message),
    /// Nothing for now.
    Nothing,
    /// The peer closed, or died; every message that it sent before was delivered.
    Closed,
    /// The peer sent bytes that are no frame. Returned once; `Closed` afterwards.
    Broken(FrameError),
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self::of(Connection::new(stream))
    }

    /// Keeps the version that the connection agreed on, and the bytes that it has read.
    pub(crate) fn of(connection: Connection) -> Self {
        let (stream, incoming, version) = connection.into_parts();
        Self {
            stream,
            version: AtomicU16::new(version.unwrap_or(NO_VERSION)),
            echo: AtomicU64::new(NO_ECHO),
            writer: Mutex::new(()),
            inbox: Mutex::new(Inbox {
                incoming,
                queue: VecDeque::new(),
                heard: Instant::now(),
                is_dry: false,
                end: None,
            }),
        }
    }

    /// From here on frames carry `version`, and a frame with another one breaks the link.
    pub(crate) fn agree_on(&self, version: ProtoVersion) {
        self.version.store(version, Ordering::Relaxed);
    }

    /// Delivers a heartbeat of this value, and of no other.
    pub(crate) fn await_echo(&self, value: u64) {
        self.echo.store(value, Ordering::Relaxed);
    }

    /// Sends one frame whole. A peer that does not read for the liveness timeout loses the
    /// connection.
    pub(crate) fn send(&self, message: &Message) -> Result<()> {
        self.send_all(std::slice::from_ref(message))
    }

    /// [`send`](Self::send), of several: one write wakes the peer once.
    pub(crate) fn send_all(&self, messages: &[Message]) -> Result<()> {
        self.send_bytes(&encode_all(self.version(), messages)?)
    }

    /// Sends a heartbeat unless the peer's buffer is full.
    fn send_heartbeat(&self) -> Result<()> {
        let writable = poll::is_ready(self.stream.as_fd(), PollFlags::OUT)?;
        if writable { self.send(&Message::Heartbeat { ts_ms: epoch_ms() }) } else { Ok(()) }
    }

    fn version(&self) -> Option<ProtoVersion> {
        Some(self.version.load(Ordering::Relaxed)).filter(|version| *version != NO_VERSION)
    }

    fn send_bytes(&self, frames: &[u8]) -> Result<()> {
        let _whole = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if send_before(&self.stream, frames, Instant::now() + LIVENESS_TIMEOUT)? {
            return Ok(());
        }
        // Part of a frame may be sent: no other frame can follow it.
        self.close();
        Err(io::Error::from(io::ErrorKind::TimedOut).into())
    }

    /// Takes over the reading; the pulse does not read the link meanwhile.
    pub(crate) fn attend(&self) -> Attending<'_> {
        Attending { link: self, inbox: self.inbox.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Ends the connection in both directions, also for a thread that waits on it.
    pub(crate) fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The right to read a link.
#[derive(Debug)]
pub(crate) struct Attending<'a> {
    link: &'a Link,
    inbox: MutexGuard<'a, Inbox>,
}

impl Attending<'_> {
    /// The next message that has arrived, or the end. Never waits.
    pub(crate) fn next(&mut self) -> Received {
        if self.inbox.queue.is_empty() {
            self.inbox.pump(self.link);
        }
        if let Some(message) = self.inbox.queue.pop_front() {
            return Received::Message(message);
        }
        match self.inbox.end.take() {
            None => Received::Nothing,
            Some(End::Closed) => {
                self.inbox.end = Some(End::Closed);
                Received::Closed
            }
            Some(End::Broken(error)) => {
                self.inbox.end = Some(End::Closed);
                Received::Broken(error)
            }
        }
    }

    /// The next message, or the end, before `deadline`; `Nothing` if neither comes.
    pub(crate) fn wait(&mut self, deadline: Instant) -> Result<Received> {
        loop {
            match self.next() {
                Received::Nothing if Instant::now() < deadline => {}
                received => return Ok(received),
            }
            if self.inbox.is_dry
                && !poll::wait_for(self.link.as_fd(), PollFlags::IN, Some(deadline))?
            {
                return Ok(Received::Nothing);
            }
        }
    }

    /// Reads until the peer closes, or dies; whether it has done so by `deadline`.
    pub(crate) fn wait_closed(&mut self, deadline: Instant) -> bool {
        loop {
            match self.wait(deadline) {
                Ok(Received::Message(_) | Received::Broken(_)) => {}
                Ok(Received::Closed) | Err(_) => return true,
                Ok(Received::Nothing) if Instant::now() < deadline => {}
                Ok(Received::Nothing) => return false,
            }
        }
    }

    /// Whether [`next`](Self::next) may have something, though the kernel has nothing more.
    pub(crate) fn is_pending(&self) -> bool {
        !(self.inbox.queue.is_empty() && self.inbox.is_dry && self.inbox.end.is_none())
    }

    /// When the peer was last heard.
    pub(crate) fn heard(&self) -> Instant {
        self.inbox.heard
    }

    /// Refuses everything that the peer sends from now on. A message that was queued before is
    /// still read, and counts; a later message fails at its sender (invariant 7).
    pub(crate) fn shut_receiving(&mut self) {
        let _ = self.link.stream.shutdown(Shutdown::Read);
    }
}

impl Inbox {
    /// Reads without waiting, as far as the queue has room.
    fn pump(&mut self, link: &Link) {
        self.is_dry = false;
        // A peer that never stops sending does not stop the clock.
        for _ in 0..FRAMES_AT_ONCE {
            if self.end.is_some() || self.queue.len() >= MAX_QUEUED_MESSAGES {
                return;
            }
            match self.incoming.next(&link.stream) {
                Ok(Heard::Frame((version, message))) => self.take(link, version, message),
                Ok(Heard::Nothing) => {
                    self.is_dry = true;
                    return;
                }
                Err(Error::Frame(error)) => self.end = Some(End::Broken(error)),
                Ok(Heard::End) | Err(_) => self.end = Some(End::Closed),
            }
        }
    }

    fn loss(&self) -> Option<Lost> {
        match self.end {
            Some(_) => Some(Lost::Closed),
            None => (self.heard.elapsed() > LIVENESS_TIMEOUT).then_some(Lost::Silent),
        }
    }

    fn take(&mut self, link: &Link, version: ProtoVersion, message: Message) {
        if !admits(link.version(), version) {
            self.end = Some(End::Broken(FrameError::Version(version)));
            return;
        }
        self.heard = Instant::now();
        let only_a_sign_of_life = matches!(
            message,
            Message::Heartbeat { ts_ms } if ts_ms != link.echo.load(Ordering::Relaxed)
        );
        if !only_a_sign_of_life {
            log::trace!(message_name = message.name(), "received");
            self.queue.push_back(message);
        }
    }
}

/// How a peer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The link is over: the peer closed it, reading failed, or the peer broke the protocol.
    Closed,
    /// Silent past the liveness timeout.
    Silent,
}

/// A thread that sends heartbeats on some links, and reads them while no other thread attends to
/// them. Dropping this tells it to end, and does not wait for it: clients may be waiting.
#[derive(Debug)]
pub(crate) struct Pulse(Arc<Waker>);

impl Pulse {
    /// Beats until it is dropped, or `until`. It calls `on_lost` for a link that is lost while no
    /// other thread attends to it, and again at every beat until `on_lost` returns `true`.
    pub(crate) fn start(
        links: Vec<Arc<Link>>,
        until: Option<Instant>,
        on_lost: impl Fn(usize, Lost) -> bool + Send + 'static,
    ) -> Result<Self> {
        let waker = Arc::new(Waker::new()?);
        let stop = Arc::clone(&waker);
        std::thread::Builder::new()
            .name("handoff-pulse".into())
            .spawn(move || beat(&links, until, &stop, &on_lost))?;
        Ok(Self(waker))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.0.wake();
    }
}

fn beat(
    links: &[Arc<Link>],
    until: Option<Instant>,
    stop: &Waker,
    on_lost: &dyn Fn(usize, Lost) -> bool,
) {
    let mut lost = vec![false; links.len()];
    // Links that are known to be hung up: they do not wake this thread again before the next beat.
    let mut quiet = vec![false; links.len()];
    let mut next_beat = Instant::now() + HEARTBEAT_INTERVAL;
    while until.is_none_or(|until| Instant::now() < until) {
        let watched: Vec<_> = links
            .iter()
            .zip(&quiet)
            .filter(|(_, quiet)| !**quiet)
            .map(|(link, _)| (link.as_fd(), PollFlags::RDHUP))
            .collect();
        match poll::wait_with_waker(stop, &watched, next_beat) {
            Ok(false) => {}
            Ok(true) | Err(_) => return,
        }
        let beating = Instant::now() >= next_beat;
        if beating {
            next_beat = Instant::now() + HEARTBEAT_INTERVAL;
            quiet.clone_from(&lost);
        }
        for (index, link) in links.iter().enumerate().filter(|(index, _)| !quiet[*index]) {
            if beating {
                let _ = link.send_heartbeat();
            }
            // A thread that attends to the link learns of its end itself.
            let loss = link.inbox.try_lock().ok().and_then(|mut inbox| {
                inbox.pump(link);
                inbox.loss()
            });
            if let Some(loss) = loss {
                lost[index] = on_lost(index, loss);
            }
        }
        // Between two beats only links that have hung up wake this thread.
        if !beating {
            for (quiet, link) in quiet.iter_mut().zip(links) {
                *quiet |= poll::is_ready(link.as_fd(), PollFlags::RDHUP).unwrap_or(true);
            }
        }
    }
}

fn epoch_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

const NO_VERSION: ProtoVersion = 0;
const NO_ECHO: u64 = u64::MAX;
/// Messages that wait for their reader; beyond them the socket's buffer holds the peer back.
const MAX_QUEUED_MESSAGES: usize = 16;
const FRAMES_AT_ONCE: usize = 1024;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use super::*;
    use crate::frame::write_message;
    use crate::protocol::HandoffId;

    #[test]
    fn a_peer_that_never_stops_sending_does_not_stop_the_clock() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let link = Link::new(ours);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let mut stream = theirs.try_clone().expect("it can be cloned");
                scope.spawn(move || {
                    while write_message(&mut stream, 1, &Message::Heartbeat { ts_ms: 1 }).is_ok() {}
                });
            }
            let deadline = Instant::now() + Duration::from_millis(100);
            let received = link.attend().wait(deadline).expect("it can be polled");
            // Frames of four threads may be mixed up: then the link is broken, and not hung.
            assert!(matches!(received, Received::Nothing | Received::Broken(_)), "{received:?}");
            link.close();
        });
    }

    #[test]
    fn what_was_read_after_many_heartbeats_is_not_waited_for() {
        for heartbeats in FRAMES_AT_ONCE - 1..=FRAMES_AT_ONCE + 16 {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let link = Link::new(ours);
            let mut said = vec![Message::Heartbeat { ts_ms: 1 }; heartbeats];
            // Its length sets those after it off from the pieces that are read.
            said[0] = Message::Heartbeat { ts_ms: u64::MAX - 1 };
            said.push(Message::SealRequest { handoff_id: HandoffId::new() });
            let frames = encode_all(Some(1), &said).expect("they are short");
            (&theirs).write_all(&frames).expect("the kernel holds them");
            let deadline = Instant::now() + Duration::from_secs(30);
            let mut attending = link.attend();
            let received = attending.wait(deadline).expect("it can be polled");
            assert!(matches!(received, Received::Message(Message::SealRequest { .. })));
            assert!(matches!(attending.next(), Received::Nothing));
            assert!(!attending.is_pending(), "all of it was read");
        }
    }

    #[test]
    fn a_loss_is_told_until_it_is_acted_upon() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let link = Arc::new(Link::new(ours));
        let (told, telling) = mpsc::channel();
        drop(theirs);
        let _pulse =
            Pulse::start(vec![link], None, move |index, lost| told.send((index, lost)).is_err())
                .expect("a thread can be started");
        for _ in 0..2 {
            let loss = telling.recv_timeout(Duration::from_secs(30)).expect("it is told");
            assert_eq!(loss, (0, Lost::Closed));
        }
    }

    #[test]
    fn a_link_is_left_to_whoever_attends_to_it() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let link = Arc::new(Link::new(ours));
        let mut attending = link.attend();
        let links = vec![Arc::clone(&link)];
        let _pulse = Pulse::start(links, None, |_, _| panic!("it is attended to"))
            .expect("a thread can be started");
        write_message(&mut &theirs, 1, &Message::SealRequest { handoff_id: HandoffId::new() })
            .expect("it is read");
        drop(theirs);
        let deadline = Instant::now() + Duration::from_secs(30);
        let received = attending.wait(deadline).expect("it can be polled");
        assert!(matches!(received, Received::Message(Message::SealRequest { .. })));
        assert!(matches!(attending.wait(deadline), Ok(Received::Closed)));
    }
}
