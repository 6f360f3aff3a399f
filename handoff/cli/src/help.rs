//! `handoff help TOPIC`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::Args;
use crate::metrics;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Topic {
    /// The first errors, their messages and their remedies
    Errors,
    /// All settings of the configuration
    Config,
    /// The meaning of each exit code
    ExitCodes,
    /// The names and meanings of the metrics
    Metrics,
    /// The effect of each signal
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
const CONFIG: &str = include_str!("help/config.txt");
const ERRORS: &str = include_str!("help/errors.txt");
const EXIT_CODES: &str = include_str!("help/exit-codes.txt");
const SIGNALS: &str = include_str!("help/signals.txt");

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Check, Config};

    /// The text is a whole configuration, and the parser accepts it.
    #[test]
    fn the_configuration_that_is_shown_is_one() {
        let begin = CONFIG.find("# Required").unwrap();
        let config = Config::parse(&CONFIG[begin..], Path::new("/etc/notes.toml")).unwrap();
        assert_eq!(config.programs.len(), 2);
        assert_eq!(config.listeners.len(), 2);
        assert_eq!(config.limits.pause.map(|pause| pause.duration.as_secs()), Some(5));
        let limits = crate::config::Limits { pause: None, ..config.limits };
        assert_eq!(limits, crate::config::Limits::default());
        assert_eq!(config.restart, crate::config::Restart::default());
        assert_eq!(config.swap, crate::config::SwapConfig::default());
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
