//! Connections. The server accepts them while the gate is open, serves them request by request,
//! and parks them between two requests when a drain begins. The process that serves next takes
//! them up where they stood.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use handoff::Gate;
use handoff::carry::{Arrival, Carried, Connections, Ticket};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::command::Command;
use crate::execute::Pipeline;
use crate::resp;
use crate::store::Store;

/// The state that all connections share.
pub(crate) struct Server {
    pub(crate) build: u32,
    pub(crate) gate: Arc<Gate>,
    pub(crate) store: Store,
    pub(crate) clients: Arc<Connections<Client>>,
}

/// The state that goes with a connection from one process to the next.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Client {
    /// Bytes that were read and not processed: a part of a request, or requests that found the gate
    /// closed.
    #[serde(with = "crate::blob")]
    input: Vec<u8>,
    /// Replies that the client did not take yet.
    #[serde(with = "crate::blob")]
    output: Vec<u8>,
    /// Whether the server closes the connection after these.
    ends: bool,
}

impl Carried for Client {
    const NAME: &'static str = "kvd.client";
    const VERSION: u32 = 1;
}

impl Server {
    /// Accepts whenever the gate is open. It never ends, since after a swap that was given up this
    /// process serves again.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            self.spawn(self.clients.accept(&self.gate, &listener).await);
        }
    }

    /// Takes up the connections of another process, and this process's own after a swap that was
    /// given up.
    pub(crate) async fn serve_arrivals(self: Arc<Self>) {
        loop {
            self.spawn(self.clients.arrival().await);
        }
    }

    fn spawn(self: &Arc<Self>, Arrival { descriptor, state, ticket }: Arrival<Client>) {
        match Connection::arrived(descriptor, state) {
            Ok(connection) => {
                tokio::spawn(Arc::clone(self).serve(connection, ticket));
            }
            Err(error) => eprintln!("kvd: a connection is closed: {error}"),
        }
    }

    async fn serve(self: Arc<Self>, mut connection: Connection, ticket: Ticket<Client>) {
        // An error is the client's: it reset the connection.
        let _ = match self.serve_until_told(&mut connection, &ticket).await {
            Ok(Ending::ToldToPark) if ticket.is_told_to_close() => connection.leave().await,
            Ok(Ending::ToldToPark) => connection.park(ticket),
            Ok(Ending::Left) => Ok(()),
            Err(error) => Err(error),
        };
    }

    async fn serve_until_told(
        &self,
        connection: &mut Connection,
        ticket: &Ticket<Client>,
    ) -> io::Result<Ending> {
        let mut told = pin!(ticket.told_to_park());
        loop {
            // Replies go out even when it is told to park, but a client that does not read
            // them may not hold a drain up.
            while !connection.output.is_empty() {
                tokio::select! {
                    biased;
                    written = connection.stream.write_buf(&mut connection.output) => written?,
                    () = &mut told => return Ok(Ending::ToldToPark),
                };
                ticket.served();
            }
            if connection.ends {
                return tokio::select! {
                    biased;
                    () = &mut told => Ok(Ending::ToldToPark),
                    left = leave(&mut connection.stream) => left.map(|()| Ending::Left),
                };
            }
            // The input may hold whole requests: the process before this one may have left
            // them.
            if !self.answer(connection).await? {
                return Ok(Ending::ToldToPark);
            }
            if !connection.output.is_empty() {
                continue;
            }
            connection.input.reserve(CHUNK);
            tokio::select! {
                biased;
                () = &mut told => return Ok(Ending::ToldToPark),
                read = connection.stream.read_buf(&mut connection.input) => {
                    if read? == 0 {
                        return Ok(Ending::Left);
                    }
                }
            }
        }
    }

    /// Does the whole requests in the input. Once the gate has closed it begins no further one: the
    /// request stays in the input, and the caller parks the connection, so that the process that
    /// admits work next finds it.
    async fn answer(&self, connection: &mut Connection) -> io::Result<bool> {
        let Ok(_pass) = self.gate.enter() else { return Ok(false) };
        let mut pipeline = Pipeline::new(&self.store, self.build);
        while self.gate.is_open() && !connection.ends {
            match resp::take_request(&mut connection.input) {
                Ok(None) => break,
                Ok(Some(request)) => match Command::parse(&request) {
                    Ok(command) => {
                        connection.ends = command == Command::Quit;
                        pipeline.push(command).await;
                    }
                    Err(refusal) => pipeline.reply(resp::error(refusal)),
                },
                Err(error) => {
                    connection.ends = true;
                    pipeline.reply(resp::error(error));
                }
            }
        }
        for reply in pipeline.finish().await {
            resp::put_reply(&mut connection.output, &reply)?;
        }
        Ok(true)
    }
}

/// A client's connection, as far as it has come.
struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    ends: bool,
}

/// Why a connection is no longer served.
enum Ending {
    /// The client has closed it, or the server has.
    Left,
    /// It is between two requests.
    ToldToPark,
}

impl Connection {
    fn new(stream: TcpStream, Client { input, output, ends }: Client) -> Self {
        Self { stream, input: BytesMut::from(&*input), output: BytesMut::from(&*output), ends }
    }

    fn arrived(descriptor: OwnedFd, client: Client) -> io::Result<Self> {
        let stream = TcpStream::from_std(descriptor.into())?;
        // Without it replies are only slower.
        let _ = stream.set_nodelay(true);
        Ok(Self::new(stream, client))
    }

    /// Gives it up, for the process that serves next.
    fn park(self, ticket: Ticket<Client>) -> io::Result<()> {
        let Self { stream, input, output, ends } = self;
        // From here on this process's runtime knows nothing of it.
        let stream = stream.into_std()?;
        ticket.park(stream, Client { input: input.into(), output: output.into(), ends });
        Ok(())
    }

    /// Closes it for good, with the replies that the client still takes.
    async fn leave(mut self) -> io::Result<()> {
        timeout(LINGER, self.stream.write_all(&self.output)).await??;
        leave(&mut self.stream).await
    }
}

/// Closes a connection so that the client reads the end of the stream after the last reply.
/// Bytes that lie unread at `close` would make the kernel send a reset instead, which may
/// overtake that reply: so this function reads until the client has closed too.
async fn leave(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut unwanted = vec![0; 4096];
    let drained = async {
        while stream.read(&mut unwanted).await? > 0 {}
        Ok(())
    };
    timeout(LINGER, drained).await?
}

/// A read has room for at least that many bytes.
const CHUNK: usize = 4 << 10;
/// How long a client is given to read its last replies and to close.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use super::*;

    /// A server whose gate is closed, as every server's is in the beginning. No handler takes an
    /// arrival in it: only the library allows that.
    struct Fixture {
        server: Arc<Server>,
        address: SocketAddr,
        _dir: tempfile::TempDir,
    }

    impl Fixture {
        async fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let server = Arc::new(Server {
                build: 1,
                gate: Arc::default(),
                store: Store::open(dir.path()).unwrap(),
                clients: Arc::default(),
            });
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(Arc::clone(&server).accept(listener));
            Self { server, address, _dir: dir }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        /// Waits until no connection has a handler.
        async fn wait_left(&self) {
            let clients = Arc::clone(&self.server.clients);
            let waiting = move || clients.wait_ended(Instant::now() + TIMEOUT);
            assert_eq!(tokio::task::spawn_blocking(waiting).await.unwrap(), 0);
        }

        fn get(&self, key: &[u8]) -> Option<bytes::Bytes> {
            self.server.store.get(key).unwrap()
        }
    }

    impl Server {
        /// As the library does when this process serves.
        fn open(&self) {
            self.gate.open();
            self.clients.open();
        }

        /// As a drain does.
        fn close(&self) {
            self.clients.close();
            self.gate.close();
        }
    }

    /// A connection that came from another process, and its client.
    async fn arrived(client: Client) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let descriptor = stream.into_std().unwrap().into();
        (Connection::arrived(descriptor, client).unwrap(), other)
    }

    async fn send(stream: &mut TcpStream, request: &str) {
        stream.write_all(request.as_bytes()).await.unwrap();
    }

    async fn expect(stream: &mut TcpStream, reply: &str) {
        let mut got = vec![0; reply.len()];
        timeout(TIMEOUT, stream.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), reply);
    }

    /// The end of the stream, and not a reset.
    async fn expect_end(stream: &mut TcpStream) {
        let mut rest = Vec::new();
        timeout(TIMEOUT, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, b"");
    }

    /// On loopback the end of a stream is there as soon as the other side has closed.
    fn expect_open(stream: TcpStream) {
        let nothing = stream.into_std().unwrap().peek(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn when_a_drain_begins_connections_are_parked_between_requests() {
        let fixture = Fixture::start().await;
        fixture.server.open();
        let mut idle = fixture.connect().await;
        send(&mut idle, "SET k v\r\nGET k\r\n").await;
        expect(&mut idle, "+OK\r\n$1\r\nv\r\n").await;
        let mut unfinished = fixture.connect().await;
        send(&mut unfinished, "PING\r\nSET k w").await;
        expect(&mut unfinished, "+PONG\r\n").await;
        assert_eq!(fixture.server.clients.live(), 2);

        fixture.server.close();
        fixture.wait_left().await;
        let clients = format!("{:?}", fixture.server.clients);
        assert!(clients.contains("parked: 2"), "{clients}");
        expect_open(idle);
        expect_open(unfinished);
        assert_eq!(fixture.server.gate.wait_empty(Instant::now()), 0);
        assert_eq!(fixture.get(b"k"), Some("v".into()));
    }

    #[tokio::test]
    async fn a_client_that_comes_while_the_gate_is_closed_is_served_once_it_opens() {
        let fixture = Fixture::start().await;
        for _ in 0..3 {
            let mut early = fixture.connect().await;
            send(&mut early, "PING\r\n").await;
            fixture.server.open();
            expect(&mut early, "+PONG\r\n").await;
            fixture.server.close();
            fixture.wait_left().await;
            expect_open(early);
        }
    }

    #[tokio::test]
    async fn a_request_that_finds_the_gate_closed_is_left_to_whoever_serves_next() {
        let Fixture { server, _dir, .. } = Fixture::start().await;
        let input = "SET k v\r\nGET k\r\nGET".as_bytes().to_vec();
        let whole = Client { input: input.clone(), ..Client::default() };
        let (mut connection, mut client) = arrived(whole).await;
        let ticket = server.clients.enter("test");
        server.clients.close();
        let ending = server.serve_until_told(&mut connection, &ticket).await.unwrap();
        assert!(matches!(ending, Ending::ToldToPark));
        assert_eq!(connection.input, input);
        assert_eq!(server.store.get(b"k").unwrap(), None);

        // It is answered although the client sends nothing more, and its rest with what comes.
        server.open();
        tokio::spawn(Arc::clone(&server).serve(connection, ticket));
        expect(&mut client, "+OK\r\n$1\r\nv\r\n").await;
        send(&mut client, " k\r\n").await;
        expect(&mut client, "$1\r\nv\r\n").await;
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_holds_up_no_drain_and_misses_nothing() {
        let Fixture { server, _dir, .. } = Fixture::start().await;
        server.open();
        let output: Vec<u8> = (0..LARGE).map(|n| b'a' + u8::try_from(n % 23).unwrap()).collect();
        let replies = Client { output: output.clone(), ends: true, ..Client::default() };
        let (mut connection, mut client) = arrived(replies).await;
        let ticket = server.clients.enter("test");
        for _ in 0..2 {
            let serving = server.serve_until_told(&mut connection, &ticket);
            let (ending, ()) = tokio::join!(timeout(TIMEOUT, serving), async {
                // It has something from this process, so the other side writes.
                client.readable().await.unwrap();
                server.close();
            });
            assert!(matches!(ending.unwrap().unwrap(), Ending::ToldToPark));
            assert!(!connection.output.is_empty(), "more fits into sockets than was thought");
            server.open();
        }
        tokio::spawn(Arc::clone(&server).serve(connection, ticket));
        let mut got = Vec::new();
        timeout(TIMEOUT, client.read_to_end(&mut got)).await.unwrap().unwrap();
        assert!(got == output, "{} of {} bytes", got.len(), output.len());
    }

    #[tokio::test]
    async fn a_connection_ends_after_quit_and_after_what_is_no_request() {
        let fixture = Fixture::start().await;
        fixture.server.open();
        let error = "-ERR Protocol error: invalid bulk length\r\n";
        for (request, replies) in [
            ("PING\r\nQUIT\r\nPING\r\n", "+PONG\r\n+OK\r\n"),
            ("PING\r\n*1\r\n$x\r\n", &format!("+PONG\r\n{error}")),
        ] {
            let mut client = fixture.connect().await;
            send(&mut client, request).await;
            expect(&mut client, replies).await;
            expect_end(&mut client).await;
        }
        fixture.wait_left().await;
    }

    const TIMEOUT: Duration = Duration::from_secs(10);
    /// More than lies in the buffers of two sockets.
    const LARGE: usize = 32 << 20;
}
