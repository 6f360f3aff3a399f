//! The signals that ask a process to end.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

type Wish = Box<dyn Fn() + Send + Sync>;

/// Calls `wish` at each SIGTERM and SIGINT, in the handler of the signal: it may only do what such a
/// handler may, which is an atomic store and a write. A signal that the process already handles or
/// ignores is left alone, and a later call replaces the wish. A forked child has the default again.
#[expect(unsafe_code, reason = "std installs no handlers of signals")]
pub(crate) fn on_termination(wish: Wish) -> io::Result<()> {
    // A handler may run at any time from here on: what it was given is never freed.
    WISH.store(Box::into_raw(Box::new(wish)), Ordering::SeqCst);
    OWNER.store(std::process::id(), Ordering::SeqCst);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: `sigaction` is plain data, for which zero is a value; both pointers are to one of them,
        // or null.
        let result = unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &raw mut now) == 0
                && now.sa_sigaction == libc::SIG_DFL
            {
                let mut own: libc::sigaction = std::mem::zeroed();
                own.sa_sigaction = handle as *const () as libc::sighandler_t;
                own.sa_flags = libc::SA_RESTART;
                libc::sigemptyset(&raw mut own.sa_mask);
                libc::sigaction(signal, &raw const own, ptr::null_mut())
            } else {
                0
            }
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Gives the signals that this process handles so their default again: another one ends it at once.
#[expect(unsafe_code, reason = "std installs no handlers of signals")]
pub(crate) fn restore() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: as above.
        unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &raw mut now) == 0
                && now.sa_sigaction == handle as *const () as libc::sighandler_t
            {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

#[expect(unsafe_code, reason = "it is called by the kernel, at any time")]
extern "C" fn handle(signal: libc::c_int) {
    // SAFETY: `getpid`, `signal` and `raise` may be called in a handler. The wish was leaked before the
    // handler was installed, so that the pointer is valid for as long as the process lives.
    unsafe {
        // Not `std::process::id`, of which a handler may assume nothing.
        if libc::getpid().cast_unsigned() != OWNER.load(Ordering::SeqCst) {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
            return;
        }
        let errno = libc::__errno_location();
        let before = *errno;
        if let Some(wish) = WISH.load(Ordering::SeqCst).as_ref() {
            wish();
        }
        *errno = before;
    }
}

static WISH: AtomicPtr<Wish> = AtomicPtr::new(ptr::null_mut());
static OWNER: AtomicU32 = AtomicU32::new(0);
