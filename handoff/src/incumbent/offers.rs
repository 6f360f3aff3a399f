//! Successors that wait for carried connections and memory, until a swap begins.

use std::sync::Arc;

use rustix::event::PollFlags;
use tracing::field::display;

use crate::carry::{Carrier, SendingEnd, Source};
use crate::incumbent::hooks::Carrying;
use crate::log;
use crate::protocol::HandoffId;
use crate::sys::poll;

/// The successors that have asked.
#[derive(Debug, Default)]
pub(super) struct Offers(Vec<Asked>);

#[derive(Debug)]
struct Asked {
    handoff_id: HandoffId,
    pid: u32,
    channel: SendingEnd,
}

impl Offers {
    /// A process has at most one channel, and the oldest goes where there are many.
    pub(super) fn add(&mut self, handoff_id: HandoffId, pid: u32, channel: SendingEnd) {
        self.0.retain(|asked| asked.pid != pid);
        if self.0.len() >= MAX_ASKED {
            self.0.remove(0);
        }
        self.0.push(Asked { handoff_id, pid, channel });
    }

    /// The channels, to be polled for the end of the successor that asked.
    pub(super) fn channels(&self) -> impl Iterator<Item = &SendingEnd> {
        self.0.iter().map(|asked| &asked.channel)
    }

    /// Forgets the successors that are gone.
    pub(super) fn tidy(&mut self) {
        let is_gone =
            |asked: &Asked| poll::is_ready(&asked.channel, PollFlags::RDHUP).unwrap_or(true);
        self.0.retain(|asked| !is_gone(asked));
    }

    /// Whether the successor of a swap has asked.
    pub(super) fn are_for(&self, pid: u32) -> bool {
        self.0.iter().any(|asked| asked.pid == pid)
    }

    /// The carrier to the successor of that swap; none where it has not asked.
    pub(super) fn carrying_for<S: Source + 'static>(
        &mut self,
        handoff_id: Option<HandoffId>,
        pid: u32,
        source: &Arc<S>,
    ) -> Carrying {
        let is_it = |asked: &Asked| asked.pid == pid && Some(asked.handoff_id) == handoff_id;
        let Some(place) = self.0.iter().position(is_it) else { return Carrying::default() };
        let channel = self.0.remove(place).channel;
        let claim = channel.claim();
        match Carrier::start(Arc::clone(source), channel) {
            Ok(carrier) => Carrying::new(carrier, claim),
            Err(error) => {
                let swap = handoff_id.map(display);
                log::error!(
                    pid, swap, %error,
                    "this incumbent cannot start the thread of its carrier: the swap carries nothing, and is undone unless every set is empty or may be lost"
                );
                Carrying::default()
            }
        }
    }
}

/// There is one successor, unless a supervisor is replaced.
const MAX_ASKED: usize = 8;
