//! Clients: idle ones, which are asked once a swap, and busy ones, which ask again after every
//! answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use crate::daemon::TIMEOUT;

/// Connections to one daemon, and what they were answered.
pub(crate) struct Clients {
    idle: Vec<Client>,
    busy: Vec<Client>,
    /// What every process of the daemon has to say of its memory.
    sum: Option<u64>,
    pub(crate) faults: Faults,
}

/// What must not be.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) closed: usize,
    /// Answered by a process that was replaced.
    pub(crate) old: usize,
    /// Answered from a state that is not the one that was parked.
    pub(crate) state: usize,
    /// Answered from memory that is not what was put in.
    pub(crate) memory: usize,
}

impl std::ops::Add for Faults {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            closed: self.closed + other.closed,
            old: self.old + other.old,
            state: self.state + other.state,
            memory: self.memory + other.memory,
        }
    }
}

struct Client {
    stream: TcpStream,
    asked: u64,
    is_closed: bool,
}

struct Answer {
    pid: u32,
    served: u64,
    sum: u64,
}

impl Clients {
    /// Connects that many of each, all of which were answered once.
    pub(crate) fn connect(address: SocketAddr, idle: usize, busy: usize) -> io::Result<Self> {
        let connect = |count| (0..count).map(|_| Client::connect(address)).collect();
        let (idle, busy): (io::Result<_>, io::Result<_>) = (connect(idle), connect(busy));
        Ok(Self { idle: idle?, busy: busy?, sum: None, faults: Faults::default() })
    }

    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.idle.iter().chain(&self.busy).map(|client| client.stream.as_fd()).collect()
    }

    pub(crate) const fn len(&self) -> usize {
        self.idle.len() + self.busy.len()
    }

    /// Asks on every connection, and finds out whether process `pid` answers, from the state that
    /// the connection was left with.
    pub(crate) fn check(&mut self, pid: u32) {
        let Self { idle, busy, sum, faults } = self;
        let mut all: Vec<&mut Client> =
            idle.iter_mut().chain(busy).filter(|client| !client.is_closed).collect();
        for client in &mut all {
            if client.ask().is_err() {
                client.close(faults);
            }
        }
        for client in all.iter_mut().filter(|client| !client.is_closed) {
            match client.answer() {
                Ok(answer) => {
                    faults.old += usize::from(answer.pid != pid);
                    faults.state += usize::from(answer.served != client.asked);
                    faults.memory += usize::from(*sum.get_or_insert(answer.sum) != answer.sum);
                }
                Err(_) => client.close(faults),
            }
        }
    }

    /// Keeps the busy ones busy while `during` runs; how long each of them waited, from
    /// [`Watch::begin`] on.
    pub(crate) fn under_load<T>(
        &mut self,
        during: impl FnOnce(&Watch) -> T,
    ) -> io::Result<(T, Vec<Waited>)> {
        let Self { busy, faults, .. } = self;
        let watch = Watch { busy: busy.len(), ..Watch::default() };
        let share = busy.len().div_ceil(THREADS).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = busy
                .chunks_mut(share)
                .map(|share| scope.spawn(|| ask_on_and_on(share, &watch)))
                .collect();
            let result = during(&watch);
            watch.is_over.store(true, Ordering::SeqCst);
            let mut waited = Vec::new();
            for thread in threads {
                let (of_thread, closed) = thread.join().expect("it does not panic")?;
                waited.extend(of_thread);
                faults.closed += closed;
            }
            Ok((result, waited))
        })
    }
}

impl Client {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut client = Self { stream, asked: 0, is_closed: false };
        client.ask()?;
        client.answer()?;
        Ok(client)
    }

    fn ask(&mut self) -> io::Result<()> {
        self.stream.write_all(b"?")?;
        self.asked += 1;
        Ok(())
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let mut reply = [0; 24];
        self.stream.read_exact(&mut reply)?;
        let words: Vec<u64> = reply
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("it is of eight bytes")))
            .collect();
        let pid = words[0].try_into().map_err(|_| ErrorKind::InvalidData)?;
        Ok(Answer { pid, served: words[1], sum: words[2] })
    }

    const fn close(&mut self, faults: &mut Faults) {
        self.is_closed = true;
        faults.closed += 1;
    }
}

/// How long a connection waited for an answer, at the longest.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Waited {
    /// Between two answers of the old process.
    pub(crate) before: Duration,
    /// From the last answer of the old process to the first of the new one.
    pub(crate) pause: Duration,
    /// Between two answers of the new process.
    pub(crate) after: Duration,
}

impl Waited {
    /// Between any two answers.
    pub(crate) fn longest(&self) -> Duration {
        self.before.max(self.pause).max(self.after)
    }

    fn note(&mut self, gap: Duration, is_first_of_its_process: bool) {
        if is_first_of_its_process {
            self.pause = gap;
        } else if self.pause.is_zero() {
            self.before = self.before.max(gap);
        } else {
            self.after = self.after.max(gap);
        }
    }
}

/// What the busy clients are told, and tell, while they are busy.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    busy: usize,
    /// Counts and gaps begin anew with each.
    round: AtomicU32,
    /// The process whose answers are counted.
    pid: AtomicU32,
    /// How many clients have had enough of those.
    answered: AtomicUsize,
    is_over: AtomicBool,
}

impl Watch {
    /// Waits until every client gets answers from process `pid`, and forgets what was before.
    pub(crate) fn begin(&self, pid: u32) -> io::Result<()> {
        self.wait_answered(pid)?;
        self.pid.store(0, Ordering::SeqCst);
        self.answered.store(0, Ordering::SeqCst);
        self.round.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Waits until every client has had answers from process `pid` for a while.
    pub(crate) fn wait_answered(&self, pid: u32) -> io::Result<()> {
        self.pid.store(pid, Ordering::SeqCst);
        let deadline = Instant::now() + TIMEOUT;
        while self.answered.load(Ordering::SeqCst) < self.busy {
            if Instant::now() >= deadline {
                return Err(io::Error::other("busy connections are not answered"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// A busy client of one thread.
struct Busy<'a> {
    client: &'a mut Client,
    answered: Instant,
    by: Option<u32>,
    waited: Waited,
    /// Answers of the process that is watched.
    count: u32,
    waits: bool,
}

/// How long each waited, and how many connections were closed.
fn ask_on_and_on(clients: &mut [Client], watch: &Watch) -> io::Result<(Vec<Waited>, usize)> {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut busy = Vec::with_capacity(clients.len());
    let open = clients.iter_mut().filter(|client| !client.is_closed);
    for (index, client) in open.enumerate() {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&poller, &client.stream, data, epoll::EventFlags::IN)?;
        client.ask()?;
        let answered = Instant::now();
        let (by, waited) = (None, Waited::default());
        busy.push(Busy { client, answered, by, waited, count: 0, waits: true });
    }
    let (mut round, mut closed) = (0, 0);
    let mut events = Vec::with_capacity(busy.len().max(1));
    let deadline = Timespec::try_from(TIMEOUT).expect("it is short");
    while busy.iter().any(|busy| busy.waits) {
        events.clear();
        epoll::wait(&poller, rustix::buffer::spare_capacity(&mut events), Some(&deadline))?;
        if events.is_empty() {
            return Err(ErrorKind::TimedOut.into());
        }
        let current = watch.round.load(Ordering::SeqCst);
        if current != round {
            round = current;
            for busy in &mut busy {
                (busy.waited, busy.count) = (Waited::default(), 0);
            }
        }
        for event in &events {
            let index = usize::try_from(event.data.u64()).expect("it is an index");
            if busy[index].hear(watch).is_err() {
                let Busy { client, waits, .. } = &mut busy[index];
                epoll::delete(&poller, &client.stream)?;
                (client.is_closed, *waits) = (true, false);
                closed += 1;
                watch.answered.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    Ok((busy.iter().map(|busy| busy.waited).collect(), closed))
}

impl Busy<'_> {
    /// Takes an answer, and asks again.
    fn hear(&mut self, watch: &Watch) -> io::Result<()> {
        let answer = self.client.answer()?;
        let now = Instant::now();
        let is_another = self.by.replace(answer.pid).is_some_and(|last| last != answer.pid);
        self.waited.note(now - self.answered, is_another);
        self.answered = now;
        if answer.pid == watch.pid.load(Ordering::SeqCst) {
            self.count += 1;
            if self.count == ENOUGH_ANSWERS {
                watch.answered.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.waits = !watch.is_over.load(Ordering::SeqCst);
        if self.waits { self.client.ask() } else { Ok(()) }
    }
}

const THREADS: usize = 2;
/// After how many answers of a process the gap that its coming made is over.
const ENOUGH_ANSWERS: u32 = 50;
