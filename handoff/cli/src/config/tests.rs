use super::*;

const MINIMAL: &str = r#"
state_dir = "state"
[daemon]
binary = "bin/notesd"
control = "run/control.sock"
"#;

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("/etc/notes/handoff.toml")).unwrap()
}

fn fault(text: &str) -> String {
    Config::parse(text, Path::new("/etc/notes/handoff.toml")).unwrap_err().to_string()
}

fn with(more: &str) -> String {
    format!("{MINIMAL}{more}")
}

#[test]
fn the_least_that_is_needed_has_defaults_and_paths_begin_at_the_file() {
    let config = parse(MINIMAL);
    assert_eq!(config.state_dir, Path::new("/etc/notes/state"));
    assert_eq!(config.socket, Path::new("/etc/notes/state/supervisor.sock"));
    assert_eq!(config.control, Path::new("/etc/notes/run/control.sock"));
    assert_eq!(config.directory, Path::new("/etc/notes"));
    let program = Program {
        path: "/etc/notes/bin/notesd".into(),
        args: Vec::new(),
        blake3: None,
        listeners: Vec::new(),
    };
    assert_eq!(config.programs, [program]);
    assert_eq!((config.limits, config.restart), (Limits::default(), Restart::default()));
    assert_eq!((config.listeners.len(), config.probation), (0, None));
}

#[test]
fn durations_are_as_people_write_them() {
    let config = parse(&with("[limits]\ndeadline = \"1m 30s\"\ndrain_grace = \"250ms\"\n"));
    assert_eq!(config.limits.deadline, Duration::from_secs(90));
    assert_eq!(config.limits.drain_grace, Duration::from_millis(250));
    let words = fault(&with("[limits]\ndeadline = 30\n"));
    assert!(words.contains("line 7"), "{words}");
    assert!(words.contains("a duration with its unit, in quotes: \"250ms\""), "{words}");
    let words = fault(&with("[limits]\nstop = \"300000000000years\"\n"));
    assert!(words.contains("is longer than 100 years"), "{words}");
    let words = fault(&with("[limits]\ndeadline = \"30 parsecs\"\n"));
    assert!(words.contains("line 7"), "{words}");
    assert!(words.contains("\"30 parsecs\" is no duration"), "{words}");
}

#[test]
fn the_limit_of_the_pause_is_within_the_deadline_or_refused_at_its_line() {
    assert_eq!(parse(&with("[limits]\nhello = \"1s\"\n")).limits.pause, None);
    let config = parse(&with("[limits]\npause = \"5m\"\n"));
    let limit = config.limits.pause.map(|pause| pause.duration);
    assert_eq!(limit, Some(Duration::from_secs(300)), "as long as the deadline");
    for (limits, line, told) in [
        ("pause = \"0s\"\n", 7, "`pause` may not be 0: leave it out"),
        ("pause = \"301s\"\n", 7, "`pause` (5m 1s) is longer than `deadline` (5m)"),
        ("deadline = \"2s\"\n\npause = \"3s\"\n", 9, "lower it, or raise `deadline`"),
        ("pause = 5\n", 7, "a duration with its unit"),
    ] {
        let words = fault(&with(&format!("[limits]\n{limits}")));
        assert!(words.contains(&format!("line {line}")) && words.contains(told), "{words}");
    }
}

#[test]
fn what_is_unknown_is_an_error_that_points_at_the_line() {
    for (text, line, word) in [
        (with("[limits]\ndeadlin = \"30s\"\n"), 7, "deadlin"),
        (with("[probation]\nfor = \"1s\"\ntcp = \"x\"\nshape = 1\n"), 9, "shape"),
        (format!("grace = 1\n{MINIMAL}"), 1, "grace"),
        (with("color = true\n"), 6, "color"),
        (with("[[listeners]]\nname = \"a\"\naddress = \"[::]:1\"\nport = 1\n"), 9, "port"),
        (with("[log]\nlevel = \"loud\"\n"), 7, "loud"),
    ] {
        let words = fault(&text);
        assert!(words.contains(&format!("line {line}, column")), "{words}");
        assert!(words.contains(&format!("`{word}`")), "{words}");
        assert!(words.contains("handoff help config"), "{words}");
    }
}

#[test]
fn what_is_lacking_is_named() {
    assert!(fault("").contains("missing field `state_dir`"));
    let words = fault("state_dir = \"s\"\n[daemon]\nbinary = \"b\"\n");
    assert!(words.contains("missing field `control`"), "{words}");
}

#[test]
fn garbage_is_an_error_whatever_it_is() {
    for text in ["\u{0}", "state_dir", "= = =", "[[[", "state_dir = 1", "\u{feff}{}", "daemon = []"]
    {
        let words = fault(text);
        assert!(words.starts_with("/etc/notes/handoff.toml is not a configuration: "), "{words}");
    }
}

#[test]
fn values_that_cannot_be_are_told_with_their_line() {
    let hash = "0".repeat(64);
    for (more, line, told) in [
        (
            "[[listeners]]\nname = \"a:b\"\naddress = \"[::]:1\"\n",
            7,
            "may not be empty, nor contain ':'",
        ),
        (
            "[[listeners]]\nname = \"a\"\naddress = \"nowhere\"\n",
            8,
            "\"nowhere\" is no address; write",
        ),
        (
            "[[listeners]]\nname = \"a\"\naddress = \"[::]:1\"\n[[listeners]]\nname = \"b\"\naddress = \"[::]:1\"\n",
            11,
            "[::]:1 is listed twice",
        ),
        (
            "[[listeners]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n[[listeners]]\nname = \"b\"\naddress = \"0.0.0.0:1\"\n",
            11,
            "0.0.0.0:1 takes the connections to 127.0.0.1:1 as well: list one of the two",
        ),
        (
            "[[listeners]]\nname = \"a\"\naddress = \"udp:[::]:1\"\n[[listeners]]\nname = \"b\"\naddress = \"udp:[::1]:1\"\n",
            11,
            "udp:[::]:1 takes the connections to udp:[::1]:1 as well",
        ),
        ("[[listeners]]\nname = \"handoff.supervisor\"\naddress = \"[::]:1\"\n", 7, "is taken"),
        (
            "[[listeners]]\nname = \"a\"\naddress = \"[::]:1\"\nmode = \"0660\"\n",
            9,
            "of sockets with a path",
        ),
        (
            "[[listeners]]\nname = \"a\"\naddress = \"unix:a\"\nmode = \"rw\"\n",
            9,
            "octal digits, as chmod takes it",
        ),
        (
            "[[listeners]]\nname = \"a\"\naddress = \"unix:a\"\nowner = \"nobody-of-that-name\"\n",
            9,
            "there is no user",
        ),
        (
            "[[listeners]]\nname = \"a\"\naddress = \"[::]:1\"\nbacklog = 0\n",
            9,
            "a number from 1 on",
        ),
        ("[[listeners]]\nname = \"a\"\naddress = \"unix:@\"\n", 8, "an abstract name has"),
        (
            "[[listeners]]\nname = \"a\"\naddress = \"localhost:80\"\n",
            8,
            "for localhost list \"127.0.0.1:PORT\"",
        ),
        ("[[binaries]]\npath = \"bin/notesd\"\n", 6, "/etc/notes/bin/notesd is listed twice"),
        ("[[binaries]]\npath = \"b\"\nblake3 = \"12\"\n", 8, "64 hexadecimal digits"),
        ("[probation]\nfor = \"1s\"\n", 6, "a probation needs one check"),
        ("[probation]\nfor = \"1s\"\ntcp = \"a\"\ncommand = [\"b\"]\n", 6, "takes one check alone"),
        ("[health]\ntcp = \"a:1\"\nhttp = \"http://b\"\n", 6, "[health] takes one check alone"),
        ("[health]\nevery = \"0s\"\n", 6, "of [health] may not be 0"),
        ("[health]\nhttp = \"https://a\"\n", 7, "has to begin with http://"),
        ("[probation]\nfor = \"1s\"\nhttp = \"https://a\"\n", 8, "has to begin with http://"),
        ("[probation]\nfor = \"1s\"\ncommand = []\n", 6, "is empty"),
        ("[probation]\nfor = \"1s\"\ntcp = \"nonsense\"\n", 6, "has to be HOST:PORT"),
        ("[probation]\nfor = \"1s\"\ntcp = \"a:1\"\nfailures = 0\n", 6, "may not be 0"),
    ] {
        let words = fault(&with(more));
        let begin = format!("/etc/notes/handoff.toml, line {line}: ");
        assert!(words.starts_with(&begin) && words.contains(told), "{more}: {words}");
    }
    // Any port may stand twice, and so may a hash.
    let any = "[[listeners]]\nname = \"a\"\naddress = \"[::]:0\"\n".repeat(2);
    assert_eq!(parse(&with(&any)).listeners.len(), 2);
    let upper = format!("[[binaries]]\npath = \"b\"\nblake3 = \"{}\"\n", hash.replace('0', "A"));
    assert_eq!(parse(&with(&upper)).programs[1].blake3, Some("a".repeat(64)));
}

#[test]
fn ipv6_takes_ipv4_along_unless_another_listener_has_that_port() {
    let listeners = |addresses: &[&str]| {
        let text = |address| format!("[[listeners]]\nname = \"a\"\naddress = \"{address}\"\n");
        let config = parse(&with(&addresses.iter().map(text).collect::<String>()));
        config.listeners.iter().map(|listener| listener.only_v6).collect::<Vec<_>>()
    };
    assert_eq!(listeners(&["[::]:1", "[::1]:2"]), [false, false]);
    assert_eq!(listeners(&["[::]:1", "0.0.0.0:1"]), [true, false]);
    assert_eq!(listeners(&["127.0.0.1:1", "[::]:1"]), [false, true]);
    assert_eq!(listeners(&["udp:127.0.0.1:1", "[::]:1", "127.0.0.1:2"]), [false, false, false]);
    assert_eq!(listeners(&["[::]:0", "0.0.0.0:0"]), [false, false]);
}

#[test]
fn a_path_that_no_socket_can_have_is_told() {
    let long = "d".repeat(120);
    let text = MINIMAL.replace("run/control.sock", &long);
    assert!(fault(&text).contains("line 5: the path /etc/notes/ddd"), "{}", fault(&text));
    let text = MINIMAL.replace("\"state\"", &format!("{long:?}"));
    assert!(fault(&text).ends_with("107 bytes): set `socket`"), "{}", fault(&text));
    let more = format!("[[listeners]]\nname = \"a\"\naddress = \"unix:{long}\"\n");
    assert!(fault(&with(&more)).contains("is too long for a socket"));
}

#[test]
fn each_kind_of_address_is_shown_as_it_is_written() {
    for text in [
        "127.0.0.1:80",
        "[::]:80",
        "udp:127.0.0.1:53",
        "unix:/run/a",
        "unix:@a",
        "unix-datagram:/run/a",
    ] {
        let parsed = Address::parse(text, Path::new("/etc")).unwrap();
        assert_eq!(parsed.to_string(), text);
    }
    assert_eq!(Address::parse("unix:a", Path::new("/etc")), Ok(Address::Unix("/etc/a".into())));
}

#[test]
fn a_binary_has_the_daemon_s_arguments_unless_it_has_its_own() {
    let text = MINIMAL.replace("[daemon]", "[daemon]\nargs = [\"serve\"]");
    let text = format!("{text}[[binaries]]\npath = \"b\"\n[[binaries]]\npath = \"c\"\nargs = []\n");
    let config = parse(&text);
    let args: Vec<_> = config.programs.iter().map(|program| program.args.clone()).collect();
    assert_eq!(args, [vec!["serve".to_owned()], vec!["serve".to_owned()], vec![]]);
}

#[test]
fn a_program_is_found_by_any_path_that_leads_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().join("v1");
    fs::write(&real, "").unwrap();
    std::os::unix::fs::symlink(&real, directory.path().join("current")).unwrap();
    let text =
        MINIMAL.replace("bin/notesd", &directory.path().join("current").display().to_string());
    let config = parse(&text);
    assert_eq!(config.program(&real), Some(&config.programs[0]));
    assert_eq!(config.program(&directory.path().join("./current")), Some(&config.programs[0]));
    assert_eq!(config.program(&directory.path().join("v2")), None);
}

#[test]
fn what_a_running_supervisor_cannot_change_is_named() {
    let config = parse(MINIMAL);
    let listener = with("[[listeners]]\nname = \"a\"\naddress = \"[::]:1\"\n");
    assert_eq!(config.fixed_difference(&parse(&listener)), None);
    let moved = MINIMAL.replace("run/", "var/");
    assert_eq!(config.fixed_difference(&parse(&moved)), Some("daemon.control"));
    assert_eq!(config.fixed_difference(&parse(&MINIMAL.replace("notesd", "v2"))), None);
}

#[test]
fn a_client_finds_the_supervisor_by_a_file_that_is_broken_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("handoff.toml");
    let found = |text: &str| {
        fs::write(&path, text).unwrap();
        Config::load_for_client(&path).map(|config| config.socket)
    };
    let own = directory.path().join("run/own.sock");
    let beside = directory.path().join("state/supervisor.sock");
    for (text, socket) in [
        ("state_dir = \"state\"\nsocket = \"run/own.sock\"\n[daemon\n", &own),
        ("nonsense\nstate_dir = \"state\"\n[daemon]\nbinary = 7", &beside),
        ("# a comment\nstate_dir = 'state' # here\nsocket = 7 8\n[limits]\nx = 1", &beside),
    ] {
        assert_eq!(&found(text).unwrap(), socket);
    }
    for text in ["", "[daemon]\nstate_dir = \"state\"", "state_dir = 7"] {
        found(text).unwrap_err();
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_what_to_do() {
    let words = Config::load(Path::new("/nowhere/handoff.toml")).unwrap_err().to_string();
    assert!(words.starts_with("cannot read the configuration /nowhere/handoff.toml: No such file"));
    assert!(words.ends_with("or write one: see `handoff help config`"), "{words}");
}
