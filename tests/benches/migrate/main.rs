//! The pause of a swap to a build that converts all data, beside that of a swap which converts none,
//! for data of several sizes: the example `ledger`, whose log a client writes meanwhile.
//!
//! `cargo bench -p handoff-tests --bench migrate [-- SIZE ...]`, a size in bytes with K, M or G: 1M and
//! 1G by default. Each round writes a log of that size twice, once for the two builds each: twice the
//! size has to be free in the temporary directory. Without `--bench`, as under `cargo test`, it runs
//! once and small. A line that was answered and is missing, or was not converted, fails the run; a
//! ratio does not.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use handoff::drainable::RollingDigest;
use handoff::supervisor::{ChildProcess, Committed, HandoffOutcome, Timings};
use handoff::{Result, SpawnSpec, Supervisor};
use handoff_tests::figures::{Spread, bytes, ms};
use handoff_tests::harness::program;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (options, sizes): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with('-'));
    let is_measured = options.iter().any(|option| *option == "--bench");
    let sizes = sizes.into_iter().map(|size| size_of(size)).collect::<io::Result<Vec<_>>>()?;
    let (sizes, rounds) = match (sizes.is_empty(), is_measured) {
        (_, false) => (vec![1 << 16], 1),
        (true, true) => (vec![1 << 20, 1 << 30], ROUNDS),
        (false, true) => (sizes, ROUNDS),
    };
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "data",
        "swap",
        "warm",
        "seal",
        "open",
        "commit",
        "pause",
        "longest other wait",
    ]);
    for size in sizes {
        let mut pauses = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            // The two after one another, on the same data: the disk is as busy for both.
            for (build, pauses) in ["1", "2"].into_iter().zip(&mut pauses) {
                let (Waits { pause, other }, timings) = swap(size, build)?;
                let Timings { warm, seal, open, commit, .. } = timings;
                let phases = [warm, seal, open, commit, pause, other]
                    .map(|time| format!("{:.1} ms", ms(time)));
                let kind = if build == "1" { "as it is" } else { "converts" };
                let row = [bytes(size), kind.to_owned()].into_iter().chain(phases);
                table.add_row(row.collect::<Vec<_>>());
                pauses.push(ms(pause));
            }
        }
        // Round by round.
        let ratios = Spread::of(pauses[1].iter().zip(&pauses[0]).map(|(new, old)| new / old));
        let [as_it_is, converts] = pauses.map(Spread::of);
        println!(
            "{}: {:.1} ms as it is, {:.1} ms with the conversion (medians); ratio {:.2} to {:.2}, median {:.2}",
            bytes(size),
            as_it_is.median,
            converts.median,
            ratios.min,
            ratios.max,
            ratios.median
        );
    }
    println!("{table}");
    Ok(())
}

/// The longest times between two answers to a client.
#[derive(Default)]
struct Waits {
    /// Of two processes.
    pause: Duration,
    /// Of one process, which shares the disk with the conversion.
    other: Duration,
}

/// Swaps the first build, on a log of that size, to a build.
fn swap(size: u64, build: &str) -> Result<(Waits, Timings)> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    fs::create_dir(&data)?;
    write_log(&data, size)?;
    let control = directory.path().join("control");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let supervisor = Supervisor::new(&control)?.with_listener("ledger", listener);
    let spec = |build: &str| SpawnSpec {
        args: [control.display().to_string(), data.display().to_string(), build.to_owned()]
            .to_vec(),
        deadline: Duration::from_secs(3600),
        one_way: true,
        ..SpawnSpec::new(program("ledger"))
    };
    let mut serving = Killed(supervisor.start(&spec("1"))?);
    let (answered, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (timings, waits) = thread::scope(|scope| {
        let client = scope.spawn(|| write_lines(address, &answered, &stop));
        let swapped = wait_for_more(&answered)
            .and_then(|()| supervisor.perform_handoff(spec(build)).map_err(io::Error::other))
            .and_then(|outcome| match outcome {
                HandoffOutcome::Committed(Committed { successor, timings, .. }) => {
                    serving = Killed(successor);
                    wait_for_more(&answered)?;
                    Ok(timings)
                }
                HandoffOutcome::Failed(failed) => Err(io::Error::other(failed.to_string())),
            });
        stop.store(true, Ordering::SeqCst);
        let waits = client.join().expect("the client does not panic");
        swapped.and_then(|timings| Ok((timings, waits?)))
    })?;
    drop(serving);
    check(&data, size, answered.into_inner(), build)?;
    Ok((waits, timings))
}

struct Killed(ChildProcess);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A log as the first build leaves it: so the first start reads only its end.
fn write_log(data: &Path, size: u64) -> io::Result<()> {
    let mut digest = RollingDigest::new();
    let mut log = BufWriter::with_capacity(1 << 20, File::create(data.join("ledger.log"))?);
    while digest.length() < size {
        log.write_all(LINE)?;
        digest.update(LINE);
    }
    log.into_inner()?.sync_all()?;
    fs::write(data.join("ledger.checkpoint"), digest.checkpoint().to_bytes())
}

/// Writes line after line, each with a number of its own, and each one once more where the connection
/// ends before the answer.
fn write_lines(address: SocketAddr, answered: &AtomicU64, stop: &AtomicBool) -> io::Result<Waits> {
    let mut waits = Waits::default();
    let mut last = None;
    while !stop.load(Ordering::SeqCst) {
        let mut client = BufReader::new(TcpStream::connect(address)?);
        client.get_ref().set_read_timeout(Some(TIMEOUT))?;
        let (mut answer, mut is_first) = (String::new(), true);
        while !stop.load(Ordering::SeqCst) {
            let line = format!("{}\n", answered.load(Ordering::SeqCst));
            if client.get_mut().write_all(line.as_bytes()).is_err() {
                break;
            }
            answer.clear();
            match client.read_line(&mut answer) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                _ => break,
            }
            answered.fetch_add(1, Ordering::SeqCst);
            let waited = last.replace(Instant::now()).map_or(Duration::ZERO, |last| last.elapsed());
            let longest = if is_first { &mut waits.pause } else { &mut waits.other };
            *longest = waited.max(*longest);
            is_first = false;
        }
    }
    Ok(waits)
}

fn wait_for_more(answered: &AtomicU64) -> io::Result<()> {
    let (enough, deadline) = (answered.load(Ordering::SeqCst) + 20, Instant::now() + TIMEOUT);
    while answered.load(Ordering::SeqCst) < enough {
        if Instant::now() > deadline {
            return Err(io::Error::other("the daemon does not answer"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// All lines are there, in their order, and after a conversion each has its time.
fn check(data: &Path, size: u64, answered: u64, build: &str) -> io::Result<()> {
    let (path, is_converted) = match build {
        "1" => (data.join("ledger.log"), false),
        _ => (data.join("current/ledger.log"), true),
    };
    let wrong = |line: u64, found: &[u8]| {
        let found = String::from_utf8_lossy(found);
        Err(io::Error::other(format!("line {line} of {} is {found:?}", bytes(size))))
    };
    let before = size.div_ceil(LINE.len() as u64);
    let mut log = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut lines, mut expected) = (0, 0);
    let mut entry = Vec::new();
    while log.read_until(b'\n', &mut entry)? > 0 {
        let line = match entry.iter().position(|byte| *byte == b' ') {
            Some(space) if is_converted => &entry[space + 1..],
            _ => &entry[..],
        };
        if lines < before {
            if line != LINE || is_converted && !entry.starts_with(b"0 ") {
                return wrong(lines, &entry);
            }
        } else if line == format!("{expected}\n").as_bytes() {
            expected += 1;
        } else if expected == 0 || line != format!("{}\n", expected - 1).as_bytes() {
            // Not one whose answer was lost with the connection, either.
            return wrong(lines, &entry);
        }
        lines += 1;
        entry.clear();
    }
    if lines < before || expected < answered {
        return Err(io::Error::other(format!("{expected} of {answered} answered lines are there")));
    }
    Ok(())
}

/// Of bytes with K, M or G.
fn size_of(text: &str) -> io::Result<u64> {
    let (number, shift) = match text.char_indices().last() {
        Some((at, 'K')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    size.ok_or_else(|| io::Error::other(format!("{text} is no size: write 64K, 100M or 10G")))
}

const LINE: &[u8] = b"a line of one hundred bytes, so that a gigabyte is ten million lines of them: 0123456789 0123456789\n";
const ROUNDS: usize = 5;
/// What nothing but the conversion takes longer than.
const TIMEOUT: Duration = Duration::from_secs(120);
