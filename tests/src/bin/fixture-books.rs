//! A daemon for the power-cut test: two logs, of which one is durable with each acknowledgement.
//!
//! `fixture-books serve CONTROL DATA REQUESTS [FAULT]` serves requests at the Unix socket REQUESTS.
//! With the fault `open` its opening fails; with `hang` it does not end; with `forget` it forgets
//! that a sync has failed; with `migrates` it writes format 2, and makes the durable file `migrated` once it
//! has committed. Without REQUESTS it serves none. `fixture-books edit DATA KEY` changes
//! the data offline, and `fixture-books repair DATA` repairs the directory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use handoff::daemon::{Daemon, Opening};
use handoff::{DataDirLock, Fencing, Result, StopHandle};
use handoff_tests::books::{Books, FORMAT, Keeps};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_writer(io::stderr).init();
    // Nothing that a test forgot lives for long.
    thread::spawn(|| {
        thread::sleep(MAX_LIFETIME);
        std::process::exit(1);
    });
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ended = match args[..] {
        ["serve", control, data] => serve(control, data, PathBuf::new(), ""),
        ["serve", control, data, requests] => serve(control, data, requests.into(), ""),
        ["serve", control, data, requests, fault] => serve(control, data, requests.into(), fault),
        ["edit", data, key] => edit(Path::new(data), key),
        ["repair", data] => DataDirLock::repair(Path::new(data)),
        _ => Err(io::Error::other("the arguments are wrong").into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fixture-books: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(control: &str, data: &str, requests: PathBuf, fault: &str) -> Result<()> {
    FORMAT.store(if fault == "migrates" { 2 } else { 1 }, Ordering::Relaxed);
    Daemon::new(control, data)
        .build_id("books")
        .run(
            |_| Ok(()),
            |(), opening| {
                if fault == "open" {
                    return Err(io::Error::other("the opening fails as planned").into());
                }
                if fault == "hang" {
                    thread::sleep(MAX_LIFETIME);
                }
                let books = Books::open(opening.data_dir())?;
                if fault == "migrates" {
                    let data = opening.data_dir().to_owned();
                    opening.on_commit(move || {
                        File::create(data.join("migrated"))?.sync_all()?;
                        Ok(File::open(&data)?.sync_all()?)
                    });
                }
                if fault == "forget" {
                    books.forget();
                }
                stop_on_signal(opening.stop_handle())?;
                if !requests.as_os_str().is_empty() {
                    listen(requests, opening, &books)?;
                }
                Ok(books)
            },
        )
        .map(drop)
}

/// `SIGTERM` stops the daemon cleanly.
fn stop_on_signal(stop: StopHandle) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        signal(SignalKind::terminate())?
    };
    thread::spawn(move || {
        runtime.block_on(signals.recv());
        stop.stop();
    });
    Ok(())
}

/// Serves requests from here on, as far as the gate lets them in.
fn listen(path: PathBuf, opening: &Opening<'_>, books: &Books) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    let desk = Desk {
        books: books.clone(),
        fencing: opening.lock().fencing(),
        stop: opening.stop_handle(),
    };
    thread::spawn(move || {
        for stream in listener.incoming().filter_map(io::Result::ok) {
            let desk = desk.clone();
            thread::spawn(move || desk.serve(stream));
        }
    });
    Ok(())
}

#[derive(Clone)]
struct Desk {
    books: Books,
    fencing: Fencing,
    stop: StopHandle,
}

impl Desk {
    fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let mut requests = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        let mut line = String::new();
        while requests.read_line(&mut line)? > 0 {
            let answer = self.answer(line.trim_end());
            let words = answer.unwrap_or_else(|error| format!("error {error}"));
            writeln!(stream, "{}", words.replace('\n', " "))?;
            line.clear();
        }
        Ok(())
    }

    fn answer(&self, request: &str) -> Result<String> {
        match request.split_once(' ').unwrap_or((request, "")) {
            ("put", key) => self.books.put(Keeps::AtOnce, key)?,
            ("note", key) => self.books.put(Keeps::Later, key)?,
            ("token", _) => return Ok(self.fencing.token()?.to_string()),
            ("late", _) => self.books.be_late(),
            ("stop", _) => self.stop.stop(),
            _ => return Err(io::Error::other(format!("what is {request:?}?")).into()),
        }
        Ok("ok".to_owned())
    }
}

/// Changes the data durably, as a program does that works offline.
fn edit(data: &Path, key: &str) -> Result<()> {
    let _lock = DataDirLock::acquire(data)?;
    let books = Books::open(data)?;
    books.book(Keeps::AtOnce).put(key)?;
    println!("edited");
    Ok(())
}

const MAX_LIFETIME: Duration = Duration::from_secs(600);
