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
    pub(super) previous: Option<Previous>,
    /// The binary to start if the next one does not come to serve; forgotten once a daemon serves.
    pub(super) alternative: Option<Arc<Binary>>,
    pub(super) restarts: Restarts,
    /// The binary that is started next, and when.
    pub(super) next_start: Option<(Instant, Arc<Binary>)>,
    /// Whether a daemon has served under this supervisor. Until then a failed start ends the
    /// supervisor, unless another binary can be started.
    pub(super) has_served: bool,
    /// The warning that the supervisor fell back to the previous binary, or tried to.
    pub(super) fell_back: Option<String>,
}

/// A binary that served before, and may serve again.
#[derive(Debug, Clone)]
pub(super) struct Previous {
    pub(super) binary: Arc<Binary>,
    /// Whether the swap from it was allowed to be one-way: it may not read the data any more.
    pub(super) one_way: bool,
}

impl Service {
    pub(super) fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    pub(super) fn party(&self) -> Option<Party> {
        self.daemon.as_ref().map(Daemon::party)
    }

    /// Whether another binary than this one can be started.
    pub(super) fn has_other_than(&self, binary: &Binary) -> bool {
        self.alternative.is_some() || self.other_than(binary).is_some()
    }

    /// The binary that served before, if it is another one than this.
    fn other_than(&self, binary: &Binary) -> Option<Previous> {
        self.previous.clone().filter(|previous| !previous.binary.is(binary))
    }

    /// This daemon serves from here on.
    pub(super) fn serve(&mut self, daemon: Daemon) {
        self.daemon = Some(daemon);
        self.has_served = true;
        self.alternative = None;
    }

    /// Decides the next start after a death, or after a start that failed.
    pub(super) fn plan_start(&mut self, binary: Arc<Binary>, served: Duration) {
        let fell_back_to =
            self.previous.as_ref().filter(|it| self.alternative.is_some() && it.binary.is(&binary));
        let next = match fell_back_to {
            // No second try: clients wait, and the data is most likely of another format.
            Some(Previous { one_way: true, .. }) => Next::FallBack,
            _ => self.restarts.on_death(served, self.has_other_than(&binary)),
        };
        match next {
            Next::Again(pause) => {
                let (path, in_ms) = (binary.path.display(), duration_ms(pause));
                tracing::info!(%path, in_ms, "this supervisor starts the daemon again after a pause");
                self.next_start = Some((Instant::now() + pause, binary));
            }
            Next::FallBack => match (self.alternative.take(), self.other_than(&binary)) {
                (Some(failing), _) => self.give_back_to(failing, &binary),
                (None, Some(previous)) => self.fall_back_to(previous, binary),
                (None, None) => {}
            },
        }
    }

    pub(super) fn fall_back_to(&mut self, previous: Previous, failing: Arc<Binary>) {
        let Previous { binary, one_way } = previous;
        let promise = if one_way {
            "; no way back was promised: if it does not read the data any more, the other one is started again"
        } else {
            ""
        };
        let (failed, instead) = (named(&failing), named(&binary));
        let words = format!(
            "{failed} kept dying, so {instead}, which served before, is started instead{promise}"
        );
        self.alternative = Some(failing);
        self.start_instead(binary, words);
    }

    /// The binary that the supervisor fell back to does not come to serve. It is not tried again, so
    /// that the two do not take turns.
    fn give_back_to(&mut self, failing: Arc<Binary>, previous: &Binary) {
        self.previous = None;
        let words = format!(
            "{}, which served before {}, does not come to serve: its own words in the log say why. {} is started again, and this supervisor does not fall back any more. {}",
            named(previous),
            named(&failing),
            failing.path.display(),
            what_is_left(previous)
        );
        self.start_instead(failing, words);
    }

    fn start_instead(&mut self, binary: Arc<Binary>, words: String) {
        tracing::error!("{words}");
        self.fell_back = Some(words);
        self.restarts.forget();
        self.next_start = Some((Instant::now(), binary));
    }

    /// A swap back is over. If the supervisor still has the binary for it, that swap did not commit.
    pub(super) fn stay(&mut self) {
        let Some(Previous { binary, one_way: true }) = &self.previous else { return };
        let words = format!(
            "the daemon failed its probation, and the swap back to {} was not made: no way back was promised. The daemon serves on as it is. {}",
            named(binary),
            what_is_left(binary)
        );
        tracing::error!("{words}");
        self.fell_back = Some(words);
    }

    /// The binary that is to be started now.
    pub(super) fn take_due_start(&mut self) -> Option<Arc<Binary>> {
        self.next_start.take_if(|(at, _)| *at <= Instant::now()).map(|(_, binary)| binary)
    }

    /// A swap to this binary has committed. The supervisor can go back to the binary that served
    /// until then, unless the swap undoes another one: that binary was not well.
    pub(super) fn replace(&mut self, binary: &Binary, one_way: bool, undoes: bool) {
        match self.daemon.take() {
            Some(_) if undoes => self.previous = None,
            Some(Daemon { binary: replaced, .. }) if !replaced.is(binary) => {
                self.previous = Some(Previous { binary: replaced, one_way });
            }
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
        let name = nix::sys::signal::Signal::try_from(signal).map_or("?", |known| known.as_str());
        match signals::is_handled(daemon.pid(), signal) {
            Ok(true) => {}
            Ok(false) => {
                return tracing::warn!(
                    pid = daemon.pid(),
                    signal = name,
                    "this supervisor does not forward a signal: the daemon does not handle it, and would die of it"
                );
            }
            Err(error) => {
                return tracing::warn!(
                    pid = daemon.pid(), signal = name, %error,
                    "this supervisor does not forward a signal: /proc does not tell whether the daemon handles it, and it would die of one that it does not handle; send it to the daemon itself"
                );
            }
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

/// A binary, for a person.
fn named(binary: &Binary) -> String {
    format!("{} (blake3 {:.16})", binary.path.display(), binary.blake3)
}

/// The ways out where the supervisor cannot go back to this binary.
fn what_is_left(previous: &Binary) -> String {
    format!(
        "Swap to a corrected build (handoff swap --binary PATH); or stop the daemon, restore the data from before the swap, with the .handoff files beside it, and start {}",
        previous.path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Program;

    fn binary(name: &str) -> Arc<Binary> {
        let path = std::env::current_exe().unwrap();
        let program =
            Program { path, args: vec![name.into()], blake3: None, listeners: Vec::new() };
        Arc::new(Binary::open(&program).unwrap())
    }

    /// The last of so many starts that fail is followed by one of the other binary, and no other is.
    fn fails_and_changes(service: &mut Service, from: &Arc<Binary>, to: &Arc<Binary>, times: u32) {
        for time in 1..=times {
            service.plan_start(Arc::clone(from), Duration::ZERO);
            let (_, next) = service.next_start.take().unwrap();
            assert!(next.is(if time == times { to } else { from }), "{time}");
        }
    }

    #[test]
    fn the_way_back_is_tried_once_where_none_was_promised_and_the_two_never_take_turns() {
        for (one_way, tries) in [(true, 1), (false, 3)] {
            let (old, new) = (binary("old"), binary("new"));
            let previous = Previous { binary: Arc::clone(&old), one_way };
            let mut service = Service { previous: Some(previous), ..Service::default() };
            fails_and_changes(&mut service, &new, &old, 3);
            fails_and_changes(&mut service, &old, &new, tries);
            fails_and_changes(&mut service, &new, &new, 100);
        }
    }

    #[test]
    fn after_a_one_way_swap_that_nobody_survived_the_new_build_is_started_where_the_old_one_fails()
    {
        let (old, new) = (binary("old"), binary("new"));
        let mut service = Service { alternative: Some(Arc::clone(&new)), ..Service::default() };
        fails_and_changes(&mut service, &old, &new, 3);
        fails_and_changes(&mut service, &new, &new, 100);
    }
}
