//! Connections that cannot be carried: they leave, or stay behind, and the others notice nothing.

use std::io::{Read, Write};

use crate::service::{PREFACE, Service};

#[test]
fn events_end_and_their_connection_goes_on() {
    let mut service = Service::start();
    let mut client = service.connect();
    for _ in 0..3 {
        client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.line().expect("it is answered"), "HTTP/1.1 200 OK");
        while !client.line().expect("there is a head").is_empty() {}
        assert!(client.chunk().expect("there are events").is_some());
        let (carried, _) = service.swap();
        assert_eq!(carried.late.connections, [""; 0]);
        while client.chunk().expect("the events end well").is_some() {}
        assert_eq!(client.pid(), service.pid());
    }
}

#[test]
fn a_client_that_ignores_goaway_is_named_and_closed() {
    let mut service = Service::start();
    let client = service.connect();
    let mut tcp = client.tcp();
    tcp.write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()).expect("it is open");
    let mut settings = [0; 9];
    tcp.read_exact(&mut settings).expect("it is answered");
    let mut other = service.connect();
    assert_eq!(other.pid(), service.pid());
    let (carried, _) = service.swap();
    assert_eq!(carried.late.connections.len(), 1, "{carried:?}");
    assert_eq!(other.pid(), service.pid());
    // It has not answered the ping that says that it has heard the GOAWAY.
    let mut frames = Vec::new();
    let _ = tcp.read_to_end(&mut frames);
    assert!(!frames.is_empty(), "it was told");
    service.wait_replaced();
}

/// Each is bounded, and disturbs nobody.
#[test]
fn clients_that_send_one_byte_are_carried_like_others() {
    let mut service = Service::start();
    let mut clients: Vec<_> = (0..1000).map(|_| service.connect()).collect();
    clients.iter_mut().for_each(|client| client.send("G"));
    service.roll_back();
    let (carried, _) = service.swap();
    assert_eq!(carried.late.connections, [""; 0]);
    assert_eq!(carried.sets[0].count, 1000);
    for client in &mut clients {
        client.send("ET /pid HTTP/1.1\r\nHost: a\r\n\r\n");
        let reply = client.reply().expect("it is answered");
        assert_eq!(reply.body, service.pid().to_string());
    }
}

#[test]
fn an_upload_that_is_stuck_ends_with_an_error_and_holds_nobody_up() {
    let mut service = Service::start();
    let length = 1 << 20;
    let mut stuck: Vec<_> = (0..2).map(|_| service.connect()).collect();
    for client in &mut stuck {
        let head = "POST /count HTTP/1.1\r\nHost: a\r\n";
        client.send(&format!("{head}Content-Length: {length}\r\n\r\n{}", "x".repeat(length / 2)));
    }
    let mut other = service.connect();
    assert_eq!(other.pid(), service.pid());
    service.swap();
    assert_eq!(other.pid(), service.pid());
    for client in &mut stuck {
        let reply = client.reply().expect("its handler has replied");
        assert!(reply.body.contains("the rest of the body does not come"), "{reply:?}");
        client.assert_closed();
    }
    service.wait_replaced();
}

#[test]
fn half_a_preface_of_http_2_goes_to_the_next_process() {
    let mut service = Service::start();
    let clients: Vec<_> = (0..PREFACE.len()).map(|_| service.connect()).collect();
    for (place, client) in clients.iter().enumerate() {
        client.tcp().write_all(&PREFACE[..place]).expect("it is open");
    }
    service.roll_back();
    service.swap();
    for (place, client) in clients.iter().enumerate() {
        let mut tcp = client.tcp();
        tcp.write_all(&PREFACE[place..]).expect("it is open");
        // An empty frame of settings; the service answers with its own.
        tcp.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).expect("it is open");
        let mut head = [0; 9];
        tcp.read_exact(&mut head).expect("it is answered");
        assert_eq!(head[3], 4, "it is a frame of settings");
    }
}
