//! What each phase of a swap costs with more shards, more connections and more data, one of them at
//! a time.
//!
//! `cargo bench -p handoff-tests --bench scale [-- AXIS ...]`. It prints a table and writes JSON and
//! an SVG plot. Without `--bench`, as under `cargo test --bench scale`, it runs small and once. A
//! closed connection fails the run; a figure does not.

#[expect(dead_code, reason = "of what the clients of the other bench find out, a part is of use")]
#[path = "../carry/clients.rs"]
mod clients;
#[expect(dead_code, reason = "as above")]
#[path = "../carry/daemon.rs"]
mod daemon;
mod plot;
mod report;

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clients::{Clients, Faults};
use daemon::{Daemon, Load, Phases};
use handoff::Result;
use handoff_tests::figures::bytes;
use report::{Axis, Point};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> ExitCode {
    match run() {
        Ok(faults) if faults == Faults::default() => ExitCode::SUCCESS,
        Ok(faults) => {
            println!("FAILED: {faults:?}");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is measured at one point.
#[derive(Clone, Copy)]
struct Size {
    load: Load,
    connections: usize,
    value: u64,
}

fn run() -> Result<Faults> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (options, wanted): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with('-'));
    let measured = options.iter().any(|option| *option == "--bench");
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).map_err(io::Error::from)?;
    let start = Instant::now();
    let mut axes = Vec::new();
    let mut faults = Faults::default();
    for (mut axis, sizes) in axes_of(measured) {
        if !wanted.is_empty() && !wanted.iter().any(|part| axis.name.contains(part.as_str())) {
            continue;
        }
        for size in sizes {
            let (point, of_point) = measure(size, if measured { ROUNDS } else { 1 })?;
            axis.points.push(point);
            faults = faults + of_point;
        }
        println!("{axis}");
        axes.push(axis);
    }
    for path in report::write(&axes)? {
        println!("{}", path.display());
    }
    println!("{:.0?}", start.elapsed());
    Ok(faults)
}

fn axes_of(measured: bool) -> [(Axis, Vec<Size>); 3] {
    let axis = |name, label| Axis { name, label, points: Vec::new() };
    let count = |value: u64| value.to_string();
    let few = Load { memory: 0, shards: 1, log: 0 };
    let shards =
        |shards: usize| Size { load: Load { shards, ..few }, connections: 1, value: shards as u64 };
    let connections =
        |connections: usize| Size { load: few, connections, value: connections as u64 };
    let data = |log: u64| Size { load: Load { log, ..few }, connections: 1, value: log };
    let (shard_counts, connection_counts, lengths): (&[usize], &[usize], &[u64]) = if measured {
        (&[1, 100, 10_000], &[1, 1000, 10_000], &[1 << 10, 1 << 20, 100 << 20, 10 << 30])
    } else {
        (&[1, 100], &[1, 100], &[1 << 10, 1 << 20])
    };
    [
        (axis("shards", count), shard_counts.iter().copied().map(shards).collect()),
        (axis("connections", count), connection_counts.iter().copied().map(connections).collect()),
        (axis("data", bytes), lengths.iter().copied().map(data).collect()),
    ]
}

/// All connections but one are idle; that one tells the pause.
fn measure(size: Size, rounds: usize) -> Result<(Point, Faults)> {
    let start = Instant::now();
    let mut daemon = Daemon::start(&size.load)?;
    let started = start.elapsed();
    let mut clients = Clients::connect(daemon.address(), size.connections - 1, 1)?;
    let mut swaps: Vec<(Phases, Duration)> = Vec::new();
    // The first one's old process has read everything at its start: it is not like the others.
    for _ in 0..=rounds {
        let (swapped, waited) = clients.under_load(|watch| -> Result<_> {
            watch.begin(daemon.pid())?;
            let swapped = daemon.swap()?;
            watch.wait_answered(daemon.pid())?;
            Ok(swapped)
        })?;
        let swapped = swapped?;
        let pause = waited.iter().map(|waited| waited.pause).max().unwrap_or_default();
        swaps.push((swapped.phases, pause));
        clients.check(daemon.pid());
        swapped.wait_ended()?;
    }
    let point = Point { value: size.value, started, swaps: swaps.split_off(1) };
    Ok((point, clients.faults))
}

const ROUNDS: usize = 7;
