//! The supervisor, a process of its own. It adopts the server that another supervisor left;
//! where no process serves, it binds the listener and starts the first build. Then it swaps as
//! the lines on its standard input say. At their end it ends the server, adopted or not.
//!
//! A supervisor that is killed leaves the server serving, for the one that starts next.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::time::Duration;

use handoff::Supervisor;
use handoff::supervisor::{Adoption, DaemonProcess, Launch, LaunchRequest, Progress};

use crate::BoxError;
use crate::cli::SuperviseOptions;
use crate::demo::report::{Order, Origin, Said, Serving};
use crate::demo::swap::{Supervised, spec};
use crate::serve::LISTENER;

/// `kvd supervise`.
pub(crate) fn supervise(options: SuperviseOptions) -> Result<(), BoxError> {
    let (mut supervised, serving) = take_charge(options)?;
    say(serving)?;
    for line in io::stdin().lines() {
        match line?.parse::<Order>() {
            Ok(order) => say(supervised.swap(&order)?)?,
            Err(error) => eprintln!("kvd: {error}"),
        }
    }
    Ok(())
}

/// Adopts first. Where nothing is left to adopt, it binds a listener and starts a server.
fn take_charge(options: SuperviseOptions) -> Result<(Supervised, Serving), BoxError> {
    // This fails if another supervisor has the journal; nothing has been changed then.
    let mut supervisor = Supervisor::new(&options.control)?
        .with_journal(options.control.with_added_extension("journal"))?
        .with_launch(Announced)
        .with_observer(announce);
    let (origin, resolved, build, server) = match supervisor.adopt(ADOPTION_TIMEOUT)? {
        Adoption::Daemon(daemon) => {
            let build = std::str::from_utf8(&daemon.build_id)?.parse()?;
            (Origin::Adopted, daemon.resolved, build, DaemonProcess::from(daemon.process))
        }
        Adoption::Nothing { resolved } => {
            supervisor.add_listener(LISTENER, bind()?);
            let first = supervisor.start(&spec(&options, &Order::to(FIRST_BUILD))?)?;
            (Origin::Started, resolved, FIRST_BUILD, first.into())
        }
    };
    let pid = server.pid();
    let resolved = resolved.map(|resolved| resolved.outcome);
    let serving = Serving { origin, address: address(&supervisor)?, build, pid, resolved };
    Ok((Supervised::new(supervisor, options, build, server), serving))
}

fn bind() -> io::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // Here and nowhere else: every build shares the listener's flags.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The server's address, by the listener itself: another process bound an adopted one.
fn address(supervisor: &Supervisor) -> Result<SocketAddr, BoxError> {
    let ours = supervisor.listeners().find(|(name, _)| *name == LISTENER);
    let (_, listener) = ours.ok_or_else(|| {
        format!("the server gave no listener {LISTENER:?} back, so that no swap can pass it on")
    })?;
    Ok(TcpListener::from(listener.try_clone_to_owned()?).local_addr()?)
}

/// Starts processes, and announces each at once, so that the demonstration can end all of them.
struct Announced;

impl Launch for Announced {
    fn launch(&self, request: LaunchRequest<'_>) -> handoff::Result<Child> {
        // Only this process has its standard output, so that the pipe ends with this process.
        let child = request.spawn(|command| {
            command.stdout(Stdio::null());
        })?;
        // When the demonstration has ended, standard input ends too.
        let _ = say(Said::Launched { pid: child.id() });
        Ok(child)
    }
}

/// Announces the phase that a swap enters, while the swap is in it.
fn announce(progress: &Progress) {
    if let Progress::Entered { phase, .. } = progress {
        let _ = say(Said::Entered { phase: *phase });
    }
}

/// Not println!, which panics when the demonstration is gone.
fn say(what: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{what}")
}

const FIRST_BUILD: u32 = 1;
const ADOPTION_TIMEOUT: Duration = Duration::from_secs(30);
