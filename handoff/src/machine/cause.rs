//! Why a swap was given up, and the fate of the incumbent.

use std::time::Duration;

use crate::error::PeerMisbehaved;
use crate::guard::{Guard, stands};
use crate::machine::outcome::Outcome;
use crate::machine::phase::Phase;

/// Why a swap was given up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The caller aborted, or dropped the session.
    #[error("the supervisor was asked to abort: {0}")]
    Requested(String),
    /// The deadline of the swap passed.
    #[error("the deadline of the swap passed while {0}")]
    DeadlinePassed(Phase),
    /// The pause reached its limit, [`SpawnSpec::pause_limit`](crate::SpawnSpec::pause_limit).
    #[error(
        "clients waited for {limit:?}, the limit of the pause, and the swap was {phase}{}: raise the limit (`pause` under [limits], SpawnSpec::pause_limit), or {}",
        .since.in_words(), remedy(*.phase)
    )]
    PauseTooLong {
        /// The limit.
        limit: Duration,
        /// The phase of the swap in which it passed.
        phase: Phase,
        /// The moment from which it counted.
        since: PauseStart,
    },
    /// The successor died, or closed its connection.
    #[error(
        "the successor ended, closed its connection or sent bytes that are no message, while {0}; see its log and the supervisor's"
    )]
    SuccessorLost(Phase),
    /// The successor said that it cannot go on.
    #[error("the successor gave up: {0}")]
    SuccessorGaveUp(String),
    /// The successor was silent past the liveness timeout.
    #[error("the successor sent no heartbeat in time while {0}; it may hang, or be stopped")]
    SuccessorSilent(Phase),
    /// The successor said `Ready`, and the policy refused it.
    #[error("the successor is not fit to serve: {0}")]
    Unfit(Unfit),
    /// The incumbent died.
    #[error("the incumbent died while {0}")]
    IncumbentDied(Phase),
    /// The incumbent closed its connection.
    #[error("the incumbent closed its connection while {0}")]
    IncumbentDisconnected(Phase),
    /// The incumbent was silent past the liveness timeout.
    #[error("the incumbent sent no heartbeat in time while {0}; it may hang, or be stopped")]
    IncumbentSilent(Phase),
    /// The incumbent's drain or seal failed.
    #[error("the incumbent could not drain or seal: {error} ({partial_state})")]
    SealFailed {
        /// The incumbent's words for the failure.
        error: String,
        /// How far the incumbent got.
        partial_state: String,
    },
    /// The incumbent is being stopped on purpose, so no process takes its place.
    #[error("the incumbent is stopping: {0}")]
    IncumbentStopped(String),
    /// The incumbent refused, or its deadline passed.
    #[error("the incumbent refused the swap or gave it up: {0}")]
    IncumbentAborted(String),
    /// The incumbent broke the protocol.
    #[error("the incumbent broke the protocol: {0}")]
    IncumbentMisbehaved(PeerMisbehaved),
    /// The successor broke the protocol.
    #[error("the successor broke the protocol: {0}")]
    SuccessorMisbehaved(PeerMisbehaved),
}

impl Cause {
    /// Whether the successor may take the place of an incumbent that has died.
    pub(super) fn admits_promotion(&self) -> bool {
        let is_stopped = matches!(self, Self::IncumbentStopped(_)) && stands(Guard::StopIsFinal);
        !self.is_the_successor_s() && !is_stopped
    }

    /// Whether the cause is a fault of the successor.
    pub(super) const fn is_the_successor_s(&self) -> bool {
        match self {
            Self::SuccessorLost(_)
            | Self::SuccessorGaveUp(_)
            | Self::SuccessorSilent(_)
            | Self::SuccessorMisbehaved(_)
            | Self::Unfit(_) => true,
            Self::Requested(_)
            | Self::DeadlinePassed(_)
            | Self::PauseTooLong { .. }
            | Self::IncumbentDied(_)
            | Self::IncumbentDisconnected(_)
            | Self::IncumbentSilent(_)
            | Self::SealFailed { .. }
            | Self::IncumbentStopped(_)
            | Self::IncumbentAborted(_)
            | Self::IncumbentMisbehaved(_) => false,
        }
    }
}

/// The moment from which the limit of a pause counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PauseStart {
    /// The incumbent closed its gate.
    GateClosed,
    /// The supervisor asked the incumbent to drain: the incumbent's build does not say when its gate
    /// closes.
    DrainRequested,
}

impl PauseStart {
    const fn in_words(self) -> &'static str {
        match self {
            Self::GateClosed => "",
            Self::DrainRequested => {
                " (the old build does not say when its gate closes, so that all of its drain counts)"
            }
        }
    }
}

/// The way to a shorter pause.
const fn remedy(phase: Phase) -> &'static str {
    match phase {
        Phase::Draining => "find out which requests the drain waits for",
        Phase::Sealing => "make the seal of the old build faster",
        Phase::Opening => "make the opening of the new build faster",
        _ => "find out which step before took long, or let the supervisor's caller go on sooner",
    }
}

/// Why a successor that said `Ready` is not told to commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The successor's own health check failed.
    #[error("its own health check failed")]
    Unhealthy,
    /// The successor opened another number of shards than the incumbent sealed.
    #[error("it opened {ready} shards, and the incumbent sealed {sealed}")]
    ShardCount {
        /// By the incumbent.
        sealed: usize,
        /// By the successor.
        ready: usize,
    },
    /// The successor opened a shard at an older revision than the incumbent sealed.
    #[error(
        "it opened shard {index} at revision {ready}, and the incumbent sealed it at revision {sealed}"
    )]
    Behind {
        /// The shard's place in declared order, from 0.
        index: usize,
        /// By the incumbent.
        sealed: u64,
        /// By the successor.
        ready: u64,
    },
    /// The incumbent sealed a fingerprint, and the successor did not say which one it verified.
    #[error("it did not say that it verified the sealed fingerprint")]
    NotVerified,
    /// The successor opened another fingerprint than the incumbent sealed.
    #[error("the data that it opened has another fingerprint than the sealed data")]
    WrongFingerprint,
    /// A policy of the caller's own refused, with these words.
    #[error("{0}")]
    Refused(String),
}

/// The fate of the incumbent after a swap that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IncumbentFate {
    /// It serves, and has said so after everything was undone.
    Serving,
    /// It is dead, and no process took its place.
    Lost,
    /// It lives, or may live, and did not confirm in time that it serves; or it is busy with the
    /// swap of another supervisor, or is being stopped; or another supervisor has replaced it, and
    /// another process serves.
    Unknown,
}

impl From<IncumbentFate> for Outcome {
    /// The outcome of a swap that was given up without a promotion of the successor.
    fn from(fate: IncumbentFate) -> Self {
        match fate {
            IncumbentFate::Serving => Self::RolledBack,
            IncumbentFate::Lost => Self::Lost,
            IncumbentFate::Unknown => Self::Unknown,
        }
    }
}
