//! A new program for the supervisor itself: tried, and then executed in the place of this one. The
//! pid stays, so the daemon stays a child and a service manager loses track of nobody; the
//! listening sockets go along, and the daemon is adopted as after a crash.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use nix::sys::signal::SigSet;
use rustix::io::{DupFlags, dup2, dup3};

use super::{Event, Runner, children};
use crate::commands::Checked;
use crate::config::Config;
use crate::listen::OWN;
use crate::trigger::Reply;

/// The numbers from which a started process takes its sockets, occupied from the beginning so
/// that nothing else gets them.
pub(super) struct Places {
    places: Vec<OwnedFd>,
}

impl Places {
    /// Occupies as many from descriptor 3 on as are free in a row.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        let behind = FIRST.saturating_add(i32::try_from(count).unwrap_or(i32::MAX));
        // Out of the way itself.
        let nothing = rustix::io::fcntl_dupfd_cloexec(File::open("/dev/null")?, behind)?;
        let mut places: Vec<OwnedFd> = Vec::with_capacity(count);
        for number in FIRST..behind {
            let place = rustix::io::fcntl_dupfd_cloexec(&nothing, FIRST)?;
            if place.as_raw_fd() != number {
                break;
            }
            places.push(place);
        }
        Ok(Self { places })
    }
}

impl Runner {
    /// Tries the new program on a thread of its own: one that does not run, or does not understand
    /// the configuration, would leave the daemon without a supervisor.
    pub(super) fn try_upgrade(&mut self, replies: Sender<Reply>) {
        if self.jobs.running().is_some() || self.stopping.is_some() {
            let why = "the supervisor is in the middle of something (a swap, a start or a stop): upgrade it once that is over, see `handoff status`";
            let _ = replies.send(Reply::refused(why));
            return;
        }
        if self.service.daemon.is_none() {
            let why = "no daemon serves, and the new supervisor would find none to adopt: upgrade it once one does, see `handoff status`";
            let _ = replies.send(Reply::refused(why));
            return;
        }
        // What a running supervisor cannot go over to, the next one could not either: it would look
        // for another daemon than the one that serves.
        let difference = Config::load(&self.config.file)
            .map(|config| self.config.fixed_difference(&config))
            .map_err(|error| error.to_string());
        let why = match difference {
            Ok(None) => None,
            Ok(Some(name)) => Some(format!(
                "{name} has changed in {}; set it back, or stop the daemon and start it anew",
                self.config.file.display()
            )),
            Err(error) => Some(error),
        };
        if let Some(why) = why {
            let _ = replies.send(Reply::refused(why));
            return;
        }
        let program = match self.program() {
            Ok(program) => program,
            Err(error) => {
                let _ = replies.send(Reply::refused(format!("where is the new program? {error}")));
                return;
            }
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

    /// As configured, or where this program was.
    fn program(&self) -> io::Result<PathBuf> {
        if let Some(program) = &self.config.supervisor {
            return Ok(program.clone());
        }
        let own = std::env::current_exe()?;
        // The kernel says so of a file that was replaced.
        let own = own.to_string_lossy();
        Ok(PathBuf::from(own.strip_suffix(" (deleted)").unwrap_or(&own)))
    }

    pub(super) fn upgrade(&mut self, result: Result<PathBuf, String>, replies: &Sender<Reply>) {
        let why = match result {
            Err(why) => why,
            Ok(_) if self.jobs.running().is_some() || self.stopping.is_some() => {
                "something else has begun meanwhile; try again".to_owned()
            }
            Ok(program) => {
                tracing::info!(program = %program.display(), "the supervisor is upgraded");
                let Err(error) = self.execute(&program);
                format!("cannot execute {}: {error}; this supervisor goes on", program.display())
            }
        };
        tracing::error!(why, "the supervisor is not upgraded");
        let _ = replies.send(Reply::refused(why));
    }

    /// Returns only if it fails, with everything as it was.
    fn execute(&mut self, program: &Path) -> Result<std::convert::Infallible, io::Error> {
        let Some(supervisor) = self.jobs.supervisor() else {
            return Err(io::Error::other("the supervisor is busy"));
        };
        let text = |text: &std::ffi::OsStr| {
            CString::new(text.as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        };
        let mut arguments = vec![text(program.as_os_str())?];
        for argument in std::env::args_os().skip(1) {
            arguments.push(text(&argument)?);
        }
        let mut names = vec![OWN.to_owned()];
        let mut sockets = vec![self.trigger.as_fd()];
        for (name, socket) in supervisor.listeners() {
            names.push(name.to_owned());
            sockets.push(socket);
        }
        // Those that do not fit come back from the daemon.
        let count = sockets.len().min(self.places.places.len());
        names.truncate(count);
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let is_replaced = name.to_str().is_some_and(|name| name.starts_with("LISTEN_"));
            if !is_replaced {
                let mut entry = name;
                entry.push("=");
                entry.push(value);
                environment.push(text(&entry)?);
            }
        }
        let passed = [
            format!("LISTEN_FDS={count}"),
            format!("LISTEN_PID={}", std::process::id()),
            format!("LISTEN_FDNAMES={}", names.join(":")),
        ];
        for entry in passed {
            environment.push(text(entry.as_ref())?);
        }
        let program = text(program.as_os_str())?;
        // A signal that comes before the new program hears signals waits for it.
        let executed = SigSet::all().thread_block().map_err(io::Error::from).and_then(|()| {
            for (socket, place) in sockets.iter().zip(&mut self.places.places) {
                dup2(socket, place)?;
            }
            Ok(nix::unistd::execve(&program, &arguments, &environment)?)
        });
        let _ = SigSet::all().thread_unblock();
        // Nothing is left that another process could inherit.
        let nothing = File::open("/dev/null")?;
        for place in &mut self.places.places {
            dup3(&nothing, place, DupFlags::CLOEXEC)?;
        }
        executed
    }
}

/// Lets the new program check the configuration.
fn attempt(program: &Path, config: &Path) -> Result<(), String> {
    let mut check = Command::new(program);
    check.arg("--config").arg(config).args(["check", "--json"]);
    let output = children::output(&mut check, PATIENCE)
        .map_err(|error| format!("{} does not run: {error}", program.display()))?;
    if output.status.success() {
        return match serde_json::from_slice::<Checked>(&output.stdout) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!(
                "{} is no supervisor: asked to check the configuration, it said {:?}",
                program.display(),
                String::from_utf8_lossy(&output.stdout)
            )),
        };
    }
    Err(format!(
        "{} does not take the configuration ({}): {}",
        program.display(),
        children::words_of(output.status),
        String::from_utf8_lossy(&output.stderr).trim_end()
    ))
}

/// Where passed descriptors begin.
pub(super) const FIRST: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(20);
