//! The supervisor's side: who starts a new process, and drives a swap to its end.
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
//! A transition that fails has rolled the swap back before it returns, and
//! [`Failed::incumbent`] says whether the old process has confirmed that it serves.

mod drive;
mod launch;
mod observe;
mod outcome;
mod policy;
mod session;
mod setup;

pub use crate::machine::cause::{Cause, IncumbentFate, Unfit};
pub use launch::{ChildProcess, Exec, Launch, LaunchRequest, SpawnSpec};
pub use observe::{Observe, Progress};
pub use outcome::{Committed, Failed, HandoffOutcome, RolledBack, Timings};
pub use policy::{AsSealed, Candidate, ReadyPolicy};
pub use session::{Paired, Phase, Prepared, Ready, Sealed, Session, Warmed};
pub use setup::Supervisor;
