//! The demonstration's result, as a table.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::clients::{ReadBack, Tally};
use crate::report::SwapReport;

/// One line a swap: the supervisor's account of it, and the clients'.
pub(crate) fn swaps(swaps: &[(SwapReport, Duration)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "swap",
        "builds",
        "outcome",
        "pair",
        "warm",
        "drain",
        "seal",
        "begin→ready",
        "commit",
        "pause",
    ]);
    for (index, (report, pause)) in swaps.iter().enumerate() {
        let mut row = vec![
            (index + 1).to_string(),
            format!("{} → {}", report.from, report.to),
            report.outcome.to_string(),
        ];
        row.extend(report.phases.map(|took| took.map_or_else(|| "-".to_owned(), millis)));
        row.push(millis(*pause));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\nmilliseconds; pause: the longest that any client waited for a reply")
}

/// What the clients counted.
pub(crate) fn totals(tally: &Tally, read_back: &ReadBack) -> String {
    let lost = read_back.acknowledged - read_back.found;
    let rows = [
        ("requests served", tally.served),
        ("requests failed", tally.failed),
        ("connections refused", tally.refused),
        ("connections closed between requests", tally.closed),
        ("... of these by a reset", tally.reset),
        ("writes acknowledged", read_back.acknowledged),
        ("writes read back", read_back.found),
        ("writes lost", lost),
    ];
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    for (what, count) in rows {
        table.add_row([what.to_owned(), count.to_string()]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

pub(crate) fn millis(took: Duration) -> String {
    format!("{:.1}", took.as_secs_f64() * 1e3)
}
