//! A swap: its request, its course and its end.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Instant, SystemTime};

use anyhow::{anyhow, bail};
use handoff::supervisor::{Committed, Failed, Progress, RolledBack};
use handoff::{HandoffId, SpawnSpec};

use super::daemon::Daemon;
use super::job::{self, Job, Said, Swapped};
use super::listeners::changes;
use super::probation::{Judging, Watch};
use super::service::Previous;
use super::{Runner, party_of};
use crate::binary::Binary;
use crate::config::{Config, ListenerConfig};
use crate::history::{DaemonEventKind, History, Line};
use crate::metrics;
use crate::record::{
    End, Outcome, Party, Phase, Probation, SwapEvent, SwapEventKind, SwapRecord, Trigger,
};
use crate::trigger::{Asker, Reply, SwapRequest};
use crate::units::{duration_us, to_ms};

/// The swap that is being made.
pub(super) struct InFlight {
    pub(super) id: String,
    pub(super) begun: Instant,
    /// As in [`End::admitted_us`].
    admitted_us: Option<u64>,
    pub(super) binary: Arc<Binary>,
    trigger: Trigger,
    dry_run: bool,
    /// The clients that hear of it until its end.
    followers: Vec<Sender<Reply>>,
    pub(super) phase: String,
    /// The requests or connections that the drain waits for, as the incumbent last told.
    pub(super) waits_for: Option<String>,
    sealing_recorded_us: u64,
    waiting_recorded: Option<SwapEventKind>,
}

impl InFlight {
    /// Whether the history keeps a step. It keeps a count of sealed shards once a second, and the
    /// last one; it keeps a drain that waits when the step has changed.
    fn is_worth_keeping(&mut self, step: &SwapEvent) -> bool {
        match &step.what {
            SwapEventKind::Sealing { sealed, total } if sealed < total => {
                let is_due = step.at_us >= self.sealing_recorded_us.saturating_add(1_000_000);
                if is_due {
                    self.sealing_recorded_us = step.at_us;
                }
                is_due
            }
            SwapEventKind::Waiting { .. } => {
                let is_news = self.waiting_recorded.as_ref() != Some(&step.what);
                self.waiting_recorded = Some(step.what.clone());
                is_news
            }
            _ => true,
        }
    }
}

/// The swap in flight, the probation of the last one, and the history, which keeps their ends.
pub(super) struct Swaps {
    pub(super) history: History,
    pub(super) in_flight: Option<InFlight>,
    pub(super) watch: Option<Watch>,
    /// Who waits for the end of the probation, and for what becomes of it.
    pub(super) judging: Option<Judging>,
}

impl Swaps {
    pub(super) fn on_progress(&mut self, at: Instant, progress: Progress) {
        let Some(swap) = &mut self.in_flight else { return };
        match &progress {
            Progress::Launched { .. } => swap.phase = "starting the successor".into(),
            Progress::Entered { phase, .. } => {
                swap.phase = phase.to_string();
                swap.waits_for = None;
            }
            Progress::Draining { open_conns, waiting, .. } => {
                let words = match waiting.count() {
                    0 => format!("{open_conns} requests or connections"),
                    _ => waiting.to_string(),
                };
                tracing::info!(swap = swap.id, open_conns, %waiting, "the drain waits for requests or connections");
                swap.waits_for = Some(words);
            }
            _ => {}
        }
        let Some(what) = SwapEventKind::of(progress) else { return };
        let step = SwapEvent { at_us: duration_us(at.saturating_duration_since(swap.begun)), what };
        swap.followers.retain(|follower| follower.send(Reply::Step(step.clone())).is_ok());
        if !swap.is_worth_keeping(&step) {
            return;
        }
        let id = swap.id.clone();
        let launched = match &step.what {
            SwapEventKind::Launched { pid } => Some(*pid),
            _ => None,
        };
        self.history.add(Line::Step { id: id.clone(), step });
        if let Some(pid) = launched {
            self.note_known(&id, |_, to| to.pid = Some(pid));
        }
    }

    pub(super) fn on_paired(&mut self, incumbent: String, successor: String) {
        let Some(id) = self.in_flight.as_ref().map(|swap| swap.id.clone()) else { return };
        let named = |build: String| Some(build).filter(|build| !build.is_empty());
        self.note_known(&id, |from, to| {
            (from.build, to.build) = (named(incumbent), named(successor));
        });
    }

    fn note_known(&mut self, id: &str, change: impl FnOnce(&mut Party, &mut Party)) {
        let Some(record) = self.history.swap(id) else { return };
        let (mut from, mut to) = (record.from.clone(), record.to.clone());
        change(&mut from, &mut to);
        self.history.add(Line::Known { id: id.to_owned(), from, to });
    }

    /// Writes the end into the history, and tells the followers, which it returns.
    fn end(
        &mut self,
        outcome: Outcome,
        cause: Option<String>,
        carried: Vec<String>,
    ) -> Vec<Sender<Reply>> {
        let Some(swap) = self.in_flight.take() else { return Vec::new() };
        let took_us = duration_us(swap.begun.elapsed());
        let end = End { outcome, took_us, admitted_us: swap.admitted_us, cause, carried };
        match outcome {
            Outcome::Committed | Outcome::DryRun => {
                tracing::info!(
                    swap = swap.id,
                    outcome = outcome.name(),
                    took_us,
                    "the swap is over"
                );
            }
            _ => tracing::warn!(
                swap = swap.id,
                outcome = outcome.name(),
                cause = end.cause,
                took_us,
                dry_run = swap.dry_run,
                "the swap is over"
            ),
        }
        self.history.add(Line::Ended { id: swap.id.clone(), end });
        let Some(record) = self.history.swap(&swap.id) else { return Vec::new() };
        metrics::swap_ended(record, outcome);
        let tell = |follower: &Sender<Reply>| {
            follower.send(Reply::Ended(Box::new(record.clone()))).is_ok()
        };
        swap.followers.into_iter().filter(tell).collect()
    }
}

impl Runner {
    /// `handoff swap`.
    pub(super) fn swap_on_request(
        &mut self,
        request: &SwapRequest,
        asker: Asker,
        replies: Sender<Reply>,
    ) {
        let Asker { uid, pid } = asker;
        let begun = self.begin_if_free(request, Trigger::Operator { uid, pid });
        if let Err(Reply::Refused { why, .. }) = &begun {
            tracing::warn!(pid, uid, error = why, "this supervisor refuses an operator's swap");
        }
        let follows = begun.is_ok() && request.follow;
        let _ = replies.send(begun.unwrap_or_else(|refused| refused));
        if let Some(swap) = self.swaps.in_flight.as_mut().filter(|_| follows) {
            swap.followers.push(replies);
        }
    }

    /// `SIGHUP`.
    pub(super) fn swap_on_hangup(&mut self) {
        let follower = self.manager.begin_reload();
        let begun = self.begin_if_free(&SwapRequest::default(), Trigger::Hangup);
        if let Err(Reply::Refused { why, .. }) = begun {
            tracing::error!(error = why, "this supervisor refuses the swap that SIGHUP asks for");
            return self.manager.refuse_reload(&why);
        }
        if let Some(swap) = &mut self.swaps.in_flight {
            swap.followers.extend(follower);
        }
    }

    /// Begins a swap to a listed binary. Returns the answer to the client, or the refusal.
    fn begin_if_free(&mut self, request: &SwapRequest, trigger: Trigger) -> Result<Reply, Reply> {
        self.check_free()?;
        let binary = self.choose(request.binary.as_deref()).map_err(Reply::refused)?;
        self.begin(binary, trigger, request).map_err(Reply::refused)
    }

    /// Refuses a swap that cannot begin now, with the cause.
    fn check_free(&self) -> Result<(), Reply> {
        let why = match self.jobs.running() {
            _ if self.stopping.is_some() => "the supervisor is stopping",
            Some(Job::Swap) => {
                let id = self.swaps.in_flight.as_ref().map(|swap| swap.id.clone());
                let id = id.unwrap_or_default();
                let why = format!(
                    "swap {id} is in flight, and one is made at a time; follow it with `handoff status`, or undo it with `handoff abort`"
                );
                return Err(Reply::Refused { why, in_flight: Some(id) });
            }
            Some(Job::Start) => "the daemon is being started; try again once it serves",
            Some(Job::Adopt) => "the supervisor still looks for a daemon; try again",
            None if self.service.daemon.is_none() => {
                "no daemon serves, so there is nothing to swap: it is started again by itself, see `handoff status`"
            }
            None => return Ok(()),
        };
        Err(Reply::refused(why))
    }

    /// Reads the configuration again, and opens the wanted binary, if it is listed.
    fn choose(&mut self, wanted: Option<&Path>) -> anyhow::Result<Arc<Binary>> {
        let config = Config::load(&self.config.file)?;
        if let Some(name) = self.config.fixed_difference(&config) {
            bail!(
                "{name} has changed in {}; a running supervisor cannot change it: set it back, or stop the daemon and start it anew",
                config.file.display()
            );
        }
        let program = match wanted {
            None => &config.programs[0],
            Some(path) => config.program(path).ok_or_else(|| {
                let listed: Vec<String> =
                    config.programs.iter().map(|program| program.path.display().to_string()).collect();
                anyhow!(
                    "{} is not listed in {}; those that are: {}. List it under [[binaries]] to allow it",
                    path.display(), config.file.display(), listed.join(", ")
                )
            })?,
        };
        let binary = Arc::new(Binary::open(program)?);
        self.service.restarts.configure(config.restart);
        self.config = config;
        Ok(binary)
    }

    /// Begins a swap to this binary, and returns the answer to the client.
    pub(super) fn begin(
        &mut self,
        binary: Arc<Binary>,
        trigger: Trigger,
        request: &SwapRequest,
    ) -> anyhow::Result<Reply> {
        let dry_run = request.dry_run;
        let one_way = request.one_way || self.config.swap.one_way;
        self.prepare_listeners(&binary)?;
        let from = self.service.party().unwrap_or_default();
        let handoff_id = HandoffId::new();
        let id = handoff_id.to_string();
        let record = SwapRecord {
            id: id.clone(),
            begun_ms: to_ms(SystemTime::now()),
            trigger: trigger.clone(),
            dry_run,
            one_way,
            from,
            to: party_of(&binary),
            listeners: changes(&self.holding.configured, &binary.listeners),
            steps: Vec::new(),
            end: None,
            probation: None,
        };
        tracing::info!(
            swap = id, path = %binary.path.display(), blake3 = binary.blake3, ?trigger, dry_run, one_way,
            "this supervisor begins a swap to this binary"
        );
        if one_way {
            tracing::warn!(
                swap = id,
                "this swap may be one-way: from its commit on no way back is promised, since the present build may not read the data of the new one"
            );
        }
        self.manager.forget_refusal();
        self.swaps.history.add(Line::Begun(record));
        self.swaps.in_flight = Some(InFlight {
            id: id.clone(),
            begun: Instant::now(),
            admitted_us: None,
            binary: Arc::clone(&binary),
            trigger,
            dry_run,
            followers: Vec::new(),
            phase: "connecting".into(),
            waits_for: None,
            sealing_recorded_us: 0,
            waiting_recorded: None,
        });
        let spec =
            SpawnSpec { handoff_id: Some(handoff_id), one_way, ..job::spec(&self.config, &binary) };
        if let Err(error) = self.jobs.swap(binary, spec, dry_run) {
            self.swaps.end(Outcome::NotBegun, Some(error.to_string()), Vec::new());
            return Err(error);
        }
        Ok(Reply::Begun { id, one_way })
    }

    /// `handoff abort`.
    pub(super) fn abort(&mut self, reason: String, replies: Sender<Reply>) {
        match &mut self.swaps.in_flight {
            Some(swap) if self.jobs.running() == Some(Job::Swap) => {
                tracing::info!(swap = swap.id, reason, "an operator aborts the swap");
                self.jobs.abort(reason);
                let id = swap.id.clone();
                let one_way = self.swaps.history.swap(&id).is_some_and(|record| record.one_way);
                let _ = replies.send(Reply::Begun { id, one_way });
                swap.followers.push(replies);
            }
            _ => {
                let why = match &self.service.previous {
                    None => "no swap is in flight".into(),
                    Some(Previous { binary, one_way }) => format!(
                        "no swap is in flight; to go back to what served before{}: handoff swap --binary {}",
                        if *one_way { ", which may not read the data any more" } else { "" },
                        binary.path.display()
                    ),
                };
                let _ = replies.send(Reply::refused(why));
            }
        }
    }

    /// The swap is over, one way or the other.
    pub(super) fn on_swapped(&mut self, swapped: Swapped) {
        let Some(swap) = &self.swaps.in_flight else { return };
        let (binary, trigger) = (Arc::clone(&swap.binary), swap.trigger.clone());
        let undoing = swap.id.clone();
        match swapped {
            Swapped::NotBegun(error) => {
                let why = self.explain_pair(&error);
                self.swaps.end(Outcome::NotBegun, Some(why), Vec::new());
            }
            Swapped::DryRun(rolled_back) => self.on_dry_run(rolled_back, &binary),
            Swapped::Committed(committed) => {
                let id = committed.handoff_id.to_string();
                let carried = self.succeed(*committed, binary);
                let followers = self.swaps.end(Outcome::Committed, None, carried);
                self.begin_probation(&id, &trigger, followers);
            }
            Swapped::Failed(failed, said) => self.on_failed(*failed, said, binary),
        }
        self.undo_listeners(); // unless the successor serves
        if trigger.undoes() {
            self.service.stay();
            self.judge(Some(&undoing));
        }
    }

    fn on_dry_run(&mut self, rolled_back: RolledBack, binary: &Arc<Binary>) {
        let (outcome, cause) = match rolled_back.outcome() {
            Outcome::RolledBack => (Outcome::DryRun, None),
            outcome @ (Outcome::Lost | Outcome::Promoted) => {
                (outcome, Some("the old process died"))
            }
            outcome => (outcome, Some("the old process did not confirm in time that it serves")),
        };
        let promoted = rolled_back.promoted;
        let carried = promoted.map(|committed| self.succeed(*committed, Arc::clone(binary)));
        self.swaps.end(outcome, cause.map(str::to_owned), carried.unwrap_or_default());
    }

    fn on_failed(&mut self, failed: Failed, said: Said, binary: Arc<Binary>) {
        let (outcome, cause) = (failed.outcome(), Some(failed.cause.to_string()));
        if let Some(committed) = failed.promoted {
            let carried = self.succeed(*committed, binary);
            self.swaps.end(outcome, cause, carried);
            return;
        }
        if let (Some(daemon), Some(generation)) = (&mut self.service.daemon, said.generation) {
            daemon.said.generation = Some(generation);
            metrics::serves(Some(generation));
        }
        self.swaps.end(outcome, cause, Vec::new());
    }

    /// The successor is the daemon from here on. Returns the carried sets, a line each.
    fn succeed(&mut self, committed: Committed, binary: Arc<Binary>) -> Vec<String> {
        let carried = committed.carried.to_string();
        self.commit_listeners();
        self.look_for_untaken(&committed.ready.listening_on);
        let generation = Some(committed.generation);
        let id = committed.handoff_id.to_string();
        self.swaps.note_known(&id, |_, to| to.generation = generation);
        let record = self.swaps.history.swap(&id);
        let committing = record.and_then(|record| record.entered(Phase::Committing));
        let admitted_us = committing.map(|at_us| at_us + duration_us(committed.timings.commit));
        let build = record.and_then(|record| record.to.build.clone());
        let said = Said { build, generation };
        let undoes = record.is_some_and(|record| record.trigger.undoes());
        let one_way = record.is_some_and(|record| record.one_way);
        if let Some(swap) = self.swaps.in_flight.as_mut().filter(|_| one_way) {
            swap.admitted_us = admitted_us;
        }
        self.service.replace(&binary, one_way, undoes);
        let ended = Probation::Ended { why: "another swap committed".into() };
        let is_ended = self.swaps.end_probation(ended).is_some();
        let daemon = Daemon::new(committed.successor, binary, said, SystemTime::now());
        self.serve(daemon, DaemonEventKind::Succeeded);
        if is_ended {
            self.judge(None);
        }
        carried.lines().map(str::to_owned).collect()
    }

    /// Warns of listeners that the successor has not taken, as it says. One that says nothing of any
    /// may not be of this library's `Daemon`.
    fn look_for_untaken(&mut self, taken: &[String]) {
        let listeners = self.holding.configured.iter().filter(|_| !taken.is_empty());
        let untaken = listeners.filter(|listener| !taken.contains(&listener.name));
        let warn = |ListenerConfig { name, address, .. }: &ListenerConfig| {
            format!(
                "the daemon has not taken the listener {name} at {address}: who connects to it waits for ever; use it in the daemon, or remove it from the configuration and start the daemon anew"
            )
        };
        self.untaken = untaken.map(warn).collect();
        for warning in &self.untaken {
            tracing::warn!("{warning}");
        }
    }

    /// The cause of a swap that did not begin, with the operator's remedy.
    fn explain_pair(&self, error: &handoff::Error) -> String {
        use handoff::error::LaunchError;

        match error {
            handoff::Error::NoHello => format!(
                "the new process said nothing within {} (limits.hello) and was ended: it has to run handoff::daemon::Daemon, or call handoff::successor::detect() and then greet(), before its slow work",
                humantime::format_duration(self.config.limits.hello)
            ),
            handoff::Error::Launch(LaunchError::ExitedEarly { path, status }) => format!(
                "{} ended ({status}) before it said hello; why, it has said itself, in the supervisor's log",
                path.display()
            ),
            error => error.to_string(),
        }
    }
}
