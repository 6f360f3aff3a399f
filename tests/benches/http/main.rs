//! What `handoff::http` costs a request, beside hyper with the same service: wrk, in turns; and what one
//! silent connection and one stuck upload add to the pause of the others.
//!
//! `cargo bench -p handoff-tests --bench http` needs wrk. Without `--bench`, as under `cargo test`, it
//! runs once and without wrk. A failed request fails the run; a ratio does not.

#[allow(dead_code, reason = "of the tests' service a part is of use")]
#[path = "../../tests/http/service.rs"]
mod service;

use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use handoff_tests::figures::{Spread, ms};
use service::{Client, Service};

fn main() {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    if is_measured {
        throughput();
    }
    pauses(if is_measured { 61 } else { 1 });
}

/// Requests a second.
fn throughput() {
    let services = [Service::start_with(&["plain"]), Service::start()];
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..2 * ROUNDS {
        // In turns: first the one, then the other.
        let which = (round + round / 2) % 2;
        let url = format!("http://{}/pid", services[which].address);
        let wrk = Command::new("wrk").args(["-t1", "-c64", "-d3s", &url]).output();
        let said = String::from_utf8(wrk.expect("wrk is installed").stdout).expect("it is text");
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        let rate = said.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
        let rate: f64 = rate.and_then(|rate| rate.trim().parse().ok()).expect("it counts");
        rates[which].push(rate);
    }
    let ratios = Spread::of(rates[1].iter().zip(&rates[0]).map(|(ours, plain)| ours / plain));
    let [plain, ours] = rates.map(Spread::of);
    println!(
        "hyper alone:   {:.0} requests/s ({:.0} to {:.0})",
        plain.median, plain.min, plain.max
    );
    println!("handoff::http: {:.0} requests/s ({:.0} to {:.0})", ours.median, ours.min, ours.max);
    println!("ratio: {:.3} ({:.3} to {:.3})", ratios.median, ratios.min, ratios.max);
}

/// The longest wait of a client that asks without a pause, through a swap.
fn pauses(rounds: usize) {
    let mut waits = [Vec::new(), Vec::new()];
    for round in 0..2 * rounds {
        let which = (round + round / 2) % 2;
        let mut service = Service::start();
        let silent: Vec<Client> = (0..which).map(|_| service.connect()).collect();
        let stuck: Vec<Client> = (0..which)
            .map(|_| {
                let mut stuck = service.connect();
                stuck.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
                stuck
            })
            .collect();
        waits[which].push(ms(pause(&mut service)));
        drop((silent, stuck));
    }
    let ratios = Spread::of(waits[1].iter().zip(&waits[0]).map(|(with, without)| with / without));
    let [without, with] = waits.map(Spread::of);
    println!("pause without: {:.2} ms ({:.2} to {:.2})", without.median, without.min, without.max);
    println!(
        "pause with a silent connection and a stuck upload: {:.2} ms ({:.2} to {:.2})",
        with.median, with.min, with.max
    );
    println!(
        "ratio of the medians: {:.2}; round by round {:.2} to {:.2}",
        with.median / without.median,
        ratios.min,
        ratios.max
    );
}

fn pause(service: &mut Service) -> Duration {
    let address = service.address;
    let old = service.pid();
    std::thread::scope(|scope| {
        let (tell, is_at_work) = mpsc::channel();
        let client = scope.spawn(move || {
            let mut client = Client::connect(address);
            client.pid();
            tell.send(()).expect("the bench listens");
            let (mut longest, mut after) = (Duration::ZERO, 0);
            while after < 50 {
                let begun = Instant::now();
                after += u32::from(client.pid() != old);
                longest = longest.max(begun.elapsed());
            }
            longest
        });
        is_at_work.recv().expect("it is answered");
        service.swap();
        client.join().expect("no request fails")
    })
}

const ROUNDS: usize = 10;
