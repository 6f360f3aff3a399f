//! Which process may use the connections that were sent: the successor, or the incumbent again.
//! One word that both processes map decides it, once (invariant 13).

use std::io;
use std::os::fd::OwnedFd;

use crate::guard::{Guard, stands};
use crate::sys::as_fd;
use crate::sys::memory::{Mapped, Word};
use crate::sys::sync::AtomicU32;

/// Shared by the incumbent and the successor of one swap.
#[derive(Debug)]
pub(crate) struct Claim<M = Mapped>(Word<M>);

/// The state of the claim, by its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Held {
    /// Both processes have the connections, and neither uses them.
    Parked,
    /// The successor serves.
    TakenUp,
    /// The incumbent serves again.
    TakenBack,
}

#[cfg(test)]
impl Held {
    /// Whether a process that finds the claim so may take it. The model asks this; [`Word::claim`]
    /// looks and takes at once.
    pub(crate) fn is_free(self) -> bool {
        self == Self::Parked || !stands(Guard::OneReader)
    }
}

impl Claim {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Word::new()?))
    }

    /// The claim that the incumbent has made; an error where the descriptor is not a claim's.
    pub(crate) fn of(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self(Word::map(descriptor)?))
    }
}

impl<M: AsRef<AtomicU32>> Claim<M> {
    /// The incumbent takes the connections back, to serve again. `false` when the successor has
    /// taken them up before, and may have read from them. May be called again.
    pub(crate) fn take_back(&self) -> bool {
        matches!(self.0.claim(BACK), Ok(()) | Err(BACK)) || !stands(Guard::OneReader)
    }

    /// The successor takes the connections up; `false` when the incumbent has taken them back.
    pub(crate) fn take_up(&self) -> bool {
        self.0.claim(UP).is_ok() || !stands(Guard::OneReader)
    }

    pub(crate) fn held(&self) -> Held {
        match self.0.get() {
            0 => Held::Parked,
            UP => Held::TakenUp,
            // Any other word counts as taken back: the successor uses nothing then.
            _ => Held::TakenBack,
        }
    }
}

as_fd!(Claim, 0);

/// How a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// The incumbent said that this was all.
    Whole,
    /// The stream ended, as it does with its process. The frames before the end are in order.
    CutOff,
    /// The successor failed to receive a frame, and trusts none of the others.
    Broken,
}

/// The part of the arrivals that a successor that holds the lock may use (invariant 15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Usable {
    All,
    /// The incumbent is dead: its connections are open still, and the memory may not be of the
    /// moment at which it stopped writing.
    Connections,
    /// The incumbent has taken everything back, or has died and the arrivals are broken.
    Nothing,
}

impl Usable {
    /// None, which undoes the swap, where the incumbent lives and the arrivals are not to be used.
    /// `is_as_sealed`: the incumbent had sealed, and no other process has had the directory since.
    pub(crate) fn of(
        end: End,
        is_as_sealed: bool,
        held: Held,
        incumbent_is_dead: bool,
    ) -> Option<Self> {
        let is_as_sealed = is_as_sealed || !stands(Guard::MemoryIsOfTheSeal);
        let is_taken_back = held == Held::TakenBack && stands(Guard::MemoryIsOfTheSeal);
        match (end, incumbent_is_dead) {
            (End::Broken, false) => None,
            (End::Broken, true) => Some(Self::Nothing),
            _ if is_taken_back => Some(Self::Nothing),
            (End::Whole, _) if is_as_sealed => Some(Self::All),
            (End::Whole | End::CutOff, true) => Some(Self::Connections),
            (End::Whole | End::CutOff, false) => None,
        }
    }
}

const UP: u32 = 1;
const BACK: u32 = 2;

#[cfg(all(test, handoff_loom))]
mod orders;
#[cfg(all(test, not(handoff_loom)))]
mod tests;
