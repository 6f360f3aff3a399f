//! What each of the three did in a swap, as far as its record tells.

use crate::record::{Outcome, SwapRecord};

/// A swap as a row of phases.
pub(super) struct Story<'a> {
    /// At least one. The last has no end: it is what became of the swap, or where it stands.
    pub(super) phases: Vec<Phase<'a>>,
    pub(super) pause: Option<Pause>,
    /// Up to when anything is known, in microseconds since the swap began.
    pub(super) until: u64,
}

/// One phase, which lasts until the next begins.
pub(super) struct Phase<'a> {
    pub(super) name: &'a str,
    /// Microseconds since the swap began.
    pub(super) from: u64,
    pub(super) incumbent: State,
    pub(super) successor: State,
    /// What is said when it begins.
    pub(super) messages: Vec<Message>,
    /// Nothing is known of when it ended: the supervisor did not live to tell.
    pub(super) is_cut: bool,
}

/// What a process does in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
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

/// Between the supervisor and one of the two.
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
    /// The phase at whose beginning it ended; none if that is not recorded.
    pub(super) over: Option<usize>,
    pub(super) label: String,
}

impl<'a> Story<'a> {
    pub(super) fn of(record: &'a SwapRecord) -> Self {
        let is_started = !record.steps.is_empty();
        let mut story = Self { phases: Vec::new(), pause: None, until: 0 };
        story.phases.push(Phase {
            name: "pairing",
            from: 0,
            incumbent: SERVES,
            successor: if is_started { STARTS } else { NOT_STARTED },
            messages: Vec::new(),
            is_cut: false,
        });
        for (at, name) in record.phases() {
            story.enter(name, at, record.outcome());
        }
        if let Some(end) = &record.end
            && !story.phases.last().is_some_and(|phase| is_last(phase.name))
        {
            let is_cut = story.phases.len() > 1;
            story.phases.iter_mut().last().into_iter().for_each(|phase| phase.is_cut = is_cut);
            story.enter(end.outcome.name(), end.took_us, Some(end.outcome));
            // Whoever settled it, nothing is known of what was said.
            story.phases.iter_mut().last().into_iter().for_each(|phase| phase.messages.clear());
        }
        story.until = story.phases.last().map_or(0, |phase| phase.from);
        if record.end.is_none() {
            let steps = record.steps.iter().map(|step| step.at_us);
            story.until = steps.fold(story.until, u64::max);
        }
        story.pause = story.pause(record);
        story
    }

    /// How long a phase took, in microseconds. None for the last.
    pub(super) fn length(&self, index: usize) -> Option<u64> {
        let next = self.phases.get(index + 1)?;
        Some(next.from.saturating_sub(self.phases.get(index)?.from))
    }

    /// Whether a phase is shown beside the pause only, to show what was before.
    pub(super) fn leads_in(&self, index: usize) -> bool {
        self.pause.as_ref().is_some_and(|pause| index < pause.first)
    }

    fn has(&self, name: &str) -> bool {
        self.phases.iter().any(|phase| phase.name == name)
    }

    fn enter(&mut self, name: &'a str, at: u64, outcome: Option<Outcome>) {
        let Some(before) = self.phases.last() else { return };
        let (incumbent, successor) = self.states(name, outcome, before);
        let messages = self.messages(name, outcome, before.name);
        // A record whose times go back is drawn as if they stood still.
        let from = at.max(before.from);
        self.phases.push(Phase { name, from, incumbent, successor, messages, is_cut: false });
    }

    fn states(&self, name: &str, end: Option<Outcome>, before: &Phase<'_>) -> (State, State) {
        let is_touched = self.has("draining");
        match (name, end) {
            ("paired", _) => (before.incumbent, STARTS),
            ("warming", _) => (before.incumbent, WARMS),
            ("warmed", _) => (before.incumbent, WARM),
            ("draining", _) => (DRAINS, WARM),
            ("prepared", _) => (DRAINED, WARM),
            ("sealing", _) => (SEALS, WARM),
            ("sealed", _) => (LOCK_FREE, WARM),
            ("opening", _) => (SEALED, OPENS),
            ("ready", _) => (SEALED, READY),
            ("committing", _) => (SEALED, COMMITS),
            ("committed", _) => (LEAVES, SERVES),
            ("ending the successor", _) => (before.incumbent, IS_ENDED),
            ("rolling back", _) if is_touched => (ASKED, before.successor.given_up()),
            ("rolling back", _) => (before.incumbent, before.successor.given_up()),
            ("promoting the successor", _) => (DEAD, OPENS),
            ("promoted", _) => (DEAD, SERVES),
            ("lost", _) | ("rolled back", Some(Outcome::Lost)) => (DEAD, ENDED),
            ("rolled back", Some(Outcome::Unknown)) => (UNCONFIRMED, ENDED),
            ("unknown", _) => (UNCONFIRMED, UNKNOWN),
            ("rolled back", None) if is_touched => (ASKED, ENDED),
            ("rolled back", _) if is_touched => (SERVES_AGAIN, ENDED),
            ("not begun", _) if before.successor == NOT_STARTED => (before.incumbent, NOT_STARTED),
            ("rolled back" | "not begun" | "dry run", _) => (SERVES, ENDED),
            _ => (before.incumbent, before.successor),
        }
    }

    fn messages(&self, name: &str, outcome: Option<Outcome>, before: &str) -> Vec<Message> {
        use Peer::{Incumbent, Successor};
        let said = |peer, is_reply, name| Message { name, peer, is_reply };
        let is_confirmed =
            matches!(outcome, Some(Outcome::RolledBack | Outcome::DryRun | Outcome::NotBegun));
        match name {
            "warmed" if before == "warming" => vec![said(Successor, true, "Warmed")],
            "draining" => vec![said(Incumbent, false, "PrepareHandoff")],
            "prepared" => vec![said(Incumbent, true, "Drained")],
            // It was asked for along with the drain.
            "sealing" if before == "draining" => vec![said(Incumbent, true, "Drained")],
            "sealing" => vec![said(Incumbent, false, "SealRequest")],
            "sealed" => vec![said(Incumbent, true, "SealComplete")],
            "opening" => vec![said(Successor, false, "Begin")],
            "ready" => vec![said(Successor, true, "Ready")],
            "committing" => vec![said(Successor, false, "Commit")],
            "committed" => {
                vec![said(Successor, true, "Serving"), said(Incumbent, false, "Commit")]
            }
            "ending the successor" => vec![said(Successor, false, "kill")],
            "rolling back" => vec![said(Incumbent, false, "ResumeAfterAbort")],
            "rolled back" if is_confirmed => vec![said(Incumbent, true, "echo")],
            "promoting the successor" if self.has("warmed") && !self.has("opening") => {
                vec![said(Successor, false, "Begin")]
            }
            "promoted" => vec![said(Successor, true, "Serving")],
            _ => Vec::new(),
        }
    }

    fn pause(&self, record: &SwapRecord) -> Option<Pause> {
        let first = self.phases.iter().position(|phase| phase.name == "draining")?;
        let open = |label: &str| Some(Pause { first, over: None, label: label.into() });
        let over = ["committed", "promoted", "rolled back"];
        let over = self.phases.iter().position(|phase| over.contains(&phase.name));
        let over = over.filter(|over| *over > first);
        let waited = milliseconds(self.until.saturating_sub(self.phases[first].from));
        match (record.outcome(), record.pause_us()) {
            (None, None) => open(&format!("clients wait, {waited} so far")),
            (Some(Outcome::Lost), _) => open("clients wait: nobody serves"),
            (Some(Outcome::Unknown), _) => open("clients wait, for all that is known"),
            (_, Some((from, to))) if to >= from => {
                Some(Pause { first, over, label: format!("pause {}", milliseconds(to - from)) })
            }
            (_, Some(_)) => open("pause of unknown length"),
            (_, None) => {
                let over = Some(self.phases.len() - 1);
                Some(Pause { first, over, label: format!("pause of at most {waited}") })
            }
        }
    }
}

impl State {
    const fn new(label: &'static str, short: &'static str, mood: Mood) -> Self {
        Self { label, short, mood }
    }

    /// It is ended at once, or once the incumbent serves.
    fn given_up(self) -> Self {
        if self == IS_ENDED { ENDED } else { GIVEN_UP }
    }
}

fn is_last(phase: &str) -> bool {
    matches!(phase, "committed" | "rolled back" | "promoted")
}

fn milliseconds(us: u64) -> String {
    match us as f64 / 1000.0 {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1000.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

const SERVES: State = State::new("serves", "serves", Mood::Serves);
const SERVES_AGAIN: State = State::new("serves again", "serves", Mood::Serves);
const DRAINS: State = State::new("drains", "drains", Mood::Works);
const DRAINED: State = State::new("drained", "drained", Mood::Waits);
const SEALS: State = State::new("seals", "seals", Mood::Works);
const LOCK_FREE: State = State::new("sealed, lock free", "sealed", Mood::Waits);
const SEALED: State = State::new("sealed", "sealed", Mood::Waits);
const LEAVES: State = State::new("leaves", "leaves", Mood::Gone);
const ASKED: State = State::new("is asked to serve", "resumes", Mood::Works);
const DEAD: State = State::new("dead", "dead", Mood::Gone);
const UNCONFIRMED: State = State::new("has not confirmed", "not known", Mood::Unknown);
const NOT_STARTED: State = State::new("not started", "-", Mood::Gone);
const STARTS: State = State::new("starts", "starts", Mood::Works);
const WARMS: State = State::new("warms up", "warms", Mood::Works);
const WARM: State = State::new("waits, warm", "waits", Mood::Waits);
const OPENS: State = State::new("takes the lock, opens, verifies", "opens", Mood::Works);
const READY: State = State::new("ready", "ready", Mood::Waits);
const COMMITS: State = State::new("commits", "commits", Mood::Works);
const GIVEN_UP: State = State::new("given up", "given up", Mood::Waits);
const IS_ENDED: State = State::new("is ended", "is ended", Mood::Works);
const ENDED: State = State::new("ended", "ended", Mood::Gone);
const UNKNOWN: State = State::new("not known", "not known", Mood::Unknown);
