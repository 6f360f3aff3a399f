//! Who may read the connections: the successor that has committed, or the incumbent that has
//! taken them back. One word that both processes map decides, once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::memory::Word;

/// Shared by the incumbent and the successor of one swap.
#[derive(Debug)]
pub(crate) struct Claim(Word);

impl Claim {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Word::new()?))
    }

    /// The claim that the incumbent has made; an error where the descriptor is none.
    pub(crate) fn of(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self(Word::map(descriptor)?))
    }

    /// The incumbent serves again; `false` when the successor has taken them up before, so that
    /// nobody knows what it has read of them.
    pub(crate) fn take_back(&self) -> bool {
        self.0.claim(BACK).is_ok()
    }

    /// The successor serves; `false` when the incumbent has taken them back.
    pub(crate) fn take_up(&self) -> bool {
        self.0.claim(UP).is_ok()
    }

    /// Whether the incumbent has taken them back: it may have read and written since.
    pub(crate) fn is_taken_back(&self) -> bool {
        self.0.get() == BACK
    }
}

impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const UP: u32 = 1;
const BACK: u32 = 2;
