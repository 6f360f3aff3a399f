//! A daemon on threads: it appends each line of a client to a log, and answers with the length of
//! the log once the line is on the disk. A supervisor starts it, and holds its listener, `notes`.
//! A process that was replaced closes its connections as it ends, between two requests: the client
//! of a busy connection and of an idle one reads the end of the stream after its last number (or a
//! reset, if it has sent more). It connects again, and repeats the lines that have no number.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::{env, fs::File, path::PathBuf, sync::Arc, sync::Mutex, thread, time::Duration};

use handoff::{Drainable, Gate, Shard, daemon::Daemon, daemon::Opening, drainable::digest_file};
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::{consts::SIGTERM, iterator::Signals};

#[derive(Clone, Drainable)]
struct Notes {
    #[handoff(gate)]
    gate: Arc<Gate>, // each request holds a pass of it; a drain closes it
    log: Arc<Log>, // a shard: the old process seals it, the new one verifies it
}

struct Log {
    path: PathBuf,
    file: Mutex<Option<File>>, // none while the log is sealed
}

impl Shard for Log {
    fn seal(&self) -> handoff::Result<u64> {
        *self.file.lock().expect("no writer panics") = None; // `append` has synced each line
        Ok(self.revision())
    }

    fn revision(&self) -> u64 {
        self.path.metadata().map_or(0, |metadata| metadata.len())
    }

    fn fingerprint(&self) -> handoff::Result<[u8; 32]> {
        digest_file(&self.path) // reads the whole log
    }

    fn resume(&self) -> handoff::Result<()> {
        let file = File::options().create(true).append(true).open(&self.path)?;
        *self.file.lock().expect("no writer panics") = Some(file);
        Ok(())
    }
}

fn main() -> handoff::Result<()> {
    let [_, control, data] = &*Vec::from_iter(env::args()) else { panic!("notes CONTROL DATA") };
    Daemon::new(control, data).run(|_warm| Ok(()), open).map(|_ended| ())
}

fn open((): (), opening: &mut Opening<'_>) -> handoff::Result<Notes> {
    let log = Log { path: opening.data_dir().join("notes.log"), file: Mutex::default() };
    log.resume()?; // this process is the only writer, from here on
    let notes = Notes { gate: Arc::default(), log: Arc::new(log) };
    let (server, listener) = (notes.clone(), opening.listeners().take_tcp("notes")?);
    thread::spawn(move || server.accept(&listener)); // the gate opens after the commit
    let (stop, mut signals) = (opening.stop_handle(), Signals::new([SIGTERM])?);
    thread::spawn(move || signals.forever().for_each(|_| stop.stop()));
    Ok(notes)
}

impl Notes {
    fn accept(&self, listener: &TcpListener) {
        loop {
            let Ok(_) = poll(&mut [PollFd::new(listener, PollFlags::IN)], None) else { continue };
            let accepted = self.gate.enter_blocking(None).map(|_pass| listener.accept());
            let Ok(Ok((client, _))) = accepted else {
                thread::sleep(Duration::from_millis(10)); // most likely no descriptor is left
                continue;
            };
            let notes = self.clone();
            let serve = move || notes.serve(&client).map_err(|error| eprintln!("notes: {error}"));
            drop(thread::Builder::new().spawn(serve)); // without a thread the client is closed
        }
    }

    fn serve(&self, mut client: &TcpStream) -> io::Result<()> {
        let mut input = BufReader::new(client);
        loop {
            let mut line = Vec::new();
            input.by_ref().take(1 << 16).read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                return Ok(()); // the client has left, or its line is too long
            }
            let _pass = self.gate.enter_blocking(None).map_err(io::Error::other)?;
            let length = self.append(&line)?;
            client.write_all(format!("{length}\n").as_bytes())?;
        }
    }

    fn append(&self, line: &[u8]) -> io::Result<u64> {
        let mut file = self.log.file.lock().expect("no writer panics");
        let file = file.as_mut().ok_or_else(|| io::Error::other("the log is sealed"))?;
        file.write_all(line).and_then(|()| file.sync_data())?;
        Ok(file.metadata()?.len())
    }
}
