//! What is for scripts, reports and shells.

use std::fs;

use crate::world::World;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_script_reads_json_a_line_each() {
    let mut world = World::new();
    world.supervise();
    let v2 = world.path("v2").display().to_string();
    let said = world.said(&["swap", "--binary", &v2, "--wait", "--json"]);
    let lines: Vec<_> = said.lines().map(json).collect();
    let id = lines[0]["begun"]["id"].as_str().expect("it is said first").to_owned();
    let record = &lines.last().expect("there are lines")["ended"];
    assert_eq!(
        (&record["id"], &record["end"]["outcome"]),
        (&id.clone().into(), &"committed".into())
    );
    let phases: Vec<_> = lines.iter().filter_map(|line| line["step"]["phase"].as_str()).collect();
    assert_eq!(
        phases,
        [
            "paired",
            "warming",
            "warmed",
            "draining",
            "sealing",
            "sealed",
            "opening",
            "ready",
            "committing",
            "committed"
        ]
    );
    // The same is remembered, and each phase has its time, none before the last.
    let shown = world.record(&id[..8]);
    assert_eq!(&shown, record);
    let times: Vec<_> = shown["steps"].as_array().expect("there are steps").iter().collect();
    assert!(times.windows(2).all(|pair| pair[0]["at_us"].as_u64() <= pair[1]["at_us"].as_u64()));
    assert_eq!((&shown["from"]["build"], &shown["to"]["build"]), (&"1".into(), &"2".into()));
    assert_eq!(shown["to"]["pid"], world.daemon_pid());
    assert_eq!(shown["to"]["generation"], 2);

    let output = world.run(&[
        "swap",
        "--binary",
        &world.path("broken").display().to_string(),
        "--wait",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = json(said.lines().last().expect("there are lines"));
    assert_eq!(last["ended"]["end"]["outcome"], "rolled-back");
    let history = world.said(&["history", "--json"]);
    assert!(history.lines().map(json).any(|entry| entry["swap"]["id"] == id.as_str()));
}

#[test]
fn a_swap_is_drawn_and_shown_also_where_no_supervisor_runs() {
    let mut world = World::new();
    world.supervise();
    world.said(&["swap", "--wait"]);
    world.said(&["stop"]);
    let drawn = world.path("swap.svg").display().to_string();
    world.said(&["timeline", "last", "-o", &drawn]);
    let svg = fs::read_to_string(drawn).expect("it was written");
    assert!(svg.starts_with("<?xml") && svg.trim_end().ends_with("</svg>"));
    for word in ["incumbent", "supervisor", "successor", "PrepareHandoff", "pause "] {
        assert!(svg.contains(word), "{word}");
    }
    assert!(world.said(&["timeline", "last"]).trim_end() == svg.trim_end(), "it is the same");
    let shown = world.said(&["show", "last"]);
    assert!(shown.contains("outcome     committed: the new process serves"), "{shown}");
    let (code, words) = world.refused(&["show", "0123456789abcdef0123456789abcdef"]);
    assert_eq!(code, 1);
    assert!(words.contains("`handoff history` lists those that are known"), "{words}");
}

#[test]
fn logs_are_json_where_that_is_wished() {
    let mut world = World::new();
    let command = world.command(&["run", "--log-format", "json"]);
    world.supervise_by(&command);
    world.said(&["swap", "--wait"]);
    world.said(&["upgrade"]);
    world.wait_for_daemon("serving");
    world.said(&["stop"]);
    let (_, shown) = world.supervisor().finish();
    let lines: Vec<_> = shown.lines().map(json).collect();
    let over = lines.iter().find(|line| line["message"] == "the swap is over");
    let over = over.expect("it is told");
    assert_eq!((&over["level"], &over["outcome"]), (&"INFO".into(), &"committed".into()));
    assert!(lines.iter().all(|line| line["timestamp"].is_string()));
    // What an upgraded supervisor inherits it does not have to get back.
    let inherited: Vec<_> = lines
        .iter()
        .filter(|line| {
            line["message"] == "this supervisor looks for a daemon at its control socket"
        })
        .map(|line| line["inherited"].as_u64())
        .collect();
    assert_eq!(inherited, [Some(0), Some(1)]);
}

#[test]
fn help_completions_and_a_manual_page_are_there() {
    let world = World::new();
    let help = world.said(&["--help"]);
    for command in ["run", "swap", "status", "history", "show", "timeline", "abort", "upgrade"] {
        assert!(help.contains(&format!("\n  {command}")), "{command} is not in {help}");
    }
    assert!(world.said(&["help"]).contains("Usage: handoff"));
    for (topic, word) in [
        ("errors", "A port in use"),
        ("config", "[probation]"),
        ("exit-codes", "rolled back"),
        ("metrics", "handoff_pause_seconds"),
        ("signals", "SIGHUP"),
    ] {
        assert!(world.said(&["help", topic]).contains(word), "{topic}");
    }
    assert!(world.said(&["completions", "bash"]).contains("complete -F"));
    assert!(world.said(&["man"]).contains(".SH SUBCOMMANDS"));
    let (code, words) = world.refused(&["dance"]);
    assert_eq!(code, 2, "{words}");
    let (code, words) = world.refused(&["status"]);
    assert_eq!((code, words.contains("no supervisor answers at")), (4, true), "{words}");
}

/// Who has just started a supervisor can wait for it.
#[test]
fn a_script_waits_until_a_daemon_serves() {
    let world = World::new();
    let mut supervisor = world.command(&["run"]).spawn().expect("it can be run");
    let shown = world.said(&["status", "--wait"]);
    assert!(shown.starts_with("daemon      serving since "), "{shown}");
    world.said(&["stop"]);
    assert!(supervisor.wait().expect("it is ours").success());
}

/// What `handoff help errors` shows is what is said.
#[test]
fn the_errors_that_are_explained_are_those_that_are_told() {
    let mut world = World::new();
    let explained = world.said(&["help", "errors"]);
    let explained = explained.split_whitespace().collect::<Vec<_>>().join(" ");
    let good = fs::read_to_string(world.path("handoff.toml")).expect("it is there");
    let mut told = Vec::new();
    world.write("handoff.toml", &format!("{good}\n[limits]\ndeadlin = \"30s\"\n"));
    told.push((
        world.refused(&["check"]).1,
        "unknown field `deadlin`, expected one of `deadline`, `drain_grace`",
    ));
    world.write("handoff.toml", &good.replace("binary = \"v1\"", "binary = \"gone\""));
    told.push((world.refused(&["run"]).1, "does not exist"));
    world.write("handoff.toml", &good);
    let taken = std::net::TcpListener::bind(("127.0.0.1", world.port)).expect("it was free");
    told.push((
        world.refused(&["run"]).1,
        "Address already in use (os error 98); who has it says: ss -ltnp 'sport = :",
    ));
    drop(taken);
    told.push((world.refused(&["status"]).1, "start one: handoff run --config FILE"));
    world.supervise();
    told.push((world.refused(&["run"]).1, "a daemon has one supervisor: stop the other one first"));
    told.push((
        world.refused(&["swap", "--binary", "/bin/sh"]).1,
        "List it under [[binaries]] to allow it",
    ));
    for (words, part) in told {
        assert!(words.contains(part), "{part} is not in {words}");
        assert!(explained.contains(part), "{part} is not explained");
    }
    for part in [
        "in flight, and one is made at a time; follow it with `handoff status`, or undo it with `handoff abort`",
        "was started, and did not serve its control socket",
        "the new process said nothing within",
        "before it served its control socket",
    ] {
        assert!(explained.contains(part), "{part} is not explained");
    }
}
