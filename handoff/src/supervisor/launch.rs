//! Starting a process, with its descriptors in place.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};

use crate::control::{CONTROL_VARIABLE, FIRST_DESCRIPTOR, ONE_WAY_VARIABLE, check_name};
use crate::error::{LaunchError, Result};
use crate::protocol::HandoffId;
use crate::supervisor::AbortHandle;
use crate::sys::inherited::inode;
use crate::sys::poll::Waker;

/// A binary to start, and the timeouts of a swap to it.
#[derive(Debug, Clone)]
pub struct SpawnSpec {
    /// The binary; `PATH` is searched for one without a slash.
    pub binary: PathBuf,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// Variables to add to this process's own.
    pub env: Vec<(String, String)>,
    /// For the whole swap, from pairing to commit. When it has passed, a process that still can
    /// rolls the swap back. 5 minutes by default.
    ///
    /// It protects an incumbent: a successor that goes on alone because the incumbent has died
    /// may open for as long as it says that it lives.
    pub deadline: Duration,
    /// For the pause: from the moment in which the incumbent closes its gate, behind the work that
    /// it does while it serves, until the supervisor has told the successor to commit. When it has
    /// passed, the supervisor rolls the swap back ([`Cause::PauseTooLong`]). None by default: then
    /// the [deadline](Self::deadline) alone limits how long clients wait.
    ///
    /// The undo comes on top of it: the incumbent waits for the end of a hook that runs, and opens
    /// what it had sealed. It counts from the beginning of the drain where the incumbent is of a
    /// build that does not say when it closes its gate. Once the supervisor has told the successor
    /// to commit, or where the incumbent has died, it limits nothing.
    ///
    /// [`Cause::PauseTooLong`]: crate::supervisor::Cause::PauseTooLong
    pub pause_limit: Option<Duration>,
    /// For the drain alone: how long requests in flight may take to end. 60 seconds by default.
    pub drain_grace: Duration,
    /// From the start of a successor to its hello, which comes before its slow start-up work.
    /// 10 seconds by default.
    pub hello_timeout: Duration,
    /// From the start of a first daemon until it serves: opening its data is part of it. 5
    /// minutes by default.
    pub start_timeout: Duration,
    /// The identifier of the swap, for a caller that tells it to somebody before the swap begins.
    /// Each swap needs a [new](HandoffId::new) one, also where the swap before it failed. None
    /// by default: the supervisor makes a new one for each swap.
    pub handoff_id: Option<HandoffId>,
    /// Gives the swap up from another thread, also while it waits; and the start of a first
    /// daemon. None by default.
    pub abort: Option<AbortHandle>,
    /// Whether the swap may be one-way: to a build that writes a format that the present one does
    /// not read, so that only a restore of the data leads back. `false` by default: such a successor
    /// ends itself before the drain, and the incumbent serves on.
    pub one_way: bool,
}

impl SpawnSpec {
    /// A binary with no arguments and the default limits.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            args: Vec::new(),
            env: Vec::new(),
            deadline: Duration::from_secs(300),
            pause_limit: None,
            drain_grace: Duration::from_secs(60),
            hello_timeout: Duration::from_secs(10),
            start_timeout: Duration::from_secs(300),
            handoff_id: None,
            abort: None,
            one_way: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }
}

/// Starts a process for a [`LaunchRequest`]. Replace it to set a user, a control group, or
/// limits; the default is [`Exec`].
pub trait Launch: Send + Sync {
    /// Starts the process as a direct child of this one: the supervisor compares the child's pid
    /// with the hello.
    ///
    /// # Errors
    ///
    /// [`Error::Launch`](crate::Error::Launch); nothing was begun.
    fn launch(&self, request: LaunchRequest<'_>) -> Result<Child>;
}

/// Starts the binary and changes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exec;

impl Launch for Exec {
    fn launch(&self, request: LaunchRequest<'_>) -> Result<Child> {
        request.spawn(|_| ())
    }
}

/// A process to be started, with the descriptors that it inherits.
#[derive(Debug)]
pub struct LaunchRequest<'a> {
    spec: &'a SpawnSpec,
    /// Executed in place of the binary.
    program: Option<PathBuf>,
    listeners: &'a [(String, OwnedFd)],
    /// The successor's end of its control connection; none in a cold start.
    control: Option<OwnedFd>,
}

impl<'a> LaunchRequest<'a> {
    pub(super) const fn new(
        spec: &'a SpawnSpec,
        listeners: &'a [(String, OwnedFd)],
        control: Option<OwnedFd>,
    ) -> Self {
        Self { spec, program: None, listeners, control }
    }

    /// The binary to start, with its arguments, variables and limits.
    #[must_use]
    pub const fn spec(&self) -> &SpawnSpec {
        self.spec
    }

    /// Executes the file at that path in place of [`SpawnSpec::binary`], which stays the first
    /// argument and the name in errors. It is not searched for in `PATH`.
    ///
    /// For a caller that has checked a file and wants that file executed, although another one may
    /// lie at the binary's path by then. Pass `/proc/PID/fd/N` for a descriptor of the process
    /// `PID`; it has to stay open until the new process is started. A script is opened by its
    /// interpreter, which is passed this path: then the descriptor has to stay open until the
    /// interpreter has read it, and `PID` may not be `self`.
    #[must_use]
    pub fn with_program(mut self, program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let is_bare = is_searched_for(&program);
        self.program = Some(if is_bare { Path::new(".").join(program) } else { program });
        self
    }

    /// Starts the process, after `configure` may have changed the command. Environment,
    /// arguments and descriptors are set before.
    ///
    /// # Errors
    ///
    /// [`LaunchError`].
    pub fn spawn(self, configure: impl FnOnce(&mut Command)) -> Result<Child> {
        let binary = &self.spec.binary;
        let program = self.program.as_ref().unwrap_or(binary);
        check_binary(program, binary)?;
        let mut command = Command::new(program);
        command.arg0(binary);
        command.args(&self.spec.args).envs(self.spec.env.iter().map(|(name, value)| (name, value)));
        for stale in
            [CONTROL_VARIABLE, ONE_WAY_VARIABLE, "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"]
        {
            command.env_remove(stale);
        }
        let mut inherited = Vec::with_capacity(self.listeners.len() + 1);
        for (name, listener) in self.listeners {
            check_name(name)?;
            inherited.push(listener.try_clone()?);
        }
        if !inherited.is_empty() {
            let names: Vec<&str> = self.listeners.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", inherited.len().to_string());
            command.env("LISTEN_FDNAMES", names.join(":"));
        }
        if let Some(control) = self.control {
            let number = number_of(inherited.len())?;
            if self.spec.one_way {
                command.env(ONE_WAY_VARIABLE, "1");
            }
            command.env(CONTROL_VARIABLE, format!("{number}:{}", inode(&control)?));
            inherited.push(control);
        }
        configure(&mut command);
        let _reserved = reserve_numbers(inherited.len())?;
        let count = inherited.len();
        let mappings = (FIRST_DESCRIPTOR..).zip(inherited);
        let mappings = mappings.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        let mapped = command.fd_mappings(mappings.collect());
        mapped.map_err(|_| LaunchError::TooManyListeners(count))?;
        command.spawn().map_err(|source| LaunchError::Exec { path: binary.clone(), source }.into())
    }
}

/// The pipe over which `spawn` hears that `exec` failed must not get a number that a passed
/// descriptor is to have in the child, or that failure would be lost. So this function occupies
/// all of those numbers before `spawn` makes the pipe.
fn reserve_numbers(count: usize) -> Result<Vec<OwnedFd>> {
    let past_the_end = number_of(count)?;
    let any = Waker::new()?;
    let mut reserved = Vec::new();
    loop {
        let occupied =
            rustix::io::fcntl_dupfd_cloexec(&any, FIRST_DESCRIPTOR).map_err(io::Error::from)?;
        if occupied.as_raw_fd() >= past_the_end {
            return Ok(reserved);
        }
        reserved.push(occupied);
    }
}

fn number_of(index: usize) -> Result<RawFd> {
    let number = RawFd::try_from(index).ok().and_then(|index| FIRST_DESCRIPTOR.checked_add(index));
    Ok(number.ok_or(LaunchError::TooManyListeners(index))?)
}

/// Whether `spawn` itself searches `PATH` for the binary.
fn is_searched_for(binary: &Path) -> bool {
    binary.components().count() < 2 && !binary.is_absolute()
}

/// Checks `program`, the file that is executed. Errors name `binary`.
fn check_binary(program: &Path, binary: &Path) -> Result<(), LaunchError> {
    if is_searched_for(program) {
        return Ok(());
    }
    let path = || binary.to_owned();
    match std::fs::metadata(program) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LaunchError::Missing(path())),
        Err(source) => Err(LaunchError::Exec { path: path(), source }),
        Ok(metadata) if !metadata.is_file() => Err(LaunchError::NotAFile(path())),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            Err(LaunchError::NotExecutable(path()))
        }
        Ok(_) => check_format(program).map_err(|source| LaunchError::Exec { path: path(), source }),
    }
}

/// The C library hands a file that the kernel cannot execute to a shell, which would run any
/// lines with the listeners at hand. So a file without an interpreter line has to be a program
/// of this machine's kind.
fn check_format(program: &Path) -> io::Result<()> {
    let head = match read_head(program) {
        // A file may be executable and not readable: the kernel decides.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        head => head?,
    };
    let own = read_head(Path::new("/proc/self/exe")).unwrap_or(head);
    let kind = |head: &[u8; HEAD]| (head[..6].to_vec(), head[18..].to_vec());
    let is_32_bit = cfg!(target_arch = "x86_64") && head[18..] == [3, 0];
    if head.starts_with(b"#!")
        || (head.starts_with(ELF) && (kind(&head) == kind(&own) || is_32_bit))
    {
        return Ok(());
    }
    Err(rustix::io::Errno::NOEXEC.into())
}

/// The beginning of a file up to an ELF header's machine, or as much as there is of it.
fn read_head(path: &Path) -> io::Result<[u8; HEAD]> {
    let mut bytes = Vec::with_capacity(HEAD);
    File::open(path)?.take(HEAD as u64).read_to_end(&mut bytes)?;
    let mut head = [0; HEAD];
    head[..bytes.len()].copy_from_slice(&bytes);
    Ok(head)
}

const ELF: &[u8] = b"\x7fELF";
const HEAD: usize = 20;

#[cfg(test)]
mod tests;
