//! Whether a successor may have as many files open as the incumbent carries connections.

use crate::drainable::Drainable;
use crate::error::{CarryError, Result};
use crate::fence::fenced;
use crate::sys::process::OpenFiles;

/// Reckons before anything is drained: a successor that runs out of descriptors undoes the swap, while
/// clients wait. Where `/proc` does not tell, the swap is tried.
pub(super) fn check(drainable: &impl Drainable, successor_pid: u32) -> Result<()> {
    let carried = fenced("carriage", || Ok(drainable.carriage().not_parked(0).1))? as u64;
    let files = (OpenFiles::of(successor_pid), OpenFiles::of(std::process::id()));
    let (Some(successor), Some(own)) = files else { return Ok(()) };
    let needed = successor.open.saturating_add(carried).saturating_add(MARGIN);
    if carried == 0 || needed <= successor.max {
        return Ok(());
    }
    let OpenFiles { max, open } = successor;
    let own_max = own.max;
    Err(CarryError::TooManyFiles { carried, successor_pid, open, max, own_max, needed }.into())
}

/// For the files that the successor opens for its data, and connections that come meanwhile.
const MARGIN: u64 = 32;
