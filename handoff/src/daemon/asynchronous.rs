//! A daemon on tokio.

use std::time::Instant;

use tokio::runtime::{Builder, Handle, RuntimeFlavor};

use super::{Daemon, Ended, Opening, Warm};
use crate::drainable::Drainable;
use crate::error::{Error, Result};
use crate::log;

impl Daemon {
    /// [`run`](Self::run), with asynchronous closures. Inside a runtime of tokio with several threads it
    /// uses that one; elsewhere it makes one, which ends with it.
    ///
    /// Connections that were not carried have [`late_grace`](Self::late_grace) to end before it returns
    /// [`Ended::Replaced`].
    ///
    /// ```no_run
    /// # use handoff::{daemon::Daemon, Gate};
    /// # #[derive(handoff::Drainable)] struct App { #[handoff(gate)] gate: Gate }
    /// fn main() -> handoff::Result<()> {
    ///     Daemon::new("control.sock", "data").run_tokio(
    ///         async |_warm| Ok(()),
    ///         async |(), opening| {
    ///             let listener = opening.listeners().take_tokio_tcp("main")?;
    ///             # drop(listener);
    ///             Ok(App { gate: Gate::new() })
    ///         },
    ///     )?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); and inside a runtime with one thread alone (`flavor =
    /// "current_thread"`), which this would block, so that no task could run.
    pub fn run_tokio<W, D: Drainable + 'static>(
        self,
        warm: impl AsyncFnOnce(&Warm<'_>) -> Result<W>,
        open: impl AsyncFnOnce(W, &mut Opening<'_>) -> Result<D>,
    ) -> Result<Ended> {
        match Handle::try_current() {
            Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::CurrentThread => {
                Err(Error::other(
                    "this runtime of tokio has one thread, which the daemon would block: leave `#[tokio::main]` out, since `run_tokio` makes a runtime, or use `#[tokio::main]` without `flavor = \"current_thread\"`",
                ))
            }
            Ok(handle) => tokio::task::block_in_place(|| self.run_on(&handle, warm, open)),
            Err(_) => {
                let runtime = Builder::new_multi_thread().enable_all().build()?;
                let ended = self.run_on(runtime.handle(), warm, open);
                // A task that blocks does not keep the process.
                runtime.shutdown_background();
                ended
            }
        }
    }

    fn run_on<W, D: Drainable + 'static>(
        self,
        handle: &Handle,
        warm: impl AsyncFnOnce(&Warm<'_>) -> Result<W>,
        open: impl AsyncFnOnce(W, &mut Opening<'_>) -> Result<D>,
    ) -> Result<Ended> {
        let late_grace = self.late_grace;
        let ended = self
            .run_until(
                |begun| handle.block_on(warm(begun)),
                |warmed, opening| handle.block_on(open(warmed, opening)),
            )
            .map(|(ended, state)| {
                state.carriage().wait_over(Instant::now() + late_grace);
                ended
            });
        log::flush(if ended.is_ok() { log::LAST_LINES } else { log::SHORT });
        ended
    }
}
