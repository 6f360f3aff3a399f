//! A request that a swap cuts in two, in each way in which it can be cut: the client has its reply, on
//! the same connection, after swaps that commit and after those that are undone.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::service::{Client, PID, Reply, Service};

fn ok(body: impl Into<String>) -> Reply {
    Reply { status: 200, body: body.into(), closes: false }
}

/// Sends one part of some bytes, swaps, and sends the rest: cut at each of these places. A swap that is
/// undone comes first.
fn cut(bytes: &str, places: impl IntoIterator<Item = usize>, expected: &Reply) {
    let mut service = Service::start();
    let mut clients: Vec<_> = places.into_iter().map(|place| (place, service.connect())).collect();
    for (place, client) in &mut clients {
        assert_eq!(client.pid(), service.pid());
        client.send(&bytes[..*place]);
    }
    service.roll_back();
    let before = service.pid();
    service.swap();
    assert_ne!(service.pid(), before);
    for (place, client) in &mut clients {
        client.send(&bytes[*place..]);
        assert_eq!(&client.reply().expect("it is answered"), expected, "cut at {place}");
        assert_eq!(client.pid(), service.pid(), "the connection is the same");
    }
}

#[test]
fn half_a_head() {
    let request = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let head = request.len() - 3;
    cut(request, 0..head, &ok("abc"));
}

#[test]
fn half_a_body() {
    let body = "0123456789".repeat(20);
    let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let request = format!("{head}{body}");
    cut(&request, (head.len()..request.len()).step_by(17), &ok(body));
}

#[test]
fn half_a_body_that_the_handler_reads_piece_by_piece() {
    let head = "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    let request = format!("{head}{}", "x".repeat(1000));
    cut(&request, [head.len(), head.len() + 1, head.len() + 999], &ok("1000"));
}

#[test]
fn half_a_chunk() {
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let request = format!("{head}3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n");
    cut(&request, head.len()..request.len(), &ok("abc0123456789abcdef"));
}

#[test]
fn half_of_several_pipelined_requests() {
    let mut service = Service::start();
    let requests = "GET /slow/300 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3);
    let (first, second) = requests.split_at(requests.len() - 20);
    let mut client = service.connect();
    client.send(first);
    let (old, _) = (service.pid(), service.swap());
    client.send(second);
    let served: Vec<u32> = (0..3)
        .map(|_| client.reply().expect("it is answered").body.parse().expect("it is a pid"))
        .collect();
    assert_eq!(served[2], service.pid(), "{served:?}");
    assert!(served.iter().all(|pid| [old, service.pid()].contains(pid)), "{served:?}");
    assert_eq!(client.pid(), service.pid());
}

#[test]
fn a_reply_that_is_not_there_yet() {
    let mut service = Service::start();
    let old = service.pid();
    let mut clients: Vec<_> = (0..20).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send("GET /slow/400 HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    // Each handler has begun: a request that comes after them is answered.
    service.connect().pid();
    service.swap();
    for client in &mut clients {
        let reply = client.reply().expect("it is answered");
        let pid: u32 = reply.body.parse().expect("it is a pid");
        assert!(!reply.closes && [old, service.pid()].contains(&pid));
        assert_eq!(client.pid(), service.pid());
    }
}

#[test]
fn a_chunked_reply_on_its_way() {
    let mut service = Service::start();
    let mut client = service.connect();
    client.send("GET /chunks/10/20 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.line().expect("it is answered"), "HTTP/1.1 200 OK");
    service.swap();
    while !client.line().expect("there is a head").is_empty() {}
    let mut chunks = 0;
    while client.chunk().expect("it goes on").is_some() {
        chunks += 1;
    }
    assert_eq!(chunks, 10);
    assert_eq!(client.pid(), service.pid(), "the connection is the same");
}

#[test]
fn a_client_that_waits_to_be_told_to_go_on() {
    let mut service = Service::start();
    let mut client = service.connect();
    client.send(
        "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    );
    assert_eq!(client.line().expect("it is told to"), "HTTP/1.1 100 Continue");
    assert_eq!(client.line().expect("it is told to"), "");
    service.swap();
    client.send("abc");
    assert_eq!(client.reply().expect("it is answered"), ok("abc"));
    assert_eq!(client.pid(), service.pid());
}

#[test]
fn half_an_upgrade() {
    let request = "GET /pid HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n";
    let mut service = Service::start();
    let mut clients: Vec<_> = (0..request.len()).map(|place| (place, service.connect())).collect();
    for (place, client) in &mut clients {
        client.send(&request[..*place]);
    }
    service.roll_back();
    service.swap();
    for (place, client) in &mut clients {
        client.send(&request[*place..]);
        let reply = client.reply().expect("it is answered");
        assert_eq!(reply, ok(service.pid().to_string()), "cut at {place}");
        assert_eq!(client.pid(), service.pid());
    }
}

#[test]
fn no_byte_yet() {
    let mut service = Service::start();
    let mut clients: Vec<_> = (0..100).map(|_| service.connect()).collect();
    service.roll_back();
    service.swap();
    assert!(clients.iter_mut().all(|client| client.pid() == service.pid()));
}

#[test]
fn a_client_that_says_no_more() {
    let mut service = Service::start();
    let mut client = service.connect();
    client.send("GET /slow/300 HTTP/1.1\r\nHost: a\r\n\r\n");
    client.tcp().shutdown(Shutdown::Write).expect("it is open");
    service.swap();
    let reply = client.reply().expect("it is answered");
    assert_eq!(reply.status, 200);
    client.assert_closed();
}

#[test]
fn a_client_that_does_not_read() {
    let mut service = Service::start();
    let mut slow = service.connect();
    let length = 30 << 20;
    slow.send(&format!("GET /large/{length} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(slow.line().expect("it is answered"), "HTTP/1.1 200 OK");
    let (carried, _) = service.swap();
    assert_eq!(carried.late.connections.len(), 1, "{carried:?}");
    assert_eq!(service.connect().pid(), service.pid(), "it costs the others nothing");
    // The old process finishes the reply, and closes the connection.
    while !slow.line().expect("there is a head").is_empty() {}
    let mut body = vec![0; length];
    std::io::Read::read_exact(&mut slow.reader(), &mut body).expect("it comes");
    slow.assert_closed();
    service.wait_replaced();
}

/// Requests without a pause, on connections that stay open.
#[test]
fn busy_clients_and_many_idle_ones_see_nothing_of_twenty_swaps() {
    let mut service = Service::start();
    let mut idle: Vec<_> = (0..200).map(|_| service.connect()).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.pid(), service.pid()));
    let address = service.address;
    let stop = AtomicBool::new(false);
    let lines: Vec<String> = thread::scope(|scope| {
        let busy = |name: usize| {
            let stop = &stop;
            move || {
                let mut client = Client::connect(address);
                let mut lines = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let line = format!("{name}.{}", lines.len());
                    let length = line.len();
                    let put = format!(
                        "PUT /line HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{line}"
                    );
                    let reply = client.ask(&put);
                    assert!(reply.status == 200 && !reply.closes, "{reply:?}");
                    lines.push(line);
                }
                lines
            }
        };
        let busy: Vec<_> = (0..8).map(|name| scope.spawn(busy(name))).collect();
        for round in 0..20 {
            if round % 10 == 4 {
                service.roll_back();
            } else {
                service.swap();
            }
        }
        stop.store(true, Ordering::SeqCst);
        busy.into_iter().flat_map(|busy| busy.join().expect("no request fails")).collect()
    });
    idle.iter_mut().for_each(|client| assert_eq!(client.pid(), service.pid()));
    let log = std::fs::read_to_string(service.path("data/log")).expect("there is a log");
    let mut logged: Vec<_> = log.lines().map(str::to_owned).collect();
    let mut lines = lines;
    logged.sort();
    lines.sort();
    assert_eq!(logged, lines, "each line is there once");
    service.wait_replaced();
    assert_eq!(service.connect().ask(PID).body, service.pid().to_string());
}

/// The rest of a body that a handler did not want is no request, in whatever process it is read.
#[test]
fn a_reply_before_the_body_has_come() {
    let mut service = Service::start();
    let smuggled = "PUT /line HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nsmuggled";
    let head = |rest: &str| {
        format!("POST /refuse/200 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", rest.len())
    };
    let mut clients = Vec::new();
    for (sent, chunked) in [(0, false), (10, false), (smuggled.len(), false), (0, true)] {
        let mut client = service.connect();
        if chunked {
            client
                .send("POST /refuse/200 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        } else {
            client.send(&head(smuggled));
            client.send(&smuggled[..sent]);
        }
        clients.push((client, sent));
    }
    // All handlers have begun.
    assert_eq!(service.connect().pid(), service.pid());
    service.swap();
    for (client, sent) in &mut clients {
        let reply = client.reply().expect("it is answered");
        assert_eq!(reply.status, 401);
        // The connection may be closed by now.
        let _ = client.tcp().write_all(&smuggled.as_bytes()[*sent..]);
        let _ = client.tcp().write_all(PID.as_bytes());
        if let Ok(next) = client.reply() {
            assert_eq!(next, ok(service.pid().to_string()), "the rest was no request");
        }
    }
    let log = std::fs::read_to_string(service.path("data/log")).unwrap_or_default();
    assert_eq!(log, "", "nothing was smuggled");
}

#[test]
fn a_connection_that_has_sent_much_is_like_any_other() {
    let mut service = Service::start();
    let mut client = service.connect();
    for length in [200_000, 1 << 20] {
        let head = format!("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        assert_eq!(client.ask(&format!("{head}{}", "x".repeat(length))), ok(length.to_string()));
        service.roll_back();
        let (carried, _) = service.swap();
        assert_eq!(carried.late.connections, [""; 0]);
        assert_eq!(client.pid(), service.pid());
    }
}

/// A task goes on with the body when the reply has been sent.
#[test]
fn a_body_that_outlives_its_reply() {
    let mut service = Service::start();
    let mut client = service.connect();
    for _ in 0..3 {
        client.send("POST /later/50 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(client.reply().expect("it is answered").status, 200);
        // The next request waits for the end of the body, and does not hang.
        assert_eq!(client.pid(), service.pid());
    }
    client.send("POST /later/50 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.reply().expect("it is answered").status, 200);
    service.swap();
    assert_eq!(client.pid(), service.pid());
}

#[test]
fn an_upgraded_connection_speaks_its_own_protocol() {
    let mut service = Service::start();
    let mut client = service.connect();
    client.send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(client.line().expect("it is answered"), "HTTP/1.1 101 Switching Protocols");
    while !client.line().expect("there is a head").is_empty() {}
    client.send("GET / no HTTP\n");
    assert_eq!(client.line().expect("it is echoed"), "GET / no HTTP");
    service.roll_back();
    client.send("still\n");
    assert_eq!(client.line().expect("it is echoed"), "still");
    let (carried, _) = service.swap();
    assert_eq!(carried.late.connections.len(), 1, "it is named");
    assert_eq!(service.connect().pid(), service.pid());
}
