//! The program `handoff`: a supervisor for daemons that use the library, and the commands of its
//! operator.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test panics where it is surprised"))]

mod args;
mod binary;
mod commands;
mod config;
mod help;
mod history;
mod listen;
mod metrics;
mod record;
mod run;
mod show;
mod status;
mod timeline;
mod trigger;
mod units;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tracing_subscriber::filter::LevelFilter;

use args::{Args, Command};
use config::{Config, LogConfig, LogFormat, LogLevel};

/// The version of this program, as supervisor and as client.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    let args = Args::parse();
    match perform(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("handoff: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(args: Args) -> anyhow::Result<ExitCode> {
    let load = || Config::load(&args.config);
    match args.command {
        Command::Run { log_format, log_level } => {
            let config = load()?;
            log_to_stderr(LogConfig {
                format: log_format.unwrap_or(config.log.format),
                level: log_level.unwrap_or(config.log.level),
            });
            run::run(config)
        }
        Command::Swap { binary, wait, dry_run, json } => {
            commands::swap(&load()?, binary, wait, dry_run, json)
        }
        Command::Status { wait, json } => commands::status(&load()?, wait, json),
        Command::History { last, json } => commands::history(&load()?, last, json),
        Command::Show { id, json } => commands::show(&load()?, &id, json),
        Command::Timeline { id, output } => commands::timeline(&load()?, &id, &output),
        Command::Abort { reason, json } => commands::abort(&load()?, reason, json),
        Command::Upgrade => commands::upgrade(&load()?),
        Command::Stop => commands::stop(&load()?),
        Command::Check { json } => commands::check(&load()?, json),
        Command::Metrics => commands::metrics(&load()?),
        Command::Help { topic } => Ok(help::help(topic)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "handoff", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            clap_mangen::Man::new(Args::command()).render(&mut io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn log_to_stderr(config: LogConfig) {
    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr);
    match config.format {
        LogFormat::Human => {
            subscriber.with_ansi(io::stderr().is_terminal()).with_target(false).init();
        }
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}
