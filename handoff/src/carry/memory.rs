//! Memory that outlives the process: written once, sealed, and mapped by the next one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use crate::carry::format::{Carried, Format, Reads};
use crate::carry::set::{AnySet, Carry, Item, Parcel, SendParcel, Set};
use crate::carry::wire::{WireItem, WireState};
use crate::error::{CarryError, Result};
use crate::frame::write_value;
use crate::log;
use crate::protocol::{CarryFate, CarryKind};
use crate::sys::memory::{self, Sealed};

/// Memory that no process can change any more. A clone is the same memory.
///
/// It dereferences to its bytes. A successor maps it and copies nothing, at any size: the pages
/// are those that the old process wrote.
///
/// ```
/// use handoff::carry::SealedMemory;
///
/// let sealed = SealedMemory::of_bytes(b"hot keys")?;
/// assert_eq!(&*sealed, b"hot keys");
/// # Ok::<(), handoff::Error>(())
/// ```
#[derive(Clone)]
pub struct SealedMemory(Arc<Sealed>);

impl SealedMemory {
    /// A copy of these bytes.
    ///
    /// # Errors
    ///
    /// There is no memory or descriptor left.
    pub fn of_bytes(bytes: &[u8]) -> io::Result<Self> {
        let mut memory = memory::create(NAME)?;
        memory.write_all(bytes)?;
        Self::seal(memory)
    }

    fn seal(memory: File) -> io::Result<Self> {
        Ok(Self(Arc::new(Sealed::seal(memory)?)))
    }

    pub(crate) fn as_sealed(&self) -> &Sealed {
        &self.0
    }
}

impl Deref for SealedMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for SealedMemory {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for SealedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedMemory").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Writes memory piece by piece, and seals it.
///
/// ```
/// use std::io::Write;
/// use handoff::carry::MemoryWriter;
///
/// let mut writer = MemoryWriter::new()?;
/// for line in ["one", "two"] {
///     writeln!(writer, "{line}")?;
/// }
/// assert_eq!(&*writer.seal()?, b"one\ntwo\n");
/// # Ok::<(), handoff::Error>(())
/// ```
#[derive(Debug)]
pub struct MemoryWriter(BufWriter<File>);

impl MemoryWriter {
    /// Empty memory.
    ///
    /// # Errors
    ///
    /// As [`SealedMemory::of_bytes`].
    pub fn new() -> io::Result<Self> {
        Ok(Self(BufWriter::with_capacity(BUFFER, memory::create(NAME)?)))
    }

    /// Seals the bytes that were written.
    ///
    /// # Errors
    ///
    /// As [`SealedMemory::of_bytes`].
    pub fn seal(self) -> io::Result<SealedMemory> {
        let memory = self.0.into_inner().map_err(io::IntoInnerError::into_error)?;
        SealedMemory::seal(memory)
    }
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Pieces of memory by key, that go from one process to the next.
///
/// The old process sends the pieces that are in here once the shards are sealed. So put a cache
/// in by `#[handoff(after_seal = "...")]`, when nothing can change any more, and seal memory so
/// large that it takes time piece by piece while the daemon serves. Sending takes as long for a
/// gigabyte as for a page.
///
/// A piece is a copy of something that the old process knew, and the data on disk is the truth:
/// a daemon that cannot read a piece, or does not find it, goes by the disk. A piece stays in
/// here, and goes on with the next swap, until the daemon removes it or puts it anew: do so with
/// a piece that may be out of date.
///
/// ```
/// # use handoff::carry::{Carried, Memory, Reads};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize)]
/// struct HotKeys(Vec<(String, u64)>);
///
/// impl Carried for HotKeys {
///     const NAME: &'static str = "notes.hot-keys";
///     const VERSION: u32 = 1;
/// }
///
/// let memory = Memory::new();
/// memory.put_value("hot", &HotKeys(vec![("k".into(), 7)]))?; // in the old process
/// let hot: Option<HotKeys> = memory.value("hot", &Reads::new())?; // in the new one
/// # assert_eq!(hot.map(|hot| hot.0), Some(vec![("k".to_owned(), 7)]));
/// # Ok::<(), handoff::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Memory {
    may_be_lost: bool,
    state: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pieces: BTreeMap<String, Piece>,
    /// Keys that are still to be sent.
    unsent: Option<Vec<String>>,
    /// Why a piece that may be lost could not be read.
    dropped: Option<String>,
    converted: Option<String>,
}

#[derive(Debug, Clone)]
struct Piece {
    /// None for plain bytes.
    format: Option<Format>,
    memory: SealedMemory,
}

impl Memory {
    /// Without any pieces.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A swap may do without it: a successor that has no such set, or cannot read a value in it,
    /// goes by the data on disk. Without this, the swap is undone instead.
    #[must_use]
    pub const fn may_be_lost(mut self) -> Self {
        self.may_be_lost = true;
        self
    }

    /// Puts plain bytes in, in the place of a piece with that key.
    pub fn put(&self, key: impl Into<String>, memory: SealedMemory) {
        self.state().pieces.insert(key.into(), Piece { format: None, memory });
    }

    /// Writes a value into memory, seals it and puts it in.
    ///
    /// # Errors
    ///
    /// [`CarryError::Unwritable`] for a value that serde refuses;
    /// [`Error::Io`](crate::Error::Io) when there is no memory or descriptor left.
    pub fn put_value<T: Carried>(&self, key: impl Into<String>, value: &T) -> Result<()> {
        let key = key.into();
        let mut writer = MemoryWriter::new()?;
        if let Err(why) = write_value(value, &mut writer) {
            return Err(CarryError::Unwritable { set: "memory".into(), item: key, why }.into());
        }
        let piece = Piece { format: Some(Format::of::<T>()), memory: writer.seal()? };
        self.state().pieces.insert(key, piece);
        Ok(())
    }

    /// The bytes with that key, of any format.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<SealedMemory> {
        self.state().pieces.get(key).map(|piece| piece.memory.clone())
    }

    /// The value with that key; none where there is none.
    ///
    /// # Errors
    ///
    /// [`CarryError::Unreadable`] or [`CarryError::Damaged`]. Where the memory
    /// [may be lost](Self::may_be_lost) it returns none, and the report of the swap says why.
    pub fn value<T: Carried>(&self, key: &str, reads: &Reads<T>) -> Result<Option<T>> {
        let Some(Piece { format, memory }) = self.state().pieces.get(key).cloned() else {
            return Ok(None);
        };
        let plain = || Format { name: "plain bytes".into(), version: 0 };
        let decoder = reads.decoder(key, &format.unwrap_or_else(plain));
        match decoder.and_then(|of| Ok((of.read("memory", key, &memory)?, of.older))) {
            Ok((value, older)) => {
                let mut state = self.state();
                state.converted = older.or(state.converted.take());
                Ok(Some(value))
            }
            Err(error) if self.may_be_lost => {
                log::warn!(
                    %error, key,
                    "this process drops a piece of carried memory that it cannot read, as `may_be_lost` admits"
                );
                let mut state = self.state();
                state.pieces.remove(key);
                state.dropped = Some(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a piece out. The kernel frees its memory once no process has it.
    pub fn remove(&self, key: &str) -> Option<SealedMemory> {
        self.state().pieces.remove(key).map(|piece| piece.memory)
    }

    /// The keys, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.state().pieces.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fate of the pieces that arrived, by the reads until now.
    pub(super) fn fate(&self) -> CarryFate {
        let mut state = self.state();
        match (state.dropped.take(), state.converted.take()) {
            (Some(why), _) => CarryFate::Dropped { why },
            (None, Some(from)) => CarryFate::Converted { from },
            (None, None) => CarryFate::Taken,
        }
    }

    pub(super) fn fill(&self, parcels: Vec<Parcel>) {
        let mut state = self.state();
        for Parcel { format, items } in parcels {
            for item in items {
                if let Item::Memory { key, memory } = item {
                    let memory = SealedMemory(Arc::new(memory));
                    state.pieces.insert(key, Piece { format: format.clone(), memory });
                }
            }
        }
    }
}

impl Carry for Memory {
    fn each_set<'a>(&'a self, name: &str, visit: &mut dyn FnMut(String, AnySet<'a>)) {
        visit(name.to_owned(), AnySet(self));
    }
}

impl Set for Memory {
    fn kind(&self) -> CarryKind {
        CarryKind::Memory
    }

    fn may_be_lost(&self) -> bool {
        self.may_be_lost
    }

    fn is_vacant(&self) -> bool {
        self.state().pieces.is_empty()
    }

    fn collect(&self, _carrier: Option<&Thread>) {
        self.state().unsent = None;
    }

    fn send_next(&self, is_last: bool, send: &mut SendParcel<'_>) -> Result<bool> {
        if !is_last {
            return Ok(false);
        }
        let next = {
            let mut state = self.state();
            let Inner { pieces, unsent, .. } = &mut *state;
            let unsent = unsent.get_or_insert_with(|| pieces.keys().rev().cloned().collect());
            loop {
                match unsent.pop().map(|key| (pieces.get(&key).cloned(), key)) {
                    Some((Some(piece), key)) => break Some((piece, key)),
                    // It was removed meanwhile.
                    Some((None, _)) => {}
                    None => break None,
                }
            }
        };
        let Some((Piece { format, memory }, key)) = next else { return Ok(false) };
        let state = WireState::Memory { length: memory.len() as u64 };
        send(format, vec![WireItem { name: key, state }], &[memory.0.as_fd()])?;
        Ok(true)
    }

    fn part(&self) {
        let pieces = std::mem::take(&mut self.state().pieces);
        drop(pieces);
    }

    fn arrive(&self, _name: &str, parcels: &mut Vec<Parcel>) -> Result<CarryFate, CarryError> {
        self.fill(std::mem::take(parcels));
        Ok(self.fate())
    }
}

const NAME: &str = "handoff-carried";
const BUFFER: usize = 256 << 10;

#[cfg(test)]
mod tests;
