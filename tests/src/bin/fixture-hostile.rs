//! A process that has connections to a daemon's control socket and means no good.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use handoff::frame::write_message;
use handoff::protocol::{HandoffId, Message, PROTO_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        [control, "listen"] => listen(Path::new(control)),
        [control, "crowd", count] => crowd(Path::new(control), number(count)),
        [control, "hoard", count, length] => {
            hoard(Path::new(control), number(count), number(length))
        }
        [control, "mute", count, what] => mute(Path::new(control), number(count), what),
        _ => Err(io::Error::other(format!("what is {args:?}?"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Connects and says how much it is told before the connection is closed.
fn listen(control: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut told = Vec::new();
    match stream.read_to_end(&mut told) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error),
        _ => println!("connected, and told {} bytes", told.len()),
    }
    Ok(())
}

/// Keeps that many connections: silent, in the middle of a greeting, greeted and talking, and
/// in the middle of a frame. One that is closed is replaced at once, until standard input ends.
fn crowd(control: &Path, count: usize) -> io::Result<()> {
    raise_limit();
    let mut crowd = Vec::new();
    for index in 0..count {
        crowd.push(one_of_a_crowd(control, index)?);
    }
    println!("open");
    let begun = Instant::now();
    let mut replaced = 0;
    while begun.elapsed() < TIMEOUT && !is_over()? {
        for (index, stream) in crowd.iter_mut().enumerate() {
            let is_lost = match index % 4 {
                2 => stream.write_all(&frame(&Message::Heartbeat { ts_ms: 1 })).is_err(),
                _ => matches!(ready(stream, PollFlags::RDHUP), Ok(true)),
            };
            if is_lost {
                *stream = one_of_a_crowd(control, index)?;
                replaced += 1;
            }
            let _ = stream.set_nonblocking(true);
            while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
            let _ = stream.set_nonblocking(false);
        }
    }
    println!("replaced {replaced}");
    Ok(())
}

fn one_of_a_crowd(control: &Path, index: usize) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let ack = ack();
    let said = match index % 4 {
        0 => Vec::new(),
        1 => ack[..ack.len() - 1].to_vec(),
        2 => ack,
        _ => [&ack[..], &[200, 0, 0, 0, 1, 0]].concat(),
    };
    // It may have been closed already.
    let _ = stream.write_all(&said);
    Ok(stream)
}

/// Opens that many connections, one after the other, each with the beginning of a frame of
/// that length, and keeps them until standard input ends.
fn hoard(control: &Path, count: usize, length: usize) -> io::Result<()> {
    raise_limit();
    let mut streams = Vec::new();
    let prefix = u32::try_from(length).map_err(io::Error::other)?.to_le_bytes();
    let said = [&ack()[..], &prefix[..], &vec![0; length - 1]].concat();
    for _ in 0..count {
        let mut stream = UnixStream::connect(control)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let _ = stream.write_all(&said);
        streams.push(stream);
    }
    println!("open");
    while !is_over()? {}
    Ok(())
}

/// Opens that many connections that ask side by side and never read, until all are closed.
fn mute(control: &Path, count: usize, what: &str) -> io::Result<()> {
    raise_limit();
    let handoff_id = HandoffId::new();
    let asked = match what {
        "adopt" => frame(&Message::Adopt { handoff_id }),
        _ => frame(&Message::Heartbeat { ts_ms: 1 }),
    };
    let asked = asked.repeat(A_ROUND);
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = UnixStream::connect(control)?;
        let _ = stream.write_all(&ack());
        stream.set_nonblocking(true)?;
        streams.push((stream, asked.len(), false));
    }
    let begun = Instant::now();
    while streams.iter().any(|(.., is_closed)| !is_closed) {
        if begun.elapsed() > TIMEOUT {
            return Err(io::Error::other("they are not closed"));
        }
        for (stream, sent, is_closed) in streams.iter_mut().filter(|(.., closed)| !closed) {
            *sent = if *sent == asked.len() { 0 } else { *sent };
            match stream.write(&asked[*sent..]) {
                Ok(length) => *sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => *is_closed = true,
            }
        }
    }
    println!("all are closed");
    while !is_over()? {}
    Ok(())
}

fn ack() -> Vec<u8> {
    frame(&Message::HelloAck { proto_version_chosen: PROTO_MAX, handoff_id: HandoffId::new() })
}

fn frame(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_message(&mut bytes, PROTO_MAX, message).expect("a vector takes it");
    bytes
}

/// Whether standard input has ended; waits a little for that.
fn is_over() -> io::Result<bool> {
    ready(&io::stdin(), PollFlags::IN)
}

fn ready(what: &impl std::os::fd::AsFd, flags: PollFlags) -> io::Result<bool> {
    let pause = if flags == PollFlags::IN { Duration::from_millis(1) } else { Duration::ZERO };
    let pause = Timespec::try_from(pause).map_err(io::Error::other)?;
    Ok(poll(&mut [PollFd::new(what, flags)], Some(&pause))? > 0)
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_default()
}

fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

const TIMEOUT: Duration = Duration::from_secs(60);
const A_ROUND: usize = 32;
