//! What the demonstration and its supervisor say to each other: one line each, of a word and
//! `key=value` pairs.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::BoxError;

/// The supervisor's first line: the first build serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) address: SocketAddr,
    pub(crate) build: u32,
    pub(crate) pid: u32,
}

/// An order to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// The build to swap to.
    pub(crate) build: u32,
    /// Whether it is to fail when it opens the data.
    pub(crate) fail_open: bool,
}

/// The supervisor's answer to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwapReport {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) outcome: Outcome,
    /// The process that serves after the swap.
    pub(crate) pid: u32,
    /// How long each of [`PHASES`] took; `None` from the one that failed on.
    pub(crate) phases: [Option<Duration>; PHASES.len()],
    /// Why it was not committed; empty when it was.
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    /// The incumbent serves again, and has confirmed it.
    RolledBack,
    /// The incumbent died, and the successor serves in its place.
    Promoted,
    /// Nobody could confirm who serves.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled back",
            Self::Promoted => "promoted",
            Self::Unknown => "unknown",
        })
    }
}

/// A swap's phases in their order: the supervisor's transitions.
pub(crate) const PHASES: [&str; 6] = ["pair", "warm", "drain", "seal", "begin", "commit"];

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "serving address={} build={} pid={}", self.address, self.build, self.pid)
    }
}

impl FromStr for Started {
    type Err = BoxError;

    fn from_str(line: &str) -> Result<Self, BoxError> {
        let fields = Fields::of(line, "serving")?;
        Ok(Self {
            address: fields.value("address")?.parse()?,
            build: fields.value("build")?.parse()?,
            pid: fields.value("pid")?.parse()?,
        })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "swap build={} fail_open={}", self.build, self.fail_open)
    }
}

impl FromStr for Order {
    type Err = BoxError;

    fn from_str(line: &str) -> Result<Self, BoxError> {
        let fields = Fields::of(line, "swap")?;
        Ok(Self {
            build: fields.value("build")?.parse()?,
            fail_open: fields.value("fail_open")?.parse()?,
        })
    }
}

impl fmt::Display for SwapReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Committed => "committed",
            Outcome::RolledBack => "rolled-back",
            Outcome::Promoted => "promoted",
            Outcome::Unknown => "unknown",
        };
        write!(f, "swapped from={} to={} outcome={outcome} pid={}", self.from, self.to, self.pid)?;
        for (phase, took) in PHASES.iter().zip(self.phases) {
            if let Some(took) = took {
                write!(f, " {phase}_us={}", took.as_micros())?;
            }
        }
        write!(f, " reason={}", self.reason.replace('\n', " "))
    }
}

impl FromStr for SwapReport {
    type Err = BoxError;

    fn from_str(line: &str) -> Result<Self, BoxError> {
        let (line, reason) = line.split_once(" reason=").unwrap_or((line, ""));
        let fields = Fields::of(line, "swapped")?;
        let mut phases = [None; PHASES.len()];
        for (phase, took) in PHASES.iter().zip(&mut phases) {
            if let Ok(micros) = fields.value(&format!("{phase}_us")) {
                *took = Some(Duration::from_micros(micros.parse()?));
            }
        }
        Ok(Self {
            from: fields.value("from")?.parse()?,
            to: fields.value("to")?.parse()?,
            outcome: match fields.value("outcome")? {
                "committed" => Outcome::Committed,
                "rolled-back" => Outcome::RolledBack,
                "promoted" => Outcome::Promoted,
                _ => Outcome::Unknown,
            },
            pid: fields.value("pid")?.parse()?,
            phases,
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
        let started = Started { address: "127.0.0.1:4000".parse().unwrap(), build: 1, pid: 17 };
        assert_eq!(started.to_string().parse::<Started>().unwrap(), started);

        let order = Order { build: 3, fail_open: true };
        assert_eq!(order.to_string().parse::<Order>().unwrap(), order);

        let ms = |ms| Some(Duration::from_millis(ms));
        let report = SwapReport {
            from: 1,
            to: 2,
            outcome: Outcome::RolledBack,
            pid: 17,
            phases: [ms(3), ms(1), ms(4), None, None, None],
            reason: "it failed: a=b c".into(),
        };
        assert_eq!(report.to_string().parse::<SwapReport>().unwrap(), report);
    }

    #[test]
    fn another_line_is_refused() {
        let error = "swapped from=1".parse::<Started>().unwrap_err().to_string();
        assert_eq!(error, "expected a line \"serving\", got \"swapped from=1\"");
        let error = "serving build=1".parse::<Started>().unwrap_err().to_string();
        assert_eq!(error, "no address in \"serving build=1\"");
    }
}
