//! TLS in the daemon's own process: its connections leave, and the clients come back by resumption.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, SocketType};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use crate::service::{Certificate, Client, PID, Service, TIMEOUT};

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn certificate() -> Certificate {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it is made")
}

/// Of a client that trusts that certificate, and keeps its tickets.
fn config(certificate: &Certificate) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).expect("it is a certificate");
    Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("it is a name")
}

fn connect(service: &Service, config: &Arc<ClientConfig>) -> Client<Tls> {
    connect_to(service.address, config)
}

fn connect_to(address: SocketAddr, config: &Arc<ClientConfig>) -> Client<Tls> {
    let tcp = Client::connect(address).tcp().try_clone().expect("a descriptor is left");
    let tls = ClientConnection::new(Arc::clone(config), name()).expect("it is a name");
    Client::over(StreamOwned::new(tls, tcp))
}

fn kind_of(service: &Service, config: &Arc<ClientConfig>) -> Option<HandshakeKind> {
    let mut client = connect(service, config);
    client.pid();
    kind(&client)
}

fn kind(client: &Client<Tls>) -> Option<HandshakeKind> {
    client.transport().conn.handshake_kind()
}

#[test]
fn a_client_comes_back_by_resumption_after_each_swap() {
    let certificate = certificate();
    let mut service = Service::start_tls(&certificate);
    let config = config(&certificate);
    let mut client = connect(&service, &config);
    assert_eq!(client.pid(), service.pid());
    assert_eq!(kind(&client), Some(HandshakeKind::Full));
    for round in 0..4 {
        if round == 1 {
            service.roll_back();
        } else {
            let (carried, _) = service.swap();
            assert_eq!(carried.late.connections, [""; 0]);
            let keys = carried.sets.iter().find(|set| set.name == "http.tls");
            assert!(keys.is_some_and(|set| set.count == 1), "{carried:?}");
        }
        // It was idle, and is told that it ends: an end without a word is an error here.
        client.assert_closed();
        client = connect(&service, &config);
        assert_eq!(client.pid(), service.pid());
        assert_eq!(kind(&client), Some(HandshakeKind::Resumed), "in round {round}");
    }
}

/// A ticket stands for what its client has shown before: nothing, here.
#[test]
fn a_ticket_is_worth_nothing_to_a_build_that_asks_for_certificates() {
    let certificate = certificate();
    let mut service = Service::start_tls(&certificate);
    let config = config(&certificate);
    assert_eq!(connect(&service, &config).pid(), service.pid());
    assert_eq!(kind_of(&service, &config), Some(HandshakeKind::Resumed));
    service.swap_to(&["clients"]);
    let mut client = connect(&service, &config);
    let asked = client.transport_mut().write_all(PID.as_bytes());
    let refused = asked.and_then(|()| client.reply().map(drop)).expect_err("it has no certificate");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{refused}");
}

#[test]
fn no_request_fails_through_twenty_swaps() {
    let certificate = certificate();
    let mut service = Service::start_tls(&certificate);
    let config = config(&certificate);
    let (stop, all, full) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let address = service.address;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = connect_to(address, &config);
                    let mut closes = false;
                    while !closes && !stop.load(Ordering::Relaxed) {
                        let reply = client.ask(PID);
                        assert_eq!(reply.status, 200);
                        closes = reply.closes;
                        all.fetch_add(1, Ordering::Relaxed);
                    }
                    let is_full = kind(&client) == Some(HandshakeKind::Full);
                    full.fetch_add(u64::from(is_full), Ordering::Relaxed);
                }
            });
        }
        service.twenty_swaps(&all, 100, |_| ());
        stop.store(true, Ordering::Relaxed);
    });
    println!("{} requests, {} full handshakes", all.into_inner(), full.load(Ordering::Relaxed));
    assert!(full.into_inner() <= 8 * 2, "clients came back without a ticket");
}

#[test]
fn who_connects_while_others_leave_is_served_by_the_next_process() {
    let certificate = certificate();
    let mut service = Service::start_tls(&certificate);
    let (config, address, before) = (config(&certificate), service.address, service.pid());
    let (mut slow, mut idle) = (connect(&service, &config), connect(&service, &config));
    assert_eq!((slow.pid(), idle.pid()), (before, before));
    slow.send("GET /slow/1000 HTTP/1.1\r\nHost: a\r\n\r\n");
    thread::scope(|scope| {
        let swap = scope.spawn(|| service.swap());
        // The others leave now.
        idle.assert_closed();
        let mut client = connect_to(address, &config);
        assert_ne!(client.pid(), before);
        let reply = slow.reply().expect("it is answered");
        assert!(reply.closes && reply.body == before.to_string(), "{reply:?}");
        let (carried, _) = swap.join().expect("it commits");
        assert_eq!(carried.late.connections, [""; 0]);
    });
}

#[test]
fn a_connection_that_has_sent_nothing_is_carried() {
    let certificate = certificate();
    let mut service = Service::start_tls(&certificate);
    let config = config(&certificate);
    let mut client = connect(&service, &config);
    service.roll_back();
    service.swap();
    assert_eq!(client.pid(), service.pid());
}

#[test]
fn http_2_is_spoken_over_tls_and_leaves() {
    let certificate = certificate();
    let mut service = Service::start_tls(&certificate);
    let mut config = ClientConfig::clone(&config(&certificate));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let runtime = Runtime::new().expect("it starts");
    for _ in 0..3 {
        let connection = runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(service.address).await.expect("it listens");
            let tls = connector.connect(name(), tcp).await.expect("it speaks TLS");
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("HTTP/2");
            let connection = tokio::spawn(connection);
            let request = Request::get("https://localhost/pid").body(Empty::<&[u8]>::new());
            let reply = sender.send_request(request.expect("it is one")).await.expect("a reply");
            let body = reply.into_body().collect().await.expect("a body").to_bytes();
            assert_eq!(body, service.pid().to_string());
            (sender, connection)
        });
        let (carried, _) = service.swap();
        assert_eq!(carried.late.connections, [""; 0]);
        let ended = runtime.block_on(connection.1).expect("it runs");
        ended.expect("it ends by GOAWAY");
    }
}

#[test]
fn another_certificate_needs_no_swap_and_old_connections_keep_theirs() {
    let (first, second) = (certificate(), certificate());
    let service = Service::start_tls(&first);
    let mut old = connect(&service, &config(&first));
    assert_eq!(old.pid(), service.pid());
    service.place(&second);
    let reload = "POST /reload HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(old.ask(reload).status, 200);
    assert_eq!(old.pid(), service.pid());
    assert_eq!(connect(&service, &config(&second)).pid(), service.pid());
    let mut distrusts = connect(&service, &config(&first));
    let mut byte = [0];
    let error = distrusts.reader().read(&mut byte).expect_err("it is another certificate");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    // A certificate that is none changes nothing.
    std::fs::write(service.path("control.cert"), "none").expect("it is written");
    let reply = old.ask(reload);
    assert!(!reply.body.is_empty(), "it says what is wrong");
    assert_eq!(connect(&service, &config(&second)).pid(), service.pid());
}

#[test]
fn what_is_no_tls_is_closed_and_a_handshake_that_stops_holds_nobody() {
    let certificate = certificate();
    let mut service = Service::start_tls(&certificate);
    let config = config(&certificate);
    let mut plain = service.connect();
    plain.send(PID);
    let mut alert = Vec::new();
    let read = plain.reader().read_to_end(&mut alert);
    assert!(alert.first().is_none_or(|first| *first == 21), "an alert of TLS: {alert:?} {read:?}");
    // The begin of a record of a handshake.
    let stuck = service.connect();
    stuck.tcp().write_all(&[22, 3, 1, 2, 0, 1]).expect("it is open");
    let mut other = connect(&service, &config);
    assert_eq!(other.pid(), service.pid());
    let (carried, _) = service.swap();
    assert!(carried.late.connections.len() <= 1, "{carried:?}");
    assert_eq!(connect(&service, &config).pid(), service.pid());
    service.wait_replaced();
}

#[test]
fn events_end_and_so_does_their_connection() {
    let certificate = certificate();
    let mut service = Service::start_tls(&certificate);
    let config = config(&certificate);
    for swap in [Service::roll_back_all, Service::swap_all] {
        let before = service.pid();
        let mut client = connect(&service, &config);
        client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.line().expect("it is answered"), "HTTP/1.1 200 OK");
        while !client.line().expect("there is a head").is_empty() {}
        assert!(client.chunk().expect("there are events").is_some());
        thread::scope(|scope| {
            scope.spawn(|| swap(&mut service));
            while client.chunk().expect("the events end well").is_some() {}
            // It asks again at once, and is told that the connection ends.
            let reply = client.ask(PID);
            assert!(reply.closes && reply.body == before.to_string(), "{reply:?}");
        });
    }
    // One whose events have ended before leaves like any other.
    let mut client = connect(&service, &config);
    assert_eq!(client.ask("GET /few-events HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    client.send("GET /slow/1000 HTTP/1.1\r\nHost: a\r\n\r\n");
    service.swap_all();
    assert!(client.reply().expect("it is answered").closes);
}

/// Its last bytes go out also where the client has read none when the service writes them.
#[test]
fn a_message_goes_to_its_end_over_tls_whatever_its_length() {
    let certificate = certificate();
    let service = Service::start_tls(&certificate);
    let config = config(&certificate);
    let lengths = (0..40).map(|count| 1_000_000 + count * 60_000);
    let mut clients: Vec<_> = lengths
        .map(|length: usize| {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
            let socket = socket.expect("a descriptor is left");
            // So that the service is blocked soon.
            set_socket_recv_buffer_size(&socket, 4096).expect("it is a socket");
            rustix::net::connect(&socket, &service.address).expect("it listens");
            let tcp = TcpStream::from(socket);
            tcp.set_read_timeout(Some(TIMEOUT)).expect("it is a socket");
            let tls = ClientConnection::new(Arc::clone(&config), name()).expect("it is a name");
            let mut client = Client::over(StreamOwned::new(tls, tcp));
            client.send(crate::ws::ASK);
            while !client.line().expect("there is a head").is_empty() {}
            client.send_bytes(&crate::ws::frame(0x81, format!("large {length}").as_bytes()));
            (length, client)
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(connect(&service, &config).pid(), service.pid());
    }
    for (length, client) in &mut clients {
        let header = if u16::try_from(*length).is_ok() { 4 } else { 10 };
        let mut bytes = vec![0; header + *length];
        client.reader().read_exact(&mut bytes).expect("it comes to its end");
    }
}

#[test]
fn a_websocket_over_tls_is_closed_with_the_code_that_brings_its_client_back() {
    let certificate = certificate();
    let mut service = Service::start_tls(&certificate);
    let mut client = connect(&service, &config(&certificate));
    client.send(crate::ws::ASK);
    assert_eq!(client.line().expect("it is answered"), "HTTP/1.1 101 Switching Protocols");
    while !client.line().expect("there is a head").is_empty() {}
    let (carried, _) = service.swap();
    assert_eq!(carried.late.connections, [""; 0]);
    let mut rest = Vec::new();
    client.reader().read_to_end(&mut rest).expect("it ends with a word");
    assert_eq!(rest, [0x88, 2, 0x03, 0xf4], "code 1012");
}
