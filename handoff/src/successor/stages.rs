//! `Successor<Stage>`: the order of a new process's steps, in the types.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::carry::{Arrivals, Memory, Receiver};
use crate::control::{Listeners, bind_hidden};
use crate::datadir::{DataDirLock, Fit, SealManifest};
use crate::drainable::{Drainable, Fingerprint, ReadinessSnapshot, SealedShard, check};
use crate::error::{Error, Result};
use crate::incumbent::{Incumbent, StopHandle};
use crate::log;
use crate::machine::successor::{Event, ReadyWords, State};
use crate::protocol::{HandoffId, in_words};
use crate::successor::commit::Committed;
use crate::successor::conversation::{Conversation, OnLoss, is_dead};
use crate::sys::pool;
use crate::sys::socket::ControlSocket;

/// A new process on its way to being the writer.
///
/// Dropping it gives the swap up: it tells the supervisor, and the old process serves on.
/// From [`greet`](Successor::greet) on a thread says that this process lives, also while its
/// own code is busy.
#[must_use = "dropping a successor gives the swap up"]
pub struct Successor<P: Stage> {
    conversation: Conversation,
    inherited: Listeners,
    /// Receives the carried connections and memory; none if this process did not ask for them, or
    /// the incumbent carries none.
    receiver: Option<Receiver>,
    ahead: Option<Box<Ahead>>,
    allows_one_way: bool,
    stage: P,
}

/// The resources that this process makes ready before it needs them.
#[derive(Debug)]
struct Ahead {
    control_socket: PathBuf,
    socket: ControlSocket,
    lock: DataDirLock,
    threads: pool::Hold,
}

impl Ahead {
    fn make(control_socket: &Path, data_dir: &Path, handoff_id: Option<HandoffId>) -> Result<Self> {
        let socket = bind_hidden(control_socket)?;
        try_failpoint!(SuccessorBound)?;
        let lock = DataDirLock::ahead(data_dir, handoff_id)?;
        // For the shards' fingerprints, should they take long.
        let threads = pool::hold();
        pool::prepare(1);
        Ok(Self { control_socket: control_socket.to_owned(), socket, lock, threads })
    }

    fn is_of(&self, control_socket: &Path, data_dir: &Path) -> bool {
        self.control_socket == control_socket && self.lock.data_dir() == data_dir
    }
}

/// A step of a successor's way. Sealed: there are no others.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no stage of a successor",
    note = "the stages are Arrived, Greeted, Warmed and Begun; each is reached from the one before"
)]
pub trait Stage: sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

/// A supervisor has started this process, which has said nothing yet.
#[derive(Debug)]
pub struct Arrived(());

/// The supervisor knows this process. The place for slow work that needs no lock: reading
/// configuration, filling caches, starting a runtime.
#[derive(Debug)]
pub struct Greeted(());

/// That work is done. The old process still serves.
#[derive(Debug)]
pub struct Warmed(());

/// The old process is sealed and this one holds the lock: it opens the data and verifies it.
#[derive(Debug)]
pub struct Begun {
    lock: DataDirLock,
    socket: ControlSocket,
    arrivals: Option<Arrivals>,
    verified: Option<[u8; 32]>,
    seal: Option<Seal>,
    is_one_way: bool,
    /// Holds the pool's threads, so that none has to be started while clients wait.
    threads: pool::Hold,
}

/// The seal as which the opened shards were verified.
#[derive(Debug)]
struct Seal {
    /// How many shards were opened.
    opened: usize,
    /// For each sealed shard, its place among the opened ones, or none.
    places: Vec<Option<usize>>,
    sealed: Vec<SealedShard>,
}

impl Seal {
    /// The revisions of the opened shards in the order of the sealed ones, in which the supervisor
    /// knows them. A shard that this build does not open is as it was sealed.
    fn in_sealed_order(&self, revisions: Vec<u64>) -> Vec<u64> {
        if revisions.len() != self.opened {
            return revisions;
        }
        let sealed = self.places.iter().zip(&self.sealed);
        sealed.map(|(place, sealed)| place.map_or(sealed.revision, |at| revisions[at])).collect()
    }
}

impl Stage for Arrived {}
impl Stage for Greeted {}
impl Stage for Warmed {}
impl Stage for Begun {}
impl sealed::Sealed for Arrived {}
impl sealed::Sealed for Greeted {}
impl sealed::Sealed for Warmed {}
impl sealed::Sealed for Begun {}

impl Successor<Arrived> {
    pub(super) fn arrived(stream: UnixStream, listeners: Listeners, allows_one_way: bool) -> Self {
        let conversation = Conversation::new(stream);
        let (inherited, stage) = (listeners, Arrived(()));
        let (receiver, ahead) = (None, None);
        Self { conversation, inherited, receiver, ahead, allows_one_way, stage }
    }

    /// Says hello and learns which swap this is.
    ///
    /// # Errors
    ///
    /// The supervisor is gone, silent, or speaks no version in common. This process has touched
    /// nothing; nor has it after an error of the next two steps.
    pub fn greet(self, build_id: &[u8], on_loss: OnLoss) -> Result<Successor<Greeted>> {
        let mut greeted = self.into_stage(Greeted(()));
        try_failpoint!(SuccessorDetected)?;
        greeted.conversation.greet(build_id)?;
        greeted.conversation.start_pulse(on_loss)?;
        try_failpoint!(SuccessorGreeted)?;
        Ok(greeted)
    }
}

impl Successor<Greeted> {
    /// Compares the state `D` with the build that serves `data_dir`, by the names and the formats of
    /// their shards: while that build serves, so that no client waits for a swap that would fail.
    /// Without this call [`verify`](Successor::verify) finds the same, while clients wait.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`] with the first difference; [`Error::OneWay`] where the build that serves
    /// does not read the format of `D`, and the supervisor did not allow that.
    pub fn check_schema<D: Drainable>(&self, data_dir: &Path) -> Result<()> {
        Fit::ahead(data_dir, &D::schema())?.check_way_back(self.allows_one_way)
    }

    /// Asks the process that serves `control_socket` for the connections and the memory that it
    /// carries. That process sends them once it drains, and they are at hand from
    /// [`wait_for_begin`](Successor::wait_for_begin) on. Does nothing if that process carries none,
    /// or does not say hello: it may be dead.
    ///
    /// # Errors
    ///
    /// The incumbent carries something, and this process cannot ask for it. If the swap goes on all
    /// the same, the incumbent closes connections that may be lost; for those that must not be lost
    /// it refuses to drain, with [`CarryError::NotAskedFor`](crate::error::CarryError).
    pub fn fetch(&mut self, control_socket: &Path) -> Result<()> {
        if let Some(handoff_id) = self.conversation.handoff_id {
            let supervisor = Arc::clone(&self.conversation.link);
            self.receiver = Receiver::ask(control_socket, handoff_id, supervisor)?;
            try_failpoint!(SuccessorFetched)?;
        }
        Ok(())
    }

    /// Binds the control socket under a name that no other process knows, and opens the lock file,
    /// so that [`wait_for_begin`](Successor::wait_for_begin) with the same paths has nothing left
    /// to do but to take the lock. Without this call it does both itself, while clients may wait.
    ///
    /// # Errors
    ///
    /// [`Error::ControlSocket`] or [`Error::Path`] when this process cannot bind the socket, or
    /// cannot open the lock file.
    pub fn bind(&mut self, control_socket: &Path, data_dir: &Path) -> Result<()> {
        let ahead = Ahead::make(control_socket, data_dir, self.conversation.handoff_id)?;
        self.ahead = Some(Box::new(ahead));
        Ok(())
    }

    /// Says that the slow work is done.
    ///
    /// # Errors
    ///
    /// As [`greet`](Successor::greet).
    pub fn warmed(mut self) -> Result<Successor<Warmed>> {
        try_failpoint!(SuccessorWarm)?;
        self.conversation.step(Event::WarmUpDone)?;
        try_failpoint!(SuccessorSaidWarmed)?;
        Ok(self.into_stage(Warmed(())))
    }
}

impl Successor<Warmed> {
    /// Waits for `Begin`, and takes the lock. `control_socket` and `data_dir` are those of the
    /// process that this one replaces.
    ///
    /// # Errors
    ///
    /// As [`greet`](Successor::greet); [`Error::Aborted`] when the swap was given up;
    /// [`Error::ControlSocket`] or [`Error::Path`] when the socket cannot be bound;
    /// [`Error::LockHeld`] when another process got the lock. This process holds nothing then.
    /// After an error in receiving connections or memory it may hold the lock: see [`OnLoss`].
    pub fn wait_for_begin(
        mut self,
        control_socket: &Path,
        data_dir: &Path,
    ) -> Result<Successor<Begun>> {
        let ahead = self.ahead.take().filter(|ahead| ahead.is_of(control_socket, data_dir));
        let id = self.conversation.handoff_id;
        let make = || Ahead::make(control_socket, data_dir, id);
        let ahead = ahead.map_or_else(make, |made| Ok(*made));
        let Ahead { socket, lock, threads, .. } = match ahead {
            Ok(ahead) => ahead,
            Err(error) => return Err(self.fail(error)),
        };
        self.conversation.know_incumbent(data_dir);
        let handoff_id = self.conversation.wait_until(|state| match state {
            State::Opening(id) => Some(*id),
            _ => None,
        })?;
        self.conversation.watch();
        let acquire = || {
            try_failpoint!(SuccessorHeardBegin)?;
            // An incumbent that is ending may have much memory to free before its lock is free.
            let is_alone = || is_dead(&self.conversation.incumbent);
            let patience = || if is_alone() { END_PATIENCE } else { LOCK_PATIENCE };
            lock.acquire_as_successor(handoff_id, patience)
        };
        match acquire() {
            Ok(mut lock) => {
                if self.conversation.on_loss == OnLoss::Exit {
                    lock.hold_past_drop();
                }
                let arrivals = self.receiver.take();
                let arrivals = arrivals.map(|receiver| self.usable_arrivals(receiver, &lock));
                match arrivals.transpose() {
                    Ok(arrivals) => {
                        let verified = None;
                        Ok(self.into_stage(Begun {
                            lock,
                            socket,
                            arrivals,
                            verified,
                            seal: None,
                            is_one_way: false,
                            threads,
                        }))
                    }
                    Err(error) => Err(self.fail(error)),
                }
            }
            Err(error) => Err(self.fail(error)),
        }
    }
}

impl<P: Stage> Successor<P> {
    /// Ends the receiving: the incumbent is sealed and has sent all, or it is dead.
    fn usable_arrivals(&self, receiver: Receiver, lock: &DataDirLock) -> Result<Arrivals> {
        let arrivals = receiver.finish()?;
        let is_as_sealed = self.conversation.handoff_id.is_some_and(|id| lock.was_reserved_for(id));
        // The check for a death takes a moment, so it runs only where it matters.
        let is_all = is_as_sealed && arrivals.is_whole();
        let incumbent_is_dead = !is_all && self.conversation.incumbent_is_dead();
        arrivals.discard_unusable(is_as_sealed, incumbent_is_dead)
    }
}

impl Successor<Begun> {
    /// The sockets that this process inherited.
    pub const fn listeners(&mut self) -> &mut Listeners {
        &mut self.inherited
    }

    /// The lock that this process holds.
    #[must_use]
    pub const fn lock(&self) -> &DataDirLock {
        &self.stage.lock
    }

    pub(crate) const fn at_hand(
        &mut self,
    ) -> (&DataDirLock, &mut Listeners, Option<&mut Arrivals>) {
        (&self.stage.lock, &mut self.inherited, self.stage.arrivals.as_mut())
    }

    /// The memory that the old process carried under that name; empty where it carried none, or
    /// died. It goes into the field of that name.
    ///
    /// # Errors
    ///
    /// [`CarryError::WrongKind`](crate::error::CarryError) for a set of connections.
    pub fn memory(&mut self, name: &str) -> Result<Memory> {
        memory_of(self.stage.arrivals.as_mut(), name)
    }

    /// Hands the connections and the memory that arrived to the sets of the same names in
    /// `opened`. No handler can take any of them before this process serves (invariant 13).
    ///
    /// # Errors
    ///
    /// [`Error::Carry`] for a set that this build does not have, or cannot read, and that must not
    /// be lost.
    pub fn hand_on(&mut self, opened: &impl Drainable) -> Result<()> {
        let carriage = opened.carriage();
        match &mut self.stage.arrivals {
            Some(arrivals) => Ok(arrivals.hand_on(&carriage)?),
            None => Ok(carriage.check()?),
        }
    }

    /// The manifest of the old process's seal; none if that process died before it sealed.
    ///
    /// # Errors
    ///
    /// As [`DataDirLock::manifest`].
    pub fn manifest(&self) -> Result<Option<SealManifest>> {
        self.stage.lock.manifest()
    }

    /// Compares the opened state with the seal manifest, shard by shard (invariant 11), and tells
    /// the supervisor the fingerprint of the opened state.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] with the first difference; [`Error::Damaged`]; the errors of
    /// [`check_schema`](Self::check_schema), of [`Drainable::check`] and of [`Drainable::opened_shards`]; and
    /// [`CarryError::NoGate`](crate::error::CarryError).
    pub fn verify<D: Drainable>(&mut self, opened: &D) -> Result<()> {
        check(opened)?;
        let fit = self.stage.lock.fit(&D::schema())?;
        fit.check_way_back(self.allows_one_way)?;
        self.stage.is_one_way = fit.one_way.is_some();
        self.stage.lock.prepare_schema(&D::schema())?;
        let shards = opened.opened_shards()?;
        let seal = match self.manifest()? {
            Some(manifest) if !manifest.shards.is_empty() => {
                let places = manifest.as_sealed(&shards, &D::schema())?;
                Some(Seal { opened: shards.len(), places, sealed: manifest.shards })
            }
            _ => None,
        };
        if seal.is_some() || !shards.is_empty() {
            let seen = seal.as_ref().map_or(&shards, |seal| &seal.sealed);
            self.stage.verified = Some(Fingerprint::of_shards(seen));
        }
        self.stage.seal = seal;
        Ok(())
    }

    /// Tells the supervisor the fingerprint of the opened state, for a daemon that computes
    /// its own; see [`SealReport::data_dir_fingerprint`](crate::SealReport).
    pub const fn verified(&mut self, fingerprint: [u8; 32]) {
        self.stage.verified = Some(fingerprint);
    }

    /// Says that this process could serve, and waits for `Commit`. The daemon admits nothing
    /// before this returns. Then this process is the writer, and the caller calls
    /// [`Incumbent::serve`] at once: it admits work, and then tells the supervisor, which waits for
    /// that until the deadline of the swap. An incumbent that is dropped instead gives the swap up.
    ///
    /// # Errors
    ///
    /// [`Error::Aborted`] or [`Error::PeerLost`]; [`Error::Path`] when this process cannot write
    /// the owner record; [`Error::Moved`]; [`Error::Carry`] when something arrived that must not be lost and was not
    /// [handed on](Self::hand_on). After each the old process serves again, once it has the lock:
    /// see [`OnLoss`] for how long this process keeps it.
    pub fn ready(self, snapshot: ReadinessSnapshot) -> Result<Incumbent> {
        let carried = self.stage.arrivals.as_ref().map(Arrivals::report).transpose();
        // The daemon opened the path.
        let is_in_place = self.stage.lock.place().check();
        let carried = match is_in_place.and_then(|()| Ok(carried?)) {
            Ok(carried) => carried,
            Err(error) => return Err(self.fail(error)),
        };
        let Self { mut conversation, mut inherited, stage, .. } = self;
        let Begun { lock, socket, arrivals, verified, seal, is_one_way, threads: _threads } = stage;
        conversation.unwatch();
        conversation.is_fit = snapshot.healthz_ok;
        // Made before `Ready` is said: here it may fail, after the commit it may not.
        let stop = StopHandle::new()?;
        let revisions = snapshot.advertised_revision_per_shard;
        let ready = ReadyWords {
            listening_on: snapshot.listening_on,
            healthz_ok: snapshot.healthz_ok,
            advertised_revision_per_shard: match seal {
                Some(seal) => seal.in_sealed_order(revisions),
                None => revisions,
            },
        };
        let build_id = conversation.build_id.clone();
        let opened = Event::Opened { carried, verified, ready };
        let (conversation, lock) = conversation.commit(lock, opened)?;
        let rest = arrivals.map(Arrivals::into_rest);
        let committed = Committed::new(conversation, lock.generation(), rest, is_one_way);
        Ok(Incumbent::new(socket, lock, stop)
            .with_build_id(build_id)
            .with_listeners(&mut inherited)
            .with_commit(committed))
    }
}

impl<P: Stage> Successor<P> {
    /// The swap; none before the greeting.
    #[must_use]
    pub const fn handoff_id(&self) -> Option<HandoffId> {
        self.conversation.handoff_id
    }

    /// The names of the sockets that this process inherited.
    #[must_use]
    pub fn inherited_names(&self) -> Vec<String> {
        self.inherited.names()
    }

    /// Gives the swap up and tells the supervisor why; returns the error for `main` to return.
    pub fn fail(mut self, error: Error) -> Error {
        let _ = self.conversation.step(Event::Failed(in_words(&error)));
        drop(self);
        log::flush(log::SHORT);
        error
    }

    fn into_stage<Q: Stage>(self, stage: Q) -> Successor<Q> {
        let Self { conversation, inherited, receiver, ahead, allows_one_way, .. } = self;
        Successor { conversation, inherited, receiver, ahead, allows_one_way, stage }
    }
}

impl<P: Stage + fmt::Debug> fmt::Debug for Successor<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Successor")
            .field("stage", &self.stage)
            .field("listeners", &self.inherited.names())
            .finish_non_exhaustive()
    }
}

/// The memory that arrived under that name; empty if none did.
pub(crate) fn memory_of(arrivals: Option<&mut Arrivals>, name: &str) -> Result<Memory> {
    match arrivals {
        Some(arrivals) => Ok(arrivals.memory(name)?),
        None => Ok(Memory::new()),
    }
}

const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const END_PATIENCE: Duration = Duration::from_secs(60);
