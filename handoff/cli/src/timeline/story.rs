//! The states of incumbent, supervisor and successor in a swap, as far as its record tells.

use handoff::{Outcome, Phase};

use crate::record::SwapRecord;
use crate::units::in_ms;

/// A swap as a row of scenes.
pub(super) struct Story {
    /// At least one. The last has no end: it shows the outcome of the swap, or its current phase.
    pub(super) scenes: Vec<Scene>,
    pub(super) pause: Option<Pause>,
    /// The time of the last known change, in microseconds since the swap began.
    pub(super) until: u64,
}

/// One phase, which lasts until the next begins.
pub(super) struct Scene {
    pub(super) of: Of,
    /// Microseconds since the swap began.
    pub(super) from: u64,
    pub(super) incumbent: Activity,
    pub(super) successor: Activity,
    /// The messages at its beginning.
    pub(super) messages: Vec<Message>,
    /// The time of its end is unknown: the supervisor died before it recorded one.
    pub(super) is_cut: bool,
}

/// The subject of a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Both processes have yet to say hello.
    Pairing,
    Phase(Phase),
    /// The outcome of the swap, where no phase tells it.
    End(Outcome),
}

/// The state of a process in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Activity {
    pub(super) label: &'static str,
    /// For a narrow bar.
    pub(super) short: &'static str,
    pub(super) mood: Mood,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Serves,
    Works,
    Waits,
    Gone,
    Unknown,
}

/// A message between the supervisor and one of the two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) name: &'static str,
    pub(super) peer: Peer,
    pub(super) is_reply: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Incumbent,
    Successor,
}

/// When clients waited.
pub(super) struct Pause {
    /// The phase in which it began.
    pub(super) first: usize,
    /// The part of that phase that was over when it began, from 0 to 1.
    pub(super) into: f64,
    /// The phase at whose beginning it ended; none if that is not recorded.
    pub(super) over: Option<usize>,
    pub(super) label: String,
}

impl Story {
    pub(super) fn of(record: &SwapRecord) -> Self {
        let is_started = !record.steps.is_empty();
        let mut story = Self { scenes: Vec::new(), pause: None, until: 0 };
        story.scenes.push(Scene {
            of: Of::Pairing,
            from: 0,
            incumbent: SERVES,
            successor: if is_started { STARTS } else { NOT_STARTED },
            messages: Vec::new(),
            is_cut: false,
        });
        for (at, phase) in record.phases() {
            story.enter(Of::Phase(phase), at, record.outcome());
        }
        if let Some(end) = &record.end
            && !story.scenes.last().is_some_and(|scene| scene.of.is_last())
        {
            let is_cut = story.scenes.len() > 1;
            if let Some(before) = story.scenes.last_mut() {
                before.is_cut = is_cut;
            }
            story.enter(Of::end(end.outcome), end.took_us, Some(end.outcome));
            // The record does not tell the messages by which it was resolved.
            if let Some(last) = story.scenes.last_mut() {
                last.messages.clear();
            }
        }
        story.until = story.scenes.last().map_or(0, |scene| scene.from);
        if record.end.is_none() {
            let steps = record.steps.iter().map(|step| step.at_us);
            story.until = steps.fold(story.until, u64::max);
        }
        story.pause = story.pause(record);
        story
    }

    /// How long a scene took, in microseconds. None for the last.
    pub(super) fn length(&self, index: usize) -> Option<u64> {
        let next = self.scenes.get(index + 1)?;
        Some(next.from.saturating_sub(self.scenes.get(index)?.from))
    }

    /// Whether a scene comes before the pause, and is shown only to lead in to it.
    pub(super) fn leads_in(&self, index: usize) -> bool {
        self.pause.as_ref().is_some_and(|pause| index < pause.first)
    }

    fn has(&self, phase: Phase) -> bool {
        self.scenes.iter().any(|scene| scene.of == Of::Phase(phase))
    }

    fn enter(&mut self, of: Of, at: u64, outcome: Option<Outcome>) {
        let Some(before) = self.scenes.last() else { return };
        let (incumbent, successor) = self.states(of, outcome, before);
        let messages = self.messages(of, outcome, before.of);
        // A time before that of the last scene is drawn as the same time.
        let from = at.max(before.from);
        self.scenes.push(Scene { of, from, incumbent, successor, messages, is_cut: false });
    }

    fn states(&self, of: Of, end: Option<Outcome>, before: &Scene) -> (Activity, Activity) {
        let is_touched = self.has(Phase::Draining);
        let phase = match of {
            Of::Phase(phase) => phase,
            Of::End(Outcome::Lost) => return (DEAD, ENDED),
            Of::End(Outcome::Unknown) => return (UNCONFIRMED, UNKNOWN),
            Of::End(Outcome::NotBegun) if before.successor == NOT_STARTED => {
                return (before.incumbent, NOT_STARTED);
            }
            Of::End(Outcome::NotBegun | Outcome::DryRun) => return (SERVES, ENDED),
            Of::Pairing | Of::End(_) => return (before.incumbent, before.successor),
        };
        match (phase, end) {
            (Phase::Paired, _) => (before.incumbent, STARTS),
            (Phase::Warming, _) => (before.incumbent, WARMS),
            (Phase::Warmed, _) => (before.incumbent, WARM),
            (Phase::Draining, _) => (DRAINS, WARM),
            (Phase::Prepared, _) => (DRAINED, WARM),
            (Phase::Sealing, _) => (SEALS, WARM),
            (Phase::Sealed, _) => (LOCK_FREE, WARM),
            (Phase::Opening, _) => (SEALED, OPENS),
            (Phase::Ready, _) => (SEALED, READY),
            (Phase::Committing, _) => (SEALED, COMMITS),
            (Phase::Committed, _) => (LEAVES, SERVES),
            (Phase::EndingSuccessor, _) => (before.incumbent, IS_ENDED),
            (Phase::RollingBack, _) if is_touched => (ASKED, before.successor.given_up()),
            (Phase::RollingBack, _) => (before.incumbent, before.successor.given_up()),
            (Phase::Promoting, _) => (DEAD, OPENS),
            (Phase::Promoted, _) => (DEAD, SERVES),
            (Phase::RolledBack, Some(Outcome::Lost)) => (DEAD, ENDED),
            (Phase::RolledBack, Some(Outcome::Unknown)) => (UNCONFIRMED, ENDED),
            (Phase::RolledBack, None) if is_touched => (ASKED, ENDED),
            (Phase::RolledBack, _) if is_touched => (SERVES_AGAIN, ENDED),
            (Phase::RolledBack, _) => (SERVES, ENDED),
            _ => (before.incumbent, before.successor),
        }
    }

    fn messages(&self, of: Of, outcome: Option<Outcome>, before: Of) -> Vec<Message> {
        use Peer::{Incumbent, Successor};
        let Of::Phase(phase) = of else { return Vec::new() };
        let said = |peer, is_reply, name| Message { name, peer, is_reply };
        let is_confirmed =
            matches!(outcome, Some(Outcome::RolledBack | Outcome::DryRun | Outcome::NotBegun));
        match phase {
            Phase::Warmed if before == Of::Phase(Phase::Warming) => {
                vec![said(Successor, true, "Warmed")]
            }
            Phase::Draining => vec![said(Incumbent, false, "PrepareHandoff")],
            Phase::Prepared => vec![said(Incumbent, true, "Drained")],
            // The supervisor asked for the seal along with the drain.
            Phase::Sealing if before == Of::Phase(Phase::Draining) => {
                vec![said(Incumbent, true, "Drained")]
            }
            Phase::Sealing => vec![said(Incumbent, false, "SealRequest")],
            Phase::Sealed => vec![said(Incumbent, true, "SealComplete")],
            Phase::Opening => vec![said(Successor, false, "Begin")],
            Phase::Ready => vec![said(Successor, true, "Ready")],
            Phase::Committing => vec![said(Successor, false, "Commit")],
            Phase::Committed => {
                vec![said(Successor, true, "Serving"), said(Incumbent, false, "Commit")]
            }
            Phase::EndingSuccessor => vec![said(Successor, false, "kill")],
            Phase::RollingBack => vec![said(Incumbent, false, "ResumeAfterAbort")],
            Phase::RolledBack if is_confirmed => vec![said(Incumbent, true, "echo")],
            Phase::Promoting if self.has(Phase::Warmed) && !self.has(Phase::Opening) => {
                vec![said(Successor, false, "Begin")]
            }
            Phase::Promoted => vec![said(Successor, true, "Serving")],
            _ => Vec::new(),
        }
    }

    fn pause(&self, record: &SwapRecord) -> Option<Pause> {
        let first = self.scenes.iter().position(|scene| scene.of == Of::Phase(Phase::Draining))?;
        let begun = record.clients_wait()?.max(self.scenes[first].from);
        let into = self.part_of(first, begun);
        let open = |label: &str| Some(Pause { first, into, over: None, label: label.into() });
        let over = self.scenes.iter().position(|scene| scene.of.is_last());
        let over = over.filter(|over| *over > first);
        let waited = in_ms(self.until.saturating_sub(begun));
        match (record.outcome(), record.pause_us()) {
            (None, None) => open(&format!("clients wait, {waited} so far")),
            (Some(Outcome::Lost), _) => open("clients wait: nobody serves"),
            (Some(Outcome::Unknown), _) => open("clients wait, for all that is known"),
            (_, Some((from, to))) if to >= from => {
                Some(Pause { first, into, over, label: format!("pause {}", in_ms(to - from)) })
            }
            (_, Some(_)) => open("pause of unknown length"),
            (_, None) => {
                let over = Some(self.scenes.len() - 1);
                Some(Pause { first, into, over, label: format!("pause of at most {waited}") })
            }
        }
    }

    /// The part of a scene that is over at that time, from 0 to 1.
    fn part_of(&self, index: usize, at: u64) -> f64 {
        let from = self.scenes[index].from;
        let length = self.length(index).unwrap_or(self.until.saturating_sub(from)).max(1);
        (at.saturating_sub(from) as f64 / length as f64).min(1.0)
    }
}

impl Of {
    /// The end of a swap that its steps do not tell.
    const fn end(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Committed => Self::Phase(Phase::Committed),
            Outcome::RolledBack => Self::Phase(Phase::RolledBack),
            Outcome::Promoted => Self::Phase(Phase::Promoted),
            outcome => Self::End(outcome),
        }
    }

    const fn is_last(self) -> bool {
        matches!(self, Self::Phase(phase) if phase.is_last())
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pairing => "pairing",
            Self::Phase(phase) => phase.name(),
            Self::End(outcome) => outcome.name(),
        }
    }

    /// For a narrow column.
    pub(super) fn brief(self) -> &'static str {
        match self {
            Self::Phase(Phase::EndingSuccessor) => "ending",
            Self::Phase(Phase::Promoting) => "promoting",
            of => of.name(),
        }
    }

    /// Whether its number is all that a narrow column needs to bear.
    pub(super) const fn is_number_enough(self) -> bool {
        use Phase::{EndingSuccessor, Paired, Prepared, Ready, Sealed, Warmed};
        matches!(
            self,
            Self::Pairing
                | Self::Phase(Paired | Warmed | Prepared | Sealed | Ready | EndingSuccessor)
        )
    }
}

impl Activity {
    const fn new(label: &'static str, short: &'static str, mood: Mood) -> Self {
        Self { label, short, mood }
    }

    /// The supervisor ends it at once, or once the incumbent serves.
    fn given_up(self) -> Self {
        if self == IS_ENDED { ENDED } else { GIVEN_UP }
    }
}

const SERVES: Activity = Activity::new("serves", "serves", Mood::Serves);
const SERVES_AGAIN: Activity = Activity::new("serves again", "serves", Mood::Serves);
const DRAINS: Activity = Activity::new("drains", "drains", Mood::Works);
const DRAINED: Activity = Activity::new("drained", "drained", Mood::Waits);
const SEALS: Activity = Activity::new("seals", "seals", Mood::Works);
const LOCK_FREE: Activity = Activity::new("sealed, lock free", "sealed", Mood::Waits);
const SEALED: Activity = Activity::new("sealed", "sealed", Mood::Waits);
const LEAVES: Activity = Activity::new("leaves", "leaves", Mood::Gone);
const ASKED: Activity = Activity::new("is asked to serve", "resumes", Mood::Works);
const DEAD: Activity = Activity::new("dead", "dead", Mood::Gone);
const UNCONFIRMED: Activity = Activity::new("has not confirmed", "not known", Mood::Unknown);
const NOT_STARTED: Activity = Activity::new("not started", "-", Mood::Gone);
const STARTS: Activity = Activity::new("starts", "starts", Mood::Works);
const WARMS: Activity = Activity::new("warms up", "warms", Mood::Works);
const WARM: Activity = Activity::new("waits, warm", "waits", Mood::Waits);
const OPENS: Activity = Activity::new("takes the lock, opens, verifies", "opens", Mood::Works);
const READY: Activity = Activity::new("ready", "ready", Mood::Waits);
const COMMITS: Activity = Activity::new("commits", "commits", Mood::Works);
const GIVEN_UP: Activity = Activity::new("given up", "given up", Mood::Waits);
const IS_ENDED: Activity = Activity::new("is ended", "is ended", Mood::Works);
const ENDED: Activity = Activity::new("ended", "ended", Mood::Gone);
const UNKNOWN: Activity = Activity::new("not known", "not known", Mood::Unknown);
