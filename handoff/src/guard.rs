//! The guards that a swap stands on. Each always stands; the model takes them out one by one
//! and shows the failure that each of them prevents.

/// A condition in the code without which a property of the model would not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Guard {
    /// An incumbent that was sealed resumes only once it has the lock again (invariant 1).
    LockBeforeResume,
    /// The incumbent acts on no message while an undo runs: its echo comes after (invariant 4).
    UndoBeforeEcho,
    /// The incumbent repeats a resume that fails, and admits nothing before it works (invariant 5).
    ResumeUntilItWorks,
    /// The supervisor tells the incumbent to leave only after the successor has said `Serving`.
    ServingBeforeLeave,
    /// A successor that may hold the lock was killed before the supervisor asks the incumbent to
    /// serve (invariant 8).
    KillBeforeAsking,
    /// The supervisor spares a successor without fault until the incumbent has confirmed that it
    /// serves (invariant 3).
    SuccessorSpared,
    /// No process takes the place of a daemon that is being stopped on purpose.
    StopIsFinal,
    /// No successor goes on from a record that says that its writer stopped on purpose.
    ReleasedIsFinal,
    /// A deadline does not end a successor for which the incumbent may have left.
    DeadlineSparesCommit,
    /// A successor goes on alone only when the incumbent is dead.
    AloneWhenBothAreDead,
    /// A free lock between two owners is reserved for the successor (invariant 9).
    Reservation,
    /// A successor takes only a lock that was reserved for its own swap, while the last writer
    /// lives.
    ReservedForItsSwap,
    /// The death of the writer does not end the reservation that it made.
    ReservationOutlivesWriter,
    /// The byte that a successor locked says in every namespace that it lives.
    ReservedByByte,
    /// No process opens the data where the path leads to another directory than the one that it
    /// locked.
    DirectoryInPlace,
    /// The incumbent tries the lock before it believes the record (invariant 3).
    LockBeforeRecord,
    /// Only a process that serves by the record has replaced the incumbent (invariant 3).
    ServingInRecord,
    /// Only a newer generation has replaced the incumbent (invariant 3).
    NewerGeneration,
    /// A process that serves but is being killed has not replaced the incumbent (invariant 3).
    KilledIsNotServing,
    /// With a supervisor at hand, the incumbent does not leave by the record (invariant 3).
    SupervisorHasTheWord,
    /// A supervisor that comes for the swap in flight is its supervisor from its hello on.
    HelloAttaches,
    /// The incumbent ends a successor that hangs, if no supervisor is there to end it.
    HungIsEnded,
    /// A successor writes nothing that the incumbent does not read before nobody can end it in the
    /// incumbent's favour (invariant 11).
    FinalBeforeFormat,
    /// An incumbent resumes no data of a format that it does not read (invariant 11).
    FormatBeforeResume,
    /// A successor that gives up has the lock until its process ends (invariant 1).
    LockOutlivesDrop,
    /// Only one of the two processes uses the connections that were sent (invariant 13).
    OneReader,
    /// The successor uses memory only if no process has had the directory since the seal
    /// (invariant 15).
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
