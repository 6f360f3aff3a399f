//! What the cases came to, as a table: a row for each combination of builds.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::Path;

use handoff_tests::arena::{Cast, Probed};

use crate::Played;
use crate::cases::{Case, End};

/// One case.
pub(crate) struct Row<'a> {
    case: &'a Case,
    outcome: Result<Played, String>,
}

impl<'a> Row<'a> {
    pub(crate) fn new(case: &'a Case, outcome: Result<Played, Box<dyn Any + Send>>) -> Self {
        let outcome = outcome.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?").to_owned()
        });
        Self { case, outcome }
    }
}

/// How many of all.
#[derive(Default)]
struct Count(usize, usize);

impl Count {
    fn add(&mut self, is_one: bool) {
        self.0 += usize::from(is_one);
        self.1 += 1;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} of {}", self.0, self.1))
    }
}

/// The cases of one combination.
#[derive(Default)]
struct Sum {
    commits: Count,
    rollbacks: Count,
    promotions: Count,
    adoptions: Count,
    restarts: Count,
    memories: usize,
    probed: Probed,
    acknowledged: usize,
}

impl Sum {
    fn add(&mut self, row: &Row<'_>) {
        let count = match row.case.end {
            End::Committed => &mut self.commits,
            End::RolledBack => &mut self.rollbacks,
            End::Promoted => &mut self.promotions,
            End::AdoptedCommitted | End::AdoptedRolledBack => &mut self.adoptions,
            End::Restarted => &mut self.restarts,
        };
        count.add(row.outcome.is_ok());
        if let Ok(played) = &row.outcome {
            self.memories += played.memories;
            self.probed.add(played.probed);
            self.acknowledged += played.acknowledged;
        }
    }
}

/// Prints the table past the capture of tests; the cases that failed, with why.
pub(crate) fn print(earlier: &Path, rows: &[Row<'_>]) -> Vec<String> {
    let mut sums: BTreeMap<[&str; 3], Sum> = BTreeMap::new();
    for row in rows {
        let Cast { supervisor, incumbent, successor, .. } = &row.case.cast;
        sums.entry([supervisor, incumbent, successor].map(|build| build.name))
            .or_default()
            .add(row);
    }
    let mut text = format!("\nthe earlier build is {}\n", earlier.display());
    let _ = writeln!(
        text,
        "{:<10} {:<9} {:<9}  {:>7} {:>9} {:>9} {:>9} {:>8}  {:>11} {:>8} {:>6}",
        "supervisor",
        "incumbent",
        "successor",
        "commit",
        "rollback",
        "promotion",
        "adoption",
        "restart",
        "connections",
        "memories",
        "acked"
    );
    for ([supervisor, incumbent, successor], sum) in &sums {
        let Sum {
            commits,
            rollbacks,
            promotions,
            adoptions,
            restarts,
            memories,
            probed,
            acknowledged,
        } = sum;
        let kept = format!("{}/{}", probed.open, probed.all);
        let _ = writeln!(
            text,
            "{supervisor:<10} {incumbent:<9} {successor:<9}  {commits:>7} {rollbacks:>9} \
             {promotions:>9} {adoptions:>9} {restarts:>8}  {kept:>11} {memories:>8} {acknowledged:>6}"
        );
    }
    let failed = rows
        .iter()
        .filter_map(|row| Some(format!("{}: {}", row.case, row.outcome.as_ref().err()?)));
    let failed: Vec<String> = failed.collect();
    let _ = writeln!(
        text,
        "{} of {} cases of {} combinations passed",
        rows.len() - failed.len(),
        rows.len(),
        sums.len()
    );
    let _ = std::io::stdout().write_all(text.as_bytes());
    failed
}
