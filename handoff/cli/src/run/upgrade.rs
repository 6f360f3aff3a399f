//! A new program for the supervisor itself. The supervisor tries it, and then executes it in its
//! own process. The pid stays, so the daemon stays a child and a service manager keeps track of the
//! supervisor. The new program inherits the sockets, and adopts the daemon as after a crash.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::iter;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, bail, ensure};
use handoff::supervisor::JournalState;
use nix::sys::signal::SigSet;
use rustix::io::{DupFlags, dup2, dup3};

use super::{Event, Runner, children};
use crate::binary::without_deletion;
use crate::commands::Checked;
use crate::config::Config;
use crate::listen::OWN;
use crate::trigger::Reply;

/// Occupies the descriptors from 3 on, as many as are free in a row. A started process takes its
/// sockets from there: no other file may get these numbers.
pub(super) fn occupy(count: usize) -> io::Result<Vec<OwnedFd>> {
    let behind = FIRST.saturating_add(i32::try_from(count).unwrap_or(i32::MAX));
    // This descriptor itself lies above them.
    let nothing = rustix::io::fcntl_dupfd_cloexec(File::open("/dev/null")?, behind)?;
    let mut places: Vec<OwnedFd> = Vec::with_capacity(count);
    for number in FIRST..behind {
        let place = rustix::io::fcntl_dupfd_cloexec(&nothing, FIRST)?;
        if place.as_raw_fd() != number {
            break;
        }
        places.push(place);
    }
    Ok(places)
}

impl Runner {
    /// Tries the new program on a thread of its own: one that does not run, or does not understand
    /// the configuration, would leave the daemon without a supervisor.
    pub(super) fn try_upgrade(&mut self, replies: Sender<Reply>) {
        let program = match self.new_program() {
            Ok(program) => program,
            Err(why) => return drop(replies.send(Reply::refused(why))),
        };
        let (tell, config) = (self.jobs.tell(), self.config.file.clone());
        let answers = replies.clone();
        let started = thread::Builder::new().name("upgrade".into()).spawn(move || {
            let result = attempt(&program, &config).map(|()| program);
            tell(Event::UpgradeTried { result, replies });
        });
        if let Err(error) = started {
            let _ = answers.send(Reply::refused(format!("cannot start a thread: {error}")));
        }
    }

    /// The new program, if nothing is in the way: the configured one, or the file at the path of
    /// this one.
    fn new_program(&self) -> anyhow::Result<PathBuf> {
        ensure!(
            self.jobs.running().is_none() && self.stopping.is_none(),
            "the supervisor is in the middle of something (a swap, a start or a stop): upgrade it once that is over, see `handoff status`"
        );
        ensure!(
            self.service.daemon.is_some(),
            "no daemon serves, and the new supervisor would find none to adopt: upgrade it once one does, see `handoff status`"
        );
        // The next supervisor cannot change these settings either: it would look for another daemon
        // than the one that serves.
        let config = Config::load(&self.config.file)?;
        if let Some(name) = self.config.fixed_difference(&config) {
            bail!(
                "{name} has changed in {}; set it back, or stop the daemon and start it anew",
                self.config.file.display()
            );
        }
        ensure!(
            self.holding.configured == config.listeners,
            "the listeners in {} are not those of the daemon, and an upgrade changes the supervisor alone: swap first (handoff swap), then upgrade",
            self.config.file.display()
        );
        if let Some(program) = &self.config.supervisor {
            return Ok(program.clone());
        }
        let own = std::env::current_exe()
            .map_err(|error| anyhow!("cannot find the path of this program: {error}; name the new one as `supervisor` in the configuration"))?;
        Ok(without_deletion(&own))
    }

    pub(super) fn upgrade(&mut self, result: anyhow::Result<PathBuf>, replies: &Sender<Reply>) {
        let why = match result {
            Err(why) => why.to_string(),
            Ok(_) if self.jobs.running().is_some() || self.stopping.is_some() => {
                "something else has begun meanwhile; try again".to_owned()
            }
            Ok(program) => {
                tracing::info!(path = %program.display(), "this supervisor executes its new program");
                let Err(error) = self.execute(&program);
                self.trigger.keep();
                format!("cannot execute {}: {error}; this supervisor goes on", program.display())
            }
        };
        tracing::error!(error = why, "this supervisor was not upgraded, and goes on");
        let _ = replies.send(Reply::refused(why));
    }

    /// Returns only if it fails, with everything as it was.
    fn execute(&mut self, program: &Path) -> Result<std::convert::Infallible, io::Error> {
        let Some(supervisor) = self.jobs.supervisor() else {
            return Err(io::Error::other("the supervisor is busy"));
        };
        let listener = self.trigger.pass_on()?;
        let own = (OWN, listener.as_fd());
        // The daemon gives back the sockets that do not fit.
        let passed = iter::once(own).chain(supervisor.listeners()).take(self.places.len());
        let (names, sockets): (Vec<_>, Vec<_>) = passed.unzip();
        let arguments = iter::once(program.into()).chain(std::env::args_os().skip(1));
        let arguments = c_strings(arguments)?;
        let is_replaced = |name: &OsStr| name.to_str().is_some_and(|it| it.starts_with("LISTEN_"));
        let kept = std::env::vars_os().filter(|(name, _)| !is_replaced(name));
        let kept = kept.map(|(name, value)| [name, value].join(OsStr::new("=")));
        let listen = [
            format!("LISTEN_FDS={}", sockets.len()),
            format!("LISTEN_PID={}", std::process::id()),
            format!("LISTEN_FDNAMES={}", names.join(":")),
        ];
        let environment = c_strings(kept.chain(listen.map(OsString::from)))?;
        self.swaps.history.flush(LAST_LINES);
        crate::log::flush(LAST_LINES);
        // The kernel ends every other thread first, and one that waits for a disk does not end. The
        // new program would know nothing of a line that is not written.
        let journal_is_whole =
            |journal: &JournalState| journal.lacking().is_none() && journal.answers();
        let history = &self.swaps.history;
        let is_whole = self.journal.as_ref().is_none_or(journal_is_whole)
            && history.answers()
            && history.unwritten() == 0;
        if !(is_whole && self.jobs.links_answer()) {
            let words = "the disk of the state directory does not answer, or has not taken each line of journal and history; try again once `handoff status` warns of it no more";
            return Err(io::Error::other(words));
        }
        // A signal stays pending until the new program listens for signals.
        let executed = SigSet::all().thread_block().map_err(io::Error::from).and_then(|()| {
            for (socket, place) in sockets.iter().zip(&mut self.places) {
                dup2(socket, place)?;
            }
            Ok(nix::unistd::execve(&arguments[0], &arguments, &environment)?)
        });
        let _ = SigSet::all().thread_unblock();
        // A child must not inherit the sockets that were put there.
        let nothing = File::open("/dev/null")?;
        for place in &mut self.places {
            dup3(&nothing, place, DupFlags::CLOEXEC)?;
        }
        executed
    }
}

fn c_strings(texts: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    texts
        .map(|text| CString::new(text.into_vec()).map_err(|_| io::ErrorKind::InvalidInput.into()))
        .collect()
}

/// Lets the new program check the configuration.
fn attempt(program: &Path, config: &Path) -> anyhow::Result<()> {
    let mut check = Command::new(program);
    check.arg("--config").arg(config).args(["check", "--json"]);
    let program = program.display();
    let output = children::output(&mut check, PATIENCE)
        .map_err(|error| anyhow!("{program} does not run: {error}"))?;
    ensure!(
        output.status.success(),
        "{program} does not take the configuration ({}): {}",
        children::words_of(output.status),
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    ensure!(
        serde_json::from_slice::<Checked>(&output.stdout).is_ok(),
        "{program} is no supervisor: asked to check the configuration, it said {:?}",
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}

/// The first of the descriptors that a process inherits.
pub(super) const FIRST: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(20);
/// No event is acted on meanwhile.
const LAST_LINES: Duration = Duration::from_millis(500);
