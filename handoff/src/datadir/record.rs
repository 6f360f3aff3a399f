//! The owner record: the contents of the lock file.
//!
//! One block of 256 bytes at offset 0, written in one call, so that a reader that does not
//! hold the lock sees it whole or sees a checksum that does not match.
//!
//! ```text
//!   0  8  magic "HANDOFF\0"      56  8  reserved pid's start time
//!   8  4  format, 1              64  8  generation sealed, see below
//!  12  4  phase                  72 16  handoff id, zero if none
//!  16  8  generation             88 16  boot id
//!  24  4  writer's pid          104  2  length of the build id, 0 ..= 118
//!  28  4  reserved pid          106 118 build id
//!  32  8  writer's start time   224 32  BLAKE3 of bytes 0 .. 224
//!  40  1  bit 0: the seal is not synced, 1: the writer locked its byte, 2: so did the reserved
//!         process, 3: no process has served yet
//!  44  4  format of the data, 0 where no build has told one
//! ```
//!
//! All other bits of the bytes 40 to 55 are zero. Builds without the flags and without the data's
//! format write 0 for them, and do not read them.
//!
//! A byte of the lock file, far beyond the record, says in every namespace whether a process lives:
//! the process locks it (by an open file description) for as long as it lives. Where it locked none,
//! its pid and start time say so.
//!
//! The generation sealed is that of the manifest that describes the data as it is; zero while
//! a process may be writing. A start leaves it as it was until it serves. A seal that is not
//! synced holds in the boot of the record alone (invariant 11).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::{pread, retry_on_intr};

use crate::drainable::FIRST_FORMAT;
use crate::error::{Error, Result};
use crate::guard::{Guard, stands};
use crate::protocol::HandoffId;
use crate::sys::process::ProcessId;

/// Where the data directory stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum RecordPhase {
    /// No process writes: a clean stop, a dropped lock, or a directory never written.
    #[default]
    Released,
    /// A process took the lock, for a cold start or for work offline, and does not serve.
    Held,
    /// The writer serves.
    Serving,
    /// Sealed, and the lock released for the successor that is named.
    Sealed,
    /// The successor holds the lock and is undecided.
    Opening,
}

/// The decoded record. All zero describes a directory that never had a writer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OwnerRecord {
    pub(crate) phase: RecordPhase,
    /// Grows with every change of writer.
    pub(crate) generation: u64,
    /// The generation of the manifest that holds; 0 if none does.
    pub(crate) sealed_generation: u64,
    /// Whether the manifest, or data that it describes, is not synced.
    pub(crate) is_seal_unsynced: bool,
    /// The last process that was the writer, or took the lock to be it.
    pub(crate) writer: ProcessId,
    /// The process for which the free lock is reserved, in phase `Sealed` (invariant 9).
    pub(crate) reserved: ProcessId,
    /// Whether the writer has locked its byte of the lock file for as long as it lives.
    pub(crate) by_byte: bool,
    /// Whether the process for which the lock is reserved has locked the byte of its swap.
    pub(crate) reserved_by_byte: bool,
    /// Whether the directory is new: processes took the lock, and none has served.
    pub(crate) is_unserved: bool,
    pub(crate) handoff_id: Option<HandoffId>,
    pub(crate) build_id: Vec<u8>,
    /// The highest format that any writer may have left in the data; 0 where none has told one.
    pub(crate) format: u32,
    /// Pids and start times mean nothing after another boot.
    pub(crate) boot_id: [u8; 16],
}

/// A process's sight of the others.
pub(crate) trait Sight {
    /// Whether a process has locked that byte of the lock file: in doubt it has. All namespaces see
    /// the same.
    fn is_locked(&self, byte: u64) -> bool;

    /// Whether that process lives. A process of another namespace is not in this one's `/proc`.
    fn is_alive(&self, process: ProcessId) -> bool;
}

/// The byte of the lock file that a writer locks for as long as it lives.
pub(crate) const fn byte_of_writer(writer: ProcessId) -> u64 {
    WRITERS | (((writer.pid as u64) << 20) ^ writer.start_time) & (WRITERS - 1)
}

/// The byte of the lock file that the successor of a swap locks for as long as it lives.
pub(crate) fn byte_of_swap(handoff_id: HandoffId) -> u64 {
    let id = u128::from_le_bytes(*handoff_id.as_bytes());
    SUCCESSORS | (id as u64 & (WRITERS - 1))
}

/// Above the record, by far.
const WRITERS: u64 = 1 << 40;
const SUCCESSORS: u64 = 1 << 41;

/// A record's verdict on a successor that has the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Succession {
    /// The lock was reserved for it, or the writer is dead and no other process waits.
    Admitted,
    /// The last writer did not reserve the lock for it, and lives, as may the process for which it
    /// did.
    OfAnother,
    /// The last writer released the lock on purpose.
    Stopped,
    /// No process ever wrote here: it is not the directory of the process to be replaced.
    NeverServed,
}

impl OwnerRecord {
    /// Reads the record of a lock file; an empty file holds the default.
    pub(crate) fn read(file: &File, path: &Path) -> Result<Self> {
        let mut block = [0; LENGTH];
        let mut read = 0;
        while read < LENGTH {
            let length = retry_on_intr(|| pread(file, &mut block[read..], read as u64))
                .map_err(Error::at("read", path))?;
            if length == 0 {
                break;
            }
            read += length;
        }
        let damaged = |why| Error::Damaged { path: path.to_owned(), why, remedy: REMEDY };
        match read {
            0 => Ok(Self::default()),
            LENGTH => Self::decode(&block).map_err(damaged),
            _ => Err(damaged("it is shorter than an owner record")),
        }
    }

    /// Overwrites the record. The caller holds the lock.
    pub(crate) fn write(&self, file: &File, path: &Path) -> Result<()> {
        file.write_all_at(&self.encode(), 0).map_err(Error::at("write", path))
    }

    /// The process for which the free lock is reserved, if it still lives (invariant 9).
    pub(crate) fn reservation(&self, boot_id: [u8; 16], sight: &impl Sight) -> Option<ProcessId> {
        let is_reserved = self.phase == RecordPhase::Sealed && self.boot_id == boot_id;
        let is_alive = || match self.handoff_id {
            Some(id) if self.reserved_by_byte && stands(Guard::ReservedByByte) => {
                sight.is_locked(byte_of_swap(id))
            }
            _ => sight.is_alive(self.reserved),
        };
        (is_reserved && is_alive() && stands(Guard::Reservation)).then_some(self.reserved)
    }

    /// The format of the data: that of a build that names none, where none was told.
    pub(crate) fn format(&self) -> u32 {
        self.format.max(FIRST_FORMAT)
    }

    /// Whether the directory has no data of a build that tells formats, or of one before it.
    pub(crate) const fn is_new(&self) -> bool {
        (self.generation == 0 || self.is_unserved) && self.format == 0
    }

    /// Whether the last writer lives.
    pub(crate) fn has_live_writer(&self, boot_id: [u8; 16], sight: &impl Sight) -> bool {
        if self.by_byte {
            return sight.is_locked(byte_of_writer(self.writer));
        }
        self.boot_id == boot_id && sight.is_alive(self.writer)
    }

    /// Whether the successor of `handoff_id`, which has the lock, may go on from this record.
    pub(crate) fn succession(
        &self,
        handoff_id: HandoffId,
        boot_id: [u8; 16],
        sight: &impl Sight,
    ) -> Succession {
        if self.generation == 0 {
            return Succession::NeverServed;
        }
        let is_its_own = self.is_reserved_for(handoff_id) || !stands(Guard::ReservedForItsSwap);
        let is_anothers = || {
            self.has_live_writer(boot_id, sight)
                || self.reservation(boot_id, sight).is_some()
                    && stands(Guard::ReservationOutlivesWriter)
        };
        if !is_its_own && is_anothers() {
            return Succession::OfAnother;
        }
        let was_released = self.phase == RecordPhase::Released;
        if was_released && stands(Guard::ReleasedIsFinal) {
            return Succession::Stopped;
        }
        Succession::Admitted
    }

    /// The generation of the manifest that a process of that boot verifies against; 0 if none. After
    /// a crash of the machine the record of a seal that was not synced may be older than the data,
    /// and its manifest may be anything (invariant 11).
    pub(crate) fn generation_to_verify(&self, boot_id: [u8; 16]) -> u64 {
        let holds = self.boot_id == boot_id || !self.has_unsynced_seal();
        if holds { self.sealed_generation } else { 0 }
    }

    /// Whether the seal is that of a swap, or of a clean stop with a late request. A build without
    /// the flag tells the former by the phase alone.
    pub(crate) fn has_unsynced_seal(&self) -> bool {
        self.is_seal_unsynced || self.phase == RecordPhase::Sealed
    }

    /// Whether its writer has sealed the directory for that swap, and no process has taken it over
    /// since.
    pub(crate) fn is_reserved_for(&self, handoff_id: HandoffId) -> bool {
        self.phase == RecordPhase::Sealed && self.handoff_id == Some(handoff_id)
    }

    pub(crate) fn encode(&self) -> [u8; LENGTH] {
        let mut block = [0; LENGTH];
        let build_id = &self.build_id[..self.build_id.len().min(BUILD_ID_MAX)];
        let handoff_id = self.handoff_id.map_or([0; 16], |id| *id.as_bytes());
        let mut put = |offset: usize, bytes: &[u8]| {
            block[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, MAGIC);
        put(8, &FORMAT.to_le_bytes());
        put(12, &(self.phase as u32).to_le_bytes());
        put(16, &self.generation.to_le_bytes());
        put(24, &self.writer.pid.to_le_bytes());
        put(28, &self.reserved.pid.to_le_bytes());
        put(32, &self.writer.start_time.to_le_bytes());
        let flags = [self.is_seal_unsynced, self.by_byte, self.reserved_by_byte, self.is_unserved];
        let flags =
            flags.iter().enumerate().fold(0, |all, (bit, is_set)| all | u8::from(*is_set) << bit);
        put(40, &[flags]);
        put(44, &self.format.to_le_bytes());
        put(56, &self.reserved.start_time.to_le_bytes());
        put(64, &self.sealed_generation.to_le_bytes());
        put(72, &handoff_id);
        put(88, &self.boot_id);
        put(104, &(build_id.len() as u16).to_le_bytes());
        put(106, build_id);
        let checksum = blake3::hash(&block[..CHECKED]);
        block[CHECKED..].copy_from_slice(checksum.as_bytes());
        block
    }

    pub(crate) fn decode(block: &[u8; LENGTH]) -> Result<Self, &'static str> {
        // A file system may have kept the length of a record that was never written out.
        if *block == [0; LENGTH] {
            return Ok(Self::default());
        }
        let u32_at = |offset: usize| u32::from_le_bytes(array_at(block, offset));
        let u64_at = |offset: usize| u64::from_le_bytes(array_at(block, offset));
        if &block[..8] != MAGIC {
            return Err("it does not begin as an owner record does");
        }
        if *blake3::hash(&block[..CHECKED]).as_bytes() != block[CHECKED..] {
            return Err("its checksum does not match");
        }
        if u32_at(8) != FORMAT {
            return Err("its format is one that this build does not know");
        }
        let phase = match u32_at(12) {
            0 => RecordPhase::Released,
            1 => RecordPhase::Held,
            2 => RecordPhase::Serving,
            3 => RecordPhase::Sealed,
            4 => RecordPhase::Opening,
            _ => return Err("its phase is one that this build does not know"),
        };
        let build_id_length = usize::from(u16::from_le_bytes(array_at(block, 104)));
        let build_id =
            block[106..CHECKED].get(..build_id_length).ok_or("its build id is too long")?;
        let handoff_id = array_at::<16>(block, 72);
        Ok(Self {
            phase,
            generation: u64_at(16),
            sealed_generation: u64_at(64),
            is_seal_unsynced: block[40] & 1 != 0,
            writer: ProcessId { pid: u32_at(24), start_time: u64_at(32) },
            reserved: ProcessId { pid: u32_at(28), start_time: u64_at(56) },
            handoff_id: (handoff_id != [0; 16]).then(|| HandoffId::from_bytes(handoff_id)),
            by_byte: block[40] & 2 != 0,
            reserved_by_byte: block[40] & 4 != 0,
            is_unserved: block[40] & 8 != 0,
            build_id: build_id.to_vec(),
            format: u32_at(44),
            boot_id: array_at(block, 88),
        })
    }
}

fn array_at<const N: usize>(block: &[u8; LENGTH], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&block[offset..offset + N]);
    array
}

const MAGIC: &[u8; 8] = b"HANDOFF\0";
const FORMAT: u32 = 1;
const LENGTH: usize = 256;
const CHECKED: usize = 224;
const BUILD_ID_MAX: usize = CHECKED - 106;
pub(super) const REMEDY: &str = "handoff::DataDirLock::repair";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::process::boot_id;

    fn record() -> OwnerRecord {
        OwnerRecord {
            phase: RecordPhase::Sealed,
            generation: 7,
            sealed_generation: 6,
            is_seal_unsynced: true,
            writer: ProcessId { pid: 11, start_time: 12 },
            reserved: ProcessId { pid: 13, start_time: 14 },
            handoff_id: Some(HandoffId::new()),
            by_byte: true,
            reserved_by_byte: true,
            is_unserved: true,
            build_id: b"build 3".to_vec(),
            format: 5,
            boot_id: boot_id(),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let path = file.path();
        assert_eq!(
            OwnerRecord::read(file.as_file(), path).expect("empty is fine"),
            OwnerRecord::default()
        );
        for phase in [
            RecordPhase::Released,
            RecordPhase::Held,
            RecordPhase::Serving,
            RecordPhase::Sealed,
            RecordPhase::Opening,
        ] {
            let written = OwnerRecord { phase, ..record() };
            written.write(file.as_file(), path).expect("it is written");
            assert_eq!(OwnerRecord::read(file.as_file(), path).expect("it is read"), written);
        }
    }

    /// A sight of processes of which those live.
    struct Live<'a>(&'a [ProcessId], &'a [u64]);

    impl Sight for Live<'_> {
        fn is_locked(&self, byte: u64) -> bool {
            self.1.contains(&byte)
        }

        fn is_alive(&self, process: ProcessId) -> bool {
            self.0.contains(&process)
        }
    }

    #[test]
    fn a_successor_leaves_the_lock_to_a_live_one_of_another_swap_also_where_the_writer_is_dead() {
        let (record, own) = (record(), HandoffId::new());
        let OwnerRecord { writer, reserved, .. } = record;
        let waits = byte_of_swap(record.handoff_id.expect("it is sealed for a swap"));
        let of = |record: &OwnerRecord, live: &[ProcessId], locked: &[u64]| {
            record.succession(own, boot_id(), &Live(live, locked))
        };
        assert_eq!(of(&record, &[], &[waits]), Succession::OfAnother);
        assert_eq!(of(&record, &[], &[byte_of_writer(writer)]), Succession::OfAnother);
        assert_eq!(of(&record, &[], &[]), Succession::Admitted);
        // A pid counts only where a build without the bytes wrote the record.
        assert_eq!(of(&record, &[writer, reserved], &[]), Succession::Admitted);
        let by_pid = OwnerRecord { by_byte: false, reserved_by_byte: false, ..record };
        assert_eq!(of(&by_pid, &[reserved], &[]), Succession::OfAnother);
        assert_eq!(of(&by_pid, &[writer], &[]), Succession::OfAnother);
        assert_eq!(of(&by_pid, &[], &[]), Succession::Admitted);
    }

    #[test]
    fn a_block_that_was_never_written_out_had_no_writer() {
        assert_eq!(OwnerRecord::decode(&[0; LENGTH]), Ok(OwnerRecord::default()));
    }

    /// A build without the flags and the format leaves the bytes 40 to 55 at zero.
    #[test]
    fn a_record_without_the_flag_is_read_and_its_seal_is_unsynced_only_in_phase_sealed() {
        let (by_byte, reserved_by_byte) = (false, false);
        let (is_seal_unsynced, is_unserved, format) = (false, false, 0);
        let sealed = OwnerRecord {
            is_seal_unsynced,
            by_byte,
            reserved_by_byte,
            is_unserved,
            format,
            ..record()
        };
        assert_eq!(sealed.format(), 1, "that of a build that names none");
        assert_eq!(sealed.encode()[40..56], [0; 16]);
        let other_boot = [0xb0; 16];
        for phase in [RecordPhase::Released, RecordPhase::Held, RecordPhase::Sealed] {
            let block = OwnerRecord { phase, ..sealed.clone() }.encode();
            let read = OwnerRecord::decode(&block).expect("it is whole");
            assert_eq!(read.generation_to_verify(boot_id()), 6);
            let after_reboot = if phase == RecordPhase::Sealed { 0 } else { 6 };
            assert_eq!(read.generation_to_verify(other_boot), after_reboot);
            let flagged = OwnerRecord { is_seal_unsynced: true, ..read };
            assert_eq!(flagged.generation_to_verify(other_boot), 0);
        }
    }

    #[test]
    fn a_long_build_id_is_cut() {
        let written = OwnerRecord { build_id: vec![9; 500], ..record() };
        let read = OwnerRecord::decode(&written.encode()).expect("it is whole");
        assert_eq!(read.build_id, vec![9; BUILD_ID_MAX]);
    }

    #[test]
    fn any_flipped_bit_and_any_other_length_is_damage_that_names_the_file() {
        let whole = record().encode();
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut blocks: Vec<Vec<u8>> = (0..LENGTH * 8)
            .map(|bit| {
                let mut block = whole.to_vec();
                block[bit / 8] ^= 1 << (bit % 8);
                block
            })
            .collect();
        blocks.extend((1..LENGTH).map(|length| whole[..length].to_vec()));
        for block in blocks {
            fs::write(file.path(), &block).expect("it is written");
            let file = fs::File::open(file.path()).expect("it opens");
            match OwnerRecord::read(&file, Path::new("here")) {
                Err(Error::Damaged { path, .. }) => assert_eq!(path, Path::new("here")),
                other => panic!("{other:?}"),
            }
        }
    }
}
