//! WebSockets through swaps: every message once and in order, on the connection that the client has.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::service::{Client, Service, TIMEOUT};

pub(crate) const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
/// The last frame of a message.
const LAST: u8 = 0x80;

/// A client whose frames the test writes.
pub(crate) struct Socket(Client);

impl Socket {
    fn open(service: &Service) -> Self {
        Self::open_at(service, "/chat")
    }

    pub(crate) fn open_at(service: &Service, path: &str) -> Self {
        let mut client = service.connect();
        client.send(&ASK.replace("/chat", path));
        assert_eq!(client.line().expect("it is answered"), "HTTP/1.1 101 Switching Protocols");
        let mut is_accepted = false;
        loop {
            let line = client.line().expect("there is a head").to_ascii_lowercase();
            // The key and the reply to it of RFC 6455, section 1.3.
            is_accepted |= line == "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";
            if line.is_empty() {
                break;
            }
        }
        assert!(is_accepted);
        Self(client)
    }

    fn tcp(&self) -> &TcpStream {
        self.0.tcp()
    }

    fn send(&self, bytes: &[u8]) {
        self.tcp().write_all(bytes).expect("the connection is open");
    }

    /// The next frame of the service: its first byte, and its payload.
    fn frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut reader = self.0.reader();
        let mut head = [0; 2];
        reader.read_exact(&mut head)?;
        let mut length = [0; 8];
        let length = match head[1] {
            126 => {
                reader.read_exact(&mut length[6..])?;
                u64::from_be_bytes(length)
            }
            127 => {
                reader.read_exact(&mut length)?;
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).expect("it has a length")];
        reader.read_exact(&mut payload)?;
        Ok((head[0], payload))
    }

    pub(crate) fn text(&mut self) -> String {
        let (first, payload) = self.frame().expect("it is answered");
        assert_eq!(first, LAST | TEXT, "{}", String::from_utf8_lossy(&payload));
        String::from_utf8(payload).expect("it is text")
    }

    fn ask(&mut self, text: &str) -> String {
        self.send(&frame(LAST | TEXT, text.as_bytes()));
        self.text()
    }

    /// The code with which the service closes.
    fn closed(&mut self) -> u16 {
        let (first, payload) = self.frame().expect("it is told");
        assert_eq!(first, LAST | CLOSE);
        let code = u16::from_be_bytes([payload[0], payload[1]]);
        self.0.assert_closed();
        code
    }
}

/// A frame of a client.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(short) if short < 126 => frame.push(0x80 | payload.len() as u8),
        Ok(long) => {
            frame.push(0x80 | 126);
            frame.extend(long.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[test]
fn twenty_clients_have_every_message_once_and_in_order_through_twenty_swaps() {
    let mut service = Service::start();
    let address = service.address;
    let (stop, all) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let runtime = Runtime::new().expect("it starts");
    let clients: Vec<_> = (0..20_u64)
        .map(|client| {
            let (stop, all) = (Arc::clone(&stop), Arc::clone(&all));
            runtime.spawn(async move {
                let tcp = tokio::net::TcpStream::connect(address).await.expect("it listens");
                let opened = client_async(format!("ws://{address}/chat"), tcp).await;
                let (mut socket, _) = opened.expect("it is a WebSocket");
                let (mut sent, mut heard) = (0_u64, 0_u64);
                while heard < sent || !stop.load(Ordering::Relaxed) {
                    // Some are under way at any time.
                    while sent < heard + 4 && !stop.load(Ordering::Relaxed) {
                        sent += 1;
                        let text = format!("{client} {sent}");
                        socket.send(Message::text(text)).await.expect("it is open");
                    }
                    let next = timeout(TIMEOUT, socket.next()).await.expect("it is answered");
                    heard += 1;
                    all.fetch_add(1, Ordering::Relaxed);
                    let message = next.expect("it is open").expect("it is a message");
                    assert_eq!(message, Message::text(format!("{heard} {client} {heard}")));
                }
                socket.close(None).await.expect("it is open");
                heard
            })
        })
        .collect();
    service.twenty_swaps(&all, 100, |carried| {
        let sockets = carried.sets.iter().find(|set| set.name == "http.chat");
        assert!(sockets.is_some_and(|set| set.count == 20), "{carried:?}");
    });
    stop.store(true, Ordering::Relaxed);
    let messages = clients.into_iter().map(|client| runtime.block_on(client).expect("it ends"));
    println!("{} messages", messages.sum::<u64>());
    assert_eq!(service.counts()[0], 20, "no client has connected again");
}

#[test]
fn a_message_in_fragments_goes_through_two_swaps_with_a_ping_between() {
    let mut service = Service::start();
    let mut socket = Socket::open(&service);
    assert_eq!(socket.ask("first"), "1 first");
    socket.send(&frame(TEXT, "frag \u{20ac}".as_bytes().split_at(6).0));
    service.roll_back();
    service.swap();
    socket.send(&frame(LAST | PING, b"are you there?"));
    assert_eq!(socket.frame().expect("it is answered"), (LAST | PONG, b"are you there?".into()));
    socket.send(&frame(0, "frag \u{20ac}".as_bytes().split_at(6).1));
    service.swap();
    socket.send(&frame(LAST, b"ment"));
    assert_eq!(socket.text(), "2 frag \u{20ac}ment");
    // The ping is not answered again.
    assert_eq!(socket.ask("last"), "3 last");
}

#[test]
fn a_frame_that_is_cut_at_any_byte_is_read_once() {
    let mut service = Service::start();
    let messages =
        [frame(LAST | TEXT, b"short"), frame(LAST | TEXT, "long ".repeat(40).as_bytes())];
    let places = (1..11)
        .map(|place| (0, place))
        .chain([1, 2, 3, 4, 7, 8, 9, 150, 207].map(|place| (1, place)));
    let mut sockets: Vec<_> =
        places.map(|(message, place)| (message, place, Socket::open(&service))).collect();
    for (message, place, socket) in &sockets {
        socket.send(&messages[*message][..*place]);
    }
    service.roll_back();
    service.swap();
    for (message, place, socket) in &mut sockets {
        socket.send(&messages[*message][*place..]);
        let expected = ["1 short".to_owned(), format!("1 {}", "long ".repeat(40))];
        assert_eq!(socket.text(), expected[*message], "cut at {place}");
        assert_eq!(socket.ask("more"), "2 more");
    }
}

#[test]
fn a_message_is_answered_once_by_the_process_that_has_begun_it() {
    let mut service = Service::start();
    let mut socket = Socket::open(&service);
    socket.send(&[frame(LAST | TEXT, b"slow 100"), frame(LAST | TEXT, b"next")].concat());
    let (carried, _) = service.swap();
    assert_eq!(carried.late.connections, [""; 0]);
    assert_eq!((socket.text(), socket.text()), ("1 slow 100".to_owned(), "2 next".to_owned()));
}

/// What it has not read goes along, also where that is more than the kernel holds.
#[test]
fn a_client_that_does_not_read_is_carried_and_loses_nothing() {
    let mut service = Service::start();
    let mut socket = Socket::open(&service);
    let length = 12 << 20;
    socket.send(&frame(LAST | TEXT, format!("large {length}").as_bytes()));
    socket.send(&frame(LAST | TEXT, b"next"));
    // The first bytes of it have come.
    let mut first = [0; 1];
    socket.tcp().peek(&mut first).expect("it is answered");
    for _ in 0..3 {
        let (carried, _) = service.swap();
        assert_eq!(carried.late.connections, [""; 0]);
    }
    let (_, payload) = socket.frame().expect("it is answered");
    assert!(payload.len() == length && payload.iter().all(|byte| *byte == b'x'));
    assert_eq!(socket.text(), "2 next");
}

/// Also where the handler that gets it ends it at once.
#[test]
fn what_was_sent_comes_before_the_end() {
    let mut service = Service::start();
    for swaps in [0, 2] {
        let mut socket = Socket::open(&service);
        let length = 12 << 20;
        socket.send(&frame(LAST | TEXT, format!("large {length}").as_bytes()));
        socket.send(&frame(LAST | TEXT, b"leave"));
        socket.tcp().peek(&mut [0]).expect("it is answered");
        for _ in 0..swaps {
            service.swap();
        }
        let (_, payload) = socket.frame().expect("it is answered");
        assert_eq!(payload.len(), length);
        assert_eq!(socket.closed(), 1000);
    }
}

#[test]
fn a_client_that_pings_and_does_not_read_is_not_read_from() {
    let service = Service::start();
    let socket = Socket::open(&service);
    let pings = frame(LAST | PING, &[b'x'; 125]).repeat(1000);
    socket.tcp().set_write_timeout(Some(Duration::from_secs(1))).expect("it is a socket");
    let mut sent = 0;
    let error = loop {
        match socket.tcp().write(&pings) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
        assert!(sent < 1 << 30, "it is read without end");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_request_that_is_refused_after_all_becomes_no_websocket() {
    let service = Service::start();
    let ask = ASK.replace("/chat", "/refused").replace("n: Upgrade", "n: Upgrade, close");
    let mut client = service.connect();
    assert_eq!(client.ask(&ask).status, 403);
    let _ = client.tcp().write_all(&frame(LAST | TEXT, b"anyone?"));
    client.assert_closed();
}

#[test]
fn a_client_that_floods_is_bounded_and_disturbs_nobody() {
    let mut service = Service::start();
    let mut other = Socket::open(&service);
    let stop = AtomicBool::new(false);
    let flooding = Socket::open(&service);
    let pings = Socket::open(&service);
    let flood = |socket: &Socket, bytes: &[u8]| {
        // Nobody reads the replies: it is blocked at some time.
        let timeout = Some(Duration::from_millis(10));
        socket.tcp().set_write_timeout(timeout).expect("it is a socket");
        let bytes = bytes.repeat(500);
        while !stop.load(Ordering::Relaxed) {
            let mut left = &bytes[..];
            while !left.is_empty() && !stop.load(Ordering::Relaxed) {
                match socket.tcp().write(left) {
                    Ok(count) => left = &left[count..],
                    Err(error) => {
                        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "it is open");
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let flood = &flood;
        scope.spawn(move || flood(&flooding, &frame(LAST | TEXT, b"flood")));
        scope.spawn(move || flood(&pings, &frame(LAST | PING, b"flood")));
        for round in 0..3 {
            assert_eq!(other.ask("a"), format!("{} a", 2 * round + 1));
            service.roll_back();
            let (carried, _) = service.swap();
            assert_eq!(carried.late.connections, [""; 0]);
            assert_eq!(other.ask("b"), format!("{} b", 2 * round + 2));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_is_no_message_ends_the_connection_with_its_code() {
    let mut service = Service::start();
    let long = vec![b'x'; (256 << 10) + 1];
    let unmasked = [LAST | TEXT, 1, b'x'];
    let fragments = [&frame(BINARY, b"")[..], &frame(0, b"").repeat(3000)].concat();
    let huge = [&[LAST | BINARY, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    for (bytes, code) in [
        (frame(LAST | TEXT, &long), 1009),
        ([frame(BINARY, &long[..200_000]), frame(0, &long[..200_000])].concat(), 1009),
        (huge, 1009),
        (unmasked.to_vec(), 1002),
        (frame(LAST, b"of nothing"), 1002),
        (frame(LAST | 0x40 | TEXT, b"reserved"), 1002),
        (frame(LAST | TEXT, &[0xff]), 1007),
        (fragments, 1008),
    ] {
        let mut socket = Socket::open(&service);
        // It may be closed while more is sent.
        let _ = socket.tcp().write_all(&bytes);
        assert_eq!(socket.closed(), code, "{:?}", &bytes[..2]);
    }
    for (words, code) in [("leave", 1000), ("close", 1000), ("panic", 1011)] {
        let mut socket = Socket::open(&service);
        socket.send(&frame(LAST | TEXT, words.as_bytes()));
        assert_eq!(socket.closed(), code);
    }
    let mut socket = Socket::open(&service);
    socket.send(&frame(LAST | CLOSE, &[3, 233]));
    assert_eq!(socket.closed(), 1001, "the client's code comes back");
    // An end without a word, in the midst of a frame.
    let socket = Socket::open(&service);
    socket.send(&frame(LAST | TEXT, b"half")[..5]);
    drop(socket);
    let (carried, _) = service.swap();
    let count = |name| carried.sets.iter().find(|set| set.name == name).map(|set| set.count);
    assert_eq!(carried.late.connections, [""; 0]);
    assert_eq!(count("http.chat").unwrap_or(0), 0, "{carried:?}");
}

#[test]
fn a_handler_that_does_not_come_back_costs_its_client_the_connection_and_nobody_else() {
    let mut service = Service::start();
    let (mut deaf, mut other) = (Socket::open(&service), Socket::open(&service));
    assert_eq!(deaf.ask("deaf 1000"), "1 deaf 1000");
    assert_eq!(other.ask("a"), "1 a");
    let (carried, _) = service.swap();
    assert_eq!(carried.late.connections.len(), 1, "{carried:?}");
    assert_eq!(other.ask("b"), "2 b");
    assert_eq!(deaf.closed(), 1012);
    service.wait_replaced();
}

#[test]
fn who_asks_for_no_websocket_is_told_what_to_ask_for() {
    let service = Service::start();
    let version = ASK.replace("Version: 13", "Version: 8");
    for (request, status) in [
        ("GET /chat HTTP/1.1\r\nHost: a\r\n\r\n", 426),
        (&version, 426),
        (&ASK.replace("GET", "POST"), 405),
        (&ASK.replace("Sec-WebSocket-Key", "Another"), 426),
        (&ASK.replace("/chat", "/stray"), 500),
    ] {
        let mut client = service.connect();
        let reply = client.ask(request);
        assert_eq!(reply.status, status, "{request}");
    }
}

#[test]
fn a_stop_tells_the_clients() {
    let mut service = Service::start();
    let mut socket = Socket::open(&service);
    assert_eq!(socket.ask("a"), "1 a");
    let pid = rustix::process::Pid::from_raw(i32::try_from(service.pid()).expect("it is a pid"));
    let told = rustix::process::kill_process(pid.expect("it runs"), Signal::TERM);
    told.expect("it can be told");
    assert_eq!(socket.closed(), 1001);
    assert!(service.ended().success());
}
