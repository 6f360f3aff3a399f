//! The failure that each guard prevents: without the guard, the model finds it.

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::SwapModel;
use super::previous::second;
use super::properties::{
    BIDDEN, NOT_GIVEN_UP, NOT_STALE, NOT_STOLEN, NOTHING_LOST, ONE_READER, ONE_WRITER, READABLE,
    SOMEONE_SERVES, STOP_IS_A_STOP, TRUE_REPORT, UNDONE,
};
use super::tests::THREADS;
use crate::guard::Guard;

macro_rules! without {
    ($($(#[$attribute:meta])* $name:ident: $guard:ident, $begins:expr, $property:ident;)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                finds(Guard::$guard, $begins, $property);
            }
        )*
    };
}

without! {
    // The lock.
    a_lock_that_a_drop_releases: LockOutlivesDrop, SwapModel::first(0), ONE_WRITER;
    a_resume_without_the_lock: LockBeforeResume, SwapModel::first(0), NOTHING_LOST;
    no_reservation: Reservation, SwapModel::first(0), NOT_STOLEN;
    a_reservation_that_another_namespace_does_not_see: ReservedByByte, SwapModel::first(0), NOT_STOLEN;
    a_reservation_of_another_swap: ReservedForItsSwap, second(0), NOT_STOLEN;
    a_reservation_that_ends_with_the_writer: ReservationOutlivesWriter, second(1), NOT_STOLEN;
    // The directory.
    a_path_that_leads_elsewhere: DirectoryInPlace, SwapModel::first(1), NOTHING_LOST;
    // The undo.
    an_echo_before_the_undo: UndoBeforeEcho, SwapModel::first(0), TRUE_REPORT;
    a_resume_that_fails_and_is_left_at_that: ResumeUntilItWorks, SwapModel::first(0), UNDONE;
    // The record.
    a_record_believed_before_the_lock_is_tried: LockBeforeRecord, SwapModel::first(0), SOMEONE_SERVES;
    a_record_of_one_who_does_not_serve: ServingInRecord, SwapModel::first(1), SOMEONE_SERVES;
    #[ignore = "it takes long: --include-ignored"]
    a_record_of_the_own_generation: NewerGeneration, SwapModel::first(2), SOMEONE_SERVES;
    a_record_of_one_who_is_being_killed: KilledIsNotServing, SwapModel::first(0), SOMEONE_SERVES;
    a_record_before_the_supervisor_s_word: SupervisorHasTheWord, SwapModel::first(0), SOMEONE_SERVES;
    a_supervisor_that_came_back_and_is_not_waited_for: HelloAttaches, SwapModel::first(1), SOMEONE_SERVES;
    #[ignore = "it takes long: --include-ignored"]
    a_hung_successor_that_nobody_ends: HungIsEnded, SwapModel::first(2), SOMEONE_SERVES;
    // The supervisor.
    an_incumbent_told_to_leave_too_early: ServingBeforeLeave, SwapModel::first(0), SOMEONE_SERVES;
    an_incumbent_asked_beside_a_live_successor: KillBeforeAsking, SwapModel::first(0), SOMEONE_SERVES;
    a_deadline_in_a_commit: DeadlineSparesCommit, SwapModel::first(0), SOMEONE_SERVES;
    a_successor_that_is_not_spared: SuccessorSpared, SwapModel::first(1), NOT_GIVEN_UP;
    a_stop_that_is_taken_for_a_death: StopIsFinal, SwapModel::first(0), STOP_IS_A_STOP;
    // The successor.
    a_release_that_is_taken_for_a_death: ReleasedIsFinal, SwapModel::first(0), STOP_IS_A_STOP;
    a_commit_beside_a_live_incumbent: AloneWhenBothAreDead, SwapModel::first(1), BIDDEN;
    // A format that the incumbent does not read.
    a_format_before_the_last_word: FinalBeforeFormat, SwapModel::one_way(0), SOMEONE_SERVES;
    a_resume_of_a_format_that_is_not_read: FormatBeforeResume, SwapModel::one_way(1), READABLE;
    // Carried connections and memory.
    connections_without_a_claim: OneReader, SwapModel::first(0), ONE_READER;
    memory_of_another_moment: MemoryIsOfTheSeal, SwapModel::first(1), NOT_STALE;
}

fn finds(guard: Guard, swap: SwapModel, property: &'static str) {
    let begun = Instant::now();
    let swap = SwapModel { without: Some(guard), ..swap };
    let wanted = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = swap.checker().threads(THREADS).finish_when(wanted).spawn_dfs().join();
    let found = checker.discovery(property);
    assert!(found.is_some(), "nothing comes of it that {guard:?} does not stand");
    println!("{guard:?}: {} states in {:?}", checker.unique_state_count(), begun.elapsed());
}
