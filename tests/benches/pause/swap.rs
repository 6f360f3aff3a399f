//! The mechanisms, from the side of who starts a daemon and swaps it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use handoff::supervisor::{ChildProcess, Committed, HandoffOutcome, Timings};
use handoff::{SpawnSpec, Supervisor};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

use crate::TIMEOUT;
use crate::daemons::{Care, LISTENER, SLOW, Settings, Slow, create};
use crate::tell::{Said, Told};

/// How a daemon is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// Not at all.
    Alone,
    /// This library, with the connections carried.
    Handoff,
    /// beyond-handoff.
    Beyond,
    /// ecdysis, with one writer.
    Ecdysis,
    /// Ended, waited for and started again, behind a listener that stays.
    Restart,
}

impl Mechanism {
    /// How long a daemon serves on after it was told to be swapped: all have the same load
    /// behind them when they stop, and so the same log to sync and to open.
    pub(crate) const fn delay(self, slow: Slow) -> Duration {
        match (self, slow) {
            // It looks every 500 ms whether its child is ready.
            (Self::Ecdysis, _) => Duration::from_millis(500),
            (_, Slow::Early) => SLOW,
            _ => Duration::ZERO,
        }
    }
}

/// A daemon that serves, in a directory of its own.
pub(crate) struct Running {
    process: Process,
    told: Told,
    /// Of the successor.
    settings: Settings,
    address: SocketAddr,
    _directory: TempDir,
}

enum Process {
    Handoff { supervisor: Supervisor, serving: ChildProcess },
    Beyond { supervisor: beyond::Supervisor, serving: Child, _listener: TcpListener },
    Ecdysis { first: Child, serving: Option<Pid> },
    Restart { listener: TcpListener, serving: Child, is_swapped: bool },
}

/// A swap, after which another process serves.
pub(crate) struct Swapped {
    pub(crate) said: Said,
    /// The phases of this library's own.
    pub(crate) timings: Option<Timings>,
}

impl Running {
    /// Starts one, whose successor is as the settings say.
    pub(crate) fn start(
        mechanism: Mechanism,
        slow: Slow,
        care: Care,
        place: &PathBuf,
    ) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("pause-").tempdir_in(place)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let path = directory.path().to_owned();
        let first = Settings { directory: path, address, slow: Slow::Never, care };
        let mut settings = Settings { slow, ..first.clone() };
        create(&first.data())?;
        let told = Told::bind(&first.told())?;
        let process = match mechanism {
            Mechanism::Handoff => {
                let supervisor = Supervisor::new(&first.control())
                    .map_err(other)?
                    .with_listener(LISTENER, listener);
                let serving = supervisor.start(&handoff_spec(&first)?).map_err(other)?;
                Process::Handoff { supervisor, serving }
            }
            Mechanism::Beyond => {
                let listeners = [(LISTENER.to_owned(), listener.as_raw_fd())];
                let mut command = command("beyond", &first)?;
                beyond::pass_listener_fds_on_spawn(&mut command, &listeners, None);
                let serving = command.spawn()?;
                let supervisor = beyond::Supervisor::new(&first.control())
                    .map_err(other)?
                    .with_listener(LISTENER, listener.as_raw_fd());
                Process::Beyond { supervisor, serving, _listener: listener }
            }
            Mechanism::Ecdysis => {
                // The successor is given the arguments of the first process.
                let first = command("ecdysis", &settings)?
                    .stdin(Stdio::from(OwnedFd::from(listener)))
                    .spawn()?;
                Process::Ecdysis { first, serving: None }
            }
            Mechanism::Restart | Mechanism::Alone => {
                let stdin = Stdio::from(OwnedFd::from(listener.try_clone()?));
                let serving = command("restart", &first)?.stdin(stdin).spawn()?;
                Process::Restart { listener, serving, is_swapped: mechanism != Mechanism::Alone }
            }
        };
        if mechanism == Mechanism::Alone {
            settings.slow = Slow::Never;
        }
        let running = Self { process, told, settings, address, _directory: directory };
        running.told.wait_serving(TIMEOUT)?;
        Ok(running)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.settings.log()
    }

    /// Swaps it, and returns once the successor serves; the old process may still be ending.
    pub(crate) fn swap(&mut self) -> io::Result<Swapped> {
        let mut timings = None;
        match &mut self.process {
            Process::Handoff { supervisor, serving } => {
                let spec = handoff_spec(&self.settings)?;
                match supervisor.perform_handoff(spec).map_err(other)? {
                    HandoffOutcome::Committed(Committed { successor, timings: took, .. }) => {
                        timings = Some(took);
                        let mut replaced = std::mem::replace(serving, successor);
                        if replaced.wait_until(Instant::now() + TIMEOUT)?.is_none() {
                            replaced.kill()?;
                            return Err(io::Error::other("the old process does not end"));
                        }
                    }
                    HandoffOutcome::Failed(failed) => return Err(other(failed)),
                }
            }
            Process::Beyond { supervisor, serving, .. } => {
                let mut spec = beyond::SpawnSpec::new(std::env::current_exe()?);
                spec.args = arguments("beyond", &self.settings);
                let outcome = supervisor.perform_handoff(spec).map_err(other)?;
                let reason = outcome.abort_reason.unwrap_or_default();
                let successor = outcome.child.ok_or_else(|| io::Error::other(reason))?;
                end(std::mem::replace(serving, successor))?;
            }
            Process::Ecdysis { first, serving } => {
                kill_process(Pid::from_child(first), Signal::USR1)?;
                let said = self.told.wait_serving(TIMEOUT)?;
                *serving = i32::try_from(said.pid).ok().and_then(Pid::from_raw);
                return Ok(Swapped { said, timings });
            }
            Process::Restart { is_swapped: false, .. } => {
                std::thread::sleep(ALONE);
                return Ok(Swapped { said: Said::default(), timings });
            }
            Process::Restart { listener, serving, .. } => {
                kill_process(Pid::from_child(serving), Signal::TERM)?;
                serving.wait()?;
                let stdin = Stdio::from(OwnedFd::from(listener.try_clone()?));
                *serving = command("restart", &self.settings)?.stdin(stdin).spawn()?;
            }
        }
        Ok(Swapped { said: self.told.wait_serving(TIMEOUT)?, timings })
    }
}

/// Ends what serves, and waits for it.
impl Drop for Running {
    fn drop(&mut self) {
        match &mut self.process {
            Process::Handoff { serving, .. } => {
                let _ = serving.kill();
                let _ = serving.wait();
            }
            Process::Beyond { serving, .. } | Process::Restart { serving, .. } => {
                let _ = serving.kill();
                let _ = serving.wait();
            }
            Process::Ecdysis { first, serving } => {
                if let Some(serving) = serving {
                    let _ = kill_process(*serving, Signal::KILL);
                }
                let _ = first.kill();
                let _ = first.wait();
                if let Some(serving) = serving {
                    // It is ours since its parent ended: this process takes orphans in.
                    let _ = waitpid(Some(*serving), WaitOptions::empty());
                }
            }
        }
    }
}

fn end(mut process: Child) -> io::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while process.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            process.kill()?;
            process.wait()?;
            return Err(io::Error::other("the old process does not end"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn arguments(mechanism: &str, settings: &Settings) -> Vec<String> {
    let first = ["--daemon", mechanism].map(str::to_owned);
    first.into_iter().chain(settings.to_args()).collect()
}

fn command(mechanism: &str, settings: &Settings) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments(mechanism, settings));
    Ok(command)
}

fn handoff_spec(settings: &Settings) -> io::Result<SpawnSpec> {
    let mut spec = SpawnSpec::new(std::env::current_exe()?);
    spec.args = arguments("handoff", settings);
    Ok(spec)
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// For how long a daemon is watched that is left alone.
const ALONE: Duration = Duration::from_millis(250);
