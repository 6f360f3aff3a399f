//! The demonstration kills its supervisor, and starts another, which goes on from there.

use std::time::{Duration, Instant};

use handoff::{Outcome, Phase};

use crate::BoxError;
use crate::demo::clients::who_serves;
use crate::demo::demonstration::Demonstration;
use crate::demo::report::{Order, Origin, Phases, Said, Serving};
use crate::demo::table::{Row, Seen};

impl Demonstration<'_> {
    /// Kills the supervisor while no swap is under way.
    pub(crate) fn kill_between_swaps(&mut self) -> Result<(), BoxError> {
        let start = Instant::now();
        self.processes.kill_supervisor()?;
        let found = self.processes.start_another()?;
        let end = Instant::now();
        let expected = Serving { origin: Origin::Adopted, resolved: None, ..self.serving };
        self.go_on(found, &expected);
        let outcome = "supervisor killed: adopted".to_owned();
        let (from, phases, seen) = (expected.build, Phases::default(), Seen::default());
        let row = Row { swap: None, from, to: None, outcome, phases, carried: None, seen };
        self.add(row, start, end)
    }

    /// Kills the supervisor while the successor opens the data. The two servers decide without a
    /// supervisor which of them serves; the next supervisor learns the outcome.
    pub(crate) fn kill_inside_swap(&mut self, number: u32) -> Result<(), BoxError> {
        let order = Order { open_delay: OPEN_DELAY, ..Order::to(number + 1) };
        let start = Instant::now();
        let orphaned = self.processes.swap_and_kill(&order, PHASE)?;
        let found = self.processes.start_another()?;
        let end = Instant::now();
        let from = self.serving.build;
        let ending = match found.resolved {
            Some(Outcome::Committed) => "finished",
            Some(Outcome::RolledBack) => "undone",
            Some(_) => "unknown",
            None => "too late",
        };
        let expected = if found.resolved == Some(Outcome::Committed) {
            let (build, pid) = (order.build, orphaned.successor);
            Serving { build, pid, resolved: found.resolved, ..self.serving }
        } else {
            Serving { resolved: Some(Outcome::RolledBack), ..self.serving }
        };
        if orphaned.last_word != (Said::Entered { phase: PHASE }) {
            let said = orphaned.last_word;
            let complaint = format!("the kill did not land while {PHASE}, but after {said}");
            self.complaints.push(complaint);
        }
        self.go_on(found, &Serving { origin: Origin::Adopted, ..expected });
        let (swap, to) = (Some(number), Some(order.build));
        let outcome = format!("supervisor killed: {ending}");
        let (phases, seen) = (Phases::default(), Seen::default());
        self.add(Row { swap, from, to, outcome, phases, carried: None, seen }, start, end)
    }

    /// Goes on with the server that another supervisor found, and complains unless it is the one
    /// that is expected and no other server runs.
    fn go_on(&mut self, found: Serving, expected: &Serving) {
        let Serving { build, pid, .. } = found;
        println!("another supervisor: {found}");
        if found != *expected {
            self.complaints.push(format!("{expected} was expected after the kill, not {found}"));
        }
        match who_serves(expected.address) {
            Ok(serves) if serves == (build, pid) => {}
            Ok((build, pid)) => {
                let complaint = format!("{found}, but build {build}, process {pid} answers there");
                self.complaints.push(complaint);
            }
            Err(error) => self.complaints.push(format!("{found}, but nobody answers: {error}")),
        }
        for other in self.processes.beside(pid) {
            self.complaints.push(format!("process {other} runs beside process {pid}"));
        }
        self.serving = found;
    }
}

/// The phase in which the supervisor is killed: the incumbent is sealed.
const PHASE: Phase = Phase::Opening;
/// How much longer the successor takes in it: a signal is delivered much faster.
const OPEN_DELAY: Duration = Duration::from_millis(1000);
