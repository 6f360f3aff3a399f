//! The world around the machines: processes, the lock, the owner record, the path.

use super::adopter::Adopter;
use super::carry::Carry;
use super::incumbent::Incumbent;
use super::line::{Line, OTHER_SWAP, SWAP};
use super::previous::Previous;
use super::stray::Stray;
use super::successor::Successor;
use super::supervisor::Supervisor;
pub(super) use crate::datadir::RecordPhase;
use crate::datadir::{OwnerRecord, Sight, byte_of_swap, byte_of_writer, is_in_place};
use crate::protocol::HandoffId;
use crate::sys::process::ProcessId;

/// All of it at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) supervisor: Supervisor,
    pub(super) adopter: Adopter,
    pub(super) incumbent: Incumbent,
    pub(super) successor: Successor,
    /// The successor of an earlier swap, which has not ended yet.
    pub(super) previous: Option<Box<Previous>>,
    pub(super) stray: Stray,
    pub(super) lines: [Line; 4],
    /// The process that has the `flock`.
    pub(super) lock: Option<Who>,
    pub(super) record: Record,
    pub(super) carry: Carry,
    /// The process that has its socket at the control path.
    pub(super) path: Who,
    pub(super) directory: Directory,
    /// Whether the incumbent does not read what the successor writes.
    pub(super) is_one_way: bool,
    /// Whether the record has the successor's format, and the data may have it.
    pub(super) is_noted: bool,
    /// How many processes may still die or hang.
    pub(super) faults_left: u8,
    pub(super) wrong: Option<Wrong>,
}

/// The connections, by number. The daemon hears those of lower number first.
pub(super) const TO_SUCCESSOR: usize = 0;
pub(super) const TO_INCUMBENT: usize = 1;
pub(super) const ANEW: usize = 2;
pub(super) const OF_ADOPTER: usize = 3;

/// A process that has to do with the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Incumbent,
    Successor,
    Previous,
    Stray,
}

/// The directory to which the path of the data directory leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Directory {
    /// That of the incumbent.
    InPlace,
    /// Another one, without an owner record.
    Away,
    /// That of the incumbent, again.
    Back,
}

/// How a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Life {
    Live,
    /// It lives, and never does anything again.
    Hung,
    /// It has done its part, and ends soon.
    Leaving,
    /// It was sent `SIGKILL`: it does nothing more, and has not ended yet.
    Killed,
    /// It was sent `SIGKILL`, and cannot end: it is in a frozen cgroup, or its disk hangs.
    Stuck,
    Dead,
}

/// The parts of the owner record that the model looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) phase: RecordPhase,
    pub(super) generation: u8,
    pub(super) writer: Who,
    /// In phase `Sealed`.
    pub(super) reserved: Who,
}

/// The other processes, as one process sees them.
pub(super) struct Sees<'world> {
    pub(super) world: &'world World,
    /// It is of another namespace than all others.
    pub(super) is_foreign: bool,
}

/// A violation that shows in a step rather than in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Wrong {
    /// A process serves that has not seen a write that another process acknowledged.
    Lost,
    /// The incumbent echoed that it serves, and did not.
    FalseReport,
    /// The successor went on without the supervisor's word, although the incumbent lived.
    Unbidden,
    /// A process got the lock that was reserved for another one, which lived.
    Stolen,
    /// The successor used memory that was out of date.
    Stale,
}

impl World {
    pub(super) const fn paired(faults_left: u8) -> Self {
        Self {
            supervisor: Supervisor::paired(),
            adopter: Adopter::Absent,
            incumbent: Incumbent::serving(),
            successor: Successor::greeted(),
            previous: None,
            stray: Stray::Idle,
            lines: [Line::greeted(), Line::greeted(), Line::absent(), Line::absent()],
            lock: Some(Who::Incumbent),
            record: Record {
                phase: RecordPhase::Serving,
                generation: 1,
                writer: Who::Incumbent,
                reserved: Who::Successor,
            },
            carry: Carry::parked(),
            path: Who::Incumbent,
            directory: Directory::InPlace,
            is_one_way: false,
            is_noted: false,
            faults_left,
            wrong: None,
        }
    }

    /// Whether the process has not ended yet.
    pub(super) fn is_alive(&self, who: Who) -> bool {
        match who {
            Who::Previous => {
                let life = self.previous.as_ref().map(|previous| previous.successor.life);
                !matches!(life, None | Some(Life::Dead))
            }
            Who::Incumbent => !matches!(self.incumbent.life, Life::Dead),
            Who::Successor => !matches!(self.successor.life, Life::Dead),
            Who::Stray => !matches!(self.stray, Stray::Gone),
        }
    }

    /// Whether the path leads to the directory that a process has opened: that of the incumbent, or
    /// the one elsewhere. The library's own decision.
    pub(super) fn is_in_place(&self, is_elsewhere: bool) -> bool {
        is_in_place(is_elsewhere, self.directory == Directory::Away)
    }

    pub(super) fn free_lock(&mut self, of: Who) {
        if self.lock == Some(of) {
            self.lock = None;
        }
    }

    /// The process that takes over writes the record as the next generation (invariant 10).
    pub(super) fn take_over(&mut self, phase: RecordPhase, writer: Who) {
        let generation = self.record.generation + 1;
        self.record = Record { phase, generation, writer, reserved: Who::Successor };
    }

    /// Every process that can acknowledge a write does so. The model only asks whether a process
    /// has missed a write, so one write of each at every step is enough.
    pub(super) fn acknowledge(&mut self) {
        let (incumbent, successor) = (self.incumbent.acknowledges(), self.successor.serves());
        let stray = self.stray.serves();
        let previous = self.previous.as_ref().is_some_and(|previous| previous.successor.serves());
        if incumbent || stray || previous {
            self.carry.acknowledged();
        }
        let is_lost = incumbent && self.incumbent.is_behind
            || successor && self.successor.is_behind
            || self.previous.as_ref().is_some_and(|previous| {
                previous.successor.serves() && previous.successor.is_behind
            })
            || stray && self.stray.is_behind();
        if is_lost {
            self.wrong.get_or_insert(Wrong::Lost);
        }
        self.incumbent.is_behind |= successor || stray || previous;
        self.successor.is_behind |= incumbent || stray || previous;
        if let Some(previous) = &mut self.previous {
            previous.successor.is_behind |= incumbent || successor || stray;
        }
        if incumbent || successor || previous {
            self.stray.fall_behind();
        }
    }
}

impl Record {
    /// The record itself, for the library's own decisions about it.
    pub(super) fn as_owner_record(self) -> OwnerRecord {
        OwnerRecord {
            phase: self.phase,
            generation: self.generation.into(),
            writer: self.writer.id(),
            reserved: match self.phase {
                RecordPhase::Sealed => self.reserved.id(),
                _ => ProcessId::default(),
            },
            handoff_id: match self.phase {
                RecordPhase::Sealed => Some(swap_of(self.reserved)),
                RecordPhase::Opening => Some(swap_of(self.writer)),
                _ => None,
            },
            by_byte: true,
            reserved_by_byte: true,
            ..OwnerRecord::default()
        }
    }
}

fn swap_of(successor: Who) -> HandoffId {
    if successor == Who::Previous { OTHER_SWAP } else { SWAP }
}

impl Sight for Sees<'_> {
    fn is_locked(&self, byte: u64) -> bool {
        let lives = |who: Who| self.world.is_alive(who);
        byte == byte_of_swap(SWAP) && lives(Who::Successor)
            || byte == byte_of_swap(OTHER_SWAP) && lives(Who::Previous)
            || EVERY_ONE.into_iter().any(|who| byte == byte_of_writer(who.id()) && lives(who))
    }

    fn is_alive(&self, process: ProcessId) -> bool {
        let is_it = |who: &Who| who.id() == process && self.world.is_alive(*who);
        !self.is_foreign && EVERY_ONE.iter().any(is_it)
    }
}

const EVERY_ONE: [Who; 4] = [Who::Incumbent, Who::Successor, Who::Previous, Who::Stray];

impl Who {
    pub(super) const fn id(self) -> ProcessId {
        ProcessId { pid: self as u32 + 1, start_time: 1 }
    }
}
