//! The control connections, as Unix stream sockets behave.

use crate::machine::successor::ReadyWords;
use crate::protocol::{HandoffId, Message};

/// A message without its payload: there is one swap, and only the policy looks at the rest of
/// a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Word {
    HelloAck,
    Prepare,
    Drained,
    SealRequest,
    SealComplete,
    SealFailed,
    Warmed,
    Begin,
    Ready {
        is_fit: bool,
    },
    Commit,
    Serving,
    Abort,
    Resume,
    /// The heartbeat that a supervisor sends after `Resume`.
    Ask,
    /// The incumbent's echo, and whether the incumbent served at that moment.
    Echo {
        serves: bool,
    },
}

/// The swap of this model.
pub(super) const SWAP: HandoffId = HandoffId::from_bytes([1; 16]);

/// Another one, before it.
pub(super) const OTHER_SWAP: HandoffId = HandoffId::from_bytes([2; 16]);

impl Word {
    pub(super) fn of(message: &Message) -> Self {
        match message {
            Message::HelloAck { .. } => Self::HelloAck,
            Message::PrepareHandoff { .. } => Self::Prepare,
            Message::Drained { .. } => Self::Drained,
            Message::SealRequest { .. } => Self::SealRequest,
            Message::SealComplete { .. } => Self::SealComplete,
            Message::SealFailed { .. } => Self::SealFailed,
            Message::Warmed { .. } => Self::Warmed,
            Message::Begin { .. } => Self::Begin,
            Message::Ready { healthz_ok, .. } => Self::Ready { is_fit: *healthz_ok },
            Message::Commit { .. } => Self::Commit,
            Message::Serving { .. } => Self::Serving,
            Message::Abort { .. } => Self::Abort,
            Message::ResumeAfterAbort { .. } => Self::Resume,
            other => panic!("{} is not said in the model", other.name()),
        }
    }

    pub(super) fn message(self) -> Message {
        let handoff_id = SWAP;
        match self {
            Self::HelloAck => Message::HelloAck { proto_version_chosen: 1, handoff_id },
            Self::Prepare => Message::PrepareHandoff {
                handoff_id,
                successor_pid: 2,
                deadline_ms: 1,
                drain_grace_ms: 1,
            },
            Self::Drained => Message::Drained { open_conns_remaining: 0, accept_closed: true },
            Self::SealRequest => Message::SealRequest { handoff_id },
            Self::SealComplete => Message::SealComplete {
                handoff_id,
                last_revision_per_shard: Vec::new(),
                data_dir_fingerprint: [0; 32],
            },
            Self::SealFailed => Message::SealFailed {
                handoff_id,
                error: String::new(),
                partial_state: String::new(),
            },
            Self::Warmed => Message::Warmed { handoff_id },
            Self::Begin => Message::Begin { handoff_id },
            Self::Ready { is_fit } => {
                let ReadyWords { listening_on, advertised_revision_per_shard, .. } =
                    ready_words(is_fit);
                Message::Ready {
                    handoff_id,
                    listening_on,
                    healthz_ok: is_fit,
                    advertised_revision_per_shard,
                }
            }
            Self::Commit => Message::Commit { handoff_id },
            Self::Serving => Message::Serving { handoff_id, generation: 2 },
            Self::Abort => Message::Abort { handoff_id, reason: String::new() },
            Self::Resume => Message::ResumeAfterAbort { handoff_id },
            Self::Ask | Self::Echo { .. } => Message::Heartbeat { ts_ms: 1 },
        }
    }
}

pub(super) const fn ready_words(healthz_ok: bool) -> ReadyWords {
    ReadyWords { listening_on: Vec::new(), healthz_ok, advertised_revision_per_shard: Vec::new() }
}

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    Open,
    /// Shut for reading.
    Deaf,
    Closed,
}

/// A connection between a supervisor and a daemon. A message stays readable when its sender has
/// died, and then comes the end of file; a message to a closed or deaf end is lost, and its
/// sender learns of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Line {
    to_daemon: Vec<Word>,
    to_supervisor: Vec<Word>,
    supervisor: End,
    daemon: End,
    /// Whether the daemon has heard the supervisor's hello.
    pub(super) is_greeted: bool,
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Word(Word),
    End,
    Nothing,
}

impl Line {
    pub(super) const fn absent() -> Self {
        let (supervisor, daemon) = (End::Closed, End::Closed);
        Self {
            to_daemon: Vec::new(),
            to_supervisor: Vec::new(),
            supervisor,
            daemon,
            is_greeted: false,
        }
    }

    pub(super) const fn greeted() -> Self {
        let mut line = Self::open();
        line.is_greeted = true;
        line
    }

    pub(super) const fn open() -> Self {
        let mut line = Self::absent();
        (line.supervisor, line.daemon) = (End::Open, End::Open);
        line
    }

    /// Whether it arrived.
    pub(super) fn tell_daemon(&mut self, word: Word) -> bool {
        let arrives = self.daemon == End::Open && self.supervisor == End::Open;
        if arrives {
            self.to_daemon.push(word);
        }
        arrives
    }

    /// Whether it arrived.
    pub(super) fn tell_supervisor(&mut self, word: Word) -> bool {
        let arrives = self.supervisor == End::Open && self.daemon != End::Closed;
        if arrives {
            self.to_supervisor.push(word);
        }
        arrives
    }

    pub(super) fn next_for_daemon(&self) -> Heard {
        let ended = self.supervisor == End::Closed || self.daemon == End::Deaf;
        next(&self.to_daemon, self.daemon, ended)
    }

    pub(super) fn next_for_supervisor(&self) -> Heard {
        next(&self.to_supervisor, self.supervisor, self.daemon == End::Closed)
    }

    pub(super) fn daemon_has_read(&mut self) {
        self.to_daemon.remove(0);
    }

    pub(super) fn supervisor_has_read(&mut self) {
        self.to_supervisor.remove(0);
    }

    pub(super) fn is_open_at_daemon(&self) -> bool {
        self.daemon != End::Closed
    }

    /// Whether the supervisor has hung up. Its earlier messages may be unread.
    pub(super) fn is_hung_up(&self) -> bool {
        self.supervisor == End::Closed
    }

    pub(super) fn is_over(&self) -> bool {
        self.supervisor == End::Closed && self.daemon == End::Closed
    }

    pub(super) fn shut_daemon(&mut self) {
        if self.daemon == End::Open {
            self.daemon = End::Deaf;
        }
    }

    pub(super) fn close_supervisor(&mut self) {
        self.supervisor = End::Closed;
        self.to_supervisor.clear();
        self.forget();
    }

    pub(super) fn close_daemon(&mut self) {
        self.daemon = End::Closed;
        self.to_daemon.clear();
        self.forget();
    }

    fn forget(&mut self) {
        if self.is_over() {
            *self = Self::absent();
        }
    }
}

fn next(queue: &[Word], own: End, ended: bool) -> Heard {
    match queue.first() {
        _ if own == End::Closed => Heard::Nothing,
        Some(word) => Heard::Word(*word),
        None if ended => Heard::End,
        None => Heard::Nothing,
    }
}
