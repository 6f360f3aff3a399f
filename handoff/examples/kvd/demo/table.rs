//! The demonstration's result, as a table.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::demo::clients::{ReadBack, Tally};
use crate::demo::report::{Carried, Phases};

/// A line of the table: a swap, or an event between two.
pub(crate) struct Row {
    /// The swap's number; none between two swaps.
    pub(crate) swap: Option<u32>,
    pub(crate) from: u32,
    /// None between two swaps, too.
    pub(crate) to: Option<u32>,
    pub(crate) outcome: String,
    /// By the supervisor's account; none where the supervisor was killed.
    pub(crate) phases: Phases,
    pub(crate) carried: Option<Carried>,
    /// By the clients' account.
    pub(crate) seen: Seen,
}

/// The effects that the clients saw.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// The longest that any client waited.
    pub(crate) pause: Duration,
    /// How many connections were closed.
    pub(crate) closed: u64,
}

/// The rows in order, each with the supervisor's account and the clients'.
pub(crate) fn swaps(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "swap", "builds", "outcome", "pair", "warm", "drain", "seal", "begin", "commit", "pause",
        "carried", "cache", "closed",
    ]);
    for Row { swap, from, to, outcome, phases, carried, seen } in rows {
        let number = swap.map_or_else(|| "-".to_owned(), |swap| swap.to_string());
        let builds = to.map_or_else(|| from.to_string(), |to| format!("{from} → {to}"));
        let mut row = vec![number, builds, outcome.clone()];
        row.extend(phases.map(|took| took.map_or_else(|| "-".to_owned(), millis)));
        row.push(millis(seen.pause));
        let [connections, memory] = carried.map_or_else(
            || ["-".to_owned(), "-".to_owned()],
            |Carried { connections, memory }| [connections.to_string(), kib(memory)],
        );
        row.extend([connections, memory, seen.closed.to_string()]);
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!(
        "{table}\nmilliseconds; pause: the longest that any client waited for a reply\n\
         carried: connections that the new process took over; cache: KiB that came with them; \
         closed: connections that clients lost"
    )
}

/// The counts of the clients.
pub(crate) fn totals(tally: &Tally, read_back: &ReadBack) -> String {
    let lost = read_back.acknowledged - read_back.found;
    let rows = [
        ("requests served", tally.served),
        ("requests failed", tally.failed),
        ("connections refused", tally.refused),
        ("connections closed", tally.closed),
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

fn kib(bytes: u64) -> String {
    bytes.div_ceil(1024).to_string()
}

pub(crate) fn millis(took: Duration) -> String {
    format!("{:.1}", took.as_secs_f64() * 1e3)
}
