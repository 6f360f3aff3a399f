//! The messages to the service manager (`sd_notify(3)`). A thread of its own sends them: a manager
//! that reads none keeps no daemon from being started. It sends nothing that it was not told.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, discriminant};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::time::{ClockId, clock_gettime};

/// The variables that a service manager sets for the supervisor, and for no process of its.
pub(crate) const OWN_VARIABLES: [&str; 4] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE"];

/// A message.
#[derive(Debug)]
pub(crate) enum News {
    /// A daemon serves, or a reload is over, in these words.
    Ready(String),
    /// A reload begins.
    Reloading { monotonic_us: u64 },
    /// The supervisor stops, in these words.
    Stopping(String),
    /// A change, in these words.
    Status(String),
    /// The loop of the supervisor goes on.
    Alive,
    /// The supervisor is at work, and asks for that much time from now on.
    Busy(Duration),
    /// A socket for the manager to keep, and to pass to the next supervisor.
    Keep { name: String, socket: OwnedFd },
    /// The manager is to forget the sockets of that name.
    Forget { name: String },
}

impl News {
    /// A reload that begins now.
    pub(crate) fn reloading() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        Self::Reloading { monotonic_us: u64::try_from(us).unwrap_or(0) }
    }

    fn text(&self) -> String {
        match self {
            Self::Ready(words) => format!("READY=1\nSTATUS={}\n", line(words)),
            Self::Reloading { monotonic_us } => {
                format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}\n")
            }
            Self::Stopping(words) => format!("STOPPING=1\nSTATUS={}\n", line(words)),
            Self::Status(words) => format!("STATUS={}\n", line(words)),
            Self::Alive => "WATCHDOG=1\n".to_owned(),
            Self::Busy(time) => format!("EXTEND_TIMEOUT_USEC={}\n", time.as_micros()),
            // Without FDPOLL=0 the manager would drop a socket at an error that waits in it.
            Self::Keep { name, .. } => format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"),
            Self::Forget { name } => format!("FDSTOREREMOVE=1\nFDNAME={name}\n"),
        }
    }
}

/// Whether the manager takes that name: of 255 visible characters of ASCII at most, and no colon.
fn is_name(name: &str) -> bool {
    let is_taken = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && byte != b':';
    !name.is_empty() && name.len() <= 255 && name.bytes().all(is_taken)
}

/// One line, of a length that a manager takes.
fn line(words: &str) -> String {
    let mut line = String::new();
    for character in words.chars() {
        if line.len() > MAX_WORDS {
            let _ = line.write_str("...");
            break;
        }
        line.push(if character.is_control() { ' ' } else { character });
    }
    line
}

/// Whether there is a service manager.
pub(crate) fn is_heard() -> bool {
    OUTBOX.is_some()
}

/// Whether the service manager says that it keeps sockets for the next supervisor.
pub(crate) fn keeps_sockets() -> bool {
    let most = env::var("FDSTORE").ok().and_then(|most| most.parse::<u32>().ok());
    is_heard() && most.is_some_and(|most| most > 0)
}

/// Has the service manager keep a socket, if it does such a thing. It keeps one that it has already
/// once.
pub(crate) fn keep(name: &str, socket: impl AsFd) {
    if !keeps_sockets() {
        return;
    }
    if !is_name(name) {
        return tracing::warn!(
            name,
            "the service manager does not keep this listener: its name has characters beyond ASCII, or more than 255"
        );
    }
    match socket.as_fd().try_clone_to_owned() {
        Ok(socket) => tell(News::Keep { name: name.to_owned(), socket }),
        Err(error) => {
            tracing::warn!(name, %error, "the service manager does not keep this listener");
        }
    }
}

/// Has the service manager forget the sockets of that name.
pub(crate) fn forget(name: &str) {
    if keeps_sockets() && is_name(name) {
        tell(News::Forget { name: name.to_owned() });
    }
}

/// Tells the service manager, if there is one. Of news of one kind that it has not read it gets the
/// last alone, but for sockets.
pub(crate) fn tell(news: News) {
    let Some(outbox) = &*OUTBOX else { return };
    let mut waiting = outbox.lock();
    if !matches!(news, News::Keep { .. } | News::Forget { .. }) {
        waiting.news.retain(|earlier| discriminant(earlier) != discriminant(&news));
    }
    waiting.news.push_back(news);
    drop(waiting);
    outbox.changed.notify_all();
}

/// Waits until the manager has got everything, or until the timeout.
pub(crate) fn flush(timeout: Duration) {
    let Some(outbox) = &*OUTBOX else { return };
    let is_left = |waiting: &mut Waiting| waiting.is_sending || !waiting.news.is_empty();
    drop(outbox.changed.wait_timeout_while(outbox.lock(), timeout, is_left));
}

/// Tells the service manager, if there is one, at once which process the unit is.
pub(crate) fn tell_main_process(pid: u32) -> io::Result<()> {
    let manager = env::var_os("NOTIFY_SOCKET");
    manager.map_or(Ok(()), |manager| send(&manager, &format!("MAINPID={pid}\n"), None))
}

/// The news on their way.
#[derive(Default)]
struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    news: VecDeque<News>,
    is_sending: bool,
}

static OUTBOX: LazyLock<Option<Outbox>> = LazyLock::new(|| {
    env::var_os("NOTIFY_SOCKET")?;
    thread::Builder::new().name("notify".into()).spawn(send_all).ok()?;
    Some(Outbox::default())
});

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> News {
        let mut waiting = self.lock();
        loop {
            waiting.is_sending = false;
            if let Some(news) = waiting.news.pop_front() {
                waiting.is_sending = true;
                return news;
            }
            self.changed.notify_all();
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn send_all() {
    let (Some(outbox), Some(manager)) = (&*OUTBOX, env::var_os("NOTIFY_SOCKET")) else { return };
    let mut has_failed = false;
    loop {
        let news = outbox.next();
        let socket = match &news {
            News::Keep { socket, .. } => Some(socket),
            _ => None,
        };
        let sent = send(&manager, &news.text(), socket);
        if let Some(error) = sent.as_ref().err().filter(|_| !has_failed) {
            tracing::warn!(%error, path = %manager.display(), "this supervisor cannot tell the service manager its state, and goes on trying");
        }
        has_failed = sent.is_err();
    }
}

/// Sends one datagram, and a socket with it.
fn send(manager: &OsStr, text: &str, socket: Option<&OwnedFd>) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    match manager.as_bytes().strip_prefix(b"@") {
        Some(name) => sender.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => sender.connect(manager)?,
    }
    let sockets: Vec<_> = socket.iter().map(|socket| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&sockets));
    }
    sendmsg(&sender, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Of the words of a message, in bytes: a manager reads 4096 at most.
const MAX_WORDS: usize = 1500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_line_that_a_manager_takes() {
        let said = News::Status("first\nREADY=1\n".into()).text();
        assert_eq!(said, "STATUS=first READY=1 \n");
        let said = News::Ready("ß".repeat(10_000)).text();
        assert!(said.len() < 2000 && said.ends_with("ß...\n"), "{}", said.len());
    }

    #[test]
    fn names_are_those_that_a_manager_takes() {
        let long = "n".repeat(255);
        for good in ["resp", "my service", long.as_str()] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a:b", "a\tb", "käse", "\u{7f}", &format!("{long}n")] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("handoff-notify-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let heard = [UnixDatagram::bind(&path), UnixDatagram::bind_addr(&abstract_name)];
        for (at, heard) in [path.into(), format!("@{name}").into()].into_iter().zip(heard) {
            let at: std::ffi::OsString = at;
            send(&at, "WATCHDOG=1\n", None).unwrap();
            let mut said = [0; 64];
            let length = heard.unwrap().recv(&mut said).unwrap();
            assert_eq!(&said[..length], b"WATCHDOG=1\n");
        }
    }
}
