//! The new process: its role, its inherited sockets, and its way to being the writer.
//!
//! ```text
//! detect() -> Role::ColdStart            this process replaces no other
//!          -> Role::Successor            a supervisor started this process for a swap
//!
//! Successor<Arrived>  .greet()            ->  Successor<Greeted>  the slow start-up work
//!                     .fetch()                                    asks for connections, memory
//!                     .bind()                                     ready to take the lock
//!                     .warmed()           ->  Successor<Warmed>   may not touch the data yet
//!                     .wait_for_begin()   ->  Successor<Begun>    lock held: open, verify
//!                     .ready()            ->  Incumbent           committed: serve
//! ```

mod commit;
mod conversation;
mod role;
mod stages;

pub use crate::control::Listeners;
pub use conversation::OnLoss;
pub use role::{ColdStart, Role, detect};
pub(crate) use stages::memory_of;
pub use stages::{Arrived, Begun, Greeted, Stage, Successor, Warmed};
