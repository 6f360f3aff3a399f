//! One swap of a supervisor at a time.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::protocol::HandoffId;

/// The swap that a supervisor drives. A second one beside it would take the end of the incumbent
/// that the first one replaces for a crash (invariant 4).
#[derive(Debug, Default)]
pub(super) struct Slot(Arc<Mutex<Option<HandoffId>>>);

/// The right to drive a swap. Dropping it ends the right.
#[derive(Debug)]
pub(super) struct Taken(Arc<Mutex<Option<HandoffId>>>);

impl Slot {
    pub(super) fn take(&self, handoff_id: HandoffId) -> Result<Taken> {
        let mut swap = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *swap {
            Some(handoff_id) => Err(Error::SwapInFlight { handoff_id }),
            None => {
                *swap = Some(handoff_id);
                Ok(Taken(Arc::clone(&self.0)))
            }
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let swap = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        swap.map_or(Ok(()), |handoff_id| Err(Error::SwapInFlight { handoff_id }))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_swap_has_the_slot_and_each_other_one_is_told_which() {
        let slot = Slot::default();
        let [first, second] = [HandoffId::new(), HandoffId::new()];
        slot.check().expect("no swap is in flight");
        let taken = slot.take(first).expect("no swap is in flight");
        for refused in [slot.take(second).map(drop), slot.check()] {
            match refused {
                Err(Error::SwapInFlight { handoff_id }) => assert_eq!(handoff_id, first),
                other => panic!("{other:?}"),
            }
        }
        drop(taken);
        slot.take(second).map(drop).expect("the first one is over");
    }
}
