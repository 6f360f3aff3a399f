//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{LogFormat, LogLevel};
use crate::trigger::SwapRequest;

/// Replaces the binary of a running, stateful daemon while its clients stay connected.
///
/// `handoff run` supervises a daemon; the other commands control or query that supervisor. All of
/// them find it by its configuration.
#[derive(Debug, Parser)]
#[command(
    name = "handoff",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "More: `handoff help TOPIC`, with errors, config, exit-codes, metrics or signals.\n\nExit codes: 0 done, 1 an error, 2 a wrong command line, 3 rolled back (the old process serves,\nand has confirmed it), 4 no process has confirmed that it serves, 5 refused or not begun,\n6 committed, and swapped back on probation. `status` and `is-active`: 0 serving, 3 not, 4 unknown."
)]
pub(crate) struct Args {
    /// The configuration of the supervisor and its daemon
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "HANDOFF_CONFIG",
        default_value = "handoff.toml"
    )]
    pub(crate) config: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A swap of a daemon that has no supervisor.
#[derive(Debug, clap::Args)]
pub(crate) struct Once {
    /// Swap a daemon that no supervisor looks after, and leave it alone again
    ///
    /// Without --binary the new process executes the file at the path of the present one, and gets its
    /// arguments. A service manager is told that it is the main process of the unit from then on:
    /// allow that by NotifyAccess=all.
    #[arg(long, requires = "control")]
    pub(crate) once: bool,
    /// With --once: the daemon's control socket
    #[arg(long, requires = "once", value_name = "SOCKET")]
    pub(crate) control: Option<PathBuf>,
    /// With --once: how long the whole swap may take
    #[arg(long, requires = "once", value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Duration,
    /// With --once and --binary: the arguments of the new process
    #[arg(last = true, requires = "once", requires = "binary", value_name = "ARGUMENTS")]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Supervise a daemon, in the foreground
    ///
    /// Adopts the daemon that runs, or binds (or inherits) the listeners and starts one; starts it
    /// again when it dies, with a growing pause, and goes back to the previous binary when it keeps
    /// dying. Killed, it leaves the daemon serving, for the next `handoff run` to adopt.
    ///
    /// SIGHUP swaps to the configured binary. SIGTERM and SIGINT stop the daemon cleanly; a second
    /// one ends it at once. SIGQUIT ends the supervisor alone, and leaves the daemon serving.
    Run {
        /// How to log, in place of log.format
        #[arg(long, value_name = "FORMAT")]
        log_format: Option<LogFormat>,
        /// How much to log, in place of log.level
        #[arg(long, value_name = "LEVEL")]
        log_level: Option<LogLevel>,
    },
    /// Replace the daemon by another binary, while its clients stay connected
    ///
    /// Without --wait it returns once the swap has begun. With --wait it shows each phase, and waits
    /// for the end of the probation, if the configuration has one; its exit code tells the outcome.
    /// Ending it with Ctrl-C does not end the swap: see `handoff abort`.
    ///
    /// With --once it needs no supervisor and no configuration: it swaps a daemon that is a unit of its
    /// own, as ExecReload= of that unit.
    Swap {
        #[command(flatten)]
        request: SwapRequest,
        #[command(flatten)]
        once: Once,
        /// Say it in JSON, a line each
        #[arg(long)]
        json: bool,
    },
    /// Show the daemon that serves, since when, and the phase of a swap
    ///
    /// Its exit code is 0 if a daemon serves, 3 if none does, and 4 if that is not known.
    Status {
        /// Wait until a daemon serves, for a supervisor that was just started
        #[arg(long)]
        wait: bool,
        /// Say it in JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell by the exit code alone whether a daemon serves: 0, or 3, or 4 where that is not known
    IsActive,
    /// List past swaps, and the events of daemons, newest last
    ///
    /// Works without a supervisor, too.
    History {
        /// How many of the last ones
        #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
        last: usize,
        /// Say it in JSON, a line each
        #[arg(long)]
        json: bool,
    },
    /// Show one swap: its phases with their times, and its outcome
    Show {
        /// Its id, or the first digits of it, or `last`
        id: String,
        /// Say it in JSON
        #[arg(long)]
        json: bool,
    },
    /// Draw one swap: supervisor, old and new process, and the pause
    Timeline {
        /// Its id, or the first digits of it, or `last`
        id: String,
        /// The file to write; `-` is standard output
        #[arg(short, long, default_value = "-", value_name = "FILE.svg")]
        output: PathBuf,
    },
    /// Undo the swap in flight, and wait until that is done
    Abort {
        /// The cause that the history records
        #[arg(long, default_value = "an operator wished it")]
        reason: String,
        /// Say it in JSON, a line each
        #[arg(long)]
        json: bool,
    },
    /// Replace the supervisor itself by a newer version; the daemon is not touched
    ///
    /// The new program (the setting `supervisor`, or the file at the path of this one) first has to
    /// accept the configuration. Its process is the same: the pid stays, and so do the listeners.
    Upgrade,
    /// Stop the daemon cleanly, and then the supervisor
    Stop {
        /// Stop the supervisor alone: the daemon serves on, and the next `handoff run` adopts it
        ///
        /// A swap in flight is undone first, and a start is waited for.
        #[arg(long)]
        keep_daemon: bool,
    },
    /// Check the configuration, and the binaries that it lists
    Check {
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the supervisor's metrics, in Prometheus's text format
    Metrics,
    /// Explain errors, the configuration, exit codes, metrics or signals
    Help {
        /// The topic; without one, the list of commands
        topic: Option<crate::help::Topic>,
    },
    /// Print completions for a shell
    Completions { shell: Shell },
    /// Print the manual page, in roff
    Man,
}
