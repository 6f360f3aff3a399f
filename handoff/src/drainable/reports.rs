//! The reports of the hooks.

/// The result of a drain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections (or requests) that did not end before the deadline.
    pub open_conns_remaining: u32,
    /// Whether the daemon stopped accepting: the derived hook says so if it closed a gate.
    pub accept_closed: bool,
}

/// The result of a seal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealReport {
    /// The last revision of each shard, in declared order.
    pub last_revision_per_shard: Vec<u64>,
    /// The fingerprint over the shards' names, revisions and contents. All zero says that the
    /// daemon has none, and that the successor need not verify one.
    pub data_dir_fingerprint: [u8; 32],
}

/// The result of a seal, with the shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealedState {
    /// The report for the supervisor.
    pub report: SealReport,
    /// The shards in declared order, for the seal manifest. Empty where the daemon has no named
    /// shards.
    pub shards: Vec<SealedShard>,
}

impl SealedState {
    /// The state of these shards.
    #[must_use]
    pub fn of_shards(shards: Vec<SealedShard>) -> Self {
        Self { report: SealReport::of_shards(&shards), shards }
    }
}

/// A daemon without named shards.
impl From<SealReport> for SealedState {
    fn from(report: SealReport) -> Self {
        Self { report, shards: Vec::new() }
    }
}

/// The state of a serving daemon at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateSnapshot {
    /// How many shards it has.
    pub shard_count: u32,
    /// How many connections (or requests) are open.
    pub open_conns: u32,
    /// The last revision of each shard, in declared order.
    pub last_revision_per_shard: Vec<u64>,
}

/// A successor's account of itself, before its supervisor tells it to commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadinessSnapshot {
    /// The names of the listeners that it took.
    pub listening_on: Vec<String>,
    /// Whether its own check of its health passed. The default says that it did not.
    pub healthz_ok: bool,
    /// The revision at which each shard was opened, in declared order.
    pub advertised_revision_per_shard: Vec<u64>,
}

/// One shard as it was sealed: a line of the seal manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedShard {
    /// Its name in the data format.
    pub name: String,
    /// Its last revision.
    pub revision: u64,
    /// BLAKE3 over its contents, by the shard's own account.
    pub digest: [u8; 32],
}

/// How far a seal has come; see [`Drainable::seal_shards`](crate::Drainable::seal_shards).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealProgress {
    /// Shards sealed so far.
    pub shards_sealed: u32,
    /// Shards in all.
    pub shards_total: u32,
    /// The last revision of the shard sealed last.
    pub last_revision: u64,
}
