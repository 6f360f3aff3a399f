//! How the daemon takes requests, whatever hands it over: one thread that accepts, one task a
//! connection, `put KEY VALUE` answered with `ok N`.

use std::io;
use std::net::TcpListener;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use handoff::carry::{Arrival, Carried, Connections, Ticket};
use handoff::{Gate, OwnedPass};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::log::Log;

/// What was read of the next request.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Client {
    unparsed: Vec<u8>,
}

impl Carried for Client {
    const NAME: &'static str = "pause.client";
    const VERSION: u32 = 1;
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) log: Arc<Log>,
    pub(crate) gate: Arc<Gate>,
    /// Where connections are not carried, one holds the gate up for as long as it lives.
    pub(crate) carried: Option<Arc<Connections<Client>>>,
}

/// Why a conversation is over.
#[derive(PartialEq, Eq)]
enum Ended {
    Told,
    Closed,
}

impl Server {
    /// Accepts whenever the gate is open. The listener may be in blocking mode (one peer sees to
    /// that, for all processes that have it): this process accepts only what is there.
    pub(crate) fn start(self, runtime: &Handle, listener: TcpListener) {
        if let Some(clients) = &self.carried {
            runtime.spawn(serve_arrivals(self.clone(), clients.clone()));
        }
        let runtime = runtime.clone();
        thread::spawn(move || {
            loop {
                self.gate.wait_open(None);
                if let Err(error) = self.accept_one(&runtime, &listener) {
                    eprintln!("accept: {error}");
                    return;
                }
            }
        });
    }

    fn accept_one(&self, runtime: &Handle, listener: &TcpListener) -> io::Result<()> {
        poll(&mut [PollFd::new(listener, PollFlags::IN)], None)?;
        // A drain waits until what was accepted has a handler.
        let Ok(pass) = self.gate.enter_owned() else { return Ok(()) };
        let (stream, _) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let server = self.clone();
        match &self.carried {
            Some(clients) => {
                let ticket = clients.enter("client");
                runtime.spawn(async move {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        server.serve_carried(stream, Client::default(), ticket).await;
                    }
                });
            }
            None => {
                runtime.spawn(async move {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        server.serve_held(stream, pass).await;
                    }
                });
            }
        }
        Ok(())
    }

    /// Parks the connection when told to.
    async fn serve_carried(
        &self,
        mut stream: TcpStream,
        mut client: Client,
        ticket: Ticket<Client>,
    ) {
        let told = pin!(ticket.told_to_park());
        let enter = || {
            ticket.served();
            self.gate.enter().ok()
        };
        if let Ok(Ended::Told) = self.converse(&mut stream, &mut client.unparsed, told, enter).await
            && let Ok(stream) = stream.into_std()
        {
            ticket.park(stream, client);
        }
    }

    /// When told to, answers what has come already, and closes the connection.
    async fn serve_held(&self, mut stream: TcpStream, _pass: OwnedPass) {
        let mut unparsed = Vec::new();
        let told = pin!(self.gate.closed());
        if let Ok(Ended::Told) = self.converse(&mut stream, &mut unparsed, told, || Some(())).await
            && stream.try_read_buf(&mut unparsed).is_ok()
        {
            let told = pin!(std::future::ready(()));
            let _ = self.converse(&mut stream, &mut unparsed, told, || Some(())).await;
        }
    }

    async fn converse<P>(
        &self,
        stream: &mut TcpStream,
        unparsed: &mut Vec<u8>,
        mut told: Pin<&mut impl Future<Output = ()>>,
        enter: impl Fn() -> Option<P>,
    ) -> io::Result<Ended> {
        loop {
            while let Some(end) = unparsed.iter().position(|byte| *byte == b'\n') {
                let Some(_pass) = enter() else { return Ok(Ended::Told) };
                let request: Vec<u8> = unparsed.drain(..=end).collect();
                let reply = match request.strip_prefix(b"put ") {
                    Some(line) => format!("ok {}\n", self.log.append(line)?),
                    None => "what?\n".to_owned(),
                };
                stream.write_all(reply.as_bytes()).await?;
            }
            let read = tokio::select! {
                biased;
                () = &mut told => return Ok(Ended::Told),
                read = stream.read_buf(unparsed) => read?,
            };
            if read == 0 {
                return Ok(Ended::Closed);
            }
        }
    }

    /// Stops, as a daemon does whose connections are not carried: whoever is asked already
    /// answers, all connections are closed, the data is synced and closed.
    pub(crate) fn stop(&self, deadline: Instant) -> io::Result<u64> {
        self.gate.close();
        match self.gate.wait_empty(deadline) {
            0 => self.log.close(),
            left => Err(io::Error::other(format!("{left} connections do not end"))),
        }
    }
}

async fn serve_arrivals(server: Server, clients: Arc<Connections<Client>>) {
    loop {
        let Arrival { descriptor, state, ticket } = clients.arrival().await;
        let server = server.clone();
        tokio::spawn(async move {
            if let Ok(stream) = TcpStream::from_std(descriptor.into()) {
                server.serve_carried(stream, state, ticket).await;
            }
        });
    }
}
