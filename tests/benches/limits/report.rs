//! What was measured: figures, and how they compare.

use std::fmt;
use std::io;
use std::path::PathBuf;

use comfy_table::{Table, presets};
use handoff_tests::figures::Spread;
use serde_json::{Value, json};

/// In the order in which they were measured.
#[derive(Default)]
pub(crate) struct Results {
    figures: Vec<(String, String)>,
    checks: Vec<Check>,
    json: Vec<(String, Value)>,
}

struct Check {
    name: String,
    value: f64,
    unit: &'static str,
    at_most: f64,
}

impl Results {
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: impl fmt::Display) {
        let (name, value) = (name.into(), value.to_string());
        self.json.push((name.clone(), json!(value)));
        self.figures.push((name, value));
    }

    /// Of microseconds.
    pub(crate) fn times(&mut self, name: impl Into<String>, times: Spread) {
        let Spread { min, median, max } = times;
        self.figure(name, format!("{median:.0} µs ({min:.0} to {max:.0})"));
    }

    /// A figure with a limit.
    pub(crate) fn check(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        at_most: f64,
    ) {
        let name = name.into();
        self.json.push((name.clone(), json!({ "value": value, "at_most": at_most })));
        self.checks.push(Check { name, value, unit, at_most });
    }

    /// Writes everything as JSON; where it is.
    pub(crate) fn write(&self, name: &str) -> io::Result<PathBuf> {
        let executable = std::env::current_exe()?;
        // target/PROFILE/deps/NAME-HASH
        let target = executable.ancestors().nth(3).ok_or_else(|| io::Error::other("no target"))?;
        let directory = target.join(name);
        std::fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{name}.json"));
        let all: serde_json::Map<String, Value> = self.json.iter().cloned().collect();
        std::fs::write(&path, serde_json::to_string_pretty(&all)?)?;
        Ok(path)
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        for (name, value) in &self.figures {
            table.add_row([name, value]);
        }
        writeln!(f, "{table}")?;
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["", "", "at most", ""]);
        for Check { name, value, unit, at_most } in &self.checks {
            let word = if value <= at_most { "ok" } else { "missed" };
            let (value, at_most) = (format!("{value:.2}{unit}"), format!("{at_most}{unit}"));
            table.add_row([name.clone(), value, at_most, word.to_owned()]);
        }
        write!(f, "{table}")
    }
}
