//! Connections that cannot be carried: they leave, or stay behind, and the others notice nothing.

use std::io::Write;

use crate::service::Service;

#[test]
fn an_upload_that_is_stuck_is_cut_and_holds_nobody_up() {
    let mut service = Service::start();
    let mut stuck = service.connect();
    let length = 1 << 20;
    stuck.send(&format!("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
    stuck.send(&"x".repeat(length / 2));
    let mut other = service.connect();
    assert_eq!(other.pid(), service.pid());
    service.roll_back();
    stuck.send("x");
    let (carried, _) = service.swap();
    assert_eq!(carried.late.connections.len(), 1, "{carried:?}");
    assert_eq!(other.pid(), service.pid());
    stuck.assert_closed();
    service.wait_replaced();
}

#[test]
fn half_a_preface_of_http_2_goes_to_the_next_process() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
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
        std::io::Read::read_exact(&mut tcp, &mut head).expect("it is answered");
        assert_eq!(head[3], 4, "it is a frame of settings");
    }
}
