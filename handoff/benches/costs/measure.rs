//! Rounds in which each subject has its turn, and their results.

use std::fmt;
use std::iter::Sum;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, ColumnConstraint, Table, presets};

/// The time and the amount of data for a measurement.
pub(crate) struct Effort {
    /// For all rounds of one race.
    pub(crate) budget: Duration,
    /// The least number of rounds, also where they take longer than the budget.
    pub(crate) least_rounds: usize,
    /// For one turn of one subject; a turn is at least one chunk.
    pub(crate) turn: Duration,
    /// Of the file that is digested, in bytes.
    pub(crate) file_len: usize,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        budget: Duration::from_secs(6),
        least_rounds: 5,
        turn: Duration::from_millis(10),
        file_len: 256 << 20,
    };
    /// Shows that everything runs.
    pub(crate) const SMOKE: Self =
        Self { budget: Duration::ZERO, least_rounds: 1, turn: Duration::ZERO, file_len: 1 << 20 };
}

/// So many calls in so much time.
pub(crate) struct Pace {
    time: Duration,
    calls: u64,
}

impl Pace {
    /// Calls for `turn`, and looks at the clock once a chunk.
    pub(crate) fn of(turn: Duration, chunk: u32, mut call: impl FnMut()) -> Self {
        let start = Instant::now();
        let mut calls = 0;
        loop {
            for _ in 0..chunk {
                call();
            }
            calls += u64::from(chunk);
            let time = start.elapsed();
            if time >= turn {
                return Self { time, calls };
            }
        }
    }

    fn ns_per_call(&self) -> f64 {
        self.time.as_secs_f64() * 1e9 / self.calls as f64
    }
}

/// The pace of threads side by side: the time of a call as one thread sees it.
impl Sum for Pace {
    fn sum<I: Iterator<Item = Self>>(paces: I) -> Self {
        paces.fold(Self { time: Duration::ZERO, calls: 0 }, |sum, pace| Self {
            time: sum.time + pace.time,
            calls: sum.calls + pace.calls,
        })
    }
}

/// A function that has its turn in each round.
pub(crate) struct Subject<'a> {
    name: String,
    bytes: Option<usize>,
    baseline: Option<Baseline>,
    turn: Box<dyn FnMut() -> Pace + 'a>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(name: impl Into<String>, turn: impl FnMut() -> Pace + 'a) -> Self {
        Self { name: name.into(), bytes: None, baseline: None, turn: Box::new(turn) }
    }

    /// The number of bytes that a call takes in or gives.
    pub(crate) fn bytes(self, bytes: usize) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    /// The subject to compare it with.
    pub(crate) fn against(self, baseline: Baseline) -> Self {
        Self { baseline: Some(baseline), ..self }
    }
}

/// A subject of the same race.
#[derive(Clone, Copy)]
pub(crate) struct Baseline(usize);

/// Subjects that take turns, so that a slow moment of the machine slows all of them.
pub(crate) struct Race<'a> {
    title: String,
    rate: Rate,
    subjects: Vec<Subject<'a>>,
}

impl<'a> Race<'a> {
    pub(crate) fn new(title: impl Into<String>, rate: Rate) -> Self {
        Self { title: title.into(), rate, subjects: Vec::new() }
    }

    pub(crate) fn add(&mut self, subject: Subject<'a>) -> Baseline {
        self.subjects.push(subject);
        Baseline(self.subjects.len() - 1)
    }

    /// One round to warm up, then as many as fit into the budget.
    pub(crate) fn run(mut self, effort: &Effort) -> Results {
        let field = self.subjects.len();
        let mut times = vec![Vec::new(); field];
        for subject in &mut self.subjects {
            (subject.turn)();
        }
        let start = Instant::now();
        let mut rounds = 0;
        while rounds < effort.least_rounds || start.elapsed() < effort.budget {
            for turn in 0..field {
                let next = (rounds + turn) % field;
                times[next].push((self.subjects[next].turn)().ns_per_call());
            }
            rounds += 1;
        }
        let lines = self.subjects.iter().zip(&times).map(|(subject, own)| Line {
            name: subject.name.clone(),
            bytes: subject.bytes,
            times: Spread::of(own.iter().copied()),
            ratios: subject.baseline.map(|Baseline(of)| {
                Spread::of(own.iter().zip(&times[of]).map(|(own, other)| own / other))
            }),
        });
        Results { rounds, rate: self.rate, lines: lines.collect(), title: self.title }
    }
}

/// The unit of bytes by time.
#[derive(Clone, Copy)]
pub(crate) enum Rate {
    None,
    MegabytesPerSecond,
    GigabytesPerSecond,
}

impl Rate {
    fn show(self, bytes: Option<usize>, ns: f64) -> String {
        let per_second = bytes.map(|bytes| bytes as f64 * 1e9 / ns);
        match (self, per_second) {
            (Self::None, _) | (_, None) => String::new(),
            (Self::MegabytesPerSecond, Some(rate)) => format!("{:.0} MB/s", rate / 1e6),
            (Self::GigabytesPerSecond, Some(rate)) => format!("{:.2} GB/s", rate / 1e9),
        }
    }
}

/// The results of a race; displays as a table.
pub(crate) struct Results {
    title: String,
    rate: Rate,
    rounds: usize,
    lines: Vec<Line>,
}

struct Line {
    name: String,
    bytes: Option<usize>,
    times: Spread,
    ratios: Option<Spread>,
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = Unit::for_times(&self.lines);
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
            "",
            "min",
            "median",
            "max",
            "rate at median",
            "time / baseline",
            "min .. max",
        ]);
        for line in &self.lines {
            let (ratio, range) = match &line.ratios {
                None => ("baseline".to_owned(), String::new()),
                Some(Spread { min, median, max }) => {
                    (format!("{median:.3}"), format!("{min:.2} .. {max:.2}"))
                }
            };
            table.add_row([
                line.name.clone(),
                unit.show(line.times.min),
                unit.show(line.times.median),
                unit.show(line.times.max),
                self.rate.show(line.bytes, line.times.median),
                ratio,
                range,
            ]);
        }
        let compared = self.lines.iter().any(|line| line.ratios.is_some());
        let rated = !matches!(self.rate, Rate::None);
        let shown = [true, true, true, true, rated, compared, compared];
        for ((index, column), shown) in table.column_iter_mut().enumerate().zip(shown) {
            if index > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if !shown {
                column.set_constraint(ColumnConstraint::Hidden);
            }
        }
        write!(f, "{}; {} rounds\n{table}", self.title, self.rounds)
    }
}

/// One for a table, so that its lines compare at a glance.
#[derive(Clone, Copy)]
struct Unit {
    ns: f64,
    name: &'static str,
}

impl Unit {
    fn for_times(lines: &[Line]) -> Self {
        match lines.iter().map(|line| line.times.median).fold(0.0, f64::max) {
            ..1e5 => Self { ns: 1.0, name: "ns" },
            ..1e7 => Self { ns: 1e3, name: "µs" },
            _ => Self { ns: 1e6, name: "ms" },
        }
    }

    fn show(self, ns: f64) -> String {
        format!("{:.1} {}", ns / self.ns, self.name)
    }
}

struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    /// Of at least one value.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (lower, upper) = ((values.len() - 1) / 2, values.len() / 2);
        Self {
            min: values[0],
            median: f64::midpoint(values[lower], values[upper]),
            max: values[values.len() - 1],
        }
    }
}
