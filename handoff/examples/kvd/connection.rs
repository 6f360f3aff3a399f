//! Connections: accepted while the gate is open, served request by request, and left at a
//! request boundary when it closes.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use handoff::Gate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::command::Command;
use crate::execute::Pipeline;
use crate::resp;
use crate::store::Store;

/// What every connection needs.
pub(crate) struct Server {
    pub(crate) build: u32,
    pub(crate) gate: Arc<Gate>,
    pub(crate) store: Store,
    pub(crate) connections: Arc<Connections>,
}

impl Server {
    /// Accepts while the gate is open; on and on, since after a swap that was given up this
    /// process is the one that serves.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            self.gate.opened().await;
            let mut closed = pin!(self.gate.closed());
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = &mut closed => break,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, _)) => {
                        let server = Arc::clone(&self);
                        let token = self.connections.token();
                        tokio::spawn(async move {
                            // An error is the client's: it reset the connection.
                            let _ = server.serve(stream).await;
                            drop(token);
                        });
                    }
                    // Out of descriptors, most likely: some come back as clients leave.
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = BytesMut::new();
        let mut closed = pin!(self.gate.closed());
        loop {
            tokio::select! {
                biased;
                () = &mut closed => return leave(stream).await,
                read = stream.read_buf(&mut input) => if read? == 0 { return Ok(()) },
            }
            let Requests { commands, then } = take_requests(&mut input);
            if commands.is_empty() && then == Then::GoOn {
                continue;
            }
            // From here to the end of the reply a drain waits for us. If the gate has closed,
            // none of these requests has begun, and the client may send them again.
            let Ok(pass) = self.gate.enter() else { return leave(stream).await };
            let mut pipeline = Pipeline::new(&self.store, self.build);
            for command in commands {
                match command {
                    Ok(command) => pipeline.push(command).await,
                    Err(refusal) => pipeline.reply(refusal),
                }
            }
            let mut output = BytesMut::new();
            for reply in pipeline.finish().await {
                resp::put_reply(&mut output, &reply)?;
            }
            // A client that does not read its replies may not hold up a drain.
            timeout(WRITE_LIMIT, stream.write_all(&output)).await??;
            drop(pass);
            if then == Then::Leave {
                return leave(stream).await;
            }
        }
    }
}

/// What was read, as far as it is whole.
struct Requests {
    commands: Vec<Result<Command, resp::Reply>>,
    then: Then,
}

#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Leave,
}

fn take_requests(input: &mut BytesMut) -> Requests {
    let mut commands = Vec::new();
    loop {
        match resp::take_request(input) {
            Ok(None) => return Requests { commands, then: Then::GoOn },
            Ok(Some(request)) => {
                let command = Command::parse(&request);
                let quits = command == Ok(Command::Quit);
                commands.push(command.map_err(resp::error));
                if quits {
                    return Requests { commands, then: Then::Leave };
                }
            }
            Err(error) => {
                commands.push(Err(resp::error(error)));
                return Requests { commands, then: Then::Leave };
            }
        }
    }
}

/// Closes a connection so that the client reads the end of the stream after the last reply.
/// Bytes that lie unread at `close` would make the kernel send a reset instead, which may
/// overtake that reply: so reading goes on until the client has closed too.
async fn leave(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut unwanted = vec![0; 4096];
    let drained = async {
        while stream.read(&mut unwanted).await? > 0 {}
        Ok(())
    };
    timeout(LINGER, drained).await?
}

/// Counts connections, so that a process that was replaced ends after them.
pub(crate) struct Connections(watch::Sender<()>);

impl Connections {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    /// Waits until every connection is closed; not longer than one is left open by a client.
    pub(crate) async fn ended(&self) {
        let _ = timeout(LINGER, self.0.closed()).await;
    }

    fn token(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const WRITE_LIMIT: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use super::*;

    /// A server whose gate is closed, as every server's is in the beginning.
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
                connections: Arc::new(Connections::new()),
            });
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(Arc::clone(&server).accept(listener));
            Self { server, address, _dir: dir }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }
    }

    async fn send(stream: &mut TcpStream, request: &str) {
        stream.write_all(request.as_bytes()).await.unwrap();
    }

    async fn expect(stream: &mut TcpStream, reply: &str) {
        let mut got = vec![0; reply.len()];
        timeout(LIMIT, stream.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), reply);
    }

    /// The end of the stream, and not a reset.
    async fn expect_end(stream: &mut TcpStream) {
        let mut rest = Vec::new();
        timeout(LIMIT, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, b"");
    }

    #[tokio::test]
    async fn when_the_gate_closes_connections_end_between_requests() {
        let fixture = Fixture::start().await;
        fixture.server.gate.open();
        let mut idle = fixture.connect().await;
        send(&mut idle, "SET k v\r\nGET k\r\n").await;
        expect(&mut idle, "+OK\r\n$1\r\nv\r\n").await;
        let mut unfinished = fixture.connect().await;
        send(&mut unfinished, "PING\r\nSET k w").await;
        expect(&mut unfinished, "+PONG\r\n").await;

        fixture.server.gate.close();
        expect_end(&mut idle).await;
        // What a client sends before it sees the end makes no reset of it.
        send(&mut unfinished, "wwww\r\n").await;
        expect_end(&mut unfinished).await;
        assert_eq!(fixture.server.gate.wait_empty(Instant::now()), 0);
        drop((idle, unfinished));
        timeout(LIMIT, fixture.server.connections.ended()).await.unwrap();
        assert_eq!(fixture.server.store.get(b"k").unwrap(), Some("v".into()));
    }

    #[tokio::test]
    async fn a_client_that_comes_while_the_gate_is_closed_is_served_once_it_opens() {
        let fixture = Fixture::start().await;
        for _ in 0..3 {
            let mut early = fixture.connect().await;
            send(&mut early, "PING\r\n").await;
            fixture.server.gate.open();
            expect(&mut early, "+PONG\r\n").await;
            fixture.server.gate.close();
            expect_end(&mut early).await;
        }
    }

    #[tokio::test]
    async fn a_request_that_finds_the_gate_closed_is_not_begun() {
        let fixture = Fixture::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        send(&mut client, "SET k v\r\n").await;
        let (accepted, _) = listener.accept().await.unwrap();
        let server = Arc::clone(&fixture.server);
        let serving = tokio::spawn(async move { server.serve(accepted).await });
        expect_end(&mut client).await;
        drop(client);
        serving.await.unwrap().unwrap();
        assert_eq!(fixture.server.store.get(b"k").unwrap(), None);
    }

    #[tokio::test]
    async fn a_connection_ends_after_quit_and_after_what_is_no_request() {
        let fixture = Fixture::start().await;
        fixture.server.gate.open();
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
    }

    const LIMIT: Duration = Duration::from_secs(10);
}
