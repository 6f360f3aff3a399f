//! The supervisor's own socket: the requests of its clients, and its replies.

mod client;
mod server;

use std::collections::VecDeque;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use client::{Client, ClientError};
pub(crate) use server::{Asked, Asker, Trigger};

use crate::history::Entry;
use crate::record::{SwapEvent, SwapRecord};
use crate::status::Status;

/// One line from a client. Each connection asks once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    /// To a binary that the configuration lists; to the first one if none is named.
    Swap {
        binary: Option<PathBuf>,
        dry_run: bool,
        /// Whether the client hears of it until its end.
        follow: bool,
    },
    Abort {
        reason: String,
    },
    History,
    Metrics,
    /// A supervisor that upgrades itself ends the connection without an answer.
    Upgrade,
    Stop,
}

/// One line to a client; the last one before the connection is closed is the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    Status(Box<Status>),
    History(VecDeque<Entry>),
    Text(String),
    /// The swap has that id from here on.
    Begun {
        id: String,
    },
    Step(SwapEvent),
    Ended(Box<SwapRecord>),
    /// The supervisor did not do it.
    Refused {
        why: String,
        /// The swap that is in the way.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        in_flight: Option<String>,
    },
    Stopped {
        status: String,
        /// Whether the daemon ended cleanly.
        clean: bool,
    },
}

impl Reply {
    pub(crate) fn refused(why: impl ToString) -> Self {
        Self::Refused { why: why.to_string(), in_flight: None }
    }
}

/// The maximum length of a request, in bytes.
const MAX_REQUEST_LEN: usize = 64 * 1024;
