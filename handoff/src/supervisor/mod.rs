//! The supervisor's side: the process that starts a successor and drives a swap to its end.
//!
//! ```text
//! Supervisor::pair(spec)  ->  Session<Paired>      both processes have said hello
//!   .warm()               ->  Session<Warmed>      the slow start-up work is done
//!   .prepare()            ->  Session<Prepared>    drained
//!   .seal()               ->  Session<Sealed>      sealed, the lock is released
//!   .begin()              ->  Session<Ready>       the successor could serve
//!   .commit()             ->  Committed            it serves
//!   .abort(reason)        ->  RolledBack           from every phase above
//! ```
//!
//! A supervisor that is started after another one died begins with [`Supervisor::adopt`]: it
//! finds the daemon that serves, gets the listening sockets back from it, and resolves the swap
//! that was in flight.
//!
//! A supervisor drives one swap at a time: [`Supervisor::pair`] refuses a second one until the
//! first is committed or rolled back.
//!
//! A transition that fails has rolled the swap back before it returns, and
//! [`Failed::incumbent`] says whether the old process has confirmed that it serves (invariant 4).

mod abort;
mod adopt;
mod drive;
pub(crate) mod journal;
mod launch;
mod observe;
mod outcome;
mod policy;
mod probe;
mod process;
mod resolve;
mod session;
mod setup;
mod slot;

pub use crate::machine::cause::{Cause, IncumbentFate, PauseStart, Unfit};
pub use abort::AbortHandle;
pub use adopt::{AdoptedDaemon, Adoption};
pub use journal::JournalState;
pub use launch::{Exec, Launch, LaunchRequest, SpawnSpec};
pub use observe::{Observe, Progress};
pub use outcome::{
    CarryReport, Committed, Failed, HandoffOutcome, LateConnections, RolledBack, Timings,
};
pub use policy::{AsSealed, Candidate, ReadyPolicy};
pub use probe::probe;
pub use process::{AdoptedProcess, ChildProcess, DaemonProcess};
pub use resolve::Resolved;
pub use session::{Drained, Paired, Phase, Prepared, Ready, Sealed, Session, Warmed};
pub use setup::Supervisor;
