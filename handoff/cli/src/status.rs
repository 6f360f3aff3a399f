//! The state of the daemon and of a swap.

use std::ops::Not;

use serde::{Deserialize, Serialize};

use crate::record::{Outcome, Party};

/// The answer to `handoff status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) supervisor: SupervisorStatus,
    pub(crate) daemon: DaemonStatus,
    /// The swap in flight.
    pub(crate) swap: Option<SwapStatus>,
    pub(crate) probation: Option<ProbationStatus>,
    /// The outcome of the last swap.
    pub(crate) last_swap: Option<LastSwap>,
    pub(crate) listeners: Vec<String>,
    /// Conditions that an operator should look at.
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SupervisorStatus {
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) config: String,
    /// Milliseconds since the epoch.
    pub(crate) since_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DaemonStatus {
    pub(crate) state: DaemonState,
    /// The process that serves.
    pub(crate) party: Option<Party>,
    /// Since when it serves, in milliseconds since the epoch.
    pub(crate) since_ms: Option<u64>,
    /// The binary that served before; the supervisor starts it if this one keeps dying.
    pub(crate) previous: Option<Party>,
    /// Whether the swap from the previous binary was allowed to be one-way.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) one_way: bool,
    /// Deaths in a row.
    pub(crate) failures: u32,
    /// Failed health checks in a row.
    #[serde(default)]
    pub(crate) failed_checks: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_failure: Option<String>,
    /// Until the next start.
    pub(crate) starts_in_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DaemonState {
    /// The supervisor looks for the daemon that the supervisor before it left.
    Adopting,
    Starting,
    Serving,
    /// It has the process of one that serves, and fails its health checks.
    Unwell,
    /// The daemon has died, and the supervisor starts it again.
    Dead,
    Stopping,
}

impl DaemonState {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Adopting => "being adopted",
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Unwell => "not well",
            Self::Dead => "dead",
            Self::Stopping => "stopping",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SwapStatus {
    pub(crate) id: String,
    pub(crate) to: Party,
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) one_way: bool,
    pub(crate) phase: String,
    pub(crate) elapsed_ms: u64,
    /// When the old process closed its gate, in microseconds since the swap began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gate_closed_us: Option<u64>,
    /// The requests or connections that the drain waits for.
    pub(crate) waits_for: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProbationStatus {
    pub(crate) swap: String,
    pub(crate) left_ms: u64,
    /// Failed checks in a row.
    pub(crate) failures: u32,
    pub(crate) last_failure: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastSwap {
    pub(crate) id: String,
    pub(crate) begun_ms: u64,
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) one_way: bool,
    pub(crate) outcome: Outcome,
    pub(crate) cause: Option<String>,
    /// The swap that it undid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undid: Option<Undone>,
}

/// A swap whose successor failed its probation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undone {
    pub(crate) swap: String,
    pub(crate) why: String,
}
