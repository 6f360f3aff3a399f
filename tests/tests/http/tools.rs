//! The tools by which services of HTTP are measured, as they are installed, through twenty swaps of
//! which two are undone: no request fails, and no connection of HTTP/1.1 is closed.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use handoff_tests::harness::program;

use crate::service::{Client, Service, eventually};

/// Runs a tool for so long, with a number of swaps. Returns what it said, and the connections that the
/// service has accepted.
fn run(
    program: &str,
    length: Duration,
    swaps: u32,
    args: impl Fn(&Service, Duration) -> Vec<String>,
) -> (String, u64) {
    let mut service = Service::start();
    let mut idle: Vec<_> = (0..IDLE).map(|_| service.connect()).collect();
    let said = run_with(&mut service, program, length, swaps, args);
    let pid = service.pid();
    assert!(idle.iter_mut().all(|client| client.pid() == pid), "the idle ones are carried");
    (said, service.counts()[0] - IDLE)
}

fn run_with(
    service: &mut Service,
    program: &str,
    length: Duration,
    swaps: u32,
    args: impl Fn(&Service, Duration) -> Vec<String>,
) -> String {
    let args = args(service, length);
    let mut tool = Command::new(program);
    tool.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let tool = tool.spawn().unwrap_or_else(|error| panic!("{program} is not installed: {error}"));
    let tool = thread::spawn(move || tool.wait_with_output());
    let begun = Instant::now();
    for round in 1..=swaps {
        // The load goes on between two swaps.
        while begun.elapsed() < length * round / (swaps + 4) {
            assert!(!tool.is_finished(), "{program} has ended before swap {round}");
            thread::sleep(Duration::from_millis(5));
        }
        match round % 10 {
            7 => service.undo(),
            _ => drop(service.swap()),
        }
    }
    let output: Output = tool.join().expect("it is waited for").expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}");
    said
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// As many connections as without a swap.
fn through_swaps(program: &str, args: impl Fn(&Service, Duration) -> Vec<String>) -> String {
    let (_, connections) = run(program, Duration::from_secs(1), 0, &args);
    let (said, accepted) = run(program, LENGTH, 20, &args);
    assert_eq!(accepted, connections, "connections were closed: {said}");
    said
}

fn wrk(connections: &str, script: Option<&str>, path: &str) {
    let said = through_swaps("wrk", |service, length| {
        let length = format!("-d{}s", length.as_secs());
        let mut args = strings(["-t2", &format!("-c{connections}"), &length, "--timeout", "30s"]);
        if let Some(script) = script {
            let file = service.path("script.lua");
            fs::write(&file, script).expect("it is written");
            args.extend(strings(["-s", &file.display().to_string()]));
        }
        args.push(format!("http://{}{path}", service.address));
        args
    });
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
}

#[test]
fn wrk_with_64_connections() {
    wrk("64", None, "/pid");
}

#[test]
fn wrk_against_the_example() {
    let mut service = Service::start_binary(program("todo"), &[]);
    let ask = |client: &mut Client| client.ask("GET /todos HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut idle: Vec<_> = (0..IDLE).map(|_| service.connect()).collect();
    let said = run_with(&mut service, "wrk", LENGTH, 20, |service, length| {
        let length = format!("-d{}s", length.as_secs());
        let url = format!("http://{}/todos", service.address);
        strings(["-t2", "-c64", &length, "--timeout", "30s", &url])
    });
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    for client in &mut idle {
        let reply = ask(client);
        assert!(reply.status == 200 && !reply.closes, "{reply:?}");
    }
}

#[test]
fn wrk_that_pipelines() {
    let script = "init = function(args)\n  local requests = {}\n  for i = 1, 16 do requests[i] = wrk.format(nil, '/pid') end\n  batch = table.concat(requests)\nend\nrequest = function() return batch end\n";
    wrk("32", Some(script), "/pid");
}

#[test]
fn wrk_that_writes() {
    wrk("16", Some("wrk.method = 'PUT'\nwrk.body = 'a line'\n"), "/line");
}

/// Its connections leave, and it opens others.
#[test]
fn wrk_over_tls() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let mut service = Service::start_tls(&certificate.expect("it is made"));
    let said = run_with(&mut service, "wrk", LENGTH, 20, |service, length| {
        let length = format!("-d{}s", length.as_secs());
        let url = format!("https://{}/pid", service.address);
        strings(["-t2", "-c64", &length, "--timeout", "30s", &url])
    });
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
}

#[test]
fn ab_with_keep_alive() {
    let said = through_swaps("ab", |service, length| {
        let length = length.as_secs().to_string();
        let url = format!("http://{}/pid", service.address);
        strings(["-k", "-c", "8", "-t", &length, "-n", "100000000", "-s", "30", "-l", &url])
    });
    assert!(said.contains("Failed requests:        0") && !said.contains("Non-2xx"), "{said}");
}

/// HTTP/2 leaves. h2load opens no other connection after a GOAWAY, so that each swap has its own. It
/// counts those requests among the failed ones, and among the started ones, that it has not sent: the
/// service counts which it has begun.
#[test]
fn h2load_with_8_connections() {
    let mut service = Service::start();
    let mut all_succeeded = 0;
    for swap in 1..=20 {
        let mut tool = Command::new("h2load");
        let url = format!("http://{}/pid", service.address);
        tool.args(["-c8", "-m8", "-n", "10000000", &url]).stdout(Stdio::piped());
        let tool = tool.spawn().expect("h2load is installed");
        eventually("its connections are there", || service.connections() >= 8);
        if swap % 10 == 7 {
            service.roll_back();
        } else {
            service.swap();
        }
        let output = tool.wait_with_output().expect("it is waited for");
        let said = String::from_utf8_lossy(&output.stdout);
        let requests = said.lines().find_map(|line| line.strip_prefix("requests: "));
        println!("swap {swap}: {}", requests.unwrap_or_default());
        let counts = requests.into_iter().flat_map(|counts| counts.split(", "));
        let count = |count: &str| count.split(' ').next().and_then(|count| count.parse().ok());
        let counts: Vec<u64> = counts.filter_map(count).collect();
        let [_total, _started, _done, succeeded, ..] = counts[..] else { panic!("{said}") };
        assert!(succeeded > 0 && said.contains(" 0 3xx, 0 4xx, 0 5xx"), "{said}");
        all_succeeded += succeeded;
    }
    let [_, begun] = service.counts();
    assert_eq!(begun, all_succeeded, "each request that was begun was answered");
}

/// Connections beside those of the tool.
const IDLE: u64 = 1000;
/// Of one tool.
const LENGTH: Duration = Duration::from_secs(12);
