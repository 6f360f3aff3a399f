//! A swap, as it goes on.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{meaning, what};
use crate::commands::print;
use crate::record::{Outcome, SwapEventKind};
use crate::trigger::Reply;
use crate::units::{coarse, exact};

/// Prints a line for each step, and shows the current step on a terminal.
pub(crate) struct Live {
    json: bool,
    spinner: ProgressBar,
}

impl Live {
    pub(crate) fn new(json: bool) -> Self {
        let is_shown = !json && io::stdout().is_terminal() && io::stderr().is_terminal();
        let spinner = if is_shown { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
            spinner.set_style(style);
        }
        if is_shown {
            spinner.enable_steady_tick(Duration::from_millis(100));
        }
        Self { json, spinner }
    }

    /// Shows a reply of the supervisor.
    pub(crate) fn hear(&mut self, reply: &Reply) -> io::Result<()> {
        if self.json {
            return print(&serde_json::to_string(reply)?);
        }
        match reply {
            Reply::Begun { id, one_way: false } => self.line(&format!("swap {id}")),
            Reply::Begun { id, one_way: true } => self.line(&format!(
                "swap {id}\nit may be one-way: once it has committed, no way back is promised"
            )),
            Reply::Step(step) => {
                let words = what(&step.what);
                match &step.what {
                    // It changes many times a second: it gets no line of its own.
                    SwapEventKind::Sealing { sealed, total } if sealed < total => {}
                    _ => self.line(&format!("{:>12}  {words}", exact(step.at_us)))?,
                }
                self.spinner.set_message(words);
                Ok(())
            }
            Reply::Ended(record) => {
                self.spinner.set_message("");
                let outcome = record.outcome();
                let name = outcome.map_or("in flight", Outcome::name);
                let mut text = format!("{name}{}", meaning(outcome));
                if let Some(cause) = record.end.as_ref().and_then(|end| end.cause.as_ref()) {
                    text = format!("{text}\ncause: {cause}");
                }
                if let Some((begun, over)) = record.pause_us() {
                    text = format!("{text}\npause: {}", exact(over.saturating_sub(begun)));
                }
                if record.one_way && matches!(outcome, Some(Outcome::Committed | Outcome::Promoted))
                {
                    text = format!(
                        "{text}\nway back: none is promised; the build before may not read the data any more, and a restore of the data leads back"
                    );
                }
                self.line(&text)
            }
            Reply::OnProbation { left_ms } => {
                self.line(&format!(
                    "on probation for {}: its health is checked; Ctrl-C ends this command alone",
                    coarse(*left_ms)
                ))?;
                self.spinner.set_message("on probation");
                Ok(())
            }
            Reply::Judged(judged) => {
                self.spinner.finish_and_clear();
                print(&super::judged(judged))
            }
            Reply::Refused { why, .. } => {
                self.spinner.finish_and_clear();
                crate::complain(&format!("refused: {why}"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn line(&self, text: &str) -> io::Result<()> {
        self.spinner.suspend(|| print(text))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.spinner.finish_and_clear();
    }
}
