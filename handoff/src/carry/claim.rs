//! Who may use what was sent: the successor, or the incumbent again. One word that both processes
//! map decides it, once.

use std::io;
use std::os::fd::OwnedFd;

use crate::guard::{Guard, stands};
use crate::sys::as_fd;
use crate::sys::memory::Word;

/// Shared by the incumbent and the successor of one swap.
#[derive(Debug)]
pub(crate) struct Claim(Word);

/// What the word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Held {
    /// Both have it, and nobody uses it.
    Parked,
    /// The successor serves.
    TakenUp,
    /// The incumbent serves again.
    TakenBack,
}

#[cfg(test)]
impl Held {
    /// Whether who finds it so may have it for himself: the model's word for what
    /// [`Word::claim`] does at once.
    pub(crate) fn is_free(self) -> bool {
        self == Self::Parked || !stands(Guard::OneReader)
    }
}

impl Claim {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Word::new()?))
    }

    /// The claim that the incumbent has made; an error where the descriptor is none.
    pub(crate) fn of(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self(Word::map(descriptor)?))
    }

    /// The incumbent serves again; `false` when the successor has taken them up before, so that
    /// nobody knows what it has read of them. May be said again.
    pub(crate) fn take_back(&self) -> bool {
        matches!(self.0.claim(BACK), Ok(()) | Err(BACK)) || !stands(Guard::OneReader)
    }

    /// The successor serves; `false` when the incumbent has taken them back.
    pub(crate) fn take_up(&self) -> bool {
        self.0.claim(UP).is_ok() || !stands(Guard::OneReader)
    }

    pub(crate) fn held(&self) -> Held {
        match self.0.get() {
            0 => Held::Parked,
            UP => Held::TakenUp,
            // Of a word that says what it cannot, nothing is used.
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
    /// The stream ended, as it does with its process. What came before is in order.
    CutOff,
    /// Something came that cannot be: no part of it is trusted.
    Broken,
}

/// What a successor that holds the lock may use of what it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Usable {
    All,
    /// The incumbent died before it had sealed: its connections are open still, and the memory
    /// is not of the moment at which it stopped writing.
    Connections,
    /// The incumbent has served since.
    Nothing,
}

impl Usable {
    /// None where something is missing although the incumbent lives. `is_kept`: it had sealed,
    /// and nobody has had the directory since.
    pub(crate) fn of(end: End, is_kept: bool, held: Held, incumbent_is_dead: bool) -> Option<Self> {
        let is_kept = is_kept || !stands(Guard::MemoryIsOfTheSeal);
        let is_taken_back = held == Held::TakenBack && stands(Guard::MemoryIsOfTheSeal);
        match (end, incumbent_is_dead) {
            (End::Broken, false) => None,
            (End::Broken, true) => Some(Self::Nothing),
            _ if is_taken_back => Some(Self::Nothing),
            (End::Whole, _) if is_kept => Some(Self::All),
            (End::Whole | End::CutOff, true) => Some(Self::Connections),
            (End::Whole | End::CutOff, false) => None,
        }
    }
}

const UP: u32 = 1;
const BACK: u32 = 2;

#[cfg(test)]
mod tests;
