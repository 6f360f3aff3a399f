//! The demonstration's processes: the supervisors, and every server that one of them has started.
//! All of them end with the demonstration, however it ends.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use handoff::Phase;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::signal::unix::{SignalKind, signal};

use crate::BoxError;
use crate::demo::report::{Order, Said, Serving, SwapReport};

/// The supervisor and its servers. Dropping it ends them.
pub(crate) struct Processes {
    dir: PathBuf,
    interrupt: Interrupt,
    supervisor: Supervisor,
    servers: Vec<Server>,
}

struct Supervisor {
    child: Child,
    /// At the end of this pipe the supervisor ends its server and leaves.
    orders: Option<ChildStdin>,
    lines: mpsc::Receiver<io::Result<String>>,
}

/// A process that a supervisor has started; it may have ended. The kernel reuses a pid, but a
/// pidfd stays with its process.
struct Server {
    pid: u32,
    process: OwnedFd,
}

/// A swap of which the supervisor was killed.
pub(crate) struct Orphaned {
    /// The process that was to take over.
    pub(crate) successor: u32,
    /// The supervisor's last line.
    pub(crate) last_word: Said,
}

impl Processes {
    /// Starts a supervisor, which starts a server.
    pub(crate) fn start(dir: &Path, interrupt: Interrupt) -> Result<(Self, Serving), BoxError> {
        let supervisor = Supervisor::start(dir)?;
        let (dir, servers) = (dir.to_owned(), Vec::new());
        let mut processes = Self { dir, interrupt, supervisor, servers };
        loop {
            if let Said::Serving(serving) = processes.hear()? {
                return Ok((processes, serving));
            }
        }
    }

    pub(crate) fn swap(&mut self, order: &Order) -> Result<SwapReport, BoxError> {
        self.supervisor.order(order)?;
        loop {
            if let Said::Swapped(report) = self.hear()? {
                return Ok(report);
            }
        }
    }

    /// Orders a swap, and kills the supervisor when it says that the swap has entered `phase`.
    pub(crate) fn swap_and_kill(
        &mut self,
        order: &Order,
        phase: Phase,
    ) -> Result<Orphaned, BoxError> {
        self.supervisor.order(order)?;
        let mut successor = None;
        let mut last_word = loop {
            match self.hear()? {
                Said::Launched { pid } => successor = Some(pid),
                said @ (Said::Serving(_) | Said::Swapped(_)) => {
                    return Err(format!("no swap entered the phase {phase}: {said}").into());
                }
                said if said == (Said::Entered { phase }) => break said,
                Said::Entered { .. } => {}
            }
        };
        self.kill_supervisor()?;
        // The lines that it still wrote until the signal reached it.
        while let Ok(line) = self.supervisor.lines.recv() {
            last_word = self.understand(&line?)?;
        }
        let successor = successor.ok_or("the supervisor started no successor")?;
        Ok(Orphaned { successor, last_word })
    }

    /// Kills the supervisor. Its server knows nothing of it.
    pub(crate) fn kill_supervisor(&mut self) -> io::Result<()> {
        self.supervisor.child.kill()?;
        self.supervisor.child.wait().map(drop)
    }

    /// Starts another supervisor after one was killed.
    ///
    /// # Errors
    ///
    /// It started a server, where one serves already.
    pub(crate) fn start_another(&mut self) -> Result<Serving, BoxError> {
        self.supervisor = Supervisor::start(&self.dir)?;
        loop {
            match self.hear()? {
                Said::Serving(serving) => return Ok(serving),
                Said::Launched { pid } => {
                    return Err(format!("a second server, {pid}, was started beside one").into());
                }
                Said::Entered { .. } | Said::Swapped(_) => {}
            }
        }
    }

    /// The servers that still run beside `pid`, after they have had the time to leave.
    pub(crate) fn beside(&self, pid: u32) -> Vec<u32> {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        let others = self.servers.iter().filter(|server| server.pid != pid);
        others.filter(|other| !ends(&other.process, deadline)).map(|other| other.pid).collect()
    }

    /// The supervisor's next line.
    fn hear(&mut self) -> Result<Said, BoxError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            self.interrupt.check()?;
            match self.supervisor.lines.recv_timeout(GLANCE) {
                Ok(line) => return self.understand(&line?),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err("the supervisor said nothing in time".into());
                }
                Err(RecvTimeoutError::Disconnected) => return Err("the supervisor ended".into()),
            }
        }
    }

    /// Understands a line, and remembers the process that it names.
    fn understand(&mut self, line: &str) -> Result<Said, BoxError> {
        let said: Said = line.parse()?;
        if let Said::Launched { pid } = said {
            let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // A process that has ended by now and was waited for needs no remembering.
            let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            self.servers.extend(process.map(|process| Server { pid, process }));
        }
        Ok(said)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.supervisor.end();
        while let Ok(Ok(line)) = self.supervisor.lines.recv() {
            let _ = self.understand(&line);
        }
        for Server { process, .. } in &self.servers {
            // For a process that has ended this is an error, and no other process gets the signal.
            if pidfd_send_signal(process, Signal::KILL).is_ok() {
                ends(process, Instant::now() + EXIT_TIMEOUT);
            }
        }
    }
}

impl Supervisor {
    /// The first supervisor and later ones start alike: each finds out itself whether to adopt.
    fn start(dir: &Path) -> Result<Self, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("supervise")
            .arg("--data")
            .arg(dir.join("data"))
            .arg("--control")
            .arg(dir.join("control"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(OpenOptions::new().create(true).append(true).open(log(dir))?)
            .spawn()?;
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                BufReader::new(stdout).lines().try_for_each(|line| sender.send(line))
            });
        }
        Ok(Self { orders: child.stdin.take(), child, lines })
    }

    fn order(&mut self, order: &Order) -> Result<(), BoxError> {
        let orders = self.orders.as_mut().ok_or("the supervisor takes no orders")?;
        Ok(writeln!(orders, "{order}")?)
    }

    /// Gives the supervisor time to end its server, and then kills it.
    fn end(&mut self) {
        drop(self.orders.take());
        let deadline = Instant::now() + EXIT_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file that takes the standard error of all the processes.
pub(crate) fn log(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// Whether the process ends before the deadline.
fn ends(process: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            polled => return polled == Ok(1),
        }
    }
}

/// Whether Ctrl-C or `SIGTERM` asked the demonstration to end.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for these signals. From then on they do not end this process by themselves.
    pub(crate) fn watch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let entered = runtime.enter();
        let mut ctrl_c = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let came = Arc::<AtomicBool>::default();
        let comes = Arc::clone(&came);
        drop(entered);
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! { _ = ctrl_c.recv() => {}, _ = terminate.recv() => {} }
            });
            comes.store(true, Ordering::Relaxed);
        });
        Ok(Self(came))
    }

    pub(crate) fn check(&self) -> Result<(), BoxError> {
        if self.0.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time until the demonstration notices an interruption.
const GLANCE: Duration = Duration::from_millis(50);
