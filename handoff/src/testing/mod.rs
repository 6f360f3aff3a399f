//! A rehearsal of a swap, for a daemon's own tests: it shows that the next build takes over from the
//! previous one, and that the previous one can come back.
//!
//! A rehearsal starts no process. It takes a fraction of a second where the data is small: it opens the
//! data about a dozen times, and three times more for each step of
//! [`Opening::on_commit`]. The previous build's state is a data directory that this
//! build left by a clean stop; the repository has it, with its `.handoff.*` files.
//!
//! ```no_run
//! # mod v1 {
//! #     use handoff::daemon::Opening;
//! #     #[derive(handoff::Drainable)] #[handoff(no_gate)]
//! #     pub struct Notes {}
//! #     pub fn open(_: (), _: &mut Opening<'_>) -> handoff::Result<Notes> { Ok(Notes {}) }
//! # }
//! # use v1::open;
//! use handoff::testing::{Part, Rehearsal, RehearsalError};
//!
//! // a #[test]:
//! fn version_2_takes_over_from_version_1_and_back() -> Result<(), RehearsalError> {
//!     let report = Rehearsal::on("tests/data/version-1")
//!         .read_back_by(|opening| v1::open((), opening)) // the old crate, a renamed dev-dependency
//!         .run(|opening| open((), opening))?; // the function that `Daemon::run` gets
//!     assert!(report.shown.contains(&Part::SwapBack));
//!     Ok(())
//! }
//! # version_2_takes_over_from_version_1_and_back().unwrap();
//! ```
//!
//! Where the test has the previous build, that build can make the state too:
//!
//! ```
//! # mod v1 {
//! #     use handoff::daemon::Opening;
//! #     #[derive(handoff::Drainable)] #[handoff(no_gate)]
//! #     pub struct Notes {}
//! #     pub fn open(_: (), _: &mut Opening<'_>) -> handoff::Result<Notes> { Ok(Notes {}) }
//! #     impl Notes { pub fn append(&self, _: &str) -> handoff::Result<()> { Ok(()) } }
//! # }
//! # use v1::open;
//! # use handoff::testing::{Rehearsal, RehearsalError};
//! # fn main() -> Result<(), RehearsalError> {
//! Rehearsal::on_state_of(|opening| v1::open((), opening), |notes| notes.append("a line"))
//!     .run(|opening| open((), opening))?;
//! # Ok(())
//! # }
//! ```
//!
//! The builds open copies in a temporary folder, which the rehearsal removes; nothing writes the
//! directory that the test names. A copy of a directory that a build has open is as the sudden end of
//! that build leaves it. [`Part`] lists the parts in their order. A rehearsal cannot show the pause, the
//! carrying of connections and memory (there are none, as at a cold start), and an end in the midst of
//! one step of `on_commit`.

mod scratch;
mod start;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::daemon::Opening;
use crate::datadir::{DataDirLock, SealManifest};
use crate::drainable::{Drainable, SealReport};
use crate::error::{Error, Result};
use scratch::Scratch;
use start::{After, Sockets, Started};

/// A swap from the previous build's state to the next build, and the way back.
#[must_use = "a rehearsal shows nothing before it runs"]
pub struct Rehearsal<'a> {
    previous: Previous<'a>,
    reader: Option<Reader<'a>>,
    sockets: Sockets,
}

enum Previous<'a> {
    LeftIn(PathBuf),
    MadeBy(Maker<'a>),
}

/// The life of the previous build in an empty directory, up to its clean stop.
type Maker<'a> = Box<dyn Fn(&Path, &Sockets) -> Result<()> + 'a>;

/// A start of the previous build, which only reads.
type Reader<'a> = Box<dyn Fn(&Path, After, &Sockets) -> Result<()> + 'a>;

impl<'a> Rehearsal<'a> {
    /// The data directory that the previous build left by a clean stop, with its `.handoff.lock`,
    /// `.handoff.manifest` and `.handoff.schema`. Under cargo a relative path begins at the folder
    /// of the package.
    pub fn on(data_dir: impl Into<PathBuf>) -> Self {
        let previous = Previous::LeftIn(data_dir.into());
        Self { previous, reader: None, sockets: Sockets::default() }
    }

    /// A directory that the previous build makes: `open`, as in
    /// [`Daemon::run`](crate::daemon::Daemon::run), opens it empty, and `fill` writes to it while the
    /// build admits requests. The build then stops cleanly. `open` reads the data back, too.
    pub fn on_state_of<D: Drainable>(
        open: impl Fn(&mut Opening<'_>) -> Result<D> + 'a,
        fill: impl Fn(&D) -> Result<()> + 'a,
    ) -> Self {
        let open = Rc::new(open);
        let reader = Rc::clone(&open);
        let make = move |data_dir: &Path, sockets: &Sockets| {
            let mut started = Started::on(data_dir, After::Crash, sockets, &*open)?;
            started.commit(started.on_commit.len())?;
            started.serve(&fill)
        };
        let previous = Previous::MadeBy(Box::new(make));
        Self { previous, reader: None, sockets: Sockets::default() }
            .read_back_by(move |opening| reader(opening))
    }

    /// The previous build, as a reader of its data after the next build. Without it the rehearsal leaves
    /// [`Part::Rollback`] and [`Part::SwapBack`] out.
    pub fn read_back_by<D: Drainable>(
        mut self,
        open: impl Fn(&mut Opening<'_>) -> Result<D> + 'a,
    ) -> Self {
        let read = move |data_dir: &Path, after: After, sockets: &Sockets| {
            Started::on(data_dir, after, sockets, &open).map(drop)
        };
        self.reader = Some(Box::new(read));
        self
    }

    /// Passes a duplicate of a socket to every start of either build ([`Opening::listeners`]).
    pub fn with_listener(mut self, name: impl Into<String>, listener: impl Into<OwnedFd>) -> Self {
        self.sockets.0.push((name.into(), listener.into()));
        self
    }

    /// Rehearses the swap to the build whose state `open` opens, as in
    /// [`Daemon::run`](crate::daemon::Daemon::run).
    ///
    /// # Errors
    ///
    /// [`RehearsalError`], with the first [`Part`] that fails.
    pub fn run<D: Drainable>(
        self,
        open: impl Fn(&mut Opening<'_>) -> Result<D>,
    ) -> Result<Report, RehearsalError> {
        let Self { previous, reader, sockets } = self;
        let scratch = Scratch::new().map_err(Part::Previous.failed())?;
        let left = previous.put_into(&scratch, &sockets)?;
        Run { scratch, sockets, reader, open: &open, shown: Vec::new() }.all(&left)
    }
}

impl Previous<'_> {
    fn put_into(self, scratch: &Scratch, sockets: &Sockets) -> Result<PathBuf, RehearsalError> {
        let put = match self {
            Self::LeftIn(data_dir) => {
                check_sealed(&data_dir)?;
                scratch.copy(&data_dir)
            }
            Self::MadeBy(make) => {
                let data_dir = scratch.unused();
                make(&data_dir, sockets).map(|()| data_dir)
            }
        };
        put.map_err(Part::Previous.failed())
    }
}

/// Whether a directory has the seal of a clean stop. Writes nothing.
fn check_sealed(data_dir: &Path) -> Result<(), RehearsalError> {
    if !data_dir.is_dir() {
        return Err(RehearsalError::NoDirectory(data_dir.to_owned()));
    }
    match DataDirLock::is_sealed(data_dir) {
        Ok(true) => Ok(()),
        Ok(false) => Err(RehearsalError::NotSealed(data_dir.to_owned())),
        Err(source) => Err(RehearsalError::Failed { part: Part::Previous, source }),
    }
}

struct Run<'a, D> {
    scratch: Scratch,
    sockets: Sockets,
    reader: Option<Reader<'a>>,
    open: &'a dyn Fn(&mut Opening<'_>) -> Result<D>,
    shown: Vec<Part>,
}

impl<D: Drainable> Run<'_, D> {
    fn all(mut self, left: &Path) -> Result<Report, RehearsalError> {
        let has_reader = self.reader.is_some();
        self.show(Part::Previous, |run| run.read(left, After::Stop))?;
        let one_way = self.show(Part::Schema, |run| {
            let lock = DataDirLock::acquire_or_break_stale(&run.scratch.copy(left)?)?;
            lock.fit(&D::schema()).map(|fit| fit.one_way)
        })?;
        let (opened, steps) = self.show(Part::Open, |run| {
            let directory = run.scratch.copy(left)?;
            let started = run.start(&directory, After::Swap)?;
            Ok((run.scratch.copy(&directory)?, started.on_commit.len()))
        })?;
        if has_reader {
            self.show(Part::Rollback, |run| run.read(&opened, After::Stop))?;
        }
        let has_way_back = has_reader && one_way.is_none();
        let crashes = self.show(Part::OnCommit, |run| run.commit(&opened, steps))?;
        let sealed = self.show(Part::Restart, |run| {
            let last = crashes.last().expect("there is one before the first step");
            let directory = run.scratch.copy(last)?;
            let mut started = run.start(&directory, After::Crash)?;
            started.commit(steps)?;
            started.serve(|_| Ok(()))?;
            run.start(&run.scratch.copy(&directory)?, After::Stop).map(|_| directory)
        })?;
        if has_way_back {
            self.show(Part::SwapBack, |run| {
                crashes.iter().try_for_each(|crash| run.read(crash, After::Crash))?;
                run.read(&sealed, After::Stop)
            })?;
        }
        Ok(Report { shown: self.shown, is_one_way: one_way.is_some(), steps })
    }

    fn show<T>(
        &mut self,
        part: Part,
        rehearse: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T, RehearsalError> {
        let found = rehearse(self).map_err(part.failed())?;
        self.shown.push(part);
        Ok(found)
    }

    fn start(&self, data_dir: &Path, after: After) -> Result<Started<D>> {
        Started::on(data_dir, after, &self.sockets, self.open)
    }

    /// Opens a copy by the previous build.
    fn read(&self, data_dir: &Path, after: After) -> Result<()> {
        let Some(read) = &self.reader else { return Ok(()) };
        read(&self.scratch.copy(data_dir)?, after, &self.sockets)
    }

    /// Commits, and ends the process before the first step and after each; the start after that runs
    /// all steps and comes to the shards of the commit that nothing ended. Returns the directories
    /// as those ends leave them.
    fn commit(&self, opened: &Path, steps: usize) -> Result<Vec<PathBuf>> {
        let commit = |directory: &Path, after: After, steps: usize| {
            let mut started = self.start(directory, after)?;
            started.commit(steps)?;
            Ok::<_, Error>(started)
        };
        let unbroken = commit(&self.scratch.copy(opened)?, After::Swap, steps)?.shards()?;
        let report = SealReport::of_shards(&unbroken);
        let unbroken = SealManifest::of_seal(0, &report, unbroken, D::schema(), true);
        let crash_after = |steps_run: usize| {
            let directory = self.scratch.copy(opened)?;
            let ended = commit(&directory, After::Swap, steps_run)?;
            let crash = self.scratch.copy(&directory)?;
            drop(ended);
            let again = commit(&self.scratch.copy(&crash)?, After::Crash, steps)?;
            unbroken.verify(&again.shards()?, &D::schema())?;
            Ok(crash)
        };
        (0..=steps).map(crash_after).collect()
    }
}

/// A part of a rehearsal. They run in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The state of the previous build is there and sealed, and that build opens it, where the test
    /// has its reader.
    Previous,
    /// The names and the formats of the two builds fit, as a successor finds out before the drain.
    Schema,
    /// The next build opens the data as a successor, and has the shards that were sealed.
    Open,
    /// The next build ends before its commit: the previous one opens the data, and has the shards that
    /// it had sealed.
    Rollback,
    /// The next build opens the data again, and runs its steps of
    /// [`Opening::on_commit`]. It may end before the first of them and after
    /// each: its next start runs all steps, and comes to the same shards. So a step that writes the
    /// time to a shard fails here.
    OnCommit,
    /// The next build admits, drains, seals, and starts again on the data that it sealed.
    Restart,
    /// The previous build opens the data of the next one: as it sealed it, and as it left it by an end
    /// before the first step of `on_commit` or after one. Of builds with a way back alone.
    SwapBack,
}

impl Part {
    const fn failed(self) -> impl Fn(Error) -> RehearsalError {
        move |source| RehearsalError::Failed { part: self, source }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Previous => {
                "the previous build cannot leave its state, or cannot open it; make that state anew where it is damaged"
            }
            Self::Schema => "the next build does not fit the struct of the previous one",
            Self::Open => "the next build does not open the data of the previous one",
            Self::Rollback => {
                "the previous build cannot go on after the next one had opened its data, which may change nothing of it before the commit (`Opening::on_commit`)"
            }
            Self::OnCommit => {
                "the steps of on_commit fail, at first or when they run again after a crash, or they leave other data then"
            }
            Self::Restart => "the next build does not start again on its own data",
            Self::SwapBack => {
                "the previous build declares that it reads the data of the next one, and does not"
            }
        })
    }
}

/// The report of a rehearsal in which no part failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The parts that ran. Without a reader of the previous build [`Part::Rollback`] and
    /// [`Part::SwapBack`] do not, and in a one-way swap `SwapBack` does not.
    pub shown: Vec<Part>,
    /// Whether the next build writes a format that the previous one does not read: its swap needs
    /// [`SpawnSpec::one_way`](crate::SpawnSpec::one_way).
    pub is_one_way: bool,
    /// How many steps of `on_commit` the next build has for this state.
    pub steps: usize,
}

/// A rehearsal that failed, or could not begin.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum RehearsalError {
    /// There is no directory of the previous build.
    #[error(
        "there is no directory {}: have the previous build fill one and stop cleanly, and keep it for the test; under cargo a relative path begins at the folder of the package",
        .0.display()
    )]
    NoDirectory(PathBuf),
    /// The directory has no seal that holds.
    #[error(
        "{} has no seal of a clean stop: start the previous build on it, and stop it by its StopHandle, which a daemon calls on SIGTERM; keep the files .handoff.lock, .handoff.manifest and .handoff.schema with the data",
        .0.display()
    )]
    NotSealed(PathBuf),
    /// A part failed. Paths in the error's source may be those of a copy, which is gone.
    #[error("{part} ({part:?}): {source}")]
    Failed {
        /// The part.
        part: Part,
        /// The error of the library or of a build.
        source: Error,
    },
}

/// The words of its display: a test that returns an error prints it so.
impl fmt::Debug for RehearsalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Rehearsal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let previous = match &self.previous {
            Previous::LeftIn(data_dir) => Some(data_dir),
            Previous::MadeBy(_) => None,
        };
        f.debug_struct("Rehearsal").field("left_in", &previous).finish_non_exhaustive()
    }
}
