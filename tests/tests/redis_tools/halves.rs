//! A command whose first half came before a swap, and the rest after it; and replies that the
//! client has not read by then.

use std::io::{Read, Write};
use std::net::TcpStream;

use handoff::carry::{CarriedSet, CarryFate, CarryKind};
use handoff::supervisor::CarryReport;
use handoff_tests::harness::{TIMEOUT, eventually};

use crate::kvd::Kvd;

/// Sends it, and waits until the daemon has read it, so that it can only come with the state.
fn send(kvd: &Kvd, stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("it is read");
    let port = stream.local_addr().expect("it is connected").port();
    eventually("what was sent is read", TIMEOUT, || {
        kvd.connections().contains(&(port, 0)).then_some(())
    });
}

fn expect(stream: &mut TcpStream, reply: &str) {
    let mut got = vec![0; reply.len()];
    stream.read_exact(&mut got).expect("it is answered");
    assert!(got == reply.as_bytes(), "{}", String::from_utf8_lossy(&got));
}

fn large_value() -> String {
    (0..1 << 20).map(|n| char::from(b'a' + (n % 23) as u8)).collect()
}

fn set(value: &str) -> String {
    format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${}\r\n{value}\r\n", value.len())
}

/// The connections and the bytes that came with them.
fn carried(report: &CarryReport) -> (u64, u64) {
    let CarriedSet { name, kind, count, bytes, fate } = &report.sets[0];
    assert_eq!((&**name, *kind), ("clients", CarryKind::Connections));
    assert_eq!(*fate, CarryFate::Taken);
    (*count, *bytes)
}

/// Sends a request in four parts, with a swap that fails, a commit, and one that is given up
/// between them.
fn send_over_swaps(request: &str, reply: &str) -> Kvd {
    let mut kvd = Kvd::start();
    let mut stream = kvd.connect();
    let parts: Vec<&[u8]> = request.as_bytes().chunks(request.len().div_ceil(4)).collect();
    send(&kvd, &mut stream, parts[0]);
    kvd.fail_to_swap();
    send(&kvd, &mut stream, parts[1]);
    let (count, bytes) = carried(&kvd.swap());
    assert_eq!(count, 1);
    let sent = (parts[0].len() + parts[1].len()) as u64;
    assert!((sent..sent + 64).contains(&bytes), "{bytes} for the {sent} that were sent");
    send(&kvd, &mut stream, parts[2]);
    kvd.give_up_drained();
    send(&kvd, &mut stream, parts[3]);
    expect(&mut stream, reply);
    stream.write_all(b"PING\r\n").expect("it is read");
    expect(&mut stream, "+PONG\r\n");
    kvd
}

#[test]
fn a_small_command_is_answered_whose_parts_came_to_different_processes() {
    let kvd = send_over_swaps("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n", "+OK\r\n");
    assert_eq!(kvd.cli(&["get", "key"]), "value");
}

#[test]
fn a_large_command_is_answered_whose_parts_came_to_different_processes() {
    let value = large_value();
    let kvd = send_over_swaps(&set(&value), "+OK\r\n");
    assert!(kvd.cli(&["get", "key"]) == value);
}

#[test]
fn replies_that_were_not_read_are_there_after_swaps() {
    let mut kvd = Kvd::start();
    let mut stream = kvd.connect();
    let value = large_value();
    stream.write_all(set(&value).as_bytes()).expect("it is read");
    expect(&mut stream, "+OK\r\n");
    // More than two sockets take.
    let requests = "GET key\r\n".repeat(24) + "INCR n\r\nGET";
    send(&kvd, &mut stream, requests.as_bytes());
    for _ in 0..2 {
        kvd.fail_to_swap();
        let (count, bytes) = carried(&kvd.swap());
        assert!(count == 1 && bytes > value.len() as u64, "{bytes} bytes with {count}");
    }
    let reply = format!("${}\r\n{value}\r\n", value.len());
    (0..24).for_each(|_| expect(&mut stream, &reply));
    expect(&mut stream, ":1\r\n");
    stream.write_all(b" n\r\n").expect("it is read");
    expect(&mut stream, "$1\r\n1\r\n");
}

#[test]
fn a_pipeline_is_answered_in_order_over_swaps() {
    let mut kvd = Kvd::start();
    let mut stream = kvd.connect();
    let mut writer = stream.try_clone().expect("descriptors are left");
    let pipeline = "INCR n\r\n".repeat(PIPELINE);
    let replies: String = (1..=PIPELINE).map(|n| format!(":{n}\r\n")).collect();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(pipeline.as_bytes()).expect("it is read"));
        // Some of it is answered before each swap, and the rest is not read meanwhile.
        for (n, chunk) in replies.as_bytes().chunks(replies.len() / 4).enumerate() {
            expect(&mut stream, std::str::from_utf8(chunk).expect("it is text"));
            if n == 1 {
                kvd.fail_to_swap();
            } else {
                assert_eq!(carried(&kvd.swap()).0, 1);
            }
        }
    });
    assert_eq!(kvd.cli(&["get", "n"]), PIPELINE.to_string());
}

/// More than is answered before the first swap.
const PIPELINE: usize = 200_000;
