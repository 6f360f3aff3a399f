//! HTTP/2 leaves: each client opens another connection after a GOAWAY, and no request fails.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::service::{Service, TIMEOUT, eventually};

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    answered: AtomicU64,
    opened: AtomicU64,
    /// Requests that hyper's client has dropped without a word.
    lost: AtomicU64,
}

/// A connection, and the word that it has ended.
#[derive(Clone)]
struct Client {
    sender: SendRequest<Empty<Bytes>>,
    ended: watch::Receiver<bool>,
}

async fn open(address: SocketAddr, seen: &Seen) -> Client {
    seen.opened.fetch_add(1, Ordering::SeqCst);
    let tcp = TcpStream::connect(address).await.expect("a connection is accepted");
    let made = in_time("a handshake", handshake(TokioExecutor::new(), TokioIo::new(tcp))).await;
    let (sender, connection) = made.expect("it speaks HTTP/2");
    let (tell, ended) = watch::channel(false);
    tokio::spawn(async move {
        let _ = connection.await;
        tell.send_replace(true);
    });
    Client { sender, ended }
}

type Asked = Result<Response<Incoming>, TrySendError<Request<Empty<Bytes>>>>;

impl Client {
    /// None where the connection has ended, and hyper has not told the request so: its client loses one
    /// that it sends in the moment in which it hears that the connection leaves.
    async fn ask(&mut self, request: Request<Empty<Bytes>>) -> Option<Asked> {
        let mut asked = pin!(self.sender.try_send_request(request));
        let ended = async {
            let _ = self.ended.wait_for(|ended| *ended).await;
            sleep(Duration::from_secs(1)).await;
        };
        tokio::select! {
            biased;
            asked = &mut asked => Some(asked),
            () = ended => None,
        }
    }
}

/// A client that waits for ever fails the test.
async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let timed = tokio::time::timeout(TIMEOUT, future).await;
    timed.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Whether the request was refused by a connection that has had a GOAWAY: nothing was sent.
fn leaves(error: &hyper::Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| {
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
    })
}

/// One request after the other on a connection; the number of those that failed.
async fn stream(
    address: SocketAddr,
    path: &str,
    mut client: Client,
    seen: Arc<Seen>,
) -> Vec<String> {
    let mut failed = Vec::new();
    while !seen.stop.load(Ordering::SeqCst) {
        let request = Request::get(format!("http://{address}{path}")).body(Empty::new());
        let request = request.expect("it is a request");
        if in_time("ready", client.sender.ready()).await.is_err() {
            client = open(address, &seen).await;
            continue;
        }
        let reply = match in_time("a reply", client.ask(request)).await {
            Some(Ok(reply)) => reply,
            None => {
                seen.lost.fetch_add(1, Ordering::SeqCst);
                client = open(address, &seen).await;
                continue;
            }
            Some(Err(mut error)) => {
                // One that was not sent is not a failed one: the connection leaves.
                if error.take_message().is_none() && !leaves(error.error()) {
                    failed.push(format!("{:?}", error.error()));
                }
                client = open(address, &seen).await;
                continue;
            }
        };
        let status = reply.status();
        match in_time("the body", reply.into_body().collect()).await {
            Ok(_) if status == 200 => {
                seen.answered.fetch_add(1, Ordering::SeqCst);
            }
            read => failed.push(format!("{status}: {read:?}")),
        }
    }
    failed
}

fn through_swaps(path: &'static str) {
    let runtime = Runtime::new().expect("it starts");
    let mut service = Service::start();
    let (address, seen) = (service.address, Arc::new(Seen::default()));
    let mut streams = Vec::new();
    for _client in 0..8 {
        let client = runtime.block_on(open(address, &seen));
        for _stream in 0..8 {
            let stream = stream(address, path, client.clone(), Arc::clone(&seen));
            streams.push(runtime.spawn(stream));
        }
    }
    for swap in 1..=20 {
        let enough = seen.answered.load(Ordering::SeqCst) + 100;
        eventually("requests are answered", || seen.answered.load(Ordering::SeqCst) >= enough);
        if swap % 10 == 7 {
            service.roll_back();
        } else {
            let (carried, _) = service.swap();
            assert_eq!(carried.late.connections, [""; 0], "all have left");
        }
    }
    seen.stop.store(true, Ordering::SeqCst);
    let mut failed = Vec::new();
    for stream in streams {
        failed.extend(runtime.block_on(stream).expect("it does not panic"));
    }
    let (answered, opened) =
        (seen.answered.load(Ordering::SeqCst), seen.opened.load(Ordering::SeqCst));
    println!("{answered} answered on {opened} connections");
    assert!(failed.is_empty(), "{} failed of {answered}: {:?}", failed.len(), &failed[..1]);
    assert!(opened > 8 * 18, "they have left");
    // The service answers each request that it has begun.
    let (lost, [accepted, begun]) = (seen.lost.load(Ordering::SeqCst), service.counts());
    assert_eq!(accepted, opened);
    assert!((answered..=answered + lost).contains(&begun), "{begun} begun, {answered} answered");
    assert!(lost <= 8 * 20, "{lost} lost: more than one for each connection and swap");
}

#[test]
fn no_request_fails_through_twenty_swaps() {
    through_swaps("/pid");
}

#[test]
fn no_reply_that_takes_a_while_is_cut_through_twenty_swaps() {
    through_swaps("/chunks/5/10");
}
