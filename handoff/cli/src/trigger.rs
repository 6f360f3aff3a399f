//! The supervisor's own socket: the requests of its clients, and its replies.

mod client;
mod server;

use std::collections::VecDeque;
use std::ops::Not;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use client::{Client, ClientError};
pub(crate) use server::{Asked, Asker, Trigger};

use crate::history::Entry;
use crate::record::{Party, SwapEvent, SwapRecord};
use crate::status::Status;

/// One line from a client. Each connection asks once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    Swap(SwapRequest),
    Abort {
        reason: String,
    },
    History,
    Metrics,
    /// A supervisor that upgrades itself ends the connection without an answer.
    Upgrade,
    Stop,
    /// To stop the supervisor alone.
    Leave,
}

/// A swap, as the command line has it, and the request of that name.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SwapRequest {
    /// A binary that the configuration lists, in place of daemon.binary
    #[arg(long, value_name = "PATH")]
    pub(crate) binary: Option<PathBuf>,
    /// Follow it to its end
    #[arg(long = "wait")]
    pub(crate) follow: bool,
    /// Go as far as the warm-up of the new process, and end it; nothing is drained
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Allow a swap that only a restore of the data can undo: back the data up first
    ///
    /// Such a swap leads to a build that writes a format of the data which the present one does not
    /// read. Without this option it is refused while the present process serves.
    // A supervisor of a version that does not know this field refuses the request.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) one_way: bool,
    /// With --wait: do not wait for the end of the probation, but for the commit alone
    // The supervisor tells both: the client leaves.
    #[arg(long, requires = "follow")]
    #[serde(skip)]
    pub(crate) no_probation_wait: bool,
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
        /// Whether it may be one-way.
        #[serde(default, skip_serializing_if = "Not::not")]
        one_way: bool,
    },
    Step(SwapEvent),
    Ended(Box<SwapRecord>),
    /// Behind the end: the successor is on probation, and one more reply comes.
    OnProbation {
        left_ms: u64,
    },
    /// The probation is over.
    Judged(Box<Judged>),
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
    /// The supervisor stops, and leaves this daemon serving.
    Left {
        serves: Option<Party>,
    },
}

/// The end of a probation, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Judged {
    pub(crate) swap: SwapRecord,
    /// The swap back, where one was made or tried.
    pub(crate) back: Option<SwapRecord>,
    /// The process that serves now.
    pub(crate) serves: Option<Party>,
    /// Whether what served before serves again.
    pub(crate) is_back: bool,
}

impl Reply {
    pub(crate) fn refused(why: impl ToString) -> Self {
        Self::Refused { why: why.to_string(), in_flight: None }
    }
}

/// The maximum length of a request, in bytes.
const MAX_REQUEST_LEN: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// The request as the versions before `one_way` have it.
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    enum Earlier {
        #[expect(dead_code, reason = "it is parsed, and not looked at")]
        Swap { binary: Option<PathBuf>, dry_run: bool, follow: bool },
    }

    #[test]
    fn earlier_clients_and_supervisors_know_each_swap_but_one_that_may_be_one_way() {
        let request = |one_way| {
            let swap = SwapRequest { one_way, ..SwapRequest::default() };
            serde_json::to_string(&Request::Swap(swap)).unwrap()
        };
        let earlier = r#"{"swap":{"binary":null,"follow":false,"dry_run":false}}"#;
        assert_eq!(request(false), earlier);
        serde_json::from_str::<Earlier>(earlier).unwrap();
        serde_json::from_str::<Request>(earlier).unwrap();
        let error = serde_json::from_str::<Earlier>(&request(true)).unwrap_err().to_string();
        assert!(error.contains("unknown field `one_way`"), "{error}");
    }
}
