//! The heading: the swap, its two processes, its time, its outcome and the cause.

use std::fmt::Write as _;

use handoff_svg::{Font, Svg};

use crate::record::{Outcome, Party, Probation, SwapEventKind, SwapRecord, Trigger};
use crate::timeline::{BOLD, MARGIN, PLAIN, WIDTH};
use crate::units::{brief, time_with_ms};

pub(super) fn title(record: &SwapRecord) -> String {
    let id = &record.id;
    let dry = if record.dry_run { "Dry run" } else { "Swap" };
    let outcome = match record.outcome() {
        None => "is in flight",
        Some(Outcome::Committed) => "committed: the successor serves",
        Some(Outcome::RolledBack) => "was rolled back: the old process serves",
        Some(Outcome::Promoted) => "promoted: the old process died, the successor serves",
        Some(Outcome::NotBegun) => "was not begun: the old process was not touched",
        Some(Outcome::DryRun) => "warmed up: the old process was not touched",
        Some(Outcome::Lost) => "lost the daemon: nobody serves",
        Some(_) => "is unclear: the old process has not confirmed that it serves",
    };
    format!("{dry} {id:.8} {outcome}")
}

pub(super) fn heading(svg: &mut Svg, record: &SwapRecord) -> f64 {
    let room = WIDTH - 2.0 * MARGIN;
    svg.text((MARGIN, 20.0), TITLE, &TITLE.fit(&title(record), room));
    let mut y = 40.0;
    for (which, party) in [("from", &record.from), ("to", &record.to)] {
        svg.text((MARGIN, y), BOLD, which);
        let (whole, shown) = party_line(party, room - 40.0);
        svg.tooltip(&whole, |svg| svg.text((MARGIN + 40.0, y), PLAIN, &shown));
        y += 16.0;
    }
    let mut lines = vec![(when(record), 1)];
    lines.extend(why(record).map(|why| (why, 3)));
    for (text, max) in lines {
        svg.tooltip(&text, |svg| {
            for line in PLAIN.wrap(&text, room, max) {
                svg.text((MARGIN, y), PLAIN, &line);
                y += 16.0;
            }
        });
    }
    y
}

/// The whole line, and as much of it as there is room for.
fn party_line(party: &Party, room: f64) -> (String, String) {
    let mut known = Vec::new();
    let build = party.build.as_ref().filter(|build| !build.is_empty());
    known.extend(build.map(|build| format!("build {build}")));
    known.extend(party.pid.map(|pid| format!("pid {pid}")));
    known.extend(party.generation.map(|generation| format!("generation {generation}")));
    let (known, binary) = (known.join(", "), party.binary.as_str());
    if known.is_empty() {
        return (binary.into(), PLAIN.fit_end(binary, room));
    }
    let known_fit = format!("{}, ", PLAIN.fit(&known, room / 2.0));
    let binary_fit = PLAIN.fit_end(binary, room - PLAIN.width(&known_fit));
    (format!("{known}, {binary}"), known_fit + &binary_fit)
}

fn when(record: &SwapRecord) -> String {
    let mut when = time_with_ms(record.begun_ms);
    match &record.trigger {
        Trigger::Operator { uid, pid } => {
            let _ = write!(when, ", ordered by user {uid} (pid {pid})");
        }
        Trigger::Hangup => when.push_str(", ordered by SIGHUP"),
        Trigger::Probation { of } => {
            let _ = write!(when, ", undoes swap {of:.8}, which failed in its probation");
        }
    }
    if let Some(end) = &record.end {
        let _ = write!(when, ", took {}", brief(end.took_us));
    }
    when
}

fn why(record: &SwapRecord) -> Option<String> {
    if record.outcome() == Some(Outcome::Committed) {
        return match &record.probation {
            Some(Probation::Failed { why }) => Some(format!("probation failed: {why}")),
            Some(Probation::Ended { why }) => Some(format!("probation ended early: {why}")),
            Some(Probation::Passed) | None => None,
        };
    }
    let given_up = record.steps.iter().rev().find_map(|step| match &step.what {
        SwapEventKind::GivenUp { cause } => Some(cause),
        _ => None,
    });
    let cause = record.end.as_ref().and_then(|end| end.cause.as_ref()).or(given_up)?;
    Some(format!("cause: {cause}"))
}

const TITLE: Font = Font::sized(14.0).bold();
