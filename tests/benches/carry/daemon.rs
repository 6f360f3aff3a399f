//! The daemon that is swapped, and its supervisor, which is this process.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use handoff::supervisor::{ChildProcess, Committed, HandoffOutcome};
use handoff::{Result, SpawnSpec, Supervisor};
use tempfile::TempDir;

/// One that serves, in a directory of its own.
pub(crate) struct Daemon {
    supervisor: Supervisor,
    address: SocketAddr,
    spec: SpawnSpec,
    serving: ChildProcess,
    _directory: TempDir,
}

/// What a daemon has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    /// In bytes; carried besides its connections.
    pub(crate) memory: usize,
    /// That do nothing.
    pub(crate) shards: usize,
    /// In bytes, at first; none where it is zero.
    pub(crate) log: u64,
}

impl Daemon {
    pub(crate) fn start(load: &Load) -> Result<Self> {
        let directory = directory()?;
        let control = directory.path().join("control");
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let supervisor = Supervisor::new(&control)?.with_listener("main", listener);
        let spec = SpawnSpec::new(EXECUTABLE)
            .arg("serve")
            .arg(control.display().to_string())
            .arg(directory.path().join("data").display().to_string())
            .arg(load.memory.to_string())
            .arg(load.shards.to_string())
            .arg(load.log.to_string());
        let serving = supervisor.start(&spec)?;
        Ok(Self { supervisor, address, spec, serving, _directory: directory })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.serving.pid()
    }

    /// Swaps it for another process of the same binary, and does not wait for the old one's end.
    pub(crate) fn swap(&mut self) -> Result<Swapped> {
        match self.supervisor.perform_handoff(self.spec.clone())? {
            HandoffOutcome::Committed(Committed { successor, timings, carried, .. }) => {
                let replaced = std::mem::replace(&mut self.serving, successor);
                let counts = carried.sets.iter().map(|set| set.count);
                Ok(Swapped { replaced, phases: Phases::of(timings), carried: counts.sum() })
            }
            HandoffOutcome::Failed(failed) => Err(io::Error::other(failed.to_string()).into()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.serving.kill();
        let _ = self.serving.wait();
    }
}

/// A swap that was committed.
pub(crate) struct Swapped {
    replaced: ChildProcess,
    pub(crate) phases: Phases,
    /// Connections and pieces of memory, by the successor's count.
    pub(crate) carried: u64,
}

impl Swapped {
    /// Waits until the old process is gone, so that what it frees slows nothing down that is
    /// measured next.
    pub(crate) fn wait_ended(mut self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while self.replaced.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                return Err(io::Error::other("the process that was replaced does not end").into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Two that are before the pause, and those of which it is made.
#[derive(Clone, Copy)]
pub(crate) struct Phases {
    pub(crate) pair: Duration,
    pub(crate) warm: Duration,
    pub(crate) drain: Duration,
    pub(crate) seal: Duration,
    pub(crate) open: Duration,
    pub(crate) commit: Duration,
}

impl Phases {
    const fn of(timings: handoff::supervisor::Timings) -> Self {
        let handoff::supervisor::Timings { pair, warm, drain, seal, open, commit } = timings;
        Self { pair, warm, drain, seal, open, commit }
    }
}

/// In memory where that is possible: no disk is to be measured.
fn directory() -> io::Result<TempDir> {
    let in_memory = Path::new("/dev/shm");
    tempfile::tempdir_in(in_memory).or_else(|_| tempfile::tempdir())
}

pub(crate) const EXECUTABLE: &str = env!("CARGO_BIN_EXE_bench-carrier");
/// What nothing takes longer than.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
