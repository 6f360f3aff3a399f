//! The failure that each guard prevents: without the guard, the model finds it.

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::SwapModel;
use super::properties::{
    BIDDEN, NOT_GIVEN_UP, NOT_STALE, NOT_STOLEN, NOTHING_LOST, ONE_READER, ONE_WRITER,
    SOMEONE_SERVES, STOP_IS_A_STOP, TRUE_REPORT, UNDONE,
};
use super::tests::THREADS;
use super::witness::Witness;
use crate::guard::Guard;

macro_rules! without {
    ($($(#[$attribute:meta])* $name:ident: $guard:ident, $faults:literal faults, $property:ident;)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                finds(Guard::$guard, $faults, $property);
            }
        )*
    };
}

without! {
    // The lock.
    a_lock_that_a_drop_releases: LockOutlivesDrop, 0 faults, ONE_WRITER;
    a_resume_without_the_lock: LockBeforeResume, 0 faults, NOTHING_LOST;
    no_reservation: Reservation, 0 faults, NOT_STOLEN;
    // The undo.
    an_echo_before_the_undo: UndoBeforeEcho, 0 faults, TRUE_REPORT;
    a_resume_that_fails_and_is_left_at_that: ResumeUntilItWorks, 0 faults, UNDONE;
    // The record.
    a_record_believed_before_the_lock_is_tried: LockBeforeRecord, 0 faults, SOMEONE_SERVES;
    a_record_of_one_who_does_not_serve: ServingInRecord, 1 faults, SOMEONE_SERVES;
    #[ignore = "it takes long: --include-ignored"]
    a_record_of_the_own_generation: NewerGeneration, 2 faults, SOMEONE_SERVES;
    a_record_of_one_who_is_being_killed: KilledIsNotServing, 0 faults, SOMEONE_SERVES;
    a_record_before_the_supervisor_s_word: SupervisorHasTheWord, 0 faults, SOMEONE_SERVES;
    a_supervisor_that_came_back_and_is_not_waited_for: HelloAttaches, 1 faults, SOMEONE_SERVES;
    #[ignore = "it takes long: --include-ignored"]
    a_hung_successor_that_nobody_ends: HungIsEnded, 2 faults, SOMEONE_SERVES;
    // The supervisor.
    an_incumbent_told_to_leave_too_early: ServingBeforeLeave, 0 faults, SOMEONE_SERVES;
    an_incumbent_asked_beside_a_live_successor: KillBeforeAsking, 0 faults, SOMEONE_SERVES;
    a_deadline_in_a_commit: DeadlineSparesCommit, 0 faults, SOMEONE_SERVES;
    a_successor_that_is_not_spared: SuccessorSpared, 1 faults, NOT_GIVEN_UP;
    a_stop_that_is_taken_for_a_death: StopIsFinal, 0 faults, STOP_IS_A_STOP;
    // The successor.
    a_release_that_is_taken_for_a_death: ReleasedIsFinal, 0 faults, STOP_IS_A_STOP;
    a_commit_beside_a_live_incumbent: AloneWhenBothAreDead, 1 faults, BIDDEN;
    // Carried connections and memory.
    connections_without_a_claim: OneReader, 0 faults, ONE_READER;
    memory_of_another_moment: MemoryIsOfTheSeal, 1 faults, NOT_STALE;
}

fn finds(guard: Guard, faults: u8, property: &'static str) {
    let begun = Instant::now();
    let swap = SwapModel { faults, without: Some(guard), witness: Witness::default() };
    let wanted = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = swap.checker().threads(THREADS).finish_when(wanted).spawn_dfs().join();
    let found = checker.discovery(property);
    assert!(found.is_some(), "nothing comes of it that {guard:?} does not stand");
    println!("{guard:?}: {} states in {:?}", checker.unique_state_count(), begun.elapsed());
}
