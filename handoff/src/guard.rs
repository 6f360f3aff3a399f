//! The guards that a swap stands on. Each always stands; the model takes them out one by one
//! and shows what each of them prevents.

/// A condition in the code without which something of what always holds would not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Guard {
    /// An incumbent that was sealed resumes only once it has the lock again.
    LockBeforeResume,
    /// No message is acted upon while an undo runs: the echo comes after it.
    UndoBeforeEcho,
    /// A resume that fails is repeated, and nothing is admitted before it works.
    ResumeUntilItWorks,
    /// The incumbent is told to leave only when the successor has said that it serves.
    ServingBeforeLeave,
    /// A successor that may hold the lock is dead before the incumbent is asked to serve.
    EndBeforeAsking,
    /// A successor that is not at fault lives until the incumbent has confirmed.
    SuccessorSpared,
    /// Nobody takes the place of a daemon that is being stopped on purpose.
    StopIsFinal,
    /// Nor of one whose record says that it was released on purpose.
    ReleasedIsFinal,
    /// A deadline does not end a commit that the incumbent may have left for.
    DeadlineSparesCommit,
    /// A successor goes on alone only when the incumbent is dead.
    AloneWhenBothAreDead,
    /// A free lock between two owners is kept for the successor.
    Reservation,
    /// The lock is tried before the record is believed.
    LockBeforeRecord,
    /// Only who serves has replaced the incumbent.
    ServingInRecord,
    /// Only a newer generation has.
    NewerGeneration,
    /// Nor has one that serves and is being killed.
    KilledIsNotServing,
    /// With a supervisor at hand, the incumbent does not leave by the record.
    SupervisorHasTheWord,
    /// A supervisor that comes back for a swap is its supervisor from its hello on.
    HelloAttaches,
    /// A successor that hangs, with no supervisor to end it, is ended by the incumbent.
    HungIsEnded,
    /// A successor that gives up has the lock until its process ends.
    LockIsKept,
    /// What was sent is used by one of the two processes.
    OneReader,
    /// Memory is used only if nobody has had the directory since it was sealed.
    MemoryIsOfTheSeal,
}

/// Whether the guard stands.
#[cfg(not(test))]
pub(crate) const fn stands(_: Guard) -> bool {
    true
}

#[cfg(test)]
pub(crate) use switch::{stands, take_out};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::Guard;

    thread_local! {
        static OUT: Cell<Option<Guard>> = const { Cell::new(None) };
    }

    pub(crate) fn stands(guard: Guard) -> bool {
        OUT.get() != Some(guard)
    }

    /// Takes a guard out, on this thread, until the next call.
    pub(crate) fn take_out(guard: Option<Guard>) {
        OUT.set(guard);
    }
}
