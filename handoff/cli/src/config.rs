//! The configuration: strict TOML, read whole and checked before anything is done with it.

mod address;
mod duration;
mod listener;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use serde::Deserialize;
use toml::Spanned;

pub(crate) use address::Address;
pub(crate) use listener::{Access, ListenerConfig};

use crate::files;

use duration::{DurationAt, human, human_at};
use listener::{RawListener, listeners_of};

/// The whole configuration, with every path made absolute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// The file that it was read from.
    pub(crate) file: PathBuf,
    /// The directory of the supervisor's own files.
    pub(crate) state_dir: PathBuf,
    /// The supervisor's own socket, for the requests of its clients.
    pub(crate) socket: PathBuf,
    /// The program that `handoff upgrade` executes in place of the supervisor.
    pub(crate) supervisor: Option<PathBuf>,
    /// The daemon's control socket.
    pub(crate) control: PathBuf,
    /// Where the daemon's relative paths begin.
    pub(crate) directory: PathBuf,
    pub(crate) env: BTreeMap<String, String>,
    /// The binaries that may be executed. The first is the one to start, and to swap to.
    pub(crate) programs: Vec<Program>,
    pub(crate) listeners: Vec<ListenerConfig>,
    pub(crate) limits: Limits,
    pub(crate) restart: Restart,
    pub(crate) probation: Option<ProbationConfig>,
    pub(crate) health: HealthConfig,
    pub(crate) swap: SwapConfig,
    pub(crate) log: LogConfig,
}

/// A binary that may be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    /// If it is given, the file has to have it.
    pub(crate) blake3: Option<String>,
    /// The sockets that it is passed.
    pub(crate) listeners: Vec<ListenerConfig>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    #[serde(deserialize_with = "human")]
    pub(crate) deadline: Duration,
    #[serde(deserialize_with = "human")]
    pub(crate) drain_grace: Duration,
    #[serde(deserialize_with = "human")]
    pub(crate) hello: Duration,
    #[serde(deserialize_with = "human")]
    pub(crate) start: Duration,
    #[serde(deserialize_with = "human")]
    pub(crate) stop: Duration,
    #[serde(deserialize_with = "human")]
    pub(crate) adopt: Duration,
    #[serde(deserialize_with = "human_at")]
    pub(crate) pause: Option<DurationAt>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(300),
            drain_grace: Duration::from_secs(60),
            hello: Duration::from_secs(10),
            start: Duration::from_secs(300),
            stop: Duration::from_secs(90),
            adopt: Duration::from_secs(30),
            pause: None,
        }
    }
}

/// How the supervisor starts a daemon that died again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Restart {
    /// The pause before the second start in a row; it doubles with each, and there is none
    /// before the first.
    #[serde(deserialize_with = "human")]
    pub(crate) pause: Duration,
    #[serde(deserialize_with = "human")]
    pub(crate) longest_pause: Duration,
    /// The death of a daemon that served at least this long begins a new row.
    #[serde(deserialize_with = "human")]
    pub(crate) stable: Duration,
    /// After so many deaths in a row the supervisor starts the previous binary instead.
    pub(crate) attempts: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(30),
            stable: Duration::from_secs(10),
            attempts: 3,
        }
    }
}

/// The swaps that the supervisor makes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SwapConfig {
    /// Whether each swap may be one-way.
    pub(crate) one_way: bool,
}

/// How the supervisor watches a successor after its commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbationConfig {
    pub(crate) length: Duration,
    pub(crate) every: Duration,
    pub(crate) timeout: Duration,
    /// So many failed checks in a row make the supervisor swap back.
    pub(crate) failures: u32,
    pub(crate) check: Check,
}

/// How the supervisor watches the daemon while it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthConfig {
    pub(crate) every: Duration,
    pub(crate) timeout: Duration,
    /// After so many failed checks in a row the daemon is taken for unwell.
    pub(crate) failures: u32,
    /// Besides the question over the control socket.
    pub(crate) check: Option<Check>,
    /// Whether the supervisor kills a daemon that is unwell, and starts it anew.
    pub(crate) restart: bool,
}

/// A health check of the daemon, which passes on this condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    /// A connection can be made.
    Tcp(String),
    /// The answer to a GET has a status of 200 to 299.
    Http(String),
    /// The command exits with 0.
    Command(Vec<String>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogConfig {
    pub(crate) format: LogFormat,
    pub(crate) level: LogLevel,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// A line a person reads.
    #[default]
    Human,
    /// An object a line.
    Json,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogLevel {
    /// Errors that keep clients from being served.
    Error,
    /// And warnings.
    Warn,
    /// And the actions of the supervisor.
    #[default]
    Info,
    /// And details.
    Debug,
}

impl Config {
    /// Reads and checks the file. Nothing else is touched.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let unreadable = |error| {
            anyhow!(
                "cannot read the configuration {}: {error}; name another with --config, or write one: see `handoff help config`",
                path.display()
            )
        };
        let mut text = String::new();
        let opened = files::open_regular(path).map_err(unreadable)?;
        opened.take(MAX_LEN).read_to_string(&mut text).map_err(unreadable)?;
        let file = std::path::absolute(path).map_err(unreadable)?;
        Self::parse(&text, &file)
    }

    /// For a client, which has to find the supervisor: a file that is broken is read as far as its
    /// settings above the first table. The supervisor goes on with what it read before.
    pub(crate) fn load_for_client(path: &Path) -> anyhow::Result<Self> {
        let error = match Self::load(path) {
            Ok(config) => return Ok(config),
            Err(error) => error,
        };
        let Some(config) = Self::above_tables(path) else { return Err(error) };
        crate::complain(&format!(
            "warning: the file is broken, and a supervisor that runs goes on with what it read before: {error}"
        ));
        Ok(config)
    }

    /// What is needed to find the supervisor, line by line: another line may be the broken one.
    fn above_tables(path: &Path) -> Option<Self> {
        let mut text = String::new();
        let opened = files::open_regular(path).ok()?;
        opened.take(MAX_LEN).read_to_string(&mut text).ok()?;
        let mut found = toml::Table::new();
        for line in text.lines().take_while(|line| !line.trim_start().starts_with('[')) {
            found.extend(line.parse::<toml::Table>().unwrap_or_default());
        }
        let setting = |name| {
            let value = found.get(name)?.as_str()?;
            Some(format!("{name} = {value:?}\n"))
        };
        let found = [setting("state_dir")?, setting("socket").unwrap_or_default()].concat();
        let needed = format!("{found}[daemon]\nbinary = \"\"\ncontrol = \"\"\n");
        Self::parse(&needed, &std::path::absolute(path).ok()?).ok()
    }

    /// Checks the text of a file at that absolute path.
    pub(crate) fn parse(text: &str, file: &Path) -> anyhow::Result<Self> {
        let path = file.display();
        let raw: Raw = toml::from_str(text).map_err(|error| {
            let words = error.to_string();
            anyhow!(
                "{path} is not a configuration: {}\nwhat it may say is in `handoff help config`",
                words.trim_end()
            )
        })?;
        raw.check(file).map_err(|Fault { at, words }| match at {
            Some(at) => {
                let line = 1 + text[..at.min(text.len())].matches('\n').count();
                anyhow!("{path}, line {line}: {words}")
            }
            None => anyhow!("{path}: {words}"),
        })
    }

    /// The listed program that a path names, also by another path to the same file.
    pub(crate) fn program(&self, path: &Path) -> Option<&Program> {
        let canonical = |path: &Path| fs::canonicalize(path).ok();
        let is_it = |program: &&Program| {
            program.path == path
                || canonical(path).is_some_and(|path| canonical(&program.path) == Some(path))
        };
        self.programs.iter().find(is_it)
    }

    /// The first setting that differs and that a running supervisor cannot change; a swap changes the
    /// listeners.
    pub(crate) fn fixed_difference(&self, other: &Self) -> Option<&'static str> {
        [
            ("state_dir", self.state_dir != other.state_dir),
            ("socket", self.socket != other.socket),
            ("daemon.control", self.control != other.control),
            ("daemon.directory", self.directory != other.directory),
        ]
        .into_iter()
        .find_map(|(name, differs)| differs.then_some(name))
    }
}

/// The configuration as the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    state_dir: PathBuf,
    socket: Option<PathBuf>,
    supervisor: Option<PathBuf>,
    daemon: RawDaemon,
    #[serde(default)]
    binaries: Vec<Spanned<RawProgram>>,
    #[serde(default)]
    listeners: Vec<RawListener>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    restart: Restart,
    probation: Option<Spanned<RawProbation>>,
    health: Option<Spanned<RawHealth>>,
    #[serde(default)]
    swap: SwapConfig,
    #[serde(default)]
    log: LogConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDaemon {
    binary: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    blake3: Option<Spanned<String>>,
    control: Spanned<PathBuf>,
    directory: Option<PathBuf>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProgram {
    path: PathBuf,
    args: Option<Vec<String>>,
    blake3: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProbation {
    #[serde(rename = "for", deserialize_with = "human")]
    length: Duration,
    #[serde(default = "a_second", deserialize_with = "human")]
    every: Duration,
    #[serde(default = "two_seconds", deserialize_with = "human")]
    timeout: Duration,
    #[serde(default = "three")]
    failures: u32,
    tcp: Option<String>,
    http: Option<Spanned<String>>,
    command: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHealth {
    #[serde(default = "ten_seconds", deserialize_with = "human")]
    every: Duration,
    #[serde(default = "five_seconds", deserialize_with = "human")]
    timeout: Duration,
    #[serde(default = "three")]
    failures: u32,
    #[serde(default)]
    restart: bool,
    tcp: Option<String>,
    http: Option<Spanned<String>>,
    command: Option<Vec<String>>,
}

impl Default for HealthConfig {
    fn default() -> Self {
        let (every, timeout, failures) = (ten_seconds(), five_seconds(), three());
        Self { every, timeout, failures, check: None, restart: false }
    }
}

const fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

const fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

const fn a_second() -> Duration {
    Duration::from_secs(1)
}

const fn two_seconds() -> Duration {
    Duration::from_secs(2)
}

const fn three() -> u32 {
    3
}

/// The fault of a value, and the offset of the value in the text.
struct Fault {
    at: Option<usize>,
    words: String,
}

impl Fault {
    fn at<T>(value: &Spanned<T>, words: impl Into<String>) -> Self {
        Self { at: Some(value.span().start), words: words.into() }
    }
}

impl Raw {
    fn check(self, file: &Path) -> Result<Config, Fault> {
        let base = file.parent().unwrap_or(Path::new("/"));
        let state_dir = base.join(self.state_dir);
        let listeners = listeners_of(self.listeners, base)?;
        let first = Program {
            path: base.join(self.daemon.binary),
            args: self.daemon.args.clone(),
            blake3: self.daemon.blake3.map(checked_hash).transpose()?,
            listeners: listeners.clone(),
        };
        let mut programs = vec![first];
        for raw in self.binaries {
            let path = base.join(&raw.get_ref().path);
            if programs.iter().any(|program| program.path == path) {
                let words = format!("{} is listed twice", path.display());
                return Err(Fault::at(&raw, words));
            }
            let RawProgram { args, blake3, .. } = raw.into_inner();
            let blake3 = blake3.map(checked_hash).transpose()?;
            let args = args.unwrap_or_else(|| self.daemon.args.clone());
            programs.push(Program { path, args, blake3, listeners: listeners.clone() });
        }
        let control = base.join(self.daemon.control.get_ref());
        check_length(&control).map_err(|words| Fault::at(&self.daemon.control, words))?;
        let socket = match &self.socket {
            Some(socket) => base.join(socket),
            None => state_dir.join("supervisor.sock"),
        };
        check_length(&socket)
            .map_err(|words| Fault { at: None, words: format!("{words}: set `socket`") })?;
        Ok(Config {
            file: file.to_owned(),
            state_dir,
            socket,
            supervisor: self.supervisor.map(|path| base.join(path)),
            control,
            directory: self.daemon.directory.map_or(base.into(), |path| base.join(path)),
            env: self.daemon.env,
            programs,
            listeners,
            limits: checked_limits(self.limits)?,
            restart: self.restart,
            probation: self.probation.map(checked_probation).transpose()?,
            health: self.health.map_or_else(|| Ok(HealthConfig::default()), checked_health)?,
            swap: self.swap,
            log: self.log,
        })
    }
}

fn checked_limits(limits: Limits) -> Result<Limits, Fault> {
    let Some(DurationAt { duration, at }) = limits.pause else { return Ok(limits) };
    let fault = |words: String| Err(Fault { at: Some(at), words });
    if duration.is_zero() {
        return fault("`pause` may not be 0: leave it out to let `deadline` alone limit it".into());
    }
    if duration > limits.deadline {
        let human = humantime::format_duration;
        return fault(format!(
            "`pause` ({}) is longer than `deadline` ({}), which passes first: lower it, or raise `deadline`",
            human(duration),
            human(limits.deadline)
        ));
    }
    Ok(limits)
}

fn checked_hash(hash: Spanned<String>) -> Result<String, Fault> {
    let text = hash.get_ref().to_ascii_lowercase();
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text);
    }
    let words = "a BLAKE3 hash has 64 hexadecimal digits, as `b3sum FILE` prints it";
    Err(Fault::at(&hash, words))
}

fn checked_probation(spanned: Spanned<RawProbation>) -> Result<ProbationConfig, Fault> {
    let at = spanned.span().start;
    let RawProbation { length, every, timeout, failures, tcp, http, command } =
        spanned.into_inner();
    let check = checked_check("probation", at, tcp, http, command)?.ok_or_else(|| Fault {
        at: Some(at),
        words: "a probation needs one check: `tcp`, `http` or `command`".to_owned(),
    })?;
    checked_numbers("probation", at, every, timeout, failures)?;
    Ok(ProbationConfig { length, every, timeout, failures, check })
}

fn checked_health(spanned: Spanned<RawHealth>) -> Result<HealthConfig, Fault> {
    let at = spanned.span().start;
    let RawHealth { every, timeout, failures, restart, tcp, http, command } = spanned.into_inner();
    let check = checked_check("health", at, tcp, http, command)?;
    checked_numbers("health", at, every, timeout, failures)?;
    Ok(HealthConfig { every, timeout, failures, check, restart })
}

/// The one check of a table, if it has one.
fn checked_check(
    table: &str,
    at: usize,
    tcp: Option<String>,
    http: Option<Spanned<String>>,
    command: Option<Vec<String>>,
) -> Result<Option<Check>, Fault> {
    let fault = |words: String| Fault { at: Some(at), words };
    Ok(Some(match (tcp, http, command) {
        (None, None, None) => return Ok(None),
        (Some(address), None, None) => {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                return Err(fault(format!("`tcp` of [{table}] has to be HOST:PORT")));
            }
            Check::Tcp(address)
        }
        (None, Some(url), None) if url.get_ref().starts_with("http://") => {
            Check::Http(url.into_inner())
        }
        (None, Some(url), None) => {
            return Err(Fault::at(&url, "the URL has to begin with http://"));
        }
        (None, None, Some(command)) if !command.is_empty() => Check::Command(command),
        (None, None, Some(_)) => return Err(fault(format!("the command of [{table}] is empty"))),
        _ => {
            let words = format!("[{table}] takes one check alone: `tcp`, `http` or `command`");
            return Err(fault(words));
        }
    }))
}

fn checked_numbers(
    table: &str,
    at: usize,
    every: Duration,
    timeout: Duration,
    failures: u32,
) -> Result<(), Fault> {
    if every.is_zero() || timeout.is_zero() || failures == 0 {
        let words = format!("`every`, `timeout` and `failures` of [{table}] may not be 0");
        return Err(Fault { at: Some(at), words });
    }
    Ok(())
}

/// Whether the kernel takes a path for a socket.
fn check_length(path: &Path) -> Result<(), String> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(());
    }
    let path = path.display();
    Err(format!(
        "the path {path} is too long for a socket (the kernel takes {MAX_SOCKET_PATH} bytes)"
    ))
}

/// The maximum that the kernel takes, without the zero byte at the end.
const MAX_SOCKET_PATH: usize = 107;
/// The maximum that is read of a file, in bytes.
const MAX_LEN: u64 = 1 << 20;

#[cfg(test)]
mod tests;
