//! The times at which the failpoints were reached, to take a pause apart.
//!
//! `HANDOFF_STEPS` names a file. Every process that has the variable appends a line for each
//! failpoint that it reaches. It writes a line whole, so that processes may share one file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

use super::Point;

/// A failpoint that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// In nanoseconds, by `CLOCK_MONOTONIC`, which all processes have in common.
    pub at: u64,
    /// The pid of the process that reached it.
    pub pid: u32,
    /// The failpoint.
    pub point: Point,
}

/// The file for the steps, if this process's environment names one.
static STEPS: OnceLock<Option<File>> = OnceLock::new();

/// Appends a step to the file, if the environment names one.
pub(super) fn note(point: Point) {
    let steps = STEPS.get_or_init(|| {
        let path = std::env::var_os(STEPS_VARIABLE)?;
        // Only a measurement sets the variable, and it must not go on without its file.
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Some(file.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    });
    if let Some(mut file) = steps.as_ref() {
        let line = format!("{} {} {point}\n", now(), std::process::id());
        let _ = file.write_all(line.as_bytes());
    }
}

/// The steps in a file that `HANDOFF_STEPS` named, in the order of time.
///
/// # Errors
///
/// The file cannot be read, or has a line that is no step.
pub fn steps(path: &Path) -> io::Result<Vec<Step>> {
    let text = fs::read_to_string(path)?;
    let step = |line: &str| {
        let mut words = line.split(' ');
        let (at, pid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let name = words.next()?;
        let point = *Point::ALL.iter().find(|known| known.name() == name)?;
        Some(Step { at, pid, point })
    };
    let mut steps = text
        .lines()
        .map(|line| {
            step(line).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{line:?} is no step"))
            })
        })
        .collect::<io::Result<Vec<_>>>()?;
    steps.sort_by_key(|step| step.at);
    Ok(steps)
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// The environment variable that names the file for the steps.
pub const STEPS_VARIABLE: &str = "HANDOFF_STEPS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_in_the_order_of_time_and_nothing_else_is() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let write = |text: &str| fs::write(file.path(), text).expect("it is written");
        write("20 7 incumbent.drains\n3 8 supervisor.pairs\n");
        let expected = [
            Step { at: 3, pid: 8, point: Point::SupervisorPairs },
            Step { at: 20, pid: 7, point: Point::IncumbentDrains },
        ];
        assert_eq!(steps(file.path()).expect("they are steps"), expected);
        for line in ["", "3", "3 8", "3 8 nothing", "x 8 supervisor.pairs"] {
            write(&format!("{line}\n"));
            let error = steps(file.path()).expect_err("it is no step");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{line:?}");
        }
    }
}
