//! `Daemon::run_tokio`: the runtime, and the signals.

use std::io::Read;
use std::process::{Command, Stdio};

use handoff_tests::harness::program;
use rustix::process::{Pid, Signal, kill_process};

use crate::service::{Service, eventually};
use crate::ws::Socket;

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("it is a process");
    kill_process(pid, signal).expect("it is there");
}

#[test]
fn a_signal_stops_it_cleanly_and_replies_are_finished() {
    for how in [Signal::TERM, Signal::INT] {
        let mut service = Service::start();
        let mut idle = service.connect();
        assert_eq!(idle.pid(), service.pid());
        let mut busy = service.connect();
        busy.send("GET /slow/300 HTTP/1.1\r\nHost: a\r\n\r\n");
        // The second request: the first was that of the idle one.
        eventually("it is being answered", || service.connect().ask(BEGUN).body.ends_with(" 2"));
        signal(service.pid(), how);
        assert_eq!(busy.reply().expect("it is answered").body, service.pid().to_string());
        busy.assert_closed();
        idle.assert_closed();
        assert!(service.ended().success(), "it has sealed its data");
        assert!(service.path("data/.handoff.manifest").exists());
    }
}

#[test]
fn a_request_has_the_address_of_its_client_in_each_process() {
    let mut service = Service::start();
    let mut client = service.connect();
    let own = client.tcp().local_addr().expect("it is connected").to_string();
    for _ in 0..2 {
        assert_eq!(client.ask("GET /peer HTTP/1.1\r\nHost: a\r\n\r\n").body, own);
        service.swap();
    }
}

#[test]
fn it_runs_inside_a_runtime_of_several_threads_and_not_of_one() {
    let mut service = Service::start_with(&["inside"]);
    let mut client = service.connect();
    assert_eq!(client.pid(), service.pid());
    service.swap();
    assert_eq!(client.pid(), service.pid());

    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut starved = Command::new(env!("CARGO_BIN_EXE_fixture-http"));
    starved.args([directory.path().join("control"), directory.path().join("data")]);
    let mut starved = starved.arg("starved").stderr(Stdio::piped()).spawn().expect("it starts");
    let mut words = String::new();
    starved.stderr.take().expect("it is piped").read_to_string(&mut words).expect("it is text");
    assert!(!starved.wait().expect("it ends").success());
    assert!(words.contains("has one thread") && words.contains("current_thread"), "{words}");
    assert!(!directory.path().join("data").exists(), "nothing was begun");
}

#[test]
fn the_example_todo_keeps_its_todos_and_its_clients() {
    let mut service = Service::start_binary(program("todo"), &[]);
    let mut client = service.connect();
    let mut live = Socket::open_at(&service, "/live");
    assert_eq!(live.text(), "[]");
    let mut ask = |method: &str, path: &str, json: &str| {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n");
        let length = json.len();
        let reply = client.ask(&format!("{head}Content-Length: {length}\r\n\r\n{json}"));
        assert!(!reply.closes);
        (reply.status, reply.body)
    };
    let todo = |is_done: bool| format!(r#"{{"id":1,"text":"a test","is_done":{is_done}}}"#);
    assert_eq!(ask("POST", "/todos", r#""a test""#), (200, todo(false)));
    assert_eq!(live.text(), format!("[{}]", todo(false)));
    service.swap();
    assert_eq!(live.text(), format!("[{}]", todo(false)), "of the next process");
    assert_eq!(ask("PUT", "/todos/1", "true"), (200, todo(true)));
    assert_eq!(live.text(), format!("[{}]", todo(true)));
    service.swap();
    assert_eq!(live.text(), format!("[{}]", todo(true)));
    assert_eq!(ask("GET", "/todos", ""), (200, format!("[{}]", todo(true))));
    assert_eq!(ask("DELETE", "/todos/1", ""), (200, todo(true)));
    assert_eq!(live.text(), "[]");
    assert_eq!(ask("DELETE", "/todos/1", "").0, 404);
    service.wait_replaced();
}

const BEGUN: &str = "GET /counts HTTP/1.1\r\nHost: a\r\n\r\n";
