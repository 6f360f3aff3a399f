//! Gives the incumbent's machine bytes and events in any order.
//!
//! A model of the driver stands beside the machine: the lock, the hook that runs, the session.
//! The machine gets the events that such a driver could meet, and its effects have to suit
//! the driver's state.

use super::Input;
use crate::drainable::{DrainReport, SealReport};
use crate::frame::{FrameReader, encode};
use crate::machine::AfterDrain;
use crate::machine::incumbent::{Effect, Event, State};
use crate::protocol::{HandoffId, Message, PROTO_MAX};

/// Drives a machine as the input says, and then to rest: the incumbent serves, or has left.
///
/// An input is a list of turns; see `Driver::turn`.
pub fn session(input: &[u8]) {
    let mut input = Input(input);
    let mut driver = Driver::new();
    while !input.is_empty() && driver.lock != Lock::Left {
        driver.turn(&mut input);
    }
    driver.come_to_rest();
}

/// The part of a driver's state on which the machine decides.
#[derive(Debug)]
struct Driver {
    state: State,
    lock: Lock,
    hook: Option<Hook>,
    /// The result of the last hook that succeeded, until another hook begins.
    done: Option<HookEnd>,
    /// The session that drives the swap is connected.
    is_connected: bool,
    /// The swap in flight: begun, and neither undone nor committed.
    swap: Option<HandoffId>,
    /// Whether the swap's deadline is still to come.
    has_lease: bool,
    awaits_lock: bool,
    awaits_retry: bool,
    /// Whether the next release of the lock fails.
    release_fails: bool,
    reader: FrameReader,
    /// Bytes that are still on their way.
    unsent: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Lock {
    Held,
    /// Released for the successor.
    Released,
    /// Released for good, at a clean stop.
    LetGo,
    /// The serve loop has ended.
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Drain,
    LastDrain,
    Seal,
    Resume,
}

#[derive(Debug, PartialEq, Eq)]
enum HookEnd {
    Drained,
    Sealed(SealReport),
}

impl Driver {
    const fn new() -> Self {
        Self {
            state: State::Serving,
            lock: Lock::Held,
            hook: None,
            done: None,
            is_connected: false,
            swap: None,
            has_lease: false,
            awaits_lock: false,
            awaits_retry: false,
            release_fails: false,
            reader: FrameReader::new(),
            unsent: Vec::new(),
        }
    }

    /// One turn: an event, if it can happen now.
    fn turn(&mut self, input: &mut Input<'_>) {
        let turn = input.byte();
        let flag = turn >= 128;
        match turn % 16 {
            0 => {
                let length = usize::from(input.byte());
                self.hear(input.bytes(length));
            }
            1..4 => {
                let frame = encode(PROTO_MAX, &message(input)).expect("it is short");
                // The other half comes with the next bytes, unless the session is lost before.
                let (now, later) = frame.split_at(if flag { frame.len() / 2 } else { frame.len() });
                let bytes = [std::mem::take(&mut self.unsent).as_slice(), now].concat();
                self.unsent = later.to_vec();
                self.hear(&bytes);
            }
            4 | 5 => self.end_hook(Ok(input.byte()), flag),
            6 => self.end_hook(Err("it failed".to_owned()), flag),
            7 if self.awaits_lock => {
                self.awaits_lock = false;
                self.lock = Lock::Held;
                self.step(Event::LockRetaken);
            }
            8 if self.awaits_lock => {
                self.awaits_lock = false;
                self.step(Event::Superseded);
            }
            9 if self.awaits_retry => {
                self.awaits_retry = false;
                self.step(Event::RetryDue);
            }
            10 => self.lose_session(),
            11 if self.has_lease => {
                self.has_lease = false;
                self.step(Event::DeadlinePassed);
            }
            12 if self.state == State::Serving => self.step(Event::StopRequested),
            13 => self.hear_late(late_event(input.byte())),
            _ => {}
        }
    }

    /// The supervisor dies; every hook and every wait then succeeds.
    fn come_to_rest(&mut self) {
        self.lose_session();
        for _ in 0..MAX_EVENTS_TO_REST {
            if self.hook.is_some() {
                self.end_hook(Ok(0), false);
            } else if self.awaits_lock {
                self.turn(&mut Input(&[7]));
            } else if self.awaits_retry {
                self.turn(&mut Input(&[9]));
            }
        }
        match self.state {
            State::Serving => assert_eq!((&self.lock, self.swap), (&Lock::Held, None)),
            _ => assert_eq!(self.lock, Lock::Left, "stuck: {self:?}"),
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
        while self.lock != Lock::Left {
            match self.reader.next_frame() {
                Ok(Some((_, message))) => self.step(Event::Message(message)),
                Ok(None) => return,
                Err(_) => return self.lose_session(),
            }
        }
    }

    fn lose_session(&mut self) {
        self.reader = FrameReader::new();
        self.unsent.clear();
        if std::mem::take(&mut self.is_connected) {
            self.step(Event::SessionLost);
        }
    }

    fn end_hook(&mut self, result: Result<u8, String>, release_fails: bool) {
        self.release_fails = release_fails;
        let Some(hook) = self.hook.take() else { return };
        let event = match hook {
            Hook::Drain | Hook::LastDrain => Event::DrainEnded(result.map(|open| DrainReport {
                open_conns_remaining: open.into(),
                accept_closed: true,
            })),
            Hook::Seal => Event::SealEnded(result.map(|revision| SealReport {
                last_revision_per_shard: vec![revision.into()],
                data_dir_fingerprint: [revision; 32],
            })),
            Hook::Resume => Event::ResumeEnded(result.map(|_| ())),
        };
        self.done = match &event {
            Event::DrainEnded(Ok(_)) => Some(HookEnd::Drained),
            // A clean stop seals also after a drain that failed.
            Event::DrainEnded(Err(_)) if hook == Hook::LastDrain => Some(HookEnd::Drained),
            Event::SealEnded(Ok(report)) => Some(HookEnd::Sealed(report.clone())),
            _ => None,
        };
        self.step(event);
    }

    /// A late event changes nothing.
    fn hear_late(&mut self, event: Event) {
        if is_due(&self.state, &event) {
            return;
        }
        let mut state = self.state.clone();
        let effects = state.on(event.clone());
        assert_eq!((&state, effects), (&self.state, Vec::new()), "{event:?}");
    }

    fn step(&mut self, event: Event) {
        let before = self.state.clone();
        let effects = self.state.on(event.clone());
        judge(&before, &event, &self.state, &effects);
        for effect in effects {
            self.perform(effect);
        }
        if self.state == State::Serving {
            self.swap = None;
            self.has_lease = false;
            self.is_connected = false;
        }
        self.assert_in_step();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::RunDrain { handoff_id, .. } => {
                assert_eq!(self.swap.replace(handoff_id), None, "a swap is in flight");
                self.is_connected = true;
                self.has_lease = true;
                self.start(Hook::Drain);
            }
            Effect::GiveListeners { .. } | Effect::Offer { .. } | Effect::WatchGate => {
                assert_eq!((&self.state, self.swap), (&State::Serving, None));
            }
            Effect::RunLastDrain => self.start(Hook::LastDrain),
            Effect::InterruptDrain | Effect::SealNext => assert_eq!(self.hook, Some(Hook::Drain)),
            Effect::RunSeal => {
                assert_eq!(self.done, Some(HookEnd::Drained), "it was not drained");
                self.start(Hook::Seal);
            }
            Effect::RunResume => self.start(Hook::Resume),
            Effect::ReleaseLock(report) => self.release(report),
            Effect::ReleaseForGood(report) => {
                assert_eq!(self.done.take(), Some(HookEnd::Sealed(report)), "it was not sealed");
                assert_eq!(self.lock, Lock::Held);
                self.lock = Lock::LetGo;
            }
            Effect::AwaitLock => {
                assert_eq!(self.lock, Lock::Released);
                self.awaits_lock = true;
            }
            Effect::RetryLater => {
                assert_eq!(self.hook, None);
                self.awaits_retry = true;
            }
            Effect::Leave(result) => {
                let lock = match (&self.state, result) {
                    (State::Replaced, Ok(())) => Lock::Released,
                    (State::Stopped, Ok(())) => Lock::LetGo,
                    // The incumbent keeps the lock of a state that it did not seal (invariant 2).
                    (State::Stopped, Err(_)) => Lock::Held,
                    (state, result) => panic!("it leaves {} with {result:?}", state.name()),
                };
                assert_eq!((&self.lock, self.hook), (&lock, None));
                self.lock = Lock::Left;
            }
            Effect::Send(message) => self.assert_true(&message),
            Effect::Close(_) => {
                self.is_connected = false;
                self.reader = FrameReader::new();
                self.unsent.clear();
            }
        }
    }

    fn start(&mut self, hook: Hook) {
        assert_eq!(self.hook.replace(hook), None, "two hooks at once");
        assert_eq!(self.lock, Lock::Held, "{hook:?} without the lock");
        self.done = None;
        self.awaits_retry = false;
    }

    fn release(&mut self, report: SealReport) {
        assert_eq!(self.done.take(), Some(HookEnd::Sealed(report.clone())), "it was not sealed");
        assert_eq!(self.lock, Lock::Held);
        if self.release_fails {
            self.step(Event::LockKept("the disk is full".to_owned()));
        } else {
            self.lock = Lock::Released;
            self.step(Event::LockReleased(report));
        }
    }

    /// The incumbent sends a message only while it is true (invariant 4).
    fn assert_true(&self, message: &Message) {
        match message {
            Message::Heartbeat { .. } => {}
            Message::Drained { .. } => assert_eq!(self.done, Some(HookEnd::Drained)),
            Message::SealComplete { .. } => assert_eq!(self.lock, Lock::Released),
            Message::SealFailed { handoff_id, .. } | Message::Abort { handoff_id, .. } => {
                assert_eq!(self.swap, Some(*handoff_id));
                assert_eq!((&self.state, &self.lock), (&State::Serving, &Lock::Held));
                assert!(self.is_connected, "{message:?} to nobody");
            }
            other => panic!("an incumbent does not say {other:?}"),
        }
    }

    /// The machine's state fits the driver's, and an event will move it on.
    fn assert_in_step(&self) {
        let is_free = self.lock == Lock::Released;
        let is_right = match &self.state {
            State::Serving => self.is_idle() && self.swap.is_none(),
            State::Draining(..) => self.is_connected && self.hook == Some(Hook::Drain),
            State::Drained(_) => self.is_connected && self.is_idle(),
            State::Sealing(_) => self.is_connected && self.hook == Some(Hook::Seal),
            State::Sealed(_) => self.is_connected && is_free && self.hook.is_none(),
            State::Interrupted(_) => matches!(self.hook, Some(Hook::Drain | Hook::Seal)),
            State::Waiting(_) => self.awaits_lock && is_free && self.hook.is_none(),
            State::Resuming(_) => (self.hook == Some(Hook::Resume)) != self.awaits_retry,
            State::Stopping => self.hook == Some(Hook::LastDrain),
            State::Closing => self.hook == Some(Hook::Seal),
            State::Replaced | State::Stopped => self.lock == Lock::Left,
        };
        let is_in_flight = !matches!(
            self.state,
            State::Serving | State::Stopping | State::Closing | State::Replaced | State::Stopped
        );
        assert!(is_right, "{self:?}");
        assert!(!is_in_flight || self.swap == self.state.handoff_id(), "{self:?}");
    }

    fn is_idle(&self) -> bool {
        self.lock == Lock::Held && self.hook.is_none()
    }
}

/// The transitions that are allowed, in any state of the driver.
fn judge(before: &State, event: &Event, after: &State, effects: &[Effect]) {
    let is_told = matches!(event, Event::Message(_));
    if is_told && !before.admits_messages() {
        assert_eq!((after, effects), (before, &[][..]), "{event:?}");
    }
    if let Event::Message(heartbeat @ Message::Heartbeat { .. }) = event
        && before.admits_messages()
    {
        assert_eq!((after, effects), (before, &[Effect::Send(heartbeat.clone())][..]));
    }
    let is_new = before.name() != after.name();
    let is_allowed = match after {
        _ if !is_new => true,
        State::Serving => *event == Event::ResumeEnded(Ok(())),
        State::Replaced => match (before, event) {
            (State::Sealed(id), Event::Message(Message::Commit { handoff_id })) => id == handoff_id,
            (State::Waiting(_), Event::Superseded) => true,
            _ => false,
        },
        State::Stopping => *event == Event::StopRequested,
        State::Closing => *before == State::Stopping,
        State::Stopped => *before == State::Closing,
        State::Draining(..) => *before == State::Serving && is_told,
        State::Drained(_) => {
            matches!((before, event), (State::Draining(..), Event::DrainEnded(Ok(_))))
        }
        State::Sealing(_) => match (before, event) {
            (State::Draining(_, after_drain), Event::DrainEnded(Ok(_))) => {
                *after_drain == AfterDrain::Seal
            }
            (State::Drained(_), Event::Message(Message::SealRequest { .. })) => true,
            _ => false,
        },
        State::Sealed(_) => matches!((before, event), (State::Sealing(_), Event::LockReleased(_))),
        State::Interrupted(_) => matches!(before, State::Draining(..) | State::Sealing(_)),
        State::Waiting(_) => matches!(before, State::Sealed(_)),
        State::Resuming(_) => matches!(
            before,
            State::Draining(..)
                | State::Drained(_)
                | State::Sealing(_)
                | State::Interrupted(_)
                | State::Waiting(_)
        ),
    };
    assert!(is_allowed, "{before:?} and {event:?} are followed by {after:?}");
    let is_closed = effects.iter().any(|effect| matches!(effect, Effect::Close(_)));
    let is_undone = *after == State::Serving || !after.admits_messages();
    assert!(!is_closed || is_undone, "{after:?} has lost its session to {event:?}");
}

/// Whether a state waits for such an event, or reacts to it.
fn is_due(state: &State, event: &Event) -> bool {
    use State::{
        Closing, Drained, Draining, Interrupted, Resuming, Sealed, Sealing, Serving, Stopping,
        Waiting,
    };
    match event {
        Event::Message(_) => state.admits_messages(),
        Event::DrainEnded(_) => matches!(state, Draining(..) | Interrupted(_) | Stopping),
        Event::SealEnded(_) | Event::LockKept(_) => {
            matches!(state, Sealing(_) | Interrupted(_) | Closing)
        }
        Event::LockReleased(_) => matches!(state, Sealing(_)),
        Event::LockRetaken | Event::Superseded => matches!(state, Waiting(_)),
        Event::ResumeEnded(_) | Event::RetryDue => matches!(state, Resuming(_)),
        // An undo only forgets the reply that it would have sent.
        Event::SessionLost | Event::DeadlinePassed => matches!(
            state,
            Draining(..)
                | Drained(_)
                | Sealing(_)
                | Sealed(_)
                | Interrupted(_)
                | Waiting(_)
                | Resuming(_)
        ),
        Event::StopRequested => *state == Serving,
    }
}

/// A message of one of two swaps.
fn message(input: &mut Input<'_>) -> Message {
    let [kind, id] = input.array();
    let handoff_id = HandoffId::from_bytes([id % 2 + 1; 16]);
    match kind % 13 {
        0 => Message::PrepareHandoff {
            handoff_id,
            successor_pid: 2,
            deadline_ms: 3,
            drain_grace_ms: 4,
        },
        1 => Message::SealRequest { handoff_id },
        2 => Message::Commit { handoff_id },
        3 => Message::Abort { handoff_id, reason: "why".to_owned() },
        4 => Message::ResumeAfterAbort { handoff_id },
        5 => Message::Heartbeat { ts_ms: id.into() },
        6 => Message::HelloAck { proto_version_chosen: PROTO_MAX, handoff_id },
        7 => Message::Drained { open_conns_remaining: 0, accept_closed: true },
        8 => Message::Begin { handoff_id },
        9 => Message::Serving { handoff_id, generation: 5 },
        10 => Message::Fetch { handoff_id },
        11 => Message::Adopt { handoff_id },
        _ => Message::WatchGate { handoff_id },
    }
}

fn late_event(kind: u8) -> Event {
    let failed = || "it failed".to_owned();
    match kind % 14 {
        0 => Event::DrainEnded(Ok(DrainReport::default())),
        1 => Event::DrainEnded(Err(failed())),
        2 => Event::SealEnded(Ok(SealReport::default())),
        3 => Event::SealEnded(Err(failed())),
        4 => Event::LockReleased(SealReport::default()),
        5 => Event::LockKept(failed()),
        6 => Event::LockRetaken,
        7 => Event::Superseded,
        8 => Event::ResumeEnded(Ok(())),
        9 => Event::ResumeEnded(Err(failed())),
        10 => Event::RetryDue,
        11 => Event::SessionLost,
        12 => Event::DeadlinePassed,
        _ => Event::StopRequested,
    }
}

/// The events until rest: the end of a hook, wait or pause, then of a resume or a last seal.
const MAX_EVENTS_TO_REST: usize = 2;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fuzzing::seeds;

    /// The seeds reach every state that the target checks.
    #[test]
    fn the_seeds_visit_every_state() {
        let mut visited = BTreeSet::new();
        for (_, seed) in seeds::of("session") {
            let mut input = Input(&seed);
            let mut driver = Driver::new();
            while !input.is_empty() && driver.lock != Lock::Left {
                driver.turn(&mut input);
                visited.insert(driver.state.name());
            }
        }
        assert_eq!(visited.len(), 12, "{visited:?}");
    }
}
