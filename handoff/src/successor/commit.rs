//! The commit point, and the steps around it.
//!
//! **The commit point is the write of the owner record, phase `Serving`, under the lock**
//! (invariant 7). Before it every doubt ends with the incumbent serving; after it the successor is
//! the writer, even if another one dies. The steps, in their order:
//!
//! 1. the successor says `Ready`, and reads `Commit`: [`Conversation::commit`]
//! 2. it writes the record: [`write_record`], the commit point itself
//! 3. it notes its format, and runs the daemon's own steps behind the commit point
//! 4. it admits work: [`Committed::admit`], where the daemon calls
//!    [`Incumbent::serve`](crate::Incumbent::serve)
//! 5. it takes the control socket's path over, and
//! 6. says `Serving`: [`announce`]
//! 7. it syncs the writes that the incumbent left unsynced: [`settle`]
//!
//! A process that has committed and cannot admit tries again. Until step 6 its supervisor may end
//! it; then the incumbent takes the lock and opens from disk (invariant 8). In a one-way swap the
//! incumbent could not read what this process writes from step 3 on. There the steps 5 and 6 come
//! before step 3, so that nobody ends the successor after that. The connection to the supervisor
//! ends behind step 4: a supervisor that allowed a one-way swap counts the pause until then.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::field::display;

use crate::carry::Rest;
use crate::datadir::{DataDirLock, Leaves};
use crate::drainable::Drainable;
use crate::error::Result;
use crate::fence::fenced;
use crate::incumbent::{Commit, First, MAX_RETRY_PAUSE, RETRY_PAUSE, Settling};
use crate::log;
use crate::machine::successor::{Event, State};
use crate::protocol::HandoffId;
use crate::successor::conversation::Conversation;
use crate::sys::socket::ControlSocket;

impl Conversation {
    /// Says that this process could serve, and returns once the owner record names it. This process
    /// writes the record as soon as it reads `Commit`, or once supervisor and incumbent are dead.
    ///
    /// # Errors
    ///
    /// The swap was given up, or this process cannot write the record: the incumbent serves. This
    /// process releases the lock, unless it keeps it until its end (invariant 1).
    pub(super) fn commit(
        mut self,
        lock: DataDirLock,
        opened: Event,
    ) -> Result<(Self, DataDirLock)> {
        self.holds(lock);
        self.step(opened)?;
        failpoint!(SuccessorSaidReady);
        self.wait_until(|state| matches!(state, State::Admitting(..)).then_some(()))?;
        let lock = self.gives_lock()?;
        Ok((self, lock))
    }
}

/// The commit point: writes the owner record, when the machine asks for it.
pub(super) fn write_record(lock: &mut DataDirLock, build_id: &[u8]) -> Result<u64> {
    try_failpoint!(SuccessorHeardCommit)?;
    lock.record_serving(build_id)?;
    failpoint!(SuccessorRecordedServing);
    Ok(lock.generation())
}

/// A successor after the commit point, before its first admission.
pub(super) struct Committed {
    conversation: Conversation,
    generation: u64,
    /// The claim on the carried connections and memory; none if none was offered.
    rest: Option<Rest>,
    /// The incumbent does not read what this process writes.
    is_one_way: bool,
}

impl Committed {
    pub(super) const fn new(
        conversation: Conversation,
        generation: u64,
        rest: Option<Rest>,
        is_one_way: bool,
    ) -> Self {
        Self { conversation, generation, rest, is_one_way }
    }
}

impl Commit for Committed {
    /// Admits before it tells the supervisor: a supervisor that is told may wake other processes,
    /// and the old process has much to put away. The first clients do not wait for any of that.
    fn admit(
        self: Box<Self>,
        socket: &mut ControlSocket,
        drainable: &Arc<dyn Drainable>,
        finish: First<'_>,
    ) -> Option<Settling> {
        let Self { mut conversation, generation, rest, is_one_way } = *self;
        let handoff_id = conversation.handoff_id;
        let mut is_announced = is_one_way;
        if is_one_way {
            announce(&mut conversation, generation, socket, Conversation::announce);
        }
        let mut announce = || {
            if !std::mem::replace(&mut is_announced, true) {
                let admitted = |conversation: &mut Conversation| conversation.step(Event::Admitted);
                announce(&mut conversation, generation, socket, admitted);
            }
        };
        let mut leaves = None;
        let finish = || {
            leaves = Some(finish()?);
            Ok(())
        };
        until_it_works("on_commit", ADMISSION_PATIENCE, &mut announce, finish);
        let admit = || {
            try_failpoint!(SuccessorAdmits)?;
            drainable.admit()
        };
        until_it_works("admit", ADMISSION_PATIENCE, &mut announce, admit);
        // Once: the first try decides the claim (invariant 13).
        let is_ours = rest.is_none_or(Rest::take_up);
        if !is_ours {
            log::error!(
                swap = handoff_id.map(display),
                generation,
                "the incumbent has taken the carried connections back: this successor drops its copies"
            );
        }
        let release = || release(&**drainable, is_ours);
        until_it_works("release", ADMISSION_PATIENCE, &mut announce, release);
        announce();
        // In a one-way swap that is news only to the machine.
        let _ = conversation.step(Event::Admitted);
        // Also where a child of this process has a copy.
        conversation.link.close();
        drop(conversation);
        let settling = settle(drainable, handoff_id, leaves);
        failpoint!(SuccessorServes);
        settling
    }
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// This process serves: it takes the control socket's path over, and says `Serving`. A
/// conversation that is dropped instead says `Abort`.
fn announce(
    conversation: &mut Conversation,
    generation: u64,
    socket: &mut ControlSocket,
    say: impl FnOnce(&mut Conversation) -> Result<()>,
) {
    let swap = conversation.handoff_id.map(display);
    if let Err(error) = socket.publish() {
        log::error!(
            swap, path = %socket.path().display(), %error,
            "this successor has committed, but cannot publish its control socket; supervisors cannot reach it until that succeeds: once it serves, it tries again every second"
        );
    }
    failpoint!(SuccessorTookPath);
    if let Err(error) = say(conversation) {
        log::warn!(swap, %error, "this successor has committed, but cannot tell its supervisor");
    }
    failpoint!(SuccessorSaidServing);
    log::info!(swap, generation, "this successor has committed");
}

/// Runs a hook until it works: this process is the writer. Until it says `Serving`, its supervisor
/// may end it in favour of the incumbent; after `patience` there may be none, and it says so.
fn until_it_works(
    hook: &'static str,
    patience: Duration,
    announce: &mut dyn FnMut(),
    mut run: impl FnMut() -> Result<()>,
) {
    let begun = Instant::now();
    let mut pause = RETRY_PAUSE;
    while let Err(error) = fenced(hook, &mut run) {
        log::error!(
            hook, %error,
            "a hook of this successor failed after the commit, and is repeated until it works: all clients wait for `on_commit` and `admit`, those of carried connections for `release`"
        );
        if begun.elapsed() >= patience {
            announce();
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(MAX_RETRY_PAUSE);
    }
}

/// Lets the handlers use the connections that arrived, since the incumbent can no longer take
/// them back; forgets them if the incumbent has.
#[expect(clippy::unnecessary_wraps, reason = "a hook is fenced, and those return what they say")]
fn release(drainable: &dyn Drainable, is_ours: bool) -> Result<()> {
    let carriage = drainable.carriage();
    if !is_ours {
        carriage.forget();
    }
    failpoint!(SuccessorTakesUp);
    carriage.release();
    Ok(())
}

/// While this process serves, a thread syncs the writes that the old process left unsynced
/// (invariant 2). The next drain waits for the thread, and fails if it failed.
fn settle(
    drainable: &Arc<dyn Drainable>,
    swap: Option<HandoffId>,
    leaves: Option<Leaves>,
) -> Option<Settling> {
    let drainable = Arc::clone(drainable);
    let settling = std::thread::Builder::new().name("handoff-settle".into()).spawn(move || {
        if let Some(leaves) = leaves {
            leaves.write();
        }
        let settled = fenced("settle", || drainable.settle());
        if let Err(error) = &settled {
            log::error!(
                swap = swap.map(display), %error,
                "the writes that the incumbent left unsynced are not durable yet: a crash of the machine can lose them, and the next swap or stop fails with this error"
            );
        }
        settled
    });
    settling
        .inspect_err(|error| {
            log::error!(
                swap = swap.map(display), %error,
                "the writes that the incumbent left unsynced are not durable yet: a crash of the machine can lose them; the next swap or stop syncs them"
            );
        })
        .ok()
}

/// Longer than most swaps take: in the meantime the supervisor decides.
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
