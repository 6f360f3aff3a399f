//! The adopter: a supervisor that resolves the swap of one that died.
//!
//! ```text
//!  Adopting -> Resolved    the successor serves, or the incumbent confirms that it does
//!           -> Confirming  the successor ended: the incumbent is asked
//!           -> Ending      the successor is hung, and killed -> (it ended) -> Confirming
//!  Confirming -> Resolved  the incumbent confirms that it serves, refuses, or is dead
//! ```
//!
//! Both processes decide without a supervisor. The adopter waits for their decision, and ends a
//! successor that makes none.

use crate::machine::outcome::Outcome;

/// How far the adopter has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// Both processes may live.
    Adopting,
    /// The adopter has killed the successor, which may still hold the lock.
    Ending,
    /// The successor is dead; the adopter asks the incumbent to serve and to confirm it.
    Confirming,
    Resolved(Outcome),
}

/// How far the adopter has come, and whether the incumbent may live.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    pub(crate) state: State,
    pub(crate) incumbent_is_dead: bool,
}

/// An event that the driver tells the adopter's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    IncumbentDied,
    /// The incumbent's connection is over, and the incumbent may live.
    IncumbentDisconnected,
    /// The incumbent echoed the value that was sent after `ResumeAfterAbort` (invariant 4).
    Echoed,
    /// The incumbent sent `Abort`: another swap is in flight, or it is being stopped.
    Refused,
    /// The successor has the control socket's path.
    SuccessorServes,
    SuccessorSilent,
    /// The successor is dead for certain: its lock is free.
    SuccessorEnded,
}

/// A task for the driver, which performs them in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    KillSuccessor,
    /// Send `ResumeAfterAbort` and then a heartbeat with a value of its own, as soon as the
    /// incumbent can be reached.
    AskIncumbent,
}

impl Machine {
    pub(crate) const fn new() -> Self {
        Self { state: State::Adopting, incumbent_is_dead: false }
    }

    /// One transition.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Effect> {
        use State::{Adopting, Confirming, Ending};
        self.incumbent_is_dead |= event == Event::IncumbentDied;
        match (self.state, event) {
            (Adopting, Event::SuccessorServes) => {
                self.enter(State::Resolved(Outcome::Committed), [])
            }
            (Adopting, Event::SuccessorSilent) => self.enter(Ending, [Effect::KillSuccessor]),
            (Adopting | Ending, Event::SuccessorEnded) if !self.incumbent_is_dead => {
                self.enter(Confirming, [Effect::AskIncumbent])
            }
            (Adopting | Ending, Event::SuccessorEnded) | (Confirming, Event::IncumbentDied) => {
                self.resolve(Outcome::Lost)
            }
            // In `Ending` too: an incumbent that echoes has the lock, whether or not the killed
            // successor has ended.
            (Adopting | Ending | Confirming, Event::Echoed) => self.resolve(Outcome::RolledBack),
            (Adopting | Ending | Confirming, Event::Refused) => self.resolve(Outcome::Unknown),
            (Adopting | Ending | Confirming, Event::IncumbentDisconnected) => {
                vec![Effect::AskIncumbent]
            }
            _ => Vec::new(),
        }
    }

    fn resolve(&mut self, outcome: Outcome) -> Vec<Effect> {
        self.enter(State::Resolved(outcome), [Effect::KillSuccessor])
    }

    fn enter(&mut self, state: State, effects: impl Into<Vec<Effect>>) -> Vec<Effect> {
        self.state = state;
        effects.into()
    }
}
