//! An echo server on tokio: a swap closes no connection. Its supervisor holds its listener, `echo`.

use std::{env, future::poll_fn, io, pin::pin, sync::Arc, task::Poll, task::ready, time::Duration};

use handoff::carry::{Arrival, Carried, Connections};
use handoff::{Gate, daemon::Daemon, daemon::Opening};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};

#[derive(Clone, Default, handoff::Drainable)]
struct Echo {
    #[handoff(gate)]
    gate: Arc<Gate>,
    #[handoff(carry)]
    clients: Arc<Connections<Client>>,
}

#[derive(Default, Serialize, Deserialize)]
struct Client {
    unanswered: Vec<u8>,
}

impl Carried for Client {
    const NAME: &'static str = "echo.client";
    const VERSION: u32 = 1; // a build of version 2 reads it by `Connections::new().from::<ClientV1>()`
}

impl Echo {
    /// Serves a connection that was just accepted, or that came from the old process.
    async fn serve(self, arrival: Arrival<Client>) -> io::Result<()> {
        let Arrival { descriptor, state: mut client, ticket } = arrival;
        let mut tcp = TcpStream::from_std(descriptor.into())?;
        let mut told_to_park = pin!(ticket.told_to_park());
        'serving: loop {
            while let Some(end) = client.unanswered.iter().position(|byte| *byte == b'\n') {
                let Ok(_pass) = self.gate.enter() else { break 'serving };
                let reply = tcp.write_all(&client.unanswered[..=end]); // a drain waits for it
                tokio::time::timeout(Duration::from_secs(1), reply).await??;
                client.unanswered.drain(..=end);
                ticket.served(); // a drain parks idle connections before busy ones
            }
            tokio::select! {
                biased;
                () = &mut told_to_park => break,
                read = tcp.read_buf(&mut client.unanswered) =>
                    if read? == 0 || client.unanswered.len() > 1 << 16 { return tcp.shutdown().await },
            }
        }
        ticket.park(tcp.into_std()?, client); // the process that serves next answers the rest
        Ok(())
    }

    /// Serves the connections of the old process; after a swap that was undone, its own again.
    async fn serve_arrivals(self) {
        loop {
            let arrival = self.clients.arrival().await;
            tokio::spawn(self.clone().serve(arrival));
        }
    }
}

/// Gives each connection its ticket inside the gate, so that no drain overlooks it.
async fn accept(echo: Echo, listener: TcpListener) {
    loop {
        echo.gate.opened().await;
        let accepted = poll_fn(|context| {
            let _pass = echo.gate.enter().map_err(io::Error::other)?;
            let (tcp, address) = ready!(listener.poll_accept(context))?;
            let (descriptor, state) = (tcp.into_std()?.into(), Client::default());
            let ticket = echo.clients.enter(address.to_string());
            Poll::Ready(io::Result::Ok(Arrival { descriptor, state, ticket }))
        });
        match accepted.await {
            Ok(arrival) => drop(tokio::spawn(echo.clone().serve(arrival))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await, // out of descriptors?
        }
    }
}

fn open(runtime: Handle, opening: &mut Opening<'_>) -> handoff::Result<Echo> {
    let _inside = runtime.enter();
    let echo = Echo::default();
    let listener = TcpListener::from_std(opening.listeners().take_tcp("echo")?)?;
    tokio::spawn(accept(echo.clone(), listener));
    tokio::spawn(echo.clone().serve_arrivals());
    Ok(echo)
}

fn main() -> handoff::Result<()> {
    let [_, control, data] = &*Vec::from_iter(env::args()) else { panic!("echo CONTROL DATA") };
    let mut kept = None; // the runtime outlives the daemon's state
    Daemon::new(control, data).run(|_| Ok(kept.insert(Runtime::new()?).handle().clone()), open)?;
    Ok(())
}
