//! Tables, and the same as JSON.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use handoff_tests::figures::{Spread, ms};
use serde_json::{Value, json};

use crate::daemon::Phases;
use crate::plot;

/// What grows.
pub(crate) struct Axis {
    pub(crate) name: &'static str,
    /// How its values are written.
    pub(crate) label: fn(u64) -> String,
    pub(crate) points: Vec<Point>,
}

/// One size, swapped some times.
pub(crate) struct Point {
    pub(crate) value: u64,
    /// Its cold start.
    pub(crate) started: Duration,
    pub(crate) swaps: Vec<(Phases, Duration)>,
}

/// What is told of a swap, in the order of the columns.
pub(crate) const COLUMNS: [&str; 7] =
    ["pair", "warm", "drain", "seal", "open", "commit", "pause of a client"];

impl Point {
    /// The median of each column, in milliseconds.
    pub(crate) fn medians(&self) -> [f64; COLUMNS.len()] {
        let columns = self.swaps.iter().map(|(phases, pause)| {
            let Phases { pair, warm, drain, seal, open, commit } = *phases;
            [pair, warm, drain, seal, open, commit, *pause].map(ms)
        });
        let columns: Vec<_> = columns.collect();
        std::array::from_fn(|nth| Spread::of(columns.iter().map(|columns| columns[nth])).median)
    }

    fn to_json(&self) -> Value {
        let medians: serde_json::Map<String, Value> = COLUMNS
            .iter()
            .zip(self.medians())
            .map(|(column, ms)| ((*column).to_owned(), json!(ms)))
            .collect();
        json!({
            "value": self.value,
            "cold_start_ms": ms(self.started),
            "median_ms": medians,
        })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        let header = [self.name].into_iter().chain(["cold start"]).chain(COLUMNS);
        table.set_header(header);
        for point in &self.points {
            let started = format!("{:.1}", ms(point.started));
            let medians = point.medians().map(|ms| format!("{ms:.2}"));
            let first = [(self.label)(point.value), started];
            table.add_row(first.into_iter().chain(medians));
        }
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let rounds = self.points.first().map_or(0, |point| point.swaps.len());
        writeln!(f, "{}: median ms of {rounds} swaps", self.name)?;
        write!(f, "{table}")
    }
}

/// Writes the JSON and the plot; where they are.
pub(crate) fn write(axes: &[Axis]) -> io::Result<[PathBuf; 2]> {
    let executable = std::env::current_exe()?;
    // target/PROFILE/deps/scale-HASH
    let target = executable.ancestors().nth(3).ok_or_else(|| io::Error::other("no target"))?;
    let directory = target.join("scale");
    std::fs::create_dir_all(&directory)?;
    let of_axis = |axis: &Axis| {
        json!({
            "axis": axis.name,
            "points": axis.points.iter().map(Point::to_json).collect::<Vec<_>>(),
        })
    };
    let all: Vec<Value> = axes.iter().map(of_axis).collect();
    let paths = [directory.join("scale.json"), directory.join("scale.svg")];
    std::fs::write(&paths[0], serde_json::to_string_pretty(&all)?)?;
    std::fs::write(&paths[1], plot::svg(axes))?;
    Ok(paths)
}
