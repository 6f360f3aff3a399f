//! `handoff help TOPIC`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::Args;
use crate::metrics;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Topic {
    /// What goes wrong at first, how it is told, and what to do
    Errors,
    /// All that the configuration may say
    Config,
    /// What each exit code means
    ExitCodes,
    /// The names of what is counted and measured
    Metrics,
    /// What each signal does
    Signals,
}

pub(crate) fn help(topic: Option<Topic>) -> ExitCode {
    let text = match topic {
        None => Args::command().render_help().to_string(),
        Some(Topic::Errors) => ERRORS.to_owned(),
        Some(Topic::Config) => CONFIG.to_owned(),
        Some(Topic::ExitCodes) => EXIT_CODES.to_owned(),
        Some(Topic::Metrics) => metrics_text(),
        Some(Topic::Signals) => SIGNALS.to_owned(),
    };
    // A reader that has gone has seen enough.
    let _ = crate::commands::print(text.trim_end());
    ExitCode::SUCCESS
}

fn metrics_text() -> String {
    let mut text = String::from(
        "`handoff metrics` prints them in Prometheus's text format; they begin with the supervisor.\n\n",
    );
    for (name, kind, label, words) in metrics::DOCUMENTED {
        let label = if label.is_empty() { String::new() } else { format!("{{{label}}}") };
        let _ = writeln!(text, "{name}{label}\n    {kind}: {words}");
    }
    text
}

/// Each setting is in the test of the configuration.
pub(crate) const CONFIG: &str = r#"The configuration is TOML. What it does not know is an error, and so is what it lacks. Durations
are written with their units: "250ms", "30s", "1m 30s". Relative paths, those among the daemon's
arguments included, begin at the directory of the file. It is read again at each swap.

# Required: where the supervisor keeps its history and its socket. It is created, mode 0700.
state_dir = "/var/lib/notes/handoff"
# The supervisor's own socket; by default supervisor.sock in state_dir.
socket = "/run/notes/handoff.sock"
# What `handoff upgrade` goes over to; by default whatever lies where this program lay.
supervisor = "/usr/bin/handoff"

[daemon]
# Required: what is started, and what a swap goes to.
binary = "/opt/notes/notesd"
# Required: the control socket that the daemon serves, by its own arguments.
control = "/run/notes/control.sock"
args = ["--data", "/var/lib/notes/data", "--control", "/run/notes/control.sock"]
# Of the file; one with another hash is not executed.
blake3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
# The daemon's working directory; by default that of this file.
directory = "/var/lib/notes"
env = { RUST_LOG = "info" }

# Other binaries that may be executed, with `handoff swap --binary PATH`.
[[binaries]]
path = "/opt/notes/notesd-previous"
# By default those of the daemon.
args = ["--data", "/var/lib/notes/data", "--control", "/run/notes/control.sock", "--old"]
blake3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"

# Sockets that are inherited (LISTEN_FDNAMES) or bound, held, and passed to each daemon by name:
# "127.0.0.1:6380", "[::]:6380", "udp:127.0.0.1:53", "unix:/run/notes.sock",
# "unix-datagram:/run/notes.log"
[[listeners]]
name = "http"
address = "127.0.0.1:7000"
# Whether accept waits; most asynchronous daemons want false, which is the default.
blocking = false

[limits]
deadline = "5m"       # a whole swap; when it has passed, the swap is undone
drain_grace = "60s"   # for requests in flight to end
hello = "10s"         # from the start of a new process to its first word
start = "5m"          # from the start of a daemon until it serves
stop = "90s"          # for the daemon to stop; then it is killed
adopt = "30s"         # for a daemon that runs to answer a new supervisor

[restart]
pause = "100ms"         # before the second start in a row; doubles with each
longest_pause = "30s"
stable = "10s"          # who serves for so long has not died in a row
attempts = 3            # deaths in a row; then what served before is started instead

# After a swap the daemon is watched; if it is not well, it is swapped back. One check of: tcp, http
# (a status of 200 to 299), command (exits with 0).
[probation]
for = "30s"
every = "1s"
timeout = "2s"
failures = 3            # in a row
http = "http://127.0.0.1:7000/healthz"

[log]
format = "human"        # or "json"; to standard error
level = "info"          # error, warn, info, debug
"#;

const EXIT_CODES: &str = "\
0  done: committed, or begun where --wait was not said; a dry run that went well; aborted, by `abort`
1  an error, which is told on standard error; or an abort that came after the commit
2  a wrong command line
3  rolled back: the old process serves, and has confirmed it
4  nobody has confirmed that they serve: look at `handoff status` and at the log
5  refused, or not begun: nothing was changed

`handoff run` exits with 0 after a clean stop, and with 1 when it could not start, or when the daemon
had to be killed or ended with an error.";

const SIGNALS: &str = "\
SIGHUP            reads the configuration again and swaps to daemon.binary
SIGTERM, SIGINT   undoes a swap in flight, lets the daemon drain, seal and end, and ends; a second
                  one kills the daemon at once
SIGUSR1, SIGUSR2, SIGWINCH
                  are passed on to the daemon if it handles them
SIGKILL           leaves the daemon serving; the next `handoff run` adopts it";

const ERRORS: &str = include_str!("help/errors.txt");

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Check, Config};

    /// What is shown is a whole configuration, and it is taken.
    #[test]
    fn the_configuration_that_is_shown_is_one() {
        let begin = CONFIG.find("# Required").unwrap();
        let config = Config::parse(&CONFIG[begin..], Path::new("/etc/notes.toml")).unwrap();
        assert_eq!(config.programs.len(), 2);
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.limits, crate::config::Limits::default());
        assert_eq!(config.restart, crate::config::Restart::default());
        assert_eq!(config.log, crate::config::LogConfig::default());
        let check = config.probation.map(|probation| probation.check);
        assert_eq!(check, Some(Check::Http("http://127.0.0.1:7000/healthz".into())));
    }

    #[test]
    fn every_metric_is_explained() {
        let text = metrics_text();
        for (name, ..) in metrics::DOCUMENTED {
            assert!(text.contains(name), "{name}");
        }
    }

    #[test]
    fn the_command_line_is_in_order() {
        Args::command().debug_assert();
    }
}
