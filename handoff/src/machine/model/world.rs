//! The world around the machines: processes, the lock, the owner record, the path.

use super::adopter::Adopter;
use super::carry::Carry;
use super::incumbent::Incumbent;
use super::line::{Line, SWAP};
use super::stray::Stray;
use super::successor::Successor;
use super::supervisor::Supervisor;
use crate::datadir::OwnerRecord;
pub(super) use crate::datadir::RecordPhase;
use crate::sys::process::ProcessId;

/// All of it at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) supervisor: Supervisor,
    pub(super) adopter: Adopter,
    pub(super) incumbent: Incumbent,
    pub(super) successor: Successor,
    pub(super) stray: Stray,
    pub(super) lines: [Line; 4],
    /// The process that has the `flock`.
    pub(super) lock: Option<Who>,
    pub(super) record: Record,
    pub(super) carry: Carry,
    /// The process that has its socket at the control path.
    pub(super) path: Who,
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
    Stray,
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
    /// The stray got the lock that was reserved for a live successor.
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
            stray: Stray::Idle,
            lines: [Line::greeted(), Line::greeted(), Line::absent(), Line::absent()],
            lock: Some(Who::Incumbent),
            record: Record { phase: RecordPhase::Serving, generation: 1, writer: Who::Incumbent },
            carry: Carry::parked(),
            path: Who::Incumbent,
            faults_left,
            wrong: None,
        }
    }

    /// Whether the process has not ended yet.
    pub(super) const fn is_alive(&self, who: Who) -> bool {
        match who {
            Who::Incumbent => !matches!(self.incumbent.life, Life::Dead),
            Who::Successor => !matches!(self.successor.life, Life::Dead),
            Who::Stray => !matches!(self.stray, Stray::Gone),
        }
    }

    pub(super) fn free_lock(&mut self, of: Who) {
        if self.lock == Some(of) {
            self.lock = None;
        }
    }

    /// The process that takes over writes the record as the next generation (invariant 10).
    pub(super) fn take_over(&mut self, phase: RecordPhase, writer: Who) {
        let generation = self.record.generation + 1;
        self.record = Record { phase, generation, writer };
    }

    /// Every process that can acknowledge a write does so. The model only asks whether a process
    /// has missed a write, so one write of each at every step is enough.
    pub(super) fn acknowledge(&mut self) {
        let (incumbent, successor) = (self.incumbent.acknowledges(), self.successor.serves());
        let stray = self.stray.serves();
        if incumbent || stray {
            self.carry.acknowledged();
        }
        let is_lost = incumbent && self.incumbent.is_behind
            || successor && self.successor.is_behind
            || stray && self.stray.is_behind();
        if is_lost {
            self.wrong.get_or_insert(Wrong::Lost);
        }
        self.incumbent.is_behind |= successor || stray;
        self.successor.is_behind |= incumbent || stray;
        if incumbent || successor {
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
                RecordPhase::Sealed => Who::Successor.id(),
                _ => ProcessId::default(),
            },
            handoff_id: matches!(self.phase, RecordPhase::Sealed | RecordPhase::Opening)
                .then_some(SWAP),
            ..OwnerRecord::default()
        }
    }
}

impl Who {
    pub(super) const fn id(self) -> ProcessId {
        ProcessId { pid: self as u32 + 1, start_time: 1 }
    }
}
