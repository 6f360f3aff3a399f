//! What the library itself costs, beside the least that it could cost, in one run: a swap whose
//! hooks do nothing beside a bare ping-pong of as many messages, seals beside the same syncs from
//! bare threads, the fingerprint of a log beside a read of what was added, and what a daemon that
//! is not being swapped carries along.
//!
//! `cargo bench -p handoff-tests --bench limits [-- PART ...]`. Without `--bench`, as under
//! `cargo test --bench limits`, everything runs once or twice and small, and nothing is judged.
//! A ratio that is missed is printed as such, and fails nothing: machines differ.

mod digests;
mod idle;
mod ours;
mod pingpong;
mod report;
mod seals;
#[expect(dead_code, reason = "of what a daemon can say, each bench hears a part")]
#[path = "../pause/tell.rs"]
mod tell;

use std::io;
use std::process::ExitCode;

use report::Results;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((first, args)) if first == "--daemon" => ours::daemon(args),
        Some((first, args)) if first == "--peer" => pingpong::peer(args),
        Some((first, _)) if first == "--sleeper" => idle::sleeper(),
        _ => run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How much is done.
#[derive(Clone, Copy)]
struct Effort {
    measured: bool,
    rounds: usize,
}

fn run(args: &[String]) -> io::Result<()> {
    let (options, wanted): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with('-'));
    let measured = options.iter().any(|option| *option == "--bench");
    let effort = Effort { measured, rounds: if measured { 60 } else { 2 } };
    let mut results = Results::default();
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            part(&effort, &mut results)?;
        }
    }
    println!("{results}");
    println!("{}", results.write("limits")?.display());
    Ok(())
}

type Part = fn(&Effort, &mut Results) -> io::Result<()>;
const PARTS: [(&str, Part); 4] =
    [("ours", ours::run), ("seals", seals::run), ("digests", digests::run), ("idle", idle::run)];
