//! The keeper of a machine that runs a systemd, and the first process in it.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use handoff_tests::systemd::{boot, keep};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["keep"] => keep(),
        ["boot", files] => boot(Path::new(files)),
        _ => Err(io::Error::other(format!("what is {args:?}?"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("a systemd for tests: {error}");
            ExitCode::FAILURE
        }
    }
}
