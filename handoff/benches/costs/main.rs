//! The costs of the library where a daemon calls it often or with much data: the gate on
//! every request, the codec and the fingerprint in every pause.
//!
//! `cargo bench -p handoff` measures and prints; `cargo bench -p handoff -- gate` does so for
//! the sections with `gate` in their name. Without `--bench`, as under `cargo test --benches`,
//! every section runs a few times, and no result is printed.
//!
//! On a busy machine the threads of the gate's race meet less often, and the lock looks better
//! than it is: mind the load average.

mod fingerprint;
mod frame;
mod gate;
mod measure;

use measure::{Effort, Results};

fn main() {
    let (options, wanted): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    let measured = options.iter().any(|option| option == "--bench");
    let effort = if measured { Effort::FULL } else { Effort::SMOKE };
    if measured {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        println!("{cores} cores, load average {} before\n", load_average());
    }
    for (name, run) in SECTIONS {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let results = run(&effort);
        if measured {
            println!("{name}: {results}\n");
        } else {
            println!("{name}: ran, not measured");
        }
    }
    if measured {
        println!("load average {} after", load_average());
    }
}

/// Of the last minute.
fn load_average() -> String {
    let averages = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    averages.split(' ').next().filter(|last| !last.is_empty()).unwrap_or("unknown").to_owned()
}

type Section = fn(&Effort) -> Results;

const SECTIONS: [(&str, Section); 4] = [
    ("gate", gate::run),
    ("frame", frame::run),
    ("digest", fingerprint::of_a_file),
    ("fingerprint", fingerprint::of_shards),
];
