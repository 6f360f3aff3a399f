//! Tables, and whether the targets are met.

use std::fmt;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use handoff_tests::figures::{Spread, ms};

/// What was measured under one name, a value a round.
pub(crate) struct Series {
    name: String,
    values: Vec<f64>,
}

impl Series {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), values: Vec::new() }
    }

    pub(crate) fn push(&mut self, value: Duration) {
        self.values.push(ms(value));
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }

    /// Round by round.
    pub(crate) fn pairwise(&self, other: &Self, of: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        self.values.iter().zip(&other.values).map(|(own, other)| of(*own, *other)).collect()
    }
}

/// In milliseconds.
pub(crate) struct Times<'a>(pub(crate) Vec<&'a Series>);

impl fmt::Display for Times<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["", "min", "median", "max"]);
        for Series { name, values } in &self.0 {
            let Spread { min, median, max } = Spread::of(values.iter().copied());
            let cell = |ms: f64| format!("{ms:.2} ms");
            table.add_row([name.clone(), cell(min), cell(median), cell(max)]);
        }
        align(&mut table);
        write!(f, "{table}")
    }
}

/// What a figure is to stay below.
pub(crate) struct Target {
    name: String,
    /// Of the rounds; their median counts.
    values: Vec<f64>,
    unit: &'static str,
    limit: f64,
}

impl Target {
    pub(crate) const fn new(
        name: String,
        values: Vec<f64>,
        unit: &'static str,
        limit: f64,
    ) -> Self {
        Self { name, values, unit, limit }
    }

    pub(crate) fn is_met(&self) -> bool {
        Spread::of(self.values.iter().copied()).median <= self.limit
    }
}

pub(crate) struct Targets<'a>(pub(crate) &'a [Target]);

impl fmt::Display for Targets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["target", "min", "median", "max", "at most", ""]);
        for target in self.0 {
            let Spread { min, median, max } = Spread::of(target.values.iter().copied());
            let cell = |value: f64| format!("{value:.2}{}", target.unit);
            let word = if target.is_met() { "ok" } else { "missed" };
            let [min, median, max, limit] = [min, median, max, target.limit].map(cell);
            table.add_row([target.name.clone(), min, median, max, limit, word.to_owned()]);
        }
        align(&mut table);
        write!(f, "{table}")
    }
}

fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// The middle one, or the mean of the two in the middle; zero of none.
pub(crate) fn median(durations: &[Duration]) -> Duration {
    Duration::from_secs_f64(Spread::of(durations.iter().map(Duration::as_secs_f64)).median)
}
