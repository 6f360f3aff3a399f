//! The demonstration's supervisor, a process of its own: it binds the listener, starts the
//! first build, and swaps as the lines on its standard input say. At their end it ends the
//! server.

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::PathBuf;

use crate::BoxError;
use crate::report::{Order, Started};
use crate::swap::Supervised;

/// `kvd supervise`.
pub(crate) struct SuperviseOptions {
    pub(crate) data: PathBuf,
    pub(crate) control: PathBuf,
}

pub(crate) fn supervise(options: &SuperviseOptions) -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // Here and nowhere else: every build shares the listener's flags.
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;

    let mut supervised = Supervised::start(options, listener)?;
    // Not println!, which panics when the demonstration is gone.
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", Started { address, build: FIRST_BUILD, pid: supervised.pid() })?;
    for line in io::stdin().lines() {
        let order: Order = line?.parse()?;
        writeln!(stdout, "{}", supervised.swap(&order)?)?;
    }
    Ok(())
}

pub(crate) const FIRST_BUILD: u32 = 1;
