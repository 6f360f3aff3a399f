//! A daemon whose next build has data of another format: `ledger CONTROL DATA 1` and `... 2` are the
//! two builds. It appends each line of a client to a log and answers with the log's length. The second
//! build converts the log while the first one serves on; its supervisor has to allow a one-way swap.

mod log;

use std::io::{self, BufReader, prelude::*};
use std::{env, net::TcpListener, net::TcpStream, sync::Arc, thread, time::Duration};

use handoff::daemon::{Daemon, Opening};
use handoff::migration::Migration;
use handoff::{Drainable, Gate};
use log::{Import, Log};
use rustix::event::{PollFd, PollFlags, poll};

#[derive(Drainable)]
#[handoff(format = 2, reads = 1..=2)]
struct Ledger {
    #[handoff(gate)]
    gate: Arc<Gate>,
    log: Arc<Log>,
}

/// The build before, which has its log in the data directory itself.
#[derive(Drainable)]
struct OldLedger {
    #[handoff(gate)]
    gate: Arc<Gate>,
    log: Arc<Log>,
}

fn main() -> handoff::Result<()> {
    let [_, control, data, build] = &*Vec::from_iter(env::args()) else {
        panic!("ledger CONTROL DATA 1|2")
    };
    let daemon = Daemon::new(control, data);
    if build == "1" {
        return daemon.run(|_warm| Ok(()), open_old).map(|_ended| ());
    }
    daemon.run(|warm| convert_ahead(warm.data_dir()), open).map(|_ended| ())
}

fn convert_ahead(data: &std::path::Path) -> handoff::Result<(Migration, Import)> {
    let mut import = Import::default();
    let migration = Migration::ahead(data, 2, |round| import.round(round))?;
    Ok((migration.keep_previous(PROBATION), import))
}

fn open(
    (migration, mut import): (Migration, Import),
    opening: &mut Opening<'_>,
) -> handoff::Result<Ledger> {
    let directory = migration.finish(opening, |round| import.round(round))?;
    let log = Arc::new(Log::open(&directory, 2, import)?);
    let converted = Arc::clone(&log);
    opening.on_commit(move || {
        converted.forget_the_conversion();
        Ok(())
    });
    Ok(Ledger { gate: serve(opening, &log)?, log })
}

fn open_old((): (), opening: &mut Opening<'_>) -> handoff::Result<OldLedger> {
    let log = Arc::new(Log::open(opening.data_dir(), 1, Import::default())?);
    Ok(OldLedger { gate: serve(opening, &log)?, log })
}

fn serve(opening: &mut Opening<'_>, log: &Arc<Log>) -> handoff::Result<Arc<Gate>> {
    let (gate, listener) = (Arc::new(Gate::new()), opening.listeners().take_tcp("ledger")?);
    let (inside, log) = (Arc::clone(&gate), Arc::clone(log));
    thread::spawn(move || accept(&inside, &listener, &log));
    Ok(gate)
}

fn accept(gate: &Arc<Gate>, listener: &TcpListener, log: &Arc<Log>) {
    loop {
        let Ok(_) = poll(&mut [PollFd::new(listener, PollFlags::IN)], None) else { continue };
        let accepted = gate.enter_blocking(None).map(|_pass| listener.accept());
        let Ok(Ok((client, _))) = accepted else {
            thread::sleep(Duration::from_millis(10)); // most likely no descriptor is left
            continue;
        };
        let (gate, log) = (Arc::clone(gate), Arc::clone(log));
        let answer = move || answer(&gate, &client, &log).map_err(|error| eprintln!("{error}"));
        drop(thread::Builder::new().spawn(answer)); // without a thread the client is closed
    }
}

fn answer(gate: &Gate, mut client: &TcpStream, log: &Log) -> io::Result<()> {
    client.set_write_timeout(Some(Duration::from_secs(1)))?; // a drain waits for each reply
    let (mut input, mut line) = (BufReader::new(client), Vec::new());
    while input.by_ref().take(1 << 16).read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        let _pass = gate.enter_blocking(None).map_err(io::Error::other)?;
        client.write_all(format!("{}\n", log.append(&line)?).as_bytes())?;
        line.clear();
    }
    Ok(())
}

const PROBATION: Duration = Duration::from_secs(3600);
