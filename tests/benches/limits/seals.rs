//! Seals of many shards, beside the same work without the library.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use handoff::drainable::{SealReport, ShardList};
use handoff::{Result, Shard};
use handoff_tests::figures::{Spread, us};

use crate::Effort;
use crate::report::Results;

/// A shard that has nothing to do.
struct Nothing;

impl Shard for Nothing {
    fn seal(&self) -> Result<u64> {
        Ok(1)
    }

    fn revision(&self) -> u64 {
        1
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        Ok([7; 32])
    }

    fn resume(&self) -> Result<()> {
        Ok(())
    }
}

/// A shard whose seal is the sync of a file.
struct Synced(Mutex<File>);

impl Synced {
    fn write(&self) -> io::Result<()> {
        self.0.lock().expect("nobody panics with it").write_all(&[7; WRITTEN])
    }

    fn sync(&self) -> io::Result<()> {
        self.0.lock().expect("nobody panics with it").sync_data()
    }
}

impl Shard for Synced {
    fn seal(&self) -> Result<u64> {
        self.sync()?;
        Ok(1)
    }

    fn revision(&self) -> u64 {
        1
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        Ok([7; 32])
    }

    fn resume(&self) -> Result<()> {
        Ok(())
    }
}

pub(crate) fn run(effort: &Effort, results: &mut Results) -> io::Result<()> {
    nothing(effort, results)?;
    synced(effort, results)
}

fn nothing(effort: &Effort, results: &mut Results) -> io::Result<()> {
    let shards: Vec<Nothing> = (0..MANY).map(|_| Nothing).collect();
    let mut took = Vec::new();
    for _ in 0..effort.rounds {
        let start = Instant::now();
        // As `#[derive(Drainable)]` does, from gathering the shards to the report.
        let sealed = ShardList::new().with("shards", &shards).seal(&|_| ()).map_err(other)?;
        let report = SealReport::of_shards(&sealed);
        took.push(us(start.elapsed()));
        assert_eq!(report.last_revision_per_shard.len(), MANY);
    }
    let took = Spread::of(took);
    results.times(format!("seal of {MANY} shards that do nothing"), took);
    results.check(format!("seal of {MANY} shards that do nothing"), took.median / 1e3, " ms", 10.0);
    Ok(())
}

fn synced(effort: &Effort, results: &mut Results) -> io::Result<()> {
    let directory = tempfile::Builder::new().prefix("limits-").tempdir()?;
    let shard = |n: usize| File::create(directory.path().join(n.to_string()));
    let shards: Vec<Synced> =
        (0..FILES).map(|n| Ok(Synced(Mutex::new(shard(n)?)))).collect::<io::Result<_>>()?;
    let written = || shards.iter().try_for_each(Synced::write);
    let (mut sealed, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        written()?;
        let start = Instant::now();
        ShardList::new().with("shards", &shards).seal(&|_| ()).map_err(other)?;
        sealed.push(us(start.elapsed()));
        written()?;
        let start = Instant::now();
        thread::scope(|scope| {
            let syncing: Vec<_> = shards.iter().map(|shard| scope.spawn(|| shard.sync())).collect();
            syncing.into_iter().try_for_each(|one| one.join().expect("it does not panic"))
        })?;
        bare.push(us(start.elapsed()));
    }
    let [sealed, bare] = [sealed, bare].map(Spread::of);
    results.times(format!("seal of {FILES} shards that each sync a file"), sealed);
    results.times(format!("the same syncs, from {FILES} threads"), bare);
    results.check("seal / bare threads", sealed.median / bare.median, "", 1.5);
    Ok(())
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

const MANY: usize = 10_000;
const FILES: usize = 64;
const WRITTEN: usize = 16 << 10;
