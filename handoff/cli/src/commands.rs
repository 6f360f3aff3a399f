//! The commands of an operator.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::binary::Binary;
use crate::config::Config;
use crate::history::{self, Entry};
use crate::record::{Outcome, Probation, SwapRecord};
use crate::show::{self, Live};
use crate::status::DaemonState;
use crate::timeline;
use crate::trigger::{Client, ClientError, Judged, Reply, Request, SwapRequest};

type Outcoming = anyhow::Result<ExitCode>;

pub(crate) fn swap(config: &Config, mut request: SwapRequest, json: bool) -> Outcoming {
    // The supervisor may run in another directory.
    request.binary = request.binary.map(std::path::absolute).transpose()?;
    let until = match (request.follow, request.no_probation_wait) {
        (false, _) => Until::Begun,
        (true, true) => Until::Ended,
        (true, false) => Until::Judged,
    };
    let client = Client::ask(&config.socket, &Request::Swap(request))?;
    Ok(follow(client, until, json)?.code())
}

pub(crate) fn abort(config: &Config, reason: String, json: bool) -> Outcoming {
    let client = Client::ask(&config.socket, &Request::Abort { reason })?;
    Ok(match follow(client, Until::Ended, json)? {
        // The operator wants it undone; a swap that has not begun needs no undo.
        Followed::Ended(Outcome::RolledBack | Outcome::NotBegun) => ExitCode::SUCCESS,
        Followed::Ended(Outcome::Committed | Outcome::Promoted) => ExitCode::from(TOO_LATE),
        followed => followed.code(),
    })
}

/// How far a swap is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Begun,
    Ended,
    /// To the end of its probation, if it has one.
    Judged,
}

/// The last news of a swap that was followed.
enum Followed {
    Begun,
    Refused,
    Ended(Outcome),
    /// It has committed, and its probation is over.
    Judged(Box<Judged>),
}

impl Followed {
    fn code(&self) -> ExitCode {
        match self {
            Self::Begun => ExitCode::SUCCESS,
            Self::Refused => ExitCode::from(REFUSED),
            Self::Ended(outcome) => code_of(*outcome),
            Self::Judged(judged) => match judged.swap.probation {
                Some(Probation::Passed) | None => ExitCode::SUCCESS,
                Some(Probation::Failed { .. }) if judged.is_back => ExitCode::from(SWAPPED_BACK),
                Some(_) if judged.serves.is_none() => ExitCode::from(UNCONFIRMED),
                Some(Probation::Failed { .. } | Probation::Ended { .. }) => ExitCode::FAILURE,
            },
        }
    }
}

/// The exit code of a swap without a probation.
pub(crate) fn code_of(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Committed | Outcome::Promoted | Outcome::DryRun => ExitCode::SUCCESS,
        Outcome::RolledBack => ExitCode::from(ROLLED_BACK),
        Outcome::NotBegun => ExitCode::from(REFUSED),
        _ => ExitCode::from(UNCONFIRMED),
    }
}

/// Shows a swap as it goes on.
fn follow(mut client: Client, until: Until, json: bool) -> anyhow::Result<Followed> {
    let mut live = Live::new(json);
    let mut ended = None;
    loop {
        let reply = match (client.next()?, ended) {
            (Some(reply), _) => reply,
            // There is no probation.
            (None, Some(outcome)) => return Ok(Followed::Ended(outcome)),
            (None, None) => return Err(client.cut().into()),
        };
        live.hear(&reply)?;
        match reply {
            Reply::Begun { id, .. } if until == Until::Begun => {
                if !json {
                    print(&format!("follow it with: handoff status, handoff show {id:.8}"))?;
                }
                return Ok(Followed::Begun);
            }
            Reply::Ended(record) => {
                let outcome = record.outcome().unwrap_or(Outcome::Unknown);
                if until == Until::Ended {
                    return Ok(Followed::Ended(outcome));
                }
                ended = Some(outcome);
            }
            // Its end is awaited from here on.
            Reply::OnProbation { .. } => ended = None,
            Reply::Judged(judged) => return Ok(Followed::Judged(judged)),
            Reply::Refused { .. } => return Ok(Followed::Refused),
            _ => {}
        }
    }
}

pub(crate) fn status(config: &Config, wait: bool, json: bool) -> Outcoming {
    let patience = Instant::now() + START_TIMEOUT;
    let status = loop {
        match ask(config, &Request::Status) {
            Ok(Reply::Status(status)) if !wait || status.daemon.state == DaemonState::Serving => {
                break status;
            }
            Ok(Reply::Status(_)) => {}
            Ok(other) => return unexpected(&other),
            Err(ClientError::Nobody { .. }) if wait && Instant::now() < patience => {}
            Err(error) => {
                crate::complain(&error.to_string());
                return Ok(ExitCode::from(UNCONFIRMED));
            }
        }
        thread::sleep(RETRY_PAUSE);
    };
    let text = if json { serde_json::to_string(&status)? } else { show::status(&status) };
    print(text.trim_end())?;
    Ok(serving(status.daemon.state))
}

/// The exit code of `handoff status`, without a word.
pub(crate) fn is_active(config: &Config) -> ExitCode {
    match ask(config, &Request::Status) {
        Ok(Reply::Status(status)) => serving(status.daemon.state),
        _ => ExitCode::from(UNCONFIRMED),
    }
}

fn serving(state: DaemonState) -> ExitCode {
    match state {
        DaemonState::Serving => ExitCode::SUCCESS,
        DaemonState::Starting | DaemonState::Dead | DaemonState::Stopping => {
            ExitCode::from(NOT_SERVING)
        }
        DaemonState::Adopting | DaemonState::Unwell => ExitCode::from(UNCONFIRMED),
    }
}

/// Sends a request that has one answer.
fn ask(config: &Config, request: &Request) -> Result<Reply, ClientError> {
    Client::ask(&config.socket, request)?.answer()
}

pub(crate) fn history(config: &Config, last: usize, json: bool) -> Outcoming {
    let entries = entries(config)?;
    let mut lines: Vec<String> = if json {
        entries.iter().map(serde_json::to_string).collect::<Result<_, _>>()?
    } else {
        entries.iter().filter_map(show::entry).collect()
    };
    lines.drain(..lines.len().saturating_sub(last));
    if lines.is_empty() && !json {
        lines.push("nothing has happened yet".to_owned());
    }
    print(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn show(config: &Config, id: &str, json: bool) -> Outcoming {
    let record = record(config, id)?;
    let text = if json { serde_json::to_string(&record)? } else { show::record(&record) };
    print(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn timeline(config: &Config, id: &str, output: &Path) -> Outcoming {
    let svg = timeline::draw(&record(config, id)?);
    if output == Path::new("-") {
        print(&svg)?;
    } else {
        fs::write(output, svg)
            .map_err(|error| anyhow!("cannot write {}: {error}", output.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The entries that the supervisor sends, or those in the file where none runs.
fn entries(config: &Config) -> anyhow::Result<VecDeque<Entry>> {
    match ask(config, &Request::History) {
        Ok(Reply::History(entries)) => Ok(entries),
        Ok(Reply::Refused { why, .. }) => bail!(why),
        Ok(other) => {
            bail!("the supervisor gave an answer that does not fit the question: {other:?}")
        }
        Err(ClientError::Nobody { .. }) => {
            let path = config.state_dir.join("history.jsonl");
            history::read(&path).map_err(|error| anyhow!("cannot read {}: {error}", path.display()))
        }
        Err(error) => Err(error.into()),
    }
}

fn record(config: &Config, id: &str) -> anyhow::Result<SwapRecord> {
    let entries = entries(config)?;
    match history::find(&entries, id) {
        Some(record) => Ok(record.clone()),
        None if id == "last" => bail!("no swap has been made yet"),
        None => bail!(
            "no swap, or more than one, has an id that begins with {id:?}; `handoff history` lists those that are known"
        ),
    }
}

pub(crate) fn upgrade(config: &Config) -> Outcoming {
    let before = match ask(config, &Request::Status)? {
        Reply::Status(status) => status,
        other => return unexpected(&other),
    };
    // The old program ends the connection without a reply, unless it refuses.
    let mut client = Client::ask(&config.socket, &Request::Upgrade)?;
    match client.next() {
        Ok(Some(other)) => return unexpected(&other),
        Ok(None) | Err(ClientError::Cut { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let deadline = Instant::now() + UPGRADE_TIMEOUT + config.limits.adopt;
    loop {
        let last = match ask(config, &Request::Status) {
            Ok(Reply::Status(after))
                if after.supervisor.since_ms != before.supervisor.since_ms
                    && after.daemon.state != DaemonState::Adopting =>
            {
                print(&format!(
                    "supervisor {}: version {} before, {} now; its process and the daemon are the same",
                    after.supervisor.pid, before.supervisor.version, after.supervisor.version
                ))?;
                return Ok(ExitCode::SUCCESS);
            }
            Ok(Reply::Status(_)) => "it has not adopted the daemon yet".to_owned(),
            Ok(other) => {
                format!("the supervisor gave an answer that does not fit the question: {other:?}")
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            bail!(
                "the new supervisor does not answer: {last}. The daemon serves without one; start it by hand: handoff run --config {}",
                config.file.display()
            );
        }
        thread::sleep(RETRY_PAUSE);
    }
}

pub(crate) fn stop(config: &Config, keep_daemon: bool) -> Outcoming {
    match ask(config, if keep_daemon { &Request::Leave } else { &Request::Stop })? {
        Reply::Stopped { status, clean } => {
            print(&format!("stopped; the daemon: {status}"))?;
            Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Reply::Left { serves: Some(daemon) } => {
            let daemon = show::party(&daemon);
            print(&format!("the supervisor stopped, and the daemon serves on: {daemon}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Reply::Left { serves: None } => {
            print("the supervisor stopped; no daemon serves")?;
            Ok(ExitCode::SUCCESS)
        }
        other => unexpected(&other),
    }
}

pub(crate) fn check(config: &Config, json: bool) -> Outcoming {
    let binaries = config.programs.iter().map(Binary::open).collect::<Result<Vec<_>, _>>()?;
    if json {
        let named = |binary: Binary| (binary.path.display().to_string(), binary.blake3);
        let (config, version) = (config.file.display().to_string(), crate::VERSION.to_owned());
        let binaries = binaries.into_iter().map(named).collect();
        print(&serde_json::to_string(&Checked { config, version, binaries })?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for binary in binaries {
        print(&format!("{}  {}", binary.blake3, binary.path.display()))?;
    }
    print(&format!("{} is in order", config.file.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The output of `handoff check --json` for a configuration that is in order. Before an upgrade a
/// supervisor asks the new program for it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Checked {
    pub(crate) config: String,
    version: String,
    /// The BLAKE3 of each binary, by its path.
    binaries: BTreeMap<String, String>,
}

pub(crate) fn metrics(config: &Config) -> Outcoming {
    match ask(config, &Request::Metrics)? {
        Reply::Text(text) => {
            print(text.trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        other => unexpected(&other),
    }
}

fn unexpected(reply: &Reply) -> Outcoming {
    match reply {
        Reply::Refused { why, .. } => {
            crate::complain(&format!("refused: {why}"));
            Ok(ExitCode::from(REFUSED))
        }
        other => bail!("the supervisor gave an answer that does not fit the question: {other:?}"),
    }
}

/// Not println!, which panics on a closed pipe: a reader that is gone is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// An abort that came too late: the successor serves.
const TOO_LATE: u8 = 1;
const ROLLED_BACK: u8 = 3;
const NOT_SERVING: u8 = 3;
const UNCONFIRMED: u8 = 4;
const REFUSED: u8 = 5;
/// It has committed, and failed its probation: what served before serves again.
const SWAPPED_BACK: u8 = 6;
/// The timeout for a supervisor that was just started to answer.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(20);
