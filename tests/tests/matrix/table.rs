//! What the cases came to, as a table.

use std::any::Any;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use handoff_tests::arena::{Probed, Report};

use crate::Played;
use crate::cases::Case;

/// One case.
pub(crate) struct Row {
    case: String,
    took: Duration,
    outcome: Result<Played, String>,
}

impl Row {
    pub(crate) fn new(
        case: &Case,
        took: Duration,
        outcome: Result<Played, Box<dyn Any + Send>>,
    ) -> Self {
        let outcome = outcome.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?").to_owned()
        });
        Self { case: case.to_string(), took, outcome }
    }

    /// At once, for a run that is not waited for.
    pub(crate) fn say_if_failed(&self) {
        if let Err(why) = &self.outcome {
            let _ = writeln!(std::io::stdout(), "{} fails: {why}", self.case);
        }
    }
}

/// Prints the table past the capture of tests; the cases that failed, with why.
pub(crate) fn print(title: &str, of: usize, rows: &[Row]) -> Vec<String> {
    let mut text = format!("\n{title}: {} of {of} cases\n", rows.len());
    let _ = writeln!(
        text,
        "{:<62} {:>8} {:>7} {:>6} {:>5} {:>5} {:>6}  reports",
        "case", "sound", "acked", "refus", "reset", "kept", "took"
    );
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| a.case.cmp(&b.case));
    for Row { case, took, outcome } in sorted {
        let took = took.as_secs_f64();
        let _ = match outcome {
            Ok(played) => writeln!(
                text,
                "{case:<62} {:>6.2} s {:>7} {:>6} {:>5} {:>5} {took:>4.1} s  {}",
                played.sound_in.as_secs_f64(),
                played.acknowledged,
                played.refused,
                played.reset,
                format!("{}/{}", played.probed.open, played.probed.all),
                played.reports.iter().map(word).collect::<Vec<_>>().join(", ")
            ),
            Err(why) => writeln!(text, "{case:<62} FAILED {took:.1} s: {why}"),
        };
    }
    let failed = rows
        .iter()
        .filter_map(|row| Some(format!("{}: {}", row.case, row.outcome.as_ref().err()?)));
    let failed: Vec<String> = failed.collect();
    let fired = rows.len() - failed.len();
    let mut probed = Probed::default();
    rows.iter().flat_map(|row| &row.outcome).for_each(|played| probed.add(played.probed));
    let Probed { all, open } = probed;
    let _ = writeln!(
        text,
        "{all} connections went through a swap: {open} were kept, {} closed, as whoever held them died",
        probed.closed()
    );
    let _ = writeln!(text, "{fired} of {} passed, each fault fired", rows.len());
    let _ = std::io::stdout().write_all(text.as_bytes());
    failed
}

fn word(report: &Report) -> String {
    match report {
        Report::Adopted(_, resolved) if resolved == "none" => "adopted".to_owned(),
        Report::Adopted(_, resolved) => format!("adopted ({resolved})"),
        Report::Nothing(_) => "nothing".to_owned(),
        Report::Started(_) => "started".to_owned(),
        Report::Committed(_) => "committed".to_owned(),
        Report::Failed(fate, promoted, _) => {
            let promoted = if promoted.is_some() { ", promoted" } else { "" };
            format!("failed ({fate}{promoted})")
        }
        Report::Error(_) => "error".to_owned(),
    }
}
