//! The messages between the demonstration and its supervisor: one line each, of a word and
//! `key=value` pairs.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use handoff::{Outcome, Phase};

use crate::BoxError;

/// An order to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// The build to swap to.
    pub(crate) build: u32,
    /// Whether the build is to fail when it opens the data.
    pub(crate) fail_open: bool,
    /// How much longer it takes to open the data.
    pub(crate) open_delay: Duration,
}

impl Order {
    /// A build with nothing wrong with it.
    pub(crate) const fn to(build: u32) -> Self {
        Self { build, fail_open: false, open_delay: Duration::ZERO }
    }
}

/// A line that the supervisor writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// It started a process: the first build, or a swap's successor.
    Launched { pid: u32 },
    /// A swap entered a phase.
    Entered { phase: Phase },
    /// A server is under its supervision from here on.
    Serving(Serving),
    /// An order was carried out.
    Swapped(SwapReport),
}

/// The process that serves, its address, and how it came under this supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) origin: Origin,
    pub(crate) address: SocketAddr,
    pub(crate) build: u32,
    pub(crate) pid: u32,
    /// The outcome of the swap in which the last supervisor died, if it died in one.
    pub(crate) resolved: Option<Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// No process served: this supervisor bound the listener and started the first build.
    Started,
    /// Another supervisor started it.
    Adopted,
}

/// The supervisor's answer to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwapReport {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) outcome: Outcome,
    /// The process that serves after the swap.
    pub(crate) pid: u32,
    /// The time of each of [`PHASES`]; `None` from the phase that failed on.
    pub(crate) phases: Phases,
    /// `None` where no successor serves.
    pub(crate) carried: Option<Carried>,
    /// The reason why the swap was not committed; empty when it was.
    pub(crate) reason: String,
}

/// The connections and memory that went from the old process to the new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Their number.
    pub(crate) connections: u64,
    /// Bytes.
    pub(crate) memory: u64,
}

/// A swap's phases in their order: the supervisor's transitions.
pub(crate) const PHASES: [&str; 6] = ["pair", "warm", "drain", "seal", "begin", "commit"];

pub(crate) type Phases = [Option<Duration>; PHASES.len()];

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { build, fail_open, open_delay } = self;
        let delay = open_delay.as_millis();
        write!(f, "swap build={build} fail_open={fail_open} open_delay_ms={delay}")
    }
}

/// A person may leave out all but the build.
impl FromStr for Order {
    type Err = BoxError;

    fn from_str(line: &str) -> Result<Self, BoxError> {
        let fields = Fields::of(line, "swap")?;
        let mut order = Self::to(fields.value("build")?.parse()?);
        if let Ok(fail_open) = fields.value("fail_open") {
            order.fail_open = fail_open.parse()?;
        }
        if let Ok(millis) = fields.value("open_delay_ms") {
            order.open_delay = Duration::from_millis(millis.parse()?);
        }
        Ok(order)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launched { pid } => write!(f, "launched pid={pid}"),
            Self::Entered { phase } => write!(f, "entered phase={}", word(*phase)),
            Self::Serving(serving) => serving.fmt(f),
            Self::Swapped(report) => report.fmt(f),
        }
    }
}

impl FromStr for Said {
    type Err = BoxError;

    fn from_str(line: &str) -> Result<Self, BoxError> {
        let (word, _) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match word {
            "launched" => Self::Launched { pid: Fields { line }.value("pid")?.parse()? },
            "entered" => Self::Entered { phase: phase(Fields { line }.value("phase")?)? },
            "serving" => Self::Serving(Serving::of(line, Origin::Started)?),
            "adopted" => Self::Serving(Serving::of(line, Origin::Adopted)?),
            "swapped" => Self::Swapped(line.parse()?),
            _ => return Err(format!("the supervisor said {line:?}").into()),
        })
    }
}

/// A value has no space.
fn word(phase: Phase) -> String {
    phase.name().replace(' ', "-")
}

fn outcome(said: &str) -> Result<Outcome, BoxError> {
    Outcome::of_keyword(said).ok_or_else(|| format!("{said:?} is no outcome").into())
}

fn phase(said: &str) -> Result<Phase, BoxError> {
    let found = Phase::ALL.iter().copied().find(|phase| word(*phase) == said);
    found.ok_or_else(|| format!("{said:?} is no phase").into())
}

impl Serving {
    fn of(line: &str, origin: Origin) -> Result<Self, BoxError> {
        let fields = Fields { line };
        Ok(Self {
            origin,
            address: fields.value("address")?.parse()?,
            build: fields.value("build")?.parse()?,
            pid: fields.value("pid")?.parse()?,
            resolved: match fields.value("resolved")? {
                "none" => None,
                word => Some(outcome(word)?),
            },
        })
    }
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, address, build, pid, resolved } = self;
        let word = match origin {
            Origin::Started => "serving",
            Origin::Adopted => "adopted",
        };
        let resolved = resolved.map_or("none", Outcome::keyword);
        write!(f, "{word} address={address} build={build} pid={pid} resolved={resolved}")
    }
}

impl fmt::Display for SwapReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, outcome, pid, phases, carried, reason } = self;
        write!(f, "swapped from={from} to={to} outcome={} pid={pid}", outcome.keyword())?;
        for (phase, took) in PHASES.iter().zip(phases) {
            if let Some(took) = took {
                write!(f, " {phase}_us={}", took.as_micros())?;
            }
        }
        if let Some(Carried { connections, memory }) = carried {
            write!(f, " connections={connections} memory={memory}")?;
        }
        write!(f, " reason={}", reason.replace('\n', " "))
    }
}

impl FromStr for SwapReport {
    type Err = BoxError;

    fn from_str(line: &str) -> Result<Self, BoxError> {
        let (line, reason) = line.split_once(" reason=").unwrap_or((line, ""));
        let fields = Fields::of(line, "swapped")?;
        let mut phases = Phases::default();
        for (phase, took) in PHASES.iter().zip(&mut phases) {
            if let Ok(micros) = fields.value(&format!("{phase}_us")) {
                *took = Some(Duration::from_micros(micros.parse()?));
            }
        }
        Ok(Self {
            from: fields.value("from")?.parse()?,
            to: fields.value("to")?.parse()?,
            outcome: outcome(fields.value("outcome")?)?,
            pid: fields.value("pid")?.parse()?,
            phases,
            carried: match fields.value("connections") {
                Ok(connections) => Some(Carried {
                    connections: connections.parse()?,
                    memory: fields.value("memory")?.parse()?,
                }),
                Err(_) => None,
            },
            reason: reason.to_owned(),
        })
    }
}

/// The `key=value` pairs of a line.
struct Fields<'a> {
    line: &'a str,
}

impl<'a> Fields<'a> {
    fn of(line: &'a str, word: &str) -> Result<Self, BoxError> {
        if line.split(' ').next() != Some(word) {
            return Err(format!("expected a line {word:?}, got {line:?}").into());
        }
        Ok(Self { line })
    }

    fn value(&self, key: &str) -> Result<&'a str, BoxError> {
        let mut pairs = self.line.split(' ').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(found, _)| *found == key);
        found.map(|(_, value)| value).ok_or_else(|| format!("no {key} in {:?}", self.line).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let started = Serving {
            origin: Origin::Started,
            address: "127.0.0.1:4000".parse().unwrap(),
            build: 1,
            pid: 17,
            resolved: None,
        };
        let resolved = Some(Outcome::RolledBack);
        let rolled_back = SwapReport {
            from: 1,
            to: 2,
            outcome: Outcome::RolledBack,
            pid: 17,
            phases: [ms(3), ms(1), ms(4), None, None, None],
            carried: None,
            reason: "it failed: connections=3 b c".into(),
        };
        for said in [
            Said::Launched { pid: 17 },
            Said::Entered { phase: Phase::EndingSuccessor },
            Said::Serving(Serving { origin: Origin::Adopted, resolved, ..started.clone() }),
            Said::Serving(started),
            Said::Swapped(rolled_back.clone()),
            Said::Swapped(SwapReport {
                outcome: Outcome::Committed,
                carried: Some(Carried { connections: 8, memory: 4096 }),
                ..rolled_back
            }),
        ] {
            assert_eq!(said.to_string().parse::<Said>().unwrap(), said);
        }
        let order = Order { build: 3, fail_open: true, open_delay: Duration::from_millis(20) };
        assert_eq!(order.to_string().parse::<Order>().unwrap(), order);
    }

    #[test]
    fn an_order_needs_no_more_than_a_build() {
        assert_eq!("swap build=3".parse::<Order>().unwrap(), Order::to(3));
        let error = "swap build=3 fail_open=x".parse::<Order>().unwrap_err().to_string();
        assert_eq!(error, "provided string was not `true` or `false`");
        let error = "stop".parse::<Order>().unwrap_err().to_string();
        assert_eq!(error, "expected a line \"swap\", got \"stop\"");
    }

    #[test]
    fn another_line_is_refused() {
        let error = "swap build=1".parse::<Said>().unwrap_err().to_string();
        assert_eq!(error, "the supervisor said \"swap build=1\"");
        let error = "serving build=1".parse::<Said>().unwrap_err().to_string();
        assert_eq!(error, "no address in \"serving build=1\"");
    }
}
