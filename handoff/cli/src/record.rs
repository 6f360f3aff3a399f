//! The record of a swap: the history keeps it, and clients see it, also of a swap in flight.

use std::io;
use std::ops::Not;

use handoff::supervisor::Progress;
pub(crate) use handoff::{Outcome, Phase};
use serde::{Deserialize, Serialize};

/// One swap, as far as it is known now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SwapRecord {
    /// The handoff id, as the library shows it.
    pub(crate) id: String,
    /// Milliseconds since the epoch.
    pub(crate) begun_ms: u64,
    pub(crate) trigger: Trigger,
    /// It goes as far as the warm-up.
    pub(crate) dry_run: bool,
    /// It may be one-way: once it has committed, no way back is promised.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) one_way: bool,
    /// The process that is to be replaced.
    pub(crate) from: Party,
    /// The process that is to replace it.
    pub(crate) to: Party,
    /// The change of the listeners that it makes, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) listeners: Vec<String>,
    /// In the order in which they were made.
    pub(crate) steps: Vec<SwapEvent>,
    /// None while the swap is in flight.
    pub(crate) end: Option<End>,
    /// The result of the successor's probation after the commit, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) probation: Option<Probation>,
}

/// The request that a swap answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trigger {
    /// `handoff swap`, by a process of that user.
    Operator { uid: u32, pid: u32 },
    /// `SIGHUP`.
    Hangup,
    /// A health check failed in the probation of that swap, which this one undoes.
    Probation { of: String },
}

/// One of the two processes, and its binary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Party {
    /// The path that the configuration names.
    pub(crate) binary: String,
    /// The hash of the executed file, 64 hexadecimal digits; empty where it cannot be read.
    pub(crate) blake3: String,
    /// The name that the process gives its build, once it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) build: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    /// In the owner record: grows with every change of writer (invariant 10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<u64>,
}

/// Something that happened in a swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SwapEvent {
    /// Microseconds since the swap began.
    pub(crate) at_us: u64,
    #[serde(flatten)]
    pub(crate) what: SwapEventKind,
}

/// The event of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub(crate) enum SwapEventKind {
    /// The successor was started.
    Launched { pid: u32 },
    /// A phase was entered.
    Entered { phase: Phase },
    /// The old process closes its gate: clients wait from here on.
    GateClosed,
    /// The drain waits for these.
    Waiting { open_conns: u32, connections: Vec<String>, unnamed: u32 },
    /// These did not reach a request boundary within the grace of the drain.
    Late { connections: Vec<String>, unnamed: u32 },
    /// So many shards are sealed.
    Sealing { sealed: u32, total: u32 },
    /// The swap is given up.
    GivenUp { cause: String },
}

impl SwapEventKind {
    /// None for a step that is not shown.
    pub(crate) fn of(progress: Progress) -> Option<Self> {
        Some(match progress {
            Progress::Launched { successor_pid, .. } => Self::Launched { pid: successor_pid },
            Progress::Entered { phase, .. } => Self::Entered { phase },
            Progress::GateClosed { .. } => Self::GateClosed,
            Progress::Draining { open_conns, waiting, .. } => {
                let (connections, unnamed) = (waiting.connections, waiting.unnamed);
                Self::Waiting { open_conns, connections, unnamed }
            }
            Progress::Late { late, .. } => {
                Self::Late { connections: late.connections, unnamed: late.unnamed }
            }
            Progress::Sealing { progress, .. } => {
                Self::Sealing { sealed: progress.shards_sealed, total: progress.shards_total }
            }
            Progress::GivenUp { cause, .. } => Self::GivenUp { cause: cause.to_string() },
            _ => return None,
        })
    }
}

/// How a swap ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// Microseconds from its beginning to its end.
    pub(crate) took_us: u64,
    /// In a swap that may be one-way, the time at which the successor admitted requests, in
    /// microseconds since the swap began: it has said before that that it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) admitted_us: Option<u64>,
    /// Why it did not commit, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<String>,
    /// The carried sets, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) carried: Vec<String>,
}

/// The result of the probation of a successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Probation {
    Passed,
    Failed {
        why: String,
    },
    /// Another swap, or the end of the supervisor, came first.
    Ended {
        why: String,
    },
}

/// A line of JSON, as the history and the supervisor's socket have them.
pub(crate) fn line(what: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(line)
}

impl Trigger {
    /// Whether the swap undoes another one.
    pub(crate) const fn undoes(&self) -> bool {
        matches!(self, Self::Probation { .. })
    }
}

impl SwapRecord {
    /// When the clients began to wait and when they did no more, in microseconds since the swap
    /// began: from the closing of the gate, or the start of the drain where that is not known, to
    /// the commit or the promotion, or until the old process confirmed that it serves again. None if nothing was drained, while the clients wait, and if
    /// no process has confirmed that it serves.
    pub(crate) fn pause_us(&self) -> Option<(u64, u64)> {
        let over = match self.outcome()? {
            Outcome::Committed => Phase::Committed,
            Outcome::Promoted => Phase::Promoted,
            Outcome::RolledBack => Phase::RolledBack,
            _ => return None,
        };
        let begun = self.clients_wait()?;
        let over = self.entered(over)?.max(begun);
        Some((begun, self.end.as_ref()?.admitted_us.map_or(over, |admitted| admitted.max(over))))
    }

    /// When the clients began to wait, as far as the record tells.
    pub(crate) fn clients_wait(&self) -> Option<u64> {
        self.gate_closed().or_else(|| self.entered(Phase::Draining))
    }

    /// When the old process closed its gate, in microseconds since the swap began.
    pub(crate) fn gate_closed(&self) -> Option<u64> {
        let closed = |step: &&SwapEvent| step.what == SwapEventKind::GateClosed;
        self.steps.iter().find(closed).map(|step| step.at_us)
    }

    /// When a phase was entered, in microseconds since the swap began.
    pub(crate) fn entered(&self, wanted: Phase) -> Option<u64> {
        self.phases().find(|(_, phase)| *phase == wanted).map(|(at, _)| at)
    }

    /// The phases that were entered, and when.
    pub(crate) fn phases(&self) -> impl Iterator<Item = (u64, Phase)> {
        self.steps.iter().filter_map(|step| match &step.what {
            SwapEventKind::Entered { phase } => Some((step.at_us, *phase)),
            _ => None,
        })
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.end.as_ref().map(|end| end.outcome)
    }
}
