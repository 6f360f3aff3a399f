//! What carrying costs a client: the pause of a daemon with ten thousand connections beside
//! that of the same daemon with a few, and beside what the kernel takes to move as many
//! descriptors; and the pause with memory of two sizes.
//!
//! `cargo bench -p handoff-tests --bench carry`. With `CARRY_BENCH_QUICK=1` there are two rounds;
//! without `--bench`, as under `cargo test --benches`, there is one with fewer connections. A
//! connection that was closed, or an answer that is not what it has to be, fails the run; a
//! target that was missed does so with `CARRY_BENCH_STRICT=1` alone, since machines are busy.

mod bare;
mod clients;
#[expect(dead_code, reason = "another bench looks at more of a swap")]
mod daemon;
mod report;

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clients::{Clients, Faults, Waited};
use daemon::{Daemon, Load};
use handoff::Result;
use handoff_tests::figures::bytes;
use report::{Series, Target, Targets, Times, median};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> ExitCode {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let effort = match measured {
        true if is_set("CARRY_BENCH_QUICK") => Effort { rounds: 2, ..Effort::FULL },
        true => Effort::FULL,
        false => Effort::SMOKE,
    };
    match run(&effort, measured) {
        Ok(Verdict { faults, targets_met }) => {
            if faults != Faults::default() {
                println!("FAILED: {faults:?}");
                return ExitCode::FAILURE;
            }
            let is_strict = measured && is_set("CARRY_BENCH_STRICT");
            ExitCode::from(u8::from(is_strict && !targets_met))
        }
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| value == "1")
}

struct Effort {
    rounds: usize,
    idle: usize,
    busy: usize,
    large: usize,
}

impl Effort {
    const FULL: Self = Self { rounds: 7, idle: 10_000, busy: 200, large: 1 << 30 };
    /// Shows that everything runs.
    const SMOKE: Self = Self { rounds: 1, idle: 500, busy: 20, large: 64 << 20 };
}

struct Verdict {
    faults: Faults,
    targets_met: bool,
}

/// A daemon with its clients, and its pauses.
struct Variant {
    name: String,
    daemon: Daemon,
    clients: Clients,
    /// From the last answer of the old process to the first of the new one, of the connection in
    /// the middle.
    pause: Series,
    /// Of the slowest.
    slowest: Series,
    /// Between two answers of the old process, of the connection in the middle: idle connections
    /// are sent ahead meanwhile.
    before: Series,
    /// Between two answers of the new process: idle connections are taken up meanwhile.
    after: Series,
    /// Between any two answers.
    longest: Series,
    phases: [Series; 4],
}

impl Variant {
    fn start(name: String, memory: usize, idle: usize, busy: usize) -> Result<Self> {
        let daemon = Daemon::start(&Load { memory, ..Load::default() })?;
        let mut clients = Clients::connect(daemon.address(), idle, busy)?;
        clients.check(daemon.pid());
        let phases = ["drain", "seal", "open", "commit"];
        Ok(Self {
            daemon,
            clients,
            pause: Series::new(format!("{name}: median connection")),
            slowest: Series::new(format!("{name}: slowest connection")),
            before: Series::new(format!("{name}: longest gap before")),
            after: Series::new(format!("{name}: longest gap after")),
            longest: Series::new(format!("{name}: longest gap of all")),
            phases: phases.map(|phase| Series::new(format!("{name}: {phase}"))),
            name,
        })
    }

    fn swap(&mut self) -> Result<()> {
        let Self { daemon, clients, pause, slowest, before, after, longest, phases, .. } = self;
        let (swapped, waited) = clients.under_load(|watch| -> Result<_> {
            watch.begin(daemon.pid())?;
            let swapped = daemon.swap()?;
            watch.wait_answered(daemon.pid())?;
            Ok(swapped)
        })?;
        let swapped = swapped?;
        if swapped.carried < clients.len() as u64 {
            println!("{}: {} of {} were carried", self.name, swapped.carried, clients.len());
        }
        let each = |of: fn(&Waited) -> Duration| waited.iter().map(of).collect::<Vec<_>>();
        pause.push(median(&each(|waited| waited.pause)));
        slowest.push(each(|waited| waited.pause).into_iter().max().unwrap_or_default());
        before.push(median(&each(|waited| waited.before)));
        after.push(median(&each(|waited| waited.after)));
        longest.push(median(&each(Waited::longest)));
        let took = swapped.phases;
        for (series, took) in phases.iter_mut().zip([took.drain, took.seal, took.open, took.commit])
        {
            series.push(took);
        }
        clients.check(daemon.pid());
        swapped.wait_ended()
    }
}

fn run(effort: &Effort, measured: bool) -> Result<Verdict> {
    let start = Instant::now();
    let Effort { rounds, busy, large, .. } = *effort;
    let idle = effort.idle.min(max_connections()?.saturating_sub(busy));
    if idle < effort.idle {
        println!("the limits of this machine leave {idle} of {} idle connections", effort.idle);
    }
    let count = idle + busy;
    let mut variants = [
        Variant::start(format!("{busy} busy of {count}"), 0, idle, busy)?,
        Variant::start(format!("{busy} busy of {busy}"), 0, 0, busy)?,
        Variant::start("4 busy of 4".to_owned(), 0, 0, FEW)?,
        Variant::start(format!("... and {}", bytes(SMALL as u64)), SMALL, 0, FEW)?,
        Variant::start(format!("... and {}", bytes(large as u64)), large, 0, FEW)?,
    ];
    let mut bare = Series::new(format!("bare SCM_RIGHTS, {count} descriptors"));
    let mut turns: Vec<usize> = (0..variants.len()).collect();
    for _ in 0..rounds {
        for turn in &turns {
            let variant = &mut variants[*turn];
            variant.swap()?;
            if variant.clients.len() == count {
                bare.push(bare::send(&variant.clients.descriptors())?);
            }
        }
        turns.rotate_left(1);
    }
    let [many, same, few, small, large] = &variants;
    let added = |more: &Variant| more.pause.pairwise(&few.pause, |more, few| more - few);
    let added_to_any = many.longest.pairwise(&few.longest, |more, few| more - few);
    let per_bare = |added: Vec<f64>| {
        added.into_iter().zip(bare.values()).map(|(added, bare)| added / bare).collect()
    };
    let carrying = format!("carrying {count}");
    let targets = [
        Target::new(format!("{carrying}: added / bare"), per_bare(added(many)), "", 3.0),
        Target::new(format!("{carrying}: of any gap, so"), per_bare(added_to_any), "", 3.0),
        Target::new(format!("{}: added", large.name), added(large), " ms", 5.0),
        Target::new(
            format!("{}: added beside the smaller", large.name),
            large.pause.pairwise(&small.pause, |large, small| large - small),
            " ms",
            1.0,
        ),
    ];
    let faults = variants.iter().fold(Faults::default(), |sum, one| sum + one.clients.faults);
    if measured {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("{rounds} rounds, {:.0?}, load {load}", start.elapsed());
        let pauses = variants.iter().flat_map(|one| [&one.pause, &one.slowest]);
        println!("pauses\n{}\n", Times(pauses.chain([&bare]).collect()));
        let around = [many, same].into_iter();
        let around = around.flat_map(|one| [&one.before, &one.after, &one.longest]);
        println!("around the pause, median connection\n{}\n", Times(around.collect()));
        let phases = [many, few].into_iter().flat_map(|one| &one.phases);
        println!("of which, as the supervisor sees it\n{}\n", Times(phases.collect()));
        println!("{}\n", Targets(&targets));
    }
    let Faults { closed, old, state, memory } = faults;
    println!(
        "{} swaps; {closed} connections closed, {old} answered by an old process, {state} from \
         another state, {memory} from other memory",
        rounds * variants.len(),
    );
    Ok(Verdict { faults, targets_met: targets.iter().all(Target::is_met) })
}

/// As many as there may be descriptors in a process, and ports of one address.
fn max_connections() -> io::Result<usize> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let descriptors = maximum.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ports = range.split_whitespace().filter_map(|port| port.parse::<usize>().ok());
    let ports = match (ports.next(), ports.next()) {
        (Some(first), Some(last)) => last.saturating_sub(first),
        _ => usize::MAX,
    };
    println!("at most {descriptors} descriptors in a process, and {ports} ports");
    Ok(descriptors.min(ports).saturating_sub(SPARE))
}

/// Connections where there are but a few, which are busy.
const FEW: usize = 4;
const SMALL: usize = 16 << 20;
/// Descriptors and ports for everything else.
const SPARE: usize = 500;
