//! The listeners that the supervisor holds. A start or a swap changes them to those with which its
//! binary is configured: sockets that stay are the same sockets, others are bound before anything is
//! begun, and those that are configured no more are closed once the new process serves.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{anyhow, bail};
use handoff::Supervisor;
use rustix::fs::fstat;

use super::{Runner, broken};
use crate::binary::Binary;
use crate::config::{Config, ListenerConfig};
use crate::listen;
use crate::names::{self, Names, socket_at};
use crate::{notify, sockets};

/// The listeners of the process that serves, or of the next one to be started.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) configured: Vec<ListenerConfig>,
    /// Those that came with this process, as they were configured then. One at another address than
    /// the configured one stays where it is: a service manager may know why.
    inherited: Vec<ListenerConfig>,
    /// Whether a service manager passed them, and not this supervisor before its upgrade.
    from_manager: bool,
    /// The change that a swap in flight makes.
    change: Option<Change>,
    /// Those that this supervisor has closed, and another process may not.
    closed: Vec<Closed>,
    names: Names,
    /// A warning for each that is held at another address than the configured one.
    pub(super) elsewhere: Vec<String>,
}

/// A change of the listeners, which is made, or undone, at the end of a swap.
#[derive(Debug)]
struct Change {
    configured: Vec<ListenerConfig>,
    /// The sockets that the supervisor had before, if it has the new ones already.
    before: Vec<(String, OwnedFd)>,
    bound: Vec<ListenerConfig>,
    closed: Vec<Closed>,
}

/// A listener that is configured no more.
#[derive(Debug)]
pub(super) struct Closed {
    name: String,
    address: String,
    inode: u64,
}

/// How a socket that is held can be the one for a configured listener.
#[derive(Clone, Copy)]
enum Fit {
    /// It has the name, and is at the address.
    Itself,
    /// It is at the address, and has had another name.
    Renamed,
    /// It has the name, and was inherited at another address.
    StandsIn,
}

/// The sockets for a process, in the order of its configuration, and what is new about them.
struct Plan {
    sockets: Vec<(String, OwnedFd)>,
    change: Change,
}

impl Holding {
    /// Of a supervisor that has just begun, and has inherited these.
    pub(super) fn new(inherited: Vec<ListenerConfig>, from_manager: bool) -> Self {
        Self {
            configured: inherited.clone(),
            inherited,
            from_manager,
            change: None,
            closed: Vec::new(),
            names: Names::start(),
            elsewhere: Vec::new(),
        }
    }

    /// The listeners of a daemon that is adopted: these are configured for it.
    pub(super) fn adopt(&mut self, supervisor: &Supervisor, configured: &[ListenerConfig]) {
        self.configured = configured.to_vec();
        self.look_after(supervisor);
    }

    /// Finds the sockets for these listeners among those that are held, and binds the others.
    fn plan(
        &self,
        supervisor: &Supervisor,
        wanted: &[ListenerConfig],
        serves: bool,
    ) -> anyhow::Result<Plan> {
        let held: Vec<_> = supervisor.listeners().collect();
        let found = self.find(&held, wanted);
        if let Some(name) = self.shared_flag(wanted).filter(|_| serves) {
            bail!(
                "`blocking` of the listener {name:?} has changed, and the daemon shares that flag of the socket: set it back, or stop the daemon and start it anew"
            );
        }
        let mut change = Change {
            configured: wanted.to_vec(),
            before: Vec::new(),
            bound: Vec::new(),
            closed: Vec::new(),
        };
        let mut sockets = Vec::with_capacity(held.len());
        for (listener, found) in wanted.iter().zip(&found) {
            let socket = match found {
                Some(index) => held[*index].1.try_clone_to_owned().map_err(anyhow::Error::from),
                None => bind(listener, &held).inspect(|_| change.bound.push(listener.clone())),
            };
            let socket = socket.inspect_err(|_| change.unlink())?;
            sockets.push((listener.name.clone(), socket));
        }
        let is_listed =
            |name: &str| self.configured.iter().chain(wanted).any(|listener| listener.name == name);
        for (index, (name, socket)) in held.iter().enumerate() {
            if found.contains(&Some(index)) {
                continue;
            }
            if is_listed(name) {
                change.closed.push(Closed::of(name, *socket)?);
            } else {
                // The daemon bound it itself, and kept it for its successors.
                sockets.push(((*name).to_owned(), socket.try_clone_to_owned()?));
            }
        }
        Ok(Plan { sockets, change })
    }

    /// For each wanted listener, the one that is held.
    fn find(
        &self,
        held: &[(&str, BorrowedFd<'_>)],
        wanted: &[ListenerConfig],
    ) -> Vec<Option<usize>> {
        let mut found = vec![None; wanted.len()];
        for fit in [Fit::Itself, Fit::Renamed, Fit::StandsIn] {
            for (index, listener) in wanted.iter().enumerate() {
                if found[index].is_some() {
                    continue;
                }
                found[index] = (0..held.len()).find(|other| {
                    let (name, socket) = held[*other];
                    !found.contains(&Some(*other)) && self.fits(fit, listener, name, socket)
                });
            }
        }
        found
    }

    fn fits(
        &self,
        fit: Fit,
        listener: &ListenerConfig,
        name: &str,
        socket: BorrowedFd<'_>,
    ) -> bool {
        let is_named = listener.name == name;
        match fit {
            Fit::Itself => is_named && listen::is_at(&listener.address, socket),
            Fit::Renamed => {
                self.configured.iter().any(|it| it.name == name)
                    && listen::is_at(&listener.address, socket)
            }
            Fit::StandsIn => is_named && self.stands_in(listener),
        }
    }

    /// Whether a socket was inherited for it, and it is configured as it was then.
    fn stands_in(&self, listener: &ListenerConfig) -> bool {
        let is_it =
            |it: &&ListenerConfig| (&it.name, &it.address) == (&listener.name, &listener.address);
        self.inherited.iter().any(|it| is_it(&it))
    }

    /// The listener that stays, and of which `blocking` has changed.
    fn shared_flag<'a>(&self, wanted: &'a [ListenerConfig]) -> Option<&'a str> {
        let differs = |listener: &&ListenerConfig| {
            let is_same = |it: &&ListenerConfig| it.address == listener.address;
            let before = self.configured.iter().find(is_same);
            before.is_some_and(|before| before.blocking != listener.blocking)
        };
        wanted.iter().find(differs).map(|listener| &*listener.name)
    }

    /// The supervisor gets the planned sockets; the change is made or undone later.
    fn begin(&mut self, supervisor: &mut Supervisor, plan: Plan) {
        let Plan { sockets, mut change } = plan;
        change.before = supervisor.replace_listeners(sockets);
        self.change = Some(change);
    }

    /// The process with the new listeners serves, or is about to be started.
    pub(super) fn commit(&mut self, supervisor: &Supervisor) {
        let Some(change) = self.change.take() else { return };
        for listener in &change.bound {
            tracing::info!(name = listener.name, address = %listener.address, "this supervisor bound a listener for the daemon");
        }
        for Closed { name, address, .. } in &change.closed {
            tracing::info!(
                name,
                address,
                "this supervisor closes a listener that is configured no more"
            );
        }
        let before = mem::replace(&mut self.configured, change.configured);
        for listener in &self.configured {
            if !before.contains(listener) && !change.bound.contains(listener) {
                self.set_up(supervisor, listener);
            }
        }
        self.closed.extend(change.closed);
        self.look_after(supervisor);
    }

    /// Has a socket that stays do as the configuration says now.
    fn set_up(&self, supervisor: &Supervisor, listener: &ListenerConfig) {
        let held: Vec<_> = supervisor.listeners().collect();
        let found = self.find(&held, std::slice::from_ref(listener))[0];
        let set = found.map_or(Ok(()), |index| listen::set_up(listener, held[index].1));
        let opened = |path| listen::open_to(path, listener.access);
        if let Err(error) = set.and_then(|()| listener.address.file().map_or(Ok(()), opened)) {
            tracing::warn!(
                name = listener.name, address = %listener.address, %error,
                "this supervisor cannot set up a listener as it is configured: look at its backlog, mode, owner and group"
            );
        }
    }

    /// The process with the new listeners does not serve.
    pub(super) fn undo(&mut self, supervisor: &mut Supervisor) {
        let Some(mut change) = self.change.take() else { return };
        supervisor.replace_listeners(mem::take(&mut change.before));
        change.unlink();
    }

    fn look_after(&mut self, supervisor: &Supervisor) {
        let is_managers = |listener: &ListenerConfig| self.from_manager && self.stands_in(listener);
        self.names.set(names::of_listeners(&self.configured, is_managers));
        for (name, socket) in supervisor.listeners() {
            if self.configured.iter().any(|listener| listener.name == name) {
                notify::keep(name, socket);
            }
        }
        let held: Vec<_> = supervisor.listeners().collect();
        let found = self.find(&held, &self.configured);
        let at = |(listener, found): (&ListenerConfig, Option<usize>)| {
            let socket = held[found?].1;
            let ListenerConfig { name, address, .. } = listener;
            (!listen::is_at(address, socket)).then(|| {
                format!(
                    "listener {name} is held at {}, and not at {address} as configured: it was inherited; configure it where it is, or have the service manager pass another",
                    listen::shown(socket)
                )
            })
        };
        self.elsewhere = self.configured.iter().zip(found).filter_map(at).collect();
        for warning in &self.elsewhere {
            tracing::warn!("{warning}");
        }
    }

    /// Forgets those that no process has any more.
    pub(super) fn forget_closed(&mut self) {
        if !self.closed.is_empty() {
            self.closed.retain(|closed| sockets::is_open(closed.inode));
        }
    }

    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let still = self.closed.iter().filter(|closed| sockets::is_open(closed.inode));
        let still = still.map(|Closed { name, address, inode }| {
            format!(
                "listener {name} at {address} is configured no more, and still open in {}: who connects to it may wait for ever",
                sockets::holders(*inode)
            )
        });
        self.elsewhere.iter().cloned().chain(still)
    }

    /// Removes the second names of their files.
    pub(super) fn forget_names(&self) {
        names::forget(&self.configured);
    }
}

impl Change {
    /// Removes the files of the sockets that were bound for it.
    fn unlink(&self) {
        for path in self.bound.iter().filter_map(|listener| listener.address.file()) {
            if socket_at(path).is_some() {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl Closed {
    fn of(name: &str, socket: BorrowedFd<'_>) -> io::Result<Self> {
        let inode = fstat(socket)?.st_ino;
        Ok(Self { name: name.to_owned(), address: listen::shown(socket), inode })
    }
}

/// Binds it. A port may be taken by a listener that is still held.
fn bind(listener: &ListenerConfig, held: &[(&str, BorrowedFd<'_>)]) -> anyhow::Result<OwnedFd> {
    listen::bind(listener).map_err(|error| {
        let port = listener.address.inet().map(|(_, at)| at.port());
        let has_port = |(_, socket): &&(&str, BorrowedFd<'_>)| {
            port.is_some() && listen::port_of(socket.as_fd()) == port
        };
        match held.iter().find(has_port) {
            Some((name, socket)) => anyhow!(
                "{error}. The daemon has that port as its listener {name} at {}, which stays open until the new process serves: choose another port, or stop the daemon and start it anew",
                listen::shown(*socket)
            ),
            None => error,
        }
    })
}

impl Runner {
    /// Gets the listeners for a process that is to be started beside the daemon, or in its place.
    pub(super) fn prepare_listeners(&mut self, binary: &Binary) -> anyhow::Result<()> {
        let serves = self.service.daemon.is_some();
        let Some(supervisor) = self.jobs.supervisor_mut() else {
            return Err(broken("two jobs at a time"));
        };
        let plan = self.holding.plan(supervisor, &binary.listeners, serves)?;
        self.holding.begin(supervisor, plan);
        if !serves {
            self.holding.commit(supervisor);
        }
        Ok(())
    }

    pub(super) fn commit_listeners(&mut self) {
        if let Some(supervisor) = self.jobs.supervisor() {
            self.holding.commit(supervisor);
        }
    }

    pub(super) fn undo_listeners(&mut self) {
        if let Some(supervisor) = self.jobs.supervisor_mut() {
            self.holding.undo(supervisor);
        }
    }

    /// A warning where the configuration was read again, and no swap has taken its listeners over.
    pub(super) fn pending_listeners(&self) -> Option<String> {
        let daemon = self.service.daemon.as_ref()?;
        let Config { file, listeners, .. } = &self.config;
        let changes = changes(&daemon.binary.listeners, listeners);
        (!changes.is_empty()).then(|| {
            format!(
                "the listeners in {} are not those of the daemon; the next swap (handoff swap) takes them over: {}",
                file.display(),
                changes.join(", ")
            )
        })
    }
}

/// The differences between two configurations of listeners, for a person.
pub(super) fn changes(before: &[ListenerConfig], after: &[ListenerConfig]) -> Vec<String> {
    let only = |listener: &&ListenerConfig, others: &[ListenerConfig]| !others.contains(listener);
    let mut gone: Vec<_> = before.iter().filter(|it| only(it, after)).collect();
    let new = after.iter().filter(|it| only(it, before));
    let mut changes: Vec<String> = new
        .map(|listener| {
            let ListenerConfig { name, address, .. } = listener;
            let was = |it: &&ListenerConfig| it.address == *address;
            let named = |it: &&ListenerConfig| it.name == *name;
            let index = gone.iter().position(was).or_else(|| gone.iter().position(named));
            match index.map(|index| gone.remove(index)) {
                None => format!("{name} at {address} is added"),
                Some(it) if it.address != *address => {
                    format!("{name} moves from {} to {address}", it.address)
                }
                Some(it) if it.name != *name => format!("{} at {address} becomes {name}", it.name),
                Some(_) => format!("{name} at {address} is set up anew"),
            }
        })
        .collect();
    changes.extend(gone.iter().map(|it| format!("{} at {} is removed", it.name, it.address)));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Access;

    fn listener(name: &str, port: u16) -> ListenerConfig {
        let address = crate::config::Address::Tcp(([127, 0, 0, 1], port).into());
        let (name, access) = (name.to_owned(), Access::default());
        ListenerConfig { name, address, blocking: false, backlog: None, access, only_v6: false }
    }

    #[test]
    fn each_difference_is_told_once() {
        let before = [listener("a", 1), listener("b", 2), listener("c", 3), listener("d", 4)];
        let again = ListenerConfig { backlog: Some(7), ..listener("d", 4) };
        let after = [listener("e", 5), listener("b", 6), listener("f", 3), again];
        assert_eq!(changes(&before, &before), Vec::<String>::new());
        assert_eq!(
            changes(&before, &after),
            [
                "e at 127.0.0.1:5 is added",
                "b moves from 127.0.0.1:2 to 127.0.0.1:6",
                "c at 127.0.0.1:3 becomes f",
                "d at 127.0.0.1:4 is set up anew",
                "a at 127.0.0.1:1 is removed",
            ]
        );
    }
}
