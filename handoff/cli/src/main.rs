//! The program `handoff`: a supervisor for daemons that use the library, and the commands of its
//! operator.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test panics where it is surprised"))]

mod args;
mod binary;
mod commands;
mod config;
mod files;
mod help;
mod history;
mod listen;
mod log;
mod metrics;
mod names;
mod notify;
mod once;
mod record;
mod run;
mod show;
mod sockets;
mod status;
mod timeline;
mod trigger;
mod units;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};

use args::{Args, Command, Once};
use config::{Config, LogConfig};

/// The version of this program, as supervisor and as client.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    let args = Args::parse();
    let is_supervisor = matches!(args.command, Command::Run { .. });
    let result = perform(args);
    if is_supervisor {
        if let Err(error) = &result {
            log::say(&format!("handoff: {error}"));
        }
        log::flush(LAST_LINES);
    } else if let Err(error) = &result {
        complain(&error.to_string());
    }
    result.unwrap_or(ExitCode::FAILURE)
}

/// Tells the operator. Not eprintln!, which panics where standard error is closed.
fn complain(words: &str) {
    let _ = writeln!(io::stderr(), "handoff: {words}");
}

fn perform(args: Args) -> anyhow::Result<ExitCode> {
    let strictly = || Config::load(&args.config);
    let load = || Config::load_for_client(&args.config);
    match args.command {
        Command::Run { log_format, log_level } => {
            let config = strictly()?;
            log::install(LogConfig {
                format: log_format.unwrap_or(config.log.format),
                level: log_level.unwrap_or(config.log.level),
            });
            run::run(config)
        }
        Command::Swap { request, once: Once { once: true, control, deadline, args }, json } => {
            let control = control.unwrap_or_default();
            once::swap(&control, &request, args, deadline, json)
        }
        Command::Swap { request, json, .. } => commands::swap(&load()?, request, json),
        Command::Status { wait, json } => commands::status(&load()?, wait, json),
        Command::IsActive => Ok(commands::is_active(&load()?)),
        Command::History { last, json } => commands::history(&load()?, last, json),
        Command::Show { id, json } => commands::show(&load()?, &id, json),
        Command::Timeline { id, output } => commands::timeline(&load()?, &id, &output),
        Command::Abort { reason, json } => commands::abort(&load()?, reason, json),
        Command::Upgrade => commands::upgrade(&load()?),
        Command::Stop { keep_daemon } => commands::stop(&load()?, keep_daemon),
        Command::Check { json } => commands::check(&strictly()?, json),
        Command::Metrics => commands::metrics(&load()?),
        Command::Help { topic } => Ok(help::help(topic)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "handoff", &mut script);
            commands::print(String::from_utf8_lossy(&script).trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Args::command()).render(&mut page)?;
            commands::print(String::from_utf8_lossy(&page).trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The timeout for the last lines of the supervisor's log to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
