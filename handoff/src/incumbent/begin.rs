//! The first admission: at a cold start, and behind a commit, where others wait for it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::carry::Rest;
use crate::drainable::Drainable;
use crate::drainable::fence::fenced;
use crate::error::Result;
use crate::incumbent::bind::Announcement;
use crate::incumbent::swap::{LONGEST_RETRY_PAUSE, RETRY_PAUSE};
use crate::sys::socket::ControlSocket;

/// The settling behind a commit, until the next drain.
pub(super) type Settling = JoinHandle<Result<()>>;

/// Admits. One that fails says so.
pub(super) fn at_a_cold_start(drainable: &impl Drainable) -> Result<()> {
    fenced("admit", || drainable.admit())?;
    fenced("release", || release(drainable, true))?;
    pass!(ColdStartServes);
    Ok(())
}

/// Admits, and then says so: whoever is told of it may wake others, and the old process has much to
/// put away. All of that comes behind the first clients.
pub(super) fn behind_a_commit<D: Drainable + 'static>(
    socket: &mut ControlSocket,
    drainable: &Arc<D>,
    rest: Option<Rest>,
    mut announcement: Option<Announcement>,
) -> Option<Settling> {
    let mut announce = || announce(socket, &mut announcement);
    let admit = || {
        reach!(SuccessorAdmits)?;
        drainable.admit()
    };
    until_it_works("admit", ADMISSION_PATIENCE, &mut announce, admit);
    // Once: it is decided by the first try.
    let is_ours = rest.is_none_or(Rest::take_up);
    if !is_ours {
        tracing::error!("the incumbent has taken its connections back");
    }
    let release = || release(&**drainable, is_ours);
    until_it_works("release", ADMISSION_PATIENCE, &mut announce, release);
    announce();
    let settling = settle(drainable);
    pass!(SuccessorServes);
    settling
}

/// This process serves: it takes the control socket's path over, and says so.
fn announce(socket: &mut ControlSocket, announcement: &mut Option<Announcement>) {
    let Some(announcement) = announcement.take() else { return };
    if let Err(error) = socket.publish() {
        tracing::error!(%error, "the control socket's path could not be taken over yet");
    }
    pass!(SuccessorTookPath);
    announcement.say();
}

/// After a commit this process is the writer. Until it has been announced its supervisor may
/// still end it, for another process that can serve; past `patience` there may be none, and it is
/// announced as it is.
fn until_it_works(
    hook: &'static str,
    patience: Duration,
    announce: &mut dyn FnMut(),
    mut run: impl FnMut() -> Result<()>,
) {
    let begun = Instant::now();
    let mut pause = RETRY_PAUSE;
    while let Err(error) = fenced(hook, &mut run) {
        tracing::error!(hook, %error, "it does not work yet");
        if begun.elapsed() >= patience {
            announce();
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_RETRY_PAUSE);
    }
}

/// What arrived may be used, once it can no longer be taken back.
#[expect(clippy::unnecessary_wraps, reason = "a hook is fenced, and those return what they say")]
fn release(drainable: &impl Drainable, is_ours: bool) -> Result<()> {
    let carriage = drainable.carriage();
    if !is_ours {
        carriage.forget();
    }
    pass!(SuccessorTakesUp);
    carriage.release();
    Ok(())
}

/// Behind the commit, while everybody is served: what the old process had written and not synced is
/// made durable by this one. The next drain waits for it, and fails with it.
fn settle<D: Drainable + 'static>(drainable: &Arc<D>) -> Option<Settling> {
    let drainable = Arc::clone(drainable);
    let settling = std::thread::Builder::new().name("handoff-settle".into()).spawn(move || {
        let settled = fenced("settle", || drainable.settle());
        if let Err(error) = &settled {
            tracing::error!(%error, "what was taken over is not durable yet");
        }
        settled
    });
    settling
        .inspect_err(|error| tracing::error!(%error, "what was taken over is not durable yet"))
        .ok()
}

/// Longer than most swaps may take, whose supervisor decides meanwhile.
const ADMISSION_PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_admit_for_long_is_announced_all_the_same() {
        for (patience, expected) in [(Duration::ZERO, 2), (Duration::from_secs(3600), 0)] {
            let (mut tries, mut announced) = (0, 0);
            until_it_works("admit", patience, &mut || announced += 1, || {
                tries += 1;
                assert!(tries != 1, "a panic is no end");
                let error = || std::io::Error::other("not yet").into();
                if tries < 3 { Err(error()) } else { Ok(()) }
            });
            assert_eq!((tries, announced), (3, expected));
        }
    }
}
