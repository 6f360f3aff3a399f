//! A person at `redis-cli` notices nothing of swaps.

use std::process::Command;

use handoff_tests::harness::{TIMEOUT, Terminal, eventually};

use crate::kvd::Kvd;

#[test]
fn a_session_of_redis_cli_at_a_terminal_outlives_commits_and_rollbacks() {
    let mut kvd = Kvd::start();
    let mut command = Command::new("redis-cli");
    // Its line editor asks a terminal of another kind where the cursor is.
    command.args(["-p", &kvd.port.to_string()]).env("TERM", "dumb");
    let mut terminal = Terminal::start(command);
    let prompt = format!("127.0.0.1:{}> ", kvd.port);
    terminal.wait_for(&prompt);
    assert_eq!(terminal.ask("set k v", &prompt), "OK");

    // It would connect again without a word, so what counts is whose connection it is.
    let connections = eventually("it is connected", TIMEOUT, || {
        Some(kvd.connections()).filter(|connections| connections.len() == 1)
    });
    for n in 1..=6 {
        let served = kvd.pid();
        match n {
            2 => kvd.fail_to_swap(),
            4 => kvd.give_up_drained(),
            _ => assert_eq!(kvd.swap().sets[0].count, 1),
        }
        assert_eq!(kvd.pid() == served, n == 2 || n == 4);
        assert_eq!(terminal.ask("incr n", &prompt), format!("(integer) {n}"));
        assert_eq!(terminal.ask("get k", &prompt), "\"v\"");
        let info = terminal.ask("info", &prompt);
        assert!(info.contains(&format!("\nprocess_id:{}\n", kvd.pid())), "{info}");
        eventually("it is the same connection", TIMEOUT, || {
            (kvd.connections() == connections).then_some(())
        });
    }
    assert_eq!(kvd.build(), 5);
    let screen = terminal.screen();
    assert!(!screen.contains("Could not connect") && !screen.contains("Error"), "{screen}");
}
