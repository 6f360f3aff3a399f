//! A daemon for the benches of what carrying costs and of scale: tokio, and one task a connection.
//!
//! `bench-carrier serve CONTROL DATA MEMORY SHARDS LOG` carries its connections, and MEMORY bytes
//! that its first process has written. It has so many shards that do nothing, and, where LOG is not
//! zero, a log that is so long at first and grows by a byte with every request. A request is one
//! byte; see [`Client::reply`] for the answer.
//!
//! `bench-carrier bare-receive COUNT` is what it is compared with: it says on standard input, a
//! socket, that it runs, receives so many descriptors there, and says so.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use handoff::carry::{Arrival, Carried, Connections, Memory, MemoryWriter, SealedMemory, Ticket};
use handoff::daemon::{Daemon, Opening};
use handoff::drainable::RollingDigest;
use handoff::{Gate, Shard};
use handoff_tests::log::Log;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ended = match args[..] {
        ["serve", control, data, memory, shards, log] => {
            match (memory.parse(), shards.parse(), log.parse()) {
                (Ok(memory), Ok(shards), Ok(log)) => {
                    serve(control.as_ref(), data.as_ref(), &Load { memory, shards, log })
                }
                _ => Err(io::Error::other("how much memory, how many shards, how long?").into()),
            }
        }
        ["bare-receive", count] => match count.parse() {
            Ok(count) => receive(count).map_err(handoff::Error::from),
            Err(_) => Err(io::Error::other("how many descriptors?").into()),
        },
        _ => {
            Err(io::Error::other("serve CONTROL DATA MEMORY SHARDS LOG, or bare-receive COUNT")
                .into())
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-carrier: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Load {
    memory: usize,
    shards: usize,
    log: u64,
}

#[derive(handoff::Drainable)]
struct Carrier {
    #[handoff(gate)]
    gate: Arc<Gate>,
    #[handoff(carry)]
    clients: Arc<Connections<Client>>,
    #[handoff(carry)]
    cache: Memory,
    log: Option<Arc<Log>>,
    shards: Vec<Nothing>,
}

/// A shard that has nothing to do.
struct Nothing;

impl Shard for Nothing {
    fn seal(&self) -> handoff::Result<u64> {
        Ok(1)
    }

    fn revision(&self) -> u64 {
        1
    }

    fn fingerprint(&self) -> handoff::Result<[u8; 32]> {
        Ok([7; 32])
    }

    fn resume(&self) -> handoff::Result<()> {
        Ok(())
    }
}

/// What a connection is parked with.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Client {
    served: u64,
    unparsed: Vec<u8>,
}

impl Carried for Client {
    const NAME: &'static str = "bench.client";
    const VERSION: u32 = 1;
}

fn serve(control: &Path, data: &Path, load: &Load) -> handoff::Result<()> {
    raise_limit()?;
    // Nothing that a bench which was killed has left lives for long.
    thread::spawn(|| {
        thread::sleep(MAX_LIFETIME);
        std::process::exit(1);
    });
    let mut runtime = None;
    Daemon::new(control, data).run(
        |_| {
            let runtime = runtime.insert(Runtime::new()?).handle().clone();
            let path = data.join("log");
            if load.log > 0 && !path.exists() {
                // Zero bytes, which take no place on the disk.
                File::create(&path)?.set_len(load.log)?;
            }
            let digest = if load.log > 0 { Log::read_ahead(&path)? } else { RollingDigest::new() };
            Ok((runtime, digest))
        },
        |(runtime, digest), opening| open(&runtime, digest, opening, load),
    )?;
    Ok(())
}

fn open(
    runtime: &Handle,
    digest: RollingDigest,
    opening: &mut Opening<'_>,
    &Load { memory, shards, log }: &Load,
) -> handoff::Result<Carrier> {
    let path = opening.data_dir().join("log");
    let log = (log > 0).then(|| Log::open(&path, digest)).transpose()?.map(Arc::new);
    let cache = opening.memory(CACHE)?;
    let sum = match cache.get(PAGES) {
        Some(pages) => sum_of_pages(&pages),
        None if opening.is_successor() || memory == 0 => 0,
        None => {
            cache.put(PAGES, write_pages(memory)?);
            sum_of_written(memory)
        }
    };
    let gate = Arc::new(Gate::new());
    let clients = Arc::new(Connections::new());
    let server =
        Arc::new(Server { gate: gate.clone(), clients: clients.clone(), log: log.clone(), sum });
    let listener = opening.listeners().take_tcp("main")?;
    let _in_runtime = runtime.enter();
    runtime.spawn(server.clone().accept(TcpListener::from_std(listener)?));
    runtime.spawn(server.serve_arrivals());
    let shards = (0..shards).map(|_| Nothing).collect();
    Ok(Carrier { gate, clients, cache, log, shards })
}

struct Server {
    gate: Arc<Gate>,
    clients: Arc<Connections<Client>>,
    log: Option<Arc<Log>>,
    /// Of the memory, as this process sees it.
    sum: u64,
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            self.gate.opened().await;
            let mut closed = pin!(self.gate.closed());
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = &mut closed => break,
                    accepted = listener.accept() => accepted,
                };
                if let Ok((stream, address)) = accepted {
                    let ticket = self.clients.enter(address.to_string());
                    tokio::spawn(self.clone().serve(stream, Client::default(), ticket));
                }
            }
        }
    }

    async fn serve_arrivals(self: Arc<Self>) {
        loop {
            let Arrival { descriptor, state, ticket } = self.clients.arrival().await;
            let server = self.clone();
            // Registered by the task itself, so that all threads of the runtime take part.
            tokio::spawn(async move {
                if let Ok(stream) = TcpStream::from_std(descriptor.into()) {
                    server.serve(stream, state, ticket).await;
                }
            });
        }
    }

    /// Returns when the client has closed, or has lost the connection.
    async fn serve(
        self: Arc<Self>,
        mut stream: TcpStream,
        mut client: Client,
        ticket: Ticket<Client>,
    ) {
        let mut closed = pin!(ticket.told_to_park());
        loop {
            if client.unparsed.is_empty() {
                let mut request = [0];
                let read = tokio::select! {
                    biased;
                    () = &mut closed => None,
                    read = stream.read(&mut request) => Some(read),
                };
                match read {
                    None => break,
                    Some(Ok(0) | Err(_)) => return,
                    Some(Ok(_)) => client.unparsed.push(request[0]),
                }
            }
            let Ok(_pass) = self.gate.enter() else { break };
            if self.log.as_ref().is_some_and(|log| log.append(&client.unparsed).is_err()) {
                return;
            }
            client.unparsed.clear();
            client.served += 1;
            if stream.write_all(&client.reply(self.sum)).await.is_err() {
                return;
            }
            ticket.served();
        }
        if let Ok(stream) = stream.into_std() {
            ticket.park(stream, client);
        }
    }
}

impl Client {
    /// Three little-endian words: who answers, how many answers this connection has had, however
    /// many processes gave them, and the sum of the memory.
    fn reply(&self, sum: u64) -> [u8; 24] {
        let mut reply = [0; 24];
        let words = [u64::from(std::process::id()), self.served, sum];
        for (place, word) in reply.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        reply
    }
}

fn write_pages(memory: usize) -> handoff::Result<SealedMemory> {
    let mut writer = MemoryWriter::new()?;
    for number in 0..memory / PAGE {
        writer.write_all(&page(number))?;
    }
    Ok(writer.seal()?)
}

/// No two pages are alike.
fn page(number: usize) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for (index, word) in page.chunks_exact_mut(8).enumerate() {
        let mixed = (number * PAGE + index) as u64;
        word.copy_from_slice(&mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    page
}

/// Of some pages, the first and the last among them.
fn sum_of_pages(memory: &[u8]) -> u64 {
    let chosen = chosen_pages(memory.len());
    chosen.map(|number| sum(&memory[number * PAGE..(number + 1) * PAGE])).fold(0, mix)
}

/// What [`sum_of_pages`] is of memory that was written, without a look at it.
fn sum_of_written(memory: usize) -> u64 {
    chosen_pages(memory).map(|number| sum(&page(number))).fold(0, mix)
}

fn chosen_pages(memory: usize) -> impl Iterator<Item = usize> {
    let last = memory / PAGE - 1;
    (0..CHOSEN).map(move |nth| last * nth / (CHOSEN - 1))
}

fn sum(page: &[u8]) -> u64 {
    page.iter().fold(0, |sum, byte| mix(sum, u64::from(*byte)))
}

fn mix(sum: u64, value: u64) -> u64 {
    (sum ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(7)
}

fn receive(count: usize) -> io::Result<()> {
    raise_limit()?;
    let mut peer = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut received: Vec<OwnedFd> = Vec::with_capacity(count);
    peer.write_all(&[0])?;
    while received.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut bytes = [IoSliceMut::new(&mut byte)];
        if recvmsg(&peer, &mut bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                received.extend(descriptors);
            }
        }
    }
    peer.write_all(&[0])?;
    // Until the clock was read: what is closed here is not of the measurement.
    peer.read_exact(&mut [0])
}

fn raise_limit() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

const CACHE: &str = "cache";
const PAGES: &str = "pages";
const PAGE: usize = 4096;
const CHOSEN: usize = 64;
const MAX_LIFETIME: Duration = Duration::from_secs(180);
