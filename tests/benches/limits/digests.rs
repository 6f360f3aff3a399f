//! Fingerprints: of a long log to which little was added, and of a whole file beside `b3sum`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use handoff::drainable::{Checkpoint, RollingDigest, digest_file_on_all_cores};
use handoff_tests::figures::{Spread, us};

use crate::Effort;
use crate::report::Results;

pub(crate) fn run(effort: &Effort, results: &mut Results) -> io::Result<()> {
    long_log(effort, results)?;
    whole_file(effort, results)
}

/// What the old process does when it has sealed, and what the new one does to verify it.
fn long_log(effort: &Effort, results: &mut Results) -> io::Result<()> {
    let length = if effort.measured { 10 << 30 } else { 1 << 20 };
    let file = tempfile::Builder::new().prefix("limits-").tempfile()?;
    // Its bytes are zero and take no place on the disk: those that count are the added ones.
    file.as_file().set_len(length)?;
    let mut digest = RollingDigest::new();
    let start = Instant::now();
    digest.catch_up(file.as_file())?;
    results.figure(
        "reading a log of 10 GiB that nobody has read, by one thread",
        format!("{:.1?}", start.elapsed()),
    );
    let mut appended = File::options().append(true).open(file.path())?;
    let (mut kept, mut verified) = (Vec::new(), Vec::new());
    for round in 0..effort.rounds.min(10) {
        let checkpoint = digest.checkpoint().to_bytes();
        let added = vec![round as u8 + 1; ADDED];
        appended.write_all(&added)?;
        // What the writer adds while it writes counts, too.
        let start = Instant::now();
        digest.update(&added);
        let sealed = digest.digest();
        kept.push(us(start.elapsed()));
        let start = Instant::now();
        let checkpoint = Checkpoint::from_bytes(&checkpoint).map_err(io::Error::other)?;
        let opened = RollingDigest::go_on(checkpoint, &File::open(file.path())?)?;
        assert_eq!(opened.digest(), sealed);
        verified.push(us(start.elapsed()));
    }
    let start = Instant::now();
    let whole = digest_file_on_all_cores(file.path()).map_err(io::Error::other)?;
    results.figure("reading it again, on all cores", format!("{:.1?}", start.elapsed()));
    assert_eq!(whole, digest.digest(), "the rolling digest is that of the whole file");
    let [kept, verified] = [kept, verified].map(Spread::of);
    results.times("fingerprint of 10 GiB, 1 MiB of them new: the old process", kept);
    results.times("... and the new one, which opens it", verified);
    let both = (kept.median + verified.median) / 1e3;
    results.check("fingerprint of 10 GiB, 1 MiB of them new, both processes", both, " ms", 20.0);
    Ok(())
}

fn whole_file(effort: &Effort, results: &mut Results) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix("limits-").tempfile()?;
    let block: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 7) as u8).collect();
    for _ in 0..if effort.measured { 1 << 10 } else { 1 } {
        file.write_all(&block)?;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds.min(7) {
        let start = Instant::now();
        let digest = digest_file_on_all_cores(file.path()).map_err(io::Error::other)?;
        ours.push(us(start.elapsed()));
        let Some((took, said)) = b3sum(file.path())? else { continue };
        theirs.push(took);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(said, hex, "it is what `b3sum` says");
    }
    let ours = Spread::of(ours);
    results.times("whole file of 1 GiB, on all cores", ours);
    if theirs.is_empty() {
        results.figure("b3sum", "is not installed: nothing to compare with");
    } else {
        let theirs = Spread::of(theirs);
        results.times("whole file of 1 GiB, `b3sum`", theirs);
        // At least 0.9 of its speed.
        results.check("whole file: time / that of `b3sum`", ours.median / theirs.median, "", 1.11);
    }
    Ok(())
}

/// How long it took, in microseconds, and what it said; none where it is not installed.
fn b3sum(path: &Path) -> io::Result<Option<(f64, String)>> {
    let start = Instant::now();
    let output = Command::new("b3sum").arg("--no-names").arg(path).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Ok(Some((us(start.elapsed()), said)))
        }
        Ok(output) => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

const ADDED: usize = 1 << 20;
