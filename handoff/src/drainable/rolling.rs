//! The digest of an append-only file, at the cost of the appended bytes.
//!
//! BLAKE3 is a tree. Of whole groups of chunks this keeps only the values of their subtrees, at
//! most one for each bit of their number, as in a binary counter. It hashes only the last group
//! anew.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use rustix::io::{pread, retry_on_intr};

pub use crate::error::NoCheckpoint;
use crate::error::{Error, Result};

/// BLAKE3 of an append-only file, kept while the file is written: the same 32 bytes as
/// [`digest_file`](super::digest_file) and `b3sum` give for the whole file, at the cost of the
/// appended bytes.
///
/// The process that writes the file adds each write, so that
/// [`Shard::fingerprint`](crate::Shard::fingerprint) has nothing left to read. The process that
/// opens the file goes on from a [`Checkpoint`], which the daemon keeps beside the file, and reads
/// the bytes after it.
///
/// ```
/// use handoff::drainable::{Checkpoint, RollingDigest, digest_file};
/// # fn main() -> handoff::Result<()> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("log");
/// std::fs::write(&path, "one\ntwo\n")?;
/// let mut digest = RollingDigest::new();
/// digest.update(b"one\n");
/// digest.update(b"two\n");
/// assert_eq!(digest.digest(), digest_file(&path)?);
///
/// // Another process, later: nothing below the checkpoint is read.
/// let kept: Vec<u8> = digest.checkpoint().to_bytes();
/// let file = std::fs::File::open(&path)?;
/// let digest = RollingDigest::go_on(Checkpoint::from_bytes(&kept)?, &file)?;
/// assert_eq!(digest.digest(), digest_file(&path)?);
/// # Ok(())
/// # }
/// ```
///
/// For the bytes below a checkpoint the digest speaks of the writes, and not of the disk's contents
/// since. To check the disk, read the whole file with [`digest_file_on_all_cores`].
#[derive(Clone, Default)]
pub struct RollingDigest {
    whole: Subtrees,
    /// The hasher of the last group. It is empty only where no byte was added: whole groups alone
    /// do not give the digest.
    last: Hasher,
    length: u64,
}

impl RollingDigest {
    /// The digest of no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on from a checkpoint of the same file, and reads the bytes after it.
    ///
    /// # Errors
    ///
    /// The error of a read, and `UnexpectedEof` for a file that is no longer than
    /// [`Checkpoint::length`]: it is not the same file, or it was cut. The remedy is to read all of
    /// it: [`new`](Self::new) and [`catch_up`](Self::catch_up).
    pub fn go_on(checkpoint: Checkpoint, file: &File) -> io::Result<Self> {
        let whole = checkpoint.whole;
        let length = whole.count * GROUP;
        // A checkpoint leaves the last group out, which is not empty: the file is longer.
        if length > 0 && file.metadata()?.len() <= length {
            return Err(was_cut(length));
        }
        let mut digest = Self { last: hasher_at(length), whole, length };
        digest.catch_up(file)?;
        Ok(digest)
    }

    /// Adds the appended bytes.
    pub fn update(&mut self, mut appended: &[u8]) {
        while !appended.is_empty() {
            let in_last = self.length - self.whole.count * GROUP;
            if in_last == GROUP {
                let whole = std::mem::replace(&mut self.last, hasher_at(self.length));
                self.whole.push(whole.finalize_non_root());
                continue;
            }
            let room = usize::try_from(GROUP - in_last).unwrap_or(usize::MAX);
            let (now, later) = appended.split_at(appended.len().min(room));
            self.last.update(now);
            self.length += now.len() as u64;
            appended = later;
        }
    }

    /// Reads the bytes of the file after [`length`](Self::length), adds them, and returns their
    /// number. It leaves the position of the file alone.
    ///
    /// # Errors
    ///
    /// The error of a read, and `UnexpectedEof` for a file that is shorter than
    /// [`length`](Self::length): it is not the same file, or it was cut. The bytes that were read
    /// before a failed read are added.
    pub fn catch_up(&mut self, file: &File) -> io::Result<u64> {
        self.catch_up_with(file, |_| ())
    }

    /// [`catch_up`](Self::catch_up), showing `seen` all bytes that it adds, in order: for a daemon
    /// that builds an index of the file in the same go.
    ///
    /// # Errors
    ///
    /// As [`catch_up`](Self::catch_up).
    pub fn catch_up_with(&mut self, file: &File, mut seen: impl FnMut(&[u8])) -> io::Result<u64> {
        let before = self.length;
        let there = file.metadata()?.len();
        if there < before {
            return Err(was_cut(before));
        }
        let left = usize::try_from(there - before).unwrap_or(READ);
        let mut buffer = vec![0; left.clamp(MIN_READ_LEN, READ)];
        loop {
            let length = retry_on_intr(|| pread(file, &mut buffer[..], self.length))?;
            if length == 0 {
                return Ok(self.length - before);
            }
            self.update(&buffer[..length]);
            seen(&buffer[..length]);
        }
    }

    /// How many bytes were added.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all that was added. It takes about a microsecond.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.whole.root(&self.last)
    }

    /// A checkpoint to go on from later. It stands for at most 64 KiB less than was added.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { whole: self.whole.clone() }
    }
}

impl fmt::Debug for RollingDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RollingDigest").field("length", &self.length).finish_non_exhaustive()
    }
}

/// A state that a [`RollingDigest`] can go on from: about 1.5 KiB at most, for a file of any size.
///
/// Keep only a checkpoint of durable bytes, since a crash of the machine may take the others from
/// the file: take the checkpoint before a sync, and write it after.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    whole: Subtrees,
}

impl Checkpoint {
    /// How many bytes of the file it stands for: [`RollingDigest::go_on`] does not read them.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.whole.count * GROUP
    }

    /// As bytes that [`from_bytes`](Self::from_bytes) reads: the number of groups of 64 KiB, the
    /// values of their subtrees, and BLAKE3 of these.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + 32 * (self.whole.values.len() + 1));
        bytes.extend(self.whole.count.to_le_bytes());
        bytes.extend(self.whole.values.iter().flatten());
        bytes.extend(checksum(&bytes));
        bytes
    }

    /// Reads the bytes of [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    ///
    /// [`NoCheckpoint`] for bytes that are cut, changed, or of something else. The remedy is to add
    /// the whole file anew.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoCheckpoint> {
        let (bytes, sum) = bytes.split_last_chunk::<32>().ok_or(NoCheckpoint)?;
        let (count, values) = bytes.split_first_chunk::<8>().ok_or(NoCheckpoint)?;
        let (count, values) = (u64::from_le_bytes(*count), values.as_chunks::<32>());
        let is_whole = values.1.is_empty() && values.0.len() == count.count_ones() as usize;
        // No file is longer than the kernel can count.
        let is_possible = count <= (i64::MAX as u64) / GROUP;
        if !is_whole || !is_possible || *sum != checksum(bytes) {
            return Err(NoCheckpoint);
        }
        Ok(Self { whole: Subtrees { count, values: values.0.to_vec() } })
    }
}

/// BLAKE3 of a whole file, as [`digest_file`](super::digest_file), by as many threads as there are
/// processors: for a check of the disk, on request. In a pause it would take the processors from
/// the processes that serve on.
///
/// # Errors
///
/// [`Error::Path`] when the file cannot be opened or read, or was cut meanwhile.
pub fn digest_file_on_all_cores(path: impl AsRef<Path>) -> Result<[u8; 32]> {
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::at("open", path))?;
    digest_side_by_side(&file).map_err(Error::at("read", path))
}

fn digest_side_by_side(file: &File) -> io::Result<[u8; 32]> {
    let length = file.metadata()?.len();
    // All pieces but the last are whole; the last is empty only where the file is.
    let whole = length.saturating_sub(1) / PIECE;
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let next = AtomicU64::new(0);
    let work = || {
        let mut buffer = vec![0; READ];
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= whole {
                return Ok(done);
            }
            let piece = hash_piece(file, index * PIECE, (index + 1) * PIECE, &mut buffer)?;
            done.push((index, piece.finalize_non_root()));
        }
    };
    let mut pieces = thread::scope(|scope| -> io::Result<Vec<(u64, ChainingValue)>> {
        let others = threads.min(whole).saturating_sub(1);
        let spawn = |_| {
            let builder = thread::Builder::new().name("handoff-digest".to_owned());
            builder.spawn_scoped(scope, work)
        };
        let others: Vec<_> = (0..others).map(spawn).take_while(Result::is_ok).collect();
        let mut pieces = work()?;
        for other in others.into_iter().flatten() {
            let done = other.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            pieces.extend(done?);
        }
        Ok(pieces)
    })?;
    pieces.sort_unstable_by_key(|(index, _)| *index);
    let mut tree = Subtrees::default();
    pieces.into_iter().for_each(|(_, value)| tree.push(value));
    let last = hash_piece(file, whole * PIECE, length, &mut vec![0; READ])?;
    Ok(tree.root(&last))
}

/// A hasher of the bytes from `start` to `end`.
fn hash_piece(file: &File, start: u64, end: u64, buffer: &mut [u8]) -> io::Result<Hasher> {
    let mut hasher = hasher_at(start);
    let mut at = start;
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let length = retry_on_intr(|| pread(file, &mut buffer[..length], at))?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..length]);
        at += length as u64;
    }
    Ok(hasher)
}

/// The values of the subtrees of whole pieces of one size: one for each bit of their number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Subtrees {
    count: u64,
    values: Vec<ChainingValue>,
}

impl Subtrees {
    /// Adds a piece that is not the last: none of the values is that of the whole.
    fn push(&mut self, mut value: ChainingValue) {
        self.count += 1;
        for _ in 0..self.count.trailing_zeros() {
            let left = self.values.pop().unwrap_or(value);
            value = merge_subtrees_non_root(&left, &value, Mode::Hash);
        }
        self.values.push(value);
    }

    /// The digest of the pieces and, after them, the last one.
    fn root(&self, last: &Hasher) -> [u8; 32] {
        let Some((first, others)) = self.values.split_first() else {
            return *last.finalize().as_bytes();
        };
        let right = others.iter().rev().fold(last.finalize_non_root(), |right, left| {
            merge_subtrees_non_root(left, &right, Mode::Hash)
        });
        *merge_subtrees_root(first, &right, Mode::Hash).as_bytes()
    }
}

fn was_cut(known: u64) -> io::Error {
    let words = format!("the file has less than it had: {known} bytes of it are known");
    io::Error::new(io::ErrorKind::UnexpectedEof, words)
}

fn hasher_at(offset: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

fn checksum(bytes: &[u8]) -> [u8; 32] {
    blake3::derive_key(CONTEXT, bytes)
}

/// Part of the format of a checkpoint.
const GROUP: u64 = 64 << 10;
/// The bytes that one thread hashes in one go.
const PIECE: u64 = 1 << 20;
const READ: usize = 256 << 10;
const MIN_READ_LEN: usize = 4 << 10;
const CONTEXT: &str = "handoff 2026 checkpoint of a rolling digest, version 1";

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 31 + n / 251) as u8).collect()
    }

    fn file(contents: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), contents).expect("it is written");
        file
    }

    /// Around every size at which the tree changes.
    fn lengths() -> impl Iterator<Item = usize> {
        let group = GROUP as usize;
        let edges = [0, 1024, group, 2 * group, 3 * group, 4 * group, 7 * group, 16 * group];
        edges.into_iter().flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1])
    }

    #[test]
    fn it_is_the_digest_of_the_whole_whatever_the_length() {
        for length in lengths() {
            let bytes = bytes(length);
            let mut digest = RollingDigest::new();
            digest.update(&bytes);
            assert_eq!(digest.digest(), *blake3::hash(&bytes).as_bytes(), "{length}");
            assert_eq!(digest.length(), length as u64);
            let file = file(&bytes);
            let whole = digest_file_on_all_cores(file.path()).expect("it is readable");
            assert_eq!(whole, digest.digest(), "{length}");
        }
    }

    #[test]
    fn many_pieces_are_put_together_in_their_order() {
        let piece = PIECE as usize;
        for length in [5 * piece, 5 * piece + 1, 8 * piece, 8 * piece - 1] {
            let bytes = bytes(length);
            let file = file(&bytes);
            let whole = digest_file_on_all_cores(file.path()).expect("it is readable");
            assert_eq!(whole, *blake3::hash(&bytes).as_bytes(), "{length}");
        }
    }

    #[test]
    fn a_checkpoint_is_gone_on_from_at_every_length() {
        for length in lengths() {
            let bytes = bytes(length + 3000);
            let mut digest = RollingDigest::new();
            digest.update(&bytes[..length]);
            let checkpoint = digest.checkpoint();
            let kept = checkpoint.to_bytes();
            assert!(kept.len() <= 1536 && checkpoint.length() <= length as u64);
            assert_eq!(Checkpoint::from_bytes(&kept), Ok(checkpoint.clone()));
            let file = file(&bytes);
            let gone_on = RollingDigest::go_on(checkpoint, file.as_file());
            let mut gone_on = gone_on.expect("it is readable");
            assert_eq!(gone_on.digest(), *blake3::hash(&bytes).as_bytes(), "{length}");
            assert_eq!(gone_on.catch_up(file.as_file()).expect("it is readable"), 0);
            let mut seen = Vec::new();
            let read = digest.catch_up_with(file.as_file(), |more| seen.extend_from_slice(more));
            assert_eq!(read.expect("it is readable"), 3000);
            assert_eq!(seen, bytes[length..]);
            assert_eq!(digest.digest(), gone_on.digest(), "{length}");
        }
    }

    #[test]
    fn a_file_that_was_cut_is_no_file_to_go_on_with() {
        let mut digest = RollingDigest::new();
        digest.update(&bytes(100));
        let error = digest.catch_up(file(&bytes(99)).as_file()).expect_err("it is shorter");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(digest.length(), 100);
        // Also one that has just what the checkpoint stands for, of which there was more.
        let group = GROUP as usize;
        let bytes = bytes(2 * group + 1);
        digest.update(&bytes[100..]);
        for length in [0, group, 2 * group] {
            let cut = file(&bytes[..length]);
            let error = RollingDigest::go_on(digest.checkpoint(), cut.as_file());
            let error = error.expect_err("it is shorter");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let whole = file(&bytes);
        let whole =
            RollingDigest::go_on(digest.checkpoint(), whole.as_file()).expect("it is whole");
        assert_eq!(whole.digest(), *blake3::hash(&bytes).as_bytes());
    }

    #[test]
    fn bytes_that_are_no_checkpoint_are_refused() {
        let mut digest = RollingDigest::new();
        digest.update(&bytes(5 * GROUP as usize + 1));
        let whole = digest.checkpoint().to_bytes();
        assert_eq!(whole.len(), 8 + 2 * 32 + 32);
        let flipped = (0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        });
        let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
        let longer = [whole.clone(), vec![0]].concat();
        for bytes in flipped.chain(cut).chain([longer]) {
            assert_eq!(Checkpoint::from_bytes(&bytes), Err(NoCheckpoint));
        }
        // Of a file that cannot be, with a sum that is right.
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend([7; 64 * 32]);
        bytes.extend(checksum(&bytes));
        assert_eq!(Checkpoint::from_bytes(&bytes), Err(NoCheckpoint));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_it_is_cut_up(
            cuts in proptest::collection::vec(0..200_000_usize, 0..12),
        ) {
            let bytes = bytes(cuts.iter().sum());
            let mut digest = RollingDigest::new();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (now, later) = rest.split_at(cut);
                digest.update(now);
                rest = later;
                if cut % 2 == 0 {
                    // Through a checkpoint, as another process would.
                    let file = file(&bytes[..digest.length() as usize]);
                    let gone_on = RollingDigest::go_on(digest.checkpoint(), file.as_file());
                    digest = gone_on.expect("it is readable");
                }
            }
            prop_assert_eq!(digest.digest(), *blake3::hash(&bytes).as_bytes());
        }
    }
}
