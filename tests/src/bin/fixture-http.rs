//! A service of axum: `fixture-http CONTROL DATA [unhealthy] [inside] [starved]`. Its requests are as
//! awkward as those of clients; each line that it is put is on the disk when it answers. `inside`: it
//! runs inside a runtime of tokio, and `starved`: of one that has one thread.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use handoff::carry::Carried;
use handoff::daemon::Daemon;
use handoff::drainable::digest_file;
use handoff::http::ws::{Message, Upgrade, WebSocket, WebSockets};
use handoff::http::{Http, Peer, Server};
use handoff::{Error, Gate, Result, Shard};
use handoff_tests::grpc::Texts;
use http_body::Frame;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Sleep, sleep};

#[derive(handoff::Drainable)]
struct App {
    #[handoff(serve)]
    http: Http,
    log: Log,
}

#[derive(Clone)]
struct Log(Arc<(PathBuf, Mutex<Option<File>>)>);

impl Log {
    fn append(&self, line: &str) -> io::Result<()> {
        let mut file = self.0.1.lock().unwrap_or_else(PoisonError::into_inner);
        let file = file.as_mut().ok_or_else(|| io::Error::other("the log is sealed"))?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_data()
    }
}

impl Shard for Log {
    fn seal(&self) -> Result<u64> {
        *self.0.1.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(self.revision())
    }

    fn revision(&self) -> u64 {
        fs::metadata(&self.0.0).map_or(0, |metadata| metadata.len())
    }

    fn fingerprint(&self) -> Result<[u8; 32]> {
        digest_file(&self.0.0)
    }

    fn resume(&self) -> Result<()> {
        let file = File::options().create(true).append(true).open(&self.0.0)?;
        *self.0.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }
}

fn main() -> Result<()> {
    let runtime = match (has("inside"), has("starved")) {
        (true, _) => Runtime::new()?,
        (_, true) => Builder::new_current_thread().enable_all().build()?,
        _ if has("plain") => return serve_plainly(),
        _ => return serve(),
    };
    runtime.block_on(async { serve() })
}

fn has(word: &str) -> bool {
    std::env::args().skip(3).any(|other| other == word)
}

fn serve() -> Result<()> {
    let [_, control, data, ..] = &*Vec::from_iter(std::env::args()) else {
        panic!("fixture-http CONTROL DATA [unhealthy] [inside] [starved]")
    };
    // Asked by a request, and at the end of the process.
    let served = Arc::new(Served::default());
    let texts = Texts { begun: Arc::clone(&served.begun) };
    Daemon::new(control, data).run_tokio(
        async |_warm| Ok(()),
        async |(), opening| {
            let log = Log(Arc::new((opening.data_dir().join("log"), Mutex::default())));
            log.resume()?;
            if has("unhealthy") {
                opening.unhealthy();
            }
            let (of_tls, of_reload) = (Arc::clone(&served), control.clone());
            let reload = async move || {
                let http = of_tls.http.get().expect("it serves");
                let reloaded = tls(&of_reload).and_then(|config| http.set_tls(config));
                reloaded.map_err(|error| error.to_string())
            };
            let router = router(log.clone(), Arc::clone(&served)).route("/reload", post(reload));
            let chats = WebSockets::new(chat).max_message(MAX_MESSAGE);
            let mut server = Server::new().websockets(chats);
            if has("tls") {
                server = server.with_tls(tls(control)?);
            }
            let http = if has("grpc") {
                server.serve(opening, "http", texts.clone())?
            } else {
                server.serve(opening, "http", router)?
            };
            Ok(App { http: served.http.get_or_init(|| http).clone(), log })
        },
    )?;
    fs::write(format!("{control}.counts.{}", process::id()), served.counts())?;
    Ok(())
}

/// With the certificate and the key that lie beside the control socket.
fn tls(control: &str) -> Result<ServerConfig> {
    let certificate = CertificateDer::from(fs::read(format!("{control}.cert"))?);
    let key = fs::read(format!("{control}.key"))?;
    let key = PrivateKeyDer::try_from(key).map_err(Error::other)?;
    let config = ServerConfig::builder();
    let config = if has("clients") {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).map_err(Error::other)?;
        let verifier = WebPkiClientVerifier::builder(roots.into()).build();
        config.with_client_cert_verifier(verifier.map_err(Error::other)?)
    } else {
        config.with_no_client_auth()
    };
    config.with_single_cert(vec![certificate], key).map_err(Error::other)
}

/// The same service with hyper alone, which the bench compares with.
#[derive(handoff::Drainable)]
struct Plain {
    #[handoff(gate)]
    gate: Arc<Gate>,
    log: Log,
}

fn serve_plainly() -> Result<()> {
    let [_, control, data, ..] = &*Vec::from_iter(std::env::args()) else { panic!("as above") };
    Daemon::new(control, data).run_tokio(
        async |_warm| Ok(()),
        async |(), opening| {
            let log = Log(Arc::new((opening.data_dir().join("log"), Mutex::default())));
            log.resume()?;
            let listener = opening.listeners().take_tokio_tcp("http")?;
            let service = TowerToHyperService::new(router(log.clone(), Arc::default()));
            tokio::spawn(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    let _ = tcp.set_nodelay(true);
                    let mut http1 = http1::Builder::new();
                    http1.timer(TokioTimer::new());
                    tokio::spawn(http1.serve_connection(TokioIo::new(tcp), service.clone()));
                }
            });
            Ok(Plain { gate: Arc::default(), log })
        },
    )?;
    Ok(())
}

/// What the tests count.
#[derive(Default)]
struct Served {
    http: OnceLock<Http>,
    begun: Arc<AtomicU64>,
}

impl Served {
    /// The connections that this process has accepted, and the requests that it has begun.
    fn counts(&self) -> String {
        let accepted = self.http.get().map_or(0, Http::accepted);
        format!("{accepted} {}", self.begun.load(Ordering::SeqCst))
    }
}

fn router(log: Log, served: Arc<Served>) -> Router {
    let [of_counts, of_connections] = [&served, &served].map(Arc::clone);
    let counts = async move || of_counts.counts();
    let connections =
        async move || of_connections.http.get().map_or(0, Http::connections).to_string();
    let counted = move |request: Request, next: Next| {
        served.begun.fetch_add(1, Ordering::SeqCst);
        next.run(request)
    };
    Router::new()
        .route("/pid", get(async || process::id().to_string()))
        .route("/slow/{ms}", get(slow))
        .route("/echo", post(async |body: Bytes| body))
        .route("/count", post(count))
        .route("/chunks/{count}/{ms}", get(chunks))
        .route("/large/{bytes}", get(async |Path(bytes): Path<usize>| vec![b'x'; bytes]))
        .route("/events", get(|| events(u32::MAX)))
        .route("/few-events", get(|| events(2)))
        .route("/refuse/{ms}", post(refuse))
        .route("/later/{ms}", post(later))
        .route("/upgrade", get(upgrade))
        .route("/chat", get(async |upgrade: Upgrade<Chat>| upgrade.accept(Chat::default())))
        .route("/peer", get(async |Extension(Peer(peer)): Extension<Peer>| peer.to_string()))
        .route("/refused", get(refused))
        .route("/stray", get(async |upgrade: Upgrade<Stray>| upgrade.accept(Stray)))
        .route("/line", put(line))
        .with_state(log)
        .layer(from_fn(counted))
        // Not counted.
        .route("/counts", get(counts))
        .route("/connections", get(connections))
}

async fn slow(Path(ms): Path<u64>) -> String {
    sleep(Duration::from_millis(ms)).await;
    process::id().to_string()
}

/// Reads the body piece by piece, and says how long it was.
async fn count(body: Body) -> String {
    let (mut body, mut count) = (Box::pin(body), 0);
    while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await
    {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => count += data.len(),
            Ok(Err(_trailers)) => {}
            Err(error) => return error.to_string(),
        }
    }
    count.to_string()
}

async fn line(State(log): State<Log>, line: String) -> Response {
    match tokio::task::block_in_place(|| log.append(&line)) {
        Ok(()) => process::id().to_string().into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn chunks(Path((count, ms)): Path<(u32, u64)>) -> Body {
    Body::new(Chunks { left: count, pause: Duration::from_millis(ms), sleep: None })
}

/// Wants nothing of the body.
async fn refuse(Path(ms): Path<u64>, _body: Body) -> StatusCode {
    sleep(Duration::from_millis(ms)).await;
    StatusCode::UNAUTHORIZED
}

/// Replies before the body is dropped.
async fn later(Path(ms): Path<u64>, body: Body) -> StatusCode {
    tokio::spawn(async move {
        sleep(Duration::from_millis(ms)).await;
        drop(body);
    });
    StatusCode::OK
}

/// Echoes, and keeps the request meanwhile.
async fn upgrade(mut request: Request) -> Response {
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut read, &mut write).await;
        drop(request);
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// How many messages this client has sent, to whichever process.
#[derive(Default, Serialize, Deserialize)]
struct Chat(u64);

impl Carried for Chat {
    const NAME: &'static str = "chat";
    const VERSION: u32 = 1;
}

/// Another reply takes the place of the one that is accepted.
async fn refused(upgrade: Upgrade<Chat>) -> StatusCode {
    let _reply = upgrade.accept(Chat::default());
    StatusCode::FORBIDDEN
}

/// The service has no WebSockets of this kind.
#[derive(Serialize, Deserialize)]
struct Stray;

impl Carried for Stray {
    const NAME: &'static str = "stray";
    const VERSION: u32 = 1;
}

/// Numbers the messages. `large N` is answered with so many bytes, `slow N` after so many milliseconds;
/// after `deaf N` nothing is heard for as long. `leave`, `close` and `panic` end the connection.
async fn chat(mut socket: WebSocket<Chat>) {
    let mut deaf = None;
    while let Some(message) = recv(&mut socket, deaf.take()).await {
        socket.state_mut().0 += 1;
        let count = socket.state().0;
        let reply: Message = match message {
            Message::Text(text) => match text.split_once(' ') {
                Some(("large", length)) => "x".repeat(length.parse().unwrap_or_default()).into(),
                Some(("slow", ms)) => {
                    sleep(Duration::from_millis(ms.parse().unwrap_or_default())).await;
                    format!("{count} {text}").into()
                }
                Some(("deaf", ms)) => {
                    deaf = Some(Duration::from_millis(ms.parse().unwrap_or_default()));
                    format!("{count} {text}").into()
                }
                _ if text == "leave" => return,
                _ if text == "panic" => panic!("as it was told"),
                _ if text == "close" => return socket.close(),
                _ => format!("{count} {text}").into(),
            },
            Message::Binary(bytes) => bytes.into(),
        };
        if socket.send(reply).await.is_err() {
            return;
        }
    }
}

/// The next message; after so long in which it does something else.
async fn recv(socket: &mut WebSocket<Chat>, deaf: Option<Duration>) -> Option<Message> {
    if let Some(deaf) = deaf {
        tokio::select! {
            biased;
            message = socket.recv() => return message,
            () = std::future::ready(()) => sleep(deaf).await,
        }
    }
    socket.recv().await
}

const MAX_MESSAGE: usize = 256 << 10;

async fn events(count: u32) -> impl IntoResponse {
    let events = Chunks { left: count, pause: Duration::from_millis(20), sleep: None };
    ([(CONTENT_TYPE, "text/event-stream")], Body::new(events))
}

/// So many lines, with a pause before each.
struct Chunks {
    left: u32,
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let pause = self.pause;
        ready!(self.sleep.get_or_insert_with(|| Box::pin(sleep(pause))).as_mut().poll(context));
        self.sleep = None;
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: chunk\n\n")))))
    }
}
