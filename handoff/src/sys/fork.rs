//! Descriptors that a forked child does not keep.
//!
//! A child that forks and does not exec shares the parent's locks and sockets: it would hold the
//! lock of a dead daemon, and its control socket would take connections that nobody answers.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

/// As long as this lives, a child that this process forks finds `/dev/null` in the place of the
/// descriptor. Drop it before the descriptor.
#[derive(Debug)]
pub(crate) struct NotInForks {
    slot: Option<usize>,
}

impl NotInForks {
    /// Where the table is full, or the kernel has no descriptor for `/dev/null`, a child keeps the
    /// descriptor.
    pub(crate) fn new(descriptor: impl AsFd) -> Self {
        if !is_prepared() {
            return Self { slot: None };
        }
        let descriptor = descriptor.as_fd().as_raw_fd();
        let slot = TABLE.iter().position(|slot| {
            slot.compare_exchange(NONE, descriptor, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        Self { slot }
    }
}

impl Drop for NotInForks {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            TABLE[slot].store(NONE, Ordering::Release);
        }
    }
}

/// Registers the handler, once.
fn is_prepared() -> bool {
    static NULL: OnceLock<Option<std::fs::File>> = OnceLock::new();
    let null = NULL.get_or_init(|| {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").ok()?;
        NULL_FD.store(null.as_raw_fd(), Ordering::Release);
        registers().then_some(null)
    });
    null.is_some()
}

#[expect(unsafe_code, reason = "no crate offers pthread_atfork")]
fn registers() -> bool {
    // SAFETY: the handler is a function without captures, which lives as long as the process.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) == 0 }
}

/// Runs in the child, where only async-signal-safe calls are allowed.
#[expect(
    unsafe_code,
    reason = "rustix's dup3 wants an owned descriptor, which a child does not have"
)]
extern "C" fn in_child() {
    let null = NULL_FD.load(Ordering::Acquire);
    for slot in &TABLE {
        let descriptor: RawFd = slot.load(Ordering::Acquire);
        if descriptor != NONE {
            // SAFETY: dup3 is async-signal-safe, and takes plain integers. The number stays one of
            // an open file, so the objects that own it in the child remain sound.
            unsafe { libc::dup3(null, descriptor, libc::O_CLOEXEC) };
            // The child's own children have descriptors of their own at that number.
            slot.store(NONE, Ordering::Release);
        }
    }
}

const NONE: RawFd = -1;
/// More than the connections to a control socket, and the few files beside them.
const SLOTS: usize = 512;
static TABLE: [AtomicI32; SLOTS] = [const { AtomicI32::new(NONE) }; SLOTS];
static NULL_FD: AtomicI32 = AtomicI32::new(NONE);

/// Makes a child that does not exec: it keeps what it has, does nothing, and ends after a while.
/// `is_told`: by `fork`, which runs the handlers; else by the bare system call. Returns its pid.
#[cfg(feature = "faults")]
#[expect(unsafe_code, reason = "a fork is unsafe")]
pub(crate) fn fork_and_linger(is_told: bool) -> std::io::Result<u32> {
    // SAFETY: the child calls async-signal-safe functions alone, and ends without destructors.
    unsafe {
        let pid = if is_told {
            i64::from(libc::fork())
        } else {
            libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)
        };
        match pid {
            0 => {
                libc::signal(libc::SIGALRM, libc::SIG_DFL);
                libc::alarm(LINGERS_SECONDS);
                loop {
                    libc::pause();
                }
            }
            pid => u32::try_from(pid).map_err(|_| std::io::Error::last_os_error()),
        }
    }
}

#[cfg(feature = "faults")]
const LINGERS_SECONDS: u32 = 60;
