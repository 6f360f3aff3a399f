//! Memory that has a descriptor: sealed for good and mapped, or one word that two processes
//! share.

#![expect(unsafe_code, reason = "memory that other processes have too is mapped")]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use memmap2::{Mmap, MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_get_seals};

use super::sync::AtomicU32;

/// Empty memory that can be written as a file, and sealed.
pub(crate) fn create(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Where executable memory is forbidden the flag is required; kernels before 6.3 lack it.
    match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(name, flags)?.into()),
        result => Ok(result?.into()),
    }
}

/// Sealed memory, mapped for reading.
#[derive(Debug)]
pub(crate) struct Sealed {
    descriptor: OwnedFd,
    /// None where there is nothing to map.
    map: Option<Mmap>,
}

impl Sealed {
    /// Seals memory that nobody has mapped for writing, and maps it.
    pub(crate) fn seal(memory: File) -> io::Result<Self> {
        rustix::fs::fcntl_add_seals(&memory, FOR_GOOD | SealFlags::SEAL)?;
        Self::map(memory.into())
    }

    /// Maps sealed memory. `InvalidInput` where it could still be changed, or where the descriptor
    /// cannot have seals.
    pub(crate) fn map(descriptor: OwnedFd) -> io::Result<Self> {
        if !fcntl_get_seals(&descriptor)?.contains(FOR_GOOD) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = length_of(&descriptor)?;
        let map = if length == 0 {
            None
        } else {
            // Private, since kernels before 6.7 share nothing that is sealed against writing. No
            // process writes the pages, so none is copied.
            // SAFETY: the seals that were just looked at keep everybody from writing and from
            // resizing it, for as long as it exists.
            Some(unsafe { MmapOptions::new().len(length).map_copy_read_only(&descriptor)? })
        };
        Ok(Self { descriptor, map })
    }
}

impl Deref for Sealed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

super::as_fd!(Sealed, descriptor);

/// A word that two sides share, and that either may change once from zero. The memory that it is in
/// is mapped by two processes; tests put it elsewhere.
#[derive(Debug)]
pub(crate) struct Word<M = Mapped>(M);

/// Memory of the size of a word, mapped by every process that has its descriptor.
#[derive(Debug)]
pub(crate) struct Mapped {
    descriptor: OwnedFd,
    map: MmapRaw,
}

impl Word {
    /// A word that is zero.
    pub(crate) fn new() -> io::Result<Self> {
        let memory = create("handoff-word")?;
        memory.set_len(WORD as u64)?;
        rustix::fs::fcntl_add_seals(&memory, OF_ONE_SIZE)?;
        Self::map(memory.into())
    }

    /// The word that another process has made; `InvalidInput` where the memory is not a word's.
    pub(crate) fn map(descriptor: OwnedFd) -> io::Result<Self> {
        let seals = fcntl_get_seals(&descriptor)?;
        let is_one = seals.contains(OF_ONE_SIZE)
            && !seals.contains(SealFlags::WRITE)
            && length_of(&descriptor)? == WORD;
        if !is_one {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let map = MmapOptions::new().len(WORD).map_raw(&descriptor)?;
        Ok(Self(Mapped { descriptor, map }))
    }
}

// A side that finds the word claimed sees all that the other side wrote before it claimed. The one
// that claims it has nothing to see: nothing was written for the zero that it finds.

impl<M: AsRef<AtomicU32>> Word<M> {
    #[cfg(test)]
    pub(crate) fn at(memory: M) -> Self {
        Self(memory)
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.as_ref().load(Ordering::Acquire)
    }

    /// Makes it `value` if it is zero; otherwise returns its value.
    pub(crate) fn claim(&self, value: u32) -> Result<(), u32> {
        let word = self.0.as_ref();
        word.compare_exchange(0, value, Ordering::Release, Ordering::Acquire).map(drop)
    }
}

impl AsRef<AtomicU32> for Mapped {
    fn as_ref(&self) -> &AtomicU32 {
        // SAFETY: a mapping begins at a page, so it is aligned; it has the size of the word,
        // which cannot shrink; and every process that maps it uses it as an atomic word too.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().cast()) }
    }
}

super::as_fd!(Mapped, descriptor);
super::as_fd!(Word, 0);

fn length_of(descriptor: impl AsFd) -> io::Result<usize> {
    let length = rustix::fs::fstat(descriptor)?.st_size;
    usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

const OF_ONE_SIZE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);
const FOR_GOOD: SealFlags = OF_ONE_SIZE.union(SealFlags::WRITE);
const WORD: usize = size_of::<u32>();

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_sealed_is_read_by_whoever_gets_the_descriptor_and_changed_by_nobody() {
        let mut memory = create("test").expect("memory");
        memory.write_all(b"warm").expect("it is written");
        let writer = memory.try_clone().expect("a descriptor is left");
        let sealed = Sealed::seal(memory).expect("nobody has it mapped");
        let copy = sealed.as_fd().try_clone_to_owned().expect("a descriptor is left");
        let mapped = Sealed::map(copy).expect("it is sealed");
        assert_eq!((&*sealed, &*mapped), (&b"warm"[..], &b"warm"[..]));
        assert!((&writer).write_all(b"cold").is_err());
        assert!(writer.set_len(0).is_err());
    }

    #[test]
    fn empty_memory_is_sealed_too() {
        let sealed = Sealed::seal(create("test").expect("memory")).expect("it is sealed");
        assert_eq!(&*sealed, b"");
    }

    #[test]
    fn what_could_still_be_changed_is_not_mapped() {
        let memory = create("test").expect("memory");
        memory.set_len(4096).expect("it grows");
        rustix::fs::fcntl_add_seals(&memory, OF_ONE_SIZE).expect("it takes seals");
        let (socket, _) = UnixStream::pair().expect("a pair");
        let file = tempfile::tempfile().expect("a file");
        for descriptor in [OwnedFd::from(memory), socket.into(), file.into()] {
            let refused = Sealed::map(descriptor).expect_err("it is not sealed");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_word_is_claimed_once_on_whichever_side() {
        let ours = Word::new().expect("memory");
        let copy = ours.as_fd().try_clone_to_owned().expect("a descriptor is left");
        let theirs = Word::map(copy).expect("it is one");
        assert_eq!((ours.get(), theirs.get()), (0, 0));
        assert_eq!(theirs.claim(2), Ok(()));
        assert_eq!((ours.claim(1), ours.claim(2)), (Err(2), Err(2)));
        assert_eq!((ours.get(), theirs.get()), (2, 2));
    }

    #[test]
    fn what_could_vanish_under_a_reader_is_no_word() {
        let short = create("test").expect("memory");
        short.set_len(4).expect("it grows");
        let long = create("test").expect("memory");
        long.set_len(8).expect("it grows");
        rustix::fs::fcntl_add_seals(&long, OF_ONE_SIZE).expect("it takes seals");
        for memory in [short, long] {
            let refused = Word::map(memory.into()).expect_err("it is none");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
