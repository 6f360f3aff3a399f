//! The log of `handoff run`: a thread of its own writes it to standard error, so no step of the
//! supervisor waits for a reader or a disk.
//!
//! Lines wait in a queue with a maximum. Those that find it full, and those that standard error
//! does not take, are counted; the count is logged once standard error takes lines again.

use std::collections::VecDeque;
use std::io;
use std::panic::PanicHookInfo;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use rustix::event::{PollFd, PollFlags, poll};
use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::metrics;

/// Logs to standard error, and a panic of any thread as well, from here on.
pub(crate) fn install(config: LogConfig) {
    use std::io::IsTerminal;

    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // An error of the log itself would be printed to standard error, and panic where that fails.
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Queued)
        .log_internal_errors(false);
    match config.format {
        LogFormat::Human => {
            subscriber.with_ansi(io::stderr().is_terminal()).with_target(false).init();
        }
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    // The default hook writes to standard error itself, and may wait there for ever.
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string);
    let words = panic.payload_as_str().unwrap_or("no words");
    let thread = thread::current();
    tracing::error!(
        thread = thread.name(),
        at,
        error = words,
        "a thread of this supervisor panicked, which is a bug in handoff"
    );
}

/// Writes words that are no event, without waiting for them.
pub(crate) fn say(words: &str) {
    LOG.push(format!("{words}\n").into_bytes());
}

/// Waits until the lines of before have been written, or until the timeout.
pub(crate) fn flush(timeout: Duration) {
    let state = LOG.lock();
    let end = state.came;
    drop(LOG.done.wait_timeout_while(state, timeout, |state| state.done < end));
}

/// A warning with the number of lines that are dropped and not told yet.
pub(crate) fn fault() -> Option<String> {
    let Lost { lines, since } = LOG.lock().lost?;
    let seconds = since.elapsed().unwrap_or_default().as_secs();
    Some(format!(
        "standard error takes no lines of the log: {lines} were dropped in the last {seconds} s; look at its reader or its disk"
    ))
}

/// Where the subscriber writes each line.
struct Queued;

impl io::Write for Queued {
    /// The subscriber writes a line in one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Log {
    state: Mutex<State>,
    came: Condvar,
    done: Condvar,
}

struct State {
    lines: VecDeque<Vec<u8>>,
    /// Of all lines in the queue.
    bytes: usize,
    has_thread: bool,
    lost: Option<Lost>,
    /// Lines that came, and lines that were written or given up.
    came: u64,
    done: u64,
}

/// Lines that were dropped.
#[derive(Debug, Clone, Copy)]
struct Lost {
    lines: u64,
    since: SystemTime,
}

static LOG: Log = Log {
    state: Mutex::new(State {
        lines: VecDeque::new(),
        bytes: 0,
        has_thread: false,
        lost: None,
        came: 0,
        done: 0,
    }),
    came: Condvar::new(),
    done: Condvar::new(),
};

impl Log {
    fn push(&'static self, line: Vec<u8>) {
        let mut state = self.lock();
        if state.bytes + line.len() > MAX_BYTES {
            state.lose();
        } else {
            state.bytes += line.len();
            state.came += 1;
            state.lines.push_back(line);
        }
        // A thread that could not be started is tried again.
        let starts = !std::mem::replace(&mut state.has_thread, true);
        drop(state);
        self.came.notify_one();
        if starts {
            let started = thread::Builder::new().name("log".into()).spawn(|| self.write());
            self.lock().has_thread = started.is_ok();
        }
    }

    fn write(&self) {
        // A write from the background of a terminal may stop the process otherwise.
        let _ = SigSet::all().thread_block();
        let mut is_torn = false;
        loop {
            let line = self.next();
            let written = write_whole(&line, &mut is_torn);
            let mut state = self.lock();
            state.done += 1;
            if written.is_err() {
                state.lose();
            }
            // Once there is room, so that the count itself is not dropped.
            let is_roomy = written.is_ok() && state.bytes <= MAX_BYTES / 2;
            let lost = if is_roomy { state.lost.take() } else { None };
            drop(state);
            self.done.notify_all();
            if let Some(lost) = lost {
                lost.tell();
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let is_empty = |state: &mut State| state.lines.is_empty();
        let state = self.came.wait_while(self.lock(), is_empty);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let line = state.lines.pop_front().unwrap_or_default();
        state.bytes -= line.len();
        line
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lose(&mut self) {
        metrics::log_line_dropped();
        self.lost.get_or_insert_with(|| Lost { lines: 0, since: SystemTime::now() }).lines += 1;
    }
}

impl Lost {
    fn tell(self) {
        let Self { lines, since } = self;
        let since = humantime::format_rfc3339_millis(since).to_string();
        tracing::error!(
            lines,
            since,
            "lines of this log were dropped: standard error did not take them in time"
        );
    }
}

/// Writes all of a line, however long that takes.
fn write_whole(line: &[u8], is_torn: &mut bool) -> nix::Result<()> {
    let mut left = line;
    if *is_torn {
        write_some(b"\n")?;
        *is_torn = false;
    }
    while !left.is_empty() {
        match write_some(left) {
            Ok(written) => left = &left[written..],
            Err(errno) => {
                *is_torn = left.len() < line.len();
                return Err(errno);
            }
        }
    }
    Ok(())
}

fn write_some(bytes: &[u8]) -> nix::Result<usize> {
    loop {
        match nix::unistd::write(io::stderr(), bytes) {
            Ok(0) => return Err(Errno::EIO),
            Err(Errno::EINTR) => {}
            // Another process has set the flag on the same pipe.
            Err(Errno::EAGAIN) => {
                let _ = poll(&mut [PollFd::new(&io::stderr(), PollFlags::OUT)], None);
            }
            result => return result,
        }
    }
}

/// Thousands of lines.
const MAX_BYTES: usize = 1 << 20;
