//! The successor: its machine, driven as `successor::phases` does. It reads the connection
//! only where it waits for a word; while the daemon's own code runs, the pulse looks on.

use super::carry;
use super::line::{Heard, Word, ready_words};
use super::witness::{Sight, Witness};
use super::world::{Directory, Life, RecordPhase, Sees, TO_SUCCESSOR, Who, World, Wrong};
use crate::datadir::{OwnerRecord, Succession};
use crate::guard::{Guard, stands};
use crate::machine::successor::{Effect, Event, GaveUp, State};

use super::line::SWAP;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Successor {
    pub(super) life: Life,
    pub(super) state: State,
    opening: Opening,
    /// Whether it would serve if it were alone.
    is_fit: bool,
    /// Whether the record told it which process it replaces.
    knows_incumbent: bool,
    /// The directory that it has opened is not that of the incumbent.
    pub(super) is_elsewhere: bool,
    /// It is past its commit point.
    pub(super) has_committed: bool,
    /// Another process has acknowledged a write that it has not seen.
    pub(super) is_behind: bool,
    pub(super) was_killed: bool,
    /// It can be killed, and does not end.
    pub(super) is_stuck: bool,
    /// It was killed because it might have had the lock, while the incumbent lived.
    pub(super) was_doubted: bool,
    /// It said, or showed, that it cannot go on, or gave up by itself.
    pub(super) has_failed: bool,
    /// It died or hung.
    pub(super) is_at_fault: bool,
    /// It was silent for too long while the incumbent was hung or gone.
    pub(super) is_blamed: bool,
}

/// How far it has come with the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Opening {
    Nothing,
    /// It has the `flock`, and the record does not say so yet.
    Locked,
    /// The record names it.
    Named,
    Open,
    /// It admits work, and has not said `Serving` yet.
    Admitting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    WarmUpEnds,
    Hear,
    SupervisorIsSilent,
    /// While the daemon's own code runs, the supervisor is lost: the process exits.
    Exit,
    Lock,
    LockPatienceEnds,
    Name,
    Open {
        is_fit: bool,
    },
    Fail,
    /// It writes the owner record.
    Write,
    Admit,
    /// It takes the control path over, and says that it serves.
    Serve,
    /// As `Serve`, before it admits.
    Announce,
    /// The supervisor, which could have ended it in favour of the incumbent, has hung up.
    SeesSupervisorEnd,
    /// The incumbent is dead.
    SeesIncumbentEnd,
    /// It writes its format into the record.
    Note,
    /// The process ends.
    End,
}

impl Successor {
    pub(super) const fn greeted() -> Self {
        Self {
            life: Life::Live,
            state: State::Warming(SWAP),
            opening: Opening::Nothing,
            is_fit: true,
            knows_incumbent: false,
            is_elsewhere: false,
            has_committed: false,
            is_behind: true,
            was_killed: false,
            is_stuck: false,
            was_doubted: false,
            has_failed: false,
            is_at_fault: false,
            is_blamed: false,
        }
    }

    /// As far as it matters to a swap that begins after its own.
    pub(super) fn left_behind(&self) -> Self {
        let Self { ref state, opening, is_fit, knows_incumbent, .. } = *self;
        Self { state: state.clone(), opening, is_fit, knows_incumbent, ..Self::greeted() }
    }

    pub(super) fn serves(&self) -> bool {
        self.life == Life::Live && self.opening == Opening::Admitting
    }

    /// Whether the data may be open for writing.
    pub(super) fn writes(&self) -> bool {
        self.life != Life::Dead && self.opening != Opening::Nothing
    }

    /// `SIGKILL`: it does nothing more, and its end comes.
    pub(super) fn kill(&mut self) {
        if self.life != Life::Dead {
            let killed = if self.is_stuck { Life::Stuck } else { Life::Killed };
            (self.life, self.was_killed) = (killed, true);
        }
    }
}

pub(super) fn moves(world: &World, moves: &mut Vec<Move>) {
    let successor = &world.successor;
    match successor.life {
        Life::Live => {}
        Life::Leaving | Life::Killed => return moves.push(Move::End),
        Life::Hung | Life::Stuck | Life::Dead => return,
    }
    match successor.state {
        State::Warming(_) => moves.extend([Move::WarmUpEnds, Move::Fail, Move::Exit]),
        State::Warm(_) | State::Ready(_) => {
            if world.lines[TO_SUCCESSOR].next_for_daemon() != Heard::Nothing {
                moves.push(Move::Hear);
            }
            moves.push(Move::SupervisorIsSilent);
        }
        State::Opening(_) => {
            match successor.opening {
                Opening::Nothing if successor.is_elsewhere || world.lock.is_none() => {
                    moves.push(Move::Lock);
                }
                Opening::Nothing => moves.push(Move::LockPatienceEnds),
                Opening::Locked => moves.push(Move::Name),
                Opening::Named | Opening::Open | Opening::Admitting => {
                    moves.extend([
                        Move::Open { is_fit: true },
                        Move::Open { is_fit: false },
                        Move::Fail,
                    ]);
                }
            }
            let closed = world.lines[TO_SUCCESSOR].is_hung_up();
            if !(closed && Event::of_closed(true, is_alone(world)) == Event::Alone) {
                moves.push(Move::Exit);
            }
        }
        State::Admitting(..) if world.is_one_way => moves.push(Move::Announce),
        State::Announced(_) => {
            // Its own side may be shut, and says nothing of the supervisor then.
            if matches!(world.lines[TO_SUCCESSOR].next_for_daemon(), Heard::Word(_)) {
                moves.push(Move::Hear);
            } else if world.lines[TO_SUCCESSOR].is_hung_up() {
                moves.push(Move::SeesSupervisorEnd);
            }
            if is_alone(world) {
                moves.push(Move::SeesIncumbentEnd);
            }
        }
        State::Final(_) if !world.is_noted => moves.push(Move::Note),
        State::Admitting(..) | State::Final(_) if successor.serves() => moves.push(Move::Serve),
        State::Admitting(..) | State::Final(_) => moves.push(Move::Admit),
        State::Committing(_) => moves.extend([Move::Write, Move::Fail]),
        State::Greeting | State::LastLook(_) | State::Serving | State::Gone(_) => {}
    }
}

pub(super) fn take(world: &mut World, chosen: Move, witness: &Witness) {
    match chosen {
        Move::WarmUpEnds => {
            let serves = matches!(world.record.phase, RecordPhase::Serving | RecordPhase::Sealed);
            let is_elsewhere = world.directory == Directory::Away;
            world.successor.is_elsewhere = is_elsewhere;
            world.successor.knows_incumbent =
                serves && world.record.writer == Who::Incumbent && !is_elsewhere;
            feed(world, Event::WarmUpDone, witness);
        }
        Move::Hear => match world.lines[TO_SUCCESSOR].next_for_daemon() {
            Heard::Word(word) => {
                world.lines[TO_SUCCESSOR].daemon_has_read();
                feed(world, Event::Message(word.message()), witness);
            }
            _ => {
                let event = Event::of_closed(world.successor.is_fit, is_alone(world));
                if event == Event::Alone {
                    witness.saw(Sight::GoesOnAlone);
                    if world.is_alive(Who::Incumbent) {
                        world.wrong.get_or_insert(Wrong::Unbidden);
                    }
                }
                feed(world, event, witness);
            }
        },
        Move::SupervisorIsSilent => feed(world, Event::SupervisorLost, witness),
        Move::Exit => {
            world.successor.has_failed = true;
            end(world);
        }
        Move::End => end(world),
        Move::Lock => lock(world, witness),
        Move::LockPatienceEnds | Move::Fail => fail(world, witness),
        Move::Name => {
            let found = world.record;
            if !world.successor.is_elsewhere {
                world.take_over(RecordPhase::Opening, Who::Successor);
            }
            world.successor.opening = Opening::Named;
            if !carry::find_usable(world, found) {
                fail(world, witness);
            }
        }
        Move::Open { is_fit } => {
            if !world.is_in_place(world.successor.is_elsewhere) {
                return fail(world, witness);
            }
            carry::open(world);
            // The daemon opens the path.
            let is_behind = world.directory == Directory::Away;
            let successor = &mut world.successor;
            (successor.opening, successor.is_fit) = (Opening::Open, is_fit);
            (successor.is_behind, successor.has_failed) = (is_behind, !is_fit);
            let ready = ready_words(is_fit);
            feed(world, Event::Opened { carried: None, verified: None, ready }, witness);
        }
        Move::Write if !world.is_in_place(world.successor.is_elsewhere) => fail(world, witness),
        Move::Write => {
            if !world.successor.is_elsewhere {
                world.record.phase = RecordPhase::Serving;
            }
            world.successor.has_committed = true;
            feed(world, Event::RecordWritten { generation: 2 }, witness);
        }
        Move::Admit => {
            world.carry.take_up();
            world.successor.opening = Opening::Admitting;
        }
        Move::Announce => {
            world.path = Who::Successor;
            feed(world, Event::Announced, witness);
        }
        Move::SeesSupervisorEnd => feed(world, Event::SupervisorLost, witness),
        Move::SeesIncumbentEnd => feed(world, Event::Alone, witness),
        Move::Note => world.is_noted = true,
        Move::Serve => {
            world.path = Who::Successor;
            feed(world, Event::Admitted, witness);
            world.lines[TO_SUCCESSOR].close_daemon();
        }
    }
}

/// Whether the successor knows the process that it replaces, and that process is dead.
fn is_alone(world: &World) -> bool {
    world.successor.knows_incumbent && !world.is_alive(Who::Incumbent)
}

fn lock(world: &mut World, witness: &Witness) {
    let is_elsewhere = world.successor.is_elsewhere;
    if !world.is_in_place(is_elsewhere) {
        return fail(world, witness);
    }
    let record = if is_elsewhere { OwnerRecord::default() } else { world.record.as_owner_record() };
    let sees = Sees { world, is_foreign: world.previous.is_some() };
    let is_anothers = record.reserved == Who::Previous.id() && world.is_alive(Who::Previous);
    match record.succession(SWAP, [0; 16], &sees) {
        Succession::Admitted => {
            if !is_elsewhere {
                world.lock = Some(Who::Successor);
            }
            if is_anothers {
                world.wrong.get_or_insert(Wrong::Stolen);
            }
            world.successor.opening = Opening::Locked;
        }
        Succession::OfAnother | Succession::Stopped | Succession::NeverServed => {
            fail(world, witness);
        }
    }
}

fn fail(world: &mut World, witness: &Witness) {
    world.successor.has_failed = true;
    feed(world, Event::Failed(String::new()), witness);
}

fn feed(world: &mut World, event: Event, witness: &Witness) {
    let was_looking = matches!(world.successor.state, State::LastLook(_));
    let effects = world.successor.state.on(event);
    if was_looking {
        witness.saw(match world.successor.state {
            State::Committing(_) => Sight::LastLookFindsCommit,
            _ => Sight::LastLookFindsNothing,
        });
    }
    if let State::Gone(why) = &mut world.successor.state {
        *why = GaveUp::SupervisorLost;
    }
    for effect in effects {
        match effect {
            Effect::Send(messages) => {
                for message in messages {
                    world.lines[TO_SUCCESSOR].tell_supervisor(Word::of(&message));
                }
            }
            Effect::ShutAndLook => look(world, witness),
            // `Move::Write` does it: the successor may be slow, or die, before that.
            Effect::WriteRecord => {
                assert!(matches!(world.successor.state, State::Committing(_)));
            }
            Effect::GiveUp => give_up(world),
        }
    }
}

/// The successor receives nothing more once the side is shut; a queued `Commit` counts.
fn look(world: &mut World, witness: &Witness) {
    world.lines[TO_SUCCESSOR].shut_daemon();
    while let Heard::Word(word) = world.lines[TO_SUCCESSOR].next_for_daemon() {
        world.lines[TO_SUCCESSOR].daemon_has_read();
        feed(world, Event::Message(word.message()), witness);
    }
    feed(world, Event::NothingQueued, witness);
}

/// It has the lock until its process ends: its opened state may still write (invariant 1).
fn give_up(world: &mut World) {
    world.lines[TO_SUCCESSOR].close_daemon();
    (world.successor.life, world.successor.has_failed) = (Life::Leaving, true);
    if !stands(Guard::LockOutlivesDrop) {
        world.free_lock(Who::Successor);
    }
}

/// Its process has ended: the kernel frees the lock and closes the connection.
pub(super) fn end(world: &mut World) {
    world.lines[TO_SUCCESSOR].close_daemon();
    world.free_lock(Who::Successor);
    let Successor { has_committed, was_killed, was_doubted, .. } = world.successor;
    let Successor { has_failed, is_at_fault, is_blamed, .. } = world.successor;
    world.successor = Successor {
        life: Life::Dead,
        has_committed,
        was_killed,
        was_doubted,
        has_failed,
        is_at_fault,
        is_blamed,
        ..Successor::greeted()
    };
}
