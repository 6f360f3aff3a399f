//! The check before a commit.

use crate::drainable::{ReadinessSnapshot, SealReport};
use crate::machine::cause::Unfit;
use crate::supervisor::CarryReport;

/// A successor that said `Ready`, with the reports that a policy compares.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// The incumbent's report of its seal; none when it died before it could seal, or when it may
    /// have written again since.
    pub sealed: Option<&'a SealReport>,
    /// The successor's report of its readiness.
    pub ready: &'a ReadinessSnapshot,
    /// The fingerprint of the state that it opened, if it computed one.
    pub verified: Option<[u8; 32]>,
    /// The names of the listeners that it was passed.
    pub listeners: Vec<&'a str>,
    /// The sets that it says arrived, and the connections that were late.
    pub carried: &'a CarryReport,
}

/// Decides whether a successor may be told to commit. The supervisor asks once in a swap, while
/// clients wait.
pub trait ReadyPolicy: Send + Sync {
    /// Judges.
    ///
    /// # Errors
    ///
    /// The reason why it may not; the supervisor rolls the swap back.
    fn judge(&self, candidate: &Candidate<'_>) -> Result<(), Unfit>;
}

/// The default: the successor is healthy, has as many shards as the incumbent sealed, none at a
/// lower revision, and the same fingerprint. A sealed fingerprint of all zeros is not compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsSealed;

impl ReadyPolicy for AsSealed {
    fn judge(&self, candidate: &Candidate<'_>) -> Result<(), Unfit> {
        if !candidate.ready.healthz_ok {
            return Err(Unfit::Unhealthy);
        }
        let Some(sealed) = candidate.sealed else { return Ok(()) };
        let revisions = &sealed.last_revision_per_shard;
        let advertised = &candidate.ready.advertised_revision_per_shard;
        if revisions.len() != advertised.len() {
            return Err(Unfit::ShardCount { sealed: revisions.len(), ready: advertised.len() });
        }
        let behind = revisions.iter().zip(advertised).position(|(sealed, ready)| ready < sealed);
        if let Some(index) = behind {
            let (sealed, ready) = (revisions[index], advertised[index]);
            return Err(Unfit::Behind { index, sealed, ready });
        }
        match candidate.verified {
            _ if sealed.data_dir_fingerprint == [0; 32] => Ok(()),
            None => Err(Unfit::NotVerified),
            Some(verified) if verified == sealed.data_dir_fingerprint => Ok(()),
            Some(_) => Err(Unfit::WrongFingerprint),
        }
    }
}

/// Closures decide.
impl<F: Fn(&Candidate<'_>) -> Result<(), Unfit> + Send + Sync> ReadyPolicy for F {
    fn judge(&self, candidate: &Candidate<'_>) -> Result<(), Unfit> {
        self(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(
        change: impl FnOnce(&mut SealReport, &mut ReadinessSnapshot, &mut Option<[u8; 32]>),
    ) -> Result<(), Unfit> {
        let mut sealed =
            SealReport { last_revision_per_shard: vec![4, 7], data_dir_fingerprint: [1; 32] };
        let mut ready = ReadinessSnapshot {
            listening_on: vec!["resp".into()],
            healthz_ok: true,
            advertised_revision_per_shard: vec![4, 7],
        };
        let mut verified = Some([1; 32]);
        change(&mut sealed, &mut ready, &mut verified);
        let listeners = vec!["resp"];
        let carried = &CarryReport::default();
        let sealed = Some(&sealed);
        AsSealed.judge(&Candidate { sealed, ready: &ready, verified, listeners, carried })
    }

    #[test]
    fn a_successor_as_sealed_is_fit_and_any_other_is_not() {
        assert_eq!(judged(|_, _, _| ()), Ok(()));
        assert_eq!(judged(|_, ready, _| ready.advertised_revision_per_shard[0] = 5), Ok(()));
        assert_eq!(judged(|_, ready, _| ready.healthz_ok = false), Err(Unfit::Unhealthy));
        assert_eq!(
            judged(|_, ready, _| ready.advertised_revision_per_shard.truncate(1)),
            Err(Unfit::ShardCount { sealed: 2, ready: 1 })
        );
        assert_eq!(
            judged(|_, ready, _| ready.advertised_revision_per_shard[1] = 6),
            Err(Unfit::Behind { index: 1, sealed: 7, ready: 6 })
        );
        assert_eq!(judged(|_, _, verified| *verified = None), Err(Unfit::NotVerified));
        assert_eq!(
            judged(|_, _, verified| *verified = Some([2; 32])),
            Err(Unfit::WrongFingerprint)
        );
        let none = |sealed: &mut SealReport, _: &mut _, verified: &mut _| {
            sealed.data_dir_fingerprint = [0; 32];
            *verified = None;
        };
        assert_eq!(judged(none), Ok(()));
    }
}
