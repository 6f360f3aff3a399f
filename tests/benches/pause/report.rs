//! Tables, what they are held against, and the same as JSON.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use handoff::supervisor::Timings;
use handoff_tests::figures::{Spread, ms};
use serde_json::{Value, json};

use crate::clients::{CLIENTS, Connect, Outcome};
use crate::daemons::{Care, Slow};
use crate::plot;
use crate::swap::Mechanism;
use crate::tell::Said;

/// Where the data lies, how clients connect, and how long an opening takes.
pub(crate) struct Setting {
    pub(crate) place_name: &'static str,
    pub(crate) place: PathBuf,
    pub(crate) connect: Connect,
    pub(crate) slow_ms: u64,
    pub(crate) rows: Vec<Row>,
}

/// A mechanism, and what was measured of it.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) mechanism: Mechanism,
    pub(crate) slow: Slow,
    pub(crate) care: Care,
    pub(crate) rounds: Vec<Round>,
}

/// One swap.
pub(crate) struct Round {
    pub(crate) outcome: Outcome,
    pub(crate) said: Said,
    pub(crate) timings: Option<Timings>,
}

pub(crate) const HANDOFF: &str = "handoff";
pub(crate) const BEYOND: &str = "beyond-handoff";
/// The best of those with one writer.
pub(crate) const ECDYSIS: &str = "ecdysis";
pub(crate) const RESTART: &str = "restart";

impl Setting {
    pub(crate) fn name(&self) -> String {
        let connect = match self.connect {
            Connect::Once => "connections kept",
            Connect::EachTime => "a connection a request",
        };
        format!("{}, {connect}, opening takes {} ms", self.place_name, self.slow_ms)
    }

    pub(crate) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    fn median_of(&self, name: &str) -> f64 {
        self.row(name).map_or(f64::NAN, |row| Spread::of(row.pauses()).median)
    }
}

impl Row {
    /// In milliseconds.
    pub(crate) fn pauses(&self) -> Vec<f64> {
        self.each(|round| ms_of(&round.outcome.pause))
    }

    /// In milliseconds.
    fn stalls(&self) -> Vec<f64> {
        self.each(|round| ms_of(&round.outcome.stall))
    }

    fn each(&self, of: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(of).collect()
    }

    fn sum(&self, of: impl Fn(&Outcome) -> u64) -> u64 {
        self.rounds.iter().map(|round| of(&round.outcome)).sum()
    }

    /// How often the new process opened the log before the old one had closed it for good.
    fn overlaps(&self) -> usize {
        let is_overlap = |Round { said: Said { sealed, opened, .. }, .. }: &&Round| {
            sealed.end == 0 || sealed.end > opened.start
        };
        let is_swapped = self.mechanism != Mechanism::Alone;
        self.rounds.iter().filter(|round| is_swapped && is_overlap(round)).count()
    }

    fn to_json(&self) -> Value {
        let rounds = self.rounds.iter().map(|round| {
            let Round { outcome, timings, .. } = round;
            json!({
                "pause_ms": ms_of(&outcome.pause),
                "stall_ms": ms_of(&outcome.stall),
                "parts_ms": parts(round),
                "acknowledged": outcome.acknowledged,
                "failed": outcome.failed,
                "closed": outcome.closed,
                "refused": outcome.refused,
                "lost": outcome.lost,
                "phases_ms": timings.map(|took| json!({
                    "pair": ms(took.pair),
                    "warm": ms(took.warm),
                    "drain": ms(took.drain),
                    "seal": ms(took.seal),
                    "open": ms(took.open),
                    "commit": ms(took.commit),
                })),
            })
        });
        json!({
            "mechanism": self.name,
            "slow": format!("{:?}", self.slow).to_lowercase(),
            "care": format!("{:?}", self.care).to_lowercase(),
            "rounds": rounds.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (beyond, restart) = (self.median_of(BEYOND), self.median_of(RESTART));
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
            "", "pause", "min", "max", "stall", "failed", "closed", "refused", "lost", "/restart",
            "/beyond",
        ]);
        for row in &self.rows {
            let Spread { min, median, max } = Spread::of(row.pauses());
            table.add_row([
                row.name.to_owned(),
                format!("{median:.2} ms"),
                format!("{min:.2}"),
                format!("{max:.2}"),
                format!("{:.2}", Spread::of(row.stalls()).median),
                row.sum(|outcome| outcome.failed).to_string(),
                row.sum(|outcome| outcome.closed).to_string(),
                row.sum(|outcome| outcome.refused).to_string(),
                row.sum(|outcome| outcome.lost).to_string(),
                format!("{:.3}", median / restart),
                format!("{:.3}", median / beyond),
            ]);
        }
        align(&mut table);
        let rounds = self.rows.first().map_or(0, |row| row.rounds.len());
        let acknowledged: u64 = self.rows.iter().map(|row| row.sum(|o| o.acknowledged)).sum();
        writeln!(f, "{}; {rounds} rounds, {acknowledged} acknowledged", self.name())?;
        writeln!(f, "{table}")?;
        writeln!(f, "{}", Parts(self))?;
        write!(f, "{}", Phases(self))
    }
}

/// What the pause is made of, in milliseconds: until the old process begins to sync, until it
/// has; until the new one begins to open, until it has; until it admits requests, and until a
/// client has an answer. None where nobody was answered for longer at another moment, as may
/// happen with a small log on a busy machine.
fn parts(Round { outcome: Outcome { pause, .. }, said, .. }: &Round) -> Option<[f64; 6]> {
    let Said { sealed, opened, serving, .. } = said;
    let times =
        [pause.start, sealed.start, sealed.end, opened.start, opened.end, *serving, pause.end];
    let is_of_swap = pause.start <= opened.start && opened.end <= pause.end;
    is_of_swap.then(|| std::array::from_fn(|nth| ms_of(&(times[nth]..times[nth + 1]))))
}

struct Parts<'a>(&'a Setting);

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
            "of which, median ms",
            "stop",
            "sync",
            "pass on",
            "open",
            "admit",
            "answer",
        ]);
        for row in self.0.rows.iter().filter(|row| row.mechanism != Mechanism::Alone) {
            let all: Vec<[f64; 6]> = row.rounds.iter().filter_map(parts).collect();
            let part = |nth: usize| {
                format!("{:.2}", Spread::of(all.iter().map(|parts| parts[nth])).median)
            };
            let cells = (0..6).map(part);
            table.add_row(std::iter::once(row.name.to_owned()).chain(cells));
        }
        align(&mut table);
        write!(f, "{table}")
    }
}

/// Where the supervisor of this library sees the time go.
struct Phases<'a>(&'a Setting);

impl fmt::Display for Phases<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
            "median ms",
            "pair",
            "warm",
            "drain",
            "seal",
            "open",
            "commit",
        ]);
        for row in self.0.rows.iter().filter(|row| row.mechanism == Mechanism::Handoff) {
            let phase = |of: fn(&Timings) -> Duration| {
                let took = |round: &Round| round.timings.as_ref().map(of).unwrap_or_default();
                let values = row.each(|round| ms(took(round)));
                format!("{:.2}", Spread::of(values).median)
            };
            table.add_row([
                row.name.to_owned(),
                phase(|took| took.pair),
                phase(|took| took.warm),
                phase(|took| took.drain),
                phase(|took| took.seal),
                phase(|took| took.open),
                phase(|took| took.commit),
            ]);
        }
        align(&mut table);
        writeln!(f, "{table}")
    }
}

/// How long that is; nothing where the end comes first.
fn ms_of(span: &Range<u64>) -> f64 {
    ms(Duration::from_nanos(span.end.saturating_sub(span.start)))
}

fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// What the figures are held against.
pub(crate) struct Checks {
    ratios: Vec<Ratio>,
    closed: u64,
    lost: u64,
    overlaps: usize,
}

struct Ratio {
    name: String,
    value: f64,
    at_most: Option<f64>,
}

impl Checks {
    pub(crate) fn of(settings: &[Setting]) -> Self {
        let mut ratios = Vec::new();
        for setting in settings.iter().filter(|setting| setting.connect == Connect::Once) {
            let at_most = match (setting.place_name, setting.slow_ms) {
                ("disk", 0) => Some(0.25),
                ("disk", _) => Some(0.02),
                ("memory", 0) => Some(0.4),
                _ => None,
            };
            let at_most_of_best =
                ((setting.place_name, setting.slow_ms) == ("memory", 0)).then_some(0.6);
            let pairs = [
                (HANDOFF, BEYOND, at_most),
                (HANDOFF, ECDYSIS, at_most_of_best),
                (HANDOFF, "beyond-handoff, all by hand", None),
                (HANDOFF, "ecdysis, all by hand", None),
                ("handoff, in `open`", BEYOND, None),
            ];
            for (ours, theirs, at_most) in pairs {
                if setting.row(ours).is_some() && setting.row(theirs).is_some() {
                    let name = format!("{}: {ours} / {theirs}", setting.name());
                    let value = setting.median_of(ours) / setting.median_of(theirs);
                    ratios.push(Ratio { name, value, at_most });
                }
            }
        }
        let rows = || settings.iter().flat_map(|setting| &setting.rows);
        let ours = rows().filter(|row| row.mechanism == Mechanism::Handoff);
        Self {
            ratios,
            closed: ours.map(|row| row.sum(|outcome| outcome.closed)).sum(),
            lost: rows().map(|row| row.sum(|outcome| outcome.lost)).sum(),
            overlaps: rows().map(Row::overlaps).sum(),
        }
    }

    pub(crate) const fn nothing_is_broken(&self) -> bool {
        self.closed == 0 && self.lost == 0 && self.overlaps == 0
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["ratio of the medians", "", "at most", ""]);
        for Ratio { name, value, at_most } in &self.ratios {
            let word = at_most.map_or("", |max| if *value <= max { "ok" } else { "missed" });
            let at_most = at_most.map(|max| max.to_string()).unwrap_or_default();
            table.add_row([name.clone(), format!("{value:.3}"), at_most, word.to_owned()]);
        }
        align(&mut table);
        writeln!(f, "{table}")?;
        write!(
            f,
            "{} connections closed that were to be carried; {} acknowledged writes lost; {} times two \
             writers at once",
            self.closed, self.lost, self.overlaps
        )
    }
}

/// Writes the JSON and the plot; where they are.
pub(crate) fn write(settings: &[Setting]) -> io::Result<[PathBuf; 2]> {
    let executable = std::env::current_exe()?;
    // target/PROFILE/deps/pause-HASH
    let target = executable.ancestors().nth(3).ok_or_else(|| io::Error::other("no target"))?;
    let directory = target.join("pause");
    std::fs::create_dir_all(&directory)?;
    let of_setting = |setting: &Setting| {
        json!({
            "setting": setting.name(),
            "place": setting.place,
            "connections_kept": setting.connect == Connect::Once,
            "slow_ms": setting.slow_ms,
            "mechanisms": setting.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        })
    };
    let settings_json: Vec<Value> = settings.iter().map(of_setting).collect();
    let all = json!({ "clients": CLIENTS, "settings": settings_json });
    let paths = [directory.join("pause.json"), directory.join("pause.svg")];
    std::fs::write(&paths[0], serde_json::to_string_pretty(&all)?)?;
    std::fs::write(&paths[1], plot::svg(settings))?;
    Ok(paths)
}
