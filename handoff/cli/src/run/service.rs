//! The service that the supervisor keeps up: the daemon, and the start that follows its death.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::daemon::Daemon;
use super::restarts::{Next, Restarts};
use super::signals;
use crate::binary::Binary;
use crate::record::Party;
use crate::units::duration_ms;

/// The daemon, the binary before it, and the next start.
#[derive(Default)]
pub(super) struct Service {
    /// The process that serves, as far as the supervisor knows.
    pub(super) daemon: Option<Daemon>,
    /// The binary that served before, and may serve again.
    pub(super) previous: Option<Arc<Binary>>,
    pub(super) restarts: Restarts,
    /// The binary that is started next, and when.
    pub(super) next_start: Option<(Instant, Arc<Binary>)>,
    /// Whether a daemon has served under this supervisor. Until then a failed start ends the
    /// supervisor, unless another binary can be started.
    pub(super) has_served: bool,
    /// The warning that the supervisor fell back to the previous binary.
    pub(super) fell_back: Option<String>,
}

impl Service {
    pub(super) fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    pub(super) fn party(&self) -> Option<Party> {
        self.daemon.as_ref().map(Daemon::party)
    }

    /// The binary that served before, if it is another one than this.
    pub(super) fn other_than(&self, binary: &Binary) -> Option<Arc<Binary>> {
        self.previous.clone().filter(|previous| !previous.is(binary))
    }

    /// Decides the next start after a death, or after a start that failed.
    pub(super) fn plan_start(&mut self, binary: Arc<Binary>, served: Duration) {
        let other = self.other_than(&binary);
        match self.restarts.on_death(served, other.is_some()) {
            Next::Again(pause) => {
                let (path, in_ms) = (binary.path.display(), duration_ms(pause));
                tracing::info!(%path, in_ms, "this supervisor starts the daemon again after a pause");
                self.next_start = Some((Instant::now() + pause, binary));
            }
            Next::FallBack => {
                if let Some(previous) = other {
                    self.fall_back_to(previous, &binary);
                }
            }
        }
    }

    pub(super) fn fall_back_to(&mut self, previous: Arc<Binary>, failing: &Binary) {
        let words = format!(
            "{} (blake3 {:.16}) kept dying, so {} (blake3 {:.16}), which served before, is started instead",
            failing.path.display(),
            failing.blake3,
            previous.path.display(),
            previous.blake3
        );
        tracing::error!("{words}");
        self.fell_back = Some(words);
        self.restarts.forget();
        self.next_start = Some((Instant::now(), previous));
    }

    /// The binary that is to be started now.
    pub(super) fn take_due_start(&mut self) -> Option<Arc<Binary>> {
        self.next_start.take_if(|(at, _)| *at <= Instant::now()).map(|(_, binary)| binary)
    }

    /// A swap to this binary has committed. The supervisor can go back to the binary that served
    /// until then, unless the swap undoes another one: that binary was not well.
    pub(super) fn replace(&mut self, binary: &Binary, undoes: bool) {
        match self.daemon.take() {
            Some(_) if undoes => self.previous = None,
            Some(replaced) if !replaced.binary.is(binary) => self.previous = Some(replaced.binary),
            _ => {}
        }
        self.restarts.forget();
        self.fell_back = None;
    }

    /// Passes a signal on, unless the daemon would die of it.
    pub(super) fn forward(&self, signal: i32) {
        let Some(daemon) = &self.daemon else {
            return tracing::warn!(
                signal,
                "this supervisor does not forward a signal: no daemon serves"
            );
        };
        if !signals::is_handled(daemon.pid(), signal) {
            let name =
                nix::sys::signal::Signal::try_from(signal).map_or("?", |known| known.as_str());
            return tracing::warn!(
                pid = daemon.pid(),
                signal = name,
                "this supervisor does not forward a signal: the daemon does not handle it, and would die of it"
            );
        }
        let Some(named) = Signal::from_named_raw(signal) else { return };
        match daemon.signal(named) {
            Ok(()) => {
                tracing::info!(
                    pid = daemon.pid(),
                    signal,
                    "this supervisor forwarded a signal to the daemon"
                );
            }
            Err(error) => tracing::error!(
                pid = daemon.pid(), signal, %error,
                "this supervisor cannot forward a signal to the daemon"
            ),
        }
    }
}
