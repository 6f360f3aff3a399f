//! A daemon on threads that appends each line of a client to a log, and answers with the log's
//! length once the line is on the disk. Its supervisor holds its listener, `notes`. A process that
//! was replaced closes its connections: a client connects again, and repeats unanswered lines.

use std::io::{self, BufReader, prelude::*};
use std::{env, fs::File, net::TcpListener, net::TcpStream, path::PathBuf};
use std::{sync::Arc, sync::Mutex, thread, time::Duration};

use handoff::{Drainable, Gate, Shard, daemon::Daemon, daemon::Opening, drainable::digest_file};
use rustix::event::{PollFd, PollFlags, poll};

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
        client.set_write_timeout(Some(Duration::from_secs(1)))?; // a drain waits for each reply
        let mut input = BufReader::new(client);
        loop {
            let mut line = Vec::new();
            input.by_ref().take(1 << 16).read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                return Ok(()); // the client has left, or its line is too long
            }
            let _pass = self.gate.enter_blocking(None).map_err(io::Error::other)?;
            client.write_all(format!("{}\n", self.append(&line)?).as_bytes())?;
        }
    }

    fn append(&self, line: &[u8]) -> io::Result<u64> {
        let mut file = self.log.file.lock().expect("no writer panics");
        let log = file.as_mut().ok_or_else(|| io::Error::other("the log is sealed"))?;
        let end = log.metadata()?.len(); // a write that fails leaves no half of a line behind
        let written = log.write_all(line).and_then(|()| log.sync_data());
        written.inspect_err(|_| drop(log.set_len(end)))?;
        Ok(end + line.len() as u64)
    }
}
